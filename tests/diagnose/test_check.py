from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.core.reports.rules import CheckReport
from xchunk.errors import InvalidChunksError, SourceError


def daily(n: int = 2000) -> xr.Dataset:
    time = pd.date_range("2000-01-01", periods=n, freq="D")
    values = np.arange(n * 20 * 30, dtype="f4").reshape(n, 20, 30)
    return xr.Dataset({"t2m": (("time", "lat", "lon"), values)}, {"time": time})


def write(ds: xr.Dataset, path: str = "a.zarr", **chunks: tuple[int, ...]) -> str:
    ds.to_zarr(path, encoding={n: {"chunks": c} for n, c in chunks.items()})
    return path


def codes(report: CheckReport) -> dict[str, str]:
    return {f.code: f.severity for f in report}


def test_a_store_as_many_people_write_it() -> None:
    path = write(daily(), t2m=(1, 20, 30), time=(1,))
    report = xr.open_zarr(path).chunking.check(max_mem="1GB")
    assert codes(report) == {
        "stored-chunks-too-small": "warning",
        "split-coordinate": "warning",
        "blocks-too-small": "warning",
        "time-chunk-of-one": "info",
    }
    assert report.checked == 2
    assert report.source.endswith("a.zarr")


@pytest.mark.slow
def test_what_check_recommends_leaves_nothing_to_find() -> None:
    path = write(daily(), t2m=(1, 20, 30), time=(1,))
    ds = xr.open_zarr(path)
    first = ds.chunking.check(max_mem="1GB")
    (small,) = (f for f in first if f.code == "stored-chunks-too-small")
    scope = {"ds": ds}
    better = eval(small.remedy, scope)  # noqa: S307 - a remedy is code to be run
    assert codes(better.chunking.check(max_mem="1GB")) == {}
    xr.testing.assert_identical(better.load(), ds.load())


def test_a_rechunk_by_dask_is_told_from_a_split() -> None:
    path = write(daily(), t2m=(200, 20, 30))
    with pytest.warns(UserWarning, match="separate the stored chunks"):
        split = xr.open_zarr(path, chunks={"time": 50, "lat": -1, "lon": -1})
    assert codes(split.chunking.check(max_mem="1GB"))["split-stored-chunks"] == "warning"
    later = xr.open_zarr(path).chunk(time=50)
    assert "split-stored-chunks" not in codes(later.chunking.check(max_mem="1GB"))
    assert codes(later.chunking.check(max_mem="1GB"))["rechunked-lazily"] == "info"


@pytest.mark.parametrize("blocks", [{"time": 30}, {"time": 200, "lat": 7}])
def test_a_stale_encoding_is_found_where_writing_fails(blocks: dict[str, int]) -> None:
    ds = xr.open_zarr(write(daily(), t2m=(200, 20, 30))).chunk(blocks)
    (stale,) = (f for f in ds.chunking.check(max_mem="1GB") if f.code == "stale-chunks")
    with pytest.raises(ValueError, match="overlap"):
        ds.to_zarr("b.zarr")
    exec(stale.remedy, {"ds": ds})  # noqa: S102 - a remedy is code to be run
    assert "stale-chunks" not in codes(ds.chunking.check(max_mem="1GB"))
    ds.to_zarr("c.zarr")


def test_codecs_of_zarr_2_are_found_where_writing_fails() -> None:
    daily(300).to_zarr("v2.zarr", zarr_format=2)
    ds = xr.open_zarr("v2.zarr")
    found = [f for f in ds.chunking.check(max_mem="1GB") if f.code == "codecs-of-zarr-2"]
    assert {f.variable for f in found} == {"t2m", "time"}
    with pytest.raises(TypeError, match="BytesBytesCodec"):
        ds.to_zarr("v3.zarr")
    for variable in ds.variables.values():
        variable.encoding.clear()
    ds.to_zarr("v3.zarr", mode="w")


@pytest.mark.parametrize(
    ("values", "encoding", "expected"),
    [
        ([1.0, 2.5, 3.0], {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -1}, {}),
        (
            [1.0, 1e6, 3.0],
            {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -1},
            {"stale-packing": "error"},
        ),
        ([1.0, np.nan, 3.0], {"dtype": "i2"}, {"missing-without-fill": "error"}),
        ([1.0, 1.77, 3.0], {"dtype": "i2"}, {"stale-packing": "warning"}),
        ([np.nan, np.nan], {"dtype": "i2", "_FillValue": -1}, {"stale-packing": "warning"}),
        ([1.0, 2.0], {}, {}),
    ],
    ids=["fits", "wraps", "no fill", "rounds", "all missing", "plain"],
)
def test_packing_of_values_in_memory(values: list, encoding: dict, expected: dict) -> None:
    ds = xr.Dataset({"a": ("x", np.array(values))})
    ds.a.encoding = encoding
    assert codes(ds.chunking.check(max_mem="1GB")) == expected


