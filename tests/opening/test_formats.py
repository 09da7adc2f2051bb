from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from xchunk.errors import SourceError, XchunkWarning
from xchunk.opening import formats
from xchunk.opening.formats import open_groups, open_source
from xchunk.sources.netcdf3 import expected_size

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Cc]onsolidated.*", "ignore:Duplicate name.*:UserWarning"
)


@pytest.fixture
def ds() -> xr.Dataset:
    values = np.arange(2400, dtype="float32").reshape(24, 10, 10)
    return xr.Dataset(
        {"t": (("time", "y", "x"), values), "n": ("time", np.arange(24, dtype="int16"))},
        coords={"time": ("time", np.arange(24), {"units": "days since 2000-01-01"})},
    )


def as_zip(ds: xr.Dataset, path: str) -> None:
    ds.to_zarr("made.zarr")
    with zipfile.ZipFile(path, "w") as archive:
        for file in Path("made.zarr").rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to("made.zarr"))


WRITERS: dict[str, Callable[[xr.Dataset, str], object]] = {
    "netcdf4": lambda ds, p: ds.to_netcdf(p, engine="netcdf4"),
    "classic": lambda ds, p: ds.to_netcdf(p, engine="scipy", format="NETCDF3_CLASSIC"),
    "64bit": lambda ds, p: ds.to_netcdf(p, engine="scipy", format="NETCDF3_64BIT"),
    "cdf5": lambda ds, p: ds.to_netcdf(p, engine="netcdf4", format="NETCDF3_64BIT_DATA"),
    "zarr2": lambda ds, p: ds.to_zarr(p, zarr_format=2),
    "zarr3": lambda ds, p: ds.to_zarr(p, zarr_format=3),
    "unconsolidated": lambda ds, p: ds.to_zarr(p, zarr_format=3, consolidated=False),
    "zip": as_zip,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_content_tells_the_format_whatever_the_name(ds: xr.Dataset, kind: str) -> None:
    WRITERS[kind](ds, "data")
    with open_source("data") as found:
        assert found.t.chunks is not None
        assert found.time.dtype.kind == "M"
        xr.testing.assert_equal(found.load(), xr.decode_cf(ds))


def test_files_of_the_old_formats_may_grow_along_a_dim(ds: xr.Dataset) -> None:
    ds.to_netcdf("grown.nc", engine="scipy", unlimited_dims=["time"])
    with open_source("grown.nc") as found:
        xr.testing.assert_equal(found.load(), xr.decode_cf(ds))


@pytest.mark.parametrize("prefix", ["file://", "local://"])
def test_local_urls_are_paths(ds: xr.Dataset, prefix: str, tmp_path: Path) -> None:
    ds.to_netcdf("data.nc", engine="netcdf4")
    with open_source(f"{prefix}{tmp_path}/data.nc") as found:
        assert set(found.variables) == {"t", "n", "time"}


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "classic"])
def test_urls_of_any_filesystem(ds: xr.Dataset, kind: str) -> None:
    import fsspec

    WRITERS[kind](ds, "data")
    memory = fsspec.filesystem("memory")
    memory.put("data", f"/sources-{kind}", recursive=True)
    with open_source(f"memory://sources-{kind}") as found:
        xr.testing.assert_equal(found.load(), xr.decode_cf(ds))


def test_a_group_of_a_file(ds: xr.Dataset) -> None:
    ds.to_netcdf("data.nc", engine="netcdf4", group="inner")
    with open_source("data.nc", group="inner") as found:
        assert "t" in found
    with pytest.warns(XchunkWarning, match="in a group"):
        open_source("data.nc").close()


def test_undecodable_times_stay_as_they_are(ds: xr.Dataset) -> None:
    ds.time.attrs["units"] = "months since 0000-01-01"
    ds.to_netcdf("data.nc", engine="netcdf4")
    with pytest.warns(XchunkWarning, match="times are shown as they are stored"):
        found = open_source("data.nc")
    assert found.time.dtype.kind == "i"
    found.close()


def test_raw_values_on_request(ds: xr.Dataset) -> None:
    ds.to_netcdf("data.nc", engine="netcdf4")
    with open_source("data.nc", chunks=None, decode_cf=False) as found:
        assert found.time.dtype.kind == "i"
        assert found.t.chunks is None


