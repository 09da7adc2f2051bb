"""Which chunks suit a workload: a function of the data, whose graphs are built and replayed."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import xarray as xr

from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, ceildiv, near_equal
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.reports.workload import Outcome, Prediction, best_outcomes, reasons
from xchunk.core.suggest.access import AccessPattern, dim_roles
from xchunk.core.suggest.decision import TIE, WORTHWHILE, Rewritten, rewritten
from xchunk.core.suggest.lazy_pass import best_pass
from xchunk.core.suggest.suggestion import Suggestion, suggest_dataset
from xchunk.core.types import DimChunk
from xchunk.core.units import format_bytes, format_seconds
from xchunk.errors import InvalidChunksError, MemoryBudgetError, XchunkError
from xchunk.simulate.dask_adapter import Graph, SimulationError, catch
from xchunk.simulate.lazy import Shape, Source, blocks_of, lazy_graph, stand_ins_in
from xchunk.simulate.predict import (
    MANY_BLOCKS,
    WALK,
    Effort,
    Spent,
    Twin,
    Walked,
    grown,
    predict_twins,
    thinned,
    twin_shapes,
    walk,
)

#: Parts of the memory for which blocks are looked for: a workload may need many times what a
#: plain pass does.
_PARTS = (0.25, 1.0, 0.12, 0.06)

#: Times that stored chunks are cut in half at most.
_HALVINGS = 3


def candidates(
    used: Sequence[ArrayLayout], budget: MemoryBudget, rates: Rates
) -> Iterator[tuple[str, dict[str, dict[str, DimChunk]]]]:
    """Ways to chunk the variables that a workload reads, each once.

    They are those that suggestions for plain uses are made of, for several sizes of blocks,
    and the stored chunks; those that split stored chunks come last. All variables take the
    largest one's along the dims that they share.
    """
    main = used[0]
    roles = dim_roles(used)
    dims = main.dims
    uses: list[tuple[str, ...]] = [()]
    uses += [tuple(d for d in dims if roles.get(d) == role) for role in ("T", "H", "Z")]
    uses += [(d,) for d in dims]
    uses += list(itertools.combinations(dims, 2)) if main.ndim == 3 else []
    seen: set[Any] = set()
    later: list[tuple[str, dict[str, dict[str, DimChunk]]]] = []
    for part in _PARTS:
        for whole in dict.fromkeys(uses):
            if len(whole) == main.ndim and main.ndim > 1:
                continue
            room = replace(budget, max_mem=max(1, int(budget.max_mem * part)))
            found = best_pass(main, AccessPattern("use", whole), room, rates)
            if found is None:
                continue
            words = f"with {' and '.join(whole)} whole" if whole else "of whole stored chunks"
            if found.splits:
                words += ", which splits stored chunks"
            own = found.chunks
            key = tuple(own.items())
            if key not in seen:
                seen.add(key)
                one = f"blocks of {said_blocks(main, own)} ({words})", for_all(used, own)
                if found.splits:
                    later.append(one)
                else:
                    yield one
    if main.chunks is not None:
        stored = dict(zip(main.dims, main.chunks, strict=True))
        if tuple(stored.items()) not in seen:
            yield "one block for each stored chunk", for_all(used, stored)
    yield from later


def finer(
    used: Sequence[ArrayLayout],
) -> Iterator[tuple[str, dict[str, dict[str, DimChunk]]]]:
    """Parts of stored chunks, for workloads that need too much with whole ones.

    Each is read again for every part, so that they are cut where parts are used apart: in space.
    """
    main = used[0]
    if main.chunks is None:
        return
    roles = dim_roles([main])
    axes = {d: Axis.of(n, c) for d, n, c in zip(main.dims, main.shape, main.chunks, strict=True)}
    cut = [d for d in main.dims if roles.get(d) == "H"] or list(main.dims)
    lengths = {d: a.chunk for d, a in axes.items()}
    own: dict[str, DimChunk] = dict(zip(main.dims, main.chunks, strict=True))
    for halving in range(1, _HALVINGS + 1):
        d = max(cut, key=lambda d: lengths[d])
        if lengths[d] < 2:
            return
        lengths[d] = ceildiv(lengths[d], 2)
        own = {**own, d: _uniform(near_equal(axes[d], lengths[d]))}
        words = f"each stored chunk in {2**halving} parts"
        yield f"blocks of {said_blocks(main, own)} ({words})", for_all(used, own)


def _uniform(parts: tuple[int, ...]) -> DimChunk:
    """One number where all parts but the last are as long."""
    alike = len(set(parts[:-1])) <= 1 and parts[-1] <= parts[0]
    return parts[0] if alike else parts


def said_blocks(layout: ArrayLayout, own: Mapping[str, DimChunk]) -> str:
    """Say the longest block along each dim."""
    most = {d: c if isinstance(c, int) else max(c) for d, c in own.items()}
    sizes = layout.sizes.items()
    return ", ".join(f"{d} {min(most[d], n) if most[d] > 0 else n}" for d, n in sizes)


def for_all(
    used: Sequence[ArrayLayout], own: Mapping[str, DimChunk]
) -> dict[str, dict[str, DimChunk]]:
    """Give all variables the first one's chunks along the dims that they share."""
    main = used[0]
    out = {}
    for v in used:
        out[v.name] = {
            d: own[d] if main.sizes.get(d) == n and d in own else max(1, n)
            for d, n in v.sizes.items()
        }
    return out


