"""A synthetic reanalysis, stored map by map as archives are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

__all__ = ["make_reanalysis"]

#: Maps that are made at once, so that making the data takes little memory.
_BAND = 73


def make_reanalysis(path: Path, *, shape: tuple[int, int, int] = (1460, 121, 240)) -> None:
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
    patterns = _patterns(lat, lon, rng)
    height = np.maximum(0, 400 * patterns[-1])
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
        maps[start:stop] = _temperature(np.arange(start, stop), patterns, rng)
    zarr.consolidate_metadata(path)


#: Days in which each travelling wave comes round, and how many of it go round the earth.
_WAVES = ((11.0, 2), (7.0, 3), (4.5, 5), (3.0, 7))


def _patterns(
    lat: npt.NDArray[np.float32], lon: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Patterns in space, in kelvin, in the order of `_amplitudes`."""
    y, x = np.radians(lat)[:, None], np.radians(lon)[None, :]
    flat = np.ones_like(x)
    out = [
        (288 - 38 * np.sin(y) ** 2) * flat,  # the climate
        14 * np.sin(y) * flat,  # the season
        3 * np.cos(y) * np.cos(x),  # the hour of the day, which travels west
        -3 * np.cos(y) * np.sin(x),
    ]
    for _, number in _WAVES:
        shift, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(1, 4)
        envelope = 4 * np.cos(y) * np.sin(tilt * y + shift)
        out += [envelope * np.cos(number * x), envelope * np.sin(number * x)]
    return np.asarray(out, dtype="float32")


def _amplitudes(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """How strong each pattern is at each step."""
    days = steps / 4
    turns = 2 * np.pi * days
    out = [
        np.ones_like(days),
        np.cos((turns - 2 * np.pi * 200) / 365),
        np.cos(turns),
        np.sin(turns),
    ]
    for period, _ in _WAVES:
        out += [np.cos(turns / period), np.sin(turns / period)]
    return np.asarray(out, dtype="float32").T


def _temperature(
    steps: npt.NDArray[np.int64], patterns: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    field = np.tensordot(_amplitudes(steps), patterns, axes=1)
    field += np.float32(0.2) * rng.standard_normal(field.shape, dtype="float32")
    # Steps of 1/64 K, as packed archives have: all bits beyond would be noise.
    field *= 64
    np.round(field, out=field)
    field /= 64
    return np.asarray(field)


def _write(
    group: zarr.Group,
    name: str,
    values: npt.NDArray[np.generic],
    dims: tuple[str, ...],
    attributes: dict[str, Any],
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
