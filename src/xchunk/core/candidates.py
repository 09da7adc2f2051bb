"""The ways in which one dim may be cut into dask blocks, with what each of them costs.

Along a dim with ``K`` stored chunks of ``k`` elements, blocks of whole chunks are only worth
a look at lengths ``k * ceil(K / j)``: of all lengths that make ``j`` blocks it is the shortest,
and all of them decode the same. That is at most ``2 * sqrt(K)`` candidates. Stored chunks are
split, where memory demands it, into near-equal parts that never straddle an edge, so that
each part decodes its chunk once more and nothing else.

Blocks, decodes and elements along a dim multiply over dims, so totals of an array are
products of what stands here.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xchunk._typing import DimChunk
from xchunk.core.grid import Axis, ceildiv

__all__ = ["Candidate", "DimCandidates", "dim_candidates", "equal_parts", "near_equal"]

#: Lengths taken one by one from either end before candidates are thinned to steps of 8 %;
#: no more than that is lost by thinning, and small arrays are searched exactly.
EXACT = 24
_STEP = 1.08

#: Blocks along one dim beyond which a partition that has to be listed is no candidate.
_MANY = 100_000

#: Parts of an irregular partition beyond which fewer lengths are tried.
_LONG = 5_000


@dataclass(frozen=True)
class Candidate:
    """One way to cut a dim into blocks."""

    chunk: DimChunk | None
    """What dask is told: a length, or the lengths of all blocks; None: near-equal parts of each
    stored chunk, which `near_equal` lists."""
    base: int
    """Elements of the longest block without halo."""
    blocks: int
    """Number of blocks."""
    length: int
    """Elements of the longest block, halo included."""
    decoded: int
    """Elements decoded along the dim, over all blocks; the size of the dim without waste."""
    reads: int
    """Number of pairs (block, stored chunk) that overlap."""
    touched: int
    """The most stored chunks that one block touches."""
    shard_reads: int
    """Number of pairs (block, shard) that overlap; as `reads` without shards."""
    whole_shards: bool
    """Whether every shard lies within one block."""
    splits: bool
    """Whether stored chunks are split."""


@dataclass(frozen=True)
class DimCandidates:
    """The candidates of one dim, as arrays in step with each other."""

    items: tuple[Candidate, ...]
    """The candidates."""

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one attribute of all candidates; exact below 2**53."""
        return np.array([getattr(c, name) for c in self.items], dtype=np.float64)


def dim_candidates(
    axis: Axis,
    *,
    shards: Axis | None = None,
    whole: bool = False,
    halo: int = 0,
    groups: Sequence[int] = (),
    split: bool = False,
) -> DimCandidates:
    """List the ways to cut a dim.

    Parameters
    ----------
    axis : Axis
        The stored chunks.
    shards : Axis, optional
        The stored shards.
    whole : bool
        Whether a block must hold the whole dim.
    halo : int
        Elements that a block needs of its neighbour.
    groups : sequence of int
        Positions at which groups end; blocks end at them where stored chunks do too.
    split : bool
        Whether stored chunks may be split.
    """
    n = axis.size
    if whole or n <= 1:
        return DimCandidates((_whole(axis, shards),))
    grouped = None if split else _at_groups(axis, groups)
    cut = axis if grouped is None else grouped
    make = _regular if cut.is_regular else _irregular
    found = tuple(make(cut, shards, halo, split))
    if grouped is not None:
        scale = ceildiv(axis.count, grouped.count)
        found = tuple(
            replace(c, reads=c.reads - grouped.count + axis.count, touched=c.touched * scale)
            for c in found
        )
    return DimCandidates(found)


