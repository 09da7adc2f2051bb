"""From lazy results to graphs, and from the stored arrays within graphs to stand-ins.

Also datasets that look like a user's, with stand-ins for what is stored. A twin is shorter along
some dims. *Fewer* blocks: it ends earlier, and the graph is smaller. *Thinner* blocks: every edge,
of blocks and of stored chunks, moves towards the start by the same factor, so that the graph is the
same and its tasks are quick to try.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from xchunk.core.cost import Rates
from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout
from xchunk.core.suggest.decision import SMALL
from xchunk.core.suggest.lazy_pass import item_nbytes
from xchunk.core.types import DimChunk
from xchunk.simulate.dask_adapter import (
    ConstantNode,
    Graph,
    Node,
    Ref,
    SimulationError,
    TaskNode,
    capture,
)
from xchunk.simulate.signature import Value, value_of
from xchunk.simulate.standin import Discard, StandIn
from xchunk.sources.layouts import read_layout


def lazy_graph(lazy: Any, *, gather: bool | None = None) -> tuple[Graph, int]:
    """Take the graph that computing a result would run.

    - returns: the graph, and the bytes that gathering the result would add to what it takes; 0
      where the graph gathers it.
    """
    arrays = list(dask_arrays(lazy))
    if not arrays:
        raise SimulationError(
            f"there is nothing lazy in what was given ({type(lazy).__name__}). Give a Dataset, "
            "a DataArray or a dask array that is not computed yet; chunk the data before."
        )
    nbytes = sum(_nbytes(a) for a in arrays)
    if nbytes <= SMALL if gather is None else gather:
        return capture(*arrays), 0
    targets: Any = [Discard(a.shape, a.dtype) for a in arrays]
    return capture(da.store(arrays, targets, lock=False, compute=False)), gathering(arrays)


def gathering(arrays: Iterable[da.Array]) -> int:
    """Bytes that gathering results adds: their blocks, and the arrays they are put together in."""
    return sum(_nbytes(a) * min(2, a.npartitions) for a in arrays)


def dask_arrays(lazy: Any) -> Iterator[da.Array]:
    """Find the dask arrays of a result."""
    if isinstance(lazy, da.Array):
        yield lazy
    elif isinstance(lazy, xr.Variable):
        if lazy.chunks is not None and isinstance(lazy.data, da.Array):
            yield lazy.data
    else:
        for part in _parts(lazy):
            yield from dask_arrays(part)


def _parts(lazy: Any) -> Iterable[Any]:
    if isinstance(lazy, xr.DataArray):
        return [lazy.variable, *(c.variable for c in lazy.coords.values())]
    if isinstance(lazy, xr.Dataset):
        return list(lazy.variables.values())
    if isinstance(lazy, xr.DataTree):
        return [node.to_dataset(inherit=False) for node in lazy.subtree]
    if isinstance(lazy, dict):
        return list(lazy.values())
    return lazy if isinstance(lazy, list | tuple) else ()


def _nbytes(array: da.Array) -> int:
    shape: tuple[int, ...] = array.shape
    if any(math.isnan(n) for n in shape):
        return 0
    return math.prod(shape) * item_nbytes(np.dtype(array.dtype))


def compression_of(layout: ArrayLayout, rates: Rates | None = None) -> float:
    """Stored bytes for each byte before codecs; assumed where the store does not tell."""
    raw = layout.raw_nbytes
    if layout.stored_nbytes is not None and raw:
        return min(1.0, layout.stored_nbytes / raw)
    return (rates or Rates()).compression if layout.codecs else 1.0


#: Types that most arguments of tasks have, none of them stored arrays.
_PLAIN = frozenset((Ref, int, float, str, bool, type(None), tuple, list, dict, slice, np.ndarray))

_KEY = re.compile(r"(?:original-)?(?:open_dataset-|xarray-)?(.+?)-[0-9a-f]{32}")


class StandIns:
    """The stand-ins of one graph: one for each stored array in it."""

    def __init__(self, rates: Rates | None = None) -> None:
        self._rates = rates
        self._found: dict[int, tuple[Any, StandIn]] = {}

    def value(self, key: Any, constant: Any) -> Value:
        """Describe a constant of the graph, a stored array by its stand-in."""
        if _is_target(constant):
            return value_of(Discard((), None))
        return value_of(self._of(constant, key) if _is_stored(constant) else constant)

    def replaced(self, task: TaskNode) -> TaskNode:
        """Put stand-ins in the place of stored arrays that a task names itself."""
        args = tuple(self._replaced(a) for a in task.args)
        if all(a is b for a, b in zip(args, task.args, strict=True)):
            return task
        if type(task) is not TaskNode:
            return type(task)(*args)  # dask's own lists and dicts
        return TaskNode(task.key, task.func, *args, **task.kwargs)

    def _replaced(self, arg: Any) -> Any:
        if type(arg) in _PLAIN and type(arg) is not dict:
            return arg
        if isinstance(arg, TaskNode):
            return self.replaced(arg)
        if isinstance(arg, ConstantNode):
            if _is_target(arg.value):
                return ConstantNode(arg.key, Discard((), None))
            if not _is_stored(arg.value):
                return arg
            return ConstantNode(arg.key, self._of(arg.value, arg.key))
        if isinstance(arg, dict) and any(isinstance(v, Node) for v in arg.values()):
            new = {k: self._replaced(v) for k, v in arg.items()}
            same = all(new[k] is v for k, v in arg.items())
            return arg if same else new
        if _is_target(arg):
            return Discard((), None)
        return self._of(arg) if _is_stored(arg) else arg

    def _of(self, stored: Any, key: Any = None) -> Any:
        if isinstance(stored, StandIn):
            return stored
        if _is_loaded(stored):
            return np.asarray(stored)
        found = self._found.get(id(stored))
        if found is None:
            layout = _layout(stored, _name_in(key) or f"array {len(self._found) + 1}")
            # the array is kept, so that nothing else gets its id
            found = (stored, StandIn(layout, compression_of(layout, self._rates)))
            self._found[id(stored)] = found
        return found[1]


def _is_stored(obj: Any) -> bool:
    if type(obj) in _PLAIN:
        return False
    if isinstance(obj, StandIn):
        return True
    if isinstance(obj, np.ndarray | np.generic | da.Array | Discard | xr.Variable | xr.DataArray):
        return False
    if type(obj).__module__.partition(".")[0] in ("pandas", "numpy", "scipy", "sparse", "builtins"):
        return False
    return all(hasattr(obj, name) for name in ("shape", "dtype", "__getitem__"))


def _is_target(obj: Any) -> bool:
    """Whether it is something to write to and nothing to read: it must never be written to."""
    if type(obj) in _PLAIN or isinstance(obj, Discard | np.ndarray | list | dict | set):
        return False
    if not hasattr(type(obj), "__setitem__") or _is_stored(obj):
        return False
    return type(obj).__module__.partition(".")[0] not in ("pandas", "xarray", "dask", "builtins")


def _layout(stored: Any, name: str) -> ArrayLayout:
    """How an array within a graph is stored, as far as it can be told."""
    shape = tuple(int(n) for n in stored.shape)
    dims = tuple(f"dim_{i}" for i in range(len(shape)))
    dtype = np.dtype(stored.dtype)
    # One block of all of it, which is how a variable shows the same array to the tracer.
    whole = da.from_array(
        stored, chunks=shape or (), name=f"original-{name}", meta=np.empty((0,) * len(shape), dtype)
    )
    layout = read_layout(name, xr.Variable(dims, whole))
    if layout.format != "dask":
        return layout
    chunks = getattr(stored, "chunks", None)
    known = isinstance(chunks, tuple) and all(isinstance(c, int) for c in chunks)
    if not known or len(chunks or ()) != len(shape):
        chunks = None
    return ArrayLayout(
        name=layout.name,
        dims=dims,
        shape=shape,
        dtype=dtype,
        stored_dtype=dtype,
        chunks=chunks,
        format="unknown",
    )


def _is_loaded(stored: Any) -> bool:
    """Whether the values are in memory under xarray's wrappers, as those of indexes are."""
    for _ in range(8):
        if isinstance(stored, np.ndarray | pd.Index):
            return True
        stored = getattr(stored, "array", None)
    return False


