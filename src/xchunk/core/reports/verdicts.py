"""What was seen of a computation while it ran, what it suffers from, and what to change.

All is judged by shares of the threads' time, never by seconds, so that a slow or busy machine
does not change the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from xchunk.core.cost import MeasuredRates
from xchunk.core.memory import TARGET
from xchunk.core.shown import Shown, ToDict
from xchunk.core.units import format_bytes, format_count, format_seconds

#: As on dask's dashboard: ``transfer`` is red there, ``spill`` orange.
Action: TypeAlias = Literal["compute", "transfer", "spill", "deserialize"]

#: Seconds of a task from which on it is work, rather than the end of some.
_WORTH = 0.02


@dataclass(frozen=True, slots=True)
class Span:
    """One rectangle of the task stream."""

    worker: int
    """Number of the worker."""
    lane: int
    """Number of the thread, over all workers."""
    name: str
    """What the task is called, without its token."""
    action: Action
    """What was done."""
    start: float
    """Seconds since the first task began."""
    stop: float
    """Seconds since the first task began."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, self.stop - self.start)


@dataclass(frozen=True, slots=True)
class MemorySample:
    """The memory of one worker at one moment."""

    worker: int
    """Number of the worker."""
    time: float
    """Seconds since the first task began."""
    rss: int
    """Bytes that the process holds."""
    managed: int | None = None
    """Bytes of results that dask knows of; None where it does not tell."""
    spilled: int = 0
    """Bytes that lie on disk."""
    paused: bool = False
    """Whether the worker takes no new tasks for want of memory."""


@dataclass(frozen=True)
class WorkerSeen:
    """One worker, or this process where there is no cluster."""

    name: str
    """Its name or address."""
    threads: int
    """Tasks that it runs at once."""
    limit: int | None = None
    """Bytes that it may hold; None: no limit is known."""


@dataclass(frozen=True)
class Record:
    """All that was seen."""

    scheduler: Literal["threads", "processes", "synchronous", "cluster", "none"]
    """What ran the tasks."""
    workers: tuple[WorkerSeen, ...]
    """The workers."""
    spans: tuple[Span, ...]
    """The task stream."""
    memory: tuple[MemorySample, ...] = ()
    """The memory of the workers."""
    states: Mapping[str, float] = field(default_factory=dict)
    """Seconds of tasks' threads by what they did, as samples of their stacks tell."""
    tasks: int = 0
    """Tasks that ended."""
    elapsed: float = 0.0
    """Seconds from the first task's begin to the last one's end."""
    cpu: float = 0.0
    """Seconds of CPU time of the workers' processes."""
    starved: float = 0.0
    """Seconds in which threads could have run, but waited for a processor."""
    crowded: float = 0.0
    """Those of them in which other processes had it."""
    gil: float = 0.0
    """Part of the samples for which the interpreter's lock had to be waited for."""
    own: float = 0.0
    """Seconds of CPU time that watching took, in the same processes."""
    transferred: int = 0
    """Bytes that workers received from each other."""
    spilled: int = 0
    """Bytes that were written to disk for want of memory, over the whole time."""
    restarts: int = 0
    """Workers that died or were restarted."""
    failed: int = 0
    """Tasks that failed."""
    lost: int = 0
    """Tasks of which the scheduler no longer had the times."""
    decoded: int = 0
    """Bytes of stored chunks that the tasks asked for, each as often as they did; 0: not known."""
    distinct: int = 0
    """The same, each chunk once."""
    codecs: tuple[str, ...] = ()
    """Names of the codecs of the array of which most was decoded."""

    @property
    def slots(self) -> int:
        """Tasks that all workers run at once."""
        return max(1, sum(w.threads for w in self.workers))


