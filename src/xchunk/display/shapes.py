"""A layout as shapes on a plane: what both the drawings in HTML and the plots are made of.

The array is drawn in its true proportions, as a bar (1-d), a rectangle (2-d) or a box in
oblique projection (3-d: the first dim goes into the depth, so that a map lies in front). Of
more dims the three longest are drawn, those first that a request needs whole. Where the
proportions are more extreme than 16 to 1 the short sides are drawn longer than they are, and the
scene says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout

_EXTREME = 16.0
_DENSE = 48
_DEPTH = (0.5, -0.36)
_FLAT = 14.0

Point: TypeAlias = tuple[float, float]
Span: TypeAlias = tuple[float, float]

#: What a shape stands for: the array, a chunk, an edge between chunks (or a few of very many),
#: a shard, a dask block, a box of a plan, the chunks that a request touches, what it needs.
Role: TypeAlias = Literal[
    "array", "chunk", "edge", "dense", "shard", "block", "box", "touched", "needed"
]


@dataclass(frozen=True)
class Shape:
    """A face or a line."""

    role: Role
    """What it stands for."""
    points: tuple[Point, ...]
    """Its corners in pixels, y downwards; two of them are a line, more are a face."""


@dataclass(frozen=True)
class Scene:
    """Shapes, from the back to the front, with the room that they take."""

    shapes: tuple[Shape, ...]
    """The shapes."""
    extent: tuple[float, float, float, float]
    """Left, top, width and height in pixels."""
    drawn: tuple[int, ...]
    """Numbers of the dims that are drawn."""
    is_true: bool
    """Whether the proportions are the array's."""
    is_dense: bool
    """Whether there are more chunks than lines."""

    def __iter__(self) -> Iterator[Shape]:
        return iter(self.shapes)


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

    def box(self, role: Role, spans: Sequence[Span]) -> list[Shape]:
        """The three visible faces of a box: front, top and right."""
        (z0, z1), (y0, y1), (x0, x1) = spans
        at = self.at
        faces = [
            (at(z0, y0, x0), at(z0, y0, x1), at(z0, y1, x1), at(z0, y1, x0)),
            (at(z0, y0, x0), at(z1, y0, x0), at(z1, y0, x1), at(z0, y0, x1)),
            (at(z0, y0, x1), at(z1, y0, x1), at(z1, y1, x1), at(z0, y1, x1)),
        ]
        return [Shape(role, f) for f in faces]

    def lines(self, axes: Sequence[Axis]) -> tuple[list[Shape], bool]:
        """The edges of a partition on the three visible faces, and whether they are but a few."""
        (z, y, x), at, out = self.sizes, self.at, []
        dense = False
        for number, axis in enumerate(axes):
            edges, many = _edges(axis)
            dense |= many
            role: Role = "dense" if many else "edge"
            for e in edges:
                corners = (
                    ((e, 0, 0), (e, 0, x), (e, y, x)),
                    ((0, e, 0), (0, e, x), (z, e, x)),
                    ((0, y, e), (0, 0, e), (z, 0, e)),
                )[number]
                a, b, c = (at(*p) for p in corners)
                out += [Shape(role, (a, b)), Shape(role, (b, c))]
        return out, dense

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of the whole."""
        depth, height, width = self.scale
        up = depth * -_DEPTH[1]
        return 0.0, -up, width + depth * _DEPTH[0], height + up


def _edges(axis: Axis) -> tuple[list[float], bool]:
    """The inner edges to draw; of a dense partition a few, evenly, as a texture."""
    if axis.count <= _DENSE:
        return [float(axis.bounds(i)[0]) for i in range(1, axis.count)], False
    return [axis.size * i / _DENSE for i in range(1, _DENSE)], True


def _frame(sizes: tuple[int, int, int], longest: float) -> tuple[_Frame, bool]:
    """The projection, and whether its sides are true to the sizes."""
    top = max(sizes)
    ratios = [n / top for n in sizes]
    least = [1 / _EXTREME if n > 1 else 0.0 for n in sizes]
    drawn = [max(a, b) for a, b in zip(ratios, least, strict=True)]
    room = max(drawn[2] + drawn[0] * _DEPTH[0], drawn[1] - drawn[0] * _DEPTH[1])
    true = all(a == b or n == 1 for a, b, n in zip(drawn, ratios, sizes, strict=True))
    flat = [0.0 if n == 1 else r * longest / room for n, r in zip(sizes, drawn, strict=True)]
    # A bar or a plane of one row still needs a side to be seen.
    return _Frame(sizes, (flat[0], max(flat[1], _FLAT), max(flat[2], _FLAT))), true


def _hull(axis: Axis, span: tuple[int, int]) -> Span:
    """From where to where the parts reach that a span of elements touches."""
    touched = axis.touched(*span)
    if not len(touched):
        return 0.0, 0.0
    return float(axis.bounds(touched[0])[0]), float(axis.bounds(touched[-1])[1])


def placed(shape: Sequence[int], request: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Place a request of a shape where its drawing shows: in front, and at the top.

    Along the last dim that it does not need whole it starts at two thirds, since the left end
    of a drawing looks like no choice at all.
    """
    out = [(0, min(n, e)) for n, e in zip(shape, request, strict=True)]
    for i in reversed(range(len(out))):
        n, e = shape[i], request[i]
        if e < n:
            start = min(n - e, 2 * n // 3)
            out[i] = (start, start + e)
            break
    return tuple(out)


def layout_scene(
    layout: ArrayLayout,
    request: Sequence[tuple[int, int]] | None = None,
    *,
    longest: float = 150.0,
) -> Scene | None:
    """Draw a variable's layout, with the first shard and dask block or what a request touches.

    A ``request`` has the first element and the stop along each dim; ``longest`` is the drawing's
    longer side in pixels. None for a scalar or an empty array, of which there is nothing to draw.
    """
    chunks = None if layout.chunks is None else layout.read_grid
    outlines: list[tuple[Role, Grid]] = []
    if request is None:
        if layout.shards is not None:
            outlines.append(("shard", layout.write_grid))
        if layout.dask_chunks is not None:
            outlines.append(("block", Grid.of(layout.shape, layout.dask_chunks)))
    return grids_scene(layout.shape, chunks, outlines, request, longest=longest)


def grids_scene(
    shape: Sequence[int],
    chunks: Grid | None,
    outlines: Sequence[tuple[Role, Grid]] = (),
    request: Sequence[tuple[int, int]] | None = None,
    *,
    longest: float = 150.0,
) -> Scene | None:
    """Draw an array that is cut into chunks, with the first part of other grids outlined."""
    if not shape or not math.prod(shape):
        return None
    # what a request needs whole is what a drawing of it has to show
    whole = [request is not None and n > 1 and request[d] == (0, n) for d, n in enumerate(shape)]
    order = sorted(range(len(shape)), key=lambda d: (not whole[d], -shape[d], d))[:3]
    picked = sorted(order)
    none = Axis(1, 1)

    def drawn(grid: Grid) -> list[Axis]:
        return [none] * (3 - len(picked)) + [grid.axes[d] for d in picked]

    z, y, x = [1] * (3 - len(picked)) + [shape[d] for d in picked]
    frame, true = _frame((z, y, x), longest)
    shapes = frame.box("array", [(0.0, float(n)) for n in (z, y, x)])
    dense = False
    if chunks is not None:
        read = drawn(chunks)
        if request is None:
            shapes += frame.box("chunk", [(0.0, float(a.bounds(0)[1])) for a in read])
        else:
            spans = [(0, 1)] * (3 - len(picked)) + [request[d] for d in picked]
            shapes += frame.box("touched", [_hull(a, s) for a, s in zip(read, spans, strict=True)])
        lines, dense = frame.lines(read)
        shapes += lines
    if request is not None:
        spans = [(0, 1)] * (3 - len(picked)) + [request[d] for d in picked]
        shapes += frame.box("needed", [(float(a), float(b)) for a, b in spans])
    for role, grid in outlines:
        shapes += frame.box(role, [(0.0, float(a.bounds(0)[1])) for a in drawn(grid)])
    return Scene(tuple(shapes), frame.extent, tuple(picked), true, dense)