def test_packing_matters_once_values_are_computed() -> None:
    ds = daily(100)
    ds.t2m.encoding = {"dtype": "i4", "scale_factor": 1.0, "_FillValue": -1}
    ds.to_netcdf("a.nc")
    opened = xr.open_dataset("a.nc", chunks={})
    assert codes(opened.chunking.check(max_mem="1GB")) == {}
    opened.t2m.data = opened.t2m.data * 1e9
    assert codes(opened.chunking.check(max_mem="1GB"))["stale-packing"] == "warning"


@pytest.mark.parametrize(
    ("part", "blocks", "expected"),
    [
        (slice(200, 400), 200, {}),
        (slice(200, 400), None, {}),
        (slice(250, 450), None, {"unsafe-region": "warning"}),
        (slice(200, 400), 150, {"unsafe-region": "error"}),
    ],
)
def test_regions(part: slice, blocks: int | None, expected: dict[str, str]) -> None:
    ds = daily().drop_vars("time")
    path = write(ds, t2m=(200, 20, 30))
    new = ds.isel(time=part)
    new = new if blocks is None else new.chunk(time=blocks)
    report = new.chunking.check(store=path, region={"time": part}, max_mem="1GB")
    assert codes(report) == expected
    if "error" in expected.values():
        with pytest.raises(ValueError, match="overlap"):
            new.to_zarr(path, region={"time": part})
    else:
        new.to_zarr(path, region={"time": part})


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"region": {"time": slice(0, 1)}}, InvalidChunksError, "needs store="),
        ({"store": "a.zarr", "region": {"depth": slice(1)}}, InvalidChunksError, "no dim 'depth'"),
        ({"store": "a.zarr", "region": {"time": 3}}, InvalidChunksError, "not a slice"),
        ({"store": "nothing.zarr", "region": {"time": slice(1)}}, SourceError, "cannot be opened"),
    ],
)
def test_regions_that_make_no_sense(given: dict, error: type, said: str) -> None:
    ds = daily(50)
    write(ds, t2m=(50, 20, 30))
    with pytest.raises(error, match=said):
        ds.chunking.check(max_mem="1GB", **given)


def test_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    ds = xr.open_zarr(write(daily(), t2m=(200, 20, 30))) * 2

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=fail):
        assert isinstance(ds.chunking.check(max_mem="1GB"), CheckReport)


@pytest.mark.parametrize("kind", ["dataset", "array", "tree"])
def test_it_shows_itself(kind: str) -> None:
    ds = xr.open_zarr(write(daily(), t2m=(1, 20, 30)))
    of = {"dataset": ds, "array": ds.t2m, "tree": xr.DataTree.from_dict({"/a/b": ds})}[kind]
    report = of.chunking.check(max_mem="1GB")
    shown = repr(report)
    assert max(map(len, shown.splitlines())) <= 80
    assert "stored-chunks-too-small" in shown
    assert "→ ds.chunking.apply(" in shown
    assert "<script" not in report._repr_html_()
    assert report._repr_html_().count("xc-card") >= len(report)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_hostile_name_is_escaped() -> None:
    ds = daily(50).rename(t2m="<b>t</b>\n")
    ds["<b>t</b>\n"].encoding = {"dtype": "i2"}
    ds["<b>t</b>\n"][0, 0, 0] = 0.5
    report = ds.chunking.check(max_mem="1GB")
    assert len(report) == 1
    assert "<b>t" not in report._repr_html_()
    assert all(line.isprintable() for line in repr(report).splitlines())


def test_a_clean_dataset_says_so() -> None:
    report = daily(50).chunking.check(max_mem="1GB")
    assert not report
    assert "nothing found in 2 variables" in repr(report)
    assert xchunk.DatasetChunking is not None


