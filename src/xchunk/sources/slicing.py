"""Which elements of stored arrays a value shows: the algebra under tracing.

Nothing here knows xarray or dask. Whatever cannot be written as one progression along
each axis raises `UntraceableError`; there is no approximate answer.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

#: The number of a stored axis for an axis that is not stored: of one element, added with ``None``.
NEW = -1


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
            elif not 0 <= chosen < len(elements):
                raise UntraceableError("a position outside the axis")
            elif stored != NEW:
                fixed.add((stored, elements[chosen]))
        return replace(self, axes=tuple(axes), fixed=frozenset(fixed))

    def insert(self, axis: int) -> Part:
        """The value with one more axis, of one element, that is not stored."""
        axes = (*self.axes[:axis], (NEW, range(1)), *self.axes[axis:])
        return replace(self, axes=axes)

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


def broadcast_picks(
    keys: Sequence[np.ndarray[Any, Any]], sizes: Sequence[int]
) -> tuple[tuple[Pick, ...], tuple[int, ...]]:
    """Read index arrays that are broadcast together (pointwise indexing).

    - returns: a pick for each indexed axis, and the order in which the axes that are kept appear in
      the result.
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


@dataclass(frozen=True)
class Mosaic:
    """Parts of several leaves side by side in a grid, none of which is empty."""

    lengths: tuple[tuple[int, ...], ...]
    """Elements of the cells along each axis of the value."""
    cells: tuple[Part, ...]
    """The part in each cell of the grid, the last axis varying fastest."""

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Where cells begin along each axis, and where the last one ends."""
        return tuple(tuple(itertools.accumulate(n, initial=0)) for n in self.lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis of the value."""
        return tuple(edges[-1] for edges in self.edges)

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """One item for each axis of the value."""
        return self.lengths

    def cell(self, index: Sequence[int]) -> Part:
        """The part at an index of the grid."""
        number = 0
        for i, n in zip(index, self.lengths, strict=True):
            number = number * len(n) + i
        return self.cells[number]

    def select(self, picks: Sequence[Pick]) -> Value:
        """The value at these positions: one pick for each axis, an integer drops it."""
        if len(picks) != len(self.lengths):
            raise UntraceableError("as many picks as axes are needed")
        along = [_spread(edges, chosen) for edges, chosen in zip(self.edges, picks, strict=True)]
        cells = tuple(
            self.cell([i for i, _ in at]).select([chosen for _, chosen in at])
            for at in itertools.product(*along)
        )
        lengths = tuple(
            tuple(len(local) for _, local in found if isinstance(local, range))
            for found, chosen in zip(along, picks, strict=True)
            if isinstance(chosen, range)
        )
        return cells[0] if len(cells) == 1 else Mosaic(lengths, cells)

    def transpose(self, order: Sequence[int]) -> Mosaic:
        """The value with its axes in another order."""
        if sorted(order) != list(range(len(self.lengths))):
            raise UntraceableError("not an order of the axes")
        grid = np.arange(len(self.cells)).reshape([len(n) for n in self.lengths])
        cells = tuple(self.cells[i].transpose(order) for i in grid.transpose(order).flat)
        return Mosaic(tuple(self.lengths[i] for i in order), cells)

    def insert(self, axis: int) -> Mosaic:
        """The value with one more axis, of one element, that is not stored."""
        lengths = (*self.lengths[:axis], (1,), *self.lengths[axis:])
        return Mosaic(lengths, tuple(cell.insert(axis) for cell in self.cells))

    def decode(self, decoder: Decoder) -> Mosaic:
        """The value after one more decoding step."""
        return replace(self, cells=tuple(cell.decode(decoder) for cell in self.cells))


Value: TypeAlias = "Part | Mosaic"


