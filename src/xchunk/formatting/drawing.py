"""A layout as a drawing: chunks, shards and dask blocks on the array, in inline SVG.

The array is drawn in its true proportions, as a bar (1-d), a rectangle (2-d) or a box in
oblique projection (3-d: the first dim goes into the depth, so that a map lies in front). Of
more dims the three longest are drawn. Where the proportions are more extreme than 16 to 1
the short sides are drawn longer than they are, and the caption says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.formatting.describe import dims
from xchunk.formatting.style import esc

__all__ = ["array_layout"]

_EXTREME = 16.0
_DENSE = 48
_DEPTH = (0.5, -0.36)

Point = tuple[float, float]


@dataclass(frozen=True)
class _Frame:
    """The projection of the drawn dims to the plane; depth, height and width in pixels."""

    sizes: tuple[int, int, int]
    scale: tuple[float, float, float]

    def at(self, z: float, y: float, x: float) -> Point:
        """Project a point given in elements; the front's top left is at the depth 0."""
        dz, dy, dx = (
            v / max(1, n) * s for v, n, s in zip((z, y, x), self.sizes, self.scale, strict=True)
        )
        return dx + dz * _DEPTH[0], dy + dz * _DEPTH[1]

    @property
    def extent(self) -> tuple[float, float, float]:
        """Width, height and the part of the height that the depth takes."""
        depth, height, width = self.scale
        up = depth * -_DEPTH[1]
        return width + depth * _DEPTH[0], height + up, up


def _proportions(sizes: tuple[int, int, int], longest: float) -> tuple[tuple[float, ...], bool]:
    """Pixels of each side, and whether they are true to the sizes."""
    top = max(sizes)
    ratios = [n / top for n in sizes]
    drawn = [
        1 / _EXTREME if n > 1 and r < 1 / _EXTREME else r
        for n, r in zip(sizes, ratios, strict=True)
    ]
    true = all(abs(a - b) < 1e-9 for a, b in zip(drawn, ratios, strict=True))
    flat = [0.0 if n == 1 else r * longest for n, r in zip(sizes, drawn, strict=True)]
    return tuple(flat), true


