"""What has broken the tools of this field, as tests: one for each case, named after it.

``docs/explanation/cases.md`` lists all cases with the tests that hold them; those that are
held by a test elsewhere are not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk  # noqa: F401  it registers .chunking

QUIET = {"progress": False}


def raw(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, decode_cf=False, chunks=None)


def bits(values: Any) -> bytes:
    return np.ascontiguousarray(np.asarray(values)).tobytes()


def chunk_files(path: Path) -> set[str]:
    return {
        p.relative_to(path).as_posix()
        for p in path.rglob("*")
        if p.is_file() and not p.name.startswith((".z", "zarr.json"))
    }


# ---- data loss and corruption -------------------------------------------------------------


def test_two_tasks_write_one_shard(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.random((100, 100, 100))
    ds = xr.Dataset({"v": (("x", "y", "z"), da.from_array(values, chunks=25))})
    ds.chunking.apply(
        {"x": 25, "y": 25, "z": 25},
        store=tmp_path / "t.zarr",
        shards={"x": 50, "y": 50, "z": 50},
        **QUIET,
    )
    assert bits(raw(tmp_path / "t.zarr").v) == bits(values)
    files = chunk_files(tmp_path / "t.zarr/v")
    assert len(files) == 8
    plan = ds.chunking.plan(
        {"x": 25, "y": 25, "z": 25},
        store=tmp_path / "u.zarr",
        shards={"x": 50, "y": 50, "z": 50},
    )
    plan["v"].check_exclusive()


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.assign(v=ds.v.copy(data=ds.v.data * 2)),
        lambda ds: ds.isel(t=slice(2, 5)),
        lambda ds: ds.assign(v=(ds.v + 1).assign_attrs(ds.v.attrs)),
        lambda ds: ds.assign(v=ds.v.copy(data=ds.v.data * 1j)),
        lambda ds: ds.assign(v=ds.v.copy(data=ds.v.data.astype("U5"))),
    ],
    ids=["data", "isel", "arithmetic", "another kind", "strings"],
)
@pytest.mark.filterwarnings("ignore:not everything:xchunk.XchunkWarning")
def test_encoding_survives_a_change_of_data(tmp_path: Path, change: Callable) -> None:
    ds = xr.Dataset({"v": (("t", "x"), np.arange(24.0).reshape(6, 4), {"units": "K"})})
    ds.to_zarr(tmp_path / "s.zarr", encoding={"v": {"chunks": (1, 4)}})
    changed = change(xr.open_zarr(tmp_path / "s.zarr"))
    out = changed.chunking.apply({"t": -1}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    xr.testing.assert_equal(out.load(), changed.load())
    assert out.v.dtype == changed.v.dtype


def test_packed_ints_decoded_and_packed_again(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": (("t", "x"), np.array([[1.0, 2.0], [3.0, 4.0]]))})
    encoding = {"dtype": "u1", "scale_factor": 0.5, "add_offset": 0.0, "_FillValue": 255}
    ds.to_zarr(tmp_path / "a.zarr", encoding={"v": encoding})
    source = xr.open_zarr(tmp_path / "a.zarr")
    source.chunking.apply({"t": -1}, store=tmp_path / "t.zarr", **QUIET)
    assert bits(raw(tmp_path / "t.zarr").v) == bits(raw(tmp_path / "a.zarr").v)


def test_nan_sentinel_with_a_stale_int16_encoding(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("x", np.array([1.0, np.nan, 3.0]))})
    ds.v.encoding = {"dtype": "i2", "_FillValue": -9999, "scale_factor": 0.5}
    out = ds.chunking.apply({"x": 2}, store=tmp_path / "t.zarr", **QUIET)
    assert np.isnan(out.v.values[1])
    assert raw(tmp_path / "t.zarr").v.values.tolist() == [2, -9999, 6]


def test_no_data_where_missing_chunks_were(tmp_path: Path) -> None:
    array = zarr.create_group(tmp_path / "s.zarr").create_array(
        "v", shape=(3000, 100), chunks=(1, 100), dtype="f4", fill_value=np.nan,
        dimension_names=("t", "x"),
    )  # fmt: skip
    array[7] = 1.0
    ds = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    ds.chunking.apply({"t": 100, "x": 50}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    assert chunk_files(tmp_path / "t.zarr/v") == {"c/0/0", "c/0/1"}
    assert np.isnan(zarr.open_group(tmp_path / "t.zarr")["v"].fill_value)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", "longer", "", "é"], dtype=object),
        np.array([b"abc", b"d", b"", b"xyz"], dtype="S3"),
        np.array(["abc", "d", "", "xyz"], dtype="<U3"),
        np.array(["a", "long", "", "é"], dtype=np.dtypes.StringDType()),
    ],
    ids=["object", "S3", "U3", "StringDType"],
)
def test_strings(tmp_path: Path, values: Any) -> None:
    ds = xr.Dataset({"v": ("x", np.arange(4))}, coords={"name": ("x", values)})
    out = ds.chunking.apply({"x": 2}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    assert out.name.values.tolist() == values.tolist()


@pytest.mark.filterwarnings("ignore::xarray.SerializationWarning")
@pytest.mark.parametrize("values", [["a", "é", "c"], [b"a", b"", b"c"]], ids=["text", "bytes"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_strings_of_one_character(tmp_path: Path, values: list[Any], zarr_format: Any) -> None:
    """As characters, xarray would read all of them as one string."""
    ds = xr.Dataset({"v": ("x", np.array(values)), "w": ("x", np.array([b"a", b"b", b"c"]))})
    ds.to_netcdf(tmp_path / "s.nc", engine="scipy")
    source = xr.open_dataset(tmp_path / "s.nc", engine="scipy", chunks={})
    for i, one in enumerate((source, ds)):
        target = tmp_path / f"{i}.zarr"
        out = one.chunking.apply({"x": 2}, store=target, zarr_format=zarr_format, **QUIET)
        for name in ds.variables:
            assert out[name].dims == ("x",)
            assert out[name].values.tolist() == one[name].values.tolist()
    source.close()


@pytest.mark.filterwarnings("ignore::xarray.SerializationWarning")
@pytest.mark.parametrize("source_format", [2, 3])
@pytest.mark.parametrize("target_format", [2, 3])
def test_strings_of_a_store(tmp_path: Path, source_format: Any, target_format: Any) -> None:
    """What a store's strings are encoded by is implied by the dtype, and given once."""
    values = np.array(["a", "longer", "", "é"], dtype=object)
    ds = xr.Dataset({"v": ("x", values), "s": values[1]}, coords={"x": values})
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=source_format, consolidated=False)
    source = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    out = source.chunking.apply(
        {"x": 2}, store=tmp_path / "t.zarr", zarr_format=target_format, **QUIET
    )
    for name in ds.variables:
        assert out[name].dtype == source[name].dtype
        assert out[name].values.tolist() == ds[name].values.tolist()


