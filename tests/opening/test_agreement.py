"""Files that are put together agree on what is taken from one of them, or it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xchunk
from xchunk.cli import main


def month(i: int, n: int = 10, **coords: Any) -> xr.Dataset:
    time = pd.date_range("2000-01-01", periods=200)[10 * i : 10 * i + n]
    values = np.arange(n * 6.0).reshape(n, 2, 3) + i
    return xr.Dataset(
        {
            "v": (("time", "lat", "lon"), values, {"units": "K"}),
            "mask": (("lat", "lon"), np.eye(2, 3)),
        },
        {"time": time, "lat": [10.0, 20.0], "lon": [1, 2, 3], "orbit": 7, **coords},
    )


def attrs(ds: xr.Dataset, **kwargs: Any) -> xr.Dataset:
    ds.v.attrs.update(kwargs)
    return ds


def plus_one(ds: xr.Dataset) -> xr.Dataset:
    ds.v.values += 1
    return ds


def write(*datasets: xr.Dataset) -> list[str]:
    names = [f"f{i}.nc" for i in range(len(datasets))]
    for name, ds in zip(names, datasets, strict=True):
        ds.to_netcdf(name)
    return names


REFUSED: dict[str, tuple[list[Callable[[], xr.Dataset]], str]] = {
    "another mask": (
        [lambda: month(0), lambda: month(1), lambda: month(2).assign(mask=month(2).mask + 1)],
        r"'mask' differs between f0.nc and f2.nc.*drop_variables='mask'",
    ),
    "another orbit": ([lambda: month(0), lambda: month(1, orbit=8)], "'orbit' differs .* f1.nc"),
    "other units": (
        [lambda: month(0), lambda: month(1), lambda: attrs(month(2), units="degC")],
        "'v' has units 'K' in f0.nc, and 'degC' in f2.nc",
    ),
    "another version": (
        [lambda: month(0), lambda: month(1), lambda: plus_one(month(1))],
        "'v' differs at the same labels between f1.nc and f2.nc",
    ),
    "overlapping": (
        [lambda: month(0, 15), lambda: month(1), lambda: month(2)],
        "f0.nc and f1.nc overlap along 'time', from 2000-01-11",
    ),
    "one that lacks it": (
        [lambda: month(0), lambda: month(1).drop_vars("v"), lambda: month(2)],
        "'v' is not in f1.nc",
    ),
    "another grid": (
        [lambda: month(0), lambda: month(1), lambda: month(2, lat=[10.0, 21.0])],
        "'lat' is another one in f2.nc",
    ),
    "no order": (
        [lambda: month(0), lambda: month(1).isel(time=[3, 1, 2])], "in no order in f1.nc"
    ),
}  # fmt: skip


@pytest.mark.parametrize("by", ["by_coords", "nested"])
@pytest.mark.parametrize("case", REFUSED)
def test_files_that_differ_are_refused_by_name(case: str, by: str) -> None:
    makers, said = REFUSED[case]
    names = write(*(make() for make in makers))
    if by == "by_coords":
        with pytest.raises(xchunk.SourceError, match=said):
            xchunk.open_dataset(names, {"time": -1})
    elif case in ("another version", "overlapping"):
        # put side by side as they are listed: said, since a user may want that
        with pytest.warns(xchunk.XchunkWarning, match=r"stand more than once.*f1.nc"):
            xchunk.open_dataset(names, {"time": -1}, combine="nested", concat_dim="time")
    elif case == "no order":
        ds = xchunk.open_dataset(names, {"time": -1}, combine="nested", concat_dim="time")
        assert ds.sizes["time"] == 13
    else:
        with pytest.raises(xchunk.SourceError, match=said):
            xchunk.open_dataset(names, {"time": -1}, combine="nested", concat_dim="time")


def test_files_that_agree_are_joined_in_the_order_of_their_labels() -> None:
    names = write(month(2), month(0), month(1))
    ds = xchunk.open_dataset(names, {"time": -1}).load()
    whole = xr.concat(
        [month(0), month(1), month(2)], "time", data_vars="minimal", coords="minimal",
        compat="override",
    )  # fmt: skip
    xr.testing.assert_identical(ds, whole)


def test_the_same_file_twice_changes_nothing() -> None:
    names = write(month(0), month(1), month(1))
    ds = xchunk.open_dataset(names, {"time": -1}).load()
    assert ds.sizes["time"] == 20


def test_files_of_other_variables_may_share_a_mask() -> None:
    one, two = month(0), month(0).rename(v="w")
    names = write(one, two)
    assert set(xchunk.open_dataset(names, {"time": -1}).data_vars) == {"v", "w", "mask"}


def test_the_remedy_for_one_that_differs() -> None:
    names = write(month(0), month(1, orbit=8))
    ds = xchunk.open_dataset(names, {"time": -1}, drop_variables="orbit")
    assert "orbit" not in ds.variables
    kept = xchunk.open_dataset(
        names,
        {"time": -1},
        preprocess=lambda ds: ds.assign_coords(orbit=ds.orbit.broadcast_like(ds.time)),
    )
    assert kept.orbit.values.tolist() == [7] * 10 + [8] * 10


def test_two_versions_too_large_to_compare_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xchunk.opening.combine._COMPARED", 10)
    names = write(month(0), month(1), month(1))
    with pytest.warns(xchunk.XchunkWarning, match="'mask' is in f0.nc and in f1.nc"):
        xchunk.open_dataset(names[:2], {"time": -1})
    with pytest.raises(xchunk.SourceError, match="'v' is at the same labels"):
        xchunk.open_dataset(names, {"time": -1}, drop_variables="mask")


def test_the_command_refuses_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    write(month(0), month(1, orbit=8))
    assert main.run(["rechunk", "f*.nc", "t.zarr", "--chunks", "time=5", "--quiet"]) == 6
    assert "'orbit' differs between f0.nc and f1.nc" in capsys.readouterr().err


@pytest.mark.parametrize("access", ["timeseries", "map", {"t": -1}])
def test_a_dim_that_is_made_by_joining(access: Any) -> None:
    names = write(*(month(i).isel(time=0, drop=True) for i in range(3)))
    ds = xchunk.open_dataset(names, access, combine="nested", concat_dim="t")
    assert ds.sizes["t"] == 3
    assert ds.v.isel(t=1).equals(month(1).v.isel(time=0, drop=True))


def test_files_are_put_together_as_listed_where_a_dim_is_named() -> None:
    names = [f"{n}.nc" for n in "cab"]
    for i, name in enumerate(names):
        xr.Dataset({"v": ("x", np.arange(3) * i)}).to_netcdf(name)
    for combine in (None, "nested"):
        ds = xchunk.open_dataset(names, concat_dim="t", combine=combine)
        np.testing.assert_array_equal(ds.v, np.arange(3)[:, None] * np.arange(3))
    with pytest.raises(xchunk.SourceError, match="or concat_dim='x', for files in their order"):
        xchunk.open_dataset(names)
    assert xchunk.open_dataset(names, concat_dim="x").v.values.tolist() == [
        0,
        0,
        0,
        0,
        1,
        2,
        0,
        2,
        4,
    ]
    with pytest.raises(xchunk.InvalidChunksError, match="concat_dim='t' has no effect"):
        xchunk.open_dataset(names, concat_dim="t", combine="by_coords")