#: Parts of the memory for which blocks over new chunks are looked for: a workload may need
#: many times what a plain pass does. The first that holds whole chunks is taken.
_STAGED_PARTS = (0.25, 0.5, 1.0)

#: Decoding more than this many times what is needed is a sure gain to be had by a rechunk.
_LEAN = 1.2


@dataclass(frozen=True)
class Staging:
    """One way to store what a workload reads, and the blocks to read it in."""

    label: str
    """The new chunks, in a few words."""
    variables: Mapping[str, Rewritten]
    """The variables that are written anew."""
    chunks: Mapping[str, Mapping[str, DimChunk]]
    """dask chunks: ``{variable: {dim: n}}``."""

    @property
    def seconds(self) -> float:
        """Predicted time of the rechunks."""
        return math.fsum(v.seconds for v in self.variables.values())


@dataclass(frozen=True)
class Weighed:
    """A rechunk beside the best that can be done without."""

    staging: Staging
    """The rechunk."""
    outcome: Outcome
    """What the workload takes afterwards."""
    after: Prediction
    """The same, in numbers."""
    break_even: float
    """Runs of the workload after which the rechunk has paid off; infinite: never."""
    pays: bool
    """Whether it is to be done."""

    def said(self, lazy: Prediction | None) -> str:
        """Say what it would bring, in a sentence or two."""
        cost = f"in about {format_seconds(self.staging.seconds)}"
        then = f"a run takes about {format_seconds(self.after.seconds)}"
        what = f"Rechunked once to {self.staging.label}, {cost}, {then}"
        if lazy is None:
            return f"No lazy blocks fit a worker. {what}."
        now = f"Lazily, a run takes about {format_seconds(lazy.seconds)}"
        if not math.isfinite(self.break_even):
            return f"{now}. {what}, which never pays off."
        even = max(1, math.ceil(self.break_even))
        runs = "the first run" if even == 1 else f"{even} runs"
        return f"{now}. {what}; it pays off after {runs}."


def stagings(used: Sequence[ArrayLayout], budget: MemoryBudget, rates: Rates) -> Iterator[Staging]:
    """New chunks for the workload's variables: long in time, in space, and in height."""
    main = used[0]
    if any(v.format in ("dask", "memory") for v in used):
        return
    roles = dim_roles(used)
    uses = [tuple(d for d in main.dims if roles.get(d) == role) for role in ("T", "H", "Z")]
    seen = set()
    for whole in dict.fromkeys(uses):
        if not whole or len(whole) == main.ndim:
            continue
        pattern = AccessPattern("use", whole)
        new = {v.name: rewritten(v, pattern, budget, rates) for v in used}
        kept = {name: found for name, found in new.items() if found is not None}
        if main.name not in kept or kept[main.name].target in seen:
            continue
        stored = [kept[v.name].layout if v.name in kept else v for v in used]
        blocks = None
        for part in _STAGED_PARTS:
            if blocks is None or blocks.splits:
                room = replace(budget, max_mem=max(1, int(budget.max_mem * part)))
                blocks = best_pass(stored[0], pattern, room, rates) or blocks
        if blocks is None:
            continue
        target = kept[main.name].target
        seen.add(target)
        label = f"chunks of {target.chunks}"
        label += "" if target.shards is None else f" in shards of {target.shards}"
        label += f", read in blocks of {said_blocks(main, blocks.chunks)}"
        yield Staging(label, kept, for_all(stored, blocks.chunks))


