"""Running a graph on paper, as dask's schedulers would, with what each task is known to take.

dask's local scheduler is replayed exactly but for time: ready tasks are a stack, the tasks
that a finished one sets free are pushed in dask's order, and a result is let go with the last
task that needs it. At any moment the memory holds the results that are alive, each buffer
once however many views there are of it, and the peaks of the tasks that run.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

import numpy as np

from xchunk.simulate._dask import Key

__all__ = ["Local", "Memory", "Step", "Trace", "dependents_of", "on_threads", "on_racing_threads"]

#: Standard deviation of the logarithms of the times that tasks of one kind and size take on
#: two threads: measured at 0.3 to 0.6 for most of those of more than 20 ms, on a busy machine.
_VARIATION = 0.4

#: Replays in which times vary, and tasks of all of them beyond which there are fewer.
_REPLAYS, _ENOUGH = 7, 10_000


@dataclass(frozen=True)
class Step:
    """One task, as far as a replay is concerned."""

    deps: tuple[int, ...]
    """Numbers of the tasks whose results it takes."""
    own: int
    """Bytes of its result that no input owns."""
    views: tuple[int, ...]
    """Numbers of the tasks whose results' memory its result keeps."""
    peak: int
    """Bytes that it takes at its peak besides its inputs."""
    seconds: float
    """Seconds that it takes."""
    rank: int
    """Its place in dask's order."""
    kept: bool = False
    """Whether its result is asked for."""
    size: int = 0
    """Bytes of its result as another process would be sent it, views and all."""
    kind: str = ""
    """What tasks of its kind are called; a scheduler learns their time together."""
    produces: bool = False
    """Whether it reads or makes data: a cluster runs no more of these ahead than it can use."""
    touched: int | None = None
    """Bytes of its peak that are more than reserved; None: all."""


@dataclass(frozen=True)
class Local:
    """What the replay on threads of one process finds."""

    live: int
    """Bytes of results, at the most."""
    heap: int
    """Bytes of results and of the tasks that run, at the most."""
    seconds: float
    """Seconds from the first task to the last."""
    over_time: tuple[tuple[float, float], ...] = ()
    """Parts of the time that have passed, with the parts of ``heap`` that are in use until then."""
    touched: int = 0
    """Bytes of ``heap`` that are more than reserved, at the most."""


class Trace:
    """Memory over time, from one event to the next."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int]] = []

    def note(self, clock: float, nbytes: int) -> None:
        """Note what is in use at a moment."""
        self._events.append((clock, nbytes))

    def parts(self, steps: int = 200) -> tuple[tuple[float, float], ...]:
        """Time and memory as parts of the whole and of the peak: the most within each step."""
        end = max((clock for clock, _ in self._events), default=0.0)
        peak = max((nbytes for _, nbytes in self._events), default=0)
        if not (end and peak):
            return ()
        most: dict[int, int] = {}
        for clock, nbytes in self._events:
            step = min(steps - 1, int(clock / end * steps))
            most[step] = max(nbytes, most.get(step, 0))
        return tuple(((step + 1) / steps, most[step] / peak) for step in sorted(most))


class Memory:
    """Buffers that are alive, each once."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.now = 0
        self._holders: dict[int, int] = {}
        self._held: dict[int, frozenset[int]] = {}

    def buffers(self, i: int, known: dict[int, frozenset[int]]) -> frozenset[int]:
        """Find the tasks whose own bytes a result keeps alive."""
        step = self.steps[i]
        out = frozenset((i,)) if step.own else frozenset()
        for v in step.views:
            out |= known.get(v, frozenset((v,)))
        return out

    def hold(self, i: int, buffers: frozenset[int]) -> None:
        """Take a result."""
        if i in self._held:
            return
        self._held[i] = buffers
        for b in buffers:
            count = self._holders.get(b, 0)
            self._holders[b] = count + 1
            if not count:
                self.now += self.steps[b].own

    def release(self, i: int) -> None:
        """Let a result go; its bytes go with the last result that shows them."""
        for b in self._held.pop(i, ()):
            self._holders[b] -= 1
            if not self._holders[b]:
                del self._holders[b]
                self.now -= self.steps[b].own


