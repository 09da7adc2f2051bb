"""The engine ``xchunk`` shows what the library's engine shows, and reads without the library.

netCDF4 and h5py bring two copies of HDF5, which do not always live in one process. Here
only the engine named by ``XCHUNK_TEST_ENGINE`` is used (default: netcdf4), and one test
starts this file again, in a process of its own, for h5netcdf.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from shared.processes import run_with_h5netcdf
from xchunk import open_dataset
from xchunk.errors import SourceError
from xchunk.opening.formats import open_groups, open_source
from xchunk.sources.hdf5_read import DirectArray
from xchunk.sources.xarray_adapter import FileArray

LIBRARY = os.environ.get("XCHUNK_TEST_ENGINE", "netcdf4")
SHAPE = (7, 5, 6)
DIMS = ("t", "y", "x")
#: How each array of the file is stored, and whether it is read without the library.
STORED: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "contiguous": ("f4", {"contiguous": True}, True),
    "chunked": ("f8", {"chunksizes": (2, 3, 4)}, True),
    "deflated": ("i2", {"chunksizes": (3, 5, 2), "zlib": True, "shuffle": True}, True),
    "summed": ("u1", {"chunksizes": (3, 2, 6), "zlib": True, "fletcher32": True}, True),
    "row": ("i8", {"chunksizes": (1, 5, 6), "zlib": True, "shuffle": False}, True),
    "letters": ("S1", {}, True),
    "words": (object, {}, False),
}


def values_of(dtype: Any, seed: int) -> np.ndarray[Any, Any]:
    numbers = np.random.default_rng(seed).integers(0, 100, SHAPE)
    if dtype is object:
        return np.array([f"w{n}" for n in numbers.flat], dtype=object).reshape(SHAPE)
    return (numbers % 26 + 97).astype("u1").view("S1") if dtype == "S1" else numbers.astype(dtype)


def make() -> xr.Dataset:
    ds = xr.Dataset(
        {name: (DIMS, values_of(d, i)) for i, (name, (d, _, _)) in enumerate(STORED.items())},
        coords={"t": np.arange(7) * np.timedelta64(1, "D") + np.datetime64("2001-01-01", "ns")},
        attrs={"title": "x"},
    )
    packed = np.random.default_rng(9).integers(0, 50, SHAPE) * 0.5
    packed[0, 0] = np.nan
    ds["packed"] = (DIMS, packed, {"units": "K"})
    ds["flag"] = (("y", "x"), packed[1] > 10)
    ds["scalar"] = ((), 4.5)
    ds["empty"] = (("none", "x"), np.empty((0, 6), "f4"))
    return ds


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with each kind of storage, in its root and in a group."""
    name = str(tmp_path_factory.mktemp("backend") / "a.nc")
    ds = make()
    encoding = {n: dict(e) for n, (_, e, _) in STORED.items()}
    encoding["letters"] = {"char_dim_name": "letter"}
    encoding["packed"] = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -9, "zlib": True}
    for group, mode in ((None, "w"), ("deep/down", "a")):
        ds.to_netcdf(name, engine=LIBRARY, group=group, mode=mode, encoding=encoding)
    return name


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same in netCDF-3."""
    name = str(tmp_path_factory.mktemp("classic") / "a.nc")
    kept = make()[["contiguous", "deflated", "packed", "scalar"]]
    grows: dict[str, Any] = {"engine": "scipy"}
    if LIBRARY == "netcdf4":
        grows = {"engine": "netcdf4", "unlimited_dims": ["t"]}
    kept.to_netcdf(name, format="NETCDF3_64BIT", **grows)
    return name


def reopen(path: str, **how: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="xchunk", library=LIBRARY, **how)


def inner(variable: xr.Variable) -> Any:
    array = variable._data
    while type(array) is not FileArray and hasattr(array, "array"):
        array = array.array
    return array


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is read without the library."""
    seen: list[str] = []
    own = DirectArray.read

    def noted(self: DirectArray, *args: Any) -> Any:
        seen.append(self.name)
        return own(self, *args)

    monkeypatch.setattr(DirectArray, "read", noted)
    return seen


