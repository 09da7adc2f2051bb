"""Memory as a contract: what one worker may grow by, and what one task takes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xchunk.core.shown import Shown
from xchunk.core.units import format_bytes
from xchunk.errors import MemoryBudgetError

#: dask's ``distributed.worker.memory`` defaults: fractions of a worker's limit.
TARGET, SPILL, PAUSE, TERMINATE = 0.60, 0.70, 0.80, 0.95


@dataclass(frozen=True, repr=False)
class MemoryBudget(
    Shown,
    view="budget",
    keys="max_mem per_task threads workers memory fraction reserved origin",
):
    """What the tasks of one worker may take together.

    Make one with `of_memory` or `of_growth`. ``max_mem`` is the number that everything
    else uses: ``per_task`` divides it among the tasks that run at once.
    """

    max_mem: int
    """Bytes by which one worker may grow at its peak, all its tasks together."""
    threads: int = 1
    """Tasks that one worker runs at once."""
    workers: int = 1
    """Workers that run tasks."""
    memory: int | None = None
    """Bytes of one worker's limit; None where ``max_mem`` was given as it is."""
    fraction: float = TARGET
    """The part of the limit that is used."""
    reserved: int = 0
    """Bytes that the worker holds before any data."""
    origin: str = "given"
    """Where the numbers come from, in words."""
    running: bool = False
    """Whether the threads are those of workers that run already, and so hard to change."""

    @classmethod
    def of_memory(
        cls,
        memory: int,
        *,
        reserved: int,
        threads: int = 1,
        workers: int = 1,
        fraction: float = TARGET,
        origin: str = "given",
    ) -> MemoryBudget:
        """Derive the growth from the limit of a worker: ``fraction * memory - reserved``.

        Raises
        ------
        MemoryBudgetError
            If the process alone takes more than the fraction of the limit.
        """
        growth = int(fraction * memory) - reserved
        if growth <= 0:
            raise MemoryBudgetError(
                f"memory={format_bytes(memory)} leaves nothing for data: {fraction:.0%} of it is "
                f"{format_bytes(fraction * memory)}, and the process holds "
                f"{format_bytes(reserved)} before any data. Give a worker more than "
                f"{format_bytes(reserved / fraction)}, "
                "or say with max_mem by how much it may grow.",
                needed=reserved + 1,
                allowed=int(fraction * memory),
                smallest=1,
            )
        return cls(growth, threads, workers, memory, fraction, reserved, origin)

    @classmethod
    def of_growth(
        cls, max_mem: int, *, threads: int = 1, workers: int = 1, origin: str = "max_mem"
    ) -> MemoryBudget:
        """Take the growth as it is given."""
        return cls(max_mem, threads, workers, origin=origin)

    @property
    def per_task(self) -> int:
        """Bytes that one task may hold at its peak when every thread is busy."""
        return self.max_mem // max(1, self.threads)

    @property
    def slots(self) -> int:
        """Tasks that run at once on all workers."""
        return max(1, self.threads * self.workers)

    def with_threads(self, threads: int) -> MemoryBudget:
        """Return the same growth shared by another number of tasks at once."""
        return replace(self, threads=threads)

    def fraction_of_limit(self, growth: int) -> float | None:
        """Report which part of the worker's limit it would fill by growing so much."""
        return None if self.memory is None else (self.reserved + growth) / self.memory


# What a copy task holds for each byte of a unit in flight, its box not counted. Measured in
# fresh processes: peak growth while a box of 2 and of 16 units of random float32, which
# compress badly, was read and written, with zarr-python 3.1 and 3.4; rounded up.

#: A chunk that is decoded: its encoded bytes, at worst as many, and its decoded bytes (1.9).
DECODE_COPIES = 2.0

#: A chunk or piece without a codec: the bytes as they were read are the values (1.0).
PLAIN_READ_COPIES = 1.1

#: The encoded bytes of a chunk that a far store sends: they wait until they are decoded into the
#: box, one chunk after the other (1.0).
FETCH_COPIES = 1.1

#: A chunk that is encoded by its task and sent while the next one is: its encoded bytes. Besides
#: them one chunk is held twice, while it is encoded (1.0).
PUT_COPIES = 1.1

#: A piece without a codec in a file that is read and written without zarr: the memory in which
#: it is put together, where it does not lie in the box as it is stored (1.0).
FILE_COPIES = 1.1

#: A unit that is encoded: a contiguous copy of its values, and what comes out (1.9).
ENCODE_COPIES = 2.2

#: A unit without a codec: the contiguous copy, and in format 2 the bytes of it (1.0 and 2.0).
PLAIN_WRITE_COPIES = 2.1

#: A shard: its encoded inner chunks, and the object in which they are joined (2.0).
SHARD_COPIES = 2.2

#: What is sent by a file system of fsspec: the encoded bytes, a copy of them as Python's bytes,
#: and the body of the request. Measured with s3fs, 40 puts of 0.3 to 2.6 MB (3.0 to 3.1).
SENT_COPIES = 3.2

#: Python's gzip and zlib grow their output step by step, and copy it (3.9 and 2.9).
GZIP_READ_COPIES, GZIP_WRITE_COPIES = 4.0, 3.0

