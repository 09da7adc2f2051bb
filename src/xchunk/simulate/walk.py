"""Walking through a graph in dask's order, and finding what each of its tasks takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dask.utils import key_split

from xchunk.core.blocks import item_nbytes
from xchunk.core.cost import Rates
from xchunk.core.workload import Reads
from xchunk.simulate._dask import (
    AliasNode,
    ConstantNode,
    Graph,
    Key,
    SimulationError,
    TaskNode,
    ordered,
    produces,
)
from xchunk.simulate.lazy import StandIns
from xchunk.simulate.profile import Profiler
from xchunk.simulate.reads import ReadCount
from xchunk.simulate.replay import Step
from xchunk.simulate.signature import sign
from xchunk.simulate.standin import Asked, StandIn
from xchunk.simulate.values import Value

__all__ = ["Walked", "walk"]

#: Seconds of a task that does next to nothing.
_LEAST = 2e-5

#: Tasks after which the clock is looked at.
_LOOK = 200


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
) -> Walked:
    """Find what each task takes.

    Parameters
    ----------
    graph : Graph
        The tasks.
    rates : Rates
        How fast stores and codecs are.
    cap : int
        Bytes of one task beyond which it is not run on noise.
    seconds : float
        Seconds of such runs.
    late : callable, optional
        Tells whether there is no time left.

    Raises
    ------
    SimulationError
        If there is no time left.
    """
    ranks = ordered(graph)
    stand_ins = StandIns(rates)
    profiler = Profiler(cap, seconds)
    values: dict[Key, Value] = {}
    numbers: dict[Key, int] = {}
    steps: list[Step] = []
    constants: dict[int, Key] = {}
    counts: dict[int, ReadCount] = {}
    block, opaque = 0, 0
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
        profile = profiler.profile(task, signature, values)
        values[key] = profile.value
        for stored, asked in signature.reads:
            counts.setdefault(id(stored), ReadCount(stored)).add(asked)
            block = max(block, asked.elements * item_nbytes(stored.dtype))
        opaque += signature.opaque
        deps = tuple(numbers[d] for d in signature.deps)
        steps.append(
            Step(
                tuple(numbers[d] for d in node.dependencies),
                profile.own,
                tuple(deps[v] for v in profile.views),
                profile.peak,
                max(_LEAST, profile.seconds) + _reading(signature.reads, rates),
                rank,
                kept,
                profile.value.nbytes,
                kind,
                produces(node),
                profile.touched,
            )
        )
    notes = []
    if graph.eager:
        notes.append(
            "the workload computes by itself; what it does after its first computation "
            "was not looked at"
        )
    if profiler.assumed:
        why = f" ({profiler.failure})" if profiler.failure else ", being too large to try"
        notes.append(f"{profiler.assumed} kinds of tasks were taken to copy their inputs{why}")
    if opaque:
        notes.append(f"what {opaque} tasks read of stored arrays could not be told")
    return Walked(
        tuple(steps),
        constants,
        _by_name(counts.values()),
        block,
        profiler.runs,
        profiler.assumed,
        tuple(notes),
        profiler.untried,
    )


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
            )
        out[one.name] = one
    return out