@pytest.mark.parametrize("calendar", ["360_day", "noleap", "julian"])
def test_calendars_of_cftime(tmp_path: Path, calendar: str) -> None:
    ds = xr.Dataset({"v": ("time", np.arange(40.0))})
    ds["time"] = ("time", np.arange(40), {"units": "days since 2000-02-01", "calendar": calendar})
    ds["bounds"] = (("time", "b"), np.arange(80).reshape(40, 2), ds.time.attrs)
    ds.to_netcdf(tmp_path / "s.nc")
    with xr.open_dataset(tmp_path / "s.nc", chunks={}) as source:
        source.chunking.apply({"time": 7}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    stored = raw(tmp_path / "t.zarr")
    assert stored.time.values.tolist() == list(range(40))
    assert stored.time.attrs["calendar"] == calendar
    assert stored.time.attrs["units"].startswith("days since 2000-02-01")


@pytest.mark.parametrize(
    "units", ["months since 2000-01-01", "days since 0000-01-01", "fortnights"]
)
def test_time_that_cannot_be_decoded(tmp_path: Path, units: str) -> None:
    ds = xr.Dataset({"time": ("time", np.arange(4), {"units": units})})
    ds.to_netcdf(tmp_path / "s.nc")
    with xr.open_dataset(tmp_path / "s.nc", chunks={}, decode_times=False) as source:
        source.chunking.apply({"time": 2}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    assert raw(tmp_path / "t.zarr").time.attrs["units"] == units
    assert raw(tmp_path / "t.zarr").time.values.tolist() == [0, 1, 2, 3]


# ---- encoding and formats -----------------------------------------------------------------


def test_old_encoding_chunks_after_chunk(tmp_path: Path) -> None:
    xr.Dataset({"v": (("t", "x"), np.zeros((12, 8)))}).to_zarr(
        tmp_path / "s.zarr", encoding={"v": {"chunks": (1, 8)}}
    )
    ds = xr.open_zarr(tmp_path / "s.zarr").chunk({"t": 5, "x": 3})
    ds.chunking.apply({"t": 12, "x": 2}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    assert zarr.open_group(tmp_path / "t.zarr")["v"].chunks == (12, 2)


@pytest.mark.parametrize(("old", "new"), [(2, 3), (3, 2)])
def test_codecs_between_formats(tmp_path: Path, old: int, new: int) -> None:
    xr.Dataset({"v": ("x", np.arange(100.0))}).to_zarr(tmp_path / "s.zarr", zarr_format=old)
    ds = xr.open_zarr(tmp_path / "s.zarr")
    ds.chunking.apply({"x": 10}, store=tmp_path / "t.zarr", zarr_format=new, verify=True, **QUIET)
    stored = zarr.open_group(tmp_path / "t.zarr")["v"]
    assert stored.metadata.zarr_format == new
    assert stored.compressors


def test_netcdf_leftovers_are_dropped(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": (("t", "x"), np.zeros((4, 8)))})
    ds.v.encoding = {
        "contiguous": False, "original_shape": (4, 8), "zlib": True, "complevel": 4,
        "shuffle": True, "source": "gone.nc", "chunksizes": (1, 8), "unlimited_dims": {"t"},
        "fletcher32": False, "szip": False, "preferred_chunks": {"t": 1},
    }  # fmt: skip
    out = ds.chunking.apply({"t": 2}, store=tmp_path / "t.zarr", **QUIET)
    xr.testing.assert_identical(out.load(), ds)


def test_nan_and_numpy_scalars_in_attributes(tmp_path: Path) -> None:
    attrs = {
        "missing": np.nan,
        "range": np.array([0, 1], dtype="i2"),
        "one": np.float32(0.5),
        "inf": np.inf,
        "text": "é",
    }
    ds = xr.Dataset({"v": ("x", np.arange(3), attrs)}, attrs=attrs)
    out = ds.chunking.apply({"x": 2}, store=tmp_path / "t.zarr", zarr_format=3, **QUIET)
    for have in (out.attrs, out.v.attrs):
        assert set(have) == set(attrs)
        for key, value in attrs.items():
            np.testing.assert_array_equal(have[key], value)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dtype": ">f8", "compressors": None},
        {"dtype": "f4", "order": "F", "zarr_format": 2},
        {"dtype": "f4", "filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
    ],
    ids=["big-endian and uncompressed", "F order", "transposed"],
)
def test_odd_memory_orders(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    fmt = kwargs.pop("zarr_format", 3)
    names = {"dimension_names": ("y", "x")} if fmt == 3 else {}
    group = zarr.create_group(tmp_path / "s.zarr", zarr_format=fmt)
    array = group.create_array("v", shape=(6, 10), chunks=(2, 10), **names, **kwargs)
    if fmt == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    values = np.arange(60.0).reshape(6, 10)
    array[:] = values
    ds = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    ds.chunking.apply({"y": 6, "x": 3}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    np.testing.assert_array_equal(raw(tmp_path / "t.zarr").v.values, values)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_odd_shapes(tmp_path: Path, zarr_format: Any) -> None:
    ds = xr.Dataset(
        {
            "scalar": ((), 5),
            "empty": (("none", "x"), np.zeros((0, 7))),
            "bounds": (("x", "bnds"), np.zeros((7, 2))),
            "prime": (("p",), np.arange(9973)),
            "x": (("x",), np.arange(7.0)),
        },
        coords={"p2": ("p", np.arange(9973))},
    )
    out = ds.chunking.apply(
        {"x": 3, "p": 1000, "bnds": 1},
        store=tmp_path / "t.zarr",
        zarr_format=zarr_format,
        verify=True,
        **QUIET,
    )
    xr.testing.assert_identical(out.load(), ds)


def test_an_unlimited_dim_of_length_zero(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": (("t", "x"), np.zeros((0, 3)))})
    ds.to_netcdf(tmp_path / "s.nc", unlimited_dims=["t"])
    with xr.open_dataset(tmp_path / "s.nc", chunks={}) as source:
        out = source.chunking.apply({"t": 10}, store=tmp_path / "t.zarr", **QUIET)
    assert out.v.shape == (0, 3)


def test_nested_groups_keep_their_attributes(tmp_path: Path) -> None:
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs={"level": "root"}),
            "/a": xr.Dataset(attrs={"level": "parent"}),
            "/a/b": xr.Dataset({"v": ("x", np.arange(4))}, attrs={"level": "leaf"}),
        }
    )
    out = tree.chunking.apply({"x": 2}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    xr.testing.assert_identical(out.load(), tree)


# ---- chunks and plans ---------------------------------------------------------------------


def test_a_slice_off_the_grid(tmp_path: Path) -> None:
    xr.Dataset({"v": ("t", np.arange(100.0))}).to_zarr(
        tmp_path / "s.zarr", encoding={"v": {"chunks": (10,)}}
    )
    part = xr.open_zarr(tmp_path / "s.zarr").isel(t=slice(7, 93))
    out = part.chunking.apply({"t": 20}, store=tmp_path / "t.zarr", verify=True, **QUIET)
    assert out.v.chunks == ((20, 20, 20, 20, 6),)


def test_files_of_365_and_366_days(tmp_path: Path) -> None:
    for year, days in ((2003, 365), (2004, 366)):
        time_ = np.datetime64(f"{year}-01-01") + np.arange(days)
        ds = xr.Dataset(
            {"v": (("time", "x"), np.random.default_rng(year).random((days, 3)))}, {"time": time_}
        )
        ds.to_netcdf(
            tmp_path / f"{year}.nc",
            encoding={"v": {"chunksizes": (1 if year == 2003 else 30, 3)}},
        )
    with xr.open_mfdataset([tmp_path / "2003.nc", tmp_path / "2004.nc"]) as source:
        out = source.chunking.apply({"time": 100}, store=tmp_path / "t.zarr", verify=True, **QUIET)
        xr.testing.assert_equal(out.load(), source.load())
    assert out.v.encoding["chunks"] == (100, 3)


def test_a_chunk_beyond_the_dim_is_all_of_it(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": (("t", "x"), np.zeros((5, 7)))})
    ds.chunking.apply({"t": 1000}, store=tmp_path / "t.zarr", **QUIET)
    assert zarr.open_group(tmp_path / "t.zarr")["v"].chunks == (5, 7)


def test_a_variable_left_out_is_copied(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": (("t", "x"), np.ones((5, 7))), "w": (("t",), np.arange(5))})
    out = ds.chunking.apply({"v": {"t": 2}}, store=tmp_path / "t.zarr", **QUIET)
    xr.testing.assert_identical(out.load(), ds)


def test_fourteen_million_chunks_are_planned_at_once(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "s.zarr").create_array(
        "v", shape=(14_000_000, 64, 64), chunks=(1, 64, 64), dtype="f4",
        dimension_names=("t", "y", "x"),
    )  # fmt: skip
    ds = xr.open_zarr(tmp_path / "s.zarr", consolidated=False, chunks=None)
    plan = ds.chunking.plan({"t": 100_000, "y": 8, "x": 8}, store="t.zarr", max_mem="8GB")
    assert plan["v"].stages
    assert max(s.boxes.count for s in plan["v"].stages) <= 20_000


def test_a_pure_copy_has_no_intermediate(tmp_path: Path) -> None:
    xr.Dataset({"v": (("t", "x"), np.zeros((100, 5000)))}).to_zarr(
        tmp_path / "s.zarr", encoding={"v": {"chunks": (10, 5000)}}
    )
    ds = xr.open_zarr(tmp_path / "s.zarr")
    for chunks in ({"t": 10}, {"t": 20}):
        assert ds.chunking.plan(chunks, store="t.zarr", max_mem="200MB")["v"].family == "direct"


def test_a_time_coordinate_with_chunk_1(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("time", np.zeros(500))}, {"time": ("time", np.arange(500))})
    ds.to_zarr(tmp_path / "s.zarr", encoding={"time": {"chunks": (1,)}})
    xr.open_zarr(tmp_path / "s.zarr").chunking.apply({"time": 100}, store="t.zarr", **QUIET)
    assert zarr.open_group("t.zarr")["time"].chunks == (500,)


# ---- stores -------------------------------------------------------------------------------


def test_a_task_opens_by_location(tmp_path: Path) -> None:
    import pickle

    from xchunk.targets.encode import assemble

    ds = xr.Dataset({"v": (("t", "x"), np.zeros((4, 8)))})
    ds.to_netcdf(tmp_path / "s.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "s.nc", chunks={}, engine="netcdf4") as source:
        (one,), _ = assemble(source, zarr_format=3)
        assert one.ref is not None
        assert pickle.loads(pickle.dumps(one.ref)) == one.ref