@dataclass(frozen=True)
class Facts(ToDict):
    """The numbers that a judgement is made of; seconds are those of threads, summed."""

    scheduler: str = "threads"
    """What ran the tasks."""
    slots: int = 1
    """Tasks that run at once."""
    workers: int = 1
    """Workers."""
    threads: int = 1
    """Threads of the worker with the most."""
    tasks: int = 0
    """Tasks that ended."""
    elapsed: float = 0.0
    """Seconds on the clock."""
    compute: float = 0.0
    """Seconds in which tasks ran."""
    handed: float = 0.0
    """Seconds from handing tasks to threads to having them back."""
    transfer: float = 0.0
    """Seconds in which workers waited for results of others."""
    spill: float = 0.0
    """Seconds in which results were written to disk, or read back."""
    states: Mapping[str, float] = field(default_factory=dict)
    """Seconds of tasks' threads by what they did."""
    cpu: float = 0.0
    """Seconds of CPU time."""
    starved: float = 0.0
    """Seconds in which threads could have run, but waited for a processor."""
    crowded: float = 0.0
    """Those of them in which other processes had it."""
    gil: float = 0.0
    """Part of the time for which the interpreter's lock was taken."""
    longest: float = 0.0
    """Seconds of the longest task."""
    longest_name: str = ""
    """What it is called."""
    usual: float = 0.0
    """Median seconds of the tasks of its name."""
    substantial: int = 0
    """Tasks that each took a tenth of the time or more, or a fair part of the work."""
    alone: float = 0.0
    """Seconds on the clock in which one thread worked and all others waited."""
    uneven: float = 1.0
    """Busy seconds of the busiest worker by those of the average one."""
    transferred: int = 0
    """Bytes between workers."""
    spilled: int = 0
    """Bytes written to disk for want of memory."""
    fullest: float | None = None
    """The fullest worker's memory by its limit, at most; None: no limit is known."""
    limit: int | None = None
    """Bytes that a worker may hold."""
    least: int = 0
    """Bytes that a worker held when it held least: no smaller one could run; 0: not known."""
    unmanaged: float | None = None
    """Part of the fullest worker's memory that dask knows nothing of; None: not told."""
    paused: float = 0.0
    """Seconds in which workers were paused."""
    restarts: int = 0
    """Workers that died or were restarted."""
    rates: MeasuredRates | None = None
    """What a probe measured, where one was given."""
    decoded: int = 0
    """Bytes of stored chunks that the tasks asked for, each as often as they did; 0: not known."""
    distinct: int = 0
    """The same, each chunk once."""
    codecs: tuple[str, ...] = ()
    """Names of the codecs of the array of which most was decoded."""
    held: int = 0
    """Bytes of results that all workers held, in memory and on disk, where each held most."""

    @property
    def total(self) -> float:
        """Seconds of all threads together."""
        return max(1e-9, self.elapsed * self.slots)

    @property
    def idle(self) -> float:
        """Part of the threads' time in which they had nothing to do."""
        busy = min(self.total, self.compute + self.transfer + self.spill)
        return 1 - busy / self.total

    @property
    def mean(self) -> float:
        """Seconds of the average task."""
        return max(self.compute, self.handed) / self.tasks if self.tasks else 0.0

    @property
    def taken(self) -> float:
        """Part of the time in which threads could run, in which other processes ran instead."""
        could = self.cpu + self.starved
        return min(1.0, self.crowded / could) if could > 0 else 0.0

    def doing(self, *states: str) -> float:
        """Part of the tasks' time that their threads spent so; 0 where no sample was taken."""
        total = sum(self.states.values())
        return sum(self.states.get(s, 0.0) for s in states) / total if total > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return {**super().to_dict(), "idle": self.idle, "taken": self.taken, "mean": self.mean}


