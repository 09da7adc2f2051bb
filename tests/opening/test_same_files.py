"""Files that say the same are opened once, and are what the library would have shown."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

import xchunk
from xchunk.errors import SourceError
from xchunk.opening import combine
from xchunk.opening.combine import open_alike
from xchunk.opening.dataset import open_names
from xchunk.opening.formats import open_source
from xchunk.sources.arrays import close_files
from xchunk.sources.hdf5_read import read_headers
from xchunk.sources.xarray_adapter import FileArray

PACKED = {
    "dtype": "i2",
    "scale_factor": 0.5,
    "add_offset": 3.0,
    "_FillValue": -9,
    "zlib": True,
    "chunksizes": (1, 2, 2),
}


def part(i: int, n: int = 3) -> xr.Dataset:
    rng = np.random.default_rng(i)
    hours = np.arange(10 * i, 10 * i + n)
    bounds = np.stack([hours, hours + 1], axis=1)
    many = {f"a{k}": k for k in range(12)}
    return xr.Dataset(
        {
            "v": (("time", "y", "x"), rng.integers(0, 99, (n, 2, 4)) * 0.5, {"units": "K", **many}),
            "bounds": (("time", "two"), bounds.astype("i4"), {"units": "hours since 2000-01-01"}),
            "crs": ((), 7, {"name": "grid"}),
            "flag": (("y", "x"), rng.integers(0, 2, (2, 4)) > 0),
        },
        {
            "time": ("time", hours, {"units": "hours since 2000-01-01"}),
            "y": [1.5, 2.5],
            "area": (("y", "x"), rng.random((2, 4)), {"standard_name": "area"}),
        },
        {"title": "x"},
    )


def write(parts: list[xr.Dataset], **how: Any) -> list[str]:
    names = [f"f{i}.nc" for i in range(len(parts))]
    for name, ds in zip(names, parts, strict=True):
        encoding = how.get("encoding", {"v": PACKED})
        ds.to_netcdf(name, engine="netcdf4", **{**how, "encoding": encoding})
    return names


def test_files_are_read_a_few_times_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system over a network each read is a request."""
    names = write([part(i)[["v"]].drop_vars("area") for i in range(4)])
    reads: dict[str, int] = {}
    pread = os.pread

    def counted(fd: int, nbytes: int, at: int) -> bytes:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        reads[name] = reads.get(name, 0) + 1
        return pread(fd, nbytes, at)

    monkeypatch.setattr(os, "pread", counted)
    xchunk.open_dataset(names).close()
    assert all(0 < reads[name] <= 12 for name in names[1:]), reads


@pytest.mark.parametrize("wanted", [True, False])
def test_cycles_are_searched_for_as_before(tmp_path: Path, wanted: bool) -> None:
    names = write([part(i)[["v"]].drop_vars("area") for i in range(2)])
    (gc.enable if wanted else gc.disable)()
    try:
        xchunk.open_dataset(names).close()
        assert gc.isenabled() == wanted
        with pytest.raises(xchunk.InvalidChunksError):
            xchunk.open_dataset(names, combine="by_coords", concat_dim="time")
        assert gc.isenabled() == wanted
    finally:
        gc.enable()


class Opener:
    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> xr.Dataset:
        self.names.append(name)
        return open_source(name, chunks=None)


def said(variable: xr.Variable) -> dict[str, Any]:
    return {k: str(v) for k, v in variable.encoding.items()}


@pytest.mark.parametrize("unlimited", [(), ("time",)], ids=["fixed", "unlimited"])
def test_files_that_say_the_same_are_opened_once(unlimited: tuple[str, ...]) -> None:
    # the library chunks what may grow by its length
    last = part(2) if unlimited else part(2, n=5)
    names = write([part(0), part(1), last], unlimited_dims=unlimited)
    opener = Opener()
    found = open_alike(names, None, opener)
    assert opener.names == names[:1]
    for name, ds in zip(names, found, strict=True):
        right = open_source(name, chunks=None)
        xr.testing.assert_identical(ds, right)
        assert list(ds.variables) == list(right.variables)
        assert {k: said(v) for k, v in ds.variables.items()} == {
            k: said(v) for k, v in right.variables.items()
        }
        assert ds.encoding == right.encoding


