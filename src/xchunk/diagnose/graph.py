"""The graph of a lazy result, looked into before it runs; nothing is computed.

A layer knows how many tasks it has without making them, so that graphs of millions of tasks
are described in a moment.

What needs the tasks themselves, such as what they hold in memory, is found on the whole graph
where it is small, and else on a part of it: so many blocks of the result, or of an operation
on the way, as a second is enough for.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from dask.utils import key_split

from xchunk.core.cost import LOCAL_TASK, Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import TASK_NBYTES, MemoryBudget
from xchunk.core.reports.graph import ChunkSize, GraphReport, Layer, layer_of, role_of, sizes_of
from xchunk.core.reports.workload import Prediction, Reads
from xchunk.core.suggest.decision import SMALL
from xchunk.core.suggest.lazy_pass import item_nbytes
from xchunk.core.types import ByteSize, DimChunk
from xchunk.errors import InvalidChunksError, XchunkError
from xchunk.simulate.dask_adapter import ConstantNode, Graph, Key, SimulationError, catch, part_of
from xchunk.simulate.lazy import Source, dask_arrays, gathering
from xchunk.simulate.predict import Walked, predict_walked, walk
from xchunk.simulate.replay import Step
from xchunk.sources.layouts import read_layouts

#: Tasks that are walked through, and that dask is asked to fuse.
_WALKED, _FUSED = 2_000, 8_000


@dataclass(frozen=True)
class Whole:
    """The graph of a result as it was written."""

    graph: Any
    """dask's own."""
    layers: Mapping[str, Any]
    """Its layers by name, inputs first."""
    before: Mapping[str, tuple[str, ...]]
    """The layers that each layer takes its blocks from."""
    keys: tuple[Key, ...]
    """Keys of the result's blocks."""
    names: tuple[str, ...]
    """Names of the result's arrays, the largest first."""
    nbytes: int
    """Bytes of the result."""
    gathering: int = 0
    """Bytes that gathering it in memory adds."""
    _counts: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def tasks(self) -> int:
        """Tasks of all layers."""
        counts: list[int] = [len(layer) for layer in self.layers.values()]
        return sum(counts)

    def blocks(self, name: str) -> int:
        """Blocks that come out of a layer; it may have tasks that only make parts of them."""
        if name not in self._counts:
            layer = self.layers[name]
            keys: Iterable[Any] = () if type(layer).__name__ == "Blockwise" else layer
            own = sum(isinstance(k, tuple) and k[0] == name for k in keys)
            self._counts[name] = own or len(layer)
        return self._counts[name]

    def blocks_before(self, name: str) -> int:
        """Blocks of the largest layer before one; 0 where there are constants only."""
        return max((self.blocks(d) for d in self.before[name] if self.is_work(d)), default=0)

    def is_input(self, name: str) -> bool:
        """Whether a layer takes its blocks from no other."""
        return self.is_work(name) and not any(map(self.is_work, self.before[name]))

    def is_work(self, name: str) -> bool:
        """Whether a layer has tasks, rather than one array or number that others take."""
        layer = self.layers[name]
        if self.before[name] or len(layer) > 1:
            return True
        return all(isinstance(k, tuple) for k in layer.get_output_keys())

    def below(self, name: str) -> list[str]:
        """The layer and all that it needs."""
        seen: dict[str, None] = {}
        stack = [name]
        while stack:
            one = stack.pop()
            if one not in seen:
                seen[one] = None
                stack += self.before[one]
        return list(seen)


def whole_graph(lazy: Any) -> Whole:
    """Gather the graphs of a result's arrays, layer by layer."""
    arrays = sorted(dask_arrays(lazy), key=lambda a: -_nbytes(a))
    if not arrays:
        raise SimulationError(
            f"there is nothing lazy in what was given ({type(lazy).__name__}), so that there is no "
            "graph. Open the data with chunks={}, or chunk them, and give a result that is not "
            "computed yet."
        )
    from dask.highlevelgraph import HighLevelGraph

    graphs = [
        g if hasattr(g, "layers") else HighLevelGraph({a.name: g}, {a.name: set()})
        for a, g in ((a, a.__dask_graph__()) for a in arrays)
    ]
    merged = HighLevelGraph.merge(*graphs)
    names = _in_order(merged.dependencies)
    keys = dict.fromkeys(k for a in arrays for k in _flat(a.__dask_keys__()))
    return Whole(
        merged,
        {n: merged.layers[n] for n in names},
        {n: tuple(merged.dependencies[n]) for n in names},
        tuple(keys),
        tuple(dict.fromkeys(a.name for a in arrays)),
        sum(_nbytes(a) for a in {a.name: a for a in arrays}.values()),
        gathering({a.name: a for a in arrays}.values()),
    )


