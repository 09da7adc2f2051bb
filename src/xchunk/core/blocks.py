"""What the blocks of one lazy pass take: memory and time, from counts alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xchunk._typing import DimChunk
from xchunk.core.access import HELD_COLUMNS, METHOD_COPIES, AccessPattern
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget

__all__ = ["LazyPass", "PassModel", "item_nbytes"]

#: Bytes held for each byte of a block while it is worked on: the block and what the
#: operation makes of it. Reading an aligned zarr block was measured at 2.0-2.3.
BLOCK_COPIES = 2.3

#: The same of an operation that copies much, as std and var of float32 do (7.5). Where what
#: is done with a block was not said, blocks leave room for it as far as that costs little.
MANY_COPIES = 7.6

#: The same of a rolling window: a block with its neighbours' ends, windows, and results as large
#: as the block. A worker of two threads was measured at 6.7 for each block of 47 MB of float32.
HALO_COPIES = 7.0

#: The same where stored chunks are split, whose decoded bytes come on top; measured at 2.7.
SPLIT_COPIES = 2.7

#: Chunks that zarr decodes at once within one task (``async.concurrency``).
ZARR_CONCURRENCY = 10

#: Root tasks that a dask worker is given for each of its threads
#: (``distributed.scheduler.worker-saturation``); those beyond its threads may hold a block.
SATURATION = 1.1

#: Bytes of a block below and above which dask works badly: the scheduler's cost shows, or a
#: worker's memory comes in too few pieces. The middle is about dask's own default.
SMALL_BLOCK, GOOD_BLOCK, LARGE_BLOCK = 32e6, 100e6, 256e6

#: Tasks of one pass beyond which the scheduler is what one waits for.
MANY_TASKS = 20_000

#: Tasks beyond which a pass is no answer at all.
MOST_TASKS = 1_000_000

#: Bytes of a string of any length in memory: a Python object and a short text.
STRING_NBYTES = 64

_PENALTY, _SPLIT_PENALTY, _CROWDED, _LEANING = 1.0, 0.25, 0.6, 0.01


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
    tasks: int
    """Number of blocks."""
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
    def is_coded(self) -> bool:
        """Whether chunks have to be decoded; if not, they are only read."""
        return bool(self.layout.codecs)

    @property
    def is_serial(self) -> bool:
        """Whether a lock lets one thread of a process read at a time, as HDF5's does."""
        return self.layout.format in ("netcdf4", "hdf5") or (
            self.rates.serial_read and self.layout.format not in ("memory", "dask")
        )

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
        encoded = self.compression if v.codecs else 0.0
        at_once = ZARR_CONCURRENCY if v.format.startswith("zarr") else 1
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
        split = np.maximum(in_flight + SPLIT_COPIES * block, self.copies * block)
        whole = max(self.copies, BLOCK_COPIES) * block
        return np.where(splits, np.maximum(reading, split), np.maximum(reading, whole))

    @property
    def twice(self) -> tuple[str, ...]:
        """Dims that the operation goes over twice."""
        return tuple(d for d, m in self.pattern.methods.items() if m in HELD_COLUMNS)

    def worker_mem(self, task: Any, elements: Any, column: Any) -> Any:
        """Bytes by which a worker grows: its running tasks, and finished blocks that wait.

        A reduction is fused with the reading of its blocks, so that none of them wait; unless it
        goes over a dim twice. ``column`` counts the elements of all blocks along those dims.
        """
        threads = max(1, self.budget.threads)
        waiting = 0 if self.pattern.reduces else math.ceil(SATURATION * threads) - threads
        columns = max((HELD_COLUMNS[self.pattern.methods[d]] for d in self.twice), default=0.0)
        again = np.where(column > elements, columns * column, 0.0)
        return threads * task + (waiting * elements + again) * item_nbytes(self.layout.dtype)

    def seconds(self, tasks: Any, decoded: Any, requests: Any, runs: Any) -> Any:
        """Seconds on the clock of a pass, the idle last wave counted.

        Parameters
        ----------
        tasks, decoded, requests, runs : int or array
            Blocks, elements decoded, requests to the store, and runs of contiguous bytes.
        """
        v, r = self.layout, self.rates
        raw = decoded * item_nbytes(v.stored_dtype)
        in_memory = v.format == "memory"
        decode = raw / (r.decode if v.codecs else r.copy)
        fetch = 0.0 if in_memory else raw * self.compression / r.bandwidth
        wait = 0.0 if in_memory else requests * r.latency + runs * r.run
        read = decode + fetch + wait
        # one copy out of the chunks, and for unpacked values masking and scaling
        copies = 1 if v.dtype == v.stored_dtype else 3
        work = copies * self.nbytes / r.copy
        each = np.ceil(tasks / self.budget.slots) / tasks
        # What a worker has once only, more threads do not make faster: bandwidth, and a lock.
        shared = np.maximum(fetch, decode) if self.is_serial else fetch
        reading = np.maximum(read * each, shared / max(1, self.budget.workers))
        return reading + work * each + tasks * r.task

    def rank(self, seconds: Any, tasks: Any, elements: Any, splits: Any = False) -> Any:
        """Make the time longer where blocks are of an awkward size, or too many.

        Size says less where chunks are split: each doubling saves a decoding of everything.
        """
        block = self.nbytes / tasks
        awkward = (
            np.maximum(0, np.log2(SMALL_BLOCK / block))
            + np.maximum(0, np.log2(block / LARGE_BLOCK))
            + np.maximum(0, np.log2(tasks / MANY_TASKS))
        )
        penalty = np.where(splits, _SPLIT_PENALTY, _PENALTY)
        leaning = _LEANING * np.abs(np.log2(block / GOOD_BLOCK))
        crowded = np.where(splits, 0.0, _CROWDED * self.crowding(elements))
        return seconds * (1 + penalty * awkward + crowded + leaning)
