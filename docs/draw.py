"""Draws the picture of the README and the documentation with xchunk's own drawings.

python docs/draw.py      writes docs/_static/rechunk.svg
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from xchunk.core.layout import ArrayLayout
from xchunk.display import render
from xchunk.display.drawing import array_layout

OUT = Path(__file__).parent / "_static" / "rechunk.svg"
SHAPE = (12, 9, 16)
SERIES = ((0, 12), (0, 1), (5, 6))  # every time at one place

STYLE = """
:root { --xc-chunk: #2f6f9f; --xc-lit: #2f6f9f; --xc-dim: #5b6875; --xc-fg: #1f2933;
        --xc-soft: rgba(60, 90, 120, .07); --xc-dask: #b5651d; --xc-need: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --xc-chunk: #79b4dd; --xc-lit: #79b4dd; --xc-dim: #98a6b3; --xc-fg: #dde4ea;
          --xc-soft: rgba(150, 180, 210, .12); --xc-dask: #e5a567;
          --xc-need: #ff8a80; } }
text { font: 13px system-ui, sans-serif; fill: var(--xc-fg); text-anchor: middle; }
text.small { font-size: 11px; fill: var(--xc-dim); }
"""

PANELS = [
    # title, what is below, stored chunks, request
    ("stored map by map", ("one place's series", "touches every chunk"), (1, 9, 16), SERIES),
    ("copied box by box", ("each box read once,", "within the memory budget"), (4, 9, 16), None),
    ("stored for series", ("one place's series", "touches one chunk"), (12, 3, 4), SERIES),
]


def panel(number: int, chunks: tuple[int, ...], request: tuple | None) -> str:
    """Return one drawing, in its place."""
    layout = ArrayLayout(
        "t2m", ("time", "lat", "lon"), SHAPE, np.dtype("f4"), np.dtype("f4"), chunks
    )
    figure = render.figure(array_layout(layout, request, longest=178))
    drawing = figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")]
    (width,) = re.findall(r' width="(\d+)" height="\d+">', drawing)
    x = 130 + 250 * number - int(width) / 2
    return drawing.replace("<svg ", f'<svg x="{x:.0f}" y="34" ', 1)


def main() -> None:
    """Write the picture."""
    parts = []
    for number, (title, below, chunks, request) in enumerate(PANELS):
        middle = 130 + 250 * number
        parts.append(panel(number, chunks, request))
        parts.append(f'<text x="{middle}" y="20">{title}</text>')
        for i, line in enumerate(below):
            parts.append(f'<text class="small" x="{middle}" y="{176 + 15 * i}">{line}</text>')
        if number:
            x = middle - 125
            parts.append(
                f'<path d="M{x - 16} 96h28m-7 -6l7 6l-7 6" fill="none" stroke="var(--xc-dim)"/>'
            )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 200" width="760" height="200" '
        'role="img" aria-label="A rechunk: from maps, by boxes, to time series">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    main()
