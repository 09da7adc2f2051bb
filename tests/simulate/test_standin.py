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
