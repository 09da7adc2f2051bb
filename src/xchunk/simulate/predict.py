"""Predictions for a lazy result: tasks, reads, memory and time, from its graph alone."""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from dask.utils import key_split
from numpy.typing import NDArray

from xchunk.core.cost import LOCAL_TASK, Rates
from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import PROCESS_OVERHEAD, TASK_NBYTES, TASK_OVERHEAD
from xchunk.core.reports.workload import Prediction, Reads
from xchunk.core.suggest.access import dim_roles
from xchunk.core.suggest.lazy_pass import item_nbytes
from xchunk.core.types import DimChunk
from xchunk.simulate.dask_adapter import (
    AliasNode,
    ConstantNode,
    Graph,
    Key,
    SimulationError,
    TaskNode,
    ordered,
    produces,
)
from xchunk.simulate.lazy import Shape, StandIns, lazy_graph
from xchunk.simulate.replay import Step, on_racing_threads, on_workers
from xchunk.simulate.signature import (
    Hole,
    Signature,
    Value,
    arrays_in,
    filled,
    resized,
    root_of,
    sign,
    spread,
    value_of,
)
from xchunk.simulate.standin import RESERVED, Asked, StandIn

#: Tasks alike but for small contents, of which as many are run before one stands for all.
_ALIKE = 3

#: Bytes of a run up to which there is a second one: the first may import, and fill caches.
_QUICK = 32_000_000

#: What looking at a graph costs: seconds for each of its tasks, for each run of one on noise,
#: and for each byte that such a run takes. They are those of a quiet laptop, and fixed, so that
#: what is looked at, and what comes of it, does not depend on what else a machine does.
WALK, _RUN, _BYTE = 3e-4, 2e-3, 3e-10

#: Seconds that a task takes, and for each byte of its inputs and of what it makes of them. Chunks
#: are chosen by these, and not by what a busy machine makes of them.
_TASK, _MOVED = 1e-4, 4e-10


@dataclass
class Spent:
    """What was spent on looking at graphs."""

    seconds: float = 0.0
    """Seconds of a quiet laptop, counted."""
    timed: bool = False
    """Whether runs of tasks count as long as they took, however long that is elsewhere."""


@dataclass(frozen=True)
class Profile:
    """What one task takes and gives."""

    value: Value
    """What its result is like."""
    own: int
    """Bytes of the result that no input owns."""
    views: tuple[int, ...]
    """Numbers of the inputs whose memory the result keeps."""
    peak: int
    """Bytes that it takes at its peak besides its inputs, its result included."""
    touched: int
    """Bytes of these that are more than reserved: the system gives no page before it is written."""
    seconds: float
    """Seconds that it takes, without reading, as they are counted."""
    measured: float
    """The same as one like it was seen to take."""

    @property
    def kind(self) -> Hashable:
        """Equal for profiles that a replay cannot tell apart."""
        return (self.value.coarse, self.own, self.views)