def _poly(points: Sequence[Point], style: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{path}" style="{style}"/>'


def _line(a: Point, b: Point, style: str) -> str:
    return (
        f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" style="{style}"/>'
    )


def _box(frame: _Frame, box: Sequence[tuple[float, float]], style: str) -> list[str]:
    """The three visible faces of a box: front, top and right."""
    (z0, z1), (y0, y1), (x0, x1) = box
    at = frame.at
    faces = [
        [at(z0, y0, x0), at(z0, y0, x1), at(z0, y1, x1), at(z0, y1, x0)],
        [at(z0, y0, x0), at(z1, y0, x0), at(z1, y0, x1), at(z0, y0, x1)],
        [at(z0, y0, x1), at(z1, y0, x1), at(z1, y1, x1), at(z0, y1, x1)],
    ]
    return [_poly(f, style) for f in faces]


def _edges(axis: Axis) -> tuple[list[float], bool]:
    """The inner edges to draw; of a dense partition a few, evenly, as a texture."""
    if axis.count <= _DENSE:
        return [float(axis.bounds(i)[0]) for i in range(1, axis.count)], False
    return [axis.size * i / _DENSE for i in range(1, _DENSE)], True


def _lines(frame: _Frame, axes: Sequence[Axis], style: str) -> tuple[list[str], bool]:
    """The edges of a partition on the three visible faces."""
    (z, y, x), at, out = frame.sizes, frame.at, []
    dense = False
    for number, axis in enumerate(axes):
        edges, many = _edges(axis)
        dense |= many
        look = style + (";opacity:.3" if many else "")
        for e in edges:
            if number == 0:
                out.append(_line(at(e, 0, 0), at(e, 0, x), look))
                out.append(_line(at(e, 0, x), at(e, y, x), look))
            elif number == 1:
                out.append(_line(at(0, e, 0), at(0, e, x), look))
                out.append(_line(at(0, e, x), at(z, e, x), look))
            else:
                out.append(_line(at(0, 0, e), at(0, y, e), look))
                out.append(_line(at(0, 0, e), at(z, 0, e), look))
    return out, dense


def _hull(axis: Axis, span: tuple[int, int]) -> tuple[float, float]:
    """From where to where the parts reach that a span of elements touches."""
    touched = axis.touched(*span)
    if not len(touched):
        return 0.0, 0.0
    return float(axis.bounds(touched[0])[0]), float(axis.bounds(touched[-1])[1])


def _swatch(colour: str, text: str) -> str:
    return f'<span><i style="color:{colour};border-color:{colour}"></i>{esc(text)}</span>'


def array_layout(
    layout: ArrayLayout,
    request: Sequence[tuple[int, int]] | None = None,
    *,
    longest: float = 150.0,
) -> str:
    """Draw a variable's layout as a figure with a caption.

    Parameters
    ----------
    layout : ArrayLayout
        What is drawn.
    request : sequence of (int, int), optional
        First element and stop along each dim of one request; the stored chunks that it
        touches are lit up.
    longest : float, optional
        Pixels of the longest side.

    Returns
    -------
    str
        HTML; empty for a scalar or an empty array, of which there is nothing to draw.
    """
    if not layout.size or not layout.ndim:
        return ""
    order = sorted(range(layout.ndim), key=lambda d: (-layout.shape[d], d))[:3]
    picked = sorted(order)
    names = [layout.dims[d] for d in picked]
    none = Axis(1, 1)

    def drawn(grid: Grid) -> list[Axis]:
        return [none] * (3 - len(picked)) + [grid.axes[d] for d in picked]

    whole = drawn(Grid.of(layout.shape, layout.shape))
    sizes = (whole[0].size, whole[1].size, whole[2].size)
    scale, true = _proportions(sizes, longest)
    # A bar or a plane of one row still needs a side to be seen.
    scale = (scale[0], max(scale[1], 14.0), max(scale[2], 14.0))
    frame = _Frame(sizes, (scale[0], scale[1], scale[2]))
    everything = [(0.0, float(n)) for n in sizes]
    shapes = _box(frame, everything, "fill:var(--xc-soft);stroke:var(--xc-dim);stroke-width:1")
    legend, dense = [], False
    if layout.chunks is not None:
        read = drawn(layout.read_grid)
        if request is not None:
            spans = [(0, 1)] * (3 - len(picked)) + [request[d] for d in picked]
            lit = [_hull(a, s) for a, s in zip(read, spans, strict=True)]
            shapes += _box(frame, lit, "fill:var(--xc-lit);fill-opacity:.45;stroke:none")
        else:
            first = [(0.0, float(a.bounds(0)[1])) for a in read]
            shapes += _box(frame, first, "fill:var(--xc-chunk);fill-opacity:.5;stroke:none")
        lines, dense = _lines(frame, read, "stroke:var(--xc-chunk);stroke-width:.6")
        shapes += lines
        said = "chunks that one request touches" if request is not None else "stored chunk"
        legend.append(_swatch("var(--xc-chunk)", said))
    for name, grid, colour in (
        ("shard", layout.write_grid if layout.shards is not None else None, "var(--xc-shard)"),
        (
            "dask block",
            None if layout.dask_chunks is None else Grid.of(layout.shape, layout.dask_chunks),
            "var(--xc-dask)",
        ),
    ):
        if grid is not None and request is None:
            first = [(0.0, float(a.bounds(0)[1])) for a in drawn(grid)]
            shapes += _box(frame, first, f"fill:none;stroke:{colour};stroke-width:1.6")
            legend.append(_swatch(colour, name))
    width, height, up = frame.extent
    pad = 2.0
    view = f"{-pad:.1f} {-up - pad:.1f} {width + 2 * pad:.1f} {height + 2 * pad:.1f}"
    caption = [f"{layout.name} ({dims({n: layout.sizes[n] for n in names})})"]
    if layout.ndim > 3:
        caption.append(f"{layout.ndim - 3} shorter dims not drawn")
    if dense:
        caption.append("chunks are finer than drawn")
    if not true:
        caption.append("short sides drawn longer than they are")
    return (
        f'<figure><svg role="img" aria-label="{esc(f"layout of {layout.name}")}" viewBox="{view}" '
        f'width="{width + 2 * pad:.0f}" height="{height + 2 * pad:.0f}">{"".join(shapes)}</svg>'
        f"<figcaption>{''.join(legend)}<br>{esc('; '.join(caption))}</figcaption></figure>"
    )
