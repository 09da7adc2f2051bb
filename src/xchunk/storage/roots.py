"""What a dask array was opened from, where that is more than one stored array.

Of files that are put together, xarray keeps the encoding of the first. Packed with its scale, or
cast to its dtype, the values of the others may be rounded or wrap around; so it has to be known
whether all were stored alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

__all__ = ["as_all_are_stored", "is_mixed"]

#: What says how values are stored, and so holds for the files that are stored like that.
_VALUE_KEYS = (
    "dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units",
    "filters", "serializer",
)  # fmt: skip
#: What only reading a file or store puts into an encoding: without it, a user has made it anew.
_READ_KEYS = ("preferred_chunks", "source", "original_shape")
#: xarray's, and thereby dask's, name of the layer that holds what was opened.
_OPENED = "original-"


def is_mixed(variable: xr.Variable) -> bool:
    """Tell whether a variable was put together from arrays that are stored in different ways.

    Parameters
    ----------
    variable : xarray.Variable
        The variable; its data are neither read nor computed.

    Returns
    -------
    bool
        False where it was opened from one array, from several that are stored alike, or where
        that cannot be told.
    """
    layers = getattr(getattr(variable.data, "dask", None), "layers", None)
    if variable.chunks is None or not layers:
        return False
    opened = [layer for name, layer in layers.items() if str(name).startswith(_OPENED)]
    if len(opened) < 2:
        return False
    found = {_stored(value) for layer in opened for value in dict(layer).values()}
    return len(found) > 1


def _stored(node: Any) -> tuple[str, ...] | None:
    """Say how an array is stored that a layer holds: its dtype, and each step of its decoding."""
    try:
        from xchunk.storage._wrappers import lazy_part, reference

        part = lazy_part(getattr(node, "value", node))
        _, dtype = reference(part)
        return (np.dtype(dtype).newbyteorder("=").str, *(d.text for d in part.decoders))
    # Private parts of other libraries may fail in any way; what is not known is like nothing known.
    except Exception:  # noqa: BLE001
        return None


def as_all_are_stored(variable: xr.Variable) -> tuple[xr.Variable, list[str]]:
    """Take from a variable's encoding what does not hold for all that it was put together from.

    Returns
    -------
    tuple
        The variable, whose values are then stored as they are, and a note that says so.
    """
    encoding = variable.encoding
    is_left = any(k in encoding for k in _READ_KEYS) and any(k in encoding for k in _VALUE_KEYS)
    if not is_left or not is_mixed(variable):
        return variable, []
    plain = variable.copy(deep=False)
    plain.encoding = {k: v for k, v in encoding.items() if k not in _VALUE_KEYS}
    note = (
        "it was put together from arrays that are stored in different ways (dtype, packing or "
        f"fill value), so its values are stored as they are, as {variable.dtype}"
    )
    return plain, [note]
