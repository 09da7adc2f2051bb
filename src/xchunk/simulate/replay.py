"""Replays of a graph as dask's schedulers would run it, on threads and on a cluster.

dask's local scheduler is replayed exactly but for time: ready tasks are a stack, the tasks
that a finished one sets free are pushed in dask's order, and a result is let go with the last
task that needs it. At any moment the memory holds the results that are alive, each buffer
once however many views there are of it, and the peaks of the tasks that run.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_low

import numpy as np

from xchunk.core.suggest.lazy_pass import SATURATION
from xchunk.simulate.dask_adapter import Key

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
    """Bytes of results, at most."""
    heap: int
    """Bytes of results and of the tasks that run, at most."""
    seconds: float
    """Seconds from the first task to the last."""
    over_time: tuple[tuple[float, float], ...] = ()
    """Parts of the time that have passed, with the parts of ``heap`` that are in use until then."""
    touched: int = 0
    """Bytes of ``heap`` that are more than reserved, at most."""


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

    ``constants`` are the numbers of the steps that are there from the start.
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
    """Bytes of the worker that holds most, at most."""
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

    - ``steps``: the tasks, and the constants, which a cluster handles as tasks without inputs.
    - ``workers``, ``threads``: workers, and tasks that each of them runs at once.
    - ``hearing``: seconds that the scheduler takes for each task that has ended, one after the
      other.
    - returns: what the fullest worker holds, and what is sent.
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
