"""Running a graph on paper on the workers of a cluster.

The scheduler's main rules are followed: tasks that make data go to whoever has room, in dask's
order, one or more for each thread and a tenth more, and so do the constants of the graph; others
go to where it costs least to bring their inputs. A worker goes on with what it has been given
before it hears what its last result set free, and while inputs of a task are on their way, its
threads run others. What the scheduler measures while it runs is not known beforehand, so that
this is coarser than the replay on threads.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from xchunk.core.blocks import SATURATION
from xchunk.simulate.replay import Memory, Step, Trace, dependents_of

__all__ = ["Cluster", "on_workers"]

#: Bytes a second between workers, as the scheduler assumes, and as they are: about 4 GBit/s,
#: which is what one process reads and unpacks on a network or from another process.
_BANDWIDTH, _LINK = 1e8, 5e8

#: Seconds that it takes a task of a kind not seen yet to run (``unknown-task-duration``), and
#: those that asking for one takes, as it assumes too.
_UNKNOWN, _LATENCY = 0.5, 0.1

#: Seconds that a task takes its worker besides running: it is unpacked, put in order and told
#: of. Measured as the CPU time of workers that run thousands of tasks of nothing: 1.8 to 3.3 ms.
_HANDLING = 0.002

#: Seconds after which workers may steal again (``work-stealing-interval``).
_STEALING = 1.0

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
    lacking: dict[int, set[int]] = field(default_factory=dict)
    """Tasks that wait for inputs from other workers, and which those are."""
    coming: dict[int, list[int]] = field(default_factory=dict)
    """Inputs that are on their way, and the tasks that wait for them."""
    linked: float = 0.0
    """When all that is on its way will have come."""
    running: int = 0
    unheard: int = 0
    """Tasks that have ended, of which the scheduler has not heard."""
    at_work: int = 0
    busy: float = 0.0
    heap: int = 0

    @property
    def given(self) -> int:
        return len(self.queue) + len(self.lacking) + self.running + self.unheard

    def look(self) -> None:
        self.heap = max(self.heap, self.memory.now + self.at_work)


def on_workers(
    steps: Sequence[Step], workers: int, threads: int, hearing: float = 0.001
) -> Cluster:
    """Replay a cluster.

    Parameters
    ----------
    steps : sequence of Step
        The tasks, and the constants, which a cluster handles as tasks without inputs.
    workers, threads : int
        Workers, and tasks that each of them runs at once.
    hearing : float
        Seconds that the scheduler takes for each task that has ended, one after the other.

    Returns
    -------
    Cluster
        What the fullest worker holds, and what is sent.
    """
    team = _Team(steps, workers, threads, hearing)
    clock = team.run()
    heap = max(w.heap for w in team.workers)
    return Cluster(heap, team.moved, clock, team.trace.parts())


class _Team:
    """The workers, and the scheduler's book of what is where."""

    def __init__(self, steps: Sequence[Step], workers: int, threads: int, hearing: float) -> None:
        self.steps, self.threads = steps, threads
        self.produces = [s.produces or not s.deps for s in steps]
        self.dependents = dependents_of(steps)
        self.waiting = [len(s.deps) for s in steps]
        self.users = [len(d) for d in self.dependents]
        self.workers = [_Worker(Memory(steps)) for _ in range(workers)]
        self.known: dict[int, frozenset[int]] = {}
        self.sizes: dict[int, int] = {}
        self.places: dict[int, set[int]] = {}
        self.roots: list[tuple[int, int]] = []
        self.clock = 0.0
        self.events: list[tuple[float, int, int, int, str]] = []
        """When, the rank, the worker, the task, and what it does there."""
        self.hearing = hearing
        self.heard = self.stolen = 0.0
        self.moved = 0
        self.trace = Trace()
        self.seen: dict[str, tuple[int, float]] = {}
        self.expected: dict[int, float] = {}

    def run(self) -> float:
        """Run everything; the seconds that it takes."""
        for i, number in enumerate(self.waiting):
            if not number:
                self.place(i)
        while True:
            self.hand_out()
            self.steal()
            for w in range(len(self.workers)):
                self.start(w)
            self.note()
            if not self.events:
                return self.clock
            self.clock, _, w, i, what = heapq.heappop(self.events)
            if what == "ends":
                self.take(w, i)
                self.heard = max(self.heard, self.clock) + self.hearing
                self.expects(self.heard, w, i, "is heard of")
            elif what == "arrives":
                self.arrive(w, i)
            else:
                self.finish(w, i)

    def expects(self, when: float, w: int, i: int, what: str) -> None:
        """Note what will happen to a task, or to its result."""
        heapq.heappush(self.events, (when, self.steps[i].rank, w, i, what))

    def note(self) -> None:
        """Note what the fullest worker holds."""
        self.trace.note(self.clock, max(w.memory.now + w.at_work for w in self.workers))

    def hand_out(self) -> None:
        """Give tasks that make data to the workers with the most room."""
        room = math.ceil(SATURATION * self.threads)
        while self.roots:
            w = min(range(len(self.workers)), key=lambda w: self.workers[w].given)
            worker = self.workers[w]
            if worker.given >= room:
                return
            self.give(w, heapq.heappop(self.roots)[1])

    def guess(self, i: int) -> float:
        """Seconds that the scheduler expects of a task: those of its kind so far."""
        count, total = self.seen.get(self.steps[i].kind, (0, 0.0))
        return total / count if count else _UNKNOWN

    def bring_seconds(self, w: int, i: int) -> float:
        """Seconds to bring a worker what it lacks for a task."""
        return (
            sum(self.sizes[d] for d in self.steps[i].deps if w not in self.places[d]) / _BANDWIDTH
        )

    def steal(self) -> None:
        """Let workers without work take some from the busiest, where it is worth the transfer."""
        if self.clock < self.stolen + _STEALING:
            return
        self.stolen = self.clock
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
                self.give(w, i)

    def expect(self, worker: _Worker, i: int, sign: int) -> None:
        """Note the time that a worker is expected to be busy with a task."""
        if sign > 0:
            self.expected[i] = self.guess(i)
        worker.busy += sign * self.expected[i]

    def place(self, i: int) -> None:
        """Give a task to the worker that can begin it first."""
        if self.produces[i]:
            heapq.heappush(self.roots, (self.steps[i].rank, i))
            return
        holders: set[int] = set()
        for d in self.steps[i].deps:
            holders |= self.places[d]

        def cost(w: int) -> tuple[float, int]:
            worker = self.workers[w]
            return worker.busy / self.threads + self.bring_seconds(w, i), worker.memory.now

        self.give(min(sorted(holders), key=cost), i)

    def give(self, w: int, i: int) -> None:
        """Give a task to a worker, which sends for the inputs that it lacks."""
        worker = self.workers[w]
        self.expect(worker, i, 1)
        lacks = {d for d in self.steps[i].deps if w not in self.places[d]}
        if not lacks:
            heapq.heappush(worker.queue, (self.steps[i].rank, i))
            return
        worker.lacking[i] = lacks
        for d in sorted(lacks):
            if d in worker.coming:
                worker.coming[d].append(i)
                continue
            worker.coming[d] = [i]
            self.moved += self.sizes[d]
            worker.linked = max(worker.linked, self.clock) + self.sizes[d] / _LINK
            self.expects(worker.linked, w, d, "arrives")

    def arrive(self, w: int, d: int) -> None:
        """Keep what another worker sent; tasks that have all they need can begin."""
        worker = self.workers[w]
        self.places[d].add(w)
        worker.memory.hold(d, self.known[d])
        worker.look()
        for i in worker.coming.pop(d):
            worker.lacking[i].discard(d)
            if not worker.lacking[i]:
                del worker.lacking[i]
                heapq.heappush(worker.queue, (self.steps[i].rank, i))

    def start(self, w: int) -> None:
        """Begin what a worker has threads for."""
        worker = self.workers[w]
        while worker.running < self.threads and worker.queue:
            _, i = heapq.heappop(worker.queue)
            worker.running += 1
            worker.at_work += self.steps[i].peak
            worker.look()
            self.expects(self.clock + _HANDLING + self.steps[i].seconds, w, i, "ends")

    def take(self, w: int, i: int) -> None:
        """Keep the result of a task that has ended."""
        worker, step = self.workers[w], self.steps[i]
        worker.running -= 1
        worker.unheard += 1
        worker.at_work -= step.peak
        self.known[i] = worker.memory.buffers(i, self.known)
        worker.memory.hold(i, self.known[i])
        worker.look()

    def finish(self, w: int, i: int) -> None:
        """Hear of a result: set free what waits for it, and let go what nobody needs."""
        worker, step = self.workers[w], self.steps[i]
        worker.unheard -= 1
        self.expect(worker, i, -1)
        count, total = self.seen.get(step.kind, (0, 0.0))
        self.seen[step.kind] = (count + 1, total + step.seconds)
        self.sizes[i] = step.size
        self.places[i] = {w}
        for j in reversed(self.dependents[i]):
            self.waiting[j] -= 1
            if not self.waiting[j]:
                self.place(j)
        for d in self.steps[i].deps:
            self.users[d] -= 1
        for d in (*self.steps[i].deps, i):
            if not self.users[d] and not self.steps[d].kept:
                for other in self.places[d]:
                    self.workers[other].memory.release(d)
