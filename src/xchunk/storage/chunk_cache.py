"""netCDF-4's cache of decoded chunks, kept small while we read.

The library keeps up to 64 MB of decoded chunks for each variable of an open file. We read each
chunk once, so that they would only take room from the budget. A file that is open twice in a
process shares its cache between both, and the first one decides: so the user's own handles
are asked as well, and have back what they had when the run is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import xarray as xr

__all__ = ["small_chunk_caches", "small_default_cache"]

#: Bytes, slots and preemption of the cache while we read; the bytes are h5py's default.
_SMALL = (1024**2, 1000, 0.75)


@contextmanager
def small_default_cache(engine: str) -> Iterator[None]:
    """Open netCDF-4 files with a small cache; the process's default is put back."""
    if engine != "netcdf4":
        yield
        return
    import netCDF4

    before = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(*_SMALL)
    try:
        yield
    finally:
        netCDF4.set_chunk_cache(*before)


@contextmanager
def small_chunk_caches(variables: Iterable[xr.Variable]) -> Iterator[None]:
    """Make the caches of the netCDF-4 variables that are open in this process small for a while."""
    before = [(v, size) for v in variables if (size := _resize(v, _SMALL)) is not None]
    try:
        yield
    finally:
        for variable, size in before:
            _resize(variable, size)


def _resize(variable: xr.Variable, cache: tuple[int, int, float]) -> Any:
    """Set one variable's cache; None where it has none, or cannot be traced."""
    from xchunk.storage.trace import can_trace, part_of

    if not can_trace(variable):
        return None
    try:
        from xchunk.storage._wrappers import resize_chunk_cache

        return resize_chunk_cache(part_of(variable), cache)
    except Exception:  # noqa: BLE001 - it only saves memory: the variable is read all the same
        return None
