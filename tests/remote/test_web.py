"""HTTP as a source to read from: with ranges, and without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
import xchunk.bound
from remote.data import WHAT, enough, enough_for, maps, need
from servers.web import has_nginx, nginx, without_ranges
from xchunk.sources import open_source

pytest.importorskip("aiohttp")
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if has_nginx() is None:
        pytest.skip("needs nginx")
    with nginx(folder, tmp_path_factory.mktemp("nginx")) as url:
        yield url


@pytest.fixture(scope="module")
def bare(folder: Path) -> Iterator[str]:
    with without_ranges(folder) as url:
        yield url


def opened(url: str, through: str) -> xr.Dataset:
    if through == "fsspec":
        return xr.open_zarr(url)
    from obstore.store import HTTPStore
    from zarr.storage import ObjectStore

    store = HTTPStore.from_url(url, client_options={"allow_http": True})
    return xr.open_zarr(ObjectStore(store, read_only=True))


@pytest.mark.parametrize("shards", [False, True], ids=["chunks", "shards"])
@pytest.mark.parametrize("through", ["fsspec", pytest.param("obstore", marks=pytest.mark.slow)])
def test_a_source_that_is_only_read(
    site: str, folder: Path, tmp_path: Path, shards: bool, through: str
) -> None:
    local = maps(folder, shards=shards)
    url = f"{site}/{local.name}"
    ds = opened(url, through)
    assert f"from {url}" in str(ds.chunking.layout())
    assert ds.chunking.layout()["v"].shards == ((4, 300, 240) if shards else None)
    target = tmp_path / "s.zarr"
    most = enough_for(ds, store=target)
    ds.chunking.apply(WHAT, store=target, max_mem=most, progress=False, verify=True)
    copy, source = zarr.open_group(target, mode="r"), zarr.open_group(local, mode="r")
    for name in ("v", "m", "t"):
        np.testing.assert_array_equal(copy[name][...], source[name][...])


@pytest.mark.parametrize("through", ["fsspec", pytest.param("obstore", marks=pytest.mark.slow)])
def test_a_source_that_is_written_anew_is_noticed(
    site: str, folder: Path, tmp_path: Path, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / f"anew-{through}.zarr"
    array = zarr.create_group(place).create_array(
        "v", shape=(200, 6), chunks=(2, 6), dtype="i4", dimension_names=("t", "x")
    )
    array[:150] = 1  # the rest is not there, and stays missing
    zarr.consolidate_metadata(place)
    target = tmp_path / "t.zarr"

    def go() -> xr.Dataset:
        ds = opened(f"{site}/{place.name}", through)
        ds["w"] = ds.v * 2
        return ds.chunking.apply({"t": -1, "x": 2}, store=target, progress=False)

    with monkeypatch.context() as patched:
        patched.setattr(xchunk.bound, "commit", lambda *_: 1 / 0)
        for _ in range(2):  # what did not change goes on
            with pytest.raises(xchunk.StageFailedError, match="ZeroDivision"):
                go()
    written = list(place.rglob("c/*/0"))
    array[:150] = 3
    for path in written:  # nginx tells times in seconds
        os.utime(path, (0, 1e9))
    with pytest.raises(xchunk.ResumeMismatchError, match=r"v: source objects.*w: source data"):
        go()


def test_a_server_without_ranges(bare: str, folder: Path, tmp_path: Path) -> None:
    """Whole chunks can be read; a part of a shard would be another one."""
    local = maps(folder, shards=True)
    with pytest.raises(xchunk.SourceError, match="ignores which bytes"):
        # the metadata can be opened, and what is planned needs the shards
        xr.open_zarr(f"{bare}/{local.name}").chunking.apply(
            WHAT, store=tmp_path / "s.zarr", max_mem=enough(local), progress=False
        )
    assert not (tmp_path / "s.zarr").exists()
    plain = maps(folder)
    ds = xr.open_zarr(f"{bare}/{plain.name}")
    ds.chunking.apply(WHAT, store=tmp_path / "s.zarr", max_mem=enough(plain), progress=False)
    found, source = zarr.open_group(tmp_path / "s.zarr", mode="r"), zarr.open_group(plain, mode="r")
    np.testing.assert_array_equal(found["v"][...], source["v"][...])


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x.zarr", "https://example.org/x.zarr", "zip::s3://b/x.zip"]
)
def test_what_cannot_be_written(url: str) -> None:
    ds = xr.Dataset({"v": ("x", np.arange(4))})
    with pytest.raises(xchunk.SourceError, match=r"can only be read|cannot be opened"):
        ds.chunking.apply({"x": 2}, store=url, progress=False)


# h5py is not loaded into the common process
NETCDF = """
import sys
import numpy as np, xarray as xr, zarr, xchunk
from xchunk.sources import open_source
url, local, target = sys.argv[1:]
ds = open_source(url)
ds.chunking.apply({"t": -1, "x": 5}, store=target, max_mem="60MB", progress=False, verify=True)
raw = zarr.open_group(target, mode="r")["v"]
with xr.open_dataset(local, engine="h5netcdf", decode_cf=False) as source:
    assert np.array_equal(raw[...], source.v.values), "values"
assert raw.chunks == (20, 5), raw.chunks
print("same", raw.dtype)
"""

MAKE = """
import sys
import numpy as np, xarray as xr
ds = xr.Dataset({"v": (("t", "x"), np.arange(600, dtype="f4").reshape(20, 30) / 8)})
ds.to_netcdf(sys.argv[1], engine="h5netcdf",
             encoding={"v": {"dtype": "i2", "scale_factor": 0.125, "chunksizes": (1, 30)}})
"""


def child(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", code, *args]
    return subprocess.run(call, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_netcdf_over_http(site: str, bare: str, folder: Path, tmp_path: Path) -> None:
    need("h5netcdf")
    local = folder / "v.nc"
    made = child(MAKE, str(local))
    assert made.returncode == 0, made.stderr
    done = child(NETCDF, f"{site}/v.nc", str(local), str(tmp_path / "s.zarr"))
    assert done.returncode == 0, done.stderr
    failed = child(NETCDF, f"{bare}/v.nc", str(local), str(tmp_path / "b.zarr"))
    # the client may read all of a file; what it may not do is to copy something else
    assert "SourceError" in failed.stderr or failed.stdout == done.stdout


def test_nothing_there(bare: str) -> None:
    with pytest.raises(xchunk.SourceError, match="nothing is there"):
        open_source(f"{bare}/nothing.zarr")