@dataclass
class Profiler:
    """Runs one task for each signature."""

    cap: int
    """Bytes of inputs and reads beyond which a task is not run."""
    seconds: float
    """Seconds, as they are counted, after which only the first task of each layer is run."""
    all_spent: Spent
    """What all of it costs."""
    runs: int = 0
    """Tasks that were run."""
    assumed: int = 0
    """Signatures whose tasks were not run, or failed."""
    guessed: int = 0
    """Of these, those that were taken to be like tasks of the same layer that were run."""
    untried: int = 0
    """Bytes of the largest task that was not run because it is above the cap."""
    failure: str = ""
    """What the first task that failed said."""
    _spent: float = 0.0
    _found: dict[Hashable, Profile] = field(default_factory=dict)
    _alike: dict[Hashable, list[Profile]] = field(default_factory=lambda: defaultdict(list))
    _layers: dict[str, list[tuple[int, Profile]]] = field(default_factory=lambda: defaultdict(list))

    def profile(
        self, task: TaskNode, signature: Signature, values: Mapping[Key, Value], layer: str
    ) -> Profile:
        """Find what a task takes, by a run of one like it, or of its layer."""
        found = self._found.get(signature.strict)
        if found is not None:
            return found
        alike = self._alike[signature.coarse]
        if len(alike) >= _ALIKE and len({p.kind for p in alike}) == 1:
            return alike[0]
        inputs = [values[k] for k in signature.deps] + signature.literals
        read = sum(a.elements * item_nbytes(s.dtype) for s, a in signature.reads)
        nbytes = sum(v.nbytes for v in inputs) + read
        # small inputs can make a result that no memory holds, the sooner where they are guesses
        most = max(nbytes, spread(inputs))
        if most > self.cap and all(v.known for v in inputs):
            self.untried = max(self.untried, most)
        # one of each layer is tried in any case: without any, nothing would be known of it
        late = self._spent > self.seconds and layer in self._layers
        if most > self.cap or late:
            # one that is alike stands for it once there is no more time
            new = alike[0] if alike else self._guess(inputs, read, signature, layer)
        else:
            new = self._run(task, signature, values, inputs, read)
            self._layers[layer].append((nbytes, new))
            self._spent += self._cost(nbytes, new)
            self.all_spent.seconds += self._cost(nbytes, new)
        self._found[signature.strict] = new
        alike.append(new)
        return new

    def _run(
        self,
        task: TaskNode,
        signature: Signature,
        values: Mapping[Key, Value],
        inputs: list[Value],
        read: int,
    ) -> Profile:
        self.runs += 1
        given = {k: filled(values[k].template) for k in signature.deps}
        owners = [{id(root_of(a)) for a in arrays_in(given[k])} for k in signature.deps]
        started = not tracemalloc.is_tracing()
        if started:
            tracemalloc.start(1)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                modules = len(sys.modules)
                result, peak, touched, seconds = _watched(task, given)
                slow = self.all_spent.timed and seconds > self.seconds / 4
                quick = sum(v.nbytes for v in inputs) + read <= _QUICK
                if (quick or len(sys.modules) > modules) and not slow:
                    del result
                    result, again, used, less = _watched(task, given)
                    peak, touched = min(peak, again), min(touched, used)
                    seconds = min(seconds, less)
        except Exception as error:
            self.failure = self.failure or f"{type(error).__name__}: {error}"
            return self._assume(inputs, read, signature)
        finally:
            if started:
                tracemalloc.stop()
        views, own = set(), 0
        seen: set[int] = set()
        for array in arrays_in(result):
            root = root_of(array)
            holder = next((i for i, ids in enumerate(owners) if id(root) in ids), None)
            if holder is not None:
                views.add(holder)
            elif id(root) not in seen:
                seen.add(id(root))
                own += int(getattr(root, "nbytes", array.nbytes))
        kept = tuple(sorted(views))
        peak = max(peak, own)
        # what only shows its inputs does not touch them
        moved = peak if views and not own else sum(v.nbytes for v in inputs) + read + peak
        counted = _TASK + moved * _MOVED
        return Profile(value_of(result), own, kept, peak, max(touched, own), counted, seconds)

    def _cost(self, nbytes: int, found: Profile) -> float:
        """What a run has cost, as it is counted."""
        times = 2 if nbytes <= _QUICK else 1
        seconds = found.measured if self.all_spent.timed else found.seconds
        return times * (max(_RUN, seconds) + (nbytes + found.peak) * _BYTE)

    def _guess(self, inputs: list[Value], read: int, signature: Signature, layer: str) -> Profile:
        """Take a task to make as much of its inputs as those of its layer that were run did.

        The tasks of a ``groupby`` differ in how many elements of a block are of a group, so that
        each is of a kind of its own.
        """
        nbytes = sum(v.nbytes for v in inputs) + read
        tried = [(n, p) for n, p in self._layers.get(layer, ()) if n]
        if not tried or not nbytes:
            return self._assume(inputs, read, signature)
        self.assumed += 1
        self.guessed += 1
        share = nbytes / sum(n for n, _ in tried)
        own, peak, touched = (
            round(share * sum(getattr(p, name) for _, p in tried))
            for name in ("own", "peak", "touched")
        )
        # a view too shows no more of its inputs than others do, and is no larger for being free
        shown = round(share * sum(p.value.nbytes for _, p in tried))
        like = min((p for _, p in tried), key=lambda p: abs(p.own - own))
        views = tuple(v for v in like.views if v < len(signature.deps))
        seconds, measured = (
            share * sum(getattr(p, name) for _, p in tried) for name in ("seconds", "measured")
        )
        value = resized(like.value, shown if views else own)
        return Profile(value, own, views, peak, touched, seconds, measured)

    def _assume(self, inputs: list[Value], read: int, signature: Signature) -> Profile:
        """Take a task to copy all its inputs into one array, as those that gather do."""
        self.assumed += 1
        nbytes = sum(v.nbytes for v in inputs) + read
        largest = max(inputs, key=lambda v: v.nbytes, default=None)
        if signature.reads:
            stored, asked = max(signature.reads, key=lambda r: r[1].elements)
            hole = Hole(asked.shape, stored.dtype)
            value = Value(hole, hole, hole, read, known=False)
        elif largest is None:
            value = value_of(None)
        else:
            value = replace(largest, known=False)
        temporary = max((s.temporary(a) for s, a in signature.reads), default=0)
        peak = nbytes + temporary
        counted = _TASK + (nbytes + peak) * _MOVED
        return Profile(value, nbytes, (), peak, peak, counted, counted)


