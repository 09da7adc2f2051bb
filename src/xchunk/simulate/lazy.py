"""From lazy results to graphs, and from the stored arrays within graphs to stand-ins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from xchunk.core.blocks import item_nbytes
from xchunk.core.cost import Rates
from xchunk.core.decide import SMALL
from xchunk.core.layout import ArrayLayout
from xchunk.simulate._dask import (
    ConstantNode,
    Graph,
    Node,
    Ref,
    SimulationError,
    TaskNode,
    capture,
)
from xchunk.simulate.standin import Discard, StandIn
from xchunk.simulate.values import Value, value_of
from xchunk.storage.layouts import read_layout

__all__ = ["StandIns", "compression_of", "dask_arrays", "lazy_graph", "stand_ins_in"]


def lazy_graph(lazy: Any, *, gather: bool | None = None) -> tuple[Graph, int]:
    """Take the graph that computing a result would run.

    Returns
    -------
    tuple of Graph and int
        The graph, and the bytes that gathering the result would add to what it takes; 0
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
    return capture(da.store(arrays, targets, lock=False, compute=False)), nbytes


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
