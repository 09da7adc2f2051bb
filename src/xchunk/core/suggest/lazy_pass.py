"""Lazy passes over a variable: what their blocks take, from counts alone, and the best of them.

Along a dim with ``K`` stored chunks of ``k`` elements, blocks of whole chunks are only worth
a look at lengths ``k * ceil(K / j)``: of all lengths that make ``j`` blocks it is the shortest,
and all of them decode the same. That is at most ``2 * sqrt(K)`` candidates. Stored chunks are
split, where memory demands it, into near-equal parts that never straddle an edge, so that
each part decodes its chunk once more and nothing else. Blocks, decodes and elements along a dim
multiply over dims.

The search is exact over the candidates of each dim. Dims are merged one after the other;
partial results that agree in everything but the length of their blocks keep the shortest
only, since memory is all that depends on it, and those that cannot fit any more are dropped.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid, ceildiv, equal_parts, near_equal
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import TASK_NBYTES, MemoryBudget
from xchunk.core.suggest.access import HELD_COLUMNS, METHOD_COPIES, AccessPattern
from xchunk.core.types import DimChunk

#: Bytes held for each byte of a block while it is worked on: the block and what the
#: operation makes of it. Reading an aligned zarr block was measured at 2.0-2.3.
BLOCK_COPIES = 2.3

#: The same of an operation that copies much, as std and var of float32 do (7.5). Where what
#: is done with a block was not said, blocks leave room for it as far as that costs little.
MANY_COPIES = 7.6

#: The same of a rolling window: a block with its neighbours' ends, windows, and results as large.
#: Measured at 4.8 to 6.7, and where stored chunks are split and blocks wait at 10.5 to 12.8.
HALO_COPIES, HALO_SPLIT_COPIES = 7.0, 13.0

#: The same where stored chunks are split, whose decoded bytes come on top; measured at 2.7.
SPLIT_COPIES = 2.7

#: xarray builds each window, and dask cuts blocks into as many pieces as it has elements: tasks of
#: a piece, and seconds for each element of a window. Measured: 14 to 18 (centred: 36), 1.6 to 2 ns.
WINDOW_TASKS, WINDOW_SECONDS = 15, 1.8e-9

#: Root tasks that a dask worker is given for each of its threads
#: (``distributed.scheduler.worker-saturation``); those beyond its threads may hold a block.
SATURATION = 1.1

#: Bytes of a block below and above which dask works badly: the scheduler's cost shows, or a
#: worker's memory comes in too few pieces. The middle is less than dask's own default of 128 MiB.
#: Measured on 1 GB of maps with two threads (mean, std, anomalies squared, a mean for each month, a
#: maximum for each 60 days): blocks of 16 to 65 MB took the same time within a tenth, those of
#: 130 MB 2 to 40 % more in a warm process, 10 to 50 % more in a fresh one, and twice the memory.
SMALL_BLOCK, GOOD_BLOCK, LARGE_BLOCK = 16e6, 48e6, 128e6

#: Tasks of one pass beyond which the scheduler is what one waits for.
MANY_TASKS = 20_000

#: Tasks beyond which a pass is no answer at all.
MOST_TASKS = 1_000_000

#: Formats whose library has one lock for a process.
LOCKED = ("netcdf4", "hdf5", "grib", "raster")

#: Bytes of a string of any length in memory: a Python object and a short text.
STRING_NBYTES = 64

_PENALTY, _SPLIT_PENALTY, _CROWDED, _LEANING = 1.0, 0.25, 0.6, 0.05


def item_nbytes(dtype: np.dtype[Any]) -> int:
    """Bytes of one element in memory; an estimate for strings of any length."""
    return STRING_NBYTES if dtype.kind in "OT" else max(1, dtype.itemsize)


@dataclass(frozen=True)
class LazyPass:
    """The best way found to go over a variable once, lazily."""

    chunks: dict[str, DimChunk]
    """dask chunks by dim."""
    threads: int
    """Tasks of one worker at once, for which the memory holds."""
    blocks: int
    """Number of blocks."""
    tasks: int
    """Tasks that the scheduler runs: one for each block, and those of moving windows."""
    block_nbytes: int
    """Bytes of the largest block, decoded."""
    projected_mem: int
    """Bytes by which a process grows at the peak of one task."""
    worker_mem: int
    """Bytes by which a worker grows at its peak, all its tasks together."""
    decodes: int
    """Stored chunks decoded, each as often as it is."""
    amplification: float
    """Elements decoded / elements of the variable."""
    seconds: float
    """Predicted time on the clock."""
    rank: float
    """The time, made longer where blocks are of an awkward size; what the search minimises."""
    splits: bool
    """Whether stored chunks are split."""


@dataclass(frozen=True)
class PassModel:
    """What the blocks of one variable cost: memory and time, from counts alone.

    All counts may be arrays, so that many candidates are judged at once.
    """

    layout: ArrayLayout
    """How the variable is stored."""
    pattern: AccessPattern
    """The use, as it concerns this variable."""
    budget: MemoryBudget
    """The worker's budget and its threads."""
    rates: Rates
    """How fast things are."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The parts along each dim that are read as a whole: 1 element where any may be."""
        chunks = self.layout.chunks or self.layout.dask_chunks
        if chunks is None:
            return tuple(Axis.regular(n, 1) for n in self.layout.shape)
        return Grid.of(self.layout.shape, chunks).axes

    @property
    def is_free(self) -> bool:
        """Whether any part can be read without decoding more (contiguous, or in memory)."""
        return self.layout.chunks is None and self.layout.dask_chunks is None

    @property
    def is_serial(self) -> bool:
        """Whether a lock lets one thread of a process read at a time, as HDF5's does."""
        v = self.layout
        in_library = v.format in LOCKED and not v.unlocked
        return in_library or (self.rates.serial_read and v.format not in ("memory", "dask"))

    @property
    def chunk_raw_nbytes(self) -> int:
        """Bytes of one stored chunk after decoding, in the stored dtype."""
        if self.is_free:
            return 0
        return math.prod(a.chunk for a in self.axes) * item_nbytes(self.layout.stored_dtype)

    @property
    def compression(self) -> float:
        """Stored bytes for each raw byte; assumed where the store does not tell."""
        v = self.layout
        raw = v.size * item_nbytes(v.stored_dtype)
        if v.stored_nbytes is not None and raw:
            return min(1.0, v.stored_nbytes / raw)
        return self.rates.compression if v.codecs else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of the whole variable, decoded."""
        return self.layout.size * item_nbytes(self.layout.dtype)

    @property
    def copies(self) -> float:
        """Bytes held for each byte of a block while it is worked on, the block itself counted."""
        size = 0 if item_nbytes(self.layout.dtype) <= 2 else 1 + (self.layout.dtype.itemsize > 4)
        named = [METHOD_COPIES[m][size] for m in self.pattern.methods.values()]
        return max([*named, HALO_COPIES if any(self.pattern.halo.values()) else 0.0])

    def crowding(self, elements: Any) -> Any:
        """Times, as a power of 2, by which an operation that copies much would need too much.

        0 where it fits, and where it was said what is done: then its own copies are reckoned.
        """
        if self.pattern.methods:
            return 0.0 * elements
        block = elements * item_nbytes(self.layout.dtype)
        most = max(1, self.budget.max_mem) / max(1, self.budget.threads)
        return np.maximum(0.0, np.log2(MANY_COPIES * block / most))

    def task_mem(self, elements: Any, touched: Any, splits: Any) -> Any:
        """Bytes by which a process grows at the peak of one task.

        The block in memory, with what is made of it (`BLOCK_COPIES`, or those of the methods
        that were named); or, while it is read, with the chunks in flight, encoded and decoded,
        and the copies that unpacking makes.
        """
        v = self.layout
        block = elements * item_nbytes(v.dtype)
        raw = elements * item_nbytes(v.stored_dtype)
        chunk = self.chunk_raw_nbytes
        encoded, at_once = self.compression if v.codecs else 0.0, v.decoded_at_once
        if v.format == "dask":
            # the blocks that are merged are all there at once
            in_flight = np.where(splits, touched * chunk, raw)
        else:
            aligned = np.minimum(at_once * chunk, raw)
            in_flight = np.where(splits, np.minimum(touched, at_once) * chunk, aligned)
            in_flight = in_flight * (1 + encoded)
        if v.dtype == v.stored_dtype:
            reading = block + in_flight
        else:
            # values are masked and scaled into a second array of the decoded dtype
            reading = raw + np.maximum(in_flight, 2 * block)
        held = HALO_SPLIT_COPIES if self.pattern.window else self.copies
        split = np.maximum(in_flight + SPLIT_COPIES * block, held * block)
        whole = max(self.copies, BLOCK_COPIES) * block
        return np.where(splits, np.maximum(reading, split), np.maximum(reading, whole))

    @property
    def twice(self) -> tuple[str, ...]:
        """Dims that the operation goes over twice."""
        return tuple(d for d, m in self.pattern.methods.items() if m in HELD_COLUMNS)

    def run_tasks(self, blocks: Any) -> Any:
        """Tasks of so many blocks."""
        return blocks * (1 + WINDOW_TASKS * self.pattern.window)

    def worker_mem(self, task: Any, elements: Any, column: Any, blocks: Any) -> Any:
        """Bytes by which a worker grows: its running tasks, and finished blocks that wait.

        A reduction is fused with the reading of its blocks, so that none of them wait; unless it
        goes over a dim twice. ``column`` counts the elements of all blocks along those dims. The
        graph of moving windows counts where no other process has it.
        """
        threads = max(1, self.budget.threads)
        waiting = 0 if self.pattern.reduces else math.ceil(SATURATION * threads) - threads
        columns = max((HELD_COLUMNS[self.pattern.methods[d]] for d in self.twice), default=0.0)
        again = np.where(column > elements, columns * column, 0.0)
        held = (waiting * elements + again) * item_nbytes(self.layout.dtype)
        graph = (self.run_tasks(blocks) - blocks) * TASK_NBYTES
        return threads * task + held + (graph if self.budget.workers <= 1 else 0)

    def seconds(self, blocks: Any, decoded: Any, requests: Any, runs: Any) -> Any:
        """Seconds on the clock of a pass, the idle last wave counted.

        - ``blocks``, ``decoded``, ``requests``, ``runs``: blocks, elements decoded, requests to the
          store, and runs of contiguous bytes.
        """
        v, r = self.layout, self.rates
        raw = decoded * item_nbytes(v.stored_dtype)
        in_memory = v.format == "memory" and not v.reader
        decode = raw / (r.decode if v.codecs else r.copy)
        fetch = 0.0 if in_memory else raw * self.compression / r.bandwidth
        wait = 0.0 if in_memory else requests * r.latency + runs * r.run
        read = decode + fetch + wait
        # one copy out of the chunks, and for unpacked values masking and scaling
        copies = 1 if v.dtype == v.stored_dtype else 3
        work = copies * self.nbytes / r.copy
        each = np.ceil(blocks / self.budget.slots) / blocks
        # What a worker has once only, more threads do not make faster: bandwidth, and a lock.
        shared = np.maximum(fetch, decode) if self.is_serial else fetch
        reading = np.maximum(read * each, shared / max(1, self.budget.workers))
        windows = v.size * self.pattern.window * WINDOW_SECONDS / self.budget.slots
        return reading + work * each + windows + self.run_tasks(blocks) * r.task

    def rank(self, seconds: Any, tasks: Any, elements: Any, splits: Any = False) -> Any:
        """Make the time longer where blocks are of an awkward size, or too many.

        Size says less where chunks are split: each doubling saves a decoding of everything.
        """
        block = self.nbytes / tasks
        awkward = (
            np.maximum(0, np.log2(SMALL_BLOCK / block))
            + np.maximum(0, np.log2(block / LARGE_BLOCK))
            + np.maximum(0, np.log2(self.run_tasks(tasks) / MANY_TASKS))
        )
        penalty = np.where(splits, _SPLIT_PENALTY, _PENALTY)
        leaning = _LEANING * np.abs(np.log2(block / GOOD_BLOCK))
        crowded = np.where(splits, 0.0, _CROWDED * self.crowding(elements))
        return seconds * (1 + penalty * awkward + crowded + leaning)


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
    """A length, or the lengths of all blocks; None: near-equal parts of each stored chunk."""
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

    def on(self, axis: Axis) -> DimChunk:
        """Return what dask is told."""
        return near_equal(axis, self.base) if self.chunk is None else self.chunk


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

    - ``axis``: the stored chunks.
    - ``shards``: the stored shards.
    - ``whole``: whether a block must hold the whole dim.
    - ``halo``: elements that a block needs of its neighbour.
    - ``groups``: positions at which groups end; blocks end at them where stored chunks do too.
    - ``split``: whether stored chunks may be split.
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


def _whole(axis: Axis, shards: Axis | None) -> Candidate:
    n, count = axis.size, axis.count
    shard_reads = count if shards is None else shards.count
    return Candidate(max(n, 1), n, 1, n, n, count, count, shard_reads, True, False)


def _regular(axis: Axis, shards: Axis | None, halo: int, split: bool) -> Iterable[Candidate]:
    n, k, count = axis.size, axis.chunk, axis.count
    for m in _thin(_merges(count)):
        yield _merged(axis, shards, halo, m)
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


def _merged(axis: Axis, shards: Axis | None, halo: int, m: int) -> Candidate:
    """Merge so many stored chunks in each block."""
    n, k, count = axis.size, axis.chunk, axis.count
    length = min(m * k, n)
    blocks = ceildiv(count, m)
    # A halo lies in the chunks before a block, which are decoded again for it.
    extra = min(ceildiv(halo, k), max(0, count - m)) if halo else 0
    cut = Axis(n, length)
    return Candidate(
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


def _shard_reads(cut: Axis, shards: Axis | None, reads: int) -> int:
    return reads if shards is None else cut.pairs(shards)


#: Combinations that are looked at exactly; beyond them those alike to 5 % count as one.
_MANY_STATES = 40_000


@dataclass(frozen=True)
class _States:
    """Candidates of the dims merged so far; arrays in step with each other."""

    tasks: NDArray[np.float64]
    elements: NDArray[np.float64]
    column: NDArray[np.float64]
    decoded: NDArray[np.float64]
    reads: NDArray[np.float64]
    touched: NDArray[np.float64]
    shard_reads: NDArray[np.float64]
    whole_shards: NDArray[np.float64]
    splits: NDArray[np.float64]
    runs: NDArray[np.float64]
    whole: NDArray[np.float64]
    picks: NDArray[np.int32]

    def take(self, index: NDArray[Any]) -> _States:
        return _States(*(getattr(self, f)[index] for f in self.__dataclass_fields__))


def best_pass(
    layout: ArrayLayout,
    pattern: AccessPattern,
    budget: MemoryBudget,
    rates: Rates,
    like: Mapping[str, DimChunk] | None = None,
) -> LazyPass | None:
    """Find the blocks with which one pass is quickest and every worker stays inside its budget.

    Stored chunks are split only where no blocks of whole chunks fit.

    - ``like``: blocks along dims as they have to be.
    - returns: None where no blocks fit.
    """
    model = PassModel(layout, pattern.on(layout), budget, rates)
    if model.pattern.random and not model.pattern.is_scan:
        return _sampled(model)
    for split in (False, True):
        if split and model.is_free:
            break
        columns = _columns(model, split, like or {})
        states = _merge(model, columns, split)
        if states is None:
            continue
        return _choose(model, columns, states)
    return None


def _sampled(model: PassModel) -> LazyPass | None:
    """A pass of samples at random places: each reads all chunks that it touches, by itself.

    The blocks are the stored chunks, since larger ones would only be read in vain.
    """
    v, size = model.layout, item_nbytes(model.layout.dtype)
    request = model.pattern.request_shape(v)
    lengths = [axis.chunk for axis in model.axes]
    blocks = request if model.is_free else tuple(lengths)
    sample, block = math.prod(request), math.prod(blocks)
    touched = math.prod(
        min((e + c - 1) / c, n / c) for e, c, n in zip(request, blocks, v.shape, strict=True)
    )
    number = v.size / max(1, sample)
    decoded = number * (sample if model.is_free else touched * block)
    decodes = math.ceil(number * touched)
    task = float(model.task_mem(block, 1, splits=False))
    # the blocks of a sample are there at once, and the sample is put together of them
    worker = max(1, model.budget.threads) * task + (math.ceil(touched) * block + sample) * size
    if worker > model.budget.max_mem:
        return None
    seconds = float(model.seconds(max(1, math.ceil(number)), decoded, decodes, 0))
    return LazyPass(
        chunks={
            d: c if a.parts is None or model.is_free else a.parts
            for d, a, c in zip(v.dims, model.axes, blocks, strict=True)
        },
        threads=model.budget.threads,
        blocks=Grid.of(v.shape, blocks).count,
        tasks=Grid.of(v.shape, blocks).count,
        block_nbytes=block * size,
        projected_mem=math.ceil(task),
        worker_mem=math.ceil(worker),
        decodes=decodes,
        amplification=decoded / max(1, v.size),
        seconds=seconds,
        rank=seconds,
        splits=False,
    )


def pass_points(
    layout: ArrayLayout, pattern: AccessPattern, budget: MemoryBudget, rates: Rates
) -> NDArray[np.float64]:
    """List the passes that a search looks at, whether they fit the budget or not.

    - returns: a row for each: bytes of its largest block, seconds, and bytes that a worker grows
      by.
    """
    model = PassModel(layout, pattern.on(layout), replace(budget, max_mem=2**62), rates)
    out = [np.empty((3, 0))]
    for split in (False,) if model.is_free else (False, True):
        s = _merge(model, _columns(model, split, {}), split)
        if s is not None:
            runs = s.runs if model.is_free else np.zeros(1)
            seconds = model.seconds(s.tasks, s.decoded, _requests(model, s), runs)
            task = model.task_mem(s.elements, s.touched, s.splits > 0)
            mem = model.worker_mem(task, s.elements, s.column, s.tasks)
            out.append(np.stack([s.elements * item_nbytes(layout.dtype), seconds, mem]))
    return np.concatenate(out, axis=1).T


def _columns(model: PassModel, split: bool, like: Mapping[str, DimChunk]) -> list[DimCandidates]:
    p, v = model.pattern, model.layout
    shards = (None,) * v.ndim if v.shards is None else Grid.of(v.shape, v.shards).axes
    out = []
    for dim, axis, shard in zip(v.dims, model.axes, shards, strict=True):
        whole, halo, groups = dim in p.whole, p.halo.get(dim, 0), p.groups.get(dim, ())
        found = dim_candidates(
            axis, shards=shard, whole=whole, halo=halo, groups=groups, split=split
        )
        out.append(_alike(found, axis, shard, halo, like[dim]) if dim in like else found)
    return out


def _alike(
    found: DimCandidates, axis: Axis, shards: Axis | None, halo: int, blocks: DimChunk
) -> DimCandidates:
    """Keep the candidate that has the blocks, if there is one."""
    same = tuple(c for c in found.items if c.on(axis) == blocks)
    is_cut = axis.is_regular and any(c.blocks > 1 for c in found.items)
    if not same and is_cut and isinstance(blocks, int) and blocks % axis.chunk == 0:
        same = (_merged(axis, shards, halo, blocks // axis.chunk),)
    return DimCandidates(same[:1])


def _merge(model: PassModel, columns: Sequence[DimCandidates], split: bool) -> _States | None:
    """Merge the dims from the last to the first, which is the order of contiguous runs."""
    limit = model.budget.max_mem
    if not all(d.items for d in columns):
        return None
    one = np.ones(1)
    states = _States(
        one, one, one, one, one, one, one, one, 0 * one, one, one, np.zeros((1, 0), np.int32)
    )
    rest = [min(c.length for c in d.items) for d in columns]
    fewest = [min(c.blocks for c in d.items) for d in columns]
    for i in reversed(range(len(columns))):
        if len(states.tasks) * len(columns[i].items) > _MANY_STATES:
            states = _thinned(states)
        size = model.layout.shape[i]
        again = model.layout.dims[i] in model.twice
        states = _product(states, columns[i], size if model.is_free else 0, size if again else 0)
        least = math.prod(rest[:i])
        task = model.task_mem(states.elements * least, states.touched, states.splits > 0)
        blocks = states.tasks * math.prod(fewest[:i])
        worker = model.worker_mem(task, states.elements * least, states.column * least, blocks)
        fits = worker <= limit
        fits &= model.run_tasks(blocks) <= MOST_TASKS
        if not fits.any():
            return None
        states = states.take(np.flatnonzero(fits))
        states = _shortest(states, touched_matters=split, column_matters=bool(model.twice))
    return states


def _product(states: _States, column: DimCandidates, size: int, again: int) -> _States:
    """Combine each state with each candidate of a dim, whose size is 0 where runs don't matter.

    A dim that is gone over twice has its size a second time; it is part of a column as a whole.
    Runs go on through dims that a block holds whole; the first cut from the back breaks them.
    """
    n, m = len(states.tasks), len(column.items)
    left = np.repeat(np.arange(n), m)
    right = np.tile(np.arange(m), n)
    s = states.take(left)
    runs = np.where(s.whole > 0, column.column("blocks")[right], s.runs * size) if size else s.runs
    blocks = column.column("blocks")[right]
    return _States(
        tasks=s.tasks * blocks,
        elements=s.elements * column.column("length")[right],
        column=s.column * (again or column.column("length")[right]),
        decoded=s.decoded * column.column("decoded")[right],
        reads=s.reads * column.column("reads")[right],
        touched=s.touched * column.column("touched")[right],
        shard_reads=s.shard_reads * column.column("shard_reads")[right],
        whole_shards=s.whole_shards * column.column("whole_shards")[right],
        splits=np.maximum(s.splits, column.column("splits")[right]),
        runs=runs,
        whole=s.whole * (blocks == 1) if size else s.whole,
        picks=np.concatenate([right[:, None].astype(np.int32), s.picks], axis=1),
    )


def _shortest(states: _States, *, touched_matters: bool, column_matters: bool) -> _States:
    """Of states that agree in all that costs time, keep the one with the smallest blocks."""
    memory = (
        (states.touched, states.elements, states.splits) if touched_matters else (states.elements,)
    )
    memory = (states.column, *memory) if column_matters else memory
    agree = (
        states.whole_shards,
        states.runs,
        states.whole,
        states.shard_reads,
        states.reads,
        states.decoded,
        states.tasks,
    )
    order = np.lexsort((*memory, *agree))
    same = np.ones(len(order) - 1, dtype=bool)
    for key in agree:
        same &= key[order][1:] == key[order][:-1]
    for key in memory:
        same &= key[order][1:] >= key[order][:-1]
    return states.take(order[np.concatenate([[True], ~same])])


def _thinned(states: _States) -> _States:
    """Keep one of the states that are alike to about 5 %: the one with the smallest blocks."""
    keys = np.stack(
        [
            np.round(20 * np.log(states.tasks)),
            np.round(20 * np.log(states.decoded)),
            np.round(10 * np.log(states.runs)),
            states.whole,
            states.whole_shards,
            states.splits,
        ]
    )
    order = np.lexsort((states.elements, *keys))
    first = np.concatenate([[True], (keys[:, order][:, 1:] != keys[:, order][:, :-1]).any(axis=0)])
    return states.take(order[first])


def _requests(model: PassModel, s: _States) -> NDArray[np.float64]:
    if model.is_free:
        return s.tasks
    if model.layout.shards is None:
        return s.reads
    # a whole shard is one request, a part of it its index and the ranges, which are coalesced
    return s.shard_reads * np.where(s.whole_shards > 0, 1, 2)


def _choose(model: PassModel, columns: Sequence[DimCandidates], states: _States) -> LazyPass:
    runs = states.runs if model.is_free else np.zeros(1)
    seconds = model.seconds(states.tasks, states.decoded, _requests(model, states), runs)
    rank = model.rank(seconds, states.tasks, states.elements, states.splits > 0)
    # of equals the one with the smallest blocks
    best = int(np.lexsort((states.elements, rank))[0])
    picks = [d.items[j] for d, j in zip(columns, states.picks[best], strict=True)]
    elements = math.prod(c.length for c in picks)
    splits = any(c.splits for c in picks)
    task = float(model.task_mem(float(elements), float(states.touched[best]), splits))
    size = max(1, model.layout.size)
    blocks = math.prod(c.blocks for c in picks)
    worker = float(model.worker_mem(task, elements, float(states.column[best]), blocks))
    return LazyPass(
        chunks={d: c.on(a) for d, a, c in zip(model.layout.dims, model.axes, picks, strict=True)},
        threads=model.budget.threads,
        blocks=blocks,
        tasks=model.run_tasks(blocks),
        block_nbytes=elements * item_nbytes(model.layout.dtype),
        projected_mem=math.ceil(task),
        worker_mem=math.ceil(worker),
        decodes=0 if model.is_free else math.prod(c.reads for c in picks),
        amplification=math.prod(c.decoded for c in picks) / size,
        seconds=float(np.broadcast_to(seconds, rank.shape)[best]),
        rank=float(rank[best]),
        splits=splits,
    )