def half(path: str) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda ds: None, "no such file"),
        (lambda ds: Path("data").mkdir(), "not a zarr store"),
        (lambda ds: Path("data").write_bytes(b""), r"empty \(0 bytes\)"),
        (lambda ds: Path("data").write_text("hello"), "not netCDF, HDF5 or zarr"),
        (lambda ds: Path("data").write_text('{"version": 1'), "no references of kerchunk"),
        (lambda ds: Path("data").write_bytes(b"GRIB" * 9), "GRIB.*cfgrib"),
        (lambda ds: (WRITERS["netcdf4"](ds, "data"), half("data")), "truncated"),
        (lambda ds: (WRITERS["classic"](ds, "data"), half("data")), "truncated.*promises"),
        (lambda ds: (WRITERS["cdf5"](ds, "data"), half("data")), "truncated.*promises"),
        (lambda ds: Path("data").write_bytes(b"CDF\x01\0\0"), "within its header"),
        (lambda ds: (WRITERS["zip"](ds, "data"), half("data")), "damaged zip"),
        (lambda ds: zarr.create_array("data", shape=3, dtype="f4"), "single zarr array"),
        (
            lambda ds: zarr.create_array("data", shape=3, dtype="f4", zarr_format=2),
            "single zarr array",
        ),
    ],
    ids=[
        "missing", "folder", "empty", "text", "references", "grib", "hdf5 cut", "cdf1 cut",
        "cdf5 cut", "header cut", "zip cut", "array v3", "array v2",
    ],
)  # fmt: skip
def test_what_cannot_be_opened_gets_one_line(ds: xr.Dataset, make, said: str) -> None:
    make(ds)
    with pytest.raises(SourceError, match=said) as caught:
        open_source("data")
    assert "\n" not in str(caught.value)
    assert "data" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"engine": "nope"}, "no engine 'nope'"),
        ({"group": "nope"}, "no group 'nope'"),
        ({"engine": "zarr"}, "zarr group"),
    ],
    ids=["engine", "group", "wrong engine"],
)
def test_wrong_options_get_one_line(ds: xr.Dataset, arguments: dict[str, str], said: str) -> None:
    ds.to_netcdf("data.nc", engine="netcdf4")
    with pytest.raises(SourceError, match=said):
        open_source("data.nc", **arguments)


@pytest.mark.parametrize("url", ["memory://nothing/here.nc", "nosuchprotocol://x"])
def test_urls_that_lead_nowhere(url: str) -> None:
    with pytest.raises(SourceError, match=r"nothing is there|not known"):
        open_source(url)


def test_a_missing_package_is_named(ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ds.to_netcdf("data.nc", engine="netcdf4")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"needs netCDF4 or h5netcdf and h5py: pip install"):
        open_source("data.nc")


@pytest.mark.parametrize("kind", ["classic", "64bit", "cdf5"])
@pytest.mark.parametrize("unlimited", [(), ("time",)], ids=["fixed", "records"])
def test_a_whole_file_has_the_size_that_its_header_says(
    ds: xr.Dataset, kind: str, unlimited: tuple[str, ...]
) -> None:
    ds.encoding["unlimited_dims"] = unlimited
    WRITERS[kind](ds, "data")
    with Path("data").open("rb") as file:
        needed = expected_size(file)
    # Padding after the last value may be there or not.
    assert Path("data").stat().st_size - needed in range(4)


def test_one_narrow_record_variable_is_not_padded() -> None:
    one = xr.Dataset({"n": ("time", np.arange(7, dtype="int8"))})
    one.to_netcdf("data", engine="scipy", unlimited_dims=["time"])
    with Path("data").open("rb") as file:
        assert Path("data").stat().st_size - expected_size(file) in range(4)


def test_documents_that_are_not_json_are_no_array() -> None:
    Path("data").mkdir()
    Path("data/zarr.json").write_text(json.dumps([1]))
    with pytest.raises(SourceError, match="zarr group"):
        open_source("data")


def test_open_groups_opens_all_of_them() -> None:
    tree = {"/": _numbers(3), "/a": _numbers(4), "/a/b": _numbers(5)}
    xr.DataTree.from_dict(tree).to_zarr("tree.zarr")
    xr.DataTree.from_dict(tree).to_netcdf("tree.nc", engine="netcdf4")
    for name in ("tree.zarr", "tree.nc"):
        groups = open_groups(name)
        assert {path: ds.sizes for path, ds in groups.items()} == {
            "": {"x3": 3},
            "a": {"x4": 4},
            "a/b": {"x5": 5},
        }
        assert groups["a"].v.chunks == ((4,),)


def test_times_that_cannot_be_decoded_lose_no_group() -> None:
    odd = xr.Dataset(coords={"time": ("time", [0, 1], {"units": "months since 0000-01-01"})})
    xr.DataTree.from_dict({"/": _numbers(3), "/a": odd}).to_netcdf("odd.nc", engine="netcdf4")
    with pytest.warns(XchunkWarning, match="times are shown"):
        groups = open_groups("odd.nc")
    assert groups["a"].time.dtype == "int64"


def _numbers(n: int) -> xr.Dataset:
    return xr.Dataset({"v": (f"x{n}", np.arange(n))})
