"""Partitions of one dim into chunks, and of an array into boxes, also those that hold nothing.

Everything is a closed form of sizes and chunk lengths: a dim of a million chunks costs
as much as a dim of three. Only an irregular partition, which is given by its parts, costs
time in proportion to their number.

Grids are rectangular, so that what holds along each dim multiplies: the number of pairs
(block, chunk) that overlap in an array is the product of the pairs along each dim.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from xchunk.errors import InvalidChunksError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def ceildiv(a: int, b: int) -> int:
    """Divide, rounding up; exact for integers of any size."""
    return -(-a // b)


def slabs(region: Sequence[slice], unit: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
    """Cut a region into parts of at most ``most`` elements, along the edges of a regular grid.

    The first dims are cut first. A part is never less than one cell of the grid, which has an
    edge at element 0 of every dim.
    """
    size = math.prod(r.stop - r.start for r in region)
    for i, (r, u) in enumerate(zip(region, unit, strict=True)):
        cells = ceildiv(r.stop, u) - r.start // u
        if size <= most or cells < 2:
            continue
        step = u * max(1, most // max(1, ceildiv(size, cells)))
        first = r.start // u * u
        for start in range(first, r.stop, step):
            part = slice(max(start, r.start), min(start + step, r.stop))
            yield from slabs((*region[:i], part, *region[i + 1 :]), unit, most)
        return
    yield tuple(region)


def lcm_within(a: int, b: int, size: int) -> int:
    """The least common multiple of two chunk lengths, or the whole dim if that is shorter."""
    return min(math.lcm(a, b), max(size, 1))


@dataclass(frozen=True)
class Axis:
    """One dim cut into consecutive parts, all of one length but for a shorter last one.

    With ``parts`` the lengths may be anything (dask's chunks, concatenated files,
    rectilinear zarr grids); ``chunk`` is then the longest of them. Make one with
    `regular` or `of`, which validate; the bare constructor does not.
    """

    size: int
    """Elements along the dim."""
    chunk: int
    """Elements of a full (or of the longest) part, at least 1."""
    parts: tuple[int, ...] | None = field(default=None)
    """The lengths of the parts where they are irregular, else None."""

    @classmethod
    def regular(cls, size: int, chunk: int) -> Axis:
        """Cut ``size`` elements into parts of ``chunk``; -1 is the whole dim, longer is cut."""
        if size < 0:
            raise InvalidChunksError(f"a dim cannot have {size} elements")
        if chunk == -1:
            chunk = size
        elif chunk < 1:
            raise InvalidChunksError(
                f"a chunk of {chunk} is not possible; give a positive length, or -1 for all of it"
            )
        return cls(size, max(1, min(chunk, size)))

    @classmethod
    def of(cls, size: int, chunks: int | Sequence[int]) -> Axis:
        """Like `regular`, but a sequence gives the length of each part; empty ones are dropped."""
        if isinstance(chunks, int):
            return cls.regular(size, chunks)
        parts = tuple(int(c) for c in chunks if c)
        if any(c < 0 for c in parts) or sum(parts) != size:
            raise InvalidChunksError(
                f"parts of {_shorten(chunks)} do not add up to a dim of {size} elements"
            )
        if len(parts) < 2 or (len(set(parts[:-1])) == 1 and parts[-1] <= parts[0]):
            return cls.regular(size, parts[0] if parts else 1)
        return cls(size, max(parts), parts)

    @property
    def is_regular(self) -> bool:
        """Whether all parts but the last have one length."""
        return self.parts is None

    @property
    def count(self) -> int:
        """Number of parts; 0 for an empty dim."""
        return ceildiv(self.size, self.chunk) if self.parts is None else len(self.parts)

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Where an irregular dim's parts start, and where the last one ends."""
        return tuple(itertools.accumulate(self.parts or (), initial=0))

    def bounds(self, i: int) -> tuple[int, int]:
        """Start and stop of part ``i``, in elements."""
        if self.parts is None:
            start = i * self.chunk
            return start, min(start + self.chunk, self.size)
        return self.edges[i], self.edges[i + 1]

    def touched(self, start: int, stop: int) -> range:
        """Indices of the parts that overlap the elements from ``start`` to ``stop``."""
        if stop <= start:
            return range(0)
        if self.parts is None:
            return range(start // self.chunk, ceildiv(stop, self.chunk))
        first = bisect.bisect_right(self.edges, start) - 1
        return range(first, bisect.bisect_left(self.edges, stop))

    def within(self, start: int, count: int) -> Axis:
        """The chunks as a box sees them, which may cut the first and the last."""
        if self.is_regular and start % self.chunk == 0:
            return Axis.regular(count, self.chunk)
        edges = [self.bounds(i) for i in self.touched(start, start + count)]
        return Axis.of(count, [min(b, start + count) - max(a, start) for a, b in edges])

    def has_edge(self, position: int) -> bool:
        """Whether a part starts or ends at this element."""
        if position in (0, self.size):
            return True
        if self.parts is None:
            return position % self.chunk == 0
        i = bisect.bisect_left(self.edges, position)
        return i < len(self.edges) and self.edges[i] == position

    def common_edges(self, other: Axis) -> int:
        """Number of inner edges that both partitions have."""
        if self.size <= 1:
            return 0
        if self.parts is None and other.parts is None:
            return (self.size - 1) // math.lcm(self.chunk, other.chunk)
        irregular, rest = (self, other) if self.parts is not None else (other, self)
        return sum(rest.has_edge(e) for e in irregular.edges[1:-1])

    def pairs(self, other: Axis) -> int:
        """Number of pairs (a part of this, a part of the other) that overlap.

        With blocks here and stored chunks there it is how often chunks are read. Walking
        along the dim, each inner edge of either partition starts one new pair, and an edge
        that both have starts one only: ``count + other.count - 1 - common_edges``.
        """
        if self.size == 0:
            return 0
        return self.count + other.count - 1 - self.common_edges(other)

    def nests(self, other: Axis) -> bool:
        """Whether every part of the other lies within one part of this."""
        return self.size == 0 or self.pairs(other) == other.count

    def most_touched(self, other: Axis) -> int:
        """The most parts of the other that one part of this overlaps.

        Exact for nested and for irregular partitions; else at most one too many.
        """
        if self.size == 0:
            return 0
        if self.parts is None and other.parts is None:
            if self.nests(other):
                return ceildiv(self.chunk, other.chunk)
            if other.nests(self):
                return 1
            step = math.gcd(self.chunk, other.chunk)
            return min(other.count, (self.chunk - step) // other.chunk + 2)
        blocks = range(self.count)
        return max(len(other.touched(*self.bounds(i))) for i in blocks)


@dataclass(frozen=True)
class Grid:
    """An array cut into boxes: one `Axis` for each dim."""

    axes: tuple[Axis, ...]
    """The dims in order; none for a scalar, which is one box."""

    @classmethod
    def of(cls, shape: Sequence[int], chunks: Sequence[int | Sequence[int]]) -> Grid:
        """Cut ``shape`` by one chunk length, or sequence of lengths, for each dim."""
        if len(shape) != len(chunks):
            raise InvalidChunksError(f"{len(chunks)} chunk lengths for {len(shape)} dims")
        return cls(tuple(Axis.of(n, c) for n, c in zip(shape, chunks, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dim."""
        return tuple(a.size for a in self.axes)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Elements of a full part along each dim."""
        return tuple(a.chunk for a in self.axes)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of parts along each dim."""
        return tuple(a.count for a in self.axes)

    @property
    def count(self) -> int:
        """Number of boxes."""
        return math.prod(self.counts)

    @property
    def box_elements(self) -> int:
        """Elements of a full box."""
        return math.prod(self.chunks)

    @property
    def is_regular(self) -> bool:
        """Whether every dim is cut regularly."""
        return all(a.is_regular for a in self.axes)

    def pairs(self, other: Grid) -> int:
        """Number of pairs (a box of this, a box of the other) that overlap."""
        return math.prod(a.pairs(b) for a, b in zip(self.axes, other.axes, strict=True))

    def nests(self, other: Grid) -> bool:
        """Whether every box of the other lies within one box of this."""
        return all(a.nests(b) for a, b in zip(self.axes, other.axes, strict=True))

    def index(self, i: int) -> tuple[int, ...]:
        """The n-d index of box number ``i``, the last dim varying fastest."""
        out = []
        for n in reversed(self.counts):
            i, j = divmod(i, n)
            out.append(j)
        return tuple(reversed(out))

    def region(self, i: int) -> tuple[slice, ...]:
        """The slices of box number ``i``, in elements of the array."""
        return tuple(
            slice(*axis.bounds(j)) for axis, j in zip(self.axes, self.index(i), strict=True)
        )

    def regions(self) -> Iterator[tuple[slice, ...]]:
        """The slices of every box, the last dim varying fastest."""
        per_dim = [[slice(*a.bounds(i)) for i in range(a.count)] for a in self.axes]
        return itertools.product(*per_dim)


def _shorten(values: Sequence[int]) -> str:
    items = [str(v) for v in values]
    return "(" + ", ".join(items if len(items) < 7 else [*items[:3], "…", *items[-2:]]) + ")"


@dataclass(frozen=True)
class Vacant:
    """The boxes of the stage before that were left out, since nothing is stored in them."""

    boxes: Grid
    """All boxes of that stage."""
    numbers: frozenset[int]
    """Which of them were left out."""
    fill: bytes
    """The bits that their values have, each."""

    def within(self, region: Sequence[slice]) -> Iterator[tuple[slice, ...]]:
        """The parts of a region that lie in vacant boxes, counted from where it starts."""
        axes = self.boxes.axes
        touched = [a.touched(r.start, r.stop) for a, r in zip(axes, region, strict=True)]
        for index in itertools.product(*touched):
            number = 0
            for i, n in zip(index, self.boxes.counts, strict=True):
                number = number * n + i
            if number in self.numbers:
                bounds = (a.bounds(i) for a, i in zip(axes, index, strict=True))
                yield tuple(
                    slice(max(start, r.start) - r.start, min(stop, r.stop) - r.start)
                    for (start, stop), r in zip(bounds, region, strict=True)
                )


def vacant_boxes(
    chunks: Grid,
    present: NDArray[np.int64],
    origin: Sequence[int],
    stages: Sequence[Grid],
) -> tuple[frozenset[int], ...]:
    """Tell, for each stage of a copy, which boxes nothing comes into.

    - ``chunks``: the stored chunks of the source.
    - ``present``: the indices of those that are there.
    - ``origin``: first element of what is copied, along each dim of the source.
    - ``stages``: the boxes of each stage; the values of one stage come from the boxes before.
    - returns: the numbers of the vacant boxes, one set for each stage.
    """
    # what is spared to the command line's help, which knows grids
    import numpy as np

    out = []
    for boxes in stages:
        filled = _filled(chunks.axes, present, origin, boxes)
        out.append(frozenset(np.flatnonzero(~filled).tolist()))
        chunks, present, origin = boxes, np.argwhere(filled), (0,) * len(boxes.axes)
    return tuple(out)


def _filled(
    axes: Sequence[Axis], present: NDArray[np.int64], origin: Sequence[int], boxes: Grid
) -> NDArray[np.bool_]:
    """Mark the boxes that one of the given chunks overlaps.

    Each chunk overlaps a block of boxes, from the first to the last along each dim. Counting
    it up where the block begins and down where it ends, the running sums are how often each
    box is overlapped: no loop over chunks or boxes.
    """
    import numpy as np

    first, last = [], []
    inside = np.ones(len(present), dtype=bool)
    for d, (axis, target) in enumerate(zip(axes, boxes.axes, strict=True)):
        indices, back = np.unique(present[:, d], return_inverse=True)
        ranges = [_touched(axis, int(i), origin[d], target) for i in indices]
        starts = np.array([r.start for r in ranges], dtype=np.int64)[back]
        stops = np.array([r.stop for r in ranges], dtype=np.int64)[back]
        inside &= stops > starts
        first.append(starts)
        last.append(stops)
    marks = np.zeros([n + 1 for n in boxes.counts], dtype=np.int64)
    for ends in itertools.product((0, 1), repeat=len(boxes.axes)):
        corner = tuple((last[d] if end else first[d])[inside] for d, end in enumerate(ends))
        np.add.at(marks, corner, (-1) ** sum(ends))
    for d in range(marks.ndim):
        marks = np.cumsum(marks, axis=d)
    return np.asarray(marks[tuple(slice(0, n) for n in boxes.counts)] > 0)


def _touched(axis: Axis, i: int, origin: int, boxes: Axis) -> range:
    start, stop = axis.bounds(i)
    return boxes.touched(max(0, start - origin), min(boxes.size, stop - origin))


def near_equal(axis: Axis, length: int) -> tuple[int, ...]:
    """Cut each stored chunk into near-equal parts of at most ``length`` elements."""
    parts = axis.parts or (*(axis.chunk,) * (axis.size // axis.chunk), axis.size % axis.chunk)
    return tuple(
        itertools.chain.from_iterable(equal_parts(p, ceildiv(p, length)) for p in parts if p)
    )


def equal_parts(n: int, q: int) -> tuple[int, ...]:
    """Cut ``n`` into ``q`` parts that differ by one element at most, longer ones first.

    361 in 4 parts is 91, 90, 90, 90.
    """
    short, longer = divmod(n, q)
    return (short + 1,) * longer + (short,) * (q - longer)
