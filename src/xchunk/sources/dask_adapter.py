"""The one place that knows dask's layers and tasks by name.

dask does not tell through its public API what a graph does to an array, so this module reads
its tasks. Each function is recognised by identity and each kind of layer by its exact type;
whatever is not known raises `UntraceableError`, and an import that fails here turns tracing
off (see `xchunk.sources.trace`), never xchunk.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import dask.array
import numpy as np
from dask.array._shuffle import _getitem as take
from dask.array._shuffle import concatenate_arrays
from dask.array.chunk import getitem
from dask.array.core import (
    concatenate3,
    concatenate_shaped,
    getter,
    getter_inline,
    getter_nofancy,
)
from dask.base import optimize as dask_optimize
from dask.base import tokenize
from dask.blockwise import Blockwise, blockwise_token
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.layers import ArraySliceDep
from dask.task_spec import Alias, DataNode, List, Task, TaskRef
from dask.utils import key_split

from xchunk.sources.slicing import UntraceableError, Value, assemble, pick
from xchunk.sources.xarray_adapter import dask_within, known_decoder, lazy_part

Chunks: TypeAlias = tuple[tuple[int, ...], ...]

_GETTERS = (getter, getter_nofancy, getter_inline)
_GETITEMS = (getitem, operator.getitem)
#: What a graph is full of, and no data.
_PLAIN = (Alias, TaskRef, str, bytes, int, float, bool, slice, type(None), type(Ellipsis))


def part_of_graph(array: dask.array.Array) -> Value:
    """Follow the graph of a dask array down to the stored array, or arrays."""
    if type(array) is not dask.array.Array:
        raise UntraceableError("an array of another kind")
    return _Graph(array).part()


def held_by(array: dask.array.Array) -> Iterator[Any]:
    """Yield what a graph holds besides tasks and keys: opened arrays, and values in memory."""
    graph: Any = array.__dask_graph__()
    layers = graph.layers.values() if type(graph) is HighLevelGraph else [graph]
    for layer in layers:
        if type(layer) is Blockwise:
            found = [source for source, indices in layer.indices if indices is None]
            given = [getattr(dep, "mapping", None) for dep in layer.io_deps.values()]
            stack: list[Any] = [layer.task, *found, *given]
        elif _is_p2p(layer):
            continue
        else:
            stack = list(layer.values())
        while stack:
            node = stack.pop()
            if isinstance(node, Task):  # lists and tuples of tasks are tasks, too
                stack += [node.func, *node.args, *node.kwargs.values()]
            elif type(node) is functools.partial:
                stack += [*node.args, *node.keywords.values()]
            elif type(node) is DataNode:
                stack.append(node.value)
            elif type(node) in (tuple, list):
                stack += node
            elif type(node) is dict:
                stack += node.values()
            elif not (type(node) in _PLAIN or callable(node)):
                yield node


def renamed(array: dask.array.Array, seed: str) -> dask.array.Array:
    """Return an array whose tasks do the same under names of their own.

    dask's own ``clone`` leaves some references as they were, so that tasks are missing.

    - ``seed``: what the new names are made of, besides the old ones.
    """
    from dask._task_spec import convert_legacy_graph

    (array,) = dask_optimize(array)
    graph = convert_legacy_graph(dict(array.__dask_graph__()))

    def name(old: str) -> str:
        return f"{key_split(old)}-{tokenize(old, seed)}"

    keys: dict[Any, Any] = {
        key: (name(key[0]), *key[1:]) if isinstance(key, tuple) else name(str(key)) for key in graph
    }
    nodes = {keys[key]: node.substitute(keys, key=keys[key]) for key, node in graph.items()}
    return dask.array.Array(nodes, name(array.name), array.chunks, meta=array._meta)


class _Graph:
    """The graph of one dask array, evaluated to parts instead of values."""

    def __init__(self, array: dask.array.Array) -> None:
        graph = array.__dask_graph__()
        if type(graph) is not HighLevelGraph:
            raise UntraceableError("a graph of another kind")
        self._array = array
        self._layers: Mapping[str, Any] = graph.layers
        self._wholes: dict[Any, tuple[Value, Chunks]] = {}
        self._ends: dict[str, Chunks] = {}
        self._nodes: dict[Any, Value] = {}

    def part(self) -> Value:
        """What all blocks of the array show together."""
        array = self._array
        part, chunks = self._whole(array.name, array.numblocks)
        if chunks != array.chunks:
            raise UntraceableError("blocks that are not as large as their array says")
        return part

    def _whole(self, name: str, numblocks: tuple[int, ...] | None = None) -> tuple[Value, Chunks]:
        """All blocks of a name; plain layers are answered without looking at blocks."""
        layer = self._layers[name]
        plain = (type(layer) is Blockwise and layer.output == name) or _is_p2p(layer)
        # a layer of tasks does not tell how many blocks it has
        known = name if plain else (name, numblocks)
        found = self._wholes.get(known)
        if found is None:
            if plain:
                found = self._p2p(layer) if _is_p2p(layer) else self._blockwise(layer)
            elif numblocks is not None:
                grid = itertools.product(*map(range, numblocks))
                found = self._joined(name, layer, numblocks) or assemble(
                    {i: self._key((name, *i)) for i in grid}, numblocks
                )
            else:
                raise UntraceableError("an unknown number of blocks")
            self._wholes[known] = found
        if numblocks is not None and tuple(map(len, found[1])) != tuple(numblocks):
            raise UntraceableError("another number of blocks")
        return found

    def _joined(
        self, name: str, layer: Any, numblocks: tuple[int, ...]
    ) -> tuple[Value, Chunks] | None:
        """Whole arrays side by side, as `dask.array.concatenate` notes them: by bare keys.

        Arrays of many files have very many blocks, of which each is then looked at only once.
        """
        if type(layer) is not MaterializedLayer or len(layer) != math.prod(numblocks):
            return None
        offsets: dict[str, tuple[int, ...]] = {}
        last: dict[str, tuple[int, ...]] = {}
        counts: dict[str, int] = {}
        for index in itertools.product(*map(range, numblocks)):
            key = layer.get((name, *index))
            key = key.target if type(key) is Alias else key
            if type(key) is not tuple or len(key) != len(index) + 1 or type(key[0]) is not str:
                return None
            source, *block = key
            offset = tuple(map(operator.sub, index, block))
            if offsets.setdefault(source, offset) != offset:
                return None
            last[source] = tuple(block)
            counts[source] = counts.get(source, 0) + 1
        shapes = {source: tuple(i + 1 for i in block) for source, block in last.items()}
        if any(math.prod(shape) != counts[source] for source, shape in shapes.items()):
            return None
        starts = [sorted({o[axis] for o in offsets.values()}) for axis in range(len(numblocks))]
        grid = {tuple(map(list.index, starts, o)): source for source, o in offsets.items()}
        cells = tuple(map(len, starts))
        if math.prod(cells) != len(offsets):
            return None
        for source, shape in shapes.items():
            # of a layer that is known as a whole, some blocks may be left out
            known = type(self._layers[source]) is Blockwise or _is_p2p(self._layers[source])
            if known and tuple(map(len, self._whole(source)[1])) != shape:
                return None
        wholes = {at: self._whole(source, shapes[source]) for at, source in grid.items()}
        chunks = [
            [
                wholes[tuple(i if a == axis else 0 for a in range(len(cells)))][1][axis]
                for i in range(n)
            ]
            for axis, n in enumerate(cells)
        ]
        for at, (_, own) in wholes.items():
            if own != tuple(line[i] for line, i in zip(chunks, at, strict=True)):
                raise UntraceableError("blocks that do not line up")
        value, _ = assemble({at: whole for at, (whole, _) in wholes.items()}, cells)
        return value, tuple(tuple(itertools.chain(*line)) for line in chunks)

    def _blockwise(self, layer: Blockwise) -> tuple[Value, Chunks]:
        task = layer.task
        tokens = tuple(TaskRef(blockwise_token(i)) for i in range(len(layer.indices)))
        if type(task) is not Task or task.args != tokens or layer.new_axes or layer.concatenate:
            raise UntraceableError("an unknown blockwise layer")
        if task.func in _GETTERS and len(tokens) == 2:
            return self._from_array(layer, task)
        ((name, indices),) = layer.indices
        if type(name) is not str or indices is None or layer.io_deps:
            raise UntraceableError("an unknown blockwise layer")
        transposes = task.func is np.transpose and set(task.kwargs) == {"axes"}
        order = tuple(task.kwargs["axes"]) if transposes else tuple(range(len(indices)))
        if tuple(layer.output_indices) != tuple(indices[i] for i in order):
            raise UntraceableError("other blocks than the task's axes say")
        part, chunks = self._whole(name, tuple(layer.numblocks[name]))
        if transposes:
            return part.transpose(order), tuple(chunks[i] for i in order)
        if task.kwargs:
            raise UntraceableError("an unknown function")
        return part.decode(known_decoder(task.func)), chunks

    def _from_array(self, layer: Blockwise, task: Task) -> tuple[Value, Chunks]:
        (source, none), (slices, indices) = layer.indices
        dep = layer.io_deps.get(slices) if isinstance(slices, str) else None
        same = indices is not None and tuple(indices) == tuple(layer.output_indices)
        if none is not None or type(dep) is not ArraySliceDep or not same:
            raise UntraceableError("an unknown way to read blocks")
        _check_getter(task)
        part = self._node(source, None)
        chunks = tuple(tuple(int(n) for n in along) for along in dep.chunks)
        if tuple(map(sum, chunks)) != part.shape:
            raise UntraceableError("blocks that do not cover their array")
        return part, chunks

    def _p2p(self, layer: Any) -> tuple[Value, Chunks]:
        part, chunks = self._whole(layer.name_input, tuple(map(len, layer.chunks_input)))
        if chunks != tuple(layer.chunks_input) or part.shape != tuple(map(sum, layer.chunks)):
            raise UntraceableError("a rechunk of something else")
        return part, tuple(tuple(along) for along in layer.chunks)

    def _key(self, key: Any, near: MaterializedLayer | None = None) -> Value:
        """The part under a key; ``near``: the layer that speaks of it."""
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = self._look_up(key, near)
        return found

    def _look_up(self, key: Any, near: MaterializedLayer | None) -> Value:
        layer = self._layers.get(key[0] if type(key) is tuple else key)
        if type(layer) is Blockwise or _is_p2p(layer):
            part, chunks = self._whole(key[0])
            index = key[1:]
            if type(key) is not tuple or len(index) != len(chunks):
                raise UntraceableError("a key of another kind")
            ends = self._ends_of(key[0], chunks)
            picks = [
                range(end[i] - along[i], end[i])
                for along, end, i in zip(chunks, ends, index, strict=True)
            ]
            return part.select(picks)
        for candidate in (layer, near):
            if type(candidate) is MaterializedLayer and key in candidate:
                return self._node(candidate[key], candidate)
        raise UntraceableError("a key that is not in the graph")

    def _ends_of(self, name: str, chunks: Chunks) -> Chunks:
        if name not in self._ends:
            self._ends[name] = tuple(tuple(itertools.accumulate(along)) for along in chunks)
        return self._ends[name]

    def _node(self, node: Any, layer: MaterializedLayer | None) -> Value:
        kind = type(node)
        if kind is Alias:
            return self._key(node.target, layer)
        if kind is TaskRef:
            return self._key(node.key, layer)
        if kind is DataNode:
            return lazy_part(node.value)
        if kind is Task:
            return self._task(node, layer)
        if kind is tuple and node and type(node[0]) is str:  # a bare key
            return self._key(node, layer)
        # an engine that opens with another one wraps the dask array which that has made
        within = dask_within(node)
        return lazy_part(node) if within is None else part_of_graph(within)

    def _task(self, task: Task, layer: MaterializedLayer | None) -> Value:
        func, args = task.func, task.args
        if func in _GETTERS and len(args) == 2:
            _check_getter(task)
            return _sliced(self._node(args[0], layer), args[1])
        if func in _GETITEMS and len(args) == 2 and not task.kwargs:
            return _sliced(self._node(args[0], layer), args[1])
        if func is take and len(args) == 2 and not task.kwargs:
            return _taken(self._node(args[0], layer), self._literal(args[1], layer)[1])
        if func is concatenate_arrays and len(args) == 3 and not task.kwargs:
            return self._shuffled(args[0], self._literal(args[1], layer), args[2], layer)
        if func is np.transpose and len(args) == 1 and set(task.kwargs) == {"axes"}:
            return self._node(args[0], layer).transpose(task.kwargs["axes"])
        if func is concatenate_shaped and len(args) == 2 and not task.kwargs:
            return self._concatenate(args[0], tuple(args[1]), layer)
        if func is concatenate3 and len(args) == 1 and not task.kwargs:
            return self._concatenate(args[0], None, layer)
        raise UntraceableError("an unknown function")

    def _literal(self, ref: Any, layer: MaterializedLayer | None) -> tuple[Any, Any]:
        """The pair under a reference to a constant, as dask's shuffle notes its indices."""
        if type(ref) is not TaskRef or layer is None or type(layer[ref.key]) is not DataNode:
            raise UntraceableError("an index of another kind")
        first, second = layer[ref.key].value
        return first, second

    def _shuffled(
        self, arrays: Any, sorter: tuple[Any, Any], axis: Any, layer: MaterializedLayer | None
    ) -> Value:
        if type(arrays) is not List or type(axis) is not int:
            raise UntraceableError("a list of another kind")
        parts = [self._node(array, layer) for array in arrays.args]
        shape = tuple(len(parts) if a == axis else 1 for a in range(len(parts[0].axes)))
        blocks = dict(zip(itertools.product(*map(range, shape)), parts, strict=True))
        joined, _ = assemble(blocks, shape)
        index = [slice(None)] * len(shape)
        return _taken(joined, (*index[:axis], np.argsort(sorter[1]), *index[axis + 1 :]))

    def _concatenate(
        self, arrays: Any, shape: tuple[int, ...] | None, layer: MaterializedLayer | None
    ) -> Value:
        if shape is None:
            found, inner = [], arrays
            while type(inner) is List:
                found.append(len(inner.args))
                inner = inner.args[0]
            shape = tuple(found)
            flat = _flatten(arrays, shape)
        else:
            if type(arrays) is not List:
                raise UntraceableError("a list of another kind")
            flat = list(arrays.args)
        grid = list(itertools.product(*map(range, shape)))
        blocks = {i: self._node(a, layer) for i, a in zip(grid, flat, strict=True)}
        return assemble(blocks, shape)[0]