def facts_of(record: Record, rates: MeasuredRates | None = None) -> Facts:
    """Draw from a record what a judgement needs."""
    work = [s for s in record.spans if s.action in ("compute", "deserialize")]
    compute = handed = sum(s.seconds for s in work)
    sampled = sum(record.states.values())
    if record.scheduler == "threads" and compute < _WORTH * record.tasks:
        # a local scheduler's short spans also hold what it takes to hand tasks over
        compute = min(compute, sampled)
    longest = max(work, key=lambda s: s.seconds, default=None)
    same = [s.seconds for s in work if longest is not None and s.name == longest.name]
    fullest, limit, unmanaged = _fullest(record)
    floor = max(_WORTH, 0.1 * record.elapsed)
    return Facts(
        scheduler=record.scheduler,
        slots=record.slots,
        workers=len(record.workers),
        threads=max((w.threads for w in record.workers), default=1),
        tasks=record.tasks,
        elapsed=record.elapsed,
        compute=compute,
        handed=handed,
        transfer=_seconds(record.spans, "transfer"),
        spill=_seconds(record.spans, "spill"),
        states=dict(record.states),
        cpu=record.cpu,
        starved=record.starved,
        crowded=record.crowded,
        gil=record.gil,
        longest=0.0 if longest is None else longest.seconds,
        longest_name="" if longest is None else longest.name,
        usual=float(np.median(same)) if same else 0.0,
        substantial=sum(s.seconds >= floor for s in work),
        alone=_alone(work),
        uneven=_uneven(work, len(record.workers)),
        decoded=record.decoded,
        distinct=record.distinct,
        codecs=record.codecs,
        held=_held(record),
        transferred=record.transferred,
        spilled=record.spilled,
        fullest=fullest,
        limit=limit,
        least=min((m.rss for m in record.memory), default=0),
        unmanaged=unmanaged,
        paused=_paused(record.memory),
        restarts=record.restarts,
        rates=rates,
    )


def _seconds(spans: Sequence[Span], action: Action) -> float:
    return sum(s.seconds for s in spans if s.action == action)


def _alone(work: Sequence[Span]) -> float:
    """Seconds in which exactly one task ran."""
    moments = sorted([(s.start, 1) for s in work] + [(s.stop, -1) for s in work])
    total, running, last = 0.0, 0, 0.0
    for moment, change in moments:
        if running == 1:
            total += moment - last
        running += change
        last = moment
    return total


def _uneven(work: Sequence[Span], workers: int) -> float:
    busy = [0.0] * max(1, workers)
    for s in work:
        busy[s.worker] += s.seconds
    mean = sum(busy) / len(busy)
    return max(busy) / mean if mean > 0 else 1.0


def _fullest(record: Record) -> tuple[float | None, int | None, float | None]:
    """How full the fullest worker was, its limit, and the part that dask knows nothing of."""
    best: tuple[float, MemorySample, int] | None = None
    for sample in record.memory:
        limit = record.workers[sample.worker].limit
        if limit and (best is None or sample.rss / limit > best[0]):
            best = (sample.rss / limit, sample, limit)
    if best is None:
        return None, next((w.limit for w in record.workers if w.limit), None), None
    part, sample, limit = best
    unmanaged = None
    if sample.managed is not None and sample.rss:
        unmanaged = max(0.0, 1 - sample.managed / sample.rss)
    return part, limit, unmanaged


def _held(record: Record) -> int:
    """Bytes of results at the moments at which each worker held most; of a process, its growth."""
    least: dict[int, int] = {}
    most: dict[int, int] = {}
    for s in record.memory:
        least[s.worker] = min(s.rss, least.get(s.worker, s.rss))
        held = (s.rss - least[s.worker] if s.managed is None else s.managed) + s.spilled
        most[s.worker] = max(held, most.get(s.worker, 0))
    return sum(most.values())


def _paused(samples: Sequence[MemorySample]) -> float:
    total = 0.0
    last: dict[int, MemorySample] = {}
    for sample in samples:
        before = last.get(sample.worker)
        if before is not None and before.paused:
            total += max(0.0, sample.time - before.time)
        last[sample.worker] = sample
    return total


SymptomName: TypeAlias = Literal[
    "workers-lost", "spilling", "memory", "one-chunk", "too-few-tasks", "too-many-tasks",
    "unbalanced", "transfer-bound", "lock-bound", "gil-bound", "overhead-bound",
    "io-bound", "codec-bound",
    "decoded-again", "idle", "healthy", "nothing",
]  # fmt: skip