def _watched(task: TaskNode, given: Mapping[Key, Any]) -> tuple[Any, int, int, float]:
    """Run a task; its result, bytes at its peak, those that are touched, and seconds."""
    tracemalloc.reset_peak()
    RESERVED.most = 0
    before = tracemalloc.get_traced_memory()[0]
    start = time.thread_time()
    result = task(given)
    seconds = time.thread_time() - start
    touched = tracemalloc.get_traced_memory()[1]
    return result, max(touched, RESERVED.most) - before, touched - before, seconds


#: Stored chunks of one array beyond which those that are touched are not told apart.
_MANY = 50_000_000


@dataclass
class ReadCount:
    """Counts while the graph is walked."""

    stored: StandIn
    """The array."""
    requests: int = 0
    """How many times a part was asked for."""
    decodes: int = 0
    """Chunks decoded."""
    elements: int = 0
    """Elements decoded."""
    _touched: NDArray[np.bool_] | None = field(default=None, repr=False)

    def add(self, asked: Asked) -> None:
        """Count one request."""
        self.requests += 1
        self.decodes += asked.chunks if self.stored.is_chunked else 1
        self.elements += asked.decoded
        counts = self.stored.grid.counts
        if not self.stored.is_chunked or math.prod(counts) > _MANY:
            return
        if self._touched is None:
            self._touched = np.zeros(counts, bool)
        self._touched[np.ix_(*(np.asarray(p, np.intp) for p in asked.picks))] = True

    def total(self) -> Reads:
        """The counts so far."""
        item = item_nbytes(self.stored.layout.stored_dtype)
        distinct = min(self.elements, math.prod(self.stored.shape))
        if self._touched is not None:
            distinct = self._elements(self._touched)
        return Reads(
            self.stored.layout.name,
            self.requests,
            self.decodes,
            self.elements * item,
            distinct * item,
            self.stored.layout.codecs,
        )

    def _elements(self, touched: NDArray[np.bool_]) -> int:
        total: Any = touched.astype(np.float64)
        for axis in reversed(self.stored.grid.axes):
            bounds = (axis.bounds(i) for i in range(axis.count))
            total = total @ np.array([b - a for a, b in bounds], np.float64)
        return round(float(total))


#: Seconds of a task that does next to nothing.
_LEAST = 2e-5

#: Tasks after which the clock is looked at.
_LOOK = 20


@dataclass(frozen=True)
class Walked:
    """A graph, with what each of its tasks takes."""

    steps: tuple[Step, ...]
    """The tasks and constants."""
    constants: Mapping[int, Key]
    """Numbers of the steps that are constants."""
    reads: Mapping[str, Reads]
    """What is read of each stored array."""
    block: int
    """Bytes of the largest part that is read at once."""
    profiled: int
    """Tasks that were run on noise."""
    assumed: int
    """Kinds of tasks that were not."""
    notes: tuple[str, ...]
    """What limits the prediction."""
    untried: int = 0
    """Bytes of the largest task that was not run because it is too large; 0: there is none."""
    slow: float = 1.0
    """How many times as long as counted its tasks were seen to take."""

    def critical(self) -> float:
        """Seconds of the longest chain of tasks."""
        ends: list[float] = []
        for step in self.steps:
            ends.append(step.seconds + max((ends[d] for d in step.deps), default=0.0))
        return max(ends, default=0.0)