def _flat(keys: Any) -> Iterable[Key]:
    if isinstance(keys, list):
        for each in keys:
            yield from _flat(each)
    else:
        yield keys


def _nbytes(array: Any) -> int:
    if any(math.isnan(n) for n in array.shape):
        return 0
    shape: tuple[int, ...] = array.shape
    return math.prod(shape) * item_nbytes(np.dtype(array.dtype))


def _in_order(before: Mapping[str, Iterable[str]]) -> list[str]:
    """All names, each after those that it needs."""
    out: dict[str, None] = {}
    for first in before:
        stack = [first]
        while stack:
            name = stack[-1]
            left = [d for d in before[name] if d not in out]
            if name in out or not left:
                out.setdefault(stack.pop())
            else:
                stack += left
    return list(out)


def layers_of(whole: Whole) -> tuple[Layer, ...]:
    """Describe each layer that has tasks."""
    out = []
    for name, layer in whole.layers.items():
        if not whole.is_work(name) and name not in whole.names:
            continue
        constants = [d for d in whole.before[name] if not whole.is_work(d)]
        stored = any(d.startswith("original-") for d in constants) or name.startswith(
            ("open_dataset", "from-zarr", "array-original")
        )
        before, after = whole.blocks_before(name), whole.blocks(name)
        out.append(layer_of(key_split(name), len(layer), before, blocks=after, stored=stored))
    return tuple(out)


def depths(whole: Whole) -> dict[str, int]:
    """Layers of the longest chain up to each layer."""
    depth: dict[str, int] = {}
    for name in whole.layers:
        below = max((depth[d] for d in whole.before[name]), default=0)
        depth[name] = below + whole.is_work(name)
    return depth


def blocks_of(whole: Whole) -> tuple[int, ...]:
    """Blocks along each dim of the input with the most of them."""
    inputs = [n for n in whole.layers if whole.is_input(n)]
    if not inputs:
        return (1,)
    keys = whole.layers[max(inputs, key=lambda n: len(whole.layers[n]))].get_output_keys()
    counts: list[int] = []
    for key in keys:
        if not isinstance(key, tuple):
            continue
        for i, n in enumerate(key[1:]):
            if isinstance(n, int | np.integer):
                if i >= len(counts):
                    counts.append(0)
                counts[i] = max(counts[i], int(n) + 1)
    return tuple(counts) or (1,)


@dataclass(frozen=True)
class Part:
    """What is looked at of a graph."""

    graph: Graph
    """Its tasks."""
    part: float = 1.0
    """How much of the whole it is, by its inputs."""
    more: int = 0
    """Layers of the longest chain that come after it."""
    tasks: int = 0
    """Tasks of the whole that a scheduler runs, as the part lets expect."""


def part_to_look_at(whole: Whole) -> Part:
    """Choose what is looked at: as near to the result as a second allows."""
    if whole.tasks <= _FUSED:
        graph = part_of(whole.graph, whole.keys)
        if graph.tasks <= _WALKED:
            return Part(graph, tasks=graph.tasks)
    inputs = [n for n in whole.layers if whole.is_input(n)]
    total = sum(len(whole.layers[n]) for n in inputs)
    depth = depths(whole)
    ends: dict[str, list[Key]] = {}
    for key in whole.keys:
        ends.setdefault(key[0] if isinstance(key, tuple) else str(key), []).append(key)
    for name in [*whole.names, *reversed(list(whole.layers))]:
        own: Iterable[Key] = ends.get(name) or whole.layers[name].get_output_keys()
        below = whole.below(name)
        each = sum(len(whole.layers[d]) for d in below) / max(1, len(ends.get(name) or own))  # type: ignore[arg-type]
        if not whole.is_work(name) or each > _WALKED:
            continue
        few = heapq.nsmallest(max(1, int(_WALKED / each)), own, key=_place)
        culled = whole.graph.cull(set(few))
        if sum(map(len, culled.layers.values())) > _FUSED:
            continue
        graph = part_of(whole.graph, few)
        if graph.tasks > 2 * _WALKED:
            continue
        lengths = _lengths(culled)
        part = max(sum(lengths.get(i, 0) for i in inputs), 1) / max(total, 1)
        tasks = _enlarged(whole, graph, lengths, part)
        if name in whole.names:
            return Part(graph, part, 0, tasks)
        left = set(whole.layers) - set(below)
        after = sum(
            len(whole.layers[n])
            for n in left
            if role_of(key_split(n), whole.blocks(n), whole.blocks_before(n)) != "map"
        )
        return Part(graph, part, max(depth.values()) - depth[name], tasks + after)
    raise SimulationError("every part of the graph has too many tasks")


