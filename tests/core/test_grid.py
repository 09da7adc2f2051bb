"""Grids in closed form against looking at every part."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.grid import Axis, Grid, ceildiv, lcm_within
from xchunk.errors import InvalidChunksError
from xchunk.testing.strategies import axes

two_axes = st.integers(0, 60).flatmap(lambda n: st.tuples(axes(n), axes(n)))


def spans(axis: Axis) -> list[tuple[int, int]]:
    return [axis.bounds(i) for i in range(axis.count)]


def overlaps(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@given(axes())
def test_parts_cover_the_dim_once(axis):
    found = spans(axis)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][: len(found)]
    assert (found[-1][1] if found else 0) == axis.size
    assert all(0 < stop - start <= axis.chunk for start, stop in found)


@given(two_axes)
def test_pairs_are_the_overlaps(both):
    a, b = both
    brute = sum(overlaps(x, y) for x in spans(a) for y in spans(b))
    assert a.pairs(b) == b.pairs(a) == brute


@given(two_axes)
def test_common_edges(both):
    a, b = both
    inner = {start for start, _ in spans(a)} & {start for start, _ in spans(b)} - {0}
    assert a.common_edges(b) == len(inner)


@given(two_axes)
def test_nesting_means_that_no_part_is_cut(both):
    a, b = both
    within = all(any(x[0] <= y[0] and y[1] <= x[1] for x in spans(a)) for y in spans(b))
    assert a.nests(b) == within


@given(two_axes)
def test_most_touched_is_never_too_few(both):
    a, b = both
    brute = max((sum(overlaps(x, y) for y in spans(b)) for x in spans(a)), default=0)
    assert brute <= a.most_touched(b) <= brute + 1
    if a.nests(b) or b.nests(a):
        assert a.most_touched(b) == brute


@given(axes(), st.integers(0, 60), st.integers(0, 60))
def test_touched_parts_overlap_the_range(axis, start, stop):
    start, stop = min(start, axis.size), min(stop, axis.size)
    found = list(axis.touched(start, stop))
    assert found == [
        i for i, s in enumerate(spans(axis)) if start < stop and overlaps(s, (start, stop))
    ]


@given(axes(), st.integers(0, 60))
def test_has_edge(axis, position):
    edges = {0, axis.size, *(start for start, _ in spans(axis))}
    assert axis.has_edge(min(position, axis.size)) == (min(position, axis.size) in edges)


@given(axes())
def test_lengths_given_back_make_the_same_axis(axis):
    assert Axis.of(axis.size, [stop - start for start, stop in spans(axis)]) == axis or (
        axis.count < 2
    )


@pytest.mark.parametrize(
    ("size", "chunks", "chunk", "count"),
    [
        pytest.param(10, -1, 10, 1, id="whole"),
        pytest.param(10, 99, 10, 1, id="clamped"),
        pytest.param(10, 3, 3, 4, id="short-last"),
        pytest.param(0, 5, 1, 0, id="empty"),
        pytest.param(0, -1, 1, 0, id="empty-whole"),
        pytest.param(10, (5, 5), 5, 2, id="regular-parts"),
        pytest.param(10, (4, 4, 2), 4, 3, id="short-last-part"),
        pytest.param(10, (2, 4, 4), 4, 3, id="short-first-part"),
        pytest.param(10, (0, 10, 0), 10, 1, id="empty-parts"),
        pytest.param(10**18, 10**6, 10**6, 10**12, id="huge"),
    ],
)
def test_axis_of(size, chunks, chunk, count):
    axis = Axis.of(size, chunks)
    assert (axis.chunk, axis.count) == (chunk, count)


@pytest.mark.parametrize(
    ("size", "chunks", "match"),
    [
        (10, 0, "chunk of 0"),
        (10, -2, "chunk of -2"),
        (-1, 1, "-1 elements"),
        (10, (5, 4), "do not add up"),
        (10, (15, -5), "do not add up"),
        (10, (1,) * 9, "…"),
    ],
)
def test_senseless_axes_are_refused(size, chunks, match):
    with pytest.raises(InvalidChunksError, match=match):
        Axis.of(size, chunks)


@given(
    st.lists(axes(), min_size=0, max_size=3).filter(lambda a: math.prod(x.count for x in a) < 500)
)
def test_regions_are_the_boxes_in_order(some):
    grid = Grid(tuple(some))
    regions = list(grid.regions())
    assert len(regions) == grid.count
    assert regions == [grid.region(i) for i in range(grid.count)]
    volume = sum(math.prod(s.stop - s.start for s in r) for r in regions)
    assert volume == math.prod(grid.shape)


@given(two_axes, two_axes)
def test_grids_multiply(first, second):
    a, b = Grid((first[0], second[0])), Grid((first[1], second[1]))
    assert a.pairs(b) == first[0].pairs(first[1]) * second[0].pairs(second[1])
    assert a.nests(b) == (first[0].nests(first[1]) and second[0].nests(second[1]))


def test_grid_of_another_rank_is_refused():
    with pytest.raises(InvalidChunksError, match="2 chunk lengths for 1 dims"):
        Grid.of((10,), (2, 5))


def test_scalar_is_one_box():
    grid = Grid(())
    assert (grid.count, grid.box_elements, list(grid.regions())) == (1, 1, [()])


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**20))
def test_ceildiv_is_exact(a, b):
    assert (ceildiv(a, b) - 1) * b < a <= ceildiv(a, b) * b


@pytest.mark.parametrize(("a", "b", "n", "out"), [(4, 6, 100, 12), (4, 6, 10, 10), (5, 7, 0, 1)])
def test_lcm_within(a, b, n, out):
    assert lcm_within(a, b, n) == out
