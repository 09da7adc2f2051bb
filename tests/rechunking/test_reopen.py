"""What is returned is decoded in the way in which the source was, variable by variable."""

from __future__ import annotations

from typing import Any

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

import xchunk  # noqa: F401 - for ds.chunking

QUIET: dict[str, Any] = {"progress": False, "verify": True}
HOURS = pd.timedelta_range("1h", periods=3, freq="90min", unit="s")

#: What is odd about one variable: values, attributes, encoding.
ODD: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "undecoded packing": (np.array([1, 2, -1], "i2"), {"scale_factor": 0.1, "_FillValue": -1}, {}),
    "masked, scale in attrs": (
        np.array([1, np.nan, 3], "f4"),
        {"scale_factor": 0.5, "add_offset": 1.0},
        {"dtype": "i2", "_FillValue": -9},
    ),
    "units that are no date's": (np.arange(3.0), {"units": "seconds since launch"}, {}),
    "undecoded times": (np.arange(3), {"units": "days since 2000-01-01"}, {}),
    "undecoded durations": (np.arange(3), {"units": "hours"}, {}),
    "durations": (HOURS.values, {}, {}),
    "times in microseconds": (np.array(["1200-01-01", "2020", "2300"], "M8[us]"), {}, {}),
    "times in seconds": (np.array(["2000-01-01", "2020", "2200"], "M8[s]"), {}, {}),
    "standard calendar of cftime": (
        np.array([cftime.DatetimeGregorian(2000, 1, day) for day in (1, 2, 3)]),
        {},
        {},
    ),
    "strings": (np.array(["a", "", "c"], dtype=object), {}, {}),
}


@pytest.mark.parametrize("chunks", [None, 2], ids=["memory", "dask"])
@pytest.mark.parametrize("name", ODD)
def test_one_variable_does_not_switch_decoding_off_for_others(
    name: str, chunks: int | None
) -> None:
    values, attrs, encoding = ODD[name]
    ds = xr.Dataset(
        {
            "odd": ("x", values, attrs),
            "packed": ("x", np.array([1.0, np.nan, 2.5])),
            "length": ("x", HOURS.values),
        },
        coords={"time": ("x", np.array(["2000-01-01", "2000-01-02", "NaT"], "M8[ns]"))},
    )
    ds.odd.encoding = encoding
    ds.packed.encoding = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -9}
    expected = ds.copy(deep=True)
    ds = ds.chunk(x=chunks) if chunks else ds
    if chunks and values.dtype == object and isinstance(values[0], str):
        ds["odd"] = ds.odd.compute()  # xarray has no lazy strings
    out = ds.chunking.apply({"x": 2}, store=MemoryStore(), **QUIET).load()
    xr.testing.assert_identical(out.drop_vars("odd"), expected.drop_vars("odd"))
    np.testing.assert_array_equal(out.odd.values, values)
    assert {k: out.odd.attrs[k] for k in attrs} == attrs
    if values.dtype.kind != "O":
        assert out.odd.dtype == values.dtype
    assert out.packed.encoding["scale_factor"] == 0.5


def test_a_grid_mapping_stays_with_an_array() -> None:
    wkt = {"crs_wkt": "GEOGCRS[]"}
    da = xr.DataArray(
        np.ones((2, 3)),
        dims=("y", "x"),
        coords={"spatial_ref": ((), 0, wkt), "y": [1, 2], "place": ("y", [5, 6])},
        attrs={"grid_mapping": "spatial_ref"},
        name="band",
    )
    out = da.chunking.apply({"x": 1}, store=MemoryStore(), **QUIET)
    assert set(out.coords) == set(da.coords)
    assert out.spatial_ref.attrs == wkt
    xr.testing.assert_identical(out.load(), da)


def test_a_grid_mapping_that_is_given_is_copied_with_what_is_stored() -> None:
    source = MemoryStore()
    xr.Dataset({"v": (("y", "x"), np.ones((2, 3)))}).to_zarr(source, consolidated=False)
    ds = xr.open_zarr(source, consolidated=False).assign_coords(spatial_ref=((), 0))
    ds.v.encoding["grid_mapping"] = "spatial_ref"
    target = MemoryStore()
    ds.chunking.apply({"x": 1}, store=target, **QUIET)
    assert zarr.open_group(target, mode="r")["v"].attrs["grid_mapping"] == "spatial_ref"


@pytest.mark.parametrize("name", [None, "data"], ids=["nameless", "named like a coordinate"])
@pytest.mark.parametrize("taken", [["data"], ["data", "values"]], ids=str)
def test_an_array_beside_a_coordinate_called_data(name: str | None, taken: list[str]) -> None:
    coords = {n: ("x", [3, 4]) for n in taken}
    da = xr.DataArray([1, 2], dims="x", coords=coords, name=name)
    out = da.chunking.apply({"x": 1}, store=MemoryStore(), **QUIET)
    assert out.name == name
    xr.testing.assert_identical(out.load(), da)
