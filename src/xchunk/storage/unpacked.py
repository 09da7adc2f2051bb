"""Packed variables written as their decoded values, and lazy values cut into blocks."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from xchunk.core.grid import Axis
from xchunk.core.spec import sized_chunks
from xchunk.core.units import format_bytes
from xchunk.errors import SourceError
from xchunk.storage.refs import Traced, ZarrRef
from xchunk.storage.stored import open_stored

__all__ = ["as_blocks", "is_packed", "stored_unpacked", "unpacked"]

#: What packs values, and the filters, which are made for the packed dtype.
_PACKING = (
    "dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "filters",
    "serializer", "fill_value",
)  # fmt: skip
#: Bytes of a block of lazy values: a few stored chunks, and little beside any budget.
_BLOCK = 16_000_000


def is_packed(variable: xr.Variable) -> bool:
    """Whether a variable's encoding stores its numbers as others than they are."""
    if variable.dtype.kind not in "iuf":
        return False
    if any(variable.encoding.get(key) is not None for key in ("scale_factor", "add_offset")):
        return True
    dtype = np.dtype(variable.encoding.get("dtype") or variable.dtype)
    return dtype.kind in "iuf" and dtype.newbyteorder("=") != variable.dtype.newbyteorder("=")


def unpacked(
    ds: xr.Dataset, which: bool | Collection[str]
) -> tuple[xr.Dataset, dict[str, list[str]]]:
    """Take the packing from the encodings of packed variables.

    Parameters
    ----------
    ds : xarray.Dataset
        It is not changed.
    which : bool or collection of str
        All of them or none, or those of these names.

    Returns
    -------
    ds : xarray.Dataset
        With encodings by which the values are stored as they are.
    notes : dict of str to list of str
        What that means for each of them, in words.
    """
    names = [
        str(name)
        for name, variable in ds.variables.items()
        if (which if isinstance(which, bool) else name in which) and is_packed(variable)
    ]
    if not names:
        return ds, {}
    out, notes = ds.copy(deep=False), {}
    for name in names:
        variable = out.variables[name]
        packed = np.dtype(variable.encoding.get("dtype") or variable.dtype)
        kept = {k: v for k, v in variable.encoding.items() if k not in _PACKING}
        if variable.dtype.kind == "f":
            kept["_FillValue"] = np.nan
        variable.encoding = kept
        sizes = [format_bytes(variable.size * d.itemsize) for d in (variable.dtype, packed)]
        said = f"its decoded values are stored as {variable.dtype}, {sizes[0]} before the codec"
        notes[name] = [f"{said}, and not packed as {packed}, {sizes[1]}"]
    return out, notes


def stored_unpacked(ds: xr.Dataset, store: Store, group: str, zarr_format: int) -> list[str]:
    """Name the packed variables that a store holds as their decoded values."""
    names = []
    for name, variable in ds.variables.items():
        if not isinstance(name, str) or not is_packed(variable):
            continue
        try:
            path = f"{group}/{name}" if group else name
            info = open_stored(ZarrRef(store, path, zarr_format)).info
        except SourceError:
            continue
        same = info.dtype.newbyteorder("=") == variable.dtype.newbyteorder("=")
        if same and not any(key in info.attrs for key in ("scale_factor", "add_offset")):
            names.append(name)
    return names


def as_blocks(variable: xr.Variable, traced: Traced | None) -> xr.Variable:
    """Cut values that still lie in a backend into dask blocks of whole stored chunks.

    xarray's encoders would read all of them into memory. Everything else is returned as it is.
    """
    from xchunk.storage._wrappers import is_lazy

    if not variable.ndim or variable.dtype.kind not in "iuf" or not is_lazy(variable):
        return variable
    if variable.size * variable.dtype.itemsize <= _BLOCK:
        return variable
    chunks = _stored_chunks(variable, traced)
    if chunks is None:
        blocks = sized_chunks(variable.shape, variable.dtype.itemsize, {}, _BLOCK)
    else:
        blocks = _whole_chunks(variable.shape, chunks, variable.dtype.itemsize)
    return variable.chunk(dict(zip(variable.dims, blocks, strict=True)))


def _stored_chunks(variable: xr.Variable, traced: Traced | None) -> Sequence[int] | None:
    """Return the length of stored chunks along each dim; a hint only, which may be wrong."""
    found: Any = variable.encoding.get("chunksizes") or variable.encoding.get("chunks")
    if traced is not None:
        try:
            stored = open_stored(traced.ref).info.chunks
        except SourceError:
            return None
        if stored is None:
            return None
        found = []
        for part in traced.axes:
            axis = Axis.of(traced.stored_shape[part.stored_axis], stored[part.stored_axis])
            found.append(-(-axis.chunk // abs(part.step)))
    if not isinstance(found, Sequence) or len(found) != variable.ndim:
        return None
    return [int(n) for n in found] if all(isinstance(n, int) and n > 0 for n in found) else None


def _whole_chunks(shape: Sequence[int], chunks: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return blocks of about `_BLOCK` bytes, each of whole chunks, the last dims first."""
    blocks = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
    for i in reversed(range(len(blocks))):
        room = max(1, _BLOCK // max(1, math.prod(blocks) * itemsize))
        blocks[i] = min(shape[i], blocks[i] * min(room, -(-shape[i] // blocks[i])))
    return tuple(max(1, b) for b in blocks)
