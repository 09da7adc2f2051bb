"""Values that are encoded are checked block by block: none may wrap, overflow or go missing.

An encoding that came with other data (``int16`` with a scale, and then ``ds.t * 1000``) does
not hold every value. Packed, what is beyond its range wraps, and reads back as something else;
NaN without a fill value becomes a number; a number that is packed to the fill value becomes
NaN. xarray says nothing of it.

The least and the greatest value of a block are encoded and decoded by xarray itself: packing
is monotone, so if these two survive, all between them do. That costs two passes over a block.
What is no packing, but another kind of value (strings that are cut off, numbers as booleans, floats
as the integers that other data were), is compared value by value.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends.zarr import encode_zarr_variable
from xarray.conventions import decode_cf_variable

from xchunk.errors import EncodingError
from xchunk.storage.stale import is_left

__all__ = ["Check", "checked"]

_PACKING = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_FILLS = ("_FillValue", "missing_value")
#: Elements that are looked at together, so that what is compared takes little memory.
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Check:
    """How one variable is encoded, as far as its values depend on it; travels to the workers."""

    name: str
    """Path of the variable, for errors."""
    encoding: Mapping[str, Any]
    """The keys of its encoding that change values."""
    attrs: Mapping[str, Any]
    """The attributes of the variable that change how it is encoded."""
    exact: bool = False
    """Whether each value has to be the same once it is cast back: nothing is packed."""

    def __call__(self, encoded: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
        """Check one block and hand it on.

        Raises
        ------
        EncodingError
            If a value would read back as another one.
        """
        if not values.size:
            return encoded
        if self.exact:
            self._compare(encoded, values)
            if values.dtype.kind not in "iuf" or encoded.dtype.kind not in "iuf":
                return encoded
        extremes, gaps = _extremes(values)
        packed, back = self._there_and_back(extremes)
        for value, found in zip(extremes, back, strict=True):
            if not self._is_same(value, found, packed.dtype):
                raise self._error(value, found, packed.dtype)
        fill = self._fill(packed, extremes)
        if fill is not None:
            filled = sum(int(np.count_nonzero(part == fill)) for part in _parts(encoded))
            if filled > gaps:
                raise EncodingError(
                    f"{self._which(packed.dtype)}: {filled - gaps} values of one block become "
                    f"{fill!s}, which is the fill value, and would read back as missing. "
                    f"{self._remedy()}"
                )
        return encoded

    def _compare(self, encoded: NDArray[Any], values: NDArray[Any]) -> None:
        for stored, part in zip(_parts(encoded), _parts(values), strict=True):
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                back = stored.astype(part.dtype)
            # what is missing is looked at besides
            wrong = np.asarray((part != back) & (part == part))  # noqa: PLR0124
            if wrong.any():
                at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
                raise self._error(part[at], back[at], encoded.dtype)

    def _there_and_back(self, values: NDArray[Any]) -> tuple[xr.Variable, NDArray[Any]]:
        small = xr.Variable("value", values, dict(self.attrs), dict(self.encoding))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # what xarray and numpy say of values that do not fit is said as an error
            warnings.simplefilter("ignore")
            packed = encode_zarr_variable(small, name="value")
            back = decode_cf_variable("value", packed.copy(), decode_times=False)
        return packed, back.values

    def _is_same(self, value: Any, found: Any, dtype: np.dtype[Any]) -> bool:
        if np.isnan(value) or np.isnan(found):
            return bool(np.isnan(value) and np.isnan(found))
        if not (np.isfinite(value) and np.isfinite(found)):
            return bool(value == found)
        if value == found:
            return True
        # what is packed is rounded to the nearest step, and decoded with as few digits as it has
        step = abs(float(self.encoding.get("scale_factor") or 1)) if dtype.kind in "iu" else 0.0
        digits = [np.finfo(d).eps for d in (dtype, found.dtype, value.dtype) if d.kind == "f"]
        size = abs(float(value)) + abs(float(self.encoding.get("add_offset") or 0))
        far = abs(float(value) - float(found))
        return far <= 0.501 * step + 8 * max(digits, default=0.0) * size

    def _fill(self, packed: xr.Variable, values: NDArray[Any]) -> Any:
        """Return what marks missing values in the encoded block; None where nothing does."""
        if not any(self.encoding.get(key) is not None for key in _FILLS):
            return None
        if np.isnan(values[-1]):
            fill = packed.values[-1]
        else:
            fill = next(packed.attrs[key] for key in _FILLS if key in packed.attrs)
            fill = np.asarray(fill).reshape(-1)[0]
        return None if np.isnan(fill) else fill

    def _error(self, value: Any, found: Any, dtype: np.dtype[Any]) -> EncodingError:
        if value != value:  # noqa: PLR0124 - NaN, of numbers and nothing else
            said = f"NaN would read back as {found!s}, since there is no _FillValue for it"
            if any(self.encoding.get(key) is not None for key in _FILLS):
                said = f"NaN would read back as {found!s}, since {dtype} cannot hold the _FillValue"
        else:
            said = f"the value {value!s} does not fit, and would read back as {found!s}"
        return EncodingError(f"{self._which(dtype)}: {said}. {self._remedy()}")

    def _which(self, dtype: np.dtype[Any]) -> str:
        packing = ", ".join(f"{k}={v!s}" for k, v in self.encoding.items() if k != "dtype")
        return f"{self.name!r} is encoded as {dtype}" + (f" with {packing}" if packing else "")

    def _remedy(self) -> str:
        name = self.name.rpartition("/")[2]
        return (
            "The target was not committed. unpack=True (--unpack) stores the values themselves; "
            f"or choose another encoding: ds[{name!r}].encoding. Give resume=False (--no-resume) "
            "with it, if boxes were written already."
        )


def checked(variable: xr.Variable, encoded: xr.Variable, name: str) -> xr.Variable:
    """Return an encoded variable whose blocks are checked when they are computed.

    Parameters
    ----------
    variable : xarray.Variable
        What is encoded.
    encoded : xarray.Variable
        The same, encoded.
    name : str
        Path of the variable, for errors.

    Raises
    ------
    EncodingError
        At once, where the values are in memory and would not survive.
    """
    if not _may_lose(variable, encoded):
        return encoded
    encoding = {k: variable.encoding[k] for k in _PACKING if variable.encoding.get(k) is not None}
    # of the attributes only these change how values are encoded
    attrs = {k: variable.attrs[k] for k in ("units",) if k in variable.attrs}
    check = Check(name, encoding, attrs, exact=_has_to_be_exact(variable, encoded))
    if encoded.chunks is None or variable.chunks is None:
        check(np.asarray(encoded.data), np.asarray(variable.data))
        return encoded
    import dask.array as da

    data = da.map_blocks(
        check,
        encoded.data,
        variable.data,
        dtype=encoded.dtype,
        meta=np.empty((0,) * encoded.ndim, dtype=encoded.dtype),
        name=None,
    )
    return encoded.copy(data=data)


def _has_to_be_exact(variable: xr.Variable, encoded: xr.Variable) -> bool:
    """Tell whether values are cast to another kind, which is no packing and not asked for."""
    ours, theirs = variable.dtype, encoded.dtype
    if variable.shape != encoded.shape or ours == theirs:
        return False
    if ours.kind in "SU" and theirs.kind == ours.kind:
        return bool(theirs.itemsize < ours.itemsize)
    if theirs.kind == "b":
        return ours.kind in "iufc"
    if ours.kind == "c":
        return theirs.kind in "iufc" and bool(theirs.itemsize < ours.itemsize)
    packed = any(variable.encoding.get(k) is not None for k in ("scale_factor", "add_offset"))
    as_integers = ours.kind == "f" and theirs.kind in "iu" and not packed
    return as_integers and is_left(variable.encoding)


def _may_lose(variable: xr.Variable, encoded: xr.Variable) -> bool:
    if _has_to_be_exact(variable, encoded):
        return True
    if variable.dtype.kind not in "iuf" or encoded.dtype.kind not in "iuf":
        return False
    if variable.shape != encoded.shape:
        return False
    fills = [np.asarray(variable.encoding[k]) for k in _FILLS if k in variable.encoding]
    marked = any(f.dtype.kind in "iuf" and not np.isnan(f).any() for f in fills)
    packed = any(variable.encoding.get(k) is not None for k in ("scale_factor", "add_offset"))
    narrowed = not np.can_cast(variable.dtype, encoded.dtype, "safe")
    return marked or packed or narrowed


def _extremes(values: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return the least and the greatest value, NaN behind them if there is any, and how many."""
    low, high = values.min(), values.max()
    if not np.isnan(low):
        return np.array([low, high], dtype=values.dtype), 0
    gaps = sum(int(np.count_nonzero(np.isnan(part))) for part in _parts(values))
    if gaps == values.size:
        return np.array([np.nan], dtype=values.dtype), gaps
    low, high = np.nanmin(values), np.nanmax(values)
    return np.array([low, high, np.nan], dtype=values.dtype), gaps


def _parts(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    if values.ndim == 0 or values.size <= _AT_ONCE:
        yield values
        return
    rows = max(1, _AT_ONCE * values.shape[0] // values.size)
    for start in range(0, values.shape[0], rows):
        yield values[start : start + rows]
