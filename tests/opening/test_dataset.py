from __future__ import annotations

import inspect
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import xchunk
from xchunk.errors import (
    ExcessiveIOWarning,
    InvalidChunksError,
    MemoryBudgetError,
    SourceError,
    XchunkWarning,
)
from xchunk.sources.joint import JoinedArray

#: The stored chunks of four years in four files; None: not chunked.
LAYOUTS = {2000: (1, 60, 90), 2001: (10, 60, 90), 2002: (30, 20, 30), 2003: None}


def years(rng: np.random.Generator) -> xr.Dataset:
    time = pd.date_range("2000-01-01", "2003-12-31", freq="D")
    # large enough that it is not simply loaded
    values = rng.normal(size=(len(time), 60, 90, 3)).astype("f4")
    return xr.Dataset(
        {
            "t2m": (("time", "lat", "lon", "member"), values, {"units": "K"}),
            "oro": (("lat", "lon"), rng.normal(size=(60, 90))),
            "flag": ("time", rng.integers(0, 9, len(time)).astype("i2")),
        },
        {
            "time": time,
            "lat": np.arange(60.0),
            "lon": np.arange(90.0),
            "area": (("lat", "lon"), rng.random((60, 90))),
        },
        attrs={"title": "four years"},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, list[str]]:
    folder = tmp_path_factory.mktemp("years")
    ds = years(np.random.default_rng(7))
    for year, chunks in LAYOUTS.items():
        encoding = {} if chunks is None else {"t2m": {"chunksizes": (*chunks, 3)}}
        ds.sel(time=str(year)).to_netcdf(folder / f"y{year}.nc", encoding=encoding)
    return ds, [str(folder / f"y{year}.nc") for year in LAYOUTS]


@pytest.fixture(scope="module")
def one_file(written: tuple, tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, str]:
    ds, _ = written
    path = str(tmp_path_factory.mktemp("one") / "a.nc")
    encoding = {"chunksizes": (10, 60, 90, 3), "zlib": True, "complevel": 1}
    ds.to_netcdf(path, encoding={"t2m": encoding})
    return ds, path


@pytest.fixture
def files(written: tuple) -> tuple[xr.Dataset, list[str]]:
    ds, paths = written
    for path in paths:
        Path(Path(path).name).symlink_to(path)
    return ds, [Path(path).name for path in paths]


def quiet(*args: object, **kwargs: object) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XchunkWarning)
        return xchunk.open_dataset(*args, **kwargs)


def reading_tasks(v: xr.DataArray) -> int:
    """Tasks of a variable's graph, without those that only hold an array."""
    return sum(isinstance(k, tuple) for k in v.data.__dask_graph__())


@pytest.mark.parametrize("access", ["scan", "map", "timeseries", {"lat": slice(10, 20)}, None])
def test_one_file_in_one_task_for_each_block(access: object, one_file: tuple) -> None:
    ds, path = one_file
    opened = quiet(path, access, max_mem="150MB")
    assert reading_tasks(opened.t2m) == opened.t2m.data.npartitions > 1
    assert opened.oro.chunks is None  # small: loaded when it is used
    xr.testing.assert_identical(opened.load(), ds)


def test_blocks_hold_many_stored_chunks_and_fit() -> None:
    n = 4000
    ds = xr.Dataset({"a": (("t", "x"), np.zeros((n, 6000), "f4"))})
    ds.to_zarr("a.zarr", encoding={"a": {"chunks": (10, 6000)}}, consolidated=True)
    opened = xchunk.open_dataset("a.zarr", max_mem="300MB")
    blocks = set(opened.a.chunks[0][:-1])
    assert all(b % 10 == 0 and b > 10 for b in blocks)
    assert max(blocks) * 6000 * 4 * 2 < 150e6


@pytest.mark.parametrize("engine", ["netcdf4", None])  # h5py may not be loaded beside it
def test_any_engine(engine: str | None) -> None:
    ds = xr.Dataset({"a": ("x", np.arange(10.0))})
    ds.to_netcdf("a.nc")
    opened = xchunk.open_dataset(Path("a.nc"), engine=engine, decode_cf=True)
    xr.testing.assert_identical(opened.load(), ds)


def test_an_engine_of_the_users_own() -> None:
    class Entry(xr.backends.BackendEntrypoint):
        def open_dataset(self, filename_or_obj, *, drop_variables=None):
            return xr.Dataset({"a": ("x", np.arange(7))})

    Path("a.own").write_text("mine")
    assert xchunk.open_dataset("a.own", engine=Entry).a.values.tolist() == list(range(7))