def walk(
    graph: Graph,
    rates: Rates,
    *,
    cap: int,
    seconds: float,
    late: Callable[[], bool] | None = None,
    spent: Spent | None = None,
) -> Walked:
    """Find what each task takes.

    Tasks of more than ``cap`` bytes are not run on noise, nor any after so many ``seconds`` of such
    runs, as they are counted; ``late`` tells whether there is no time left. ``spent`` is added to.

    - raises `SimulationError` if there is no time left.
    """
    ranks = ordered(graph)
    stand_ins = StandIns(rates)
    spent = spent or Spent()
    spent.seconds += graph.tasks * WALK
    profiler = Profiler(cap, seconds, spent)
    values: dict[Key, Value] = {}
    numbers: dict[Key, int] = {}
    steps: list[Step] = []
    constants: dict[int, Key] = {}
    counts: dict[int, ReadCount] = {}
    block, opaque = 0, 0
    measured = 0.0
    for key in _topological(graph, ranks):
        node = graph.nodes[key]
        number = numbers[key] = len(steps)
        if late is not None and number % _LOOK == 0 and late():
            raise SimulationError("there was no time left to look at it")
        rank, kept = ranks.get(key, number), key in graph.outputs
        kind = key_split(key)
        if isinstance(node, ConstantNode):
            values[key] = stand_ins.value(key, node.value)
            constants[number] = key
            steps.append(Step((), 0, (), 0, 0.0, rank, kept))
            continue
        if isinstance(node, AliasNode):
            target = numbers[node.target]
            values[key] = values[node.target]
            size = values[key].nbytes
            steps.append(Step((target,), 0, (target,), 0, _LEAST, rank, kept, size, kind))
            continue
        if not isinstance(node, TaskNode):
            raise SimulationError(f"the graph has a {type(node).__name__}, which is not known")
        task = stand_ins.replaced(node)
        signature = sign(task, values)
        profile = profiler.profile(task, signature, values, kind)
        values[key] = profile.value
        for stored, asked in signature.reads:
            counts.setdefault(id(stored), ReadCount(stored)).add(asked)
            block = max(block, asked.elements * item_nbytes(stored.dtype))
        opaque += signature.opaque
        deps = tuple(numbers[d] for d in signature.deps)
        reading = _reading(signature.reads, rates)
        measured += max(_LEAST, profile.measured) + reading
        steps.append(
            Step(
                tuple(numbers[d] for d in node.dependencies),
                profile.own,
                tuple(deps[v] for v in profile.views),
                profile.peak,
                max(_LEAST, profile.seconds) + reading,
                rank,
                kept,
                profile.value.nbytes,
                kind,
                produces(node),
                profile.touched,
            )
        )
    return Walked(
        tuple(steps),
        constants,
        _by_name(counts.values()),
        block,
        profiler.runs,
        profiler.assumed,
        _notes(graph, profiler, opaque),
        profiler.untried,
        measured / max(_LEAST, math.fsum(s.seconds for s in steps)) if measured else 1.0,
    )


def _notes(graph: Graph, profiler: Profiler, opaque: int) -> tuple[str, ...]:
    """Say what limits a prediction."""
    notes = []
    if graph.eager:
        notes.append(
            "the workload computes by itself; what it does after its first computation "
            "was not looked at"
        )
    copying = profiler.assumed - profiler.guessed
    if profiler.guessed:
        notes.append(
            f"{profiler.guessed} kinds of tasks were not tried, and taken to be like others of "
            "their layer"
        )
    if copying:
        why = f" ({profiler.failure})" if profiler.failure else ", being too large to try"
        notes.append(f"{copying} kinds of tasks were taken to copy their inputs{why}")
    if opaque:
        notes.append(f"what {opaque} tasks read of stored arrays could not be told")
    return tuple(notes)


def _topological(graph: Graph, ranks: Mapping[Key, int]) -> Iterator[Key]:
    """All keys, in dask's order as far as it is one in which inputs come first."""
    seen: set[Key] = set()
    for first in sorted(graph.nodes, key=lambda k: ranks.get(k, -1)):
        stack = [first]
        while stack:
            key = stack[-1]
            if key in seen:
                stack.pop()
                continue
            before = [d for d in graph.nodes[key].dependencies if d not in seen]
            if before:
                stack += before
            else:
                seen.add(key)
                stack.pop()
                yield key


