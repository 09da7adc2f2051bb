"""The algebra under tracing agrees with numpy on what it takes, and refuses the rest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.sources.slicing import (
    Decoder,
    Leaf,
    Part,
    UntraceableError,
    assemble,
    broadcast_picks,
    join,
    pick,
    progression,
)

STORED = np.arange(6 * 5 * 4).reshape(6, 5, 4)
LEAF = Leaf(object(), STORED.shape)


def values(part: Part) -> np.ndarray[Any, Any]:
    """What a part of `STORED` shows."""
    at: list[Any] = [None] * STORED.ndim
    for axis, position in part.fixed:
        at[axis] = [position]
    for axis, elements in part.axes:
        at[axis] = list(elements)
    found = STORED[np.ix_(*(np.array(a, dtype=int) for a in at))]
    order = [axis for axis, _ in part.axes] + [axis for axis, _ in part.fixed]
    return found.transpose(order).reshape(part.shape)


ends = st.none() | st.integers(-7, 7)
keys = st.builds(slice, ends, ends, st.sampled_from([None, 1, 2, -1, -2, 3])) | st.integers(-4, 3)


@given(st.lists(st.tuples(*[keys] * 3), max_size=3), st.permutations(range(3)))
def test_select_and_transpose_as_numpy_does(chain: list[Any], order: list[int]) -> None:
    part, array = Part.whole(LEAF), STORED
    for index in chain:
        cut = index[: array.ndim]
        try:
            array = array[cut]
        except IndexError:
            with pytest.raises(UntraceableError):
                part.select([pick(k, n) for k, n in zip(cut, part.shape, strict=True)])
            return
        part = part.select([pick(k, n) for k, n in zip(cut, part.shape, strict=True)])
        kept = [i for i in order if i < array.ndim]
        part, array = part.transpose(kept), array.transpose(kept)
    assert values(part).tolist() == array.tolist()


@given(st.data())
def test_blocks_put_together_are_what_they_were_cut_from(data: st.DataObject) -> None:
    steps = st.sampled_from(
        [slice(None), slice(None, None, -1), slice(0, None, 2), slice(4, 0, -3)]
    )
    part = Part.whole(LEAF).select([pick(data.draw(steps), n) for n in STORED.shape])
    part = part.transpose(data.draw(st.permutations(range(3))))
    cuts = []
    for n in part.shape:
        inner = data.draw(st.sets(st.integers(1, max(1, n - 1)), max_size=3)) if n > 1 else set()
        edges = [0, *sorted(inner), n]
        cuts.append(list(itertools.pairwise(edges)))
    blocks = {
        index: part.select([range(*cuts[a][i]) for a, i in enumerate(index)])
        for index in itertools.product(*(range(len(c)) for c in cuts))
    }
    numblocks = tuple(len(c) for c in cuts)
    whole, chunks = assemble(blocks, numblocks)
    assert whole == part
    assert chunks == tuple(tuple(b - a for a, b in c) for c in cuts)
    # Two blocks that change places are no longer what they were, unless both are one element
    # of a pair, which then runs backwards.
    first, last = min(blocks), max(blocks)
    if first != last:
        blocks[first], blocks[last] = blocks[last], blocks[first]
        try:
            swapped, _ = assemble(blocks, numblocks)
        except UntraceableError:
            return
        assert swapped != part
        assert part.shape.count(2) >= 1


def test_one_inner_block_that_is_another_is_noticed() -> None:
    whole = Part.whole(LEAF)
    grid = itertools.product(range(3), range(2), range(2))
    blocks = {
        (i, j, k): whole.select(
            [range(2 * i, 2 * i + 2), range(2 * j, 2 * j + 2), range(2 * k, 2 * k + 2)]
        )
        for i, j, k in grid
    }
    assert assemble(blocks, (3, 2, 2))[0].shape == (6, 4, 4)
    for index, other in itertools.permutations(blocks, 2):
        with pytest.raises(UntraceableError):
            assemble(blocks | {index: blocks[other]}, (3, 2, 2))


def test_blocks_of_several_origins_are_refused() -> None:
    whole = Part.whole(Leaf(object(), (4,)))
    low, high = whole.select([range(2)]), whole.select([range(2, 4)])
    others = {
        "decoded": high.decode(Decoder("a", None, "a")),
        "fixed": Part(whole.leaf, high.axes, frozenset({(1, 0)})),
        "axis": Part(whole.leaf, ((1, range(2, 4)),)),
    }
    assert assemble({(0,): low, (1,): high}, (2,))[0] == whole
    for other in others.values():
        with pytest.raises(UntraceableError):
            assemble({(0,): low, (1,): other}, (2,))


@pytest.mark.parametrize(
    ("pieces", "made"),
    [
        ([range(3), range(3, 6)], range(6)),
        ([range(0, 6, 2), range(6, 7)], range(0, 8, 2)),
        ([range(5, 6), range(3, 4), range(1, 2)], range(5, 0, -2)),
        ([range(2), range(0), range(2, 3)], range(3)),
        ([range(0), range(0)], range(0)),
        ([], range(0)),
        ([range(3), range(4, 6)], None),
        ([range(3), range(2, 5)], None),
        ([range(3), range(3)], None),
        ([range(1), range(1)], None),
        ([range(0, 4, 2), range(4, 7)], None),
        ([range(3), range(5, 2, -1)], None),
        ([range(2, 4), range(2)], None),
    ],
)
def test_join(pieces: list[range], made: range | None) -> None:
    if made is None:
        with pytest.raises(UntraceableError):
            join(pieces)
    else:
        assert join(pieces) == made


@given(st.lists(st.integers(-5, 4), max_size=6))
def test_progression_is_the_same_positions_or_refused(positions: list[int]) -> None:
    array = np.array(positions, dtype=np.int64)
    wrapped = [p % 5 for p in positions]
    even = len({b - a for a, b in itertools.pairwise(wrapped)} | {1}) <= 2
    try:
        found = progression(array, 5)
    except UntraceableError:
        distances = {b - a for a, b in itertools.pairwise(wrapped)}
        assert len(distances) > 1 or distances == {0}
    else:
        assert even
        assert list(found) == wrapped


@pytest.mark.parametrize(
    "key", [True, np.True_, None, 1.0, "a", np.array([True, False]), np.zeros((1, 1), int), 5, -6]
)
def test_keys_that_are_no_positions_are_refused(key: object) -> None:
    with pytest.raises(UntraceableError):
        pick(key, 5)


@given(st.permutations(range(3)), st.data())
def test_pointwise_indices_of_a_transpose(order: list[int], data: st.DataObject) -> None:
    picks = []
    for n in STORED.shape:
        start, step = data.draw(st.integers(0, n - 1)), data.draw(st.sampled_from([-1, 1, 2]))
        picks.append(np.arange(n)[start::step])
    full = data.draw(st.booleans())
    grids = [g.transpose(order) for g in np.meshgrid(*picks, indexing="ij", sparse=not full)]
    chosen, axes = broadcast_picks(grids, STORED.shape)
    part = Part.whole(LEAF).select(chosen).transpose(axes)
    assert np.array_equal(values(part), STORED[tuple(grids)])


@pytest.mark.parametrize(
    "grids",
    [
        ([0, 1], [0, 1], [0, 1]),
        ([0, 0], [1, 1], [2, 2]),
        ([[0], [1]], [[0, 1]], [[0, 1]]),
        ([[0, 1], [1, 2]], [[0, 1]], [[0]]),
        ([[0, 0], [0, 1]], [[0, 1]], [[0]]),
        ([0.0, 1.0], [0], [0]),
        ([[0, 2, 3]], [[0]], [[0], [1]]),
        ([[0, 0], [1, 1]], [[0, 1], [0, 1]], [[0, 0], [0, 1]]),
        ([[0, 0], [1, 1]], [[0, 1], [0, 2]], [[0]]),
    ],
    ids=[
        "diagonal",
        "repeated",
        "shared",
        "oblique",
        "corner",
        "floats",
        "uneven",
        "third-in-the-corner",
        "second-in-the-corner",
    ],
)
def test_pointwise_indices_of_anything_else(grids: tuple[Any, ...]) -> None:
    with pytest.raises(UntraceableError):
        broadcast_picks([np.array(g) for g in grids], STORED.shape)
