"""Twelve workloads and the data that they run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.storage import WrapperStore

SHAPE = {"time": 1461, "lat": 180, "lon": 180}
STORED = {"time": 100, "lat": 60, "lon": 60}

#: The chunks that workloads are run with: series, maps, small cubes, and blocks that split
#: stored chunks.
CHUNKINGS: dict[str, dict[str, int]] = {
    "series": {"time": -1, "lat": 60, "lon": 60},
    "maps": {"time": 100, "lat": -1, "lon": -1},
    "cubes": {"time": 300, "lat": 60, "lon": 60},
    "split": {"time": 250, "lat": 90, "lon": 90},
}


def _detrend(block: xr.DataArray) -> xr.DataArray:
    return block * 1.5 - block.mean("lat")


def _anomaly(ds: xr.Dataset) -> xr.DataArray:
    groups = ds.t2m.groupby("time.month")
    return groups - groups.mean()


WORKLOADS: dict[str, Callable[[xr.Dataset], Any]] = {
    "mean": lambda ds: ds.t2m.mean("time"),
    "std": lambda ds: ds.t2m.std("time"),
    "quantile": lambda ds: ds.t2m.chunk(time=-1).quantile(0.9, "time"),
    "rolling": lambda ds: ds.t2m.rolling(time=30).mean(),
    "resample": lambda ds: ds.t2m.resample(time="MS").mean(),
    "climatology": lambda ds: ds.t2m.groupby("time.month").mean(),
    "anomaly": _anomaly,
    "correlation": lambda ds: xr.corr(ds.t2m, ds.u10, "time"),
    "interp": lambda ds: ds.t2m.interp(lat=np.arange(0.5, 179), lon=np.arange(0.5, 179, 2)),
    "dot": lambda ds: xr.dot(ds.t2m, ds.t2m.rename(lon="lon2"), dim=["time", "lat"]),
    "map_blocks": lambda ds: ds.t2m.map_blocks(_detrend, template=ds.t2m),
    "cumsum": lambda ds: ds.t2m.cumsum("time"),
}


def make(path: Path, shape: dict[str, int] | None = None, stored: dict[str, int] | None = None):
    """Write two variables of noise with a season."""
    shape, stored = shape or SHAPE, stored or STORED
    rng = np.random.default_rng(1)
    days = np.arange(shape["time"])
    season = (10 * np.sin(days * 2 * np.pi / 365.25)).astype("f4")[:, None, None]
    coords = {
        "time": np.datetime64("2001-01-01", "ns") + days.astype("m8[D]"),
        "lat": np.arange(shape["lat"], dtype="f8"),
        "lon": np.arange(shape["lon"], dtype="f8"),
    }
    sizes = tuple(shape.values())
    data = {n: (tuple(shape), rng.random(sizes, "f4") + season) for n in ("t2m", "u10")}
    ds = xr.Dataset(data, coords)
    encoding = {n: {"chunks": tuple(stored.values())} for n in data}
    ds.to_zarr(path, encoding=encoding, zarr_format=3, consolidated=False)


#: Chunks read by `Counting` stores in this process.
READS = {"n": 0}


class Counting(WrapperStore):  # type: ignore[type-arg]
    """Counts the chunks that are asked for, by either of zarr's ways."""

    def _count(self, key: str) -> None:
        READS["n"] += "/c/" in key and key.split("/", maxsplit=1)[0] in ("t2m", "u10")

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self._count(key)
        return await super().get(key, *args, **kwargs)

    def get_sync(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self._count(key)
        return super().get_sync(key, *args, **kwargs)
