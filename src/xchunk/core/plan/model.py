"""What the stages of a copy may look like along each dim, and what they do, hold and cost.

A copy of ``m`` stages cuts a dim into boxes of length ``b1 … bm`` and the scratch arrays
between them into pieces of length ``c1 … c(m-1)``. Each stage writes whole pieces only, so
``c`` divides the box that writes it (or that box is the whole dim), and the last box is a
multiple of the target's write unit (or the whole dim). A table lists the combinations that
are worth a thought, one a row, with what is counted along the dim in its columns. Grids
are rectangular: multiplying a column over the dims gives the count of the array.

The same counts stand here twice, side by side: exactly, for one plan (`Geometry.stages`), and
in columns, for many candidates at once (`ChainModel`). A test holds them equal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.core.cost import MAKE, OPEN, REQUEST, Rates, Work
from xchunk.core.grid import Axis, Grid, ceildiv
from xchunk.core.memory import (
    DECODE_COPIES,
    ENCODE_COPIES,
    FETCH_COPIES,
    FILE_COPIES,
    IN_FLIGHT,
    PLAIN_READ_COPIES,
    PLAIN_WRITE_COPIES,
    PUT_COPIES,
    QUEUED,
    RAW_TASK_OVERHEAD,
    SHARD_COPIES,
    TASK_OVERHEAD,
    CopyBuffers,
)
from xchunk.core.plan.stages import CopyJob, Limits, Scratch, Stage
from xchunk.core.types import Chunks

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


#: The most bytes that are read at once from an array that is not chunked.
READ_AT_ONCE = 4_000_000

_Floats: TypeAlias = NDArray[np.float64]
_Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Facts:
    """A job and the circumstances under which its stages run."""

    job: CopyJob
    """What is copied; it has elements."""
    rates: Rates
    """Rates as given."""
    limits: Limits
    """What a plan may not exceed besides memory."""
    per_task: int
    """Bytes that one task may hold."""
    slots: int
    """Tasks that run at once on all workers."""
    workers: int
    """Workers that run them."""
    flight: int = 0
    """Bytes that requests of a task may hold that are on their way at once; 0: one by one."""
    cores: int | None = None
    """Tasks that can compute at once on all workers; None: as many as run."""
    packed: bool = False
    """Whether scratch arrays are compressed."""
    sharded: bool = False
    """Whether a box is written to scratch as one object."""

    def queued(self, *, last: bool) -> tuple[int, int]:
        """Chunks that a task holds besides those that it reads, and those that it writes.

        - ``last``: whether it writes the target.
        """
        if self.job.streamed:
            # one is decoded, or encoded, while others are on their way
            return 1, int(self.sends)
        if self.job.fused:
            return 0, 0
        # shards in far stores are given to zarr one by one
        alone = last and not self.job.near and self.job.units != self.job.target
        return QUEUED, 0 if alone else QUEUED

    @property
    def sends(self) -> bool:
        """Whether what is on its way to a store is held no more than once, as it is encoded."""
        encoding = self.job.write_copies or ENCODE_COPIES
        return not (self.job.sent_copies or self.holds_shards) and encoding <= ENCODE_COPIES

    @property
    def holds_shards(self) -> bool:
        """Whether scratch lies in shards that are held, since zarr writes and reads them."""
        return self.sharded and not self.job.scratch_files

    @cached_property
    def job_rates(self) -> Rates:
        """The rates with what this source and this scratch make of them."""
        rates = self.rates.with_packed_scratch() if self.packed else self.rates
        rates = rates.with_sharded_scratch() if self.holds_shards else rates
        if self.job.blocks:
            return replace(rates, decode=rates.copy, serial_read=False)
        if self.job.serial is not None:
            rates = replace(rates, serial_read=self.job.serial)
        return rates if self.job.source_compressed else replace(rates, decode=rates.copy)

    @cached_property
    def source_unit(self) -> int:
        """Bytes that are decoded for one chunk of the source, the longest if they differ."""
        return self.job.source.box_elements * self.job.itemsize

    @cached_property
    def target_unit(self) -> int:
        """Bytes of one write unit of the target."""
        return self.job.units.box_elements * self.job.itemsize

    @property
    def scratch_copies(self) -> tuple[float, float]:
        """Bytes held for each byte of a piece in flight, while it is read and written."""
        if self.job.scratch_files and not (self.holds_shards or self.packed):
            return (FILE_COPIES, FILE_COPIES)
        read, write = PLAIN_READ_COPIES, PLAIN_WRITE_COPIES
        if self.holds_shards:
            read, write = DECODE_COPIES, SHARD_COPIES
        elif self.packed:
            # pieces in a far store are decoded one by one into the box, as chunks of a source are
            read = FETCH_COPIES if self.job.streamed else DECODE_COPIES
            write = ENCODE_COPIES
        if self.job.streamed and self.sends:
            write = PUT_COPIES
        return read, max(write, self.job.sent_copies)

    @property
    def task_overhead(self) -> int:
        """Bytes that a task holds whatever the size of its box."""
        return RAW_TASK_OVERHEAD if self.job.raw_files and not self.packed else TASK_OVERHEAD

    @cached_property
    def target_buffers(self) -> tuple[int, float]:
        """Bytes of what is written at once to the target, and how often they are held."""
        if self.job.units != self.job.target and not self.job.unit_files:
            return self.target_unit, max(SHARD_COPIES, self.job.sent_copies)
        nbytes = self.job.target.box_elements * self.job.itemsize
        if self.job.streamed and self.sends:
            return nbytes, PUT_COPIES
        return nbytes, max(self.job.write_copies or ENCODE_COPIES, self.job.sent_copies)

    @cached_property
    def source_buffers(self) -> tuple[int, float]:
        """Bytes of what is read at once from the source, and how often they are held."""
        if self.job.blocks:
            # a block is held whole, so what is held besides has nothing to do with concurrency
            return self.source_unit, (self.job.read_copies or 0.0) / (
                1 + self.queued(last=False)[0]
            )
        if not self.job.source_chunked:
            at_once = min(self.job.nbytes, READ_AT_ONCE, max(self.job.itemsize, self.per_task // 8))
            return at_once, PLAIN_READ_COPIES
        if self.job.source_sharded:
            at_once = max(self.source_unit, min(READ_AT_ONCE, self.per_task // 8))
            return at_once, SHARD_COPIES
        usual = DECODE_COPIES if self.job.source_compressed else PLAIN_READ_COPIES
        return self.source_unit, self.job.read_copies or usual

    @cached_property
    def target_work(self) -> Work:
        """What writing the target takes, however it is done."""
        encodes, units = self.job.target.count, self.job.units.count
        nbytes = encodes * self.job.target.box_elements * self.job.itemsize
        return Work(encodes=encodes, encoded_bytes=nbytes, requests=units, objects=units)

    def floor(self, scratch: int) -> float:
        """Seconds that no plan with so many scratch arrays falls below.

        Every chunk is decoded once, every unit encoded once, and every byte goes once
        through each scratch array, with all slots busy all the time.
        """
        decodes = self.job.source.count if self.job.source_chunked or self.job.blocks else 0
        whole = self.job.source_chunked and not self.job.blocks
        reading = Work(
            decoded_bytes=decodes * self.source_unit if whole else self.job.nbytes,
            requests=decodes if whole else 0,
        )
        moved = scratch * self.job.nbytes
        work = (
            self.target_work + reading + Work(scratch_read_bytes=moved, scratch_write_bytes=moved)
        )
        rates, at_once = self.job_rates, IN_FLIGHT if self.flight else 1
        busy = work.busy_seconds(rates, at_once) / self.slots
        if self.cores is not None:
            busy = max(busy, work.busy_seconds(replace(rates, latency=0)) / self.cores)
        return max(busy, work.shared_seconds(rates, self.workers))


@dataclass(frozen=True)
class Geometry:
    """The boxes of each stage, and the pieces between them."""

    boxes: tuple[Chunks, ...]
    """Elements of a box along each dim, for each stage."""
    pieces: tuple[Chunks, ...]
    """Elements of a piece along each dim, for each scratch array."""

    def stages(self, facts: Facts) -> tuple[Stage, ...]:
        """Spell the stages out, with all counts exact."""
        job, out = facts.job, []
        last = len(self.boxes) - 1
        read: tuple[Grid, Grid] | None = None
        for k, lengths in enumerate(self.boxes):
            boxes = job.source if k == 0 and job.blocks else Grid.of(job.shape, lengths)
            work = Work(tasks=boxes.count) + _reading(facts, boxes, read)
            scratch = None
            if k == last:
                work += facts.target_work
                kind: Literal["direct", "read", "write", "move"] = "write" if last else "direct"
            else:
                kind = "move" if k else "read"
                scratch = _scratch(facts, lengths, self.pieces[k])
                pieces = Grid.of(job.shape, scratch.chunks)
                work += _scratch_writing(facts, boxes, pieces)
            buffers = _buffers(facts, boxes, read, scratch)
            stage = Stage(kind, boxes, scratch, work, buffers)
            out.append(replace(stage, seconds=stage_seconds(stage, facts)))
            if scratch is not None:
                objects = Grid.of(job.shape, scratch.shards or scratch.chunks)
                read = (Grid.of(job.shape, scratch.chunks), objects)
        return tuple(out)

    def seconds(self, facts: Facts) -> float:
        """Predicted time on the clock."""
        return sum(stage.seconds for stage in self.stages(facts))


def stage_seconds(stage: Stage, facts: Facts) -> float:
    """Predicted time of one stage."""
    work, at_once, making = stage.work, 1.0, 0.0
    if facts.flight:
        writes = work.objects - work.made
        reads = work.requests - work.opened - work.objects
        rounds = _rounds(work.tasks, reads, stage.buffers.reads, writes, stage.buffers.writes)
        at_once = (reads + writes) / rounds if rounds else 1.0
        making = (reads + writes) * REQUEST / facts.workers
    return making + work.seconds(
        facts.job_rates, facts.slots, workers=facts.workers, concurrency=at_once, cores=facts.cores
    )


def _rounds(tasks: Any, reads: Any, read_at_once: Any, writes: Any, written_at_once: Any) -> Any:
    """How often tasks wait for requests that are on their way together, all tasks added up.

    Each waits once at least for what it reads, and once for what it writes.
    """
    sides = ((reads, read_at_once), (writes, written_at_once))
    return sum(np.where(n > 0, np.maximum(n / at_once, tasks), 0) for n, at_once in sides)


def _at_once(flight: int, each: Any, queued: int) -> Any:
    """The requests that are on their way at once, as `CopyBuffers` counts them."""
    return np.clip(np.floor(flight / np.maximum(each, 1)) - queued, 1, IN_FLIGHT)


def _reading(facts: Facts, boxes: Grid, read: tuple[Grid, Grid] | None) -> Work:
    job = facts.job
    if read is not None:
        pieces, objects = read
        count = boxes.pairs(pieces)
        nbytes = count * pieces.box_elements * job.itemsize
        opened = boxes.pairs(objects)
        if job.scratch_files:
            within = count if facts.sharded else 0
            return Work(scratch_read_bytes=nbytes, requests=opened, opened=opened, runs=within)
        # a part of a shard takes its index and the pieces, which lie side by side
        requests = 2 * opened if facts.sharded else count
        return Work(scratch_read_bytes=nbytes, requests=requests)
    if job.blocks:
        return Work(decodes=job.source.count, decoded_bytes=job.nbytes)
    if not job.source_chunked:
        runs = _runs(boxes)
        return Work(decoded_bytes=job.nbytes, requests=boxes.count, runs=runs)
    decodes = boxes.pairs(job.source)
    return Work(decodes=decodes, decoded_bytes=decodes * facts.source_unit, requests=decodes)


def _runs(boxes: Grid) -> int:
    """Contiguous runs of an array in C order that all boxes take together."""
    split = [i for i, a in enumerate(boxes.axes) if a.count > 1]
    if not split:
        return 1
    at = split[-1]
    return math.prod(a.size for a in boxes.axes[:at]) * boxes.axes[at].count


def _scratch(facts: Facts, box: Chunks, piece: Chunks) -> Scratch:
    shards = None
    if facts.sharded:
        # zarr wants a shard to be a multiple of its pieces, also where it spans the dim
        shards = tuple(ceildiv(b, c) * c for b, c in zip(box, piece, strict=True))
    return Scratch(piece, shards, "lz4" if facts.packed else "none")


def _scratch_writing(facts: Facts, boxes: Grid, pieces: Grid) -> Work:
    objects = boxes.count if facts.sharded else pieces.count
    nbytes = pieces.count * pieces.box_elements * facts.job.itemsize
    by_file = facts.job.scratch_files
    return Work(
        scratch_write_bytes=nbytes,
        requests=objects,
        made=objects if by_file else 0,
        objects=objects,
        runs=pieces.count if by_file and facts.sharded else 0,
    )


def _buffers(
    facts: Facts, boxes: Grid, read: tuple[Grid, Grid] | None, scratch: Scratch | None
) -> CopyBuffers:
    item = facts.job.itemsize
    read_copies, write_copies = facts.scratch_copies
    if read is None:
        read_unit, read_copies = facts.source_buffers
    elif facts.holds_shards:
        axes = zip(boxes.axes, read[0].axes, read[1].axes, strict=True)
        read_unit = math.prod(_shard_part(b, c, s) for b, c, s in axes) * item
    else:
        read_unit = read[0].box_elements * item
    if scratch is None:
        write_unit, write_copies = facts.target_buffers
    else:
        held = scratch.shards if facts.holds_shards else None
        write_unit = math.prod(held or scratch.chunks) * item
    return CopyBuffers(
        box=boxes.box_elements * item,
        read_unit=read_unit,
        write_unit=write_unit,
        queued=facts.queued(last=scratch is None),
        flight=facts.flight,
        read_copies=read_copies,
        write_copies=write_copies,
        overhead=facts.task_overhead,
    )


def _shard_part(box: Axis, piece: Axis, shard: Axis) -> int:
    """The most elements, in whole pieces, that a box reads of one shard."""
    b, c, n = box.chunk, piece.chunk, box.size
    whole = ceildiv(b, c) if b % c == 0 or b >= n else b // c + 2
    return min(ceildiv(shard.chunk, c) * c, whole * c)


@dataclass(frozen=True)
class ChainModel:
    """`Geometry` for columns of candidates: limits and costs, as a search asks for them."""

    facts: Facts
    """The circumstances."""
    columns: Columns
    """Which column holds what."""

    @property
    def compared(self) -> list[int]:
        """Columns of which less is never worse."""
        return list(range(self.columns.width if self.facts.sharded else self.columns.plain))

    @property
    def counted(self) -> list[int]:
        """The numbers of tasks: a few more may fill the last wave better."""
        return [self.columns.tasks(k) for k in range(self.columns.stages)]

    @property
    def volumes(self) -> list[int]:
        """The sizes of the boxes."""
        return [self.columns.box(k) for k in range(self.columns.stages)]

    def fits(self, rows: Table) -> _Bools:
        """Whether memory, tasks and objects stay within their limits."""
        facts, col, last = self.facts, self.columns, self.columns.stages - 1
        item, limits = facts.job.itemsize, facts.limits
        good = np.ones(len(rows), dtype=np.bool_)
        for k in range(col.stages):
            if k < last:
                objects = rows[:, col.tasks(k) if facts.sharded else col.pieces(k)]
                good &= objects <= limits.objects
            if k or not facts.job.blocks:
                # how many blocks there are, and how large, is not for us to choose
                if limits.box is not None:
                    good &= rows[:, col.box(k)] * item <= limits.box
                good &= rows[:, col.tasks(k)] <= limits.tasks
            read, write = self._in_flight(rows, k)
            reading, writing = (1 + n for n in facts.queued(last=k == last))
            flight = np.maximum(np.maximum(read * reading, write * writing), facts.flight)
            grown = np.floor(rows[:, col.box(k)] * item + flight) + facts.task_overhead
            good &= grown <= facts.per_task
        return good

    def _in_flight(self, rows: Table, k: int) -> tuple[Any, Any]:
        """Bytes that one request of a stage holds, reading and writing."""
        facts, col, item = self.facts, self.columns, self.facts.job.itemsize
        copies_read, copies_write = facts.scratch_copies
        read: Any
        write: Any
        if k == 0:
            read, copies_read = facts.source_buffers
        else:
            read = rows[:, (col.shard_part if facts.holds_shards else col.piece)(k - 1)] * item
        if k == col.stages - 1:
            write, copies_write = facts.target_buffers
        else:
            write = rows[:, (col.shard if facts.holds_shards else col.piece)(k)] * item
        return copies_read * read, copies_write * write

    def at_least(self, rows: Table) -> _Floats:
        """The cost without the idle part of last waves, which alone is not monotone."""
        return self._cost(rows, waves=False)

    def cost(self, rows: Table) -> _Floats:
        """Predicted seconds."""
        return self._cost(rows, waves=True)

    def _cost(self, rows: Table, *, waves: bool) -> _Floats:  # noqa: PLR0915 - as it is counted
        facts, col, last = self.facts, self.columns, self.columns.stages - 1
        rates, item, by_file = facts.job_rates, facts.job.itemsize, facts.job.scratch_files
        total = np.zeros(len(rows))
        for k in range(col.stages):
            tasks, reads = rows[:, col.tasks(k)], rows[:, col.reads(k)]
            busy: Any = 0.0
            stored: Any = 0.0
            requests: Any = 0.0
            written: Any = 0.0
            opening: Any = 0.0
            decoded: Any = 0.0
            if k:
                moved = reads * rows[:, col.piece(k - 1)] * item
                busy = moved / rates.scratch_read
                stored = moved * rates.scratch_ratio
                opened = rows[:, col.shard_reads(k - 1)] if facts.sharded else reads
                if by_file:
                    within = reads * rates.run if facts.sharded else 0
                    opening = opened * OPEN * rates.near_latency
                    busy = busy + within
                else:
                    requests = 2 * opened if facts.sharded else opened
            elif facts.job.blocks:
                decoded = facts.job.nbytes
            elif facts.job.source_chunked:
                decoded, requests = reads * facts.source_unit, reads
            else:
                decoded, requests = facts.job.nbytes, tasks
                busy = reads * rates.run
            busy = busy + decoded / rates.decode
            stored = stored + decoded * rates.compression
            if k == last:
                work = facts.target_work
                busy = busy + work.encoded_bytes / rates.encode
                stored = stored + work.encoded_bytes * rates.compression
                written = work.requests
            else:
                moved = rows[:, col.pieces(k)] * rows[:, col.piece(k)] * item
                busy = busy + moved / rates.scratch_write
                stored = stored + moved * rates.scratch_ratio
                objects = rows[:, col.tasks(k) if facts.sharded else col.pieces(k)]
                if by_file:
                    within = rows[:, col.pieces(k)] * rates.run if facts.sharded else 0
                    opening = opening + objects * MAKE * rates.near_latency
                    busy = busy + within
                else:
                    written = objects
            waits = requests + written
            if facts.flight:
                total += waits * REQUEST / facts.workers
                held = zip(self._in_flight(rows, k), facts.queued(last=k == last), strict=True)
                at_once = [_at_once(facts.flight, each, queued) for each, queued in held]
                waits = _rounds(tasks, requests, at_once[0], written, at_once[1])
            busy = busy + stored / rates.bandwidth
            computed, busy = busy, busy + opening + waits * rates.latency
            shared = stored / rates.bandwidth
            if rates.serial_read:
                shared = np.maximum(shared, decoded / rates.decode)
            share = np.ceil(tasks / facts.slots) / tasks if waves else 1 / facts.slots
            clock = np.maximum(share * busy, shared / facts.workers)
            if facts.cores is not None:
                clock = np.maximum(clock, computed / facts.cores)
            total += clock + tasks * rates.task
        return total
