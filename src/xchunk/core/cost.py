"""What work costs: rates, measured or assumed, and the time that counted work takes with them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from xchunk.core.grid import ceildiv
from xchunk.core.shown import Shown
from xchunk.core.units import format_bytes, format_seconds

#: What it takes to open a file that is there, and to make one, as parts of a request's latency,
#: where that is done without zarr. Measured on a local disk, with 20 to 550 kB in each: 15 to 30
#: and 30 to 480 microseconds, where a request through zarr takes 400.
OPEN, MAKE = 0.1, 0.5

#: Seconds of a request from which a store is far: tasks wait for it beside each other.
FAR = 0.005

#: Seconds of a processor for each request to a far store, which one event loop makes for all tasks
#: of a process. Measured with zarr 3.4: 0.25 to 0.4 milliseconds.
REQUEST = 0.0004

#: Seconds of a task where the threads of one process run it without a cluster's scheduler: measured
#: with graphs of 1,700 to 36,000 tasks.
LOCAL_TASK = 0.0003

#: Seconds of a request that are told apart.
_STEPS = (FAR, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

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

    @property
    def near_latency(self) -> float:
        """Seconds that a request takes at most where files of this machine are read and written."""
        return min(self.latency, Rates.latency)

    @classmethod
    def usual(cls, *, near: bool = True, latency: float | None = None) -> Rates:
        """The defaults, or for a store that is far those of an object store in the same region.

        Parameters
        ----------
        near : bool
            Whether the stores are on this machine, by what they are.
        latency : float, optional
            Seconds that a request was measured to take. They are taken in steps, so that the
            same plan is made when they are measured again.
        """
        rates = cls() if near else cls(latency=0.02, bandwidth=0.25e9)
        if latency is None or (near and latency < FAR):
            return rates
        steps = (abs(math.log(step / max(latency, FAR))) for step in _STEPS)
        return replace(rates, latency=_STEPS[min(enumerate(steps), key=lambda s: s[1])[0]])

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
        codec, and almost nothing with lz4, since only stored bytes are copied.
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

    def busy_seconds(self, rates: Rates, concurrency: float = 1) -> float:
        """Seconds of one thread that the work takes, waiting for requests included.

        With ``concurrency`` requests in flight at once a thread waits for all of them together.
        """
        return (
            self.decoded_bytes / rates.decode
            + self.encoded_bytes / rates.encode
            + self.scratch_read_bytes / rates.scratch_read
            + self.scratch_write_bytes / rates.scratch_write
            + (self.requests - self.opened - self.made) * rates.latency / concurrency
            + (self.opened * OPEN + self.made * MAKE) * rates.near_latency
            + self.runs * rates.run
            + self.stored_bytes(rates) / rates.bandwidth
        )

    def shared_seconds(self, rates: Rates, workers: int = 1) -> float:
        """Seconds that each worker takes for what its threads cannot do at the same time."""
        shared = self.stored_bytes(rates) / rates.bandwidth
        if rates.serial_read:
            shared = max(shared, self.decoded_bytes / rates.decode)
        return shared / max(1, workers)

    def seconds(
        self,
        rates: Rates,
        slots: int,
        *,
        workers: int = 1,
        concurrency: float = 1,
        cores: int | None = None,
    ) -> float:
        """Seconds on the clock with ``slots`` tasks at once, the idle last wave counted.

        Threads share what a worker has once only: its bandwidth, and the lock under which
        some libraries read. More of them do not make these faster. Nor do more tasks than
        ``cores`` compute faster: they wait for stores beside each other.
        """
        if self.tasks == 0:
            return 0.0
        each = self.busy_seconds(rates, concurrency) / self.tasks
        clock = max(waves(self.tasks, slots) * each, self.shared_seconds(rates, workers))
        if cores is not None:
            clock = max(clock, self.busy_seconds(replace(rates, latency=0)) / cores)
        return clock + self.tasks * rates.task

    def to_dict(self) -> dict[str, int]:
        """Return the counts as JSON types."""
        return asdict(self)


def waves(tasks: int, slots: int) -> int:
    """How many rounds of ``slots`` tasks at once it takes to run ``tasks`` of them."""
    return ceildiv(tasks, max(1, slots))


#: What one waits for: the store, the codec, a lock that lets one thread read at a time, or
#: what libraries do for each chunk however small it is.
Bottleneck: TypeAlias = Literal["store", "codec", "lock", "overhead"]

#: A second thread that is less help than this is no help.
HELPS = 1.4

_ADVICE = {
    "store": "Fewer and larger requests would help{threads}; a faster codec would not.",
    "codec": "A faster codec would help{threads}; a faster store would not.",
    "lock": "More processes of one thread each would help (threads_per_worker=1), or a copy in "
    "zarr, which has no such lock; more threads would not.",
    "overhead": "Larger chunks would help; a faster store or codec would not.",
}


@dataclass(frozen=True, repr=False)
class MeasuredRates(Shown, Rates, view="rates"):
    """Rates measured on a store; to be given as ``rates=`` wherever rates are taken."""

    variable: str = ""
    """Name of the variable that was read."""
    chunk: tuple[int, ...] = ()
    """Elements of what was read at once along each dim: a stored chunk where there are chunks."""
    chunk_nbytes: int = 0
    """Bytes of it after decoding, as stored."""
    codecs: tuple[str, ...] = ()
    """Names of the codecs."""
    format: str = ""
    """Format of the store."""
    samples: int = 0
    """How many of them were read."""
    nbytes: int = 0
    """Bytes that were read and written in all, decoded."""
    store_seconds: float = 0.0
    """Median time of one chunk that was spent on the store."""
    codec_seconds: float = 0.0
    """Median time of one chunk that was spent on decoding."""
    overhead_seconds: float = 0.0
    """Median time of one chunk that libraries take whatever its size."""
    speedup: float | None = None
    """How much faster two threads read than one; None: not measured."""

    @property
    def read_seconds(self) -> float:
        """Seconds that one thread takes for one chunk."""
        return self.store_seconds + self.codec_seconds + self.overhead_seconds

    @property
    def bottleneck(self) -> Bottleneck:
        """What one waits for."""
        if self.serial_read and self.overhead_seconds < self.read_seconds / 2:
            return "lock"
        spans: dict[Bottleneck, float] = {
            "store": self.store_seconds,
            "codec": self.codec_seconds,
            "overhead": self.overhead_seconds,
        }
        return max(spans, key=lambda name: spans[name])

    @property
    def why(self) -> str:
        """Say in words what one waits for, and what would help."""
        what = f"a chunk of {self.variable}" if self.codecs or self.format else "a chunk"
        spans = [
            ("the store", self.store_seconds),
            ("the codec" + (f" ({' + '.join(self.codecs)})" if self.codecs else ""), None),
            ("libraries", self.overhead_seconds),
        ]
        total = max(self.read_seconds, 1e-12)
        said = []
        for name, seconds in spans:
            took = self.codec_seconds if seconds is None else seconds
            if took >= 0.005 * total:
                said.append(f"{format_seconds(took)} on {name} ({took / total:.0%})")
        text = (
            f"Reading {what}, {format_bytes(self.chunk_nbytes)} decoded, takes one thread "
            f"{format_seconds(self.read_seconds)}: {', '.join(said)}. "
        )
        if self.speedup is not None:
            helps = "helps" if self.speedup >= HELPS else "helps little"
            helps = helps if self.speedup > 1 else "does not help"
            text += f"A second thread {helps}: two read {self.speedup:.1f} times as fast as one. "
        name = {"overhead": "what libraries do for each chunk"}.get(
            self.bottleneck, f"the {self.bottleneck}"
        )
        more = "" if self.speedup is not None and self.speedup < HELPS else ", and more threads"
        advice = _ADVICE[self.bottleneck].format(threads=more)
        return f"{text}It is {name} that one waits for. {advice}"

    def to_dict(self) -> dict[str, Any]:
        """Return the rates, how they were measured and what they say, as JSON types."""
        out = asdict(self)
        out["chunk"], out["codecs"] = list(self.chunk), list(self.codecs)
        return {**out, "bottleneck": self.bottleneck, "why": self.why}