#: Units that zarr holds besides those in work, where it has no fused pipeline: the next ones
#: are fetched, and the last ones let go, while one is decoded (3 times one unit's bytes).
QUEUED = 2

#: What a task takes whatever its size: its thread's stack and heap, in which freed chunks
#: leave holes, codec contexts, open files.
TASK_OVERHEAD = 2_500_000

#: Bytes of one task in the process that builds and schedules a graph: measured at 2.1 to 2.5
#: thousand with graphs of 5,000 to 50,000 tasks.
TASK_NBYTES = 2_300

#: The same where no codec is at work and zarr has no part: measured at less than half of it.
RAW_TASK_OVERHEAD = 1_000_000

#: What a process takes once it copies at all, whatever its tasks: the threads of zarr's event
#: loop, libraries that are loaded on first use, holes in its heap. Measured: 1 to 2 MB.
PROCESS_OVERHEAD = 3_000_000

#: What a process takes besides where a store is reached through s3fs: a client for each file
#: system (1.5 MB), connections, and what a first rechunk loads. Measured in a process that had
#: read metadata of the source: 17.6 MB before the first box, 13.5 MB through obstore.
S3FS_OVERHEAD = 12_000_000

#: The same where a store is reached through obstore: its client, and buffers of its connections.
#: Measured: 55 to 62 MB where 60 were allowed and this was not counted, in 20 fresh processes.
OBSTORE_OVERHEAD = 5_000_000

#: The descriptions of AWS's services, which botocore reads with the first request of a process,
#: and all clients of ours share. Measured: 15 MB.
S3FS_DESCRIPTIONS = 15_000_000


def codec_copies(codecs: Sequence[str]) -> tuple[float, float]:
    """Return what zarr holds for each byte of a chunk in flight, reading and writing it.

    ``codecs`` are the names of compressors and filters; none: uncompressed.
    """
    names = [name.lower() for name in codecs]
    if any("gzip" in name or "zlib" in name for name in names):
        return GZIP_READ_COPIES, GZIP_WRITE_COPIES
    return (DECODE_COPIES, ENCODE_COPIES) if names else (PLAIN_READ_COPIES, PLAIN_WRITE_COPIES)


#: The most requests of a task that are on their way at once.
IN_FLIGHT = 64


@dataclass(frozen=True)
class TaskRequests:
    """What the requests of one task may hold that are on their way to and from far stores."""

    nbytes: int = 0
    """Bytes of all together."""
    read: int = 0
    """Bytes that a read holds until it is decoded."""
    write: int = 0
    """Bytes that a write holds while it is encoded, at most."""
    copies: float = 0.0
    """Bytes that a write holds for each encoded byte that it sends."""
    spare: int = 0
    """Bytes that are held besides while one is decoded or encoded."""

    @property
    def shared(self) -> int:
        """Bytes that requests of all tasks share, for each that holds a box."""
        return max(0, self.nbytes - self.spare)


@dataclass(frozen=True)
class CopyBuffers:
    """The buffers of one copy task, and so its peak.

    A task holds its box, and besides it the chunks in flight: while reading, the encoded
    and the decoded bytes of source chunks; while writing, a contiguous copy and the encoded
    bytes of target units. Reading and writing do not overlap within a task, so the larger of
    the two counts.
    """

    box: int
    """Bytes of the box."""
    read_unit: int
    """Bytes of one source chunk, decoded; for an array without chunks, what is read at once."""
    write_unit: int
    """Bytes of one target unit (shard, or chunk where there is none)."""
    queued: tuple[int, int] = (0, 0)
    """Chunks that are held besides those that are on their way, reading and writing."""
    flight: int = 0
    """Bytes that requests may hold that are on their way at once; 0: one after the other."""
    read_copies: float = DECODE_COPIES
    """Bytes held for each byte of a source chunk in flight: encoded and decoded."""
    write_copies: float = ENCODE_COPIES
    """Bytes held for each byte of a target unit in flight: the copy and the encoder's bound."""
    overhead: int = 0
    """Bytes that the task holds whatever the size of its box."""

    @property
    def reads(self) -> int:
        """Chunks that are read at once."""
        return self._at_once(self.read_copies * self.read_unit, self.queued[0])

    @property
    def writes(self) -> int:
        """Units that are written at once."""
        return self._at_once(self.write_copies * self.write_unit, self.queued[1])

    @property
    def requests(self) -> TaskRequests:
        """What requests to far stores may hold."""
        read, write = self.read_copies * self.read_unit, self.write_copies * self.write_unit
        return TaskRequests(
            int(self.in_flight),
            int(read),
            int(write),
            self.write_copies,
            # while one is decoded it is not on its way; while one is encoded, its values are held
            int(max(read * self.queued[0], write * self.queued[1])),
        )

    def _at_once(self, each: float, queued: int) -> int:
        return min(IN_FLIGHT, max(1, math.floor(self.flight / max(1, each)) - queued))

    @property
    def in_flight(self) -> float:
        """Bytes that are held at once for chunks that are read or written."""
        return max(
            self.flight,
            self.read_copies * self.read_unit * (1 + self.queued[0]),
            self.write_copies * self.write_unit * (1 + self.queued[1]),
        )

    @property
    def projected_mem(self) -> int:
        """Bytes by which the process grows at the peak of one task."""
        return int(self.box + self.in_flight) + self.overhead