@dataclass(frozen=True)
class Symptom(ToDict):
    """One thing that a computation suffers from."""

    name: SymptomName
    """What it is called."""
    share: float
    """Part of the threads' time that it takes."""
    what: str
    """What was seen."""
    means: str
    """What that means."""
    remedy: str
    """What to change."""
    code: str
    """The change as code."""


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown, view="diagnosis", keys="verdict is_crowded symptoms notes"):
    """What was found, the gravest first."""

    symptoms: tuple[Symptom, ...]
    """At least one: where nothing is wrong, it is ``healthy``."""
    notes: tuple[str, ...] = ()
    """What else is to be known."""
    is_crowded: bool = False
    """Whether other processes had the processors for much of the time."""

    @property
    def verdict(self) -> SymptomName:
        """The name of the gravest symptom."""
        return self.symptoms[0].name

    @property
    def title(self) -> str:
        """The verdict in words."""
        return f"{self.verdict}, on a busy machine" if self.is_crowded else self.verdict

    def __str__(self) -> str:
        said = [f"{s.name}: {s.what} {s.means} {s.remedy}" for s in self.symptoms]
        code = ["    " + s.code.replace("\n", "\n    ") for s in self.symptoms]
        pairs = [f"{a}\n\n{b}" for a, b in zip(said, code, strict=True)]
        return "\n\n".join([*pairs, *self.notes])


#: Parts of the time from which on something is a symptom.
_SPILL, _TRANSFER, _LOCK, _GIL, _READ, _IDLE, _ALONE = 0.03, 0.25, 0.2, 0.3, 0.45, 0.35, 0.3

#: Times that each stored chunk is decoded, and bytes that are decoded in vain, from which on it is
#: told.
_AGAIN, _IN_VAIN = 1.5, 10_000_000

#: Part of the time in which threads could run, from which on others' running instead is told.
_CROWDED = 0.25

#: Processors that a process keeps busy, from which on its one thread for reading is the limit.
_SATURATED = 0.7

#: Tasks of a process that run at once, and the processors that they get if only one can.
_AT_ONCE, _ONE = 1.4, 1.2

#: Part of the tasks at once that a processor is wanted for, beyond which no lock holds them up;
#: and for which part of the looks the lock is taken where processors are known to be waited for.
_WANTED, _GIL_BUSY = 0.88, 0.2

#: Seconds of a task below which the scheduler shows: dask itself takes about a millisecond.
_TINY = 0.03

#: Bytes by which a worker has to be able to grow for smaller blocks to be of use.
_ROOM = 20_000_000
#: Part of the gravest symptom's time that another has to take to be told beside it.
_BESIDE = 0.2

#: Part of what was read that is held at once, from which on smaller blocks are of no use.
_KEPT = 0.5

#: Codecs that decode as fast as any.
_FAST = ("zstd", "lz4", "blosc")

#: Tasks for each thread from which on there are many.
_MANY = 100


def diagnose(facts: Facts) -> Diagnosis:
    """Judge what was seen.

    - returns: the symptoms: what is a cause of others first, then by the time that they take.
    """
    if not facts.tasks:
        return Diagnosis((_NOTHING,), _notes(facts))
    crowded = facts.taken > _CROWDED
    causes = [s for rule in _CAUSES if (s := rule(facts)) is not None]
    others = [s for rule in _RULES if (s := rule(facts)) is not None]
    others.sort(key=lambda s: -s.share)
    # beside the gravest, what takes little would only distract, and rests on few looks
    others = [s for s in others if s.share >= _BESIDE * others[0].share]
    found = (*causes, *others) or (_rest(facts),)
    return Diagnosis(tuple(found), _notes(facts), is_crowded=crowded)


def _lost(f: Facts) -> Symptom | None:
    if not f.restarts:
        return None
    limit = "" if f.limit is None else f" of {format_bytes(f.limit)}"
    return Symptom(
        "workers-lost",
        1.0,
        f"{f.restarts} {'worker' if f.restarts == 1 else 'workers'} died and had to be replaced.",
        f"The usual cause is memory: a nanny ends a worker at 95 % of its limit{limit}, and "
        "what it held is computed again.",
        *_less_memory(f, "Give tasks smaller blocks, or workers more memory or fewer threads."),
    )


