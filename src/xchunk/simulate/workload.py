"""Which chunks suit a workload: a function of the data, whose graphs are built and replayed."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import xarray as xr

from xchunk._typing import DimChunk
from xchunk.core.access import AccessPattern
from xchunk.core.axes import dim_roles
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.passes import best_pass
from xchunk.core.suggest import Suggestion, suggest_dataset
from xchunk.core.units import format_bytes
from xchunk.core.workload import Outcome, Prediction, Reads, best_outcomes, reasons
from xchunk.errors import InvalidChunksError, MemoryBudgetError, XchunkError
from xchunk.simulate._dask import Graph, SimulationError, TaskNode, catch
from xchunk.simulate.lazy import lazy_graph
from xchunk.simulate.predict import Effort, predict_walked
from xchunk.simulate.standin import StandIn
from xchunk.simulate.twins import Shape, Source, blocks_of
from xchunk.simulate.walk import Walked, walk

__all__ = ["Workload", "suggest_workload"]

#: A user's function of what the accessor sits on.
Workload = Callable[[Any], Any]

#: Candidates that are simulated at the most, and seconds after which no more are begun.
_CANDIDATES, _SECONDS = 16, 20.0

#: Tasks up to which a graph is walked as it is; larger ones are predicted from twins.
_TASKS = 4_000

#: Blocks of the largest variable beyond which a graph is not even built, and of its twins.
_BLOCKS, _FEW = 400, 60

#: Bytes of a block beyond which tasks are tried on thinner ones.
_BLOCK = 48_000_000


@dataclass(frozen=True)
class _Seen:
    """What was learnt of one candidate: one graph, or those of two twins."""

    walks: tuple[tuple[float, Walked, int], ...]
    """The part of the data, the graph, and the bytes that gathering would add."""


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
        begun = time.monotonic()
        for label, chunks in candidates(used, self.budget, self.rates):
            if len(outcomes) >= _CANDIDATES or (
                time.monotonic() - begun > _SECONDS and any(s is not None for s in seen)
            ):
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
        thin = _thinned(main, chunks[main.name], blocks)
        effort = Effort(seconds=5.0)
        if math.prod(blocks.values()) <= _BLOCKS and not thin:
            graph, gathered = self.graph(chunks)
            if graph.tasks <= _TASKS:
                walked = walk(graph, self.rates, cap=effort.cap, seconds=effort.seconds)
                return _Seen(((1.0, walked, gathered),))
        walks = []
        for shape in _shapes(main, chunks[main.name], blocks, thin):
            graph, gathered = self.graph(chunks, shape)
            if graph.tasks > effort.tasks:
                raise SimulationError(f"even a small part of it makes {graph.tasks} tasks")
            walked = walk(graph, self.rates, cap=effort.cap, seconds=effort.seconds)
            walks.append((shape.fraction(self.source.sizes), walked, gathered))
        return _Seen(tuple(walks))

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
        return found[0][1] if len(found) == 1 and found[0][0] == 1 else _extended(found)


def candidates(
    used: Sequence[ArrayLayout], budget: MemoryBudget, rates: Rates
) -> Iterator[tuple[str, dict[str, dict[str, DimChunk]]]]:
    """Ways to chunk the variables that a workload reads, each once.

    They are those that suggestions for plain uses are made of, for several sizes of blocks,
    and the stored chunks. All variables take the largest one's along the dims that they share.
    """
    main = used[0]
    roles = dim_roles(used)
    dims = main.dims
    uses: list[tuple[str, ...]] = [()]
    for role in ("T", "H", "Z"):
        uses.append(tuple(d for d in dims if roles.get(d) == role))
    uses += [(d,) for d in dims]
    uses += list(itertools.combinations(dims, 2)) if main.ndim == 3 else []
    seen: set[Any] = set()
    for part in (1.0, 0.25, 0.06):
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
                yield f"blocks of {_said(main, own)} ({words})", _for_all(used, own)
    if main.chunks is not None:
        stored = dict(zip(main.dims, main.chunks, strict=True))
        if tuple(stored.items()) not in seen:
            yield "one block for each stored chunk", _for_all(used, stored)


def _said(layout: ArrayLayout, own: Mapping[str, DimChunk]) -> str:
    parts = []
    for d, n in layout.sizes.items():
        c = own[d]
        longest = c if isinstance(c, int) else max(c)
        parts.append(f"{d} {longest if 0 < longest < n else n}")
    return ", ".join(parts)


def _for_all(
    used: Sequence[ArrayLayout], own: Mapping[str, DimChunk]
) -> dict[str, dict[str, DimChunk]]:
    main = used[0]
    out = {}
    for v in used:
        out[v.name] = {
            d: own[d] if main.sizes.get(d) == n and d in own else max(1, n)
            for d, n in v.sizes.items()
        }
    return out


def _thinned(
    main: ArrayLayout, own: Mapping[str, DimChunk], blocks: Mapping[str, int]
) -> dict[str, float]:
    """By how much to thin which dims so that blocks are quick to try; nothing if they are."""
    longest = {d: Axis.of(n, _plain(own[d], n)).chunk for d, n in main.sizes.items()}
    nbytes = math.prod(longest.values()) * main.dtype.itemsize
    if nbytes <= _BLOCK:
        return {}
    roles = dim_roles([main])
    flat = [d for d in main.dims if roles.get(d) == "H"] or [
        d for d in main.dims if roles.get(d) != "T"
    ]
    flat = [d for d in flat if longest[d] >= 32] or list(main.dims[-1:])
    factor = (_BLOCK / 2 / nbytes) ** (1 / len(flat))
    # so short that a dim's parts would vanish is too short
    return {d: max(factor, 8 / longest[d]) for d in flat}


def _shapes(
    main: ArrayLayout,
    own: Mapping[str, DimChunk],
    blocks: Mapping[str, int],
    thin: Mapping[str, float],
) -> list[Shape]:
    """Two twins, one about twice the other."""
    roles = dim_roles([main])
    axes = {d: Axis.of(n, _plain(own[d], n)) for d, n in main.sizes.items()}
    order = sorted(main.dims, key=lambda d: (roles.get(d) != "H", -blocks[d]))
    counts = dict(blocks)

    def total() -> int:
        return math.prod(counts.values())

    if total() > _BLOCKS:
        # horizontal dims first, since time and height have the meaning that uses depend on
        for d in order:
            while total() > _FEW and counts[d] > 3:
                counts[d] = max(3, counts[d] // 2)
    small = Shape({d: axes[d].bounds(counts[d] - 1)[1] for d in counts if counts[d] < blocks[d]}, thin)
    if small.keep:
        d = next(d for d in order if d in small.keep)
        more = min(blocks[d], 2 * counts[d])
        large = replace(small, keep={**small.keep, d: axes[d].bounds(more - 1)[1]})
    else:
        d = next(iter(thin), main.dims[-1])
        large = Shape({}, {**thin, d: min(1.0, 2 * thin.get(d, 0.5))})
    return [small, large]


def _plain(chunk: DimChunk, n: int) -> DimChunk:
    return max(1, n) if chunk == -1 else chunk


def _extended(found: Sequence[tuple[float, Prediction]]) -> Prediction:
    """Draw a line through what two parts of the data take, to what all of them take."""
    (a, small), (b, large) = found[0], found[-1]

    def line(x: float, y: float) -> float:
        if b <= a:
            return y / b
        slope = max(0.0, (y - x) / (b - a))
        return max(y, y + slope * (1 - b))

    def whole(name: str) -> int:
        return round(line(getattr(small, name), getattr(large, name)))

    reads = {}
    for name, more in large.reads.items():
        less = small.reads.get(name, more)
        counts = {
            f: round(line(getattr(less, f), getattr(more, f)))
            for f in ("requests", "decodes", "nbytes", "distinct")
        }
        reads[name] = Reads(name, **counts)
    return replace(
        large,
        tasks=whole("tasks"),
        reads=reads,
        live=whole("live"),
        heap=whole("heap"),
        worker_heap=whole("worker_heap"),
        moved=whole("moved"),
        gathered=whole("gathered"),
        block=whole("block"),
        seconds=line(small.seconds, large.seconds),
        critical=line(small.critical, large.critical),
        scaled=1 / b,
    )


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
        whole = all(_plain(c, n) == max(1, n) for c, n in zip(own.values(), variables[name].layout.shape, strict=True))
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