def _lengths(culled: Any) -> dict[str, int]:
    """Tasks that culling leaves of each layer; dask puts a token behind the names."""
    out: dict[str, int] = {}
    for name, layer in culled.layers.items():
        out[name] = out[name.rpartition("-")[0]] = len(layer)
    return out


def _enlarged(whole: Whole, graph: Graph, left: Mapping[str, int], part: float) -> int:
    """Tasks of the whole once fused: those of each layer grow as the layer does."""
    owner: dict[str, str] = {}
    for name, layer in whole.layers.items():
        if type(layer).__name__ != "Blockwise":
            owner.update((k[0], name) for k in layer if isinstance(k, tuple))
    found: dict[str, int] = {}
    for key, node in graph.nodes.items():
        if not isinstance(node, ConstantNode):
            kind = str(key[0] if isinstance(key, tuple) else key)
            found[kind] = found.get(kind, 0) + 1
    total = 0.0
    for kind, count in found.items():
        name = owner.get(kind, kind)
        known = name in whole.layers and left.get(name)
        total += count * (len(whole.layers[name]) / left[name] if known else 1 / part)
    return round(total)


def _place(key: Hashable) -> tuple[Any, ...]:
    """Sort keys by their position; those that have none come last."""
    if isinstance(key, tuple) and all(isinstance(n, int | float | np.number) for n in key[1:]):
        return (0, *key[1:])
    return (1, str(key))


#: Bytes of a task that is tried on noise, and seconds of such tries.
_CAP, _SECONDS = 200_000_000, 0.7


def graph_report(
    lazy: Any,
    *,
    budget: MemoryBudget | None = None,
    rates: Rates | None = None,
    source: str = "",
) -> GraphReport:
    """Report what the graph of a lazy result holds; it is not computed.

    - ``lazy``: the result.
    - ``budget``: what one worker may take, and the threads that it has.
    - ``rates``: how fast things are.
    - ``source``: what it is, in words.
    - returns: layers, tasks, bytes and the predicted peak.
    - raises `SimulationError` if there is nothing lazy in it.
    """
    rates = rates or Rates()
    whole = whole_graph(lazy)
    layers = layers_of(whole)
    blocks = blocks_of(whole)
    report = GraphReport(
        layers=layers,
        run_tasks=whole.tasks,
        outputs=len(whole.keys),
        critical=max(depths(whole).values(), default=0),
        nbytes_out=whole.nbytes,
        blocks=blocks,
        budget=budget,
        source=source or _named(lazy),
    )
    block = 0
    try:
        looked = _look(whole, rates)
    except (XchunkError, RuntimeError, ValueError, TypeError, KeyError) as error:
        note = f"the tasks could not be looked at, so that no memory is predicted ({error})"
        report = replace(report, notes=(note,))
    else:
        report = _with_tasks(report, whole, looked, rates)
        block = looked.block
    fused = report.run_tasks / max(1, report.tasks)
    sizes = sizes_of(layers, blocks, block, rates, fused=fused)
    return replace(report, sizes=sizes)


def _named(lazy: Any) -> str:
    name = getattr(lazy, "name", None)
    what = type(lazy).__name__
    return f"{what} {name}" if isinstance(name, str) and isinstance(lazy, xr.DataArray) else what


@dataclass(frozen=True)
class _Looked:
    """What was found on a graph, or on a part of it."""

    walked: Walked
    """Its tasks, and what each takes."""
    graph: Graph
    """The tasks."""
    part: float
    """How much of the whole it is, by its inputs."""
    more: int = 0
    """Layers of the longest chain that come after it."""
    whole: int = 0
    """Tasks of the whole that a scheduler runs."""
    sinks: int = 0
    """Tasks that were added to take the results."""

    @property
    def block(self) -> int:
        """Bytes of the largest block that is read; of those that are made, where none is."""
        if self.walked.block:
            return self.walked.block
        sizes = (
            s.size
            for i, s in enumerate(self.walked.steps)
            if i not in self.walked.constants and all(d in self.walked.constants for d in s.deps)
        )
        return max(sizes, default=0)

    @property
    def tasks(self) -> int:
        """Tasks of the graph, constants left out."""
        return len(self.walked.steps) - len(self.walked.constants) - self.sinks

    def critical(self) -> int:
        """Tasks of the longest chain."""
        ends: list[int] = []
        for i, step in enumerate(self.walked.steps):
            own = i not in self.walked.constants
            ends.append(own + max((ends[d] for d in step.deps), default=0))
        return max(ends, default=0) + self.more - bool(self.sinks)


