"""Which chunks suit a workload: a function of the data, whose graphs are built and replayed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import xarray as xr

from xchunk._typing import DimChunk
from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest import Suggestion
from xchunk.core.workload import Outcome, Prediction, best_outcomes
from xchunk.errors import InvalidChunksError, XchunkError
from xchunk.simulate._dask import Graph, SimulationError, catch
from xchunk.simulate.answers import beside, staged, suggestion, too_large
from xchunk.simulate.candidates import candidates, finer
from xchunk.simulate.lazy import lazy_graph, stand_ins_in
from xchunk.simulate.predict import Effort
from xchunk.simulate.scale import MANY_BLOCKS, Twin, predict_twins, thinned, twin_shapes
from xchunk.simulate.staging import Staging, stagings, weigh
from xchunk.simulate.twins import Shape, Source, blocks_of
from xchunk.simulate.walk import Walked, walk

__all__ = ["Workload", "suggest_workload"]

#: A user's function of what the accessor sits on.
Workload = Callable[[Any], Any]

#: Candidates that are simulated at the most.
_CANDIDATES = 16

#: Seconds that a suggestion takes, as a rule: no candidate is begun afterwards. They are counted
#: as the process's own work; on a busy machine the clock may show up to twice as many.
SECONDS = 6.0

#: Seconds more that are spent, unless the user has set a bound, where nothing fits so far.
_PATIENCE = 24.0

#: Parts of the seconds that have to be left for what is begun to be brought to an end.
_OVERTIME = -0.25

#: The part of them after which no more lazy candidates are begun, so that rechunks are looked at.
_LAZY = 0.8

#: Tasks up to which a graph is walked as it is; larger ones are predicted from twins.
_TASKS = 5_000

#: Bytes of a task that is tried as it is; with larger ones, thinner twins are looked at.
_TRIED = 48_000_000

#: Amplification beyond which parts of stored chunks are looked at, which may read less.
_OFTEN = 1.5

#: Blocks beyond which a graph is first made of a part of them, to learn how large it will be.
_PROBE = 12

#: Tasks of a graph that are walked through even where there is little time.
_FEWEST = 300

#: Tasks of a twin beyond which there is no second one, and beyond which there is none.
_DEAR, _MOST = 1_500, 60_000


@dataclass(frozen=True)
class _Seen:
    """What was learnt of one candidate: one graph, or those of two twins."""

    walks: tuple[tuple[Twin, Walked, int], ...]
    """The twins, their graphs, and the bytes that gathering would add."""
    part: float = 1.0
    """The part of the data that all of them have of what they do not differ in."""


def suggest_workload(
    groups: Mapping[str, xr.Dataset],
    layouts: Sequence[ArrayLayout],
    function: Workload,
    back: Callable[[dict[str, xr.Dataset]], Any],
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
    passes: float = 1,
    seconds: float | None = None,
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
    passes : float
        How many times the workload is run; what a rechunk costs is weighed with it.
    seconds : float, optional
        What the simulations may take on the clock; by then, the best that was found is taken.
        6 by default, and up to 30 where nothing fits by then.

    Returns
    -------
    Suggestion
        The variables that the workload uses have the chunks that were found best: lazily, or
        after a rechunk where that pays off.

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
    study = _Study(source, function, back, budget, rates, _seconds(seconds), seconds is not None)
    used = study.used()
    outcomes, seen = study.outcomes(used)
    best = best_outcomes(outcomes, budget)
    looked: list[tuple[Staging, Outcome]] | None = None
    weighed = None
    if not best and budget.running:
        # threads of workers that run already are not easily changed: a rechunk is looked at first
        looked = study.stagings(used, must=True, fewer=False)
        weighed = weigh(looked, None, budget, passes)
    threads = max(1, budget.threads)
    while not best and weighed is None and threads > 1:
        threads //= 2
        outcomes = [
            o if s is None else replace(o, prediction=study.predict(s, threads))
            for o, s in zip(outcomes, seen, strict=True)
        ]
        best = best_outcomes(outcomes, budget)
    lazy = best[0].prediction if best else None
    if weighed is None:
        if looked is None or not best:
            looked = study.stagings(used, must=not best)
        weighed = weigh(looked, lazy, budget, passes)
    if weighed is not None and weighed.pays:
        return staged(layouts, weighed, best, outcomes, budget, rates=rates)
    if not best:
        raise too_large(outcomes, budget, study.left)
    found = suggestion(layouts, best, outcomes, budget, rates=rates, left=study.left)
    return found if weighed is None else beside(found, weighed)


def _seconds(seconds: float | None) -> float:
    """Check how long it may take."""
    if seconds is None:
        return SECONDS
    if isinstance(seconds, bool | str) or not seconds > 0:
        raise InvalidChunksError(f"seconds is {seconds!r}; give a number above 0.")
    return float(seconds)


@dataclass
class _Study:
    """One workload on one source."""

    source: Source
    function: Workload
    back: Callable[[dict[str, xr.Dataset]], Any]
    budget: MemoryBudget
    rates: Rates
    seconds: float = SECONDS
    bound: bool = False
    """Whether the user has set the seconds, which are then those of the clock."""
    left: int = 0
    """Candidates that were not looked at for lack of time."""
    _small: bool = True
    _fewest: int = 10**9
    """The fewest tasks of what fits so far."""
    _density: float = 0.0
    """The fewest tasks for a block of the largest variable so far."""
    _pace: float = 0.0
    """Seconds for each task that was looked at so far."""
    looked: bool = False
    """Whether there is a candidate that was looked at."""
    _begun: tuple[float, float] = field(
        default_factory=lambda: (time.process_time(), time.monotonic())
    )

    def rest(self) -> float:
        """Seconds that are left."""
        work, clock = self._begun
        passed = time.monotonic() - clock
        if self.bound:
            return self.seconds - passed
        return self.seconds - max(time.process_time() - work, passed / 2)

    def late(self) -> bool:
        """Tell whether what is being looked at is to be given up, as long as there is another."""
        return self.looked and self.rest() < _OVERTIME * self.seconds

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
        if not self.bound:
            # the first call imports and compiles what the function needs, which is not our time
            self._begun = (time.process_time(), time.monotonic())
        names = {s.layout.name for s in stand_ins_in(graph)}
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

        def look(some: Iterable[tuple[str, dict[str, dict[str, DimChunk]]]]) -> None:
            for label, chunks in some:
                fits = bool(best_outcomes(outcomes, self.budget))
                if not (fits or self.bound) and self.rest() <= 0:
                    # better late than to say that nothing fits
                    self.seconds = SECONDS + _PATIENCE
                late = self.rest() < (1 - _LAZY) * self.seconds
                if len(outcomes) >= _CANDIDATES or (late and self.looked):
                    self.left += late
                    continue
                outcome, found = self.try_out(used, label, chunks)
                outcomes.append(outcome)
                seen.append(found)

        look(candidates(used, self.budget, self.rates))
        best = best_outcomes(outcomes, self.budget)
        if not best or best[0].prediction is None or best[0].prediction.amplification > _OFTEN:
            look(finer(used))
        if all(s is None for s in seen):
            raise InvalidChunksError(
                "the workload failed with every candidate's chunks; with "
                f"{outcomes[0].label}: {outcomes[0].failure}"
            )
        return outcomes, seen

    def try_out(
        self,
        used: Sequence[ArrayLayout],
        label: str,
        chunks: Mapping[str, Mapping[str, DimChunk]],
    ) -> tuple[Outcome, _Seen | None]:
        """Simulate one candidate; what the user's function raises is kept."""
        blocks = {v.name: math.prod(blocks_of(v, chunks[v.name]).values()) for v in used}
        try:
            found = self.look(used, chunks)
        except Exception as error:
            return Outcome(label, chunks, None, f"{type(error).__name__}: {error}", blocks), None
        self.looked = True
        prediction = self.predict(found, max(1, self.budget.threads))
        if prediction.peak <= self.budget.max_mem:
            self._fewest = min(self._fewest, prediction.tasks)
        return Outcome(label, chunks, prediction, "", blocks), found

    def stagings(
        self, used: Sequence[ArrayLayout], *, must: bool, fewer: bool = True
    ) -> list[tuple[Staging, Outcome]]:
        """Simulate what the workload would take after some rechunks.

        Time permitting; one is looked at anyway where nothing else fits, with fewer threads if
        that is what it takes.
        """
        out: list[tuple[Staging, Outcome]] = []
        for one in stagings(used, self.budget, self.rates):
            if self.rest() <= 0 and (out or not must):
                break
            stored = {name: v.layout for name, v in one.variables.items()}
            source = Source(self.source.groups, {**self.source.layouts, **stored}, self.rates)
            study = replace(self, source=source, looked=bool(out))
            if must and not out:
                # without time it would be judged by assumptions, and refused for them
                begun = (time.process_time(), time.monotonic())
                study = replace(study, seconds=min(SECONDS, self.seconds / 2), _begun=begun)
            after = [stored.get(v.name, v) for v in used]
            outcome, seen = study.try_out(after, one.label, one.chunks)
            threads = self.budget.threads
            while fewer and must and seen and threads > 1 and not self._fits(outcome):
                threads //= 2
                outcome = replace(outcome, prediction=study.predict(seen, threads))
            out.append((one, outcome))
        return out

    def _fits(self, outcome: Outcome) -> bool:
        p = outcome.prediction
        return p is not None and p.peak <= self.budget.max_mem

    def look(
        self, used: Sequence[ArrayLayout], chunks: Mapping[str, Mapping[str, DimChunk]]
    ) -> _Seen:
        """Walk through the graph of a candidate, or through those of smaller twins."""
        main = used[0]
        own = chunks[main.name]
        blocks = blocks_of(main, own)
        thin = thinned(main, own)
        number = math.prod(blocks.values())
        if not self._density and number > _PROBE:
            shape = twin_shapes(main, own, blocks, thin, _PROBE)[0].shape
            self._learn(main, own, shape, self.graph(chunks, shape)[0])
        # building a large graph takes long, so that it is told from others how large it will be
        most = self._most()
        if number * self._density > 4 * self._fewest + _TASKS:
            raise SimulationError(
                f"it makes about {number * self._density:.0f} tasks where others make "
                f"{self._fewest}, and was not looked at"
            )
        large = number * self._density > most
        few = max(1, int(most / 4 / self._density)) if large else None
        if number <= MANY_BLOCKS and not thin and not large:
            graph, gathered = self.graph(chunks)
            self._learn(main, own, Shape(), graph)
            if graph.tasks <= most:
                walked = self._walk(graph, _TRIED)
                if not walked.untried:
                    return _Seen(((Twin(Shape()), walked, gathered),))
                thin = thinned(main, own, walked.untried)
                if not thin:
                    return _Seen(((Twin(Shape()), self._walk(graph), gathered),))
            else:
                few = max(1, int(most / 4 / self._density))
        twins = twin_shapes(main, own, blocks, thin, few)
        least = math.prod(blocks_of(main, own, twins[0].shape).values()) * self._density
        if self.looked and least * self._pace > self.rest() - _OVERTIME * self.seconds:
            raise SimulationError(f"it makes {least:.0f} tasks or more: there was no time for it")
        return self._on_twins(main, chunks, twins, few)

    def _learn(
        self, main: ArrayLayout, own: Mapping[str, DimChunk], shape: Shape, graph: Graph
    ) -> None:
        """Learn from a graph how many tasks a block makes."""
        number = math.prod(blocks_of(main, own, shape).values())
        self._density = min(self._density or math.inf, graph.tasks / number)

    def _most(self) -> int:
        """Tasks up to which there is time to look at a graph as it is."""
        if not self._pace:
            return _TASKS
        return int(min(_TASKS, max(_FEWEST, self.rest() / 3 / self._pace)))

    def _on_twins(
        self,
        main: ArrayLayout,
        chunks: Mapping[str, Mapping[str, DimChunk]],
        twins: Sequence[Twin],
        few: int | None = None,
        *,
        again: bool = False,
    ) -> _Seen:
        """Walk through the graphs of twins, of thinner ones where tasks take many blocks."""
        walks: list[tuple[Twin, Walked, int]] = []
        first = twins[0].shape
        thin = Shape(thin=first.thin).fraction(main.sizes)
        for twin in twins:
            graph, gathered = self.graph(chunks, twin.shape)
            self._learn(main, chunks[main.name], twin.shape, graph)
            walked = self._walk(graph, Effort().cap if again else _TRIED)
            if walked.untried and not again:
                own = chunks[main.name]
                part = twin.shape.fraction({d: n for d, n in main.sizes.items() if d in first.thin})
                more = thinned(main, own, round(walked.untried / part)) or first.thin
                found = twin_shapes(main, own, blocks_of(main, own), more, few)
                return self._on_twins(main, chunks, found, few, again=True)
            walks.append((twin, walked, gathered))
            if not first.keep and graph.tasks > _DEAR:
                break
        return _Seen(tuple(walks), thin if first.keep or len(walks) == 1 else 1.0)

    def _walk(self, graph: Graph, cap: int = Effort().cap) -> Walked:
        """Walk through a graph, unless it is too large."""
        if graph.tasks > _MOST:
            raise SimulationError(f"it makes {graph.tasks} tasks or more, too many to look at")
        # several tries have to fit in the time that is left
        rest = self.rest()
        seconds = max(0.5, min(5.0, rest / 3))
        walked = walk(graph, self.rates, cap=cap, seconds=seconds, late=self.late)
        self._pace = max(self._pace, (rest - self.rest()) / max(_FEWEST, graph.tasks))
        return walked

    def predict(self, seen: _Seen, threads: int) -> Prediction:
        """Replay what was walked through, for some threads."""
        workers = max(1, self.budget.workers)
        return predict_twins(
            seen.walks, seen.part, threads=threads, workers=workers, rates=self.rates
        )
