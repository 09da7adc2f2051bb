"""What a copy in given stages does, holds and costs.

The same counts stand here twice, side by side: exactly, for one plan (`Geometry.stages`), and
in columns, for many candidates at once (`ChainModel`). A test holds them equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk._typing import Chunks
from xchunk.core.chains import Columns, Table
from xchunk.core.cost import MAKE, OPEN, Rates, Work
from xchunk.core.grid import Axis, Grid, ceildiv
from xchunk.core.memory import (
    DECODE_COPIES,
    ENCODE_COPIES,
    FILE_COPIES,
    PLAIN_READ_COPIES,
    PLAIN_WRITE_COPIES,
    QUEUED,
    RAW_TASK_OVERHEAD,
    SHARD_COPIES,
    TASK_OVERHEAD,
    CopyBuffers,
)
from xchunk.core.stages import CopyJob, Limits, Scratch, Stage

__all__ = ["ChainModel", "Facts", "Geometry"]

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
    concurrency: int
    """Chunks in flight at once within a task."""
    packed: bool = False
    """Whether scratch arrays are compressed."""
    sharded: bool = False
    """Whether a box is written to scratch as one object."""

    @property
    def in_flight(self) -> int:
        """Chunks that a task holds at once, besides its box."""
        return self.concurrency + (0 if self.job.fused else QUEUED)

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
        if self.holds_shards:
            return (DECODE_COPIES, SHARD_COPIES)
        if self.packed:
            return (DECODE_COPIES, ENCODE_COPIES)
        if self.job.scratch_files:
            return (FILE_COPIES, FILE_COPIES)
        return (PLAIN_READ_COPIES, PLAIN_WRITE_COPIES)

    @property
    def task_overhead(self) -> int:
        """Bytes that a task holds whatever the size of its box."""
        return RAW_TASK_OVERHEAD if self.job.raw_files and not self.packed else TASK_OVERHEAD

    @cached_property
    def target_buffers(self) -> tuple[int, float]:
        """Bytes of what is written at once to the target, and how often they are held."""
        if self.job.units != self.job.target and not self.job.unit_files:
            return self.target_unit, SHARD_COPIES
        nbytes = self.job.target.box_elements * self.job.itemsize
        return nbytes, self.job.write_copies or ENCODE_COPIES

    @cached_property
    def source_buffers(self) -> tuple[int, float]:
        """Bytes of what is read at once from the source, and how often they are held."""
        if self.job.blocks:
            return 0, 0.0
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
        busy = work.busy_seconds(self.job_rates, self.concurrency) / self.slots
        return max(busy, work.shared_seconds(self.job_rates, self.workers))


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
            out.append(Stage(kind, boxes, scratch, work, buffers))
            if scratch is not None:
                objects = Grid.of(job.shape, scratch.shards or scratch.chunks)
                read = (Grid.of(job.shape, scratch.chunks), objects)
        return tuple(out)

    def seconds(self, facts: Facts) -> float:
        """Predicted time on the clock."""
        return sum(stage_seconds(s.work, facts) for s in self.stages(facts))


def stage_seconds(work: Work, facts: Facts) -> float:
    """Predicted time of one stage."""
    return work.seconds(
        facts.job_rates, facts.slots, workers=facts.workers, concurrency=facts.concurrency
    )


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
        concurrency=facts.in_flight,
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
        item, conc, limits = facts.job.itemsize, facts.in_flight, facts.limits
        good = np.ones(len(rows), dtype=np.bool_)
        for k in range(col.stages):
            if k < last:
                objects = rows[:, col.tasks(k) if facts.sharded else col.pieces(k)]
                good &= objects <= limits.objects
            if k == 0 and facts.job.blocks:
                continue
            if limits.box is not None:
                good &= rows[:, col.box(k)] * item <= limits.box
            good &= rows[:, col.tasks(k)] <= limits.tasks
            copies_read, copies_write = facts.scratch_copies
            read: Any
            write: Any
            if k == 0:
                read, copies_read = facts.source_buffers
            else:
                read = rows[:, (col.shard_part if facts.holds_shards else col.piece)(k - 1)] * item
            if k == last:
                write, copies_write = facts.target_buffers
            else:
                write = rows[:, (col.shard if facts.holds_shards else col.piece)(k)] * item
            flight = np.maximum(copies_read * read * conc, copies_write * write * conc)
            held = np.floor(rows[:, col.box(k)] * item + flight) + facts.task_overhead
            good &= held <= facts.per_task
        return good

    def at_least(self, rows: Table) -> _Floats:
        """The cost without the idle part of last waves, which alone is not monotone."""
        return self._cost(rows, waves=False)

    def cost(self, rows: Table) -> _Floats:
        """Predicted seconds."""
        return self._cost(rows, waves=True)

    def _cost(self, rows: Table, *, waves: bool) -> _Floats:
        facts, col, last = self.facts, self.columns, self.columns.stages - 1
        rates, item, by_file = facts.job_rates, facts.job.itemsize, facts.job.scratch_files
        total = np.zeros(len(rows))
        for k in range(col.stages):
            tasks, reads = rows[:, col.tasks(k)], rows[:, col.reads(k)]
            busy: Any = 0.0
            stored: Any = 0.0
            requests: Any = 0.0
            decoded: Any = 0.0
            if k:
                moved = reads * rows[:, col.piece(k - 1)] * item
                busy = moved / rates.scratch_read
                stored = moved * rates.scratch_ratio
                opened = rows[:, col.shard_reads(k - 1)] if facts.sharded else reads
                if by_file:
                    within = reads * rates.run if facts.sharded else 0
                    busy = busy + opened * OPEN * rates.latency + within
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
                requests = requests + work.requests
            else:
                moved = rows[:, col.pieces(k)] * rows[:, col.piece(k)] * item
                busy = busy + moved / rates.scratch_write
                stored = stored + moved * rates.scratch_ratio
                written = rows[:, col.tasks(k) if facts.sharded else col.pieces(k)]
                if by_file:
                    within = rows[:, col.pieces(k)] * rates.run if facts.sharded else 0
                    busy = busy + written * MAKE * rates.latency + within
                else:
                    requests = requests + written
            busy = busy + requests * rates.latency / facts.concurrency + stored / rates.bandwidth
            shared = stored / rates.bandwidth
            if rates.serial_read:
                shared = np.maximum(shared, decoded / rates.decode)
            share = np.ceil(tasks / facts.slots) / tasks if waves else 1 / facts.slots
            total += np.maximum(share * busy, shared / facts.workers) + tasks * rates.task
        return total