def _reading(reads: Sequence[tuple[StandIn, Asked]], rates: Rates) -> float:
    """Seconds that one thread takes to read and decode."""
    total = 0.0
    for stored, asked in reads:
        raw = asked.decoded * item_nbytes(stored.layout.stored_dtype)
        decode = rates.decode if stored.layout.codecs else rates.copy
        chunks = asked.chunks if stored.is_chunked else 1
        total += raw / decode + raw * stored.compression / rates.bandwidth
        total += chunks * rates.latency
    return total


def _by_name(counts: Iterable[ReadCount]) -> dict[str, Reads]:
    """The reads of each array; arrays of one name, as of several files, count as one."""
    out: dict[str, Reads] = {}
    for count in counts:
        one = count.total()
        if one.name in out:
            known = out[one.name]
            one = Reads(
                one.name,
                known.requests + one.requests,
                known.decodes + one.decodes,
                known.nbytes + one.nbytes,
                known.distinct + one.distinct,
                known.codecs,
            )
        out[one.name] = one
    return out


@dataclass(frozen=True)
class Effort:
    """How much a prediction may cost."""

    cap: int = 400_000_000
    """Bytes of one task beyond which it is not run on noise."""
    seconds: float = 10.0
    """Seconds of such runs for one graph, as a quiet laptop takes them."""
    tasks: int = 100_000
    """Tasks beyond which a graph is not walked."""


def predict(
    lazy: Any,
    *,
    threads: int = 1,
    workers: int = 1,
    gather: bool | None = None,
    effort: Effort | None = None,
) -> Prediction:
    """Predict what computing a lazy result would take; it is not computed.

    A large result is taken to be written block by block, as ``to_zarr`` does, unless ``gather``
    says that it is gathered in memory.

    - raises `SimulationError` if there is nothing lazy, or dask's graphs are not as they are known
      to be.
    """
    effort, rates = effort or Effort(), Rates()
    graph, gathered = lazy_graph(lazy, gather=gather)
    if graph.tasks > effort.tasks:
        raise SimulationError(
            f"the graph has {graph.tasks} tasks, more than the {effort.tasks} that a prediction "
            "walks through. Predict a part of the data, or raise effort.tasks."
        )
    walked = walk(graph, rates, cap=effort.cap, seconds=effort.seconds)
    return predict_walked(walked, threads=threads, workers=workers, rates=rates, gathered=gathered)


def predict_walked(
    walked: Walked, *, threads: int, workers: int = 1, rates: Rates, gathered: int = 0
) -> Prediction:
    """Replay a graph that was walked through, for some threads and workers."""
    local = on_racing_threads(walked.steps, threads, walked.constants)
    tasks = len(walked.steps) - len(walked.constants)
    scheduling = tasks * rates.task
    common, over_time = local.seconds + scheduling, local.over_time
    heap, moved = local.heap + tasks * TASK_NBYTES, 0
    if workers > 1:
        cluster = on_workers(walked.steps, workers, threads, rates.task)
        common, moved, over_time = cluster.seconds, cluster.moved, cluster.over_time
        scheduling = 0.0
        heap = cluster.heap + PROCESS_OVERHEAD + threads * TASK_OVERHEAD
    return Prediction(
        tasks=tasks,
        reads=walked.reads,
        live=local.live,
        heap=local.heap + tasks * TASK_NBYTES,
        threads=threads,
        seconds=(common - scheduling) * walked.slow + min(scheduling, tasks * LOCAL_TASK),
        work=common,
        critical=walked.critical() * walked.slow,
        gathered=gathered,
        workers=workers,
        worker_heap=heap,
        moved=moved,
        block=walked.block,
        profiled=walked.profiled,
        assumed=walked.assumed,
        notes=walked.notes,
        over_time=over_time,
        touched=local.touched + tasks * TASK_NBYTES,
    )


#: Blocks of the largest variable beyond which a graph is not even built, and of its twins.
MANY_BLOCKS, _FEW = 400, 60

#: Bytes of a block beyond which tasks are tried on thinner ones.
_BLOCK = 16_000_000

#: Windows that workloads often have are divisors of it: those that divide a dim are to divide a
#: twin's too.
_WINDOW = 12

