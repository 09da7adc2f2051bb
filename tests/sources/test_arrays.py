"""Stored arrays are opened beside others that no library can open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.sources.arrays import close_files, open_stored
from xchunk.sources.trace import trace

h5py = pytest.importorskip("h5py")
pytest.importorskip("h5netcdf")


@pytest.fixture
def ragged(tmp_path: Path) -> Path:
    """A file of which h5netcdf and xarray together cannot open a variable."""
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