def _spread(edges: Sequence[int], chosen: Pick) -> list[tuple[int, Pick]]:
    """Report what a pick takes of each cell along one axis, in its own order."""
    if isinstance(chosen, int):
        if not 0 <= chosen < edges[-1]:
            raise UntraceableError("a position outside the axis")
        i = bisect.bisect_right(edges, chosen) - 1
        return [(i, chosen - edges[i])]
    if len(chosen) == 0:
        return [(0, range(0))]
    low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
    if low < 0 or high >= edges[-1]:
        raise UntraceableError("positions outside the axis")
    step = abs(chosen.step)
    found: list[tuple[int, Pick]] = []
    for i in range(bisect.bisect_right(edges, low) - 1, bisect.bisect_left(edges, high + 1)):
        first = max(0, -(-(edges[i] - low) // step))
        last = (min(edges[i + 1] - 1, high) - low) // step
        local = range(low + first * step - edges[i], low + last * step - edges[i] + 1, step)
        if local:
            found.append((i, compact(local if chosen.step > 0 else local[::-1])))
    return found if chosen.step > 0 else found[::-1]


def assemble(
    blocks: Mapping[tuple[int, ...], Value], numblocks: Sequence[int]
) -> tuple[Value, tuple[tuple[int, ...], ...]]:
    """Put a grid of values together.

    - ``blocks``: the value at each index of the grid; every index must be there.
    - ``numblocks``: length of the grid along each axis.
    - returns: what they make together, and the lengths of the blocks along each axis, in elements.
    - raises `UntraceableError` if they are not in one progression, or make no grid of parts of
      different arrays.
    """
    if not numblocks:
        return blocks[()], ()
    if math.prod(numblocks) == 0:
        raise UntraceableError("no blocks")
    corner = (0,) * len(numblocks)
    if len(blocks[corner].axes) != len(numblocks):
        raise UntraceableError("blocks of another number of axes than their grid")
    along = [_line_of(numblocks, axis) for axis in range(len(numblocks))]
    ends = [blocks[line[-1]] for line in along]
    first = blocks[corner]
    # Files are joined in order, so that the last block of a line tells whether there are several.
    if type(first) is Part and all(
        type(end) is Part and end.origin() == first.origin() for end in ends
    ):
        return _one_part(blocks, numblocks)
    fine, cuts = _cut_up(blocks, along)
    counts = tuple(sum(map(len, line)) for line in cuts)
    return _several_parts(fine, counts), tuple(tuple(map(sum, line)) for line in cuts)


def _line_of(numblocks: Sequence[int], axis: int) -> list[tuple[int, ...]]:
    """Indices of a grid along one axis, through its first corner."""
    at = [0] * len(numblocks)
    return [(*at[:axis], i, *at[axis + 1 :]) for i in range(numblocks[axis])]


def _cut_up(
    blocks: Mapping[tuple[int, ...], Value], along: Sequence[Sequence[tuple[int, ...]]]
) -> tuple[dict[tuple[int, ...], Part], list[list[tuple[int, ...]]]]:
    """Put the cells of all blocks into one grid; also tell the lengths of each block's cells."""
    cuts = [[_lengths_of(blocks[at])[axis] for at in line] for axis, line in enumerate(along)]
    starts = [list(itertools.accumulate(map(len, line), initial=0)) for line in cuts]
    fine: dict[tuple[int, ...], Part] = {}
    for index in itertools.product(*(range(len(line)) for line in along)):
        block = blocks[index]
        expected = tuple(line[i] for line, i in zip(cuts, index, strict=True))
        if _lengths_of(block) != expected:
            raise UntraceableError("blocks that do not line up")
        cells = (block,) if type(block) is Part else block.cells  # type: ignore[union-attr]
        begin = [line[i] for line, i in zip(starts, index, strict=True)]
        places = itertools.product(
            *(range(b, b + len(n)) for b, n in zip(begin, expected, strict=True))
        )
        fine.update(zip(places, cells, strict=True))
    return fine, cuts


def _lengths_of(value: Value) -> tuple[tuple[int, ...], ...]:
    return tuple((n,) for n in value.shape) if type(value) is Part else value.lengths  # type: ignore[union-attr]


def _several_parts(blocks: Mapping[tuple[int, ...], Part], counts: Sequence[int]) -> Value:
    """Put the blocks of each array together, and the arrays side by side."""
    runs = []
    for axis in range(len(counts)):
        line = [blocks[at].origin() for at in _line_of(counts, axis)]
        starts = [i for i, found in enumerate(line) if i == 0 or found != line[i - 1]]
        runs.append(list(itertools.pairwise([*starts, len(line)])))
    cells: dict[tuple[int, ...], Part] = {}
    for index in itertools.product(*(range(len(run)) for run in runs)):
        spans = [run[i] for run, i in zip(runs, index, strict=True)]
        offset = [start for start, _ in spans]
        size = tuple(stop - start for start, stop in spans)
        inner = {
            at: blocks[tuple(o + i for o, i in zip(offset, at, strict=True))]
            for at in itertools.product(*map(range, size))
        }
        cells[index] = _one_part(inner, size)[0]
    return mosaic(cells, [len(run) for run in runs])


def mosaic(cells: Mapping[tuple[int, ...], Part], counts: Sequence[int]) -> Value:
    """Put parts of different arrays side by side, in a grid with so many cells along each axis."""
    lengths = [
        tuple(cells[at].shape[axis] for at in _line_of(counts, axis)) for axis in range(len(counts))
    ]
    for index, cell in cells.items():
        if cell.shape != tuple(n[i] for n, i in zip(lengths, index, strict=True)):
            raise UntraceableError("parts that do not line up")
    kept = [[i for i, n in enumerate(along) if n] for along in lengths]
    # A file without elements along a dim shows nothing there.
    filled = [cells[index] for index in itertools.product(*kept)]
    if not filled:
        raise UntraceableError("parts without elements")
    if len({id(cell.leaf.array) for cell in filled}) != len(filled):
        # such as rolled data: no files side by side, and nothing that is read better in parts
        raise UntraceableError("several parts of one stored array")
    if len(filled) == 1:
        return filled[0]
    return Mosaic(tuple(tuple(n for n in along if n) for along in lengths), tuple(filled))


def _one_part(
    blocks: Mapping[tuple[int, ...], Value], numblocks: Sequence[int]
) -> tuple[Part, tuple[tuple[int, ...], ...]]:
    """Put blocks of one stored array together."""
    corner = _part(blocks[(0,) * len(numblocks)])
    lines = [
        [_axis(_part(blocks[at]), axis) for at in _line_of(numblocks, axis)]
        for axis in range(len(numblocks))
    ]
    origin = corner.origin()
    for index in itertools.product(*map(range, numblocks)):
        block = _part(blocks[index])
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


def _part(value: Value) -> Part:
    if type(value) is not Part:
        raise UntraceableError("blocks of several origins")
    return value


def _axis(part: Part, axis: int) -> range:
    if axis >= len(part.axes):
        raise UntraceableError("blocks of several numbers of axes")
    return part.axes[axis][1]