def _spilling(f: Facts) -> Symptom | None:
    written = f.spilled / (f.limit * f.workers) if f.limit else 0.0
    share = max(f.spill / f.total, f.paused / max(1e-9, f.elapsed * f.workers))
    if share < _SPILL and written < 0.1:
        return None
    parts = []
    if f.spilled:
        parts.append(f"{format_bytes(f.spilled)} were written to disk")
    if f.spill:
        parts.append(f"{f.spill / f.total:.0%} of the threads' time went into it (orange)")
    if f.paused:
        parts.append(f"workers were paused for {format_seconds(f.paused)}")
    full = "" if f.fullest is None else f" The fullest worker reached {f.fullest:.0%} of its limit."
    known = ""
    if f.unmanaged is not None and f.unmanaged > 0.6:
        known = (
            f" {f.unmanaged:.0%} of that is unmanaged: buffers of tasks at work and what the "
            "allocator keeps, which spilling cannot free."
        )
    return Symptom(
        "spilling",
        max(share, min(1.0, written)),
        _sentence(parts) + full + known,
        "Workers hold more results than fit, so that they write them to disk and read them again.",
        *_less_memory(
            f,
            "Take smaller blocks, so that fewer bytes are alive at once, or rechunk on disk first "
            "where the result needs blocks from everywhere; or give a worker more memory.",
        ),
    )


def _memory(f: Facts) -> Symptom | None:
    if f.scheduler == "cluster" or f.fullest is None or f.fullest < 0.85:
        return None
    return Symptom(
        "memory",
        f.fullest,
        f"The process reached {f.fullest:.0%} of the memory that it may have.",
        "There is no spilling without a cluster: a little more, and the system ends the process.",
        *_less_memory(f, "Take smaller blocks or fewer threads."),
    )


def _one_chunk(f: Facts) -> Symptom | None:
    alone = f.alone / max(1e-9, f.elapsed)
    if f.slots < 2 or alone < _ALONE or f.longest < 0.3 * f.elapsed:
        return None
    if f.substantial >= f.slots and f.longest < 3 * f.usual:
        return None
    if f.substantial < f.slots and f.tasks < 2 * f.slots:
        return None
    return Symptom(
        "one-chunk",
        alone * (1 - 1 / f.slots),
        f"For {alone:.0%} of the time one thread worked and the others waited. One task of "
        f"{f.longest_name!r} took {format_seconds(f.longest)}"
        + (f", others of its kind {format_seconds(f.usual)}." if f.longest > 2 * f.usual else "."),
        "The blocks are of very different sizes, or one of them holds most of the data.",
        "Cut the data into blocks of one size.",
        "# blocks of one size, along the stored chunks\nds = ds.chunk(ds.chunking.suggest())",
    )


def _too_few(f: Facts) -> Symptom | None:
    if f.slots < 2 or f.idle < _IDLE or f.substantial >= f.slots:
        return None
    if _one_chunk(f) is not None:
        return None
    if f.longest < 0.3 * f.elapsed:
        return None
    return Symptom(
        "too-few-tasks",
        f.idle,
        f"{f.idle:.0%} of the threads' time was idle (white): {f.substantial or 1} of "
        f"{format_count(f.tasks)} tasks did the work, for {f.slots} threads.",
        "There are fewer blocks than threads, so that most threads find nothing to do.",
        "Cut the data into more blocks: two or three for each thread at least.",
        _more_blocks(f),
    )


def _too_many(f: Facts) -> Symptom | None:
    if f.tasks < _MANY * f.slots or f.mean > _TINY:
        return None
    if f.idle < _IDLE and not _is_overhead(f):
        return None
    factor = max(2, min(10_000, round(0.3 / max(f.mean, 1e-4))))
    return Symptom(
        "too-many-tasks",
        max(f.idle, _read_shares(f)[0]) if _is_overhead(f) else f.idle,
        f"{format_count(f.tasks)} tasks took {format_seconds(f.mean)} each; the threads were "
        f"without work for {f.idle:.0%} of the time.",
        "What dask and the libraries do for each task, up to a millisecond however small it is, "
        "takes longer than the work in it.",
        f"Make the blocks about {format_count(factor)} times as large; a task should take a "
        "tenth of a second at least. Chunk when opening, since a later .chunk() keeps the small "
        "tasks and adds to them.",
        "# many stored chunks in one block\nds = xchunk.open_dataset(path)\n"
        "xchunk.graph(result)    # before it runs: how many tasks?",
    )