@pytest.mark.parametrize("in_a_tree", [False, True], ids=["dataset", "tree"])
@pytest.mark.parametrize(
    ("zarr_format", "fill", "shown", "code", "mended"),
    [
        (3, -9999.0, [0, 1, -9999], "fill-read-as-values", [0, 1, np.nan]),
        (2, 0, [np.nan, 1, np.nan], "zeros-read-as-missing", [0, 1, 0]),
    ],
    ids=["fill values as data", "data as fill values"],
)
def test_fill_values_and_data(
    *, zarr_format: Any, fill: float, shown: list, code: str, mended: list, in_a_tree: bool
) -> None:
    root = zarr.open_group("a.zarr", mode="w", zarr_format=zarr_format)
    dims = {"dimension_names": ["x"]} if zarr_format == 3 else {}
    group = root.create_group("g") if in_a_tree else root
    made = group.create_array("v", shape=(3,), chunks=(1,), dtype="f4", fill_value=fill, **dims)
    made[:2] = [0, 1]
    made.attrs["_ARRAY_DIMENSIONS"] = ["x"]
    zarr.consolidate_metadata("a.zarr")
    opener = xr.open_datatree if in_a_tree else xr.open_dataset
    ds = opener("a.zarr", engine="zarr", chunks={})
    path = "g/v" if in_a_tree else "v"
    np.testing.assert_array_equal(ds[path].values, shown)
    (found,) = (f for f in ds.chunking.check(max_mem="1GB") if f.code == code)
    scope = {"ds": ds, "xr": xr}
    exec(found.remedy, scope)  # noqa: S102 - a remedy is code to be run
    np.testing.assert_array_equal(scope["ds"][path].values, mended)
    if not in_a_tree:
        better = scope["ds"]
        assert code not in codes(better.chunking.check(max_mem="1GB"))
        better.chunking.apply({"x": -1}, store="b.zarr", progress=False)
        np.testing.assert_array_equal(xr.open_zarr("b.zarr", mask_and_scale=fill != 0).v, mended)


FILL = "default-fill-read-as-values"
#: dtype of what is stored, keywords of netCDF4, rows that are written, values of some elements,
#: attributes, and how bad it is; None: nothing is found.
FILLED: dict[str, tuple[str, dict, int, dict, dict, str | None]] = {
    "chunks not written": ("f4", {"chunksizes": (10, 6)}, 15, {}, {}, "warning"),
    "doubles in the middle": ("f8", {"zlib": True}, 40, {(21, 3): 9.969209968386869e36}, {},
                              "warning"),
    "nothing written": ("i4", {"contiguous": True}, 0, {}, {}, "warning"),
    "an integer": ("i2", {"zlib": True, "chunksizes": (40, 6)}, 40, {(3, 2): -32767}, {}, "info"),
    "packed": ("i2", {"chunksizes": (10, 6)}, 25, {}, {"scale_factor": 0.5, "add_offset": 3.0},
               "warning"),
    "times": ("i4", {"chunksizes": (10, 6)}, 20, {}, {"units": "seconds since 2000-01-01"},
              "warning"),
    "unsigned, 8 bytes": ("u8", {"chunksizes": (10, 6)}, 20, {}, {}, "warning"),
    "bytes": ("i1", {"chunksizes": (10, 6)}, 15, {}, {}, None),
    "all written": ("f4", {"chunksizes": (10, 6)}, 40, {}, {}, None),
    "named": ("f4", {"chunksizes": (10, 6), "fill_value": 1e20}, 15, {}, {}, None),
    "another name": ("f4", {"chunksizes": (10, 6)}, 15, {},
                     {"missing_value": np.float32(9.969209968386869e36)}, None),
    "not filled": ("f4", {"chunksizes": (10, 6), "fill_value": False}, 15, {}, {}, None),
}  # fmt: skip


def filled(case: str, where: str = "/", file_format: str = "NETCDF4") -> np.ndarray:
    """Write a file in which some is missing; return what netCDF4 masks."""
    import netCDF4

    dtype, how, rows, values, attrs, _ = FILLED[case]
    if file_format != "NETCDF4":
        how = {}
    with netCDF4.Dataset("a.nc", "w", format=file_format) as file:
        group = file if where == "/" else file.createGroup(where)
        group.createDimension("y", 40)
        group.createDimension("x", 6)
        made = group.createVariable("v", dtype, ("y", "x"), **how)
        made.set_auto_maskandscale(False)
        if rows:
            made[:rows] = np.arange(rows * 6).reshape(rows, 6)
        for key, value in values.items():
            made[key] = value
        made.setncatts(attrs)
    with netCDF4.Dataset("a.nc") as file:
        return np.ma.getmaskarray((file if where == "/" else file[where])["v"][:])


@pytest.mark.parametrize("case", FILLED)
@pytest.mark.parametrize("engine", ["netcdf4", "xchunk"])
def test_what_netcdf_fills_with_is_found_and_masked(case: str, engine: str) -> None:
    masked, worst = filled(case), FILLED[case][-1]
    with xr.open_dataset("a.nc", engine=engine, chunks={}) as ds:
        found = [f for f in ds.chunking.check(max_mem="1GB") if f.code == FILL]
        assert [f.severity for f in found] == ([] if worst is None else [worst])
        if not found:
            return
        assert not ds.v.isnull().all()
        scope = {"ds": ds, "xr": xr}
        exec(found[0].remedy, scope)  # noqa: S102 - a remedy is code to be run
        better = scope["ds"]
        np.testing.assert_array_equal(better.v.isnull().values, masked)
        assert FILL not in codes(better.chunking.check(max_mem="1GB"))
        if FILLED[case][0] == "u8":
            return  # what xarray makes of it, floats, cannot hold all of it
        out = better.chunking.apply({"y": -1, "x": 2}, store="b.zarr", progress=False)
        np.testing.assert_array_equal(out.v.isnull().values, masked)
        xr.testing.assert_equal(out.v.load(), better.v.load())