def weigh(
    looked: Sequence[tuple[Staging, Outcome]],
    lazy: Prediction | None,
    budget: MemoryBudget,
    passes: float,
) -> Weighed | None:
    """Choose the rechunk with which all runs take least, and tell whether it pays.

    Times are not told apart below a factor of 2, unless it is sure that less is read.

    - returns: None where none fits the memory.
    """
    fits = [
        (s, o, o.prediction)
        for s, o in looked
        if o.prediction is not None and o.prediction.peak <= budget.max_mem
    ]
    if not fits:
        return None
    staging, outcome, after = min(fits, key=lambda f: f[0].seconds + passes * f[2].counted)
    if lazy is None:
        return Weighed(staging, outcome, after, 0.0, pays=True)
    saved = lazy.counted - after.counted
    even = staging.seconds / saved if saved > 0 else math.inf
    sure = WORTHWHILE if lazy.amplification > _LEAN else 1 / TIE
    total = staging.seconds + passes * after.counted
    pays = after.counted < sure * lazy.counted and total < sure * passes * lazy.counted
    return Weighed(staging, outcome, after, even, pays)


def suggestion(
    layouts: Sequence[ArrayLayout],
    best: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    budget: MemoryBudget,
    *,
    rates: Rates,
    left: int = 0,
) -> Suggestion:
    """The suggestion for a plain scan, with what the simulation found put in."""
    chosen, others = best[0], best[1:]
    p = chosen.prediction
    if p is None:
        raise RuntimeError("a candidate was chosen that cannot be run")
    tried = sum(o.prediction is not None for o in outcomes)
    why, runner_up, close = reasons(chosen, others, budget, tried)
    if left:
        why += f" {left} more were left out for lack of time: seconds= gives more."
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


def beside(found: Suggestion, weighed: Weighed) -> Suggestion:
    """Report of the rechunk that does not pay for so few runs."""
    p = found.prediction
    told = weighed.said(p)
    variables = dict(found.variables)
    for name in weighed.staging.variables:
        v = variables[name]
        finite = math.isfinite(weighed.break_even)
        variables[name] = replace(
            v,
            seconds_after=weighed.after.seconds,
            rechunk_seconds=weighed.staging.seconds,
            break_even_passes=weighed.break_even if finite else None,
            why=f"{v.why} {told}" if finite else v.why,
        )
    return replace(found, variables=variables, outcomes=(*found.outcomes, weighed.outcome))


def staged(
    layouts: Sequence[ArrayLayout],
    weighed: Weighed,
    best: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    budget: MemoryBudget,
    *,
    rates: Rates,
) -> Suggestion:
    """The suggestion to rechunk first."""
    lazy = best[0] if best else None
    before = None if lazy is None else lazy.prediction
    tried = sum(o.prediction is not None for o in outcomes) + 1
    told, _, _ = reasons(weighed.outcome, (), budget, tried)
    found = suggestion(layouts, [weighed.outcome], outcomes, budget, rates=rates)
    text = f"{weighed.said(before)} {told}"
    variables = dict(found.variables)
    for name, new in weighed.staging.variables.items():
        variables[name] = replace(
            variables[name],
            action="stage",
            target_chunks=new.target.chunks,
            target_shards=new.target.shards,
            seconds_now=None if before is None else before.seconds,
            seconds_after=weighed.after.seconds,
            rechunk_seconds=weighed.staging.seconds,
            break_even_passes=weighed.break_even,
            binding="memory" if before is None else "workload",
            lazy_chunks=None if lazy is None else dict(lazy.chunks[name]),
            runner_up="" if lazy is None else f"lazily, {lazy.label}",
            why=text,
        )
    all_seen = (*outcomes, weighed.outcome)
    return replace(found, variables=variables, outcomes=all_seen, runner_up=lazy)