@pytest.mark.parametrize("access", ["timeseries", "map", "scan", {"member": -1}])
def test_files_of_four_layouts_are_one_dataset(files: tuple, access: object) -> None:
    ds, paths = files
    opened = quiet(paths, access, max_mem="120MB")
    assert reading_tasks(opened.t2m) == opened.t2m.data.npartitions
    assert opened.attrs == ds.attrs
    xr.testing.assert_identical(opened.load(), ds)


def test_a_glob_in_any_order(files: tuple) -> None:
    ds, paths = files
    xr.testing.assert_identical(quiet("y*.nc", max_mem="120MB").load(), ds)
    xr.testing.assert_identical(quiet(paths[::-1], max_mem="120MB").load(), ds)


def test_a_block_spans_files_in_one_task(files: tuple) -> None:
    ds, paths = files
    opened = quiet(paths, "timeseries", max_mem="120MB")
    assert opened.t2m.chunks[0] == (ds.sizes["time"],)
    assert reading_tasks(opened.t2m) == opened.t2m.data.npartitions
    series = opened.t2m.isel(lat=7, lon=7)
    np.testing.assert_array_equal(series.values, ds.t2m.isel(lat=7, lon=7).values)


def test_files_in_a_grid(files: tuple) -> None:
    ds, _ = files
    paths = []
    for i, lat in enumerate((slice(0, 29), slice(30, 59))):
        for j, time in enumerate(("2000", "2001")):
            paths.append(f"g{i}{j}.nc")
            ds[["t2m"]].drop_vars("area").sel(lat=lat, time=time).to_netcdf(paths[-1])
    want = ds[["t2m"]].drop_vars("area").sel(time=slice("2000", "2001"))
    want.attrs = ds.attrs
    opened = quiet(paths, "timeseries", max_mem="120MB")
    assert opened.t2m.chunks[0] == (want.sizes["time"],)
    xr.testing.assert_identical(opened.load(), want)
    nested = quiet([paths[:2], paths[2:]][0], combine="nested", concat_dim="time", max_mem="120MB")
    xr.testing.assert_identical(nested.load(), want.isel(lat=slice(0, 30)))


def test_files_of_different_variables(files: tuple) -> None:
    ds, _ = files
    ds[["t2m"]].to_netcdf("t.nc")
    ds[["flag", "oro"]].to_netcdf("f.nc")
    opened = quiet(["t.nc", "f.nc"], max_mem="120MB")
    xr.testing.assert_identical(opened.load(), ds[["t2m", "flag", "oro"]])


def test_a_new_dim(files: tuple) -> None:
    ds, _ = files
    for i in range(3):
        (ds[["oro"]].drop_vars("area") * i).to_netcdf(f"m{i}.nc")
    opened = quiet("m?.nc", combine="nested", concat_dim="member", max_mem="120MB")
    want = np.stack([ds.oro.values * i for i in range(3)])
    np.testing.assert_array_equal(opened.oro.transpose("member", ...).values, want)


def test_different_packing_is_not_written_again(files: tuple) -> None:
    ds, _ = files
    for i, scale in enumerate((0.5, 0.001)):
        part = ds[["flag"]].isel(time=slice(i * 9, i * 9 + 9)).reset_coords(drop=True)
        part = part.assign(flag=part.flag * scale * 1.0)
        packing = {"dtype": "i2", "scale_factor": scale, "_FillValue": -1}
        part.expand_dims(x=range(5)).to_netcdf(f"p{i}.nc", encoding={"flag": packing})
    opened = quiet("p?.nc", max_mem="120MB")
    assert "scale_factor" not in opened.flag.encoding
    want = xr.concat([xr.open_dataset(f"p{i}.nc").load() for i in range(2)], "time")
    np.testing.assert_array_equal(opened.flag.values, want.flag.values)


@pytest.mark.parametrize("how", [{"preprocess": lambda d: d * 2}, {"join": "outer"}])
def test_what_is_no_whole_file_any_more_is_put_together_by_xarray(files: tuple, how: dict) -> None:
    ds, paths = files
    opened = quiet(paths, max_mem="120MB", **how)
    factor = 2 if "preprocess" in how else 1
    np.testing.assert_array_equal(opened.t2m.values, ds.t2m.values * factor)


def test_outer_joins_never_mix_up_places(files: tuple) -> None:
    ds, _ = files
    a = ds[["t2m"]].drop_vars("area").isel(time=slice(0, 5))
    b = a.isel(lat=slice(None, None, -1)).assign_coords(time=a.time + np.timedelta64(5, "D"))
    a.to_netcdf("a.nc")
    b.to_netcdf("b.nc")
    how = {"combine": "nested", "concat_dim": "time", "max_mem": "120MB"}
    with pytest.raises(SourceError, match="do not fit together"):
        xchunk.open_dataset(["a.nc", "b.nc"], **how)
    opened = quiet(["a.nc", "b.nc"], join="outer", **how)
    np.testing.assert_array_equal(opened.t2m[0].values, opened.t2m[5].sortby("lat").values)
    np.testing.assert_array_equal(opened.t2m[0].values, a.t2m[0].values)


