"""What work costs: rates, and the time that counted work takes with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from xchunk.core.grid import ceildiv

__all__ = ["MAKE", "OPEN", "Rates", "Work", "waves"]

#: What it takes to open a file that is there, and to make one, as parts of a request's latency,
#: where that is done without zarr. Measured on a local disk, with 20 to 550 kB in each: 15 to 30
#: and 30 to 480 microseconds, where a request through zarr takes 400.
OPEN, MAKE = 0.1, 0.5

#: How often more the stored bytes of a shard are moved in memory, each way, than plain pieces.
SHARD_MOVES = 4


@dataclass(frozen=True)
class Rates:
    """How fast one worker thread, its store and the scheduler are.

    The defaults are those of a laptop with a local disk and a fast codec (zstd, lz4).
    They decide between plans, which needs their proportions only; measured rates make the
    predicted times right too.
    """

    decode: float = 1.0e9
    """Bytes decoded a second by one thread, counted after decoding."""
    encode: float = 0.5e9
    """Bytes encoded a second by one thread, counted before encoding."""
    scratch_write: float = 0.8e9
    """Bytes written a second by one thread to the scratch array."""
    scratch_read: float = 1.6e9
    """Bytes read a second by one thread from the scratch array."""
    copy: float = 4.0e9
    """Bytes moved a second by one thread in memory."""
    latency: float = 0.0004
    """Seconds from a request to its first byte, the store's and the library's part together."""
    bandwidth: float = 2.0e9
    """Bytes a second to and from the store, all threads of a worker together."""
    task: float = 0.001
    """Seconds of scheduler time for one task; not divided among workers."""
    compression: float = 0.5
    """Stored bytes for each decoded byte, where the store does not tell."""
    serial_read: bool = False
    """Whether a lock lets one thread of a process read at a time (HDF5, netCDF)."""
    run: float = 0.00001
    """Seconds for one contiguous run of an array that is not chunked, or one piece within a file
    of many, besides its bytes."""
    pack: float = 1.0e9
    """Bytes a second that one thread compresses with lz4, for a compressed scratch array."""
    unpack: float = 2.0e9
    """Bytes a second that one thread decompresses from lz4, counted after decompression."""
    scratch_ratio: float = 1.0
    """Bytes in the scratch store for each byte of a piece; below 1 where it is compressed."""

    @classmethod
    def usual(cls, *, near: bool = True) -> Rates:
        """The defaults, or for a store that is far those of an object store in the same region."""
        return cls() if near else cls(latency=0.02, bandwidth=0.25e9)

    def with_packed_scratch(self) -> Rates:
        """Return the rates of a scratch array in lz4, which packs about as well as the store."""
        ratio = min(1.0, self.compression)
        return replace(
            self,
            scratch_write=1 / (1 / self.pack + ratio / self.scratch_write),
            scratch_read=1 / (1 / self.unpack + ratio / self.scratch_read),
            scratch_ratio=ratio,
        )

    def with_sharded_scratch(self) -> Rates:
        """Return the rates of a scratch array in shards, whose stored bytes are copied more often.

        Measured on a local disk: 1.8 against 1.45 times the codec's own time without a
        codec, and hardly anything with lz4, since only stored bytes are copied.
        """
        extra = SHARD_MOVES * self.scratch_ratio / self.copy
        return replace(
            self,
            scratch_write=1 / (1 / self.scratch_write + extra),
            scratch_read=1 / (1 / self.scratch_read + extra),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the rates as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """Counted work; sums of it are predictions for stages, plans and candidates."""

    tasks: int = 0
    """Tasks that the scheduler handles."""
    decodes: int = 0
    """Stored chunks decoded, each as often as it is."""
    encodes: int = 0
    """Chunks encoded."""
    decoded_bytes: int = 0
    """Bytes that come out of decoding."""
    encoded_bytes: int = 0
    """Bytes that go into encoding."""
    scratch_read_bytes: int = 0
    """Bytes read from scratch arrays."""
    scratch_write_bytes: int = 0
    """Bytes written to scratch arrays."""
    requests: int = 0
    """Requests to stores, reading and writing; metadata not counted."""
    opened: int = 0
    """Those of the requests that open a file of scratch, without a way through zarr."""
    made: int = 0
    """Those of the requests that make a file of scratch, without a way through zarr."""
    objects: int = 0
    """Objects (files) written."""
    runs: int = 0
    """Contiguous runs read from an array that is not chunked, and pieces within a file of many."""

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[int, ...]:
        return (
            self.tasks,
            self.decodes,
            self.encodes,
            self.decoded_bytes,
            self.encoded_bytes,
            self.scratch_read_bytes,
            self.scratch_write_bytes,
            self.requests,
            self.opened,
            self.made,
            self.objects,
            self.runs,
        )

    def stored_bytes(self, rates: Rates) -> float:
        """Bytes that go to and from stores, after codecs."""
        moved = self.scratch_read_bytes + self.scratch_write_bytes
        values = self.decoded_bytes + self.encoded_bytes
        return values * rates.compression + moved * rates.scratch_ratio

    def busy_seconds(self, rates: Rates, concurrency: int = 1) -> float:
        """Seconds of one thread that the work takes, waiting for requests included.

        With ``concurrency`` requests in flight at once a thread waits for all of them together.
        """
        return (
            self.decoded_bytes / rates.decode
            + self.encoded_bytes / rates.encode
            + self.scratch_read_bytes / rates.scratch_read
            + self.scratch_write_bytes / rates.scratch_write
            + (self.requests - self.opened - self.made) * rates.latency / concurrency
            + (self.opened * OPEN + self.made * MAKE) * rates.latency
            + self.runs * rates.run
            + self.stored_bytes(rates) / rates.bandwidth
        )

    def shared_seconds(self, rates: Rates, workers: int = 1) -> float:
        """Seconds that each worker takes for what its threads cannot do at the same time."""
        shared = self.stored_bytes(rates) / rates.bandwidth
        if rates.serial_read:
            shared = max(shared, self.decoded_bytes / rates.decode)
        return shared / max(1, workers)

    def seconds(self, rates: Rates, slots: int, *, workers: int = 1, concurrency: int = 1) -> float:
        """Seconds on the clock with ``slots`` tasks at once, the idle last wave counted.

        Threads share what a worker has once only: its bandwidth, and the lock under which
        some libraries read. More of them do not make these faster.
        """
        if self.tasks == 0:
            return 0.0
        each = self.busy_seconds(rates, concurrency) / self.tasks
        clock = max(waves(self.tasks, slots) * each, self.shared_seconds(rates, workers))
        return clock + self.tasks * rates.task

    def to_dict(self) -> dict[str, int]:
        """Return the counts as JSON types."""
        return asdict(self)


def waves(tasks: int, slots: int) -> int:
    """How many rounds of ``slots`` tasks at once it takes to run ``tasks`` of them."""
    return ceildiv(tasks, max(1, slots))
