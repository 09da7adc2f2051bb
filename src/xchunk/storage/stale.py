"""Encodings that were left by other data.

xarray keeps the encoding of what was read when new data are put in its place
(``ds.a.data = ds.a.data * 1j``). By it, ``to_zarr`` would drop the imaginary parts, make numbers
booleans, and cut strings off, without a word. Where what is shown cannot have been read by the
encoding, the encoding is not that of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["VALUE_KEYS", "is_left", "without_stale"]

#: What says how values are stored, and so holds for the data that are stored like that.
VALUE_KEYS = (
    "dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units",
    "filters", "serializer",
)  # fmt: skip
#: What only reading a file or store puts into an encoding: without it, a user has made it anew.
_READ_KEYS = ("preferred_chunks", "source", "original_shape")


def is_left(encoding: Mapping[Any, Any]) -> bool:
    """Tell whether an encoding was left by reading a file or store."""
    return any(k in encoding for k in _READ_KEYS) and any(k in encoding for k in VALUE_KEYS)


def without_stale(variable: xr.Variable) -> tuple[xr.Variable, list[str]]:
    """Take from a variable's encoding what is of other data than it shows.

    Returns
    -------
    tuple
        The variable, whose values are then stored as they are, and a note that says so, or that
        they are stored with fewer digits.
    """
    encoding = variable.encoding
    if "dtype" not in encoding or not is_left(encoding):
        return variable, []
    stored = np.dtype(encoding["dtype"])
    if _may_show(encoding, variable.dtype):
        packed = any(encoding.get(k) is not None for k in ("scale_factor", "add_offset"))
        rounded = variable.dtype.kind == stored.kind == "f" and not packed
        if not rounded or stored.itemsize >= variable.dtype.itemsize:
            return variable, []
        said = f"its {variable.dtype} values are rounded to {stored}, which its encoding says"
        return variable, [said]
    plain = variable.copy(deep=False)
    plain.encoding = {k: v for k, v in encoding.items() if k not in (*VALUE_KEYS, "calendar")}
    note = (
        f"its encoding is that of other data, stored as {stored}, so its values are stored as "
        f"they are, as {variable.dtype}"
    )
    return plain, [note]


def _may_show(encoding: Mapping[Any, Any], shown: np.dtype[Any]) -> bool:
    """Tell whether data that are stored by an encoding may be shown as a dtype.

    Numbers of another width may: a user may have set the dtype, and they are checked.
    """
    stored = np.dtype(encoding["dtype"])
    ours, theirs = shown.kind, stored.kind
    if ours in "mM":
        return "units" in encoding or ours == theirs
    if ours == "O" and theirs in "iuf":
        return "units" in encoding
    if theirs in "OTSU" or ours in "OTSU":
        return _may_show_strings(encoding, stored, shown)
    if "units" in encoding:
        # it was a time, whose units are no attribute any more
        return False
    if "V" in (ours, theirs):
        return bool(stored == shown)
    return bool(ours == theirs or (ours in "iuf" and theirs in "iuf"))


def _may_show_strings(
    encoding: Mapping[Any, Any], stored: np.dtype[Any], shown: np.dtype[Any]
) -> bool:
    ours, theirs = shown.kind, stored.kind
    if ours not in "OTSU" or theirs not in "OTSU":
        return False
    if theirs in "OT" or not stored.itemsize:  # of any length
        return True
    if "char_dim_name" in encoding or stored == np.dtype("S1"):
        return True
    if ours in "OT":
        return theirs == "S" and "_Encoding" in encoding
    return ours == theirs and shown.itemsize <= stored.itemsize