def _unbalanced(f: Facts) -> Symptom | None:
    if f.workers < 2 or f.uneven < 1.5 or f.idle < _IDLE:
        return None
    return Symptom(
        "unbalanced",
        1 - 1 / f.uneven,
        f"The busiest worker worked {f.uneven:.1f} times as long as the average one, while "
        f"{f.idle:.0%} of the threads' time was idle.",
        "Work stays where its data are: results of one worker, or few large blocks.",
        "Spread what is held, and cut large blocks.",
        "client.rebalance()\nds = ds.chunk(ds.chunking.suggest())",
    )


def _transfer(f: Facts) -> Symptom | None:
    busy = f.compute + f.transfer + f.spill
    share = f.transfer / busy if busy > 0 else 0.0
    if share < _TRANSFER:
        return None
    sent = f" They sent each other {format_bytes(f.transferred)}." if f.transferred else ""
    return Symptom(
        "transfer-bound",
        min(1.0, f.transfer / f.total),
        f"{share:.0%} of the workers' busy time went into transfers (red).{sent}",
        "Tasks need blocks that other workers hold, as a rechunk, a sort or a reduction across "
        "all blocks does.",
        "Chunk the data so that what is combined lies in one block, with fewer and larger "
        "workers; or rechunk on disk once.",
        '# once, on disk\nds = ds.chunking.apply(access="timeseries", store="series.zarr")',
    )


def _lock(f: Facts) -> Symptom | None:
    share = f.doing("lock")
    if share < _LOCK:
        return None
    # what is read and decoded under the lock is done by one thread at a time
    under = f.doing("lock", "file-store", "file-codec")
    return Symptom(
        "lock-bound",
        under * min(1.0, f.compute / f.total),
        f"Threads waited for a lock for {share:.0%} of their tasks' time.",
        "HDF5 and netCDF4 let one thread of a process read at a time, whatever the number of "
        "threads; decompression happens under the lock too.",
        "Use processes of one thread each, or a copy in zarr, which has no such lock.",
        f"client = Client(n_workers={f.slots}, threads_per_worker=1)\n"
        '# or, once and for all\nds.chunking.apply(access="scan", store="copy.zarr")',
    )


def _gil(f: Facts) -> Symptom | None:
    share = f.doing("compute", "blocked")
    clock = max(1e-9, f.elapsed * f.workers)
    # looks come late where the machine is busy, so that they count fewer threads than ran
    at_once = max(sum(f.states.values()), f.compute) / clock
    if f.threads < 2 or share < _READ or at_once < _AT_ONCE or f.cpu / clock > _ONE:
        return None
    # tasks that wait for a processor do not wait for the lock, and looks see less of it then
    wanted = (f.cpu + f.starved) / clock
    if wanted > _WANTED * at_once or f.gil < (_GIL_BUSY if f.starved else _GIL):
        return None
    return Symptom(
        "gil-bound",
        share * (1 - 1 / at_once),
        f"{at_once:.1f} tasks of a process ran at once and got {f.cpu / clock:.1f} processors "
        f"together; Python's interpreter lock was taken {f.gil:.0%} of the time.",
        "The tasks run Python code, which one thread of a process does at a time.",
        "Use processes of one thread each, or write the function with numpy, which lets go of "
        "the lock.",
        f"client = Client(n_workers={f.slots}, threads_per_worker=1)\n"
        '# without a cluster\nresult.compute(scheduler="processes")',
    )


def _read_shares(f: Facts) -> tuple[float, float]:
    """Parts of the tasks' time spent on the store and on codecs."""
    store, codec = f.doing("store", "wait", "file-store"), f.doing("codec", "file-codec")
    file = f.doing("file-store", "file-codec")
    if f.gil < _GIL:
        store += f.doing("blocked")
    if file and f.rates is not None and f.rates.read_seconds > 0:
        # a probe can tell what a file's library hides
        part = f.rates.codec_seconds / f.rates.read_seconds
        codec = f.doing("codec") + part * file
        store += (1 - part) * file - f.doing("file-store")
    return store, codec


