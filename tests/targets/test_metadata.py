"""The metadata of a target, as ``to_zarr`` of the same data makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xchunk.targets import metadata


def everything() -> xr.Dataset:
    """Numbers of each kind, packed, flagged, without dims, without elements."""
    dims, n = ("t", "x"), 24
    out = xr.Dataset(attrs={"title": "all kinds"})
    for dtype in ("?", "i1", "u2", ">i4", "i8", "f2", "f4", "f8", "c8"):
        name = f"v_{dtype.strip('<>?')}"
        out[name] = (dims, np.arange(n).reshape(4, 6).astype(dtype), {"units": "1", "n": 3})
    out["packed"] = (dims, np.arange(n).reshape(4, 6) / 4.0)
    out["packed"].encoding = {"dtype": "i2", "scale_factor": 0.25, "_FillValue": -1}
    out["single"], out["none"] = 7.5, (("t", "o"), np.zeros((4, 0)))
    out = out.assign_coords(t=np.arange(4.0), level=("x", np.arange(6)))
    out["v_f4"].encoding["_FillValue"] = np.float32(np.nan)
    return out


@pytest.mark.parametrize(
    ("zarr_format", "shards"), [(2, False), (3, False), (3, True)], ids=["v2", "v3", "v3 shards"]
)
def test_arrays_without_lengths_give_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zarr_format: int, shards: bool
) -> None:
    """What is made without dask, lengths last, is what dask's lazy zeros give."""
    everything().to_zarr(tmp_path / "source.zarr", zarr_format=zarr_format, consolidated=False)
    options: dict[str, Any] = {"shards": {"t": 4, "x": 6}} if shards else {}
    found = []
    for way, numbers in (("hollow", metadata._NUMBERS), ("lazy", "")):
        monkeypatch.setattr(metadata, "_NUMBERS", numbers)
        ds = xr.open_zarr(tmp_path / "source.zarr", consolidated=False)
        # in the order in which they are listed, a folder gives its arrays
        ds = ds[sorted(map(str, ds.variables))]
        out = tmp_path / f"{way}.zarr"
        ds.chunking.apply(
            {"t": 2, "x": 3}, store=out, zarr_format=zarr_format, progress=False, **options
        )
        found.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert found[0] == found[1]
