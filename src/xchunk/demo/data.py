"""A synthetic reanalysis, stored map by map as archives are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

__all__ = ["make_reanalysis"]

#: Maps that are made at once, so that making the data takes little memory.
_BAND = 73


def make_reanalysis(path: Path, *, shape: tuple[int, int, int] = (1460, 145, 288)) -> None:
    """Write six-hourly 2 m temperature as a zarr v3 store with one map in each chunk.

    The field is smooth in space and time (a climate by latitude, seasons, days, travelling
    waves) with noise of a fifth of a kelvin, so that it compresses about as real data do.

    Parameters
    ----------
    path : Path
        Where the store goes.
    shape : tuple of int
        Time steps, latitudes and longitudes.
    """
    steps, ny, nx = shape
    rng = np.random.default_rng(1979)
    lat = np.linspace(90, -90, ny, dtype="float32")
    lon = np.linspace(0, 360, nx, endpoint=False, dtype="float32")
    group = zarr.create_group(path, zarr_format=3, attributes={"title": "synthetic reanalysis"})
    _write(group, "time", np.arange(steps, dtype="int64") * 6, ("time",), {
        "standard_name": "time", "units": "hours since 2024-01-01", "calendar": "standard",
    })  # fmt: skip
    _write(group, "latitude", lat, ("latitude",), {
        "standard_name": "latitude", "units": "degrees_north",
    })  # fmt: skip
    _write(group, "longitude", lon, ("longitude",), {
        "standard_name": "longitude", "units": "degrees_east",
    })  # fmt: skip
    waves = _waves(lat, lon, rng)
    height = np.maximum(0, waves[2] * 400).astype("float32")
    _write(group, "orography", height, ("latitude", "longitude"), {
        "standard_name": "surface_altitude", "units": "m",
    })  # fmt: skip
    maps = group.create_array(
        "t2m",
        shape=shape,
        chunks=(1, ny, nx),
        dtype="float32",
        dimension_names=("time", "latitude", "longitude"),
        fill_value=float("nan"),
        attributes={
            "standard_name": "air_temperature",
            "units": "K",
            "long_name": "2 m temperature",
        },
    )
    for start in range(0, steps, _BAND):
        stop = min(start + _BAND, steps)
        maps[start:stop] = _temperature(np.arange(start, stop), lat, lon, waves, rng)
    zarr.consolidate_metadata(path)


def _waves(
    lat: npt.NDArray[np.float32], lon: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Some smooth patterns in space, in pairs that make a wave travel."""
    y, x = np.radians(lat)[:, None], np.radians(lon)[None, :]
    out = []
    for number in (2, 3, 5, 7):
        shift, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(1, 4)
        envelope = np.cos(y) * np.sin(tilt * y + shift)
        out += [envelope * np.cos(number * x), envelope * np.sin(number * x)]
    return np.asarray(out, dtype="float32")


def _temperature(
    steps: npt.NDArray[np.int64],
    lat: npt.NDArray[np.float32],
    lon: npt.NDArray[np.float32],
    waves: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    days = (steps / 4).astype("float32")
    y, x = np.radians(lat)[None, :, None], np.radians(lon)[None, None, :]
    season = np.cos(2 * np.pi * (days - 200) / 365)[:, None, None]
    hour = np.cos(2 * np.pi * days[:, None, None] + x)
    phases = [f(2 * np.pi * days / period) for period in (11, 7, 4.5, 3) for f in (np.cos, np.sin)]
    travelling = np.tensordot(np.asarray(phases, dtype="float32").T, 4 * waves, axes=1)
    shape = (len(steps), lat.size, lon.size)
    field = 288 - 38 * np.sin(y) ** 2 + 14 * season * np.sin(y) + 3 * hour * np.cos(y)
    field = field + travelling + 0.2 * rng.standard_normal(shape, dtype="float32")
    # Steps of 1/64 K, as packed archives have: all bits beyond would be noise.
    return np.asarray(np.round(field * 64) / 64, dtype="float32")


def _write(
    group: zarr.Group,
    name: str,
    values: npt.NDArray[np.generic],
    dims: tuple[str, ...],
    attributes: dict[str, str],
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        dimension_names=dims,
        attributes=attributes,
    )
    array[...] = values
