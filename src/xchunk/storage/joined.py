"""Many stored arrays side by side, read as one: a block may span files in a single task."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.core.grid import Axis

__all__ = ["JoinedArray"]


@dataclass(frozen=True, eq=False)
class JoinedArray:
    """Variables of several files as one array; what a slice of it needs is read, and no more.

    It has what dask asks of an array: a shape, a dtype and slices. It travels to workers as
    well as the variables do.
    """

    variables: NDArray[Any]
    """The lazy variables, one for each file, as an array of objects with the array's dims."""
    edges: tuple[Axis, ...]
    """Where files begin along each dim."""
    dtype: np.dtype[Any]
    """The dtype of the values; what files store differently is converted to it."""

    @classmethod
    def of(cls, parts: NDArray[Any]) -> JoinedArray:
        """Join variables, of which those in a row have the same length along the other dims."""
        edges = []
        for axis in range(parts.ndim):
            row = parts[tuple(slice(None) if i == axis else 0 for i in range(parts.ndim))]
            lengths = tuple(int(v.shape[axis]) for v in row)
            edges.append(Axis(sum(lengths), max(lengths, default=1), lengths))
        dtype = np.result_type(*{v.dtype for v in parts.flat})
        return cls(parts, tuple(edges), dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dim."""
        return tuple(a.size for a in self.edges)

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.edges)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a selection, each dim indexed by itself: slices, integers, arrays of integers."""
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in [k for k in keys if not isinstance(k, np.ndarray)]:
            raise IndexError("a joined array is indexed without an ellipsis")
        keys = (*keys, *(slice(None),) * (self.ndim - len(keys)))
        spans = [_span(k, a.size) for k, a in zip(keys, self.edges, strict=True)]
        values = self._box([(start, stop) for start, stop, _ in spans])
        # from the last dim on, so that those that an integer takes away do not shift the others
        for axis in reversed(range(self.ndim)):
            rest = spans[axis][2]
            if rest is not None:
                values = values[(*(slice(None),) * axis, rest)]
        return values

    def _box(self, bounds: Sequence[tuple[int, int]]) -> NDArray[Any]:
        shape = tuple(max(0, stop - start) for start, stop in bounds)
        touched = [
            a.touched(start, stop) for a, (start, stop) in zip(self.edges, bounds, strict=True)
        ]
        indices = list(itertools.product(*touched))
        if len(indices) == 1:
            source, _ = self._part(indices[0], bounds)
            values = self.variables[indices[0]][source].values
            return np.asarray(values, dtype=self.dtype)
        out = np.empty(shape, dtype=self.dtype)
        for index in indices:
            source, target = self._part(index, bounds)
            out[target] = self.variables[index][source].values
        return out

    def _part(
        self, index: Sequence[int], bounds: Sequence[tuple[int, int]]
    ) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """What one file gives of a slice: where it lies in the file, and in the result."""
        source, target = [], []
        for axis, i, (start, stop) in zip(self.edges, index, bounds, strict=True):
            first, last = axis.bounds(i)
            a, b = max(start, first), min(stop, last)
            source.append(slice(a - first, b - first))
            target.append(slice(a - start, b - start))
        return tuple(source), tuple(target)


def _span(key: Any, size: int) -> tuple[int, int, Any]:
    """The elements that a key lies within, and what is to be taken of them; None: all."""
    if isinstance(key, slice):
        start, stop, step = key.indices(size)
        if step == 1:
            return start, max(start, stop), None
        picked = range(start, stop, step)
        if not picked:
            return 0, 0, None
        low = min(picked[0], picked[-1])
        return low, max(picked[0], picked[-1]) + 1, slice(None, None, step)
    index = np.asarray(key)
    if index.dtype == bool:
        index = np.flatnonzero(index)
    if index.dtype.kind not in "iu" or (
        index.size and not -size <= index.min() <= index.max() < size
    ):
        raise IndexError(f"{key!r} is no index of a dim of {size} elements")
    index = np.where(index < 0, index + size, index)
    if not index.size:
        return 0, 0, index.astype(int)
    low = int(index.min())
    return low, int(index.max()) + 1, index - low if index.ndim else int(index) - low
