"""Running a graph on paper on the workers of a cluster.

The scheduler's main rules are followed: tasks without inputs go to whoever has room, in dask's
order, one or more for each thread and a tenth more; others go to where it costs least to bring
their inputs. A worker goes on with what it has been given before it hears what its last result
set free. What the scheduler measures while it runs is not known beforehand, so that this is
coarser than the replay on threads.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xchunk.core.blocks import SATURATION
from xchunk.simulate._dask import Key
from xchunk.simulate.replay import Memory, Step, Trace, dependents_of

__all__ = ["Cluster", "on_workers"]

#: Bytes a second between workers, as the scheduler assumes.
_BANDWIDTH = 1e8

#: Seconds that it takes a task of a kind not seen yet to run (``unknown-task-duration``), and
#: those that asking for one takes, as it assumes too.
_UNKNOWN, _LATENCY = 0.5, 0.1

#: How many times as long as a task runs its inputs may take to come, for it to be stolen.
_DEAREST = 100


@dataclass(frozen=True)
class Cluster:
    """What the replay on workers finds."""

    heap: int
    """Bytes of the worker that holds most, at the most."""
    moved: int
    """Bytes that go from one worker to another."""
    seconds: float
    """Seconds from the first task to the last."""
    over_time: tuple[tuple[float, float], ...] = ()
    """Parts of the time that have passed, with the parts of ``heap`` that the fullest holds."""


@dataclass
class _Worker:
    """One worker."""

    memory: Memory
    queue: list[tuple[int, int]] = field(default_factory=list)
    running: int = 0
    at_work: int = 0
    busy: float = 0.0
    heap: int = 0

    @property
    def given(self) -> int:
        return len(self.queue) + self.running

    def look(self) -> None:
        self.heap = max(self.heap, self.memory.now + self.at_work)


def on_workers(
    steps: Sequence[Step], workers: int, threads: int, constants: Mapping[int, Key]
) -> Cluster:
    """Replay a cluster.

    Parameters
    ----------
    steps : sequence of Step
        The tasks.
    workers, threads : int
        Workers, and tasks that each of them runs at once.
    constants : mapping
        Numbers of the steps that are constants; they travel with the tasks.

    Returns
    -------
    Cluster
        What the fullest worker holds, and what is sent.
    """
    team = _Team(steps, workers, threads, constants)
    clock = team.run()
    heap = max(w.heap for w in team.workers)
    return Cluster(heap, team.moved, clock, team.trace.parts())


class _Team:
    """The workers, and the scheduler's book of what is where."""

    def __init__(
        self, steps: Sequence[Step], workers: int, threads: int, constants: Mapping[int, Key]
    ) -> None:
        self.steps, self.threads = steps, threads
        self.deps = [tuple(d for d in s.deps if d not in constants) for s in steps]
        self.constants = [tuple(d for d in s.deps if d in constants) for s in steps]
        self.tasks = [i for i in range(len(steps)) if i not in constants]
        self.dependents = dependents_of(steps)
        self.waiting = [len(d) for d in self.deps]
        self.users = [len(d) for d in self.dependents]
        self.workers = [_Worker(Memory(steps)) for _ in range(workers)]
        self.known: dict[int, frozenset[int]] = {}
        self.sizes: dict[int, int] = {}
        self.places: dict[int, set[int]] = {}
        self.roots: list[tuple[int, int]] = []
        self.events: list[tuple[float, int, int, int]] = []
        self.moved = 0
        self.trace = Trace()
        # Constants are tasks too: each lives on one worker, and draws to it those that need it.
        for n, i in enumerate(constants):
            self.places[i] = {n % workers}
        self.seen: dict[str, tuple[int, float]] = {}
        self.expected: dict[int, float] = {}

    def run(self) -> float:
        """Run everything; the seconds that it takes."""
        clock = 0.0
        for i in self.tasks:
            if not self.waiting[i]:
                self.place(i)
        while True:
            self.hand_out()
            self.steal()
            for w in range(len(self.workers)):
                self.start(w, clock)
            self.note(clock)
            if not self.events:
                return clock
            clock, _, w, i = heapq.heappop(self.events)
            self.take(w, i)
            self.start(w, clock)
            self.note(clock)
            self.finish(i)

    def note(self, clock: float) -> None:
        """Note what the fullest worker holds."""
        self.trace.note(clock, max(w.memory.now + w.at_work for w in self.workers))

    def hand_out(self) -> None:
        """Give tasks without inputs to the workers with the most room."""
        room = math.ceil(SATURATION * self.threads)
        while self.roots:
            w = min(range(len(self.workers)), key=lambda w: self.workers[w].given)
            worker = self.workers[w]
            if worker.given >= room:
                return
            _, i = found = heapq.heappop(self.roots)
            heapq.heappush(worker.queue, found)
            self.expect(worker, i, 1)

    def guess(self, i: int) -> float:
        """Seconds that the scheduler expects of a task: those of its kind so far."""
        count, total = self.seen.get(self.steps[i].kind, (0, 0.0))
        return total / count if count else _UNKNOWN

    def bring_seconds(self, w: int, i: int) -> float:
        """Seconds to bring a worker what it lacks for a task."""
        return sum(self.sizes[d] for d in self.deps[i] if w not in self.places[d]) / _BANDWIDTH

    def steal(self) -> None:
        """Let workers without work take some from the busiest, where it is worth the transfer."""
        for w, thief in enumerate(self.workers):
            if thief.given >= self.threads:
                continue
            victim = max(self.workers, key=lambda v: v.busy)
            for item in sorted(victim.queue):
                i = item[1]
                takes = self.guess(i)
                costs = self.bring_seconds(w, i) + _LATENCY
                if costs > _DEAREST * takes or victim is thief:
                    continue
                if thief.busy + costs + takes > victim.busy - takes / 2:
                    continue
                victim.queue.remove(item)
                heapq.heapify(victim.queue)
                self.expect(victim, i, -1)
                heapq.heappush(thief.queue, item)
                self.expect(thief, i, 1)

    def expect(self, worker: _Worker, i: int, sign: int) -> None:
        """Note the time that a worker is expected to be busy with a task."""
        if sign > 0:
            self.expected[i] = self.guess(i)
        worker.busy += sign * self.expected[i]

    def place(self, i: int) -> None:
        """Give a task to the worker that can begin it first."""
        deps = self.deps[i]
        if not deps:
            heapq.heappush(self.roots, (self.steps[i].rank, i))
            return
        holders: set[int] = set()
        for d in (*deps, *self.constants[i]):
            holders |= self.places[d]

        def cost(w: int) -> tuple[float, int]:
            worker = self.workers[w]
            return worker.busy / self.threads + self.bring_seconds(w, i), worker.memory.now

        best = self.workers[min(sorted(holders), key=cost)]
        heapq.heappush(best.queue, (self.steps[i].rank, i))
        self.expect(best, i, 1)

    def start(self, w: int, clock: float) -> None:
        """Begin what a worker has threads for."""
        worker = self.workers[w]
        while worker.running < self.threads and worker.queue:
            _, i = heapq.heappop(worker.queue)
            wait = self.bring(w, i)
            worker.running += 1
            worker.at_work += self.steps[i].peak
            worker.look()
            end = clock + wait + self.steps[i].seconds
            heapq.heappush(self.events, (end, self.steps[i].rank, w, i))

    def bring(self, w: int, i: int) -> float:
        """Send a worker the inputs that it lacks; the seconds that it takes."""
        sent = 0
        for d in self.deps[i]:
            if w not in self.places[d]:
                sent += self.sizes[d]
                self.places[d].add(w)
                self.workers[w].memory.hold(d, self.known[d])
        self.moved += sent
        return sent / _BANDWIDTH

    def take(self, w: int, i: int) -> None:
        """Keep the result of a task that has ended."""
        worker, step = self.workers[w], self.steps[i]
        worker.running -= 1
        worker.at_work -= step.peak
        self.expect(worker, i, -1)
        count, total = self.seen.get(step.kind, (0, 0.0))
        self.seen[step.kind] = (count + 1, total + step.seconds)
        self.known[i] = worker.memory.buffers(i, self.known)
        self.sizes[i] = step.size
        self.places[i] = {w}
        worker.memory.hold(i, self.known[i])
        worker.look()

    def finish(self, i: int) -> None:
        """Set free what waits for a result, and let go what nobody needs."""
        for j in reversed(self.dependents[i]):
            self.waiting[j] -= 1
            if not self.waiting[j]:
                self.place(j)
        for d in self.deps[i]:
            self.users[d] -= 1
        for d in (*self.deps[i], i):
            if not self.users[d] and not self.steps[d].kept:
                for other in self.places[d]:
                    self.workers[other].memory.release(d)
