"""The layers of a lazy result's graph, and the part of it that is looked at task by task.

A layer knows how many tasks it has without making them, so that graphs of millions of tasks
are described in a moment.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.utils import key_split

from xchunk.core.blocks import item_nbytes
from xchunk.core.graphs import Layer, layer_of, role_of
from xchunk.simulate._dask import ConstantNode, Graph, Key, SimulationError, part_of
from xchunk.simulate.lazy import dask_arrays

__all__ = ["Part", "Whole", "blocks_of", "depths", "layers_of", "part_to_look_at", "whole_graph"]

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
