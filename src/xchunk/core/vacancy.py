"""Boxes in which nothing is stored: a sparse array keeps few of the chunks that it could have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xchunk.core.grid import Axis, Grid

__all__ = ["Vacant", "vacant_boxes"]


@dataclass(frozen=True)
class Vacant:
    """The boxes of the stage before that were left out, since nothing is stored in them."""

    boxes: Grid
    """All boxes of that stage."""
    numbers: frozenset[int]
    """Which of them were left out."""
    fill: bytes
    """The bits that their values have, each."""

    def within(self, region: Sequence[slice]) -> Iterator[tuple[slice, ...]]:
        """The parts of a region that lie in vacant boxes, counted from where it starts."""
        axes = self.boxes.axes
        touched = [a.touched(r.start, r.stop) for a, r in zip(axes, region, strict=True)]
        for index in itertools.product(*touched):
            number = 0
            for i, n in zip(index, self.boxes.counts, strict=True):
                number = number * n + i
            if number in self.numbers:
                bounds = (a.bounds(i) for a, i in zip(axes, index, strict=True))
                yield tuple(
                    slice(max(start, r.start) - r.start, min(stop, r.stop) - r.start)
                    for (start, stop), r in zip(bounds, region, strict=True)
                )


def vacant_boxes(
    chunks: Grid,
    present: NDArray[np.int64],
    origin: Sequence[int],
    stages: Sequence[Grid],
) -> tuple[frozenset[int], ...]:
    """Tell, for each stage of a copy, which boxes nothing comes into.

    Parameters
    ----------
    chunks : Grid
        The stored chunks of the source.
    present : array, shape (n, dims)
        The indices of those that are there.
    origin : sequence of int
        First element of what is copied, along each dim of the source.
    stages : sequence of Grid
        The boxes of each stage; the values of one stage come from the boxes before.

    Returns
    -------
    tuple of frozenset of int
        The numbers of the vacant boxes, one set for each stage.
    """
    out = []
    for boxes in stages:
        filled = _filled(chunks.axes, present, origin, boxes)
        out.append(frozenset(np.flatnonzero(~filled).tolist()))
        chunks, present, origin = boxes, np.argwhere(filled), (0,) * len(boxes.axes)
    return tuple(out)


def _filled(
    axes: Sequence[Axis], present: NDArray[np.int64], origin: Sequence[int], boxes: Grid
) -> NDArray[np.bool_]:
    """Mark the boxes that one of the given chunks overlaps.

    Each chunk overlaps a block of boxes, from the first to the last along each dim. Counting
    it up where the block begins and down where it ends, the running sums are how often each
    box is overlapped: no loop over chunks or boxes.
    """
    first, last = [], []
    inside = np.ones(len(present), dtype=bool)
    for d, (axis, target) in enumerate(zip(axes, boxes.axes, strict=True)):
        indices, back = np.unique(present[:, d], return_inverse=True)
        ranges = [_touched(axis, int(i), origin[d], target) for i in indices]
        starts = np.array([r.start for r in ranges], dtype=np.int64)[back]
        stops = np.array([r.stop for r in ranges], dtype=np.int64)[back]
        inside &= stops > starts
        first.append(starts)
        last.append(stops)
    marks = np.zeros([n + 1 for n in boxes.counts], dtype=np.int64)
    for ends in itertools.product((0, 1), repeat=len(boxes.axes)):
        corner = tuple((last[d] if end else first[d])[inside] for d, end in enumerate(ends))
        np.add.at(marks, corner, (-1) ** sum(ends))
    for d in range(marks.ndim):
        marks = np.cumsum(marks, axis=d)
    return np.asarray(marks[tuple(slice(0, n) for n in boxes.counts)] > 0)


def _touched(axis: Axis, i: int, origin: int, boxes: Axis) -> range:
    start, stop = axis.bounds(i)
    return boxes.touched(max(0, start - origin), min(boxes.size, stop - origin))
