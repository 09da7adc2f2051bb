"""Boxes that nothing is stored in, against a look at every element."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.grid import Grid, Vacant, vacant_boxes
from xchunk.testing.strategies import grids


@st.composite
def copies(draw: st.DrawFn) -> tuple[Grid, np.ndarray, tuple[int, ...], list[Grid]]:
    dims = draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 9)) for _ in range(dims)]
    chunks = draw(grids(shape))
    origin = tuple(draw(st.integers(0, n - 1)) for n in shape)
    part = [draw(st.integers(1, n - o)) for n, o in zip(shape, origin, strict=True)]
    stages = [draw(grids(part)) for _ in range(draw(st.integers(1, 3)))]
    every = list(np.ndindex(*chunks.counts))
    some = draw(st.lists(st.sampled_from(every), unique=True))
    return chunks, np.array(some, dtype=np.int64).reshape(len(some), dims), origin, stages


@given(copies())
def test_vacant_boxes_are_those_that_no_element_comes_into(
    case: tuple[Grid, np.ndarray, tuple[int, ...], list[Grid]],
) -> None:
    chunks, present, origin, stages = case
    stored = np.zeros(chunks.shape, dtype=bool)
    for index in present:
        stored[tuple(slice(*a.bounds(int(i))) for a, i in zip(chunks.axes, index, strict=True))] = 1
    values = stored[
        tuple(slice(o, o + n) for o, n in zip(origin, stages[0].shape, strict=True))
    ].copy()
    for boxes, found in zip(stages, vacant_boxes(chunks, present, origin, stages), strict=True):
        expected = set()
        for i, region in enumerate(boxes.regions()):
            if values[region].any():
                # the whole box is written, so that all of it may come into the next one
                values[region] = True
            else:
                expected.add(i)
        assert found == expected


@given(copies(), st.data())
def test_the_vacant_part_of_a_region(
    case: tuple[Grid, np.ndarray, tuple[int, ...], list[Grid]], data: st.DataObject
) -> None:
    boxes = case[3][0]
    numbers = data.draw(st.sets(st.integers(0, boxes.count - 1)))
    region = tuple(
        slice(start, data.draw(st.integers(start + 1, n)))
        for n in boxes.shape
        for start in [data.draw(st.integers(0, n - 1))]
    )
    expected = np.zeros(boxes.shape, dtype=bool)
    for number in numbers:
        expected[boxes.region(number)] = True
    found = np.zeros([r.stop - r.start for r in region], dtype=bool)
    for part in Vacant(boxes, frozenset(numbers), b"").within(region):
        assert not found[part].any()
        found[part] = True
    assert np.array_equal(found, expected[region])