def too_large(
    outcomes: Sequence[Outcome], budget: MemoryBudget, left: int = 0
) -> MemoryBudgetError:
    """Say what the leanest candidate would need."""
    tried, rest = "however the data are chunked", ""
    if left:
        tried = "with the chunks that there was time for"
        rest = f" {left} more were left out for lack of time: seconds= gives more."
    found = [(o.prediction.peak, o) for o in outcomes if o.prediction is not None]
    needed, least = min(found, key=lambda f: f[0])
    return MemoryBudgetError(
        f"the workload does not fit a worker that may grow by {format_bytes(budget.max_mem)}, "
        f"{tried}: of {len(found)} ways that were simulated, {least.label} "
        f"takes the least, {format_bytes(needed)} with one thread.{rest} Give a worker that much "
        f"(max_mem={needed}), or rechunk the data first, as suggest(access=...) would.",
        needed=needed,
        allowed=budget.max_mem,
        smallest=needed,
    )


#: A user's function of what the accessor sits on.
Workload = Callable[[Any], Any]

#: Candidates that are simulated at most.
_CANDIDATES = 16

#: Seconds that a suggestion takes, as a rule: no candidate is begun afterwards. They are those of
#: a quiet laptop and counted, not measured, so that a busy machine gives the same advice, later.
SECONDS = 6.0

#: Seconds more that are spent, unless the user has set a bound, where nothing fits so far.
_PATIENCE = 24.0

#: How many times as long as counted it may take the processor.
_SLOW = 4.0

#: Parts of the seconds that have to be left for what is begun to be brought to an end.
_OVERTIME = -0.25

#: The parts of them after which no more lazy candidates are begun, and no more rechunks, so that
#: what is best is looked at as it is.
_LAZY, _STAGED = 0.6, 0.8

#: The part of them that looking at the best as it is may take.
_OWN = 0.5

#: Tasks up to which a graph is walked as it is; larger ones are predicted from twins.
_TASKS = 5_000

#: Bytes of a task that is tried as it is; with larger ones, thinner twins are looked at.
_TRIED = 48_000_000

#: Amplification beyond which parts of stored chunks are looked at, which may read less.
_OFTEN = 1.5

#: Blocks beyond which graphs are first made of a few of them, to learn how large it will be, and
#: how few.
_UNKNOWN, _PROBE = 60, 12

