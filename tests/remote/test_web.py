"""HTTP as a source to read from: with ranges, and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
import xchunk.rechunking.runner
from remote.data import WHAT, enough, enough_for, maps, need
from servers.proxy import proxy
from servers.s3 import BUCKET, S3, SECRET
from servers.web import has_nginx, nginx, without_ranges
from xchunk.opening.formats import open_source

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


def open_through(url: str, through: str) -> xr.Dataset:
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
    ds = open_through(url, through)
    assert ds.chunking.layout().source == url
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
        ds = open_through(f"{site}/{place.name}", through)
        ds["w"] = ds.v * 2
        return ds.chunking.apply({"t": -1, "x": 2}, store=target, progress=False)

    with monkeypatch.context() as patched:
        patched.setattr(xchunk.rechunking.runner, "commit", lambda *_: 1 / 0)
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
import json, sys
import numpy as np, xarray as xr, zarr, xchunk
from xchunk.opening.formats import open_source
url, local, target, options = sys.argv[1:]
options = json.loads(options)
ds = open_source(url, storage_options=options)
near = open_source(local, engine="h5netcdf")
for name in ("v", "w"):
    here, there = (d.chunking.layout()[name].to_dict() for d in (near, ds))
    assert here == there, (here, there)
assert ds.chunking.layout()["v"].by_chunk
ds.chunking.apply({"t": -1, "x": 5}, store=target, max_mem="60MB", progress=False, verify=True)
raw = zarr.open_group(target, mode="r")["v"]
with xr.open_dataset(local, engine="h5netcdf", decode_cf=False) as source:
    assert np.array_equal(raw[...], source.v.values), "values"
    assert np.array_equal(zarr.open_group(target, mode="r")["w"][...], source.w.values), "w"
assert raw.chunks == (20, 5), raw.chunks
import fsspec
opened = fsspec.open(url, **options).open()
again = xr.open_dataset(opened, engine="h5netcdf", chunks={})
assert again.chunking.layout()["v"].codecs == ("zlib",)
again.close()
print("same", raw.dtype)
"""

MAKE = """
import sys
import numpy as np, xarray as xr
ds = xr.Dataset({"v": (("t", "x"), np.arange(600, dtype="f4").reshape(20, 30) / 8)})
ds["w"] = ds.v * 2
ds.to_netcdf(sys.argv[1], engine="h5netcdf",
             encoding={"v": {"dtype": "i2", "scale_factor": 0.125, "chunksizes": (1, 30),
                             "zlib": True}})
"""


def child(
    code: str, *args: str, options: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", code, *args, *([] if options is None else [json.dumps(options)])]
    return subprocess.run(call, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_netcdf_over_http(site: str, bare: str, folder: Path, tmp_path: Path) -> None:
    need("h5netcdf")
    local = folder / "v.nc"
    made = child(MAKE, str(local))
    assert made.returncode == 0, made.stderr
    done = child(NETCDF, f"{site}/v.nc", str(local), str(tmp_path / "s.zarr"), options={})
    assert done.returncode == 0, done.stderr
    failed = child(NETCDF, f"{bare}/v.nc", str(local), str(tmp_path / "b.zarr"), options={})
    # the client may read all of a file; what it may not do is to copy something else
    assert "SourceError" in failed.stderr or failed.stdout == done.stdout


@pytest.mark.slow
def test_netcdf_on_s3(s3: S3, folder: Path, tmp_path: Path) -> None:
    need("h5netcdf", "s3fs")
    local = folder / "on-s3.nc"
    assert child(MAKE, str(local)).returncode == 0
    import s3fs

    s3fs.S3FileSystem(**s3.options).put_file(str(local), f"{BUCKET}/on-s3.nc")
    done = child(
        NETCDF, s3.url("on-s3.nc"), str(local), str(tmp_path / "s.zarr"), options=s3.options
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr


OPEN = """
import sys
import xarray as xr
from xchunk.opening.formats import open_source
url, who = sys.argv[1:]
if who == "xchunk":
    open_source(url).close()
else:
    xr.open_dataset(url, engine="zarr" if "zarr" in url else "h5netcdf", chunks={}).close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [("maps-3-False.zarr", 0), ("maps-2-False.zarr", 0), ("large.nc", 0), ("no-suffix", 1)],
)
def test_opening_takes_no_more_than_xarray(
    site: str, folder: Path, tmp_path: Path, name: str, more: int
) -> None:
    """Neither requests nor bytes; a file whose name promises nothing takes eight bytes more."""
    need("h5netcdf")
    maps(folder)
    maps(folder, zarr_format=2)
    if name.endswith(("nc", "suffix")):
        made = child(MAKE_LARGE, str(folder / name))
        assert made.returncode == 0, made.stderr
    counted = {}
    with proxy(int(site.rpartition(":")[2])) as between:
        for who in ("xarray", "xchunk"):
            between.clear()
            url = f"http://127.0.0.1:{between.port}/{name}"
            done = child(OPEN, url, who)
            assert done.returncode == 0, done.stderr
            counted[who] = len(between.seen), sum(r.nbytes for r in between.seen)
    assert counted["xchunk"] == (counted["xarray"][0] + more, counted["xarray"][1] + 8 * more)


MAKE_LARGE = """
import sys
import numpy as np, xarray as xr
values = np.random.default_rng(0).normal(size=(60, 300, 400)).astype("f4")
xr.Dataset({"v": (("t", "y", "x"), values)}).to_netcdf(
    sys.argv[1], engine="h5netcdf", encoding={"v": {"chunksizes": (1, 300, 400)}})
"""


def test_nothing_there(bare: str) -> None:
    with pytest.raises(xchunk.SourceError, match="nothing is there"):
        open_source(f"{bare}/nothing.zarr")
