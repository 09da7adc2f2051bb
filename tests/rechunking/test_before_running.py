"""What is seen before a rechunk runs: sources that hold nothing, full disks, ragged arrays."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.sources.hdf5_read import DirectArray


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["v2", "v3"])
def test_a_source_that_holds_nothing_is_noted(zarr_format: Any) -> None:
    group = zarr.open_group("s.zarr", mode="w", zarr_format=zarr_format)
    names: Any = {"dimension_names": ("y", "x")} if zarr_format == 3 else {}
    for name in ("empty", "full"):
        one = group.create_array(name, shape=(40, 30), chunks=(4, 30), dtype="f4", **names)
        one.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    group["full"][3, 4] = 1
    ds = xr.open_zarr("s.zarr", consolidated=False)
    notes = ds.chunking.plan({"y": 40}, store="t.zarr").notes
    said = [n for n in notes if "no chunk of it is stored" in n]
    assert len(said) == 1
    assert said[0].startswith("empty: no chunk of it is stored, so that all of its values are")
    suggested = ds.chunking.suggest({"y": -1})
    assert suggested.notes == tuple(said)
    assert "no chunk of it is stored" in " ".join(repr(suggested).split())
    assert ds[["full"]].chunking.suggest({"y": -1}).notes == ()


@pytest.mark.parametrize("other", ["", "tyz", "txy"], ids=["alone", "alike", "unlike"])
@pytest.mark.parametrize("zarr_format", [2, 3], ids=["v2", "v3"])
def test_very_many_objects_are_said_and_the_remedy_runs(zarr_format: Any, other: str) -> None:
    zeros = dask.array.zeros((100, 400, 400), chunks=100)
    made = xr.Dataset(
        {"v": (("t", "y", "x"), zeros), **({"w": (tuple(other), zeros)} if other else {})}
    )
    made.to_zarr("s.zarr", compute=False, zarr_format=zarr_format)
    ds = xr.open_zarr("s.zarr")
    chunks = dict.fromkeys(ds.dims, 1) | {"t": -1}
    few = ds.chunking.plan(chunks | {"y": 40}, store="t.zarr", max_mem="500MB").notes
    assert not any("objects (files)" in n for n in few)
    job = ds.chunking.plan(chunks, store="t.zarr", max_mem="500MB")
    (said,) = (n for n in job.notes if "objects (files)" in n)
    assert said.startswith(f"{160_000 * len(ds):,} objects (files) are written")
    assert ("zarr_format=3 and " in said) == (zarr_format == 2)
    found = re.search(r"shards=(\{.*\}) they are ([\d,]+)$", said)
    assert found is not None
    shards = ast.literal_eval(found[1])
    assert ("v" in shards) == (other == "txy")
    better = ds.chunking.plan(chunks, store="t.zarr", max_mem="500MB", shards=shards, zarr_format=3)
    assert not any("objects (files)" in n for n in better.notes)
    assert sum(a.job.units.count for a in better.plan.arrays) == int(found[2].replace(",", ""))
    assert int(found[2].replace(",", "")) <= 10_000


def test_a_disk_that_is_too_small_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = xr.Dataset({"v": (("y", "x"), np.ones((400, 300)))})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 900))  # type: ignore[attr-defined]
    (said,) = (n for n in ds.chunking.plan({"y": 40}, store="t.zarr").notes if "free" in n)
    assert "has 900 B free, and up to 960 kB are written, before codecs" in said
    with pytest.warns(xchunk.XchunkWarning, match="900 B free"):
        ds.chunking.apply({"y": 40}, store="t.zarr", progress=False)
    assert not [
        n for n in ds.chunking.plan({"y": 40}, store="memory://t.zarr").notes if "free" in n
    ]


def test_no_value_of_a_plain_file_is_read_to_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = xr.Dataset({"v": (("y", "x"), np.ones((40, 30)))})
    encoding = {"v": {"chunksizes": (4, 30), "zlib": True}}
    ds.to_netcdf("s.nc", engine="netcdf4", encoding=encoding)

    def fail(*_: Any) -> Any:
        raise AssertionError("a value was read")

    monkeypatch.setattr(DirectArray, "read", fail)
    with xr.open_dataset("s.nc", engine="netcdf4", chunks={}) as opened:
        assert opened.chunking.plan({"y": 40}, store="t.zarr")["v"].job.source_chunked


@pytest.mark.parametrize("blocks", [None, {}], ids=["no dask", "dask"])
@pytest.mark.filterwarnings("ignore")
def test_ragged_arrays_are_refused_before_anything_is_written(blocks: Any) -> None:
    netcdf4 = pytest.importorskip("netCDF4")
    with netcdf4.Dataset("r.nc", "w") as file:
        file.createDimension("n", 4)
        ragged = file.createVariable("ragged", file.createVLType("f4", "floats"), ("n",))
        for i in range(4):
            ragged[i] = np.arange(i + 1, dtype="f4")
        file.createVariable("x", "f8", ("n",))[:] = np.arange(4.0)
    ds = xr.open_dataset("r.nc", engine="netcdf4", chunks=blocks)
    with pytest.raises(xchunk.EncodingError, match=r"'ragged' is ragged.*drop_vars\('ragged'\)"):
        ds.chunking.apply({"n": 2}, store="t.zarr", progress=False)
    assert not Path("t.zarr").exists()
    out = ds.drop_vars("ragged").chunking.apply(
        {"n": 2}, store="t.zarr", progress=False, verify=True
    )
    assert out.x.values.tolist() == [0, 1, 2, 3]
