"""What only its own package can read is called so, wherever a layout is shown."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import (  # noqa: TID251 - as backends are written
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)
from zarr.storage import MemoryStore

import xchunk  # noqa: F401 - for ds.chunking
from xchunk.sources.readers import READERS, reader_for

VALUES = np.arange(24.0).reshape(4, 6)


class Foreign(BackendArray):
    """A lazy array of a package that is not known."""

    shape, dtype = VALUES.shape, VALUES.dtype

    def __getitem__(self, key: object) -> object:
        how = IndexingSupport.BASIC
        return explicit_indexing_adapter(key, self.shape, how, VALUES.__getitem__)


Foreign.__module__ = "strange.engine"


def opened(chunks: dict[str, int] | None) -> xr.Dataset:
    v = xr.Variable(("y", "x"), LazilyIndexedArray(Foreign()))
    ds = xr.Dataset({"v": v})
    return ds if chunks is None else ds.chunk(chunks)


@pytest.mark.parametrize("chunks", [None, {"y": 2}], ids=["lazy", "blocks"])
def test_what_cannot_be_looked_into_is_named(chunks: dict[str, int] | None) -> None:
    ds = opened(chunks)
    layout = ds.chunking.layout()["v"]
    assert layout.reader == "strange"
    assert layout.to_dict()["reader"] == "strange"
    assert "read through strange, one block at a time" in str(layout)
    store = MemoryStore()
    plan = ds.chunking.plan({"y": -1, "x": 2}, store=store)
    assert any("the budget does not count it" in note for note in plan.notes)
    out = ds.chunking.apply({"y": -1, "x": 2}, store=store, progress=False, verify=True)
    np.testing.assert_array_equal(out.v.values, VALUES)


@pytest.mark.parametrize("how", ["in memory", "computed", "stored"])
def test_what_is_known_is_not(how: str) -> None:
    ds = xr.Dataset({"v": (("y", "x"), VALUES)})
    if how != "in memory":
        source = MemoryStore()
        ds.to_zarr(source, consolidated=False)
        ds = xr.open_zarr(source, consolidated=False, chunks={})
    if how == "computed":
        ds["v"] = ds.v * 2
    assert not ds.chunking.layout()["v"].reader
    assert not ds.chunking.plan({"y": -1}, store=MemoryStore()).notes


def test_readers_are_found_by_their_engine() -> None:
    assert {reader.ENGINE for reader in READERS} == {"cfgrib", "rasterio"}
    for reader in READERS:
        assert reader_for(reader.ENGINE) is reader
    assert reader_for("netcdf4") is None
