"""Which chunks suit a workload: a function of the data, whose graphs are built and replayed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import xarray as xr

from xchunk._typing import DimChunk
from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest import Suggestion, suggest_dataset
from xchunk.core.units import format_bytes
from xchunk.core.workload import Outcome, Prediction, best_outcomes, reasons
from xchunk.errors import InvalidChunksError, MemoryBudgetError, XchunkError
from xchunk.simulate._dask import Graph, SimulationError, TaskNode, catch
from xchunk.simulate.candidates import candidates
from xchunk.simulate.lazy import lazy_graph
from xchunk.simulate.predict import Effort, predict_walked
from xchunk.simulate.scale import MANY_BLOCKS, enlarged, extended, thinned, twin_shapes
from xchunk.simulate.standin import StandIn
from xchunk.simulate.twins import Shape, Source, blocks_of
from xchunk.simulate.walk import Walked, walk

__all__ = ["Workload", "suggest_workload"]

#: A user's function of what the accessor sits on.
Workload = Callable[[Any], Any]

#: Candidates that are simulated at the most, and seconds after which no more are begun.
_CANDIDATES, _SECONDS = 16, 20.0

#: Tasks up to which a graph is walked as it is; larger ones are predicted from twins.
_TASKS = 5_000

#: Tasks of a twin beyond which there is no second one, and beyond which there is none.
_DEAR, _MOST = 1_500, 20_000


@dataclass(frozen=True)
class _Seen:
    """What was learnt of one candidate: one graph, or those of two twins."""

    walks: tuple[tuple[float, Walked, int], ...]
    """The part of the data, the graph, and the bytes that gathering would add."""
    thinner: bool = False
    """Whether twins have thinner blocks, as many as the data have."""


def suggest_workload(
    groups: Mapping[str, xr.Dataset],
    layouts: Sequence[ArrayLayout],
    function: Workload,
    back: Callable[[dict[str, xr.Dataset]], Any],
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
) -> Suggestion:
    """Suggest chunks for a workload.

    Parameters
    ----------
    groups : mapping of str to Dataset
        The data, by path.
    layouts : sequence of ArrayLayout
        How the variables are stored.
    function : callable
        The workload. It is given data of the same shape, with noise where it would read, and
        returns something lazy. It is called once or twice for each candidate.
    back : callable
        Makes of Datasets what the function takes.
    budget : MemoryBudget
        What one worker may grow by, and its threads.
    rates : Rates, optional
        How fast stores, codecs and the scheduler are.

    Returns
    -------
    Suggestion
        The variables that the workload uses have the chunks that were found best.

    Raises
    ------
    InvalidChunksError
        If the function fails whatever the chunks, or uses nothing that is stored.
    MemoryBudgetError
        If no candidate fits.
    """
    if not callable(function):
        raise InvalidChunksError(
            f"workload={function!r} is not a function. Give what will be computed as one that "
            "takes the data: workload=lambda ds: ds.t2m.mean('time')."
        )
    rates = rates or Rates()
    source = Source(groups, {v.name: v for v in layouts}, rates)
    study = _Study(source, function, back, budget, rates)
    used = study.used()
    outcomes, seen = study.outcomes(used)
    threads = max(1, budget.threads)
    best = best_outcomes(outcomes, budget)
    while not best and threads > 1:
        threads //= 2
        outcomes = [
            o if s is None else replace(o, prediction=study.predict(s, threads))
            for o, s in zip(outcomes, seen, strict=True)
        ]
        best = best_outcomes(outcomes, budget)
    if not best:
        raise _too_large(outcomes, budget)
    return _suggestion(layouts, best, outcomes, budget, rates)


@dataclass
class _Study:
    """One workload on one source."""

    source: Source
    function: Workload
    back: Callable[[dict[str, xr.Dataset]], Any]
    budget: MemoryBudget
    rates: Rates
    _small: bool = True
    _fewest: int = 10**9

    def graph(
        self, chunks: Mapping[str, Mapping[str, DimChunk]], shape: Shape | None = None
    ) -> tuple[Graph, int]:
        """Build the graph for some chunks; whatever the user's function raises comes through."""
        result = catch(lambda twin: self.function(self.back(twin)), self.source.twin(chunks, shape))
        if isinstance(result, Graph):
            return result, 0
        # What is gathered is decided by the real result, not by a twin's.
        gather = None
        if shape is not None:
            gather = self._small
        graph, gathered = lazy_graph(result, gather=gather)
        return graph, gathered

    def used(self) -> list[ArrayLayout]:
        """The variables that the workload reads, the largest first."""
        movable = self.source.movable
        if not movable:
            raise InvalidChunksError(
                "there is nothing to chunk: all variables are in memory. A workload is simulated "
                "for data that are stored, opened with chunks=None or as dask arrays."
            )
        # The fewest blocks make the smallest graph.
        try:
            graph, gathered = self.graph({})
        except XchunkError:
            raise
        except Exception as error:
            raise InvalidChunksError(
                f"the workload failed on a stand-in for the data, with every variable in one "
                f"block: {type(error).__name__}: {error}. It has to work on dask arrays and must "
                "not depend on values that are not loaded."
            ) from error
        self._small = gathered == 0
        names = {s.layout.name for s in _stand_ins(graph)}
        lazy = {n for n, v in movable.items() if v.format == "dask"}
        found = [v for n, v in movable.items() if n in names or n in lazy]
        if not found:
            raise InvalidChunksError(
                "the workload reads none of the variables that are stored, so that chunks make "
                f"no difference to it. They are {', '.join(map(repr, movable))}."
            )
        return sorted(found, key=lambda v: -v.nbytes)

    def outcomes(self, used: Sequence[ArrayLayout]) -> tuple[list[Outcome], list[_Seen | None]]:
        """Simulate the candidates."""
        outcomes: list[Outcome] = []
        seen: list[_Seen | None] = []
        begun, started = time.process_time(), time.monotonic()
        for label, chunks in candidates(used, self.budget, self.rates):
            late = (
                time.process_time() - begun > _SECONDS or time.monotonic() - started > 3 * _SECONDS
            )
            if len(outcomes) >= _CANDIDATES or (late and any(s is not None for s in seen)):
                break
            blocks = {v.name: math.prod(blocks_of(v, chunks[v.name]).values()) for v in used}
            found, failure = None, ""
            try:
                found = self.look(used, chunks)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
            prediction = None
            if found is not None:
                prediction = self.predict(found, max(1, self.budget.threads))
            outcomes.append(Outcome(label, chunks, prediction, failure, blocks))
            seen.append(found)
        if all(s is None for s in seen):
            raise InvalidChunksError(
                "the workload failed with every candidate's chunks; with "
                f"{outcomes[0].label}: {outcomes[0].failure}"
            )
        return outcomes, seen

    def look(
        self, used: Sequence[ArrayLayout], chunks: Mapping[str, Mapping[str, DimChunk]]
    ) -> _Seen:
        """Walk through the graph of a candidate, or through those of two smaller twins."""
        main = used[0]
        blocks = blocks_of(main, chunks[main.name])
        thin = thinned(main, chunks[main.name])
        if math.prod(blocks.values()) <= MANY_BLOCKS and not thin:
            graph, gathered = self.graph(chunks)
            if graph.tasks <= _TASKS:
                return _Seen(((1.0, self._walk(graph), gathered),))
        walks: list[tuple[float, Walked, int]] = []
        shapes = twin_shapes(main, chunks[main.name], blocks, thin)
        for shape in shapes:
            graph, gathered = self.graph(chunks, shape)
            walks.append((shape.fraction(self.source.sizes), self._walk(graph), gathered))
            if not shape.keep and graph.tasks > _DEAR:
                break
        return _Seen(tuple(walks), thinner=not shapes[0].keep)

    def _walk(self, graph: Graph) -> Walked:
        """Walk through a graph, unless others are so much smaller that it cannot be the best."""
        limit = min(_MOST, 4 * self._fewest + _TASKS)
        if graph.tasks > limit:
            raise SimulationError(
                f"it makes {graph.tasks} tasks or more, {graph.tasks / self._fewest:.0f} times "
                "as many as others, and was not looked at"
                if self._fewest < _MOST
                else f"it makes {graph.tasks} tasks or more, too many to look at"
            )
        effort = Effort(seconds=5.0)
        walked = walk(graph, self.rates, cap=effort.cap, seconds=effort.seconds)
        self._fewest = min(self._fewest, graph.tasks)
        return walked

    def predict(self, seen: _Seen, threads: int) -> Prediction:
        """Replay what was walked through; from twins, draw a straight line to the whole."""
        workers = max(1, self.budget.workers)
        found = [
            (
                part,
                predict_walked(
                    w, threads=threads, workers=workers, rates=self.rates, gathered=gathered
                ),
            )
            for part, w, gathered in seen.walks
        ]
        if len(found) > 1:
            return extended(found)
        part, one = found[0]
        return one if part == 1 else enlarged(one, part)


