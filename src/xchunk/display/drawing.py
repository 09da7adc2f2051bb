"""Drawings of layouts, of what one request touches of them, and of grids, as inline SVG.

They are in the colours of the style sheet; the shapes are those of `xchunk.display.shapes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.display import phrases
from xchunk.display.document import Figure
from xchunk.display.shapes import Role, Scene, grids_scene, layout_scene

#: How each role looks; a face and a line of one role look alike where both exist.
_LOOKS: dict[Role, str] = {
    "array": "fill:var(--xc-soft);stroke:var(--xc-dim);stroke-width:1",
    "chunk": "fill:var(--xc-chunk);fill-opacity:.5;stroke:none",
    "edge": "stroke:var(--xc-chunk);stroke-width:.6",
    "dense": "stroke:var(--xc-chunk);stroke-width:.6;opacity:.3",
    "shard": "fill:none;stroke:var(--xc-shard);stroke-width:1.6",
    "block": "fill:none;stroke:var(--xc-dask);stroke-width:1.6",
    "box": "fill:none;stroke:var(--xc-dask);stroke-width:1.6",
    "touched": "fill:var(--xc-lit);fill-opacity:.45;stroke:none",
    "needed": "fill:var(--xc-need);fill-opacity:.45;stroke:var(--xc-need);stroke-width:1.4",
}

#: The colour of each role in a legend, and what it is called.
_KEY: dict[Role, tuple[str, str]] = {
    "chunk": ("var(--xc-chunk)", "stored chunk"),
    "shard": ("var(--xc-shard)", "shard"),
    "block": ("var(--xc-dask)", "dask block"),
    "needed": ("var(--xc-need)", "one request"),
    "touched": ("var(--xc-chunk)", "chunks that one request touches"),
}

#: The legend of a plan's drawings.
BOX = (("var(--xc-dask)", "the box that one task copies"),)


def _drawn(
    scene: Scene, label: str, title: str, roles: Sequence[Role], said: Sequence[str]
) -> Figure:
    shapes = []
    for shape in scene:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        kind = "polyline" if len(shape.points) == 2 else "polygon"
        shapes.append(f'<{kind} points="{points}" style="{_LOOKS[shape.role]}"/>')
    left, top, width, height = scene.extent
    there = {shape.role for shape in scene}
    key = [_KEY[role] for role in roles if role in there]
    box = (left - 2, top - 2, width + 4, height + 4)
    return Figure("".join(shapes), box, label, title, key, said)


def array_layout(
    layout: ArrayLayout,
    request: Sequence[tuple[int, int]] | None = None,
    *,
    longest: float = 200.0,
    title: str = "",
    is_named: bool = True,
) -> Figure | None:
    """Draw a variable's layout.

    - ``layout``: what is drawn.
    - ``request``: first element and stop along each dim of one request; the stored chunks that it
      touches are lit up.
    - ``longest``: pixels of the drawing's longer side.
    - ``title``: what stands above.
    - ``is_named``: whether the caption says which variable it is, and how true the drawing is to
      it.
    - returns: None for a scalar or an empty array, of which there is nothing to draw.
    """
    scene = layout_scene(layout, request, longest=longest)
    if scene is None:
        return None
    said = [] if request is None else [phrases.touched(layout, request)]
    if is_named or layout.ndim > 3:
        notes = phrases.drawn_notes(layout, scene.drawn, scene.is_true, scene.is_dense)
        said.append("; ".join(notes))
    return _drawn(scene, f"layout of {layout.name}", title, tuple(_KEY), said)


def grids(
    shape: Sequence[int], cut: Grid | None, box: Grid | None, *, title: str, said: Sequence[str]
) -> Figure | None:
    """Draw an array of a plan: how it is cut, and the first box that is read of it."""
    boxes: list[tuple[Role, Grid]] = [] if box is None else [("box", box)]
    scene = grids_scene(shape, cut, boxes, longest=120.0)
    return None if scene is None else _drawn(scene, title, title, (), said)