def _name_in(key: Any) -> str:
    """Name of the variable in the key that xarray has dask give an array, or nothing."""
    found = _KEY.fullmatch(key) if isinstance(key, str) else None
    return found.group(1) if found is not None else ""


def stand_ins_in(graph: Graph) -> Iterator[StandIn]:
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


@dataclass(frozen=True)
class Shape:
    """How a twin differs from the data in size."""

    keep: Mapping[str, int] = field(default_factory=dict)
    """Elements that are kept of a dim, from its start."""
    thin: Mapping[str, float] = field(default_factory=dict)
    """Factor below 1 by which a dim is thinned."""

    def fraction(self, sizes: Mapping[str, int]) -> float:
        """The part of the data that is left."""
        part = 1.0
        for d, n in self.keep.items():
            part *= n / sizes[d] if d in sizes else 1
        for d, f in self.thin.items():
            part *= _scaled(sizes[d], f) / sizes[d]
        return part


@dataclass(frozen=True)
class Source:
    """A user's Datasets, with what is known of their variables."""

    groups: Mapping[str, xr.Dataset]
    """The Datasets by path; ``""`` is the root."""
    layouts: Mapping[str, ArrayLayout]
    """The layouts by the variables' full names."""
    rates: Rates
    """How fast things are."""

    @property
    def movable(self) -> dict[str, ArrayLayout]:
        """The variables whose blocks can be chosen: stored or lazy, and no index."""
        out = {}
        for path, ds in self.groups.items():
            for name in ds.variables:
                full = f"{path}/{name}" if path else str(name)
                v = self.layouts[full]
                if name not in ds.xindexes and v.format != "memory" and v.size and v.ndim:
                    out[full] = v
        return out

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each dim that a movable variable has."""
        return {d: n for v in self.movable.values() for d, n in v.sizes.items()}

    def twin(
        self, chunks: Mapping[str, Mapping[str, DimChunk]], shape: Shape | None = None
    ) -> dict[str, xr.Dataset]:
        """Make Datasets of stand-ins with some chunks; dims that are not named stay whole."""
        shape = shape or Shape()
        movable = self.movable
        out = {}
        for path, ds in self.groups.items():
            small = ds.isel(_positions(ds, shape), missing_dims="ignore")
            changed = {}
            for name, variable in ds.variables.items():
                full = f"{path}/{name}" if path else str(name)
                if full in movable:
                    own = chunks.get(full, {})
                    changed[name] = self._stand_in(movable[full], variable, own, shape)
            # the sizes of all variables change together, so they are put together anew
            bare = small.drop_vars(list(changed))
            data = {n: changed.get(n, small.variables[n]) for n in ds.data_vars}
            twin = xr.Dataset(data, bare.coords, ds.attrs)
            out[path] = twin.assign_coords({n: changed[n] for n in ds.coords if n in changed})
        return out

    def _stand_in(
        self,
        layout: ArrayLayout,
        variable: xr.Variable,
        own: Mapping[str, DimChunk],
        shape: Shape,
    ) -> xr.Variable:
        blocks = tuple(
            _cut(Axis.of(n, _whole(own.get(d, -1), n)), d, shape)
            for d, n in zip(layout.dims, layout.shape, strict=True)
        )
        if layout.format == "dask":
            # a computed array brings its own graph along
            index = _positions_of(variable.sizes, shape)
            return variable.isel(index).chunk(dict(zip(layout.dims, blocks, strict=True)))
        stand_in = StandIn(_smaller(layout, shape), compression_of(layout, self.rates))
        data = da.from_array(
            stand_in,
            chunks=blocks,
            name=f"stored-{layout.name}-{id(stand_in):032x}",
            lock=False,
            meta=np.empty((0,) * layout.ndim, layout.dtype),
        )
        return xr.Variable(variable.dims, data, variable.attrs, variable.encoding)


def blocks_of(
    layout: ArrayLayout, own: Mapping[str, DimChunk], shape: Shape | None = None
) -> dict[str, int]:
    """Number of blocks along each dim, of the data or of a twin."""
    axes = {d: Axis.of(n, _whole(own.get(d, -1), n)) for d, n in layout.sizes.items()}
    return {d: a.count if shape is None else len(_cut(a, d, shape)) for d, a in axes.items()}


def _whole(chunk: DimChunk, n: int) -> DimChunk:
    return max(n, 1) if chunk == -1 else chunk


def _scaled(position: int, factor: float) -> int:
    """Where an edge goes; different edges stay different as long as parts are long enough."""
    return max(1 if position else 0, round(position * factor))


def _cut(axis: Axis, dim: str, shape: Shape) -> tuple[int, ...]:
    """Lengths of an axis's parts in a twin."""
    edges = [axis.bounds(i)[1] for i in range(axis.count)]
    size = axis.size
    if dim in shape.keep:
        size = min(size, shape.keep[dim])
        edges = [e for e in edges if e < size] + [size]
    if dim in shape.thin:
        edges = [_scaled(e, shape.thin[dim]) for e in edges]
    lengths = np.diff([0, *edges])
    return tuple(int(n) for n in lengths if n > 0) or (size,)


def _smaller(layout: ArrayLayout, shape: Shape) -> ArrayLayout:
    """The layout of a stored array in a twin."""
    if not any(d in shape.keep or d in shape.thin for d in layout.dims):
        return layout
    cut = [
        _cut(Axis.of(n, c), d, shape)
        for d, n, c in zip(
            layout.dims, layout.shape, layout.chunks or (1,) * layout.ndim, strict=True
        )
    ]
    return replace(
        layout,
        shape=tuple(sum(c) for c in cut),
        chunks=None if layout.chunks is None else tuple(cut),
        shards=None,
        dask_chunks=None,
    )


def _positions_of(sizes: Mapping[Any, int], shape: Shape) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for d, n in shape.keep.items():
        if d in sizes:
            out[d] = slice(0, n)
    for d, f in shape.thin.items():
        if d in sizes:
            size = shape.keep.get(d, sizes[d])
            # evenly from all of the dim, so that coordinates keep their range
            out[d] = np.linspace(0, size - 1, _scaled(size, f)).round().astype(int)
    return out


def _positions(ds: xr.Dataset, shape: Shape) -> dict[str, Any]:
    return _positions_of(dict(ds.sizes), shape)