def test_the_same_files_give_the_same_keys(files: tuple) -> None:
    _, paths = files
    a, b = (quiet(paths, max_mem="120MB") for _ in range(2))
    assert a.t2m.data.name == b.t2m.data.name
    assert a.t2m.data.name != quiet(paths[:2], max_mem="120MB").t2m.data.name


def test_it_travels_to_workers(files: tuple) -> None:
    ds, paths = files
    opened = pickle.loads(pickle.dumps(quiet(paths, max_mem="120MB")))
    np.testing.assert_array_equal(opened.t2m[700].values, ds.t2m[700].values)


def test_advice_to_rechunk_first_is_told() -> None:
    ds = xr.Dataset({"a": (("time", "x"), np.zeros((4000, 6000), "f4"))})
    ds.to_zarr("a.zarr", encoding={"a": {"chunks": (10, 6000)}})
    with pytest.warns(ExcessiveIOWarning, match="not stored for time=all") as caught:
        opened = xchunk.open_dataset("a.zarr", {"time": -1}, max_mem="60MB")
    assert caught[0].filename == __file__
    assert opened.a.chunks[0] == (4000,)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "said"),
    [
        (("nothing.nc",), {}, SourceError, "no such file"),
        (("nothing*.nc",), {}, SourceError, "no file has such a name"),
        (([],), {}, SourceError, "empty"),
        ((3,), {}, SourceError, "not something to open"),
        (("y2000.nc",), {"chunks": {}}, InvalidChunksError, "finds the chunks itself"),
        (("y2000.nc", "sideways"), {}, InvalidChunksError, "not one of the presets"),
        (("y2000.nc",), {"max_mem": "1kB"}, MemoryBudgetError, "max_mem"),
        (("y*.nc",), {"combine": "somehow"}, InvalidChunksError, "neither"),
    ],
)
def test_what_cannot_be_opened(
    files: tuple, args: tuple, kwargs: dict, error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        xchunk.open_dataset(*args, **kwargs)


def test_every_parameter_is_documented() -> None:
    doc = inspect.getdoc(xchunk.open_dataset) or ""
    for name in inspect.signature(xchunk.open_dataset).parameters:
        assert name in doc


def test_joined_arrays_read_what_a_slice_needs(rng: np.random.Generator) -> None:
    whole = rng.normal(size=(10, 7))
    rows = (slice(0, 4), slice(4, 5), slice(5, 10))
    parts = np.empty((3, 2), dtype=object)
    for i, r in enumerate(rows):
        for j, c in enumerate((slice(0, 3), slice(3, 7))):
            parts[i, j] = xr.Variable(("a", "b"), whole[r, c].astype("f4" if i else "f8"))
    joined = JoinedArray.of(parts)
    assert (joined.shape, joined.ndim, joined.dtype) == ((10, 7), 2, np.dtype("f8"))
    for start in range(10):
        for stop in range(start, 11):
            key = (slice(start, stop), slice(2, 6))
            np.testing.assert_allclose(joined[key], whole[key], rtol=1e-6)


INDEXERS = st.one_of(
    st.integers(-10, 9),
    st.slices(10),
    st.lists(st.integers(-10, 9), max_size=12).map(lambda i: np.array(i, dtype=int)),
    st.lists(st.booleans(), min_size=10, max_size=10).map(np.array),
)


@given(rows=INDEXERS, columns=INDEXERS, cut=st.integers(1, 9))
def test_joined_arrays_are_indexed_dim_by_dim(rows: object, columns: object, cut: int) -> None:
    whole = np.arange(100).reshape(10, 10)
    parts = np.empty((2, 2), dtype=object)
    halves = (slice(0, cut), slice(cut, 10))
    for i, r in enumerate(halves):
        for j, c in enumerate(halves):
            parts[i, j] = xr.Variable(("a", "b"), whole[r, c])
    np.testing.assert_array_equal(JoinedArray.of(parts)[rows, columns], whole[rows][..., columns])


@pytest.mark.parametrize("key", [10, -11, 1.5, (..., 0), [3, 99]])
def test_joined_arrays_refuse_what_is_no_index(key: object) -> None:
    parts = np.empty(1, dtype=object)
    parts[0] = xr.Variable("a", np.arange(10))
    with pytest.raises(IndexError):
        JoinedArray.of(parts)[key]