#: Elements that a block keeps along a dim that is thinned.
_SHORTEST = 16


def thinned(main: ArrayLayout, own: Mapping[str, DimChunk], largest: int = 0) -> dict[str, float]:
    """By how much to thin which dims so that blocks are quick to try; nothing if they are.

    ``largest`` is what a task takes that was found to be too large.
    """
    longest = {d: Axis.of(n, _plain(own[d], n)).chunk for d, n in main.sizes.items()}
    nbytes = max(largest, math.prod(longest.values()) * main.dtype.itemsize)
    if nbytes <= _BLOCK:
        return {}
    roles = dim_roles([main])
    flat = [d for d in main.dims if roles.get(d) == "H"] or [
        d for d in main.dims if roles.get(d) != "T"
    ]
    # One dim if it is long enough: a line through two twins is then right also for what grows
    # with another dim only, or does not grow at all.
    flat = sorted(flat or main.dims[-1:], key=lambda d: -longest[d])
    left, out = _BLOCK / 2 / nbytes, {}
    for d in flat:
        if left < 1:
            out[d] = min(1.0, max(left, _SHORTEST / longest[d]))
            left /= out[d]
    return out


@dataclass(frozen=True)
class Twin:
    """A smaller likeness of the data, and in what way it is larger than the smallest one."""

    shape: Shape
    """How it differs from the data."""
    by: float = 1.0
    """How many times as large as the smallest it is."""
    to: float = 1.0
    """How many times as large the data are, in the dims in which it is larger."""


