from __future__ import annotations

import subprocess
import sys
import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from xchunk.opening.chunkmanager import XchunkManager

AUTO = {"chunks": "auto", "chunked_array_type": "xchunk"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("stored") / "a.zarr")
    # 1 GB of zeros, of which nothing is written
    ds = xr.Dataset(
        {
            "a": (("t", "y", "x"), da.zeros((3000, 300, 300), dtype="f4", chunks=(7, 300, 300))),
            "small": ("t", np.arange(3000)),
        },
        coords={"y": np.arange(300)},
    )
    encoding = {"a": {"chunks": (7, 300, 300)}}
    ds.to_zarr(path, encoding=encoding, compute=False)
    return path


def test_blocks_are_whole_stored_chunks(stored: str) -> None:
    ds = xr.open_zarr(stored, **AUTO)
    (blocks, *rest) = ds.a.chunks
    assert rest == [(300,), (300,)]
    assert len(blocks) > 1
    assert blocks[0] > 7
    assert all(b % 7 == 0 for b in blocks[:-1])
    assert ds.a.data.npartitions == sum(isinstance(k, tuple) for k in ds.a.data.__dask_graph__())
    # dask's own, for comparison, merges and cuts along all dims for the same door
    assert isinstance(ds.a.data, da.Array)


def test_they_fit_the_memory(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from xchunk.core.memory import MemoryBudget
    from xchunk.engine import budget

    sizes = []
    for max_mem in (40e6, 200e6, 4e9):
        found = MemoryBudget.of_growth(int(max_mem), threads=2)
        monkeypatch.setattr(budget, "detect_budget", lambda found=found, **_: found)
        ds = xr.open_zarr(stored, **AUTO)
        largest = max(ds.a.chunks[0]) * 300 * 300 * 4
        assert 2 * 2 * largest <= max_mem
        sizes.append(largest)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("contiguous", [True, False])
def test_netcdf(contiguous: bool) -> None:
    values = np.arange(400 * 300 * 300, dtype="f4").reshape(400, 300, 300)
    encoding = {} if contiguous else {"a": {"chunksizes": (3, 300, 300)}}
    xr.Dataset({"a": (("t", "y", "x"), values)}).to_netcdf("a.nc", encoding=encoding)
    ds = xr.open_dataset("a.nc", engine="netcdf4", **AUTO)
    blocks = ds.a.chunks[0]
    if not contiguous:
        assert all(b % 3 == 0 for b in blocks[:-1])
    np.testing.assert_array_equal(ds.a.max("t").values, values.max(0))


def test_files_together() -> None:
    for i in range(2):
        xr.Dataset({"a": ("t", np.arange(10) + 10 * i)}, {"t": np.arange(10) + 10 * i}).to_netcdf(
            f"a{i}.nc"
        )
    ds = xr.open_mfdataset("a?.nc", **AUTO)
    assert ds.a.values.tolist() == list(range(20))


@pytest.mark.parametrize(
    "chunks",
    [
        {"t": "auto", "y": 50, "x": -1},
        {"t": 10},
        {},
        {"t": "1MB", "y": "auto"},
        {"t": (1500, 1500)},
    ],
    ids=str,
)
def test_chunks_that_are_said_are_kept(stored: str, chunks: dict) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*separate the stored chunks")
        ds = xr.open_zarr(stored, chunks=chunks, chunked_array_type="xchunk")
    if chunks.get("y") == 50:
        assert ds.a.chunks[1] == (50,) * 6
        assert ds.a.chunks[2] == (300,)
    if chunks.get("t") == 10:
        assert set(ds.a.chunks[0]) == {10}
    if chunks == {}:
        assert ds.a.chunks[0][0] == 7
    if isinstance(chunks.get("t"), tuple):
        assert ds.a.chunks[0] == (1500, 1500)


def test_all_else_is_dasks(stored: str) -> None:
    ds = xr.open_zarr(stored, **AUTO)
    part = ds.a.isel(t=slice(0, 20)).persist()
    assert float((part.fillna(0) + 1).sum()) == 20 * 300 * 300
    again = part.chunk({"t": 5}, chunked_array_type="xchunk")
    assert again.chunks[0] == (5, 5, 5, 5)
    assert bool(xr.apply_ufunc(np.isnan, part, dask="parallelized").all())


@pytest.mark.parametrize(
    ("shape", "dtype", "chunks", "previous"),
    [
        ((), "f4", "auto", ()),
        ((0, 5), "f4", "auto", (1, 5)),
        ((10,), "O", "auto", (5,)),
        ((10,), "datetime64[ns]", "auto", None),
        ((10, 20), "f4", ("auto", "auto"), ((3, 7), 20)),
        ((10, 20), "f4", (4, 5), (2, 2)),
        ((10, 20), "f4", {0: "auto", 1: 4}, (2, 2)),
        ((10**6, 10**6), "f8", "auto", (10**5, 10**5)),
    ],
    ids=str,
)
def test_any_array_has_chunks(shape: tuple, dtype: str, chunks: object, previous: object) -> None:
    found = XchunkManager().normalize_chunks(
        chunks, shape=shape, dtype=np.dtype(dtype), previous_chunks=previous
    )
    assert tuple(sum(c) for c in found) == shape


def test_it_claims_no_arrays() -> None:
    assert not XchunkManager().is_chunked_array(da.zeros(3))


@pytest.mark.subprocess
def test_the_door_is_found_without_importing_xchunk(stored: str) -> None:
    code = (
        "import sys, xarray as xr;"
        f"ds = xr.open_zarr({stored!r}, chunks='auto', chunked_array_type='xchunk');"
        "assert 'xchunk.opening.chunkmanager' in sys.modules; print(ds.a.chunks[0][0] % 7)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]
