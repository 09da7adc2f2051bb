"""What computed blocks are made from, so that a run is not resumed with other data."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from xchunk.sources.joint import JoinedArray
from xchunk.sources.provenance import as_all_are_stored, is_given, made_from, unlike
from xchunk.sources.refs import ZarrRef


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("roots")
    ds = xr.Dataset({"v": (("t", "x"), np.arange(24.0).reshape(6, 4))})
    ds.to_zarr(folder / "a.zarr", encoding={"v": {"chunks": (2, 4)}})
    ds.to_netcdf(folder / "b.nc", engine="scipy")
    return [str(folder / "a.zarr"), str(folder / "b.nc")]


def of(variable: xr.DataArray) -> tuple[list[Any], list[str]]:
    refs, tokens = made_from(variable.data)
    return [r.path if isinstance(r, ZarrRef) else r.filename for r in refs], tokens


@pytest.mark.parametrize("inline", [False, True], ids=["plain", "inline"])
def test_stores_are_found_behind_whatever_was_done(places: list[str], inline: bool) -> None:
    a = xr.open_dataset(places[0], engine="zarr", chunks={}, inline_array=inline).v
    b = xr.open_dataset(places[1], engine="scipy", chunks={"t": 3}, inline_array=inline).v
    for value in (a * 2, a.mean("x"), a.rolling(t=3).mean(), a.where(a > 3)):
        assert of(value)[0] == ["v"]
    assert set(of(a + b)[0]) == {"v", places[1]}
    assert set(of(xr.concat([a, b], "t"))[0]) == {"v", places[1]}


def test_lazy_and_joined_arrays_are_found(places: list[str]) -> None:
    lazy = xr.open_dataset(places[0], engine="zarr", chunks=None).v
    # no trace: what the positions pick is no progression
    assert of(lazy.isel(t=[0, 1, 4]).chunk(t=1) + 1) == (["v"], [])
    parts = np.empty((2, 1), dtype=object)
    for i, (place, engine) in enumerate(zip(places, ("zarr", "scipy"), strict=True)):
        parts[i, 0] = xr.open_dataset(place, engine=engine, chunks=None, cache=False).v.variable
    joined = da.from_array(JoinedArray.of(parts), chunks=(4, 4), meta=np.empty((0, 0)))
    assert of(xr.DataArray(joined) * 2) == (["v", places[1]], [])


def test_values_in_memory_are_digested() -> None:
    one, other = (of(xr.DataArray(da.from_array(np.full(4, v), name="same"))) for v in (1, 2))
    assert one[0] == other[0] == []
    assert one[1] != other[1]
    blocks = [da.from_array(np.full(4, v), chunks=2).map_blocks(np.sin, name="s") for v in (1, 2)]
    persisted = [of(xr.DataArray(b.persist(scheduler="sync"))) for b in blocks]
    assert persisted[0][1] != persisted[1][1]


def test_what_is_not_known_is_no_error() -> None:
    assert made_from(da.ones(4)) == ([], [])
    assert made_from(da.from_array(memoryview(b"abc"), chunks=1) + 1)[0] == []


def test_a_dtype_that_nothing_opened_has_was_given(places: list[str]) -> None:
    read = xr.open_dataset(places[0], engine="zarr", chunks={}).v
    other = xr.open_dataset(places[1], engine="scipy", chunks={"t": 3}).v
    for value in (read, xr.concat([read, other], "t")):
        variable = value.variable.copy(deep=False)
        variable.encoding = dict(read.encoding)
        assert not is_given(variable)
        variable.encoding["dtype"] = np.dtype("f4")
        assert is_given(variable)
    in_memory = read.variable.compute()
    in_memory.encoding = {**read.encoding, "dtype": np.dtype("f4")}
    assert not is_given(in_memory)


def test_joined_files_that_are_stored_in_different_ways_are_told() -> None:
    parts = np.empty(2, dtype=object)
    for i, units in enumerate(("hours since 2000-01-01", "days since 1990-01-01")):
        encoding = {"units": units, "dtype": np.dtype("i4")}
        parts[i] = xr.Variable("t", np.zeros(3, "M8[ns]"), {}, encoding)
    for array, mixed in ((JoinedArray.of(parts), True), (JoinedArray.of(parts[[0, 0]]), False)):
        blocks = da.from_array(array, chunks=2, meta=np.empty(0, "M8[ns]"))
        variable = xr.Variable("t", blocks, {}, {"zlib": True})
        assert (unlike(variable) is not None) is mixed
        assert bool(as_all_are_stored(variable, "v")[1]) is mixed