def near_equal(axis: Axis, length: int) -> tuple[int, ...]:
    """Cut each stored chunk into near-equal parts of at most ``length`` elements."""
    parts = axis.parts or (*(axis.chunk,) * (axis.size // axis.chunk), axis.size % axis.chunk)
    return tuple(
        itertools.chain.from_iterable(equal_parts(p, ceildiv(p, length)) for p in parts if p)
    )


def _whole(axis: Axis, shards: Axis | None) -> Candidate:
    shard_reads = axis.count if shards is None else shards.count
    return Candidate(
        chunk=max(axis.size, 1),
        base=axis.size,
        blocks=1,
        length=axis.size,
        decoded=axis.size,
        reads=axis.count,
        touched=axis.count,
        shard_reads=shard_reads,
        whole_shards=True,
        splits=False,
    )


def _regular(axis: Axis, shards: Axis | None, halo: int, split: bool) -> Iterable[Candidate]:
    n, k, count = axis.size, axis.chunk, axis.count
    for m in _thin(_merges(count)):
        length = min(m * k, n)
        blocks = ceildiv(count, m)
        # A halo lies in the chunks before a block, which are decoded again for it.
        extra = min(ceildiv(halo, k), max(0, count - m)) if halo else 0
        cut = Axis(n, length)
        yield Candidate(
            length,
            length,
            blocks,
            min(length + halo, n),
            n + (blocks - 1) * min(extra * k, n),
            count + (blocks - 1) * extra,
            m + extra,
            _shard_reads(cut, shards, count) + (blocks - 1) * (1 if halo else 0),
            shards is None or (not halo and cut.nests(shards)),
            False,
        )
    if not split:
        return
    full, rest = divmod(n, k)
    for length in _thin(sorted({ceildiv(k, q) for q in _divisors_of_range(k)} - {k})):
        parts = ceildiv(k, length)
        tail = ceildiv(rest, length) if rest else 0
        blocks = full * parts + tail
        extra = ceildiv(halo, k) if halo else 0
        yield Candidate(
            length if count == 1 or k % length == 0 else None,
            length,
            blocks,
            min(length + halo, n),
            full * k * parts + rest * tail + (blocks - 1) * extra * k,
            blocks + (blocks - 1) * extra,
            1 + extra,
            blocks + (blocks - 1) * extra,
            shards is None,
            True,
        )


def _irregular(axis: Axis, shards: Axis | None, halo: int, split: bool) -> Iterable[Candidate]:
    """Yield groups of consecutive parts that are as long as they may be, for falling lengths."""
    n, parts = axis.size, axis.parts or (axis.size,)
    lengths = [n]
    while lengths[-1] > (1 if split else axis.chunk):
        shorter = lengths[-1] // 2 if len(lengths) < EXACT else lengths[-1] // 4
        lengths.append(max(shorter, 1 if split else axis.chunk))
    if not split:
        # every number of blocks up to a few dozen, so that small partitions are searched well
        lengths += [ceildiv(n, j) for j in range(2, min(len(parts), EXACT) + 1)]
    if len(parts) > _LONG:
        # each candidate walks along all parts
        lengths = lengths[: EXACT // 2]
    seen: set[tuple[int, ...]] = set()
    for limit in sorted({max(x, 1 if split else axis.chunk) for x in lengths}):
        blocks, decoded, reads, touched, splits = _pack(parts, limit)
        if len(blocks) > _MANY or blocks in seen:
            continue
        seen.add(blocks)
        extra = sum(_halo_cost(axis, blocks, halo)) if halo else 0
        cut = Axis.of(n, blocks)
        yield Candidate(
            cut.chunk if cut.is_regular else blocks,
            max(blocks),
            len(blocks),
            min(max(blocks) + halo, n),
            decoded + extra,
            reads + (len(blocks) - 1 if halo else 0),
            touched + (1 if halo else 0),
            _shard_reads(cut, shards, reads),
            shards is None or cut.nests(shards),
            splits,
        )


def _pack(parts: Sequence[int], limit: int) -> tuple[tuple[int, ...], int, int, int, bool]:
    """Merge parts up to a length, and split those that are longer.

    Returns the blocks, elements decoded, pairs, the most chunks of a block, and whether
    any part was split.
    """
    blocks: list[int] = []
    decoded = reads = touched = inside = held = 0
    splits = False

    def close() -> None:
        nonlocal held, inside
        if held:
            blocks.append(held)
        held = inside = 0

    for part in parts:
        if part > limit:
            close()
            q = ceildiv(part, limit)
            blocks.extend(equal_parts(part, q))
            decoded += part * q
            reads += q
            touched = max(touched, 1)
            splits = True
            continue
        if held + part > limit:
            close()
        held += part
        inside += 1
        decoded += part
        reads += 1
        touched = max(touched, inside)
    close()
    return tuple(blocks), decoded, reads, touched, splits


def _halo_cost(axis: Axis, blocks: Sequence[int], halo: int) -> Iterable[int]:
    """Elements of the stored chunks before each inner edge that its halo touches."""
    for edge in itertools.accumulate(blocks[:-1]):
        first = bisect.bisect_right(axis.edges, max(0, edge - halo)) - 1
        yield edge - axis.edges[first]


def _at_groups(axis: Axis, groups: Sequence[int]) -> Axis | None:
    """Cut at those edges of groups that stored chunks have too; None if there are none."""
    edges = [e for e in groups if axis.has_edge(e)]
    if not edges:
        return None
    bounds = [0, *edges, axis.size]
    return Axis.of(axis.size, [b - a for a, b in itertools.pairwise(bounds) if b > a])


def _merges(count: int) -> list[int]:
    """All values of ``ceil(count / j)``, in rising order, without a loop over ``count``."""
    return sorted({ceildiv(count, j) for j in _divisors_of_range(count)})


def _divisors_of_range(count: int) -> list[int]:
    """Numbers of parts that give every distinct ``ceil(count / j)`` at least once.

    Small ``j`` one by one; for large ones the quotient is small, and the fewest parts that
    give each quotient are enough. Beyond a million only the thinned ends are made.
    """
    root = math.isqrt(count) + 1
    if root <= 1000:
        small = range(1, min(root, count) + 1)
        return sorted({*small, *(ceildiv(count, q) for q in range(1, root + 1))})
    steps = {round(_STEP**i) for i in range(int(math.log(count, _STEP)) + 1)}
    ends = {*range(1, EXACT + 1), *(ceildiv(count, q) for q in range(1, EXACT + 1))}
    return sorted(min(count, j) for j in steps | ends)


def _thin(values: Sequence[int]) -> list[int]:
    """Keep rising values exactly at both ends and in steps of 8 % between."""
    if len(values) <= 3 * EXACT:
        return list(values)
    out = list(values[:EXACT])
    for v in values[EXACT:-EXACT]:
        if v >= out[-1] * _STEP:
            out.append(v)
    return out + list(values[-EXACT:])


def equal_parts(n: int, q: int) -> tuple[int, ...]:
    """Cut ``n`` into ``q`` parts that differ by one element at most, longer ones first.

    361 in 4 parts is 91, 90, 90, 90.
    """
    short, longer = divmod(n, q)
    return (short + 1,) * longer + (short,) * (q - longer)


def _shard_reads(cut: Axis, shards: Axis | None, reads: int) -> int:
    return reads if shards is None else cut.pairs(shards)