def _is_overhead(f: Facts) -> bool:
    """Whether what looks like waiting for a store is the libraries' own work for each chunk."""
    store, codec = _read_shares(f)
    if store < _READ or store < codec:
        return False
    if f.rates is not None:
        return f.rates.bottleneck == "overhead"
    # zarr does that work in one thread of a process, which others wait for
    return (f.cpu + f.starved) / max(1e-9, f.elapsed * f.workers) > _SATURATED


def _overhead(f: Facts) -> Symptom | None:
    if not _is_overhead(f) or _too_many(f) is not None:
        return None
    store, _ = _read_shares(f)
    return Symptom(
        "overhead-bound",
        store * min(1.0, f.compute / f.total),
        f"Tasks waited for {store:.0%} of their time for what libraries do for each stored chunk, "
        f"which kept {min(1.0, f.cpu / max(1e-9, f.elapsed * f.workers)):.0%} of a processor "
        f"busy in each process.{_probed(f)}",
        "The stored chunks are so small that finding them takes longer than reading them.",
        "Store the data in larger chunks; until then, read with processes of one thread each.",
        'ds = ds.chunking.apply(access="scan", store="larger.zarr")',
    )


def _io(f: Facts) -> Symptom | None:
    store, codec = _read_shares(f)
    if store < _READ or store < codec or _is_overhead(f):
        return None
    threads = f"dask.config.set(num_workers={4 * f.slots})"
    if f.scheduler == "cluster":
        threads = f"client = Client(n_workers={f.workers}, threads_per_worker={4 * f.threads})"
    return Symptom(
        "io-bound",
        store * min(1.0, f.compute / f.total),
        f"Tasks waited for the store for {store:.0%} of their time.{_probed(f)}",
        "The data do not come fast enough, and processors are idle meanwhile.",
        "Make fewer and larger requests, and more of them at once: larger stored chunks, blocks "
        "of whole chunks, more threads than processors.",
        "# requests of one task at once, and tasks at once\n"
        'zarr.config.set({"async.concurrency": 64})\n'
        f"{threads}\n"
        "ds = ds.chunk(ds.chunking.suggest(rates=ds.chunking.probe()))",
    )


def _codec(f: Facts) -> Symptom | None:
    store, codec = _read_shares(f)
    if codec < _READ or codec < store:
        return None
    fast = any(known in c.lower() for c in f.codecs for known in _FAST)
    copy = "" if fast else ", or store a copy with a faster codec"
    code = "ds.chunking.check()    # is a chunk decoded more than once?"
    if not fast:
        code += "\n# with zstd, which decodes fast\n"
        code += 'ds.chunking.apply(access="scan", store="fast.zarr")'
    return Symptom(
        "codec-bound",
        codec * min(1.0, f.compute / f.total),
        f"Tasks decoded for {codec:.0%} of their time.{_probed(f)}",
        "The codec is what one waits for; a faster store would not help.",
        "Use more processors, and keep each stored chunk in one block so that it is decoded once"
        f"{copy}.",
        code,
    )


def _again(f: Facts) -> Symptom | None:
    """What the tasks asked for is known before any time is: it needs no sample."""
    in_vain = f.decoded - f.distinct
    if in_vain < _IN_VAIN or f.decoded < _AGAIN * f.distinct:
        return None
    times = f.decoded / f.distinct
    reading = sum(_read_shares(f))
    return Symptom(
        "decoded-again",
        reading * (1 - 1 / times) * min(1.0, f.compute / f.total),
        f"Tasks decoded {format_bytes(f.decoded)} of stored chunks where "
        f"{format_bytes(f.distinct)} hold all that they needed: each chunk {times:.3g} times.",
        "Blocks cut stored chunks, and every task that needs a part of a chunk decodes all of it.",
        "Open it in blocks of whole chunks; where the use needs other chunks, rechunk it once.",
        "ds.chunking.check()    # which blocks cut chunks?\n"
        "ds = xchunk.open_dataset(path)    # blocks of whole chunks",
    )