def _look(whole: Whole, rates: Rates) -> _Looked:
    """Walk through the graph, or a part of it."""
    chosen = part_to_look_at(whole)
    walked = walk(chosen.graph, rates, cap=_CAP, seconds=_SECONDS)
    sinks = _sinks(walked) if chosen.more or whole.nbytes > SMALL else []
    if sinks:
        # what dask was asked for is kept only where it is gathered
        steps = (replace(s, kept=False) for s in walked.steps)
        walked = replace(walked, steps=(*steps, *sinks))
    return _Looked(walked, chosen.graph, chosen.part, chosen.more, chosen.tasks, len(sinks))


def _sinks(walked: Walked) -> list[Step]:
    """Tasks that take the results as a store does, so that none of them is kept."""
    users = {d for step in walked.steps for d in step.deps}
    last = [i for i in range(len(walked.steps)) if i not in users and i not in walked.constants]
    return [Step((i,), 0, (), 0, 0.0, walked.steps[i].rank, False) for i in last]


def _with_tasks(report: GraphReport, whole: Whole, looked: _Looked, rates: Rates) -> GraphReport:
    """Put in what the tasks tell."""
    budget = report.budget
    threads = 1 if budget is None else max(1, budget.threads)
    workers = 1 if budget is None else max(1, budget.workers)
    gathered = whole.gathering if whole.nbytes > SMALL else 0
    p = predict_walked(
        looked.walked, threads=threads, workers=workers, rates=rates, gathered=gathered
    )
    own = looked.tasks
    tasks = own if looked.part == 1 else looked.whole
    p = replace(p, tasks=tasks)
    notes = report.notes + p.notes
    if looked.part < 1:
        p = _extended(p, looked.part, tasks - own, rates)
        if budget is None:
            part = f"{100 * looked.part:.2g} % of the graph"
            notes += (f"memory and reads were found on {part}",)
    fan = _fan_in(looked.graph)
    layers = tuple(replace(v, fan_in=fan.get(v.name)) for v in report.layers)
    return replace(
        report,
        layers=layers,
        run_tasks=tasks,
        critical=looked.critical(),
        prediction=p,
        part=looked.part,
        notes=notes,
    )


def _extended(p: Prediction, part: float, more_tasks: int, rates: Rates) -> Prediction:
    """Enlarge what grows with the data; what is held at once does not, but for the tasks."""

    def more(n: int) -> int:
        return round(n / part)

    reads = {
        name: Reads(name, more(r.requests), more(r.decodes), more(r.nbytes), more(r.distinct))
        for name, r in p.reads.items()
    }
    task = min(rates.task, LOCAL_TASK) if p.workers <= 1 else rates.task
    working = p.seconds - (p.tasks - more_tasks) * task
    return replace(
        p,
        reads=reads,
        heap=p.heap + more_tasks * TASK_NBYTES,
        touched=p.touched + more_tasks * TASK_NBYTES,
        moved=more(p.moved),
        seconds=max(0.0, working) / part + p.tasks * task,
        scaled=1 / part,
    )


def _fan_in(graph: Graph) -> dict[str, int]:
    """Blocks that one task takes, at most, by the name of the layer."""
    out: dict[str, int] = {}
    for key, node in graph.nodes.items():
        kind = key_split(key)
        out[kind] = max(out.get(kind, 0), len(node.dependencies))
    return {k: n for k, n in out.items() if n}


