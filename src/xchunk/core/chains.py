"""What the stages of a copy may look like along one dim, with the counts that follow.

A copy of ``m`` stages cuts a dim into boxes of length ``b1 … bm`` and the scratch arrays
between them into pieces of length ``c1 … c(m-1)``. Each stage writes whole pieces only, so
``c`` divides the box that writes it (or that box is the whole dim), and the last box is a
multiple of the target's write unit (or the whole dim). A table lists the combinations that
are worth a thought, one a row, with what is counted along the dim in its columns. Grids
are rectangular: multiplying a column over the dims gives the count of the array.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.core.grid import Axis, ceildiv

__all__ = [
    "Columns",
    "Dim",
    "Table",
    "chain_table",
    "direct_table",
    "is_exhaustive",
    "lengths",
    "pairs_of",
]

#: Dims of at most so many elements are searched in full: every box, every piece.
FULL = 16

#: The same for copies of so many stages; those of more are never searched in full.
TINY, TINY_STAGES = 8, 3

#: The most multiples of one base that are tried along a dim in one stage, and in several.
MOST_DIRECT, MOST_CHAIN, MOST_PARTIAL = 96, 32, 12

_Ints: TypeAlias = NDArray[np.int64]
Table: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Dim:
    """One dim of a copy."""

    size: int
    """Elements."""
    source: Axis
    """The stored chunks of the source, or the blocks in which it is computed."""
    unit: int
    """Elements of the target's write unit."""
    runs: Literal["none", "before", "at", "after"] = "none"
    """Where the dim stands in a source that is not chunked: before, at or after the dim along
    which a box cuts contiguous runs; ``none`` for a chunked source."""
    fixed: bool = False
    """Whether the first stage's boxes are the source's blocks."""


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what, for a copy of ``stages`` stages."""

    stages: int
    """Number of stages."""

    @property
    def width(self) -> int:
        """Number of columns."""
        return 8 * self.stages - 5

    def box(self, k: int) -> int:
        """Elements of a box of stage ``k``."""
        return k

    def tasks(self, k: int) -> int:
        """Boxes of stage ``k``."""
        return self.stages + k

    def reads(self, k: int) -> int:
        """Chunks, pieces or runs that stage ``k`` reads, each as often as it does."""
        return 2 * self.stages + k

    def piece(self, k: int) -> int:
        """Elements of a piece of the scratch array that stage ``k`` writes."""
        return 3 * self.stages + k

    def pieces(self, k: int) -> int:
        """Pieces of the scratch array that stage ``k`` writes."""
        return 4 * self.stages - 1 + k

    def shard(self, k: int) -> int:
        """Elements of a shard, where stage ``k`` writes each box as one object."""
        return 5 * self.stages - 2 + k

    def shard_reads(self, k: int) -> int:
        """Shards that stage ``k + 1`` reads in part, each as often as it does."""
        return 6 * self.stages - 3 + k

    def shard_part(self, k: int) -> int:
        """Elements that a box of stage ``k + 1`` reads of one shard, in whole pieces."""
        return 7 * self.stages - 4 + k

    @property
    def plain(self) -> int:
        """Number of columns, from the first, that say all where there are no shards."""
        return 5 * self.stages - 2


def pairs_of(size: int, a: _Ints, b: _Ints) -> _Ints:
    """Like `Axis.pairs`, for arrays of chunk lengths of two regular partitions."""
    count = -(-size // a) + -(-size // b) - 1
    # (size - 1) // lcm(a, b), without the product that may pass 64 bits
    pairs: _Ints = count - (size - 1) // a // (b // np.gcd(a, b))
    return pairs


def pairs_with(source: Axis, boxes: _Ints) -> _Ints:
    """Pairs of each regular partition with a source, which may be irregular."""
    if source.parts is None:
        return pairs_of(source.size, boxes, np.full_like(boxes, source.chunk))
    unique, back = np.unique(boxes, return_inverse=True)
    inner = np.asarray(source.edges[1:-1], dtype=np.int64)
    shared = np.array([np.count_nonzero(inner % n == 0) for n in unique], dtype=np.int64)
    pairs: _Ints = (-(-source.size // unique) + source.count - 1 - shared)[back]
    return pairs


def lengths(size: int, bases: Iterable[int], most: int, near: int | None = None) -> list[int]:
    """Lengths for boxes: multiples of each base within the dim, and the whole dim.

    All multiples where there are at most ``most``. Else, of the ``2 sqrt(K)`` that cut K
    base lengths into near-equal boxes, the shortest, the longest, and a geometric choice
    of those between; with ``near`` a closer choice of those around it instead.
    """
    found = {size}
    for base in bases:
        whole = ceildiv(size, base)
        if whole <= most:
            counts: Iterable[int] = range(1, whole + 1)
        elif near is None:
            counts = _spaced(whole, most)
        else:
            counts = _close(whole, most, near / base)
        found.update(min(k * base, size) for k in counts)
    return sorted(found)


def _spaced(whole: int, most: int) -> Iterable[int]:
    ends = most // 4
    yield from range(1, ends + 1)
    yield from (ceildiv(whole, j) for j in range(1, ends + 1))
    low, high = math.log(ends), math.log(whole / ends)
    for i in range(1, most - 2 * ends):
        guess = math.exp(low + (high - low) * i / (most - 2 * ends))
        yield ceildiv(whole, max(1, round(whole / guess)))


def _close(whole: int, most: int, near: float) -> Iterable[int]:
    """Near-equal multiples from half to twice a length."""
    fewest, last = max(1, math.floor(whole / near / 2)), min(whole, math.ceil(whole / near * 2))
    ratio = (last / fewest) ** (1 / most)
    yield from {ceildiv(whole, round(fewest * ratio**i)) for i in range(most + 1)}


def direct_table(dim: Dim, near: Sequence[int] = ()) -> Table:
    """Boxes for one stage from source to target: exact for at most `MOST_DIRECT` write units.

    With ``near``, the length of a box, the boxes around that length.
    """
    n, chunk = dim.size, dim.source.chunk
    if dim.fixed:
        boxes = np.array([chunk], dtype=np.int64)
    else:
        bases = sorted({dim.unit, min(math.lcm(dim.unit, chunk), n)})
        around = near[0] if near else None
        boxes = np.array(lengths(n, bases, MOST_DIRECT, around), dtype=np.int64)
    return _figures(dim, [boxes], [])


def chain_table(dim: Dim, stages: int, near: Sequence[int] = ()) -> Table:
    """Boxes and pieces for several stages, through ``stages - 1`` scratch arrays.

    With ``near``, the lengths of each stage's box, the first and last boxes around those.
    """
    n = dim.size
    first = _first_boxes(dim, near[0] if near else None)
    last = _last_boxes(dim, near[-1] if near else None)
    ends = _pair_up(dim, first, last)
    if stages == 2:
        rows: list[tuple[int, ...]] = [(b1, c, b2) for b1, b2 in ends for c in _pieces(n, b1, b2)]
    elif stages == TINY_STAGES and n <= TINY:
        rows = list(_every_chain(n, ends))
    else:
        rows = list(_through(n, ends, stages))
    columns = np.array(sorted(set(rows)), dtype=np.int64).T
    return _figures(dim, list(columns[0::2]), list(columns[1::2]))


def is_exhaustive(dim: Dim) -> bool:
    """Whether tables without ``near`` leave no lengths out that those with it would have."""
    return dim.size <= FULL or (
        ceildiv(dim.size, dim.unit) <= MOST_CHAIN and dim.source.count <= MOST_CHAIN
    )


def _first_boxes(dim: Dim, near: int | None) -> list[int]:
    n, chunk = dim.size, dim.source.chunk
    if dim.fixed:
        return [chunk]
    if n <= FULL:
        return list(range(1, n + 1))
    both = min(math.lcm(dim.unit, chunk), n)
    # parts of one chunk are for budgets in which no more of the chunk fits beside itself, and
    # near-equal parts of the dim for last boxes that are whole: their pieces have no padding
    parts = {max(1, ceildiv(chunk, 2**i)) for i in range(1, chunk.bit_length() + 1, 2)}
    parts.update(ceildiv(n, j) for j in range(2, 9))
    return sorted({*lengths(n, {chunk, both}, MOST_CHAIN, near), *parts})


def _last_boxes(dim: Dim, near: int | None) -> list[int]:
    n = dim.size
    if n <= FULL:
        return lengths(n, [dim.unit], n)
    both = min(math.lcm(dim.unit, dim.source.chunk), n)
    return lengths(n, {dim.unit, both}, MOST_CHAIN, near)


def _pair_up(dim: Dim, first: list[int], last: list[int]) -> list[tuple[int, int]]:
    """Pairs of a first and a last box: one of them whole, or both partial and mostly nested."""
    n = dim.size
    if dim.fixed:
        return [(first[0], b2) for b2 in last]
    if n <= FULL:
        return [(b1, b2) for b1 in first for b2 in last]
    pairs = {(n, b2) for b2 in last} | {(b1, n) for b1 in first} | {(b2, b2) for b2 in last}
    some_first, some_last = _sample(first, MOST_PARTIAL), _sample(last, MOST_PARTIAL)
    # parts of a write unit divide every later box: their pieces are read by one box only
    some_first += _sample(_divisors(dim.unit), MOST_PARTIAL)
    pairs.update((b1, b2) for b1 in some_first for b2 in some_last)
    for b2 in some_last:
        pairs.update((k * b2, b2) for k in (2, 3, 4, 8, 16) if k * b2 < n)
    for b1 in some_first:
        step = math.lcm(b1, dim.unit)
        pairs.update((b1, k * step) for k in (1, 2, 3, 4, 8, 16) if k * step < n)
    return sorted(pairs)


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _sample(values: list[int], most: int) -> list[int]:
    if len(values) <= most:
        return values
    return sorted({values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)})


def _pieces(n: int, b1: int, b2: int) -> list[int]:
    """Lengths of pieces that boxes of ``b1`` write whole and boxes of ``b2`` read."""
    if n <= FULL:
        return [c for c in range(1, n + 1) if b1 >= n or b1 % c == 0]
    if b1 >= n and b2 >= n:
        # one piece, or some that take less memory in flight
        return [ceildiv(n, j) for j in (1, 2, 3, 4)]
    if b1 >= n or b2 >= n:
        return [min(b1, b2)]
    # gcd: no piece is read twice. The longer one: fewer pieces, some of them read in part.
    return sorted({math.gcd(b1, b2), b1})


def _every_chain(n: int, ends: list[tuple[int, int]]) -> Iterable[tuple[int, ...]]:
    """All chains of three stages along a dim of a few elements."""
    pieces = {b: [c for c in range(1, n + 1) if b >= n or b % c == 0] for b in range(1, n + 1)}
    for b1, b3 in ends:
        for b2 in range(1, n + 1):
            yield from ((b1, c1, b2, c2, b3) for c1 in pieces[b1] for c2 in pieces[b2])


def _through(n: int, ends: list[tuple[int, int]], stages: int) -> Iterable[tuple[int, ...]]:
    """Chains whose boxes go from the first shape to the last in geometric steps.

    With one box between, it may also be like one of its neighbours, or the whole dim: another
    dim may be the one that changes.
    """
    moves = stages - 2
    for b1, b2 in ends:
        ways = [_steps(n, b1, b2, moves, bend) for bend in (0.5, 0.7, 1.0, 1.4, 2.0)]
        if moves == 1:
            ways += [(b1, b, b2) for b in (b1, b2, n)]
        for boxes in sorted(set(ways)):
            choices = [_between(n, before, after) for before, after in itertools.pairwise(boxes)]
            for pieces in itertools.product(*choices) if moves == 1 else [[c[0] for c in choices]]:
                row: list[int] = [b1]
                for piece, after in zip(pieces, boxes[1:], strict=True):
                    row += [piece, after]
                yield tuple(row)


def _steps(n: int, b1: int, b2: int, moves: int, bend: float) -> tuple[int, ...]:
    boxes = [b1]
    for i in range(1, moves + 1):
        share = (i / (moves + 1)) ** bend
        guess = b1 ** (1 - share) * b2**share
        # rising lengths are multiples of what they read, falling ones of what they feed
        step = boxes[-1] if b2 >= b1 else b2
        boxes.append(min(n, max(1, round(guess / step)) * step))
    return (*boxes, b2)


def _between(n: int, before: int, after: int) -> list[int]:
    """Pieces between two boxes, the best guess first."""
    if before >= n and after >= n:
        # one piece, or two that take less memory in flight
        return [n, ceildiv(n, 2)]
    if before >= n:
        return [after]
    return [before] if after >= n else [math.gcd(before, after)]


def _figures(dim: Dim, boxes: list[_Ints], pieces: list[_Ints]) -> Table:
    """Count what each row means along the dim, in the order of `Columns`."""
    n = dim.size
    counts = [-(-n // b) for b in boxes]
    if dim.fixed:
        reads = [np.full_like(boxes[0], dim.source.count)]
    elif dim.runs == "none":
        reads = [pairs_with(dim.source, boxes[0])]
    elif dim.runs == "before":
        reads = [np.full_like(boxes[0], n)]
    else:
        reads = [counts[0]]
    reads += [pairs_of(n, b, c) for b, c in zip(boxes[1:], pieces, strict=True)]
    # zarr wants a shard to be a multiple of its pieces, also where it spans the dim
    shards = [-(-b // c) * c for b, c in zip(boxes, pieces, strict=False)]
    shard_reads = [pairs_of(n, b, a) for a, b in itertools.pairwise(boxes)]
    parts = [
        np.minimum(s, np.where((b % c == 0) | (b >= n), -(-b // c), b // c + 2) * c)
        for s, b, c in zip(shards, boxes[1:], pieces, strict=True)
    ]
    piece_counts = [-(-n // c) for c in pieces]
    columns = [*boxes, *counts, *reads, *pieces, *piece_counts, *shards, *shard_reads, *parts]
    table: Table = np.stack(columns, axis=1).astype(np.float64)
    if dim.runs == "after":
        table = table[boxes[0] >= n]
    return table
