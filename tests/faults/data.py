"""Small sources for the faults."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xchunk
from shared.stores import write

#: What is asked of `maps`.
WHAT = {"t": -1, "y": 10}


@cache
def call(path: Path, spare: int = 1_200_000) -> dict[str, Any]:
    """What `apply` is given: so little memory that it goes through scratch in several boxes."""
    ds, most = opened(path), 1_000
    while True:
        try:
            ds.chunking.plan(WHAT, store="nowhere.zarr", max_mem=most)
        except xchunk.MemoryBudgetError as error:
            most = error.smallest
        else:
            return {"chunks": WHAT, "max_mem": most + spare}


def maps(path: Path, seed: int = 1) -> Path:
    """Maps of 4.6 MB, which go to time series through scratch, and two small variables."""
    rng = np.random.default_rng(seed)
    arrays = {
        "v": (rng.random((32, 300, 120), dtype="f4") * 8, (1, 300, 120), ("t", "y", "x")),
        "m": (rng.integers(0, 2, (300, 120)).astype("i1"), (300, 120), ("y", "x")),
        "t": (np.arange(32), (32,), ("t",)),
    }
    return write(path, arrays)


def opened(path: Path) -> xr.Dataset:
    """Open a store as a user does."""
    return xr.open_zarr(path)


def same(path: Path, source: Path) -> bool:
    """Return whether two stores hold the same stored bits."""
    with (
        xr.open_zarr(path, decode_cf=False, chunks=None) as a,
        xr.open_zarr(source, decode_cf=False, chunks=None) as b,
    ):
        return set(a.variables) == set(b.variables) and all(
            a[n].values.tobytes() == b[n].values.tobytes() for n in b.variables
        )