def graph_of_workload(
    groups: Mapping[str, xr.Dataset],
    function: Callable[[Any], Any],
    back: Callable[[dict[str, xr.Dataset]], Any],
    *,
    budget: MemoryBudget | None = None,
    rates: Rates | None = None,
) -> GraphReport:
    """Report what a function of some data would make dask do, also with other blocks.

    - ``groups``: the Dataset of each group's path; ``""`` is the root.
    - ``function``: takes the object, and returns something lazy.
    - ``back``: makes the object that the function takes of such a mapping.
    - ``budget``, ``rates``: as for `graph_report`.
    - raises `InvalidChunksError` if the function fails, or computes by itself.
    """
    if not callable(function):
        raise InvalidChunksError(
            f"workload={function!r} is not a function. Give what will be computed as one that "
            "takes the data: workload=lambda ds: ds.t2m.mean('time')."
        )
    rates = rates or Rates()
    layouts = {v.name: v for v in read_layouts(groups).layouts}
    source = Source(groups, layouts, rates)
    movable = source.movable
    if not movable:
        raise InvalidChunksError(
            "there is nothing lazy: all variables are in memory. Open the data with chunks={}, "
            "or chunk them."
        )
    lazy = _run(function, partial(_twin, source, back, _scaled(movable, 1.0)))
    name = getattr(function, "__name__", "the workload")
    report = graph_report(
        lazy, budget=budget, rates=rates, source="the workload" if name == "<lambda>" else name
    )
    rows = []
    for row in report.sizes:
        chunks = _scaled(movable, row.factor)
        try:
            made = lazy if row.factor == 1 else _run(function, partial(_twin, source, back, chunks))
            whole = whole_graph(made)
        except XchunkError:
            continue
        layers = layers_of(whole)
        tasks = sum(layer.tasks for layer in layers)
        inputs = sum(layer.tasks for layer in layers if layer.role in ("read", "create"))
        largest = max(movable.values(), key=lambda v: v.nbytes)
        block = _block_nbytes(largest, chunks[largest.name])
        seconds = tasks * report.run_tasks / max(1, report.tasks) * rates.task
        rows.append(ChunkSize(row.factor, block, inputs, tasks, seconds, exact=True))
    return replace(report, sizes=tuple(rows))


def _twin(
    source: Source,
    back: Callable[[dict[str, xr.Dataset]], Any],
    chunks: Mapping[str, Mapping[str, DimChunk]],
) -> Any:
    return back(source.twin(chunks))


def _run(function: Callable[[Any], Any], make: Callable[[], Any]) -> Any:
    """Call a user's function on stand-ins; whatever it raises is told."""
    try:
        result = catch(function, make())
    except XchunkError:
        raise
    except Exception as error:
        raise InvalidChunksError(
            f"the workload failed on a stand-in for the data: {type(error).__name__}: {error}. It "
            "has to work on dask arrays and must not depend on values that are not loaded."
        ) from error
    if isinstance(result, Graph):
        raise InvalidChunksError(
            "the workload computes by itself. Return the lazy result instead: leave out "
            ".compute(), .load() and .values."
        )
    return result


def _scaled(movable: Mapping[str, ArrayLayout], factor: float) -> dict[str, dict[str, DimChunk]]:
    """The variables' blocks, or stored chunks, made larger along the dim with the most."""
    out: dict[str, dict[str, DimChunk]] = {}
    for name, v in movable.items():
        lengths = [_longest(c) for c in v.dask_chunks or v.chunks or v.shape]
        left = factor
        while left > 1:
            counts = [math.ceil(n / c) for n, c in zip(v.shape, lengths, strict=True)]
            i = counts.index(max(counts))
            lengths[i] = min(v.shape[i], lengths[i] * 2)
            left /= 2
        if factor < 1:
            counts = [math.ceil(n / c) for n, c in zip(v.shape, lengths, strict=True)]
            i = counts.index(max(counts))
            lengths[i] = max(1, math.ceil(lengths[i] * factor))
        own: dict[str, DimChunk] = dict(zip(v.dims, lengths, strict=True))
        out[name] = own
    return out


def _longest(chunk: int | Sequence[int]) -> int:
    return max(1, chunk if isinstance(chunk, int) else max(chunk, default=1))


def _block_nbytes(v: ArrayLayout, own: Mapping[str, DimChunk]) -> int:
    lengths = [_longest(own[d]) for d in v.dims]
    return math.prod(lengths) * item_nbytes(v.dtype)


def graph(
    result: Any,
    *,
    memory: ByteSize | None = None,
    max_mem: ByteSize | None = None,
    rates: Rates | None = None,
) -> GraphReport:
    """Report what the graph of a lazy result holds before it runs.

    Parameters
    ----------
    result : Dataset, DataArray, DataTree or dask array
        What will be computed.
    memory, max_mem : int or str, optional
        As in ``ds.chunking.budget``.
    rates : Rates, optional
        How fast the store and the codecs are, as ``ds.chunking.probe`` measures it.

    Returns
    -------
    GraphReport
        Tasks of each layer, where it widens, aggregates and rechunks, the longest chain, bytes in
        and out, the predicted peak, and what other chunks would change. Nothing is computed.

    Raises
    ------
    InvalidChunksError
        If there is nothing lazy in it.

    Examples
    --------
    >>> xchunk.graph(ds.t2m.mean("time"))  # doctest: +SKIP
    """
    from xchunk.engine.budget import detect_budget
    from xchunk.engine.cluster import current_client

    budget = detect_budget(memory, max_mem, client=current_client())
    return graph_report(result, budget=budget, rates=rates)