def twin_shapes(
    main: ArrayLayout,
    own: Mapping[str, DimChunk],
    blocks: Mapping[str, int],
    thin: Mapping[str, float],
    few: int | None = None,
) -> list[Twin]:
    """Choose a small twin, of few blocks if that is asked for, and larger ones.

    One is larger in space and one in each other dim that was cut, about twice, since what a
    workload takes may grow with one and not with another.
    """
    roles = dim_roles([main])
    axes = {d: Axis.of(n, _plain(own[d], n)) for d, n in main.sizes.items()}
    order = sorted(main.dims, key=lambda d: (roles.get(d) != "H", -blocks[d]))
    counts = dict(blocks)

    def total() -> int:
        return math.prod(counts.values())

    if total() > MANY_BLOCKS or few is not None:
        few = min(_FEW, few or _FEW)
        # horizontal dims first, since time and height have the meaning that uses depend on
        for d in order:
            while total() > few and counts[d] > 3:
                counts[d] = max(3, counts[d] // 2)
            counts[d] = _evenly(axes[d], counts[d])
    keep = {d: axes[d].bounds(counts[d] - 1)[1] for d in counts if counts[d] < blocks[d]}
    small = Shape(keep, thin)
    out = [Twin(small)]
    if not keep:
        for d, factor in thin.items():
            large = Shape({}, {**thin, d: min(1.0, 2 * factor)})
            by = large.fraction(main.sizes) / small.fraction(main.sizes)
            if by > 1:
                out.append(Twin(large, by, 1 / Shape({}, {d: factor}).fraction(main.sizes)))
        return out
    flat = [d for d in order if d in keep and roles.get(d) == "H"]
    for group in [flat, *([d] for d in order if d in keep and d not in flat)]:
        if group:
            d = group[0]
            end = axes[d].bounds(min(blocks[d], 2 * counts[d]) - 1)[1]
            to = math.prod(main.sizes[d] / keep[d] for d in group)
            out.append(Twin(replace(small, keep={**keep, d: end}), end / keep[d], to))
    return out


def _evenly(axis: Axis, count: int) -> int:
    """As many blocks or a few more, so that what divides the whole dim divides their length too."""
    unit = math.gcd(axis.size, _WINDOW)
    more = range(count, min(axis.count, 4 * count) + 1)
    return next((c for c in more if axis.bounds(c - 1)[1] % unit == 0), count)


def _plain(chunk: DimChunk, n: int) -> DimChunk:
    return max(1, n) if chunk == -1 else chunk


def extended(found: Sequence[tuple[Twin, Prediction]]) -> Prediction:
    """Draw lines through what twins take, to what the data take.

    What is thinned in all of them is left as it is; see `Prediction.enlarged`.
    """
    small = found[0][1]
    twins = [twin for twin, _ in found]

    def line(name: str) -> float:
        return grown(twins, [getattr(p, name) for _, p in found])

    def whole(name: str) -> int:
        return round(line(name))

    def read(name: str, what: str) -> int:
        of = [p.reads for _, p in found]
        return round(grown(twins, [getattr(r[name], what) if name in r else 0 for r in of]))

    reads = {}
    for name, known in small.reads.items():
        nbytes, distinct = read(name, "nbytes"), read(name, "distinct")
        counts = read(name, "requests"), read(name, "decodes"), nbytes, distinct
        reads[name] = Reads(name, *counts, known.codecs)
    return replace(
        found[-1][1],
        tasks=whole("tasks"),
        reads=reads,
        live=whole("live"),
        heap=whole("heap"),
        touched=whole("touched"),
        worker_heap=whole("worker_heap"),
        moved=whole("moved"),
        gathered=whole("gathered"),
        block=whole("block"),
        seconds=line("seconds"),
        work=line("work"),
        critical=line("critical"),
        scaled=math.prod(twin.to for twin, _ in found[1:]),
    )


#: How much more than in proportion has to be grown for it not to be an accident of small twins,
#: and the highest power that is believed.
_STEEP, _STEEPEST = 1.15, 3.0


def grown(twins: Sequence[Twin], values: Sequence[float]) -> float:
    """Draw lines through what twins have of something, the smallest first.

    What grows in proportion at most has a part that does not grow. What grows faster, as tasks
    do where each block takes all others, grows with a power of the size.
    """
    first, *others = values
    out = first
    for twin, other in zip(twins[1:], others, strict=True):
        if first > 0 and twin.by > 1:
            times = other / first
            if times > twin.by * _STEEP:
                out *= twin.to ** min(_STEEPEST, math.log(times) / math.log(twin.by))
                continue
            slope = (times - 1) / (twin.by - 1)
            # at most in proportion: nothing is smaller than nothing where there are no data
            out *= min(twin.to, max(1.0, 1 + slope * (twin.to - 1)))
    return out if first > 0 else max(others, default=0.0)


def _grown_steps(twins: Sequence[Twin], walks: Sequence[Walked]) -> tuple[Step, ...] | None:
    """Draw lines through what each task takes; None where the twins' tasks are not the same."""
    # dask has the inputs of a task in no order
    first, *others = ([(set(s.deps), set(s.views), s.kind, s.kept) for s in w.steps] for w in walks)
    if any(other != first for other in others):
        return None

    def line(values: Sequence[int]) -> int:
        return round(grown(twins, values))

    out = []
    for same in zip(*(w.steps for w in walks), strict=True):
        own = line([s.own for s in same])
        peak = max(own, line([s.peak for s in same]))
        touched = line([s.peak if s.touched is None else s.touched for s in same])
        size = line([s.size for s in same])
        seconds = grown(twins, [s.seconds for s in same])
        more = replace(same[0], own=own, peak=peak, size=size, seconds=seconds)
        out.append(replace(more, touched=min(peak, max(own, touched))))
    return tuple(out)


def predict_twins(
    seen: Sequence[tuple[Twin, Walked, int]],
    part: float,
    *,
    threads: int,
    workers: int,
    rates: Rates,
) -> Prediction:
    """Replay what was walked through; from twins, draw straight lines to the whole.

    ``seen`` has the twins, the smallest first, their graphs, and the bytes that gathering would
    add; ``part`` is the part of the data that all of them have of what they do not differ in.
    """

    def replayed(walked: Walked, gathered: int = 0) -> Prediction:
        return predict_walked(
            walked, threads=threads, workers=workers, rates=rates, gathered=gathered
        )

    found = [(twin, replayed(walked, gathered)) for twin, walked, gathered in seen]
    one = found[0][1]
    if len(found) > 1:
        one = extended(found)
        steps = _grown_steps([t for t, _, _ in seen], [w for _, w, _ in seen])
        if steps is not None:
            # Which tasks make the peak is another matter in thin blocks than in whole ones: each
            # task is made larger before the replay where that can be.
            whole = replayed(replace(seen[0][1], steps=steps))
            kept = ("live", "heap", "worker_heap", "moved", "over_time", "touched")
            one = replace(one, **{name: getattr(whole, name) for name in kept})
    return one if part == 1 else one.enlarged(part)