#: Seconds, as they are counted, of a call of the user's function, and of a task that is built.
_CALL, _BUILD = 0.05, 5e-5

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
    confirmed: bool = False
    """Whether it was looked at once more because it is the best."""

    @property
    def whole(self) -> bool:
        """Whether it is the candidate's own graph, of full blocks, of which all was tried."""
        own = len(self.walks) == 1 and self.part == 1 and self.walks[0][0].shape == Shape()
        return self.confirmed or (own and not self.walks[0][1].assumed)


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

    - ``groups``: the data, by path.
    - ``layouts``: how the variables are stored.
    - ``function``: the workload. It is given data of the same shape, with noise where it would
      read, and returns something lazy. It is called once or twice for each candidate.
    - ``back``: makes of Datasets what the function takes.
    - ``budget``: what one worker may grow by, and its threads.
    - ``rates``: how fast stores, codecs and the scheduler are.
    - ``passes``: how many times the workload is run; what a rechunk costs is weighed with it.
    - ``seconds``: what the simulations may take on the clock; by then, the best that was found is
      taken. By default as much as a quiet laptop does in 6 s, counted, so that the advice is the
      same on a busy machine; and up to 30 where nothing fits by then.
    - returns: the variables that the workload uses have the chunks that were found best: lazily, or
      after a rechunk where that pays off.
    - raises `InvalidChunksError` if the function fails whatever the chunks, or uses nothing that is
      stored.
    - raises `MemoryBudgetError` if no candidate fits.
    """
    if not callable(function):
        raise InvalidChunksError(
            f"workload={function!r} is not a function. Give what will be computed as one that "
            "takes the data: workload=lambda ds: ds.t2m.mean('time')."
        )
    rates = rates or Rates()
    source = Source(groups, {v.name: v for v in layouts}, rates)
    study = _Study(source, function, back, budget, rates, _seconds(seconds), seconds is not None)
    study.spent.timed = study.bound
    used = study.used()
    study.simulate(used)
    best = study.best()
    looked: list[_Staged] | None = None
    weighed = None
    if not best and budget.running:
        # threads of workers that run already are not easily changed: a rechunk is looked at first
        looked = study.stagings(used, must=True, fewer=False)
        weighed = study.weigh(looked, None, passes)
    threads = max(1, budget.threads)
    while not best and weighed is None and threads > 1:
        threads //= 2
        study.use_threads(threads)
        best = study.best()
    lazy = best[0].prediction if best else None
    if weighed is None:
        if looked is None or not best:
            # without it, cores would be left idle for lack of time to look
            looked = study.stagings(used, must=not best or threads < budget.threads)
        weighed = study.weigh(looked, lazy, passes)
    if weighed is not None and weighed.pays:
        return staged(layouts, weighed, best, study.outcomes, budget, rates=rates)
    if not best:
        raise too_large(study.outcomes, budget, study.left)
    found = suggestion(layouts, best, study.outcomes, budget, rates=rates, left=study.left)
    return found if weighed is None else beside(found, weighed)


def _seconds(seconds: float | None) -> float:
    """Check how long it may take."""
    if seconds is None:
        return SECONDS
    if isinstance(seconds, bool | str) or not seconds > 0:
        raise InvalidChunksError(f"seconds is {seconds!r}; give a number above 0.")
    return float(seconds)


def _now() -> tuple[float, float]:
    return time.process_time(), time.monotonic()


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
    outcomes: list[Outcome] = field(default_factory=list)
    """What candidates take."""
    seen: list[_Seen | None] = field(default_factory=list)
    """What was learnt of each of them."""
    _small: bool = True
    _fewest: int = 10**9
    """The fewest tasks of what fits so far."""
    _density: float = 0.0
    """The most tasks for a block of the largest variable so far."""
    looked: bool = False
    """Whether there is a candidate that was looked at."""
    spent: Spent = field(default_factory=Spent)
    """What was spent so far, as it is counted."""
    _begun: tuple[float, float] = field(default_factory=_now)
    _paced: tuple[float, float] = field(default_factory=_now)

    def rest(self) -> float:
        """Seconds that are left: of those that are counted, and of the clock where it is asked."""
        left = self.seconds - self.spent.seconds
        work, clock = self._begun
        if self.bound:
            return min(left, self.seconds - (time.monotonic() - clock))
        # slow functions are not worth any time
        return left if time.process_time() - work < _SLOW * self.seconds else 0.0

    def room(self) -> float:
        """Seconds of a processor that are left: on the clock, it may be there only now and then."""
        work, clock = (now - then for now, then in zip(_now(), self._paced, strict=True))
        return self.rest() * min(1.0, work / max(1e-3, clock)) if self.bound else self.rest()

    def late(self) -> bool:
        """Return whether what is being looked at is to be given up, as long as there is another."""
        return self.looked and self.rest() < _OVERTIME * self.seconds

    def graph(
        self, chunks: Mapping[str, Mapping[str, DimChunk]], shape: Shape | None = None
    ) -> tuple[Graph, int]:
        """Build the graph for some chunks; whatever the user's function raises comes through."""
        result = catch(lambda twin: self.function(self.back(twin)), self.source.twin(chunks, shape))
        if isinstance(result, Graph):
            graph, gathered = result, 0
        else:
            # what is gathered is decided by the real result, not by a twin's
            graph, gathered = lazy_graph(result, gather=None if shape is None else self._small)
        self.spent.seconds += _CALL + graph.tasks * _BUILD
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
        names = {s.layout.name for s in stand_ins_in(graph)}
        lazy = {n for n, v in movable.items() if v.format == "dask"}
        found = [v for n, v in movable.items() if n in names or n in lazy]
        if not found:
            raise InvalidChunksError(
                "the workload reads none of the variables that are stored, so that chunks make "
                f"no difference to it. They are {', '.join(map(repr, movable))}."
            )
        return sorted(found, key=lambda v: -v.nbytes)

    def simulate(self, used: Sequence[ArrayLayout]) -> None:
        """Simulate the candidates."""

        def look(some: Iterable[tuple[str, dict[str, dict[str, DimChunk]]]]) -> None:
            for label, chunks in some:
                fits = bool(best_outcomes(self.outcomes, self.budget))
                if not (fits or self.bound) and self.rest() <= 0:
                    # better late than to say that nothing fits
                    self.seconds = SECONDS + _PATIENCE
                late = self.rest() < (1 - _LAZY) * self.seconds
                if len(self.outcomes) >= _CANDIDATES or (late and self.looked):
                    self.left += late
                    continue
                outcome, found = self.try_out(used, label, chunks)
                self.outcomes.append(outcome)
                self.seen.append(found)

        look(candidates(used, self.budget, self.rates))
        best = best_outcomes(self.outcomes, self.budget)
        if not best or best[0].prediction is None or best[0].prediction.amplification > _OFTEN:
            look(finer(used))
        if all(s is None for s in self.seen):
            raise InvalidChunksError(
                "the workload failed with every candidate's chunks; with "
                f"{self.outcomes[0].label}: {self.outcomes[0].failure}"
            )

    def use_threads(self, threads: int) -> None:
        """Predict what all candidates take with as many threads."""
        self.outcomes = [
            o if s is None else replace(o, prediction=self.predict(s, threads))
            for o, s in zip(self.outcomes, self.seen, strict=True)
        ]

    def best(self) -> list[Outcome]:
        """Put those that fit in order; the first was looked at as it is, not by its twins."""
        for _ in range(_CANDIDATES):
            best = best_outcomes(self.outcomes, self.budget)
            if not best:
                break
            i = next(n for n, o in enumerate(self.outcomes) if o is best[0])
            seen = self.seen[i]
            if seen is None or seen.whole:
                break
            self.outcomes[i], self.seen[i] = self.whole(best[0], seen)
            if self.seen[i] is seen:
                break
        return best_outcomes(self.outcomes, self.budget)

    def whole(self, outcome: Outcome, seen: _Seen) -> tuple[Outcome, _Seen]:
        """Look at a candidate's own graph, of full blocks; as it was where there is no time."""
        p = outcome.prediction
        if p is None or seen.whole or max(p.tasks * WALK, p.critical * self.bound) > self._own():
            return outcome, seen
        try:
            graph, gathered = self.graph(outcome.chunks)
            if graph.tasks * WALK > self._own():
                return replace(outcome, prediction=replace(p, tasks=graph.tasks)), seen
            walked = self._walk(graph, seconds=self._own())
        except SimulationError:
            return outcome, seen
        found = _Seen(((Twin(Shape()), walked, gathered),), confirmed=True)
        new = self.predict(found, p.threads)
        if walked.assumed > p.assumed:
            # what its tasks take is told better by smaller ones that could be tried
            return replace(outcome, prediction=replace(p, tasks=new.tasks, reads=new.reads)), seen
        return replace(outcome, prediction=new), found

    def _own(self) -> float:
        """Seconds that looking at the best as it is may take."""
        return max(_OWN * self.seconds if not self.bound else 0.0, self.rest())

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
    ) -> list[_Staged]:
        """Simulate what the workload would take after some rechunks, time permitting.

        One is looked at anyway where nothing else fits, with fewer threads if it takes that.
        """
        out: list[_Staged] = []
        for one in stagings(used, self.budget, self.rates):
            late = self.bound and self.rest() <= _OVERTIME * self.seconds
            if self.rest() < (1 - _STAGED) * self.seconds and (out or late or not must):
                break
            stored = {name: v.layout for name, v in one.variables.items()}
            source = Source(self.source.groups, {**self.source.layouts, **stored}, self.rates)
            study = replace(self, source=source, looked=bool(out))
            if must and not out:
                # without time it would be judged by assumptions, and refused for them
                seconds = self.seconds / 4 if self.bound else SECONDS
                spent = Spent(timed=self.bound)
                study = replace(study, seconds=seconds, spent=spent, _begun=_now())
            after = [stored.get(v.name, v) for v in used]
            outcome, seen = study.try_out(after, one.label, one.chunks)
            threads = self.budget.threads
            while fewer and must and seen and threads > 1 and not self._fits(outcome):
                threads //= 2
                outcome = replace(outcome, prediction=study.predict(seen, threads))
            out.append(_Staged(one, outcome, seen, study, after))
        return out

    def weigh(
        self, looked: list[_Staged], lazy: Prediction | None, passes: float
    ) -> Weighed | None:
        """Choose the best rechunk; one that is to be done was looked at as it is."""
        for _ in range(_CANDIDATES):
            found = weigh([(s.staging, s.outcome) for s in looked], lazy, self.budget, passes)
            if found is None or not found.pays:
                break
            i = next(n for n, s in enumerate(looked) if s.staging is found.staging)
            one = looked[i]
            if one.seen is None or one.seen.whole:
                break
            outcome, seen = one.study.whole(one.outcome, one.seen)
            looked[i] = replace(one, outcome=outcome, seen=seen)
            if seen is one.seen:
                break
        return found

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
        most = int(min(_TASKS, max(_FEWEST, self.room() / 3 / WALK)))
        # building a large graph takes long, so that it is told from small ones how large it will be
        unknown = number > _UNKNOWN or number * self._density > most
        tasks = self._tasks(main, chunks, blocks) if unknown else 0.0
        if tasks > 4 * self._fewest + _TASKS:
            raise SimulationError(
                f"it makes about {tasks:.0f} tasks where others make {self._fewest}, and was not "
                "looked at"
            )
        if number > MANY_BLOCKS or thin or tasks > most:
            found = self._by_twins(main, chunks, thin, most, tasks)
            if found is not None:
                return found
        graph, gathered = self.graph(chunks)
        self._density = max(self._density, graph.tasks / number)
        if graph.tasks > most:
            found = self._by_twins(main, chunks, thin, most, graph.tasks)
            if found is not None:
                return found
        walked = self._walk(graph, _TRIED)
        if walked.untried:
            found = self._by_twins(main, chunks, thinned(main, own, walked.untried), most, 0)
            if found is not None:
                return found
            walked = self._walk(graph)
        return _Seen(((Twin(Shape()), walked, gathered),))

    def _by_twins(
        self,
        main: ArrayLayout,
        chunks: Mapping[str, Mapping[str, DimChunk]],
        thin: Mapping[str, float],
        most: int,
        tasks: float,
    ) -> _Seen | None:
        """Look at twins; None if there are none, or none has lengths that the workload takes."""
        own = chunks[main.name]
        blocks = blocks_of(main, own)
        few = max(1, int(math.prod(blocks.values()) * most / 4 / tasks)) if tasks > most else None
        twins = twin_shapes(main, own, blocks, thin, few)
        if twins[0].shape == Shape():
            return None
        try:
            return self._on_twins(main, chunks, twins, few)
        except SimulationError:
            raise
        except Exception:
            return None

    def _tasks(
        self,
        main: ArrayLayout,
        chunks: Mapping[str, Mapping[str, DimChunk]],
        blocks: Mapping[str, int],
    ) -> float:
        """Tell from graphs of a few blocks how many tasks there will be."""
        twins = twin_shapes(main, chunks[main.name], blocks, {}, _PROBE)
        try:
            return grown(twins, [self.graph(chunks, t.shape)[0].tasks for t in twins])
        except Exception:
            return 0.0

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

    def _walk(self, graph: Graph, cap: int = Effort().cap, seconds: float | None = None) -> Walked:
        """Walk through a graph, unless it is too large."""
        if graph.tasks > _MOST:
            raise SimulationError(f"it makes {graph.tasks} tasks or more, too many to look at")
        late = self.late if seconds is None or self.bound else None
        if seconds is None:  # several tries are to fit
            seconds = max(0.5, min(5.0, self.rest() / 3))
        return walk(graph, self.rates, cap=cap, seconds=seconds, late=late, spent=self.spent)

    def predict(self, seen: _Seen, threads: int) -> Prediction:
        """Replay what was walked through, for some threads."""
        workers = max(1, self.budget.workers)
        return predict_twins(
            seen.walks, seen.part, threads=threads, workers=workers, rates=self.rates
        )


@dataclass(frozen=True)
class _Staged:
    """A rechunk, and what the workload takes afterwards."""

    staging: Staging
    outcome: Outcome
    seen: _Seen | None
    study: _Study
    """The study of what is stored then."""
    after: Sequence[ArrayLayout]
    """How the variables that the workload reads are stored then."""