def dependents_of(steps: Sequence[Step]) -> list[list[int]]:
    """List the tasks that take each task's result, the last in dask's order first."""
    out: list[list[int]] = [[] for _ in steps]
    for i, step in enumerate(steps):
        for d in step.deps:
            out[d].append(i)
    for each in out:
        each.sort(key=lambda j: steps[j].rank, reverse=True)
    return out


def on_threads(steps: Sequence[Step], threads: int, constants: Mapping[int, Key]) -> Local:
    """Replay dask's local scheduler.

    Parameters
    ----------
    steps : sequence of Step
        The tasks.
    threads : int
        Tasks that run at once.
    constants : mapping
        Numbers of the steps that are constants: they are there from the start.
    """
    dependents = dependents_of(steps)
    waiting = [sum(d not in constants for d in s.deps) for s in steps]
    users = [len(d) for d in dependents]
    ready = [i for i, s in enumerate(steps) if not waiting[i] and i not in constants]
    ready.sort(key=lambda i: steps[i].rank, reverse=True)
    memory, trace = Memory(steps), Trace()
    known: dict[int, frozenset[int]] = {}
    running: list[tuple[float, int, int]] = []
    clock, live, heap, at_work = 0.0, 0, 0, 0
    touches = [s.peak if s.touched is None else s.touched for s in steps]
    touched = touching = 0
    while ready or running:
        while ready and len(running) < threads:
            i = ready.pop()
            heapq.heappush(running, (clock + steps[i].seconds, steps[i].rank, i))
            at_work += steps[i].peak
            touching += touches[i]
        heap = max(heap, memory.now + at_work)
        touched = max(touched, memory.now + touching)
        trace.note(clock, memory.now + at_work)
        clock, _, i = heapq.heappop(running)
        at_work -= steps[i].peak
        touching -= touches[i]
        known[i] = memory.buffers(i, known)
        memory.hold(i, known[i])
        heap = max(heap, memory.now + at_work)
        touched = max(touched, memory.now + touching)
        trace.note(clock, memory.now + at_work)
        for j in dependents[i]:
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
        for d in steps[i].deps:
            users[d] -= 1
            if not users[d] and not steps[d].kept and d not in constants:
                memory.release(d)
        live = max(live, memory.now)
    return Local(live, heap, clock, trace.parts(), touched)


def on_racing_threads(steps: Sequence[Step], threads: int, constants: Mapping[int, Key]) -> Local:
    """Replay dask's local scheduler with times that vary, as they do; what is in the middle.

    With equal times for equal tasks, threads would keep step with each other, and whether their
    peaks coincide would hang on how one run of each was measured.

    Parameters
    ----------
    steps : sequence of Step
        The tasks.
    threads : int
        Tasks that run at once; the order of one thread is the same whatever tasks take.
    constants : mapping
        Numbers of the steps that are constants.
    """
    first = on_threads(steps, threads, constants)
    times = min(_REPLAYS, _ENOUGH // max(1, len(steps)))
    if threads == 1 or times < 3:
        return first
    rng = np.random.default_rng(0)
    found = [first]
    for _ in range(times - 1):
        factors = rng.lognormal(0, _VARIATION, len(steps)).tolist()
        varied = [replace(s, seconds=s.seconds * f) for s, f in zip(steps, factors, strict=True)]
        found.append(on_threads(varied, threads, constants))
    heap = median_low(one.heap for one in found)
    return Local(
        median_low(one.live for one in found),
        heap,
        first.seconds,
        next(one.over_time for one in found if one.heap == heap),
        median_low(one.touched for one in found),
    )