def _flatten(nested: Any, shape: tuple[int, ...]) -> list[Any]:
    if not shape:
        return [nested]
    if type(nested) is not List or len(nested.args) != shape[0]:
        raise UntraceableError("a list of another kind")
    return [leaf for inner in nested.args for leaf in _flatten(inner, shape[1:])]


def _check_getter(task: Task) -> None:
    # With asarray=False the block would be whatever the wrapper gives.
    if set(task.kwargs) - {"asarray", "lock"} or task.kwargs.get("asarray", True) is not True:
        raise UntraceableError("an unknown way to read blocks")


def _sliced(part: Value, index: Any) -> Value:
    if type(index) is DataNode:
        index = index.value
    if type(index) is not tuple or sum(k is not None for k in index) != len(part.axes):
        raise UntraceableError("an index of another kind")
    # numpy moves axes where an array meets an integer, so arrays are left to others.
    stored = [k for k in index if k is not None]
    if any(type(k) is not slice and not isinstance(k, (int, np.integer)) for k in stored):
        raise UntraceableError("an index of another kind")
    part = part.select([pick(k, n) for k, n in zip(stored, part.shape, strict=True)])
    kept = [k for k in index if k is None or type(k) is slice]
    for axis in [axis for axis, k in enumerate(kept) if k is None]:
        part = part.insert(axis)
    return part


def _taken(part: Value, index: Any) -> Value:
    """One axis at positions of an array, the others whole: there numpy moves no axis."""
    if type(index) is not tuple or len(index) != len(part.axes):
        raise UntraceableError("an index of another kind")
    if sum(type(k) is np.ndarray for k in index) > 1:
        raise UntraceableError("an index of another kind")
    if any(type(k) is not np.ndarray and k != slice(None) for k in index):
        raise UntraceableError("an index of another kind")
    return part.select([pick(k, n) for k, n in zip(index, part.shape, strict=True)])


def _is_p2p(layer: Any) -> bool:
    # Its module imports distributed, which a process without a cluster need not load.
    if type(layer).__name__ != "P2PRechunkLayer":
        return False
    from distributed.shuffle._rechunk import P2PRechunkLayer

    return type(layer) is P2PRechunkLayer
