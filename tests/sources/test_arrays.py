"""Stored arrays are opened beside others that no library can open.

h5netcdf brings a copy of HDF5 of its own, so that one test starts this file again, in a process
without netCDF4's.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from shared.processes import run_with_h5netcdf
from xchunk.sources.arrays import close_files, open_stored
from xchunk.sources.trace import trace

IS_CHILD = os.environ.get("XCHUNK_TEST_ENGINE") == "h5netcdf"
own_process = pytest.mark.skipif(not IS_CHILD, reason="in a process of its own")


@pytest.mark.skipif(IS_CHILD, reason="this is that process")
@pytest.mark.skipif(importlib.util.find_spec("h5netcdf") is None, reason="h5netcdf is needed")
@pytest.mark.subprocess
@pytest.mark.slow
def test_h5netcdf_in_a_process_of_its_own() -> None:
    assert "3 passed" in run_with_h5netcdf(__file__)


@pytest.fixture
def ragged(tmp_path: Path) -> Path:
    """A file of which h5netcdf and xarray together cannot open a variable."""
    import h5py

    path = tmp_path / "ragged.nc"
    with h5py.File(path, "w") as file:
        for dim, n in {"time": 40, "x": 50}.items():
            file.create_dataset(dim, data=np.arange(n)).make_scale(dim)
        # texts of more than one character are read by the library
        texts = np.array([[f"n{i}"] * 50 for i in range(40)]).astype("S9")
        text = file.create_dataset("text", data=texts, chunks=(1, 50))
        rows = file.create_dataset("rows", (40,), dtype=h5py.vlen_dtype(np.float64))
        for one in (text, rows):
            one.dims[0].attach_scale(file["time"])
        text.dims[1].attach_scale(file["x"])
    with pytest.raises(ValueError, match="rows"):
        xr.open_dataset(path, engine="h5netcdf")
    return path


@own_process
@pytest.mark.parametrize("chunks", [None, {}], ids=["no-dask", "dask"])
def test_variables_are_copied_beside_one_that_was_dropped(
    ragged: Path, tmp_path: Path, chunks: dict | None
) -> None:
    store = tmp_path / "out.zarr"
    with xr.open_dataset(ragged, engine="h5netcdf", drop_variables=["rows"], chunks=chunks) as ds:
        out = ds.chunking.apply(
            {"time": -1, "x": 10}, store=store, max_mem="60MB", verify=True, progress=False
        )
        assert out.text[3, 0] == b"n3"


@own_process
def test_variables_are_read_by_name_beside_one_that_cannot_be(ragged: Path) -> None:
    with xr.open_dataset(ragged, engine="h5netcdf", drop_variables=["rows"], chunks=None) as ds:
        traced = trace(ds.text.variable)
        assert traced is not None
        ref = replace(traced.ref, handle=None)
    close_files()
    try:
        stored = open_stored(ref)
        assert stored.info.shape == (40, 50)
        assert stored.read((slice(3, 4), slice(0, 2))).tolist() == [[b"n3", b"n3"]]
    finally:
        close_files()
