"""What the strategies draw is valid, and xchunk rechunks it bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import find, given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from xchunk.core.chunkspec import parse_chunks
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.testing import strategies

SIZES = {"t": 7, "x": 4, "none": 0}


@given(st.data(), st.integers(0, 20))
def test_parts_fill_a_dim(data: Any, size: int) -> None:
    parts = data.draw(strategies.parts(size))
    assert sum(parts) == size
    assert all(n > 0 for n in parts)


@given(strategies.grids())
def test_boxes_cover_an_array_once(grid: Grid) -> None:
    seen = np.zeros(grid.shape, int)
    for region in grid.regions():
        seen[region] += 1
    assert (seen == 1).all()


@given(strategies.layouts())
def test_layouts_agree_with_themselves(layout: ArrayLayout) -> None:
    assert layout.read_grid.shape == layout.write_grid.shape == layout.shape
    if layout.shards is not None and layout.chunks is not None:
        assert all(s % c == 0 for s, c in zip(layout.shards, layout.chunks, strict=True))


@given(strategies.chunk_specs(SIZES, irregular=True), strategies.layouts())
def test_chunks_to_ask_for_are_accepted(spec: dict[str, Any], layout: ArrayLayout) -> None:
    dims = tuple(SIZES)
    whole = ArrayLayout("v", dims, tuple(SIZES.values()), layout.dtype, layout.dtype)
    assert set(parse_chunks(spec, [whole])["v"]) == set(spec)


@pytest.mark.parametrize("irregular", [True, False])
def test_axes_of_both_kinds_are_drawn(irregular: bool) -> None:
    def wanted(axis: Axis) -> bool:
        return axis.count > 2 and (axis.parts is not None) == irregular

    assert wanted(find(strategies.axes(), wanted))


def test_variables_of_every_kind_are_drawn() -> None:
    seen: set[str] = set()

    @settings(max_examples=200, database=None)
    @given(strategies.variables(SIZES))
    def draw(variable: xr.Variable) -> None:
        seen.update(variable.dtype.kind, variable.encoding)

    draw()
    assert seen >= {*"biufcmMU", "chunks", "scale_factor", "units"}


@settings(max_examples=25)
@given(strategies.datasets(), st.data())
def test_any_dataset_comes_back(ds: xr.Dataset, data: Any) -> None:
    source, target = MemoryStore(), MemoryStore()
    ds.to_zarr(source, consolidated=False)
    before = xr.open_zarr(source, consolidated=False)
    spec = data.draw(strategies.chunk_specs({str(d): n for d, n in before.sizes.items()}))
    before.chunking.apply(spec, store=target, progress=False, verify=True)
    given, got = (
        xr.open_zarr(store, consolidated=False, chunks=None, decode_cf=False)
        for store in (source, target)
    )
    for name, want in given.variables.items():
        assert (got[name].dims, got[name].dtype) == (want.dims, want.dtype)
        assert got[name].values.tobytes() == want.values.tobytes(), name
    xr.testing.assert_identical(got, given)
