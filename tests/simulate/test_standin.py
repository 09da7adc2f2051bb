"""What an index reads, against a walk over all chunks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.layout import ArrayLayout
from xchunk.simulate.standin import StandIn, noise


def stand_in(shape: tuple[int, ...], chunks: Any, **more: Any) -> StandIn:
    dims = tuple("xyz"[: len(shape)])
    kind = {"dtype": np.dtype("f4"), "stored_dtype": np.dtype("f4"), "format": "zarr3", **more}
    return StandIn(ArrayLayout("v", dims, shape, chunks=chunks, **kind))


@st.composite
def cases(draw: Any) -> tuple[StandIn, tuple[Any, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    chunks, index = [], []
    for n in shape:
        chunks.append(draw(st.integers(1, n)))
        bound = st.none() | st.integers(-n - 1, n + 1)
        one = st.slices(n) | st.builds(slice, bound, bound) | st.integers(-n, n - 1)
        some = st.lists(st.integers(0, n - 1), min_size=1, max_size=4).map(np.array)
        index.append(draw(one | some))
    return stand_in(shape, tuple(chunks)), tuple(index)


@given(cases())
def test_chunks_touched(case: tuple[StandIn, tuple[Any, ...]]) -> None:
    stored, index = case
    asked = stored.ask(index)
    picked = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(stored.shape, index, strict=True)]
    touched = set()
    for place in itertools.product(*picked):
        axes = stored.grid.axes
        touched.add(tuple(int(p) // a.chunk for p, a in zip(place, axes, strict=True)))
    assert asked.chunks == len(touched) if touched else 0 in asked.counts
    kept = tuple(len(p) for p, k in zip(picked, index, strict=True) if not isinstance(k, int))
    assert asked.shape == kept
    assert stored[index].shape == kept
    if touched:
        sizes = [
            np.prod([b - a for a, b in (ax.bounds(i) for ax, i in zip(axes, c, strict=True))])
            for c in touched
        ]
        assert asked.decoded == sum(sizes)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1", "?", "M8[ns]", "m8[s]", "c8", "U3", "O"])
def test_noise_has_the_shape_and_owns_itself(dtype: str) -> None:
    made = noise((70_000, 3), np.dtype(dtype))
    assert made.shape == (70_000, 3)
    assert made.dtype == dtype
    assert made.base is None


def test_temporaries_are_those_of_chunks_in_flight() -> None:
    coded = stand_in((1000, 10), (100, 10), codecs=("zstd",))
    item = 100 * 10 * 4
    assert coded.temporary(coded.ask((slice(0, 300), slice(None)))) == int(3 * item * 1.5)
    plain = stand_in((5000, 10), (100, 10))
    assert plain.temporary(plain.ask((slice(None), slice(None)))) == 10 * item
    free = stand_in((5000, 10), None, format="netcdf3")
    assert free.temporary(free.ask((slice(None), slice(None)))) == 0


ZSTD = {"codecs": ("zstd",)}


@pytest.mark.parametrize(
    ("shape", "chunks", "more", "index", "touched"),
    [
        # all in flight: of the target there is the chunk that is being written
        ((1000, 10), (100, 10), ZSTD, slice(0, 300), 3 * 6000 + 4000),
        # ten in flight, when ten of twenty are written and one is being written
        ((2000, 10), (100, 10), ZSTD, slice(None), 10 * 6000 + 11 * 4000),
        # chunks side by side share the pages of the target
        ((100, 40), (100, 10), ZSTD, slice(None), 4 * 6000 + 16000),
        # dims of which one element is asked for part nothing
        ((1, 300, 10), (1, 100, 10), ZSTD, slice(None), 3 * 6000 + 4000),
        ((100, 300, 10), (1, 100, 10), ZSTD, 5, 3 * 6000 + 4000),
        # a part of a chunk: what is decoded is more than what is returned
        ((1000, 10), (100, 10), ZSTD, slice(0, 10), 6000 + 400),
        # large pages: two for the chunk, and one more, since chunks are not theirs
        ((3000, 1000), (1000, 1000), ZSTD, slice(None), 3 * 6_000_000 + 3 * 2**21),
        # one chunk at a time, which is the last
        ((1000, 10), (100, 10), {"format": "netcdf4", **ZSTD}, slice(0, 300), 6000 + 12000),
        # nothing is decoded
        ((1000, 10), None, {"format": "netcdf3"}, slice(0, 300), 12000),
        ((1000, 10), (100, 10), ZSTD, slice(0, 0), 0),
    ],
    ids=[
        "few",
        "many",
        "side",
        "leading",
        "integer",
        "part",
        "pages",
        "netcdf4",
        "plain",
        "nothing",
    ],
)
def test_no_more_is_touched_than_was_written(
    shape: tuple[int, ...], chunks: Any, more: dict[str, Any], index: Any, touched: int
) -> None:
    stored = stand_in(shape, chunks, **more)
    asked = stored.ask(index)
    target = asked.elements * 4
    assert stored.touched(asked, target) == touched
    assert target <= touched <= target + stored.temporary(asked)