def refuse_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at a file through its library fail."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the library was asked")

    monkeypatch.setattr("xarray.backends.CachingFileManager._acquire_with_cache_info", refuse)


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    """Two Datasets are alike in all that they show and say."""
    assert a.encoding == b.encoding
    assert list(a.variables) == list(b.variables)
    for name, one in a.variables.items():
        other = b.variables[name]
        assert one.dtype == other.dtype
        assert str(one.encoding) == str(other.encoding)
        assert str(one.chunks) == str(other.chunks)
    xr.testing.assert_identical(a.load(), b.load())


HOW: dict[str, dict[str, Any]] = {
    "decoded": {},
    "raw": {"decode_cf": False},
    "blocks": {"chunks": {}},
    "uncached": {"cache": False},
    "group": {"group": "deep/down"},
    "dropped": {"drop_variables": ["chunked", "t"]},
    "unmasked": {"mask_and_scale": False, "decode_times": False},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_it_shows_what_the_library_shows(path: str, how: dict[str, Any]) -> None:
    with xr.open_dataset(path, engine=LIBRARY, **how) as a, reopen(path, **how) as b:
        same(a, b)


@pytest.mark.parametrize("library", ["netcdf4", "scipy"] if LIBRARY == "netcdf4" else ["scipy"])
@pytest.mark.parametrize("how", [{}, {"decode_cf": False}], ids=["decoded", "raw"])
def test_netcdf3_shows_what_each_library_shows(
    classic: str, library: str, how: dict[str, Any], read: list[str]
) -> None:
    with (
        xr.open_dataset(classic, engine=library, **how) as a,
        xr.open_dataset(classic, engine="xchunk", library=library, **how) as b,
    ):
        same(a, b)
    assert {"contiguous", "deflated", "packed"} <= set(read)


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_plainly_is_read_without_the_library(
    path: str, name: str, read: list[str]
) -> None:
    with reopen(path, group="deep/down") as ds:
        np.testing.assert_array_equal(ds[name].values, make()[name].values)
    assert (f"deep/down/{name}" in read) == STORED[name][2]


def keys(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Any:
    """A random index: slices and integers; arrays by axis; or points."""
    if kind == "points":
        size = rng.integers(0, 9)
        return tuple(xr.Variable("p", rng.integers(-n, n, size)) for n in shape)
    out: list[Any] = []
    for n in shape:
        start, stop = rng.integers(-n - 1, n + 2, 2)
        step = int(rng.choice([-3, -2, -1, 1, 1, 2, 3]))
        if not len(range(n)[start:stop:step]):
            step = abs(step)  # xarray itself fails where nothing is taken backwards
        choices: list[Any] = [slice(int(start), int(stop), step), int(rng.integers(-n, n))]
        if kind == "outer":
            choices += [rng.integers(-n, n, rng.integers(0, 2 * n)), rng.random(n) < 0.5]
        out.append(choices[rng.integers(len(choices))])
    return tuple(out)


@pytest.mark.parametrize("kind", ["basic", "outer", "points"])
@pytest.mark.parametrize("name", [*STORED, "packed"])
def test_any_index_gives_what_numpy_gives(path: str, name: str, kind: str) -> None:
    rng = np.random.default_rng(len(name))
    whole = make()[name].variable
    with reopen(path, cache=False) as ds:
        for _ in range(40):
            key = keys(rng, SHAPE, kind)
            found, wanted = ds[name].variable[key], whole[key]
            assert found.dims == wanted.dims
            np.testing.assert_array_equal(found.values, wanted.values, err_msg=str(key))


@pytest.mark.parametrize("kind", ["basic", "outer", "points"])
@pytest.mark.parametrize("name", ["contiguous", "deflated"])
def test_any_index_of_netcdf3_gives_what_numpy_gives(classic: str, name: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    whole = make()[name].variable
    with xr.open_dataset(classic, engine="xchunk", library="scipy", cache=False) as ds:
        for _ in range(40):
            key = keys(rng, SHAPE, kind)
            np.testing.assert_array_equal(ds[name].variable[key].values, whole[key].values)


def test_no_chunk_is_read_twice_or_in_vain(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[list[slice]] = []
    own = DirectArray.read

    def noted(self: DirectArray, region: Any, *args: Any) -> Any:
        if self.name == "chunked":
            boxes.append(list(region))
        return own(self, region, *args)

    monkeypatch.setattr(DirectArray, "read", noted)
    with reopen(path, cache=False) as ds:
        found = ds.chunked.variable[[0, 1, 6], ::2, 1].values
    np.testing.assert_array_equal(found, make().chunked.values[[0, 1, 6], ::2, 1])
    touched = [tuple(r.start // c for r, c in zip(b, (2, 3, 4), strict=True)) for b in boxes]
    assert sorted(touched) == [(0, 0, 0), (0, 1, 0), (3, 0, 0), (3, 1, 0)]
    last = [tuple((r.stop - 1) // c for r, c in zip(b, (2, 3, 4), strict=True)) for b in boxes]
    assert touched == last


@pytest.mark.parametrize("big", ["f4", "i2"])
def test_big_endian_values_are_those_of_the_library(tmp_path: Path, big: str) -> None:
    name = str(tmp_path / "big.nc")
    ds = xr.Dataset({"v": (("y", "x"), np.arange(12.0).reshape(3, 4).astype(big))})
    ds.to_netcdf(name, engine=LIBRARY, encoding={"v": {"dtype": f">{big}", "endian": "big"}})
    for how in ({}, {"decode_cf": False}):
        with xr.open_dataset(name, engine=LIBRARY, **how) as a, reopen(name, **how) as b:
            same(a, b)


def test_an_array_shorter_than_its_unlimited_dim_is_filled_up(tmp_path: Path) -> None:
    name = str(tmp_path / "short.nc")
    xr.Dataset({"a": ("t", np.arange(3.0))}).to_netcdf(name, engine=LIBRARY, unlimited_dims=["t"])
    if LIBRARY == "netcdf4":
        import netCDF4

        with netCDF4.Dataset(name, "a") as file:
            file.createVariable("b", "f4", ("t",))[0] = 1
    with xr.open_dataset(name, engine=LIBRARY) as a, reopen(name) as b:
        same(a, b)


def test_a_pickle_names_the_place_and_opens_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["chunked", "deflated", "packed"]
    with reopen(path, cache=False) as ds:
        packed = pickle.dumps(ds[names])
        whole = ds[names].load()
    assert len(packed) < 10_000
    refuse_library(monkeypatch)
    xr.testing.assert_identical(pickle.loads(packed).load(), whole)
    with pytest.raises(AssertionError, match="the library was asked"):
        reopen(path)


def test_threads_read_the_right_values(path: str) -> None:
    whole = make()

    def part(i: int) -> bool:
        name = ("contiguous", "chunked", "deflated", "row")[i % 4]
        key = keys(np.random.default_rng(i), SHAPE, "outer")
        found = ds[name].variable[key].values
        return bool(np.array_equal(found, whole[name].variable[key].values))

    with reopen(path, cache=False) as ds, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(part, range(200)))
    with reopen(path, chunks={}) as ds, dask.config.set(scheduler="threads", num_workers=8):
        xr.testing.assert_equal(ds.load(), whole)


def change(path: Path) -> None:
    make()[["chunked"]].to_netcdf(path.with_suffix(".new"), engine=LIBRARY)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("travels", [False, True], ids=["here", "on-a-worker"])
def test_a_file_that_was_replaced_is_refused(tmp_path: Path, travels: bool) -> None:
    name = tmp_path / "a.nc"
    change(name)
    with reopen(str(name), cache=False) as ds:
        one = pickle.loads(pickle.dumps(ds)) if travels else ds
        assert one.chunked.values.shape == SHAPE
        change(name)
        with pytest.raises(SourceError, match="written or replaced"):
            one.chunked.load()


def test_groups_are_those_of_the_library(path: str) -> None:
    found = []
    # one after the other: netCDF's library can crash where a file is open several times
    for how in ({"engine": LIBRARY}, {"engine": "xchunk", "library": LIBRARY}):
        groups = xr.open_groups(path, **how)
        found.append({name: ds.load() for name, ds in groups.items()})
        for ds in groups.values():
            ds.close()
    theirs, ours = found
    assert list(ours) == list(theirs)
    for name, ds in ours.items():
        same(theirs[name], ds)


def test_trees_are_those_of_the_library(path: str, read: list[str]) -> None:
    with xr.open_datatree(path, engine=LIBRARY) as tree:
        theirs = tree.load()
    assert not read
    with xr.open_datatree(path, engine="xchunk", library=LIBRARY) as tree:
        assert isinstance(inner(tree["deep/down/chunked"].variable), FileArray)
        xr.testing.assert_identical(tree.load(), theirs)
    assert "deep/down/chunked" in read


def test_it_is_taken_by_name_only(path: str) -> None:
    engine = xr.backends.list_engines()["xchunk"]
    assert not engine.guess_can_open(path)


OPENED: dict[str, tuple[dict[str, Any], bool]] = {
    "default": ({}, True),
    "options-of-xarray": ({"mask_and_scale": False, "drop_variables": ["flag"]}, True),
    "library-by-name": ({"engine": LIBRARY}, False),
    "options-of-a-library": ({"lock": False, "engine": LIBRARY}, False),
    "unnamed-options-of-a-library": ({"format": "NETCDF4"}, False),
}


@pytest.mark.skipif(LIBRARY == "h5netcdf", reason="the default is netCDF4 where it is installed")
@pytest.mark.parametrize(("how", "ours"), OPENED.values(), ids=OPENED)
def test_local_files_are_read_without_the_library_by_default(
    path: str, how: dict[str, Any], ours: bool, read: list[str]
) -> None:
    with open_source(path, group="deep/down", chunks=None, **how) as ds:
        assert (type(inner(ds.deflated.variable)) is FileArray) == ours
    with open_dataset(path, group="deep/down", **how) as ds:
        np.testing.assert_array_equal(ds.deflated.values, make().deflated.values)
    assert ("deep/down/deflated" in read) == ours


@pytest.mark.skipif(LIBRARY == "h5netcdf", reason="the default is netCDF4 where it is installed")
def test_groups_and_joined_files_are_read_without_the_library(
    path: str, tmp_path: Path, read: list[str]
) -> None:
    groups = open_groups(path, chunks=None)
    for ds in groups.values():
        assert "deflated" not in ds or type(inner(ds.deflated.variable)) is FileArray
        ds.close()
    assert {"", "deep/down"} <= set(groups)
    whole = make()[["deflated"]]
    for i, part in enumerate((whole.isel(t=slice(3)), whole.isel(t=slice(3, None)))):
        part.to_netcdf(tmp_path / f"{i}.nc", engine=LIBRARY)
    read.clear()
    with open_dataset(str(tmp_path / "*.nc")) as ds:
        assert ds.chunking.layout()["deflated"].files == 2
        xr.testing.assert_equal(ds.load(), whole)
    assert read.count("deflated") >= 2


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "url": ("https://example.org/a.nc", {}, "is a URL"),
    "missing": ("nowhere.nc", {}, "no such file"),
    "bytes": (b"CDF\x01", {}, "reads files by their paths"),
    "other-engine": (None, {"library": "zarr"}, "not 'zarr'"),
}


@pytest.mark.parametrize(("source", "how", "said"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_open_is_refused(
    path: str, source: Any, how: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        xr.open_dataset(path if source is None else source, engine="xchunk", **how)


def test_netcdf3_has_no_groups(classic: str) -> None:
    with pytest.raises(SourceError, match="knows no groups"):
        xr.open_groups(classic, engine="xchunk", library="scipy")


@pytest.mark.skipif(LIBRARY == "h5netcdf", reason="this is that process")
@pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="h5netcdf needs h5py here")
@pytest.mark.subprocess
@pytest.mark.slow
def test_h5netcdf_in_a_process_of_its_own() -> None:
    run_with_h5netcdf(__file__)
