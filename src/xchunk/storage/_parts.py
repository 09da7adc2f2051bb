"""Which elements of one stored array a value shows: the algebra under tracing.

Nothing here knows xarray or dask. Whatever cannot be written as one progression along
each axis raises `UntraceableError`; there is no approximate answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Decoder", "Leaf", "Part", "UntraceableError", "assemble", "compact", "pick"]


class UntraceableError(Exception):
    """What stands here is not known, or is no part of one stored array."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """A stored array; two leaves are the same only if they are one object."""

    array: Any
    """The backend's own array."""
    shape: tuple[int, ...]
    """Its elements along each axis."""


@dataclass(frozen=True)
class Decoder:
    """One elementwise step between the stored and the shown values."""

    name: str
    """Its name."""
    func: Callable[..., Any] | None = None
    """The function with its parameters; None: the text says all."""
    text: str = ""
    """Its name and parameters; equal texts decode equally."""


Pick: TypeAlias = "int | range"


@dataclass(frozen=True)
class Part:
    """A part of a leaf: for each axis of the value, a stored axis and the elements of it."""

    leaf: Leaf
    """The stored array."""
    axes: tuple[tuple[int, range], ...]
    """(stored axis, elements) for each axis of the value, in its order."""
    fixed: frozenset[tuple[int, int]] = frozenset()
    """(stored axis, element) for axes that were indexed away."""
    decoders: tuple[Decoder, ...] = ()
    """The decoding steps, innermost first."""

    @classmethod
    def whole(cls, leaf: Leaf) -> Part:
        """All elements of a leaf, as stored."""
        return cls(leaf, tuple((i, compact(range(n))) for i, n in enumerate(leaf.shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis of the value."""
        return tuple(len(elements) for _, elements in self.axes)

    def select(self, picks: Sequence[Pick]) -> Part:
        """The value at these positions: one pick for each axis, an integer drops it."""
        if len(picks) != len(self.axes):
            raise UntraceableError("as many picks as axes are needed")
        axes: list[tuple[int, range]] = []
        fixed = set(self.fixed)
        for (stored, elements), chosen in zip(self.axes, picks, strict=True):
            if isinstance(chosen, range):
                axes.append((stored, _compose(elements, chosen)))
            elif 0 <= chosen < len(elements):
                fixed.add((stored, elements[chosen]))
            else:
                raise UntraceableError("a position outside the axis")
        return replace(self, axes=tuple(axes), fixed=frozenset(fixed))

    def transpose(self, order: Sequence[int]) -> Part:
        """The value with its axes in another order."""
        if sorted(order) != list(range(len(self.axes))):
            raise UntraceableError("not an order of the axes")
        return replace(self, axes=tuple(self.axes[i] for i in order))

    def decode(self, decoder: Decoder) -> Part:
        """The value after one more decoding step."""
        return replace(self, decoders=(*self.decoders, decoder))

    def origin(self) -> tuple[Any, ...]:
        """What parts must have in common to be pieces of one value."""
        stored = tuple(axis for axis, _ in self.axes)
        steps = tuple((d.text, id(d.func)) for d in self.decoders)
        return (id(self.leaf.array), stored, self.fixed, steps)


def compact(elements: range) -> range:
    """One spelling for each progression, so that equal ones compare equal."""
    if len(elements) == 0:
        return range(0)
    if len(elements) == 1:
        return range(elements[0], elements[0] + 1)
    return elements


def _compose(elements: range, positions: range) -> range:
    if len(positions) == 0:
        return range(0)
    if min(positions[0], positions[-1]) < 0 or max(positions[0], positions[-1]) >= len(elements):
        raise UntraceableError("positions outside the axis")
    start, step = elements[positions[0]], elements.step * positions.step
    return compact(range(start, start + step * len(positions), step))


def pick(key: object, size: int) -> Pick:
    """Read one element of an index: an integer, a slice or an array of even steps."""
    if isinstance(key, slice):
        return range(size)[key]
    if isinstance(key, (bool, np.bool_)):
        raise UntraceableError("a boolean index")
    if isinstance(key, (int, np.integer)):
        position = int(key) + (size if key < 0 else 0)
        if not 0 <= position < size:
            raise UntraceableError("an index outside the axis")
        return position
    if isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu":
        return progression(key, size)
    raise UntraceableError(f"an index of type {type(key).__name__}")


def progression(positions: np.ndarray[Any, Any], size: int) -> range:
    """The range that a 1-d array of positions spells, if it does."""
    n = len(positions)
    if n == 0:
        return range(0)
    wide = positions.astype(np.int64)
    wide = np.where(wide < 0, wide + size, wide)
    start = int(wide[0])
    step = int(wide[1]) - start if n > 1 else 1
    if step == 0 or not np.array_equal(wide, start + step * np.arange(n, dtype=np.int64)):
        raise UntraceableError("positions of uneven steps")
    return compact(range(start, start + step * n, step))


def join(pieces: Sequence[range]) -> range:
    """The progression that pieces make one after another, if they do."""
    filled = [piece for piece in pieces if len(piece)]
    if len(filled) < 2:
        return filled[0] if filled else range(0)
    first = filled[0]
    start = first[0]
    step = (first[1] if len(first) > 1 else filled[1][0]) - start
    done = 0
    for piece in filled:
        even = len(piece) == 1 or piece.step == step
        if step == 0 or not even or piece[0] != start + step * done:
            raise UntraceableError("pieces that are no progression")
        done += len(piece)
    return range(start, start + step * done, step)


def assemble(
    blocks: Mapping[tuple[int, ...], Part], numblocks: Sequence[int]
) -> tuple[Part, tuple[tuple[int, ...], ...]]:
    """Put a grid of parts together.

    Parameters
    ----------
    blocks : mapping
        The part at each index of the grid; every index must be there.
    numblocks : sequence of int
        Length of the grid along each axis.

    Returns
    -------
    tuple
        The part that they make together, and its pieces along each axis, in elements.

    Raises
    ------
    UntraceableError
        If they are not pieces of one value, or not in one progression.
    """
    if not numblocks:
        return blocks[()], ()
    if math.prod(numblocks) == 0:
        raise UntraceableError("no blocks")
    corner = blocks[(0,) * len(numblocks)]
    if len(corner.axes) != len(numblocks):
        raise UntraceableError("blocks of another number of axes than their grid")
    lines: list[list[range]] = []
    for axis, count in enumerate(numblocks):
        along = [tuple(i if a == axis else 0 for a in range(len(numblocks))) for i in range(count)]
        lines.append([_axis(blocks[index], axis) for index in along])
    origin = corner.origin()
    for index in itertools.product(*map(range, numblocks)):
        block = blocks[index]
        # An empty block shows nothing, so where it came from has no meaning, but one of
        # another origin is refused all the same: it is not what this code expects.
        if block.origin() != origin:
            raise UntraceableError("blocks of several origins")
        for axis, i in enumerate(index):
            if block.axes[axis][1] != lines[axis][i]:
                raise UntraceableError("blocks that do not line up")
    axes = tuple((corner.axes[a][0], join(line)) for a, line in enumerate(lines))
    chunks = tuple(tuple(len(piece) for piece in line) for line in lines)
    return replace(corner, axes=axes), chunks


def _axis(part: Part, axis: int) -> range:
    if axis >= len(part.axes):
        raise UntraceableError("blocks of several numbers of axes")
    return part.axes[axis][1]


def broadcast_picks(
    keys: Sequence[np.ndarray[Any, Any]], sizes: Sequence[int]
) -> tuple[tuple[Pick, ...], tuple[int, ...]]:
    """Read index arrays that are broadcast together (pointwise indexing).

    Returns
    -------
    tuple
        A pick for each indexed axis, and the order in which the axes that are kept
        appear in the result.
    """
    shape = np.broadcast_shapes(*(key.shape for key in keys))
    if 0 in shape:
        raise UntraceableError("an empty pointwise index does not tell its axes")
    picks: list[Pick] = []
    shown: dict[int, int] = {}
    for number, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        if key.dtype.kind not in "iu":
            raise UntraceableError("an index that is not of integers")
        full = np.broadcast_to(key, shape)
        varying = [
            axis
            for axis, n in enumerate(shape)
            if n > 1 and full.strides[axis] != 0 and (np.diff(_line(full, axis)) != 0).any()
        ]
        if len(varying) > 1:
            raise UntraceableError("an index along several axes")
        if not varying:
            if (key != key.flat[0]).any():
                raise UntraceableError("an index along several axes")
            picks.append(pick(key.flat[0], size))
            continue
        axis = varying[0]
        line = _line(full, axis)
        spread = line.reshape(tuple(-1 if a == axis else 1 for a in range(len(shape))))
        if axis in shown or not (key == _squeezed(spread, key.ndim)).all():
            raise UntraceableError("an index along several axes")
        shown[axis] = number
        picks.append(progression(line, size))
    # An axis of one element does not tell which stored axis it is; any that is fixed
    # shows the same element.
    spare = [(number, chosen) for number, chosen in enumerate(picks) if isinstance(chosen, int)]
    for axis, n in enumerate(shape):
        if axis not in shown:
            if n != 1 or not spare:
                raise UntraceableError("an axis that is not stored")
            number, position = spare.pop(0)
            picks[number] = range(position, position + 1)
            shown[axis] = number
    kept = sorted(shown.values())
    return tuple(picks), tuple(kept.index(shown[axis]) for axis in range(len(shape)))


def _line(array: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    at = tuple(slice(None) if a == axis else 0 for a in range(array.ndim))
    line: np.ndarray[Any, Any] = array[at]
    return line.astype(np.int64)


def _squeezed(array: np.ndarray[Any, Any], ndim: int) -> np.ndarray[Any, Any]:
    """Drop leading axes of one element, down to ``ndim`` axes."""
    return array.reshape(array.shape[array.ndim - ndim :])