_CAUSES: tuple[Callable[[Facts], Symptom | None], ...] = (_lost, _spilling, _memory, _again)
_RULES: tuple[Callable[[Facts], Symptom | None], ...] = (
    _one_chunk, _too_few, _too_many, _unbalanced, _transfer, _lock, _gil, _overhead, _io, _codec,
)  # fmt: skip


def _rest(f: Facts) -> Symptom:
    """What is said where nothing stands out."""
    used = f"The threads worked for {1 - f.idle:.0%} of the time"
    if f.idle >= 0.6:
        return Symptom(
            "idle",
            f.idle,
            f"{f.idle:.0%} of the threads' time was idle (white), and no task tells why.",
            "They waited for the scheduler, or for this program between computations.",
            "Compute several results together, and look at the graph.",
            "dask.compute(one, two)    # not one after the other\nxchunk.graph(result)",
        )
    means, remedy = (
        "Most of it was computing: neither memory, nor transfers, nor the store held it up.",
        "Nothing has to be changed. More processors would make it faster.",
    )
    if f.taken > _CROWDED:
        means, remedy = (
            "Nothing of its own held it up, but it had to share the processors.",
            "Nothing has to be changed in it. It is quicker where nothing else runs.",
        )
    return Symptom(
        "healthy",
        1 - f.idle,
        f"{used}, in {format_count(f.tasks)} tasks of {format_seconds(f.mean)} each.",
        means,
        remedy,
        "ds.chunking.graph()    # what would other chunks do?",
    )


_NOTHING = Symptom(
    "nothing",
    0.0,
    "No task of dask's ran.",
    "Nothing was lazy, or it was computed before.",
    "Compute something within the block.",
    "with xchunk.observe() as seen:\n    result.compute()",
)


def _notes(f: Facts) -> tuple[str, ...]:
    out = []
    if f.taken > _CROWDED:
        out.append(
            f"The machine was busy: for {f.taken:.0%} of the time in which threads could have run, "
            "other processes had the processors. Times are longer than they would be alone."
        )
    if f.rates is not None:
        out.append(f.rates.why)
    return tuple(out)


def _probed(f: Facts) -> str:
    if f.rates is None:
        return ""
    return f" A probe says that it is the {f.rates.bottleneck}."


def _less_memory(f: Facts, usual: str) -> tuple[str, str]:
    """Say what takes less memory, and how: not smaller blocks where most of the data are held."""
    if f.held < _KEPT * f.distinct or not f.distinct or f.tasks < 4 * f.slots:
        return usual, _chunks_for(f, 2)
    said = (
        f"Smaller blocks would not change that: {format_bytes(f.held)} of results were held at "
        f"once, where {format_bytes(f.distinct)} were read in all, since something needs them a "
        "second time, as ds - ds.mean() does. Compute what the second step needs first, so that "
        "the data are read again instead of held; or work on blocks that hold the dim whole."
    )
    code = (
        'mean = ds.mean("time").compute()    # the first pass by itself\n'
        "result = ds - mean    # the second one reads again, and holds nothing"
    )
    return said, code


def _chunks_for(f: Facts, parts: int) -> str:
    memory = ""
    if f.limit:
        # by how much it may grow: a part of its limit may be less than its process takes alone
        growth = int(TARGET * f.limit) - f.least
        if growth < _ROOM:
            limit, held = format_bytes(f.limit), format_bytes(f.least)
            return (
                f"# of the limit of {limit}, a worker holds {held} before any data:\n"
                "# give it more memory"
            )
        memory = f'max_mem="{format_bytes(growth / parts).replace(" ", "")}"'
    return (
        f"ds = ds.chunk(ds.chunking.suggest({memory}))\n"
        "xchunk.graph(result)    # before it runs: what will it hold?"
    )


def _more_blocks(f: Facts) -> str:
    return (
        f"# {{dim: n}} that makes {3 * f.slots} blocks or more\nds = ds.chunk({{dim: n}})\n"
        "ds.chunking.suggest()    # where it says load, do without dask"
    )


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts) or "Results were written to disk"
    return f"{text[0].upper()}{text[1:]}."
