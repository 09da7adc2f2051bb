"""Many files that are joined are one stored array: its layout, its plan, its copy, its proof."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from shared.processes import run_with_h5netcdf
from xchunk.sources.hdf5_read import DirectArray
from xchunk.sources.refs import JoinedRef
from xchunk.sources.trace import trace

#: netCDF4 and h5py bring HDF5 libraries of their own, of which a process had better load one.
HDF5 = os.environ.get("XCHUNK_TEST_ENGINE", "netcdf4")
ENGINES: list[Any] = [HDF5]
if HDF5 != "h5netcdf":
    ENGINES += [pytest.param(engine, marks=pytest.mark.slow) for engine in ("zarr", "scipy")]
PACKED: dict[str, Any] = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0}
MINIMAL: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}
LENGTHS = (5, 1, 9, 4)
TARGET = {"time": -1, "lat": 4, "lon": 5}

pytestmark = pytest.mark.filterwarnings("ignore::xchunk.errors.LayoutChangeWarning")


def write(ds: xr.Dataset, place: Path, engine: str, **packing: Any) -> str:
    """Write one file, with chunks that fit it."""
    encoding: dict[str, dict[str, Any]] = {"v": {**PACKED, "_FillValue": -32768, **packing}}
    name = str(place) + (".zarr" if engine == "zarr" else ".nc")
    if engine == "scipy":
        ds.to_netcdf(name, engine="scipy", format="NETCDF3_64BIT", encoding=encoding)
        return name
    chunks = tuple(min(n, c) for n, c in zip(ds.v.shape, (3, 4, 6), strict=True))
    if engine == "zarr":
        ds.to_zarr(name, encoding={"v": encoding["v"] | {"chunks": chunks}}, zarr_format=3)
        return name
    hdf5 = {"chunksizes": chunks, "zlib": True, "complevel": 1, "shuffle": True}
    ds.to_netcdf(name, engine=engine, encoding={"v": encoding["v"] | hdf5})
    return name


def data(start: int, times: int, lon: slice = slice(None)) -> xr.Dataset:
    rng = np.random.default_rng(start)
    values = (280 + rng.integers(-5000, 5000, (times, 8, 10)) / 100).astype("f4")
    values[0, 3, 4] = np.nan
    ds = xr.Dataset(
        {
            "v": (("time", "lat", "lon"), values, {"units": "K"}),
            "mask": (("lat", "lon"), np.arange(80, dtype="i4").reshape(8, 10)),
        },
        coords={
            "time": ("time", np.arange(start, start + times), {"units": "days since 2001-01-01"}),
            "lat": np.linspace(-40, 40, 8),
            "lon": np.arange(10.0),
        },
    )
    return ds.isel(lon=lon)


def files(folder: Path, engine: str, **changed: Any) -> list[str]:
    """Write four files of uneven lengths; the third one may be packed otherwise."""
    out, start = [], 0
    for number, n in enumerate(LENGTHS):
        own = changed if number == 2 else {}
        out.append(write(data(start, n), folder / f"f{number}", engine, **own))
        start += n
    return out


def opened(names: list[str], engine: str, **how: Any) -> xr.Dataset:
    return xr.open_mfdataset(names, engine=engine, chunks={}, join="override", **MINIMAL | how)


def stored(names: list[str], engine: str) -> np.ndarray[Any, Any]:
    found = []
    for name in names:
        with xr.open_dataset(name, engine=engine, mask_and_scale=False, chunks=None) as ds:
            found.append(ds.v.values)
    return np.concatenate(found)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["open_mfdataset", "concat", "open_dataset"])
def test_stored_bits_are_copied(tmp_path: Path, engine: str, how: str) -> None:
    names = files(tmp_path, engine)
    if how == "open_mfdataset":
        ds = opened(names, engine)
    elif how == "open_dataset":
        ds = xchunk.open_dataset(names, engine=engine)
        if ds.v.chunks is None:
            pytest.skip("loaded")
    else:
        each = [xr.open_dataset(name, engine=engine, chunks={}) for name in names]
        ds = xr.concat(each, "time", join="override", **MINIMAL)
    with ds:
        traced = trace(ds.v.variable)
        assert traced is not None
        assert isinstance(traced.ref, JoinedRef)
        layout = ds.chunking.layout()["v"]
        assert (layout.stored_dtype, layout.files) == (np.dtype("i2"), 4)
        assert layout.packing is not None
        if engine == "scipy":
            assert layout.chunks is None
        else:
            assert layout.chunks == ((3, 2, 1, 3, 3, 3, 3, 1), 4, 6)
        assert ds.chunking.layout()["mask"].files == 1
        right = ds.compute()
        out = ds.chunking.apply(
            TARGET, store=tmp_path / "t.zarr", progress=False, verify=True, max_mem="40MB"
        )
        np.testing.assert_array_equal(out.v.values, right.v.values)
        np.testing.assert_array_equal(out.mask.values, right.mask.values)
        np.testing.assert_array_equal(out.time.values, right.time.values)
        assert out.v.attrs == {"units": "K"}
    array = zarr.open_group(tmp_path / "t.zarr", mode="r")["v"]
    assert array.dtype == np.dtype("i2")
    assert array.chunks == (19, 4, 5)
    np.testing.assert_array_equal(array[...], stored(names, engine))
    assert array.attrs["scale_factor"] == 0.01


@pytest.mark.parametrize("engine", ENGINES)
def test_files_along_two_dims(tmp_path: Path, engine: str) -> None:
    grid = [
        [
            write(data(start, n, lon).assign(mask=0), tmp_path / f"{start}-{lon.start}", engine)
            for lon in (slice(0, 7), slice(7, 10))
        ]
        for start, n in ((0, 5), (5, 2))
    ]
    with opened(grid, engine, combine="nested", concat_dim=["time", "lon"]) as ds:  # type: ignore[arg-type]
        traced = trace(ds.v.variable)
        assert traced is not None
        assert isinstance(traced.ref, JoinedRef)
        assert traced.ref.lengths == ((5, 2), (8,), (7, 3))
        right = ds.v.values
        out = ds.chunking.apply(TARGET, store=tmp_path / "t.zarr", progress=False, verify=True)
        np.testing.assert_array_equal(out.v.values, right)
    raw = np.concatenate([np.concatenate([stored([n], engine) for n in row], -1) for row in grid])
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "t.zarr", mode="r")["v"][...], raw)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_along_a_new_dim(tmp_path: Path, engine: str) -> None:
    first = data(0, 6)
    members = [first.assign(v=data(i, 6).v.assign_coords(time=first.time)) for i in range(3)]
    names = [write(ds, tmp_path / f"m{i}", engine) for i, ds in enumerate(members)]
    with opened(names, engine, combine="nested", concat_dim="member", data_vars=["v"]) as ds:
        part = ds[["v"]].isel(time=slice(1, 5), lat=slice(2, None))
        assert part.chunking.layout()["v"].files == 3
        right = part.v.values
        what = {"member": -1, "time": -1, "lat": 3, "lon": 5}
        out = part.chunking.apply(what, store=tmp_path / "t.zarr", progress=False, verify=True)
        np.testing.assert_array_equal(out.v.values, right)
    raw = stored(names, engine).reshape(3, 6, 8, 10)[:, 1:5, 2:]
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "t.zarr", mode="r")["v"][...], raw)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "packing",
    [
        {"scale_factor": 0.02},
        pytest.param({"_FillValue": -999}, marks=pytest.mark.slow),
        pytest.param({"dtype": "i4"}, marks=pytest.mark.slow),
    ],
    ids=["scale", "fill", "dtype"],
)
def test_a_file_that_is_packed_otherwise_is_named(
    tmp_path: Path, engine: str, packing: dict[str, Any]
) -> None:
    names = files(tmp_path, engine, **packing)
    with opened(names, engine) as ds:
        right = ds.v.values
        notes = ds.chunking.plan(TARGET, store=tmp_path / "t.zarr").notes
        said = [note for note in notes if note.startswith("v: ")]
        assert any("f2." in note and "f0." in note and "as float64" in note for note in said)
        out = ds.chunking.apply(TARGET, store=tmp_path / "t.zarr", progress=False, verify=True)
        np.testing.assert_array_equal(out.v.values, right)
    assert zarr.open_group(tmp_path / "t.zarr", mode="r")["v"].dtype == np.float64


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_of_other_units_is_named(tmp_path: Path, engine: str) -> None:
    names = files(tmp_path, engine)
    changed = data(6, 9)
    changed.v.attrs["units"] = "degC"
    names[2] = write(changed, tmp_path / "celsius", engine)
    with opened(names, engine) as ds:
        right = ds.v.values
        notes = ds.chunking.plan(TARGET, store=tmp_path / "t.zarr").notes
        assert any("units is 'degC', not 'K', in " in note and "celsius" in note for note in notes)
        out = ds.chunking.apply(TARGET, store=tmp_path / "t.zarr", progress=False)
        np.testing.assert_array_equal(out.v.values, right)


@pytest.mark.parametrize("engine", ENGINES)
def test_appended_in_the_middle_of_a_chunk(tmp_path: Path, engine: str) -> None:
    names = files(tmp_path, engine)
    with opened(names[:2], engine) as ds:
        ds.chunking.apply({"time": 4, "lat": 4}, store=tmp_path / "t.zarr", progress=False)
    with opened(names[2:], engine) as ds:
        out = ds.chunking.append(tmp_path / "t.zarr", dim="time", progress=False, verify=True)
    with opened(names, engine) as ds:
        np.testing.assert_array_equal(out.v.values, ds.v.values)
    found = zarr.open_group(tmp_path / "t.zarr", mode="r")["v"][...]
    np.testing.assert_array_equal(found, stored(names, engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_resumed_with_another_file_it_is_refused(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = files(tmp_path, engine)

    def go() -> None:
        with opened(names, engine) as ds:
            ds.chunking.apply(TARGET, store=tmp_path / "t.zarr", progress=False)

    with monkeypatch.context() as patched:
        patched.setattr("xchunk.rechunking.runner.commit", lambda *_: 1 / 0)
        with pytest.raises(xchunk.StageFailedError, match="ZeroDivision"):
            go()
    changed = next(iter(Path(names[2]).rglob("c/0/0/0")), Path(names[2]))
    os.utime(changed, ns=(10**18, 10**18))
    with pytest.raises(xchunk.ResumeMismatchError, match="v: source data differ"):
        go()


@pytest.mark.skipif(HDF5 == "h5netcdf", reason="once is enough")
def test_a_file_that_is_replaced_while_it_is_read_ends_the_run_which_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = files(tmp_path, HDF5)
    last, target, read = Path(names[-1]), tmp_path / "t.zarr", DirectArray.read
    then = last.stat()

    def replaced_meanwhile(self: DirectArray, *args: Any) -> Any:
        os.utime(last, ns=(10**18, 10**18))
        return read(self, *args)

    def go() -> None:
        with opened(names, HDF5) as ds:
            ds.chunking.apply(TARGET, store=target, progress=False)

    with monkeypatch.context() as patched:
        patched.setattr(DirectArray, "read", replaced_meanwhile)
        with pytest.raises(xchunk.SourceError, match=r"f3\.nc.*replaced since"):
            go()
    os.utime(last, ns=(then.st_atime_ns, then.st_mtime_ns))
    go()
    found = xr.open_zarr(target, mask_and_scale=False).v.values
    np.testing.assert_array_equal(found, stored(names, HDF5))


@pytest.mark.skipif(HDF5 == "h5netcdf", reason="this is that process")
@pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="h5netcdf needs h5py here")
@pytest.mark.slow
def test_h5netcdf_in_a_process_of_its_own() -> None:
    run_with_h5netcdf(__file__)
