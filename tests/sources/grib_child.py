"""GRIB files made from ecCodes' own samples, and what is done with them, in a process of its own.

ecCodes' and rasterio's libraries end the interpreter with an error where both are loaded.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import xarray as xr

STEPS = tuple(range(0, 24, 6))


def write(
    path: Path,
    *,
    days: int = 3,
    levels: tuple[int, ...] = (500, 850, 1000),
    names: tuple[str, ...] = ("t", "u"),
    steps: tuple[int, ...] = STEPS,
    missing: bool = False,
    left_out: int | None = None,
    packing: str = "grid_simple",
    scanning: int = 0,
) -> int:
    """Write messages of several parameters, days, steps and levels; return how many."""
    sample = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
    rng = np.random.default_rng(3)
    n = eccodes.codes_get_size(sample, "values")
    count = 0
    with path.open("wb") as file:
        for day, step, level, name in itertools.product(range(days), steps, levels, names):
            count += 1
            if count == left_out:
                continue
            message = eccodes.codes_clone(sample)
            eccodes.codes_set(message, "dataDate", 20200101 + day)
            eccodes.codes_set(message, "stepRange", step)
            eccodes.codes_set(message, "level", level)
            eccodes.codes_set(message, "shortName", name)
            eccodes.codes_set(message, "bitsPerValue", 16)
            eccodes.codes_set(message, "packingType", packing)
            if scanning:
                eccodes.codes_set(message, "alternativeRowScanning", scanning)
            values = 250 + rng.normal(size=n).cumsum()
            if missing:
                eccodes.codes_set(message, "bitmapPresent", 1)
                eccodes.codes_set(message, "missingValue", 9999)
                values[rng.integers(0, n, 20)] = 9999
            eccodes.codes_set_values(message, values)
            eccodes.codes_write(message, file)
            eccodes.codes_release(message)
    return count


class Decoded:
    """Counts the messages whose values are decoded."""

    def __init__(self) -> None:
        import cfgrib.dataset as inner

        self.count, own = 0, inner.get_values_in_order

        def counted(*args: Any) -> Any:
            self.count += 1
            return own(*args)

        inner.get_values_in_order = counted


def values_of(path: Path, **how: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="cfgrib", **how).load()