def _stand_ins(graph: Graph) -> Iterator[StandIn]:
    """All stand-ins that a graph names."""
    stack: list[Any] = list(graph.nodes.values())
    while stack:
        node = stack.pop()
        if isinstance(node, StandIn):
            yield node
        elif isinstance(node, TaskNode):
            stack += [*node.args, *node.kwargs.values()]
        elif isinstance(node, dict):
            stack += node.values()
        elif isinstance(getattr(node, "value", None), StandIn):
            yield node.value


def _suggestion(
    layouts: Sequence[ArrayLayout],
    best: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    budget: MemoryBudget,
    rates: Rates,
) -> Suggestion:
    """The suggestion for a plain scan, with what the simulation found put in."""
    chosen, others = best[0], best[1:]
    p = chosen.prediction
    if p is None:
        raise RuntimeError("a candidate was chosen that cannot be run")
    tried = sum(o.prediction is not None for o in outcomes)
    why, runner_up, close = reasons(chosen, others, budget, tried)
    base = suggest_dataset(layouts, "scan", budget, rates=rates)
    variables = dict(base.variables)
    for name, own in chosen.chunks.items():
        reads = p.reads.get(name)
        whole = set(blocks_of(variables[name].layout, own).values()) == {1}
        small = variables[name].action == "load" and whole
        variables[name] = replace(
            variables[name],
            action="load" if small else "chunk",
            chunks=dict(own),
            projected_mem=math.ceil(p.peak / max(1, p.threads)),
            worker_mem=p.peak,
            threads=p.threads,
            tasks=chosen.blocks.get(name, 1),
            read_amplification=1.0 if reads is None else reads.amplification,
            seconds_now=p.seconds,
            seconds_after=None,
            rechunk_seconds=None,
            break_even_passes=None,
            binding="threads" if p.threads < budget.threads else "workload",
            runner_up=runner_up,
            close_call=close,
            why=why,
        )
    return replace(
        base,
        variables=variables,
        access="workload",
        prediction=p,
        runner_up=others[0] if others else None,
        outcomes=tuple(outcomes),
    )


def _too_large(outcomes: Sequence[Outcome], budget: MemoryBudget) -> MemoryBudgetError:
    found = [(o.prediction.peak, o) for o in outcomes if o.prediction is not None]
    needed, least = min(found, key=lambda f: f[0])
    return MemoryBudgetError(
        f"the workload does not fit a worker that may grow by {format_bytes(budget.max_mem)}, "
        f"however the data are chunked: of {len(found)} ways that were simulated, {least.label} "
        f"takes the least, {format_bytes(needed)} with one thread. Give a worker that much "
        f"(max_mem={needed}), or rechunk the data first, as suggest(access=...) would.",
        needed=needed,
        allowed=budget.max_mem,
        smallest=needed,
    )