@pytest.mark.parametrize("file_format", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"])
def test_what_netcdf_fills_classic_files_with_is_found(file_format: str) -> None:
    masked = filled("chunks not written", file_format=file_format)
    with xr.open_dataset("a.nc", chunks={}) as ds:
        (found,) = (f for f in ds.chunking.check(max_mem="1GB") if f.code == FILL)
        scope = {"ds": ds, "xr": xr}
        exec(found.remedy, scope)  # noqa: S102 - a remedy is code to be run
        np.testing.assert_array_equal(scope["ds"].v.isnull().values, masked)


@pytest.mark.parametrize("case", ["chunks not written", "packed"])
def test_what_netcdf_fills_with_in_a_group(case: str) -> None:
    masked = filled(case, "g")
    with xr.open_datatree("a.nc", engine="netcdf4", chunks={}) as tree:
        (found,) = (f for f in tree.chunking.check(max_mem="1GB") if f.code == FILL)
        assert found.variable == "g/v"
        scope = {"ds": tree, "xr": xr}
        exec(found.remedy, scope)  # noqa: S102 - a remedy is code to be run
        np.testing.assert_array_equal(scope["ds"]["g/v"].isnull().values, masked)


def test_a_few_chunks_are_read_to_look_for_what_netcdf_fills_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from xchunk.diagnose import check

    read: list[int] = []

    class Counted:
        def __init__(self, stored: Any) -> None:
            self.stored, self.info = stored, stored.info

        def read(self, region: Any) -> Any:
            values = self.stored.read(region)
            read.append(values.size)
            return values

    opened = check.open_stored
    monkeypatch.setattr(check, "open_stored", lambda ref: Counted(opened(ref)))
    encoding = {"t2m": {"chunksizes": (10, 20, 30)}, "time": {"contiguous": True}}
    daily().to_netcdf("a.nc", engine="netcdf4", encoding=encoding)
    with xr.open_dataset("a.nc", engine="netcdf4", chunks={}) as ds:
        ds.chunking.check(max_mem="1GB")
    assert read == []  # floats that xarray wrote name NaN
    encoding["t2m"]["_FillValue"] = None
    daily().to_netcdf("a.nc", engine="netcdf4", encoding=encoding)
    with xr.open_dataset("a.nc", engine="netcdf4", chunks={}) as ds:
        ds.chunking.check(max_mem="1GB")
    assert read == [6000] * 4


#: How files are written and joined, and the call that opens them again.
JOINED: dict[str, tuple[str, bool, str]] = {
    "a pattern of netCDF": ("nc", True, "t2m_*.nc'"),
    "zarr stores": ("zarr", True, "engine='zarr'"),
    "in the order of a list": ("zarr", False, "concat_dim='time'"),
}


@pytest.mark.filterwarnings("ignore:The specified chunks separate")
@pytest.mark.parametrize(("suffix", "labels", "said"), JOINED.values(), ids=JOINED)
def test_files_that_are_joined_are_opened_again_by_code_that_runs(
    suffix: str, labels: bool, said: str
) -> None:
    names = []
    for i in range(3):
        part = daily().isel(time=slice(100 * i, 100 * (i + 1)))
        part["other"] = part.t2m.astype("i2")
        part = part if labels else part.drop_vars("time")
        names.append(f"t2m_{i}.{suffix}")
        if suffix == "nc":
            part.to_netcdf(names[-1], encoding={"t2m": {"chunksizes": (1, 20, 30)}})
        else:
            encoding = {"t2m": {"chunks": (10, 20, 30)}, "other": {"chunks": (1, 20, 30)}}
            part.to_zarr(names[-1], encoding=encoding)
    how = {} if labels else {"concat_dim": "time", "combine": "nested"}
    engine = {"engine": "zarr"} if suffix == "zarr" else {}
    with xr.open_mfdataset(names, chunks={"lat": 3}, **engine, **how) as ds:
        report = ds.chunking.check(max_mem="1GB")
        expected = ds.load()
    opened = [f.remedy for f in report if "open_" in f.remedy]
    assert any(said in remedy for remedy in opened)
    for remedy in opened:
        found: dict[str, Any] = {"xr": xr, "xchunk": xchunk}
        exec(remedy, found)  # noqa: S102 - the code that users copy
        xr.testing.assert_equal(found["ds"].compute(), expected)
        found["ds"].close()
