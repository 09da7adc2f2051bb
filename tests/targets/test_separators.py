"""How chunks are named, and what a missing one reads as, stays as in the source."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

import xchunk
from xchunk.stores.adapter import get_key, list_prefix

VALUES = np.arange(1, 49, dtype="i4").reshape(12, 4)


def source(zarr_format: int, keys: dict[str, str], *, named: bool = True) -> MemoryStore:
    store = MemoryStore()
    group = zarr.create_group(store, zarr_format=zarr_format)  # type: ignore[arg-type]
    dims = {"dimension_names": ("y", "x")} if zarr_format == 3 else {}
    array = group.create_array(
        "v", shape=(12, 4), chunks=(2, 4), dtype="i4", chunk_key_encoding=keys, fill_value=None
        if zarr_format == 2 else -7, **dims,
    )  # fmt: skip
    if zarr_format == 2 and named:
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    array[...] = VALUES
    return store


KEYS: list[tuple[int, dict[str, str], str]] = [
    (2, {"name": "v2", "separator": "/"}, "v/1/0"),
    (2, {"name": "v2", "separator": "."}, "v/1.0"),
    (3, {"name": "default", "separator": "."}, "v/c.1.0"),
    (3, {"name": "default", "separator": "/"}, "v/c/1/0"),
    (3, {"name": "v2", "separator": "."}, "v/1.0"),
]


@pytest.mark.parametrize(("zarr_format", "keys", "key"), KEYS)
@pytest.mark.parametrize("how", ["apply", "rechunk", "arrays"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_chunks_are_named_as_in_the_source(
    how: str, zarr_format: int, keys: dict[str, str], key: str
) -> None:
    store, target = source(zarr_format, keys, named=how != "arrays"), MemoryStore()
    if how == "arrays":
        group = zarr.open_group(store, mode="r")
        xchunk.rechunk(group, {"v": (5, 4)}, "20MB", target).execute(verify=True)
    else:
        ds = xr.open_zarr(store, consolidated=False, chunks={})
        if how == "apply":
            ds.chunking.apply({"y": 5}, store=target, max_mem="20MB", verify=True)
        else:
            xchunk.rechunk(ds, {"v": {"y": 5, "x": 4}}, "20MB", target).execute(verify=True)
    assert key in list_prefix(target, "v/")
    assert np.array_equal(zarr.open_array(target, path="v", mode="r")[...], VALUES)


@pytest.mark.parametrize("change", [0, 1], ids=["raw", "computed"])
def test_an_encoding_says_the_fill_value_and_the_names(change: int) -> None:
    store, target = source(3, {"name": "default", "separator": "/"}), MemoryStore()
    ds = xr.open_zarr(store, consolidated=False, chunks={})
    if change:
        ds["v"] = ds.v + np.int32(1)
    ds.v.encoding |= {"fill_value": 5, "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    ds.chunking.apply({"y": 5}, store=target, max_mem="20MB", verify=True)
    document: Any = json.loads(get_key(target, "v/zarr.json") or b"")
    assert document["fill_value"] == 5
    assert "v/1/0" in list_prefix(target, "v/")
    assert np.array_equal(zarr.open_array(target, path="v", mode="r")[...], VALUES + change)
