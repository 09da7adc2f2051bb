"""Odd grids, names and attributes: done right, or refused by name before anything is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore, MemoryStore

import xchunk
from xchunk.errors import EncodingError

VALUES = np.arange(48.0).reshape(12, 4)


def data() -> xr.Dataset:
    return xr.Dataset({"a": (("t", "x"), VALUES)})


@pytest.mark.parametrize(
    "grid",
    [{"chunks": ((2, 4, 6), (4,))}, {"chunks": (2, 2), "shards": ((4, 8), (4,))}],
    ids=["chunks", "shards"],
)
@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_rectilinear_grids_are_read_and_not_written(
    grid: dict[str, Any], disk: bool, tmp_path: Path
) -> None:
    pytest.importorskip("zarr", minversion="3.4")
    store = LocalStore(tmp_path / "a.zarr") if disk else MemoryStore()
    with zarr.config.set({"array.rectilinear_chunks": True}):
        group, dims = zarr.create_group(store), ("t", "x")
        made = group.create_array("a", shape=(12, 4), dtype="f8", dimension_names=dims, **grid)
        made[...] = VALUES
        ds = xr.open_zarr(store, consolidated=False, chunks=None)
        assert "a" in repr(ds.chunking)
        target = MemoryStore()
        ds.chunking.apply({"t": 5}, store=target, max_mem="20MB", verify=True)
        assert np.array_equal(xr.open_zarr(target, chunks=None).a, VALUES)
        with pytest.raises(EncodingError, match="a has chunks or shards of several lengths"):
            data().chunking.append(store, dim="t", max_mem="20MB")


@pytest.mark.parametrize("name", ["out.nc", "out.NC4", "out.h5", "out.grib2"])
def test_a_name_of_another_format_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EncodingError, match=re.escape("Name it ") + r".*out\.zarr"):
        data().chunking.apply({"t": 5}, store=tmp_path / name, max_mem="20MB")
    assert not list(tmp_path.iterdir())


def test_a_store_of_such_a_name_can_be_replaced(tmp_path: Path) -> None:
    data().to_zarr(tmp_path / "out.nc")
    data().chunking.apply({"t": 5}, store=tmp_path / "out.nc", max_mem="20MB", overwrite=True)
    assert xr.open_zarr(tmp_path / "out.nc", chunks=None).equals(data())


@pytest.mark.parametrize("folder", ["a#b", "a?b", "a%20b", "a b", "ä"])
def test_odd_names_of_folders(folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder / "t.zarr"
    place.parent.mkdir()
    data().chunking.apply({"t": 5}, store=str(place), max_mem="20MB", verify=True)
    assert [p.name for p in tmp_path.iterdir()] == [folder]
    assert xr.open_zarr(LocalStore(place), chunks=None).equals(data())
    if "?" not in folder:  # which is a pattern
        assert xchunk.open_dataset(str(place)).equals(data())


@pytest.mark.parametrize("value", [{1, 2}, b"abc", np.datetime64("2000-01-01"), 1j, object()])
@pytest.mark.parametrize(
    ("on", "where"),
    [(lambda ds: ds, "the Dataset"), (lambda ds: ds.a, "of a is"), (lambda ds: ds.t, "of t is")],
)
def test_an_attribute_that_json_cannot_hold_is_named(
    value: Any, on: Callable[[xr.Dataset], Any], where: str
) -> None:
    target = MemoryStore()
    ds = data().assign_coords(t=np.arange(12))
    on(ds).attrs["history"] = value
    with pytest.raises(EncodingError, match=rf"attribute 'history' (of )?.*{where.split()[-2]}"):
        ds.chunking.apply({"t": 5}, store=target, max_mem="20MB")
    assert not target._store_dict