def renamed(ds: xr.Dataset) -> xr.Dataset:
    return ds.rename(v="w")


def changed(name: str, **attrs: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(ds: xr.Dataset) -> xr.Dataset:
        ds.variables[name].attrs.update(attrs)
        return ds

    return change


OTHERS: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], dict[str, Any]]] = {
    "an attribute": (changed("v", units="degC"), PACKED),
    "one of many attributes": (changed("v", a11=-1), PACKED),
    "units of the labels": (changed("time", units="days since 2000-01-01"), PACKED),
    "another name": (renamed, PACKED),
    "more": (lambda ds: ds.assign(more=ds.v), PACKED),
    "less": (lambda ds: ds.drop_vars("flag"), PACKED),
    "a dtype": (lambda ds: ds, {**PACKED, "dtype": "i4"}),
    "a scale": (lambda ds: ds, {**PACKED, "scale_factor": 0.25}),
    "chunks": (lambda ds: ds, {**PACKED, "chunksizes": (1, 1, 2)}),
    "a filter": (lambda ds: ds, {**PACKED, "shuffle": False}),
    "an order of dims": (lambda ds: ds.transpose("x", "y", ...), PACKED),
    "text, which the library reads": (
        lambda ds: ds.assign(word=("y", np.array(["ab", "cde"], dtype=object))), PACKED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_differs_is_opened_by_its_library(case: str) -> None:
    change, packed = OTHERS[case]
    other = change(part(1))
    names = write([part(0)])
    v = "w" if "w" in other else "v"
    other.to_netcdf("other.nc", engine="netcdf4", encoding={v: packed})
    opener = Opener()
    _, found = open_alike([*names, "other.nc"], None, opener)
    assert opener.names == ["f0.nc", "other.nc"]
    xr.testing.assert_identical(found, open_source("other.nc", chunks=None))


def test_a_file_whose_variables_are_shown_longer_than_they_are() -> None:
    names = write([part(i).drop_vars("bounds") for i in range(2)], unlimited_dims=("time",))
    with netCDF4.Dataset(names[1], "a") as nc:
        nc["time"][3:5] = [20, 21]
    assert read_headers(names[1], None) is None
    opener = Opener()
    found = open_alike(names, None, opener)
    assert opener.names == names
    assert found[1].sizes["time"] == 5


def test_what_the_library_has_to_read_is_read_by_it_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = write([part(0), part(1)])
    twin = open_alike(names, None, Opener())[1]
    right = part(1).v.values
    monkeypatch.setattr(FileArray, "direct", None)
    assert np.array_equal(twin.v.isel(time=1).values, right[1])
    assert np.array_equal(twin.v.isel(y=[1, 0], x=slice(1, None, 2)).values, right[:, ::-1, 1::2])
    points = {"time": xr.DataArray([2, 0], dims="p"), "x": xr.DataArray([1, 3], dims="p")}
    assert np.array_equal(twin.v.isel(points).values, right[[2, 0], :, [1, 3]])
    close_files()


def test_a_file_that_is_replaced_after_it_was_opened_is_refused() -> None:
    names = write([part(0), part(1)])
    twin = open_alike(names, None, Opener())[1]
    part(2).to_netcdf(names[1], engine="netcdf4", encoding={"v": PACKED})
    with pytest.raises(SourceError, match=r"f1\.nc.*was written or replaced"):
        twin.v.load()


def test_a_file_that_is_cut_off_is_named() -> None:
    names = write([part(i) for i in range(4)])
    with Path(names[2]).open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(SourceError, match=r"f2\.nc.*truncated"):
        xchunk.open_dataset(names)


def test_damaged_headers_are_left_to_the_library() -> None:
    names = write([part(0)], unlimited_dims=("time",))
    right = read_headers(names[0], None)
    assert right is not None
    rng, whole = np.random.default_rng(0), Path(names[0]).read_bytes()
    same = 0
    for number in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            damaged[at] ^= int(rng.integers(1, 256))
        path = Path(f"d{number}.nc")
        path.write_bytes(damaged)
        found = read_headers(str(path), None)
        if found is not None:
            same += found.variables == right.variables
            # what is not summed, such as a text in a heap, is another one then, or a variable that
            # is none: the file is no twin, and the library opens it
            shapes = {k: h.shape for k, h in right.variables.items()}
            assert {k: h.shape for k, h in found.variables.items()}.items() <= shapes.items()
        path.unlink()
    assert same


def test_a_function_of_the_users_sees_each_files_own_attributes() -> None:
    names = write([part(i).assign_attrs(number=i).drop_vars(["area", "flag"]) for i in range(2)])
    seen = []

    def look(ds: xr.Dataset) -> xr.Dataset:
        seen.append(int(ds.attrs["number"]))
        return ds

    xchunk.open_dataset(names, preprocess=look)
    assert seen == [0, 1]


def test_joined_files_are_traced_and_read_as_any_others() -> None:
    names = write([part(i).drop_vars(["area", "flag"]) for i in range(3)])
    ds = xchunk.open_dataset(names)
    right = xr.concat(
        [xr.open_dataset(n, engine="netcdf4") for n in names],
        "time", data_vars="minimal", coords="minimal", compat="override", join="override",
    )  # fmt: skip
    xr.testing.assert_identical(ds.load(), right.load())
    assert ds.v.attrs == right.v.attrs
    layout = xchunk.open_dataset(names).chunking.layout()["v"]
    assert (layout.files, str(layout.stored_dtype), layout.codecs) == (
        3,
        "int16",
        ("shuffle", "zlib"),
    )


@pytest.mark.parametrize(
    ("wanted", "patience", "said"),
    [(True, 0.0, True), (True, 2.0, False), (None, 0.0, False), (False, 0.0, False)],
    ids=["asked for", "quick", "nobody looks", "not wanted"],
)
def test_files_are_counted_where_somebody_looks_and_it_takes_long(
    wanted: bool | None,
    patience: float,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(combine, "_PATIENCE", patience)
    monkeypatch.setattr(combine, "_EVERY", -1.0)
    names = write([part(0), part(1)])
    xchunk.open_dataset(names, drop_variables=["area", "flag"], progress=wanted)
    shown = capsys.readouterr().err
    assert ("opened 2 of 2 files" in shown) == said
    # nothing of it is left on the terminal
    assert not shown or shown.endswith("\r")


def test_groups_of_files_are_opened_in_each_of_them() -> None:
    names = write([part(i).drop_vars(["area", "flag"]) for i in range(2)])
    for i, name in enumerate(names):
        part(i)[["v"]].rename(v="deep").drop_vars("area").to_netcdf(
            name, engine="netcdf4", group="below", mode="a"
        )
    headers = read_headers(names[0], None)
    assert headers is not None
    assert headers.groups == ("below",)
    tree = open_names(names, concat_dim="time")
    assert isinstance(tree, xr.DataTree)
    right = np.concatenate([part(0).v.values, part(1).v.values])
    assert np.array_equal(tree["below/deep"].values, right)


@pytest.mark.parametrize("opened_by", ["xchunk", "netcdf4"])
def test_a_lock_is_told_of_only_where_a_library_reads(opened_by: str) -> None:
    names = write([part(i).drop_vars(["area", "flag"]) for i in range(3)])
    if opened_by == "xchunk":
        ds = xchunk.open_dataset(names)
    else:
        ds = xr.open_mfdataset(
            names, engine="netcdf4", chunks={}, join="override", data_vars="minimal",
            coords="minimal", compat="override",
        )  # fmt: skip
    layout = ds.chunking.layout()["v"]
    assert layout.by_chunk
    assert layout.unlocked == (opened_by == "xchunk")
    ds.close()
