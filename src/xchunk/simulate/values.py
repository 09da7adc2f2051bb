"""What is known of a task's result without having it: its structure, shapes and dtypes.

Results are replaced by templates: large arrays by their shape and dtype, small ones and all
other objects by themselves, since positions and lengths decide what later tasks do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.simulate.standin import StandIn, noise

__all__ = ["Hole", "Value", "arrays_in", "filled", "root_of", "value_of"]

#: Bytes of an array up to which its content is kept.
_SMALL = 16_384

#: Items of a list or dict beyond which it is one object, whatever it holds.
_MANY = 10_000


@dataclass(frozen=True)
class Hole:
    """Where an array was."""

    shape: tuple[int, ...]
    """Elements along each dim."""
    dtype: np.dtype[Any]
    """Its dtype."""
    order: tuple[int, ...] | None = None
    """Its dims from the slowest to the fastest in memory; None: as they are."""
    gaps: bool = False
    """Whether it is a part of a larger array, so that a reshape has to copy it."""
    stretched: tuple[int, ...] = ()
    """Dims along which one element stands for all."""

    @classmethod
    def of(cls, array: NDArray[Any]) -> Hole:
        """Describe an array; how it lies in memory decides what has to be copied."""
        if array.flags.c_contiguous:
            return cls(array.shape, array.dtype)
        sizes = zip(array.shape, array.strides, strict=True)
        stretched = tuple(i for i, (n, step) in enumerate(sizes) if step == 0 and n > 1)
        order = tuple(sorted(range(array.ndim), key=lambda i: -abs(array.strides[i])))
        if stretched:
            return cls(array.shape, array.dtype, order, False, stretched)
        gaps = not array.transpose(order).flags.c_contiguous
        return cls(array.shape, array.dtype, order, gaps)

    def filled(self) -> NDArray[Any]:
        """Make such an array of noise."""
        if self.order is None:
            return noise(self.shape, self.dtype)
        real = tuple(1 if i in self.stretched else n for i, n in enumerate(self.shape))
        shape = [real[i] for i in self.order]
        if self.gaps and shape:
            made = noise((*shape[:-1], shape[-1] + 1), self.dtype)[..., :-1]
        else:
            made = noise(tuple(shape), self.dtype)
        made = made.transpose(np.argsort(self.order))
        return np.broadcast_to(made, self.shape) if self.stretched else made


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of one result."""

    template: Any
    """The result with holes for its arrays."""
    strict: Hashable
    """Equal where tasks cannot tell results apart but by large arrays' contents."""
    coarse: Hashable
    """The same without the contents of small arrays and the values of numbers."""
    nbytes: int
    """Bytes of its arrays."""
    known: bool = True
    """Whether it is of a task that was run; otherwise its size is a guess."""


def value_of(result: Any) -> Value:
    """Describe a result, or a constant of the graph."""
    template, strict, coarse, nbytes = _describe(result)
    return Value(template, strict, coarse, nbytes)


def _describe(obj: Any) -> tuple[Any, Hashable, Hashable, int]:
    if isinstance(obj, np.ndarray):
        coarse: Hashable = ("a", obj.shape, obj.dtype.str, type(obj).__name__)
        if obj.nbytes > _SMALL and type(obj) is np.ndarray:
            hole = Hole.of(obj)
            return hole, hole, hole, obj.nbytes
        if obj.dtype.kind in "iubmM":
            return obj, (coarse, obj.tobytes()), coarse, obj.nbytes
        return obj, coarse, coarse, obj.nbytes
    if isinstance(obj, StandIn):
        return obj, ("stored", id(obj)), ("stored", id(obj)), 0
    if isinstance(obj, list | tuple | dict) and len(obj) <= _MANY:
        return _container(obj)
    if isinstance(obj, bool | str | bytes | type(None) | np.dtype | type):
        return obj, ("v", obj), ("v", obj), 0
    if isinstance(obj, int | float | complex | np.generic):
        # NaN differs from itself
        return obj, ("n", type(obj), repr(obj)), ("n", type(obj)), 0
    if isinstance(obj, slice):
        own = ("slice", repr(obj))
        return obj, own, own, 0
    return obj, ("o", id(obj)), ("o", type(obj)), _nbytes(obj)


def _container(obj: Any) -> tuple[Any, Hashable, Hashable, int]:
    values = list(obj.values()) if isinstance(obj, dict) else list(obj)
    parts = [_describe(v) for v in values]
    keys = tuple(map(repr, obj)) if isinstance(obj, dict) else ()
    templates = [p[0] for p in parts]
    template: Any
    if isinstance(obj, dict):
        template = dict(zip(obj, templates, strict=True))
    elif type(obj) in (list, tuple):
        template = type(obj)(templates)
    else:
        # a named tuple, or something else that is made in its own way
        template = type(obj)(*templates) if hasattr(obj, "_fields") else obj
    head = (type(obj).__name__, keys)
    strict = (head, tuple(p[1] for p in parts))
    coarse = (head, tuple(p[2] for p in parts))
    return template, strict, coarse, sum(p[3] for p in parts)


def _nbytes(obj: Any) -> int:
    nbytes = getattr(obj, "nbytes", 0)
    return int(nbytes) if isinstance(nbytes, int | np.integer) else 0


def filled(template: Any) -> Any:
    """Make a result of a template, with noise in its holes."""
    if isinstance(template, Hole):
        return template.filled()
    if type(template) is dict:
        return {k: filled(v) for k, v in template.items()}
    if type(template) in (list, tuple):
        return type(template)(filled(v) for v in template)
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*(filled(v) for v in template))
    if isinstance(template, np.ndarray):
        return template.copy()
    return template


def arrays_in(result: Any, depth: int = 0) -> Iterator[NDArray[Any]]:
    """All arrays within a result."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, dict) and depth < 8:
        for v in result.values():
            yield from arrays_in(v, depth + 1)
    elif isinstance(result, list | tuple) and depth < 8:
        for v in result:
            yield from arrays_in(v, depth + 1)
    elif hasattr(result, "variables") and hasattr(result, "data_vars"):
        # a Dataset that a task of xarray's map_blocks hands over
        for v in result.variables.values():
            yield from arrays_in(v.data, depth + 1)
    elif type(result).__name__ in ("Variable", "DataArray"):
        yield from arrays_in(result.data, depth + 1)


def root_of(array: NDArray[Any]) -> Any:
    """The object that owns an array's memory."""
    root: Any = array
    while isinstance(root, np.ndarray) and root.base is not None:
        root = root.base
    return root
