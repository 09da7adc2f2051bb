"""What was seen of a computation while it ran, and the facts that a judgement needs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from xchunk.core.measured import MeasuredRates

__all__ = ["Action", "Facts", "MemorySample", "Record", "Span", "WorkerSeen", "facts_of"]

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

    @property
    def slots(self) -> int:
        """Tasks that all workers run at once."""
        return max(1, sum(w.threads for w in self.workers))


@dataclass(frozen=True)
class Facts:
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
    """The fullest worker's memory by its limit, at the most; None: no limit is known."""
    limit: int | None = None
    """Bytes that a worker may hold."""
    unmanaged: float | None = None
    """Part of the fullest worker's memory that dask knows nothing of; None: not told."""
    paused: float = 0.0
    """Seconds in which workers were paused."""
    restarts: int = 0
    """Workers that died or were restarted."""
    rates: MeasuredRates | None = None
    """What a probe measured, where one was given."""

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
        names = [n for n in self.__dataclass_fields__ if n not in ("states", "rates")]
        out = {n: getattr(self, n) for n in names}
        return {
            **out,
            "idle": self.idle,
            "taken": self.taken,
            "mean": self.mean,
            "states": dict(self.states),
            "rates": None if self.rates is None else self.rates.to_dict(),
        }


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
        transferred=record.transferred,
        spilled=record.spilled,
        fullest=fullest,
        limit=limit,
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


def _paused(samples: Sequence[MemorySample]) -> float:
    total = 0.0
    last: dict[int, MemorySample] = {}
    for sample in samples:
        before = last.get(sample.worker)
        if before is not None and before.paused:
            total += max(0.0, sample.time - before.time)
        last[sample.worker] = sample
    return total
