"""Workloads and the data that they run on: small cubes, and maps of all places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from zarr.storage import WrapperStore

Workload = Callable[[xr.Dataset], Any]


def _detrend(block: xr.DataArray) -> xr.DataArray:
    return block * 1.5 - block.mean("lat")


def _anomaly(ds: xr.Dataset) -> xr.DataArray:
    groups = ds.t2m.groupby("time.month")
    return groups - groups.mean()


CUBES: dict[str, Workload] = {
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


def _finer(ds: xr.Dataset) -> xr.DataArray:
    return ds.t2m.interp(time=ds.time[:-1] + np.timedelta64(12, "h"))


def _index(ds: xr.Dataset) -> xr.DataArray:
    return ds.t2m.isel(lat=slice(0, 10), lon=slice(0, 50)).mean(("lat", "lon"))


def _detrended(ds: xr.Dataset) -> xr.DataArray:
    fit = ds.t2m.polyfit("time", 1)
    return ds.t2m - xr.polyval(ds.time, fit.polyfit_coefficients)


def _spectrum(ds: xr.Dataset) -> xr.DataArray:
    def power(block: Any) -> Any:
        return np.abs(np.fft.rfft(block, axis=-1))[..., :100].astype("f4")

    return xr.apply_ufunc(
        power,
        ds.t2m.chunk(time=-1),
        input_core_dims=[["time"]],
        output_core_dims=[["freq"]],
        dask="parallelized",
        output_dtypes=["f4"],
        dask_gufunc_kwargs={"output_sizes": {"freq": 100}},
    )


def _spells(ds: xr.Dataset) -> xr.DataArray:
    hot = (ds.t2m > 5).astype("f4")
    return hot.rolling(time=5).sum().max("time")


def _eddies(ds: xr.Dataset) -> xr.DataArray:
    t, u = (v - v.mean("lon") for v in (ds.t2m, ds.u10))
    return (t * u).mean(("time", "lon"))


def _stations(ds: xr.Dataset) -> xr.DataArray:
    rng = np.random.default_rng(3)
    lat, lon = (
        xr.DataArray(rng.integers(0, ds.sizes[d], 200), dims="station") for d in ("lat", "lon")
    )
    return ds.t2m.isel(lat=lat, lon=lon)


MAPS: dict[str, Workload] = {
    # what users reported, and more of the kind
    "interp_time": _finer,
    "coarsen_resample": lambda ds: ds.t2m.coarsen(lat=4, lon=4).mean().resample(time="MS").mean(),
    "differentiate": lambda ds: ds.t2m.differentiate("lat"),
    "polyfit": lambda ds: ds.t2m.polyfit("time", 1),
    "corr_index": lambda ds: xr.corr(ds.t2m, _index(ds), "time"),
    "weighted": lambda ds: ds.t2m.weighted(np.cos(np.deg2rad(ds.lat))).mean(("lat", "lon")),
    "smooth": lambda ds: ds.t2m.rolling(lat=5, center=True).mean(),
    "diff_std": lambda ds: ds.t2m.diff("time").std("time"),
    "idxmax": lambda ds: ds.t2m.idxmax("time"),
    "season_std": lambda ds: ds.t2m.groupby("time.season").std(),
    "histogram": lambda ds: da.histogram(ds.t2m.data, bins=100, range=(-10, 11))[0],
    "change": lambda ds: abs(ds.t2m - ds.t2m.shift(time=1)).max("time"),
    "zonal_anomaly": lambda ds: ds.t2m - ds.t2m.mean("lon"),
    "hot_days": lambda ds: (ds.t2m > 5).resample(time="MS").sum(),
    # ten more
    "spectrum": _spectrum,
    "detrend": _detrended,
    "spells": _spells,
    "eddies": _eddies,
    "stations": _stations,
    "integrate": lambda ds: ds.t2m.integrate("lat"),
    "weekly_max": lambda ds: ds.t2m.coarsen(time=7, boundary="trim").max(),
    "roll": lambda ds: ds.t2m.roll(lon=90, roll_coords=True) * 2,
    "rolling_var": lambda ds: ds.t2m.rolling(time=10, center=True).var(),
    "wind_when_warm": lambda ds: ds.u10.where(ds.t2m > 5).mean(("lat", "lon")),
}


@dataclass(frozen=True)
class Data:
    """Data, and the workloads and the chunks that they are run with."""

    shape: dict[str, int]
    stored: dict[str, int]
    workloads: dict[str, Workload]
    chunkings: dict[str, dict[str, int]]
    allowed: int
    """Bytes that a suggestion may have a process grow by."""


SETS = {
    "cubes": Data(
        {"time": 1461, "lat": 180, "lon": 180},
        {"time": 100, "lat": 60, "lon": 60},
        CUBES,
        # series, maps, small cubes, and blocks that split stored chunks
        {
            "series": {"time": -1, "lat": 60, "lon": 60},
            "maps": {"time": 100, "lat": -1, "lon": -1},
            "cubes": {"time": 300, "lat": 60, "lon": 60},
            "split": {"time": 250, "lat": 90, "lon": 90},
        },
        600_000_000,
    ),
    "maps": Data(
        {"time": 1460, "lat": 96, "lon": 180},
        {"time": 12, "lat": 96, "lon": 180},
        MAPS,
        {
            "stored": {"time": 12, "lat": -1, "lon": -1},
            "some": {"time": 60, "lat": -1, "lon": -1},
            "many": {"time": 156, "lat": -1, "lon": -1},
            "series": {"time": -1, "lat": 32, "lon": 60},
        },
        150_000_000,
    ),
}


def make(path: Path, shape: dict[str, int], stored: dict[str, int]) -> None:
    """Write two variables of noise with a season."""
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
