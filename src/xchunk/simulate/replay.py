"""Running a graph on paper, as dask's schedulers would, with what each task is known to take.

dask's local scheduler is replayed exactly but for time: ready tasks are a stack, the tasks
that a finished one sets free are pushed in dask's order, and a result is let go with the last
task that needs it. At any moment the memory holds the results that are alive, each buffer
once however many views there are of it, and the peaks of the tasks that run.

Distributed workers are replayed by the scheduler's main rules: tasks without inputs go to
whoever is free, others to where it costs least to bring their inputs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xchunk.simulate._dask import Key

__all__ = ["Cluster", "Local", "Step", "on_threads", "on_workers"]


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


@dataclass(frozen=True)
class Local:
    """What the replay on threads of one process finds."""

    live: int
    """Bytes of results, at the most."""
    heap: int
    """Bytes of results and of the tasks that run, at the most."""
    seconds: float
    """Seconds from the first task to the last."""


@dataclass(frozen=True)
class Cluster:
    """What the replay on workers finds."""

    heap: int
    """Bytes of the worker that holds most, at the most."""
    moved: int
    """Bytes that go from one worker to another."""
    seconds: float
    """Seconds from the first task to the last."""


class _Memory:
    """Buffers that are alive, each once."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.now = 0
        self._holders: dict[int, int] = {}
        self._held: dict[int, frozenset[int]] = {}

    def buffers(self, i: int, known: dict[int, frozenset[int]]) -> frozenset[int]:
        """The tasks whose own bytes a result keeps alive."""
        step = self.steps[i]
        out = frozenset((i,)) if step.own else frozenset()
        for v in step.views:
            out |= known.get(v, frozenset((v,)))
        return out

    def hold(self, i: int, buffers: frozenset[int]) -> None:
        if i in self._held:
            return
        self._held[i] = buffers
        for b in buffers:
            count = self._holders.get(b, 0)
            self._holders[b] = count + 1
            if not count:
                self.now += self.steps[b].own

    def release(self, i: int) -> None:
        for b in self._held.pop(i, ()):
            self._holders[b] -= 1
            if not self._holders[b]:
                del self._holders[b]
                self.now -= self.steps[b].own


def _dependents(steps: Sequence[Step]) -> list[list[int]]:
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
    dependents = _dependents(steps)
    waiting = [sum(d not in constants for d in s.deps) for s in steps]
    users = [len(d) for d in dependents]
    ready = [i for i, s in enumerate(steps) if not waiting[i] and i not in constants]
    ready.sort(key=lambda i: steps[i].rank, reverse=True)
    memory = _Memory(steps)
    known: dict[int, frozenset[int]] = {}
    running: list[tuple[float, int, int]] = []
    clock, live, heap, at_work = 0.0, 0, 0, 0
    while ready or running:
        while ready and len(running) < threads:
            i = ready.pop()
            heapq.heappush(running, (clock + steps[i].seconds, steps[i].rank, i))
            at_work += steps[i].peak
        heap = max(heap, memory.now + at_work)
        clock, _, i = heapq.heappop(running)
        at_work -= steps[i].peak
        known[i] = memory.buffers(i, known)
        memory.hold(i, known[i])
        heap = max(heap, memory.now + at_work)
        for j in dependents[i]:
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
        for d in steps[i].deps:
            users[d] -= 1
            if not users[d] and not steps[d].kept and d not in constants:
                memory.release(d)
        live = max(live, memory.now)
    return Local(live, heap, clock)


@dataclass
class _Worker:
    """One worker of a cluster."""

    memory: _Memory
    queue: list[tuple[int, int]] = field(default_factory=list)
    running: int = 0
    at_work: int = 0
    busy: float = 0.0
    heap: int = 0

    def look(self) -> None:
        self.heap = max(self.heap, self.memory.now + self.at_work)


#: Bytes a second between workers of one machine, as the scheduler assumes.
_BANDWIDTH = 1e8


def on_workers(
    steps: Sequence[Step], workers: int, threads: int, constants: Mapping[int, Key]
) -> Cluster:
    """Replay a cluster: who runs what, what is sent, and what the fullest worker holds."""
    dependents = _dependents(steps)
    waiting = [sum(d not in constants for d in s.deps) for s in steps]
    users = [len(d) for d in dependents]
    team = [_Worker(_Memory(steps)) for _ in range(workers)]
    known: dict[int, frozenset[int]] = {}
    sizes: dict[int, int] = {}
    places: dict[int, set[int]] = {}
    roots: list[tuple[int, int]] = []
    events: list[tuple[float, int, int, int]] = []
    clock, moved = 0.0, 0

    def place(i: int) -> None:
        """Give a task to the worker that can begin it first."""
        deps = [d for d in steps[i].deps if d not in constants]
        if not deps:
            heapq.heappush(roots, (steps[i].rank, i))
            return
        holders = set().union(*(places[d] for d in deps))

        def cost(w: int) -> tuple[float, int]:
            bring = sum(sizes[d] for d in deps if w not in places[d])
            return team[w].busy / threads + bring / _BANDWIDTH, team[w].memory.now

        w = min(sorted(holders), key=cost)
        heapq.heappush(team[w].queue, (steps[i].rank, i))
        team[w].busy += steps[i].seconds

    def start(w: int) -> None:
        nonlocal moved
        worker = team[w]
        while worker.running < threads and (worker.queue or roots):
            if worker.queue and (not roots or worker.queue[0] < roots[0]):
                _, i = heapq.heappop(worker.queue)
            else:
                _, i = heapq.heappop(roots)
                worker.busy += steps[i].seconds
            wait = 0.0
            for d in steps[i].deps:
                if d not in constants and w not in places[d]:
                    # a copy is whole, whatever it was a view of
                    moved += sizes[d]
                    wait += sizes[d] / _BANDWIDTH
                    places[d].add(w)
                    worker.memory.hold(d, known[d])
            worker.running += 1
            worker.at_work += steps[i].peak
            worker.look()
            heapq.heappush(events, (clock + wait + steps[i].seconds, steps[i].rank, w, i))

    for i in range(len(steps)):
        if not waiting[i] and i not in constants:
            place(i)
    while True:
        for w in sorted(range(workers), key=lambda w: team[w].running):
            start(w)
        if not events:
            break
        clock, _, w, i = heapq.heappop(events)
        worker = team[w]
        worker.running -= 1
        worker.at_work -= steps[i].peak
        worker.busy -= steps[i].seconds
        known[i] = worker.memory.buffers(i, known)
        sizes[i] = steps[i].own + sum(sizes.get(v, 0) for v in steps[i].views)
        places[i] = {w}
        worker.memory.hold(i, known[i])
        worker.look()
        for j in reversed(dependents[i]):
            waiting[j] -= 1
            if not waiting[j]:
                place(j)
        done = [d for d in steps[i].deps if d not in constants]
        for d in steps[i].deps:
            users[d] -= 1
        for d in [*done, i]:
            if not users[d] and not steps[d].kept:
                for other in places[d]:
                    team[other].memory.release(d)
    return Cluster(max((w.heap for w in team), default=0), moved, clock)
