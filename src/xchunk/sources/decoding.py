"""Stored values decoded by their attributes, as the reader of a store will see them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import decode_cf_variable

#: Attributes by which stored values become others when they are read.
DECODING_KEYS = (
    "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "_Encoding",
)  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """How stored values are decoded to be compared with those that a user has."""

    attrs: Mapping[str, Any]
    """The attributes of the stored array, with what it inherits from what it bounds."""
    dtype: np.dtype[Any]
    """The dtype of the user's values."""

    def __call__(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Decode stored values to the user's dtype, or to another one that they need.

        - raises `ValueError, TypeError, OverflowError` if they cannot be decoded.
        """
        found = np.asarray(stored)
        if found.dtype.kind not in "mM" and found.size:
            found = self._decode(found)
        if found.dtype == self.dtype or found.dtype.kind != self.dtype.kind:
            return found
        with np.errstate(all="ignore"):
            cast = found.astype(self.dtype)
            lost = (cast.astype(found.dtype) != found) & ~np.isnat(found)
        return found if lost.any() else cast

    def _decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        dims = [f"d{i}" for i in range(stored.ndim)]
        kwargs: dict[str, Any] = {"decode_timedelta": self.dtype.kind == "m"}
        if self.dtype.kind == "O" and is_time(self.attrs):
            kwargs["decode_times"] = xr.coders.CFDatetimeCoder(use_cftime=True)
        elif self.dtype.kind == "M":
            unit = np.datetime_data(self.dtype)[0]
            if unit in ("s", "ms", "us", "ns"):
                coder = xr.coders.CFDatetimeCoder(use_cftime=False, time_unit=unit)  # type: ignore[arg-type]
                kwargs["decode_times"] = coder
        with quietly():
            variable = xr.Variable(dims, stored.copy(), dict(self.attrs))
            return np.asarray(decode_cf_variable("value", variable, **kwargs).values)


class _Filters:
    """The filters of warnings, for as long as any thread wants none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._stack = ExitStack()

    def set(self) -> None:
        with self._lock:
            if not self._threads:
                self._stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._threads += 1

    def take_back(self) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._stack.close()


_filters = _Filters()


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what xarray and numpy say of values that are compared afterwards anyhow.

    Filters of warnings are those of all threads. With `warnings.catch_warnings` in two threads, the
    one that ends last would put back the other's filters, for good. So the first thread sets them
    here, and the last takes them back.
    """
    _filters.set()
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _filters.take_back()


def decoded_by(attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the attributes by which a reader makes other values of those that are stored.

    - ``attrs``: attributes that travel with the values as they are.
    - ``dtype``: the dtype of the values.
    """
    if dtype.kind not in "iufbS":
        return {}
    keys = (*DECODING_KEYS, "dtype", "units")
    return {k: attrs[k] for k in keys if k in attrs and _is_decoded(k, attrs, dtype)}


def _is_decoded(key: str, attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> bool:
    """Return whether a value with one of the attributes is read as another, or not at all."""
    # the largest of an unsigned integer, and -1 of others
    sample = np.full(1, -1).astype(dtype) if dtype.kind in "iufb" else np.full(1, b"a", dtype)
    if key in ("_FillValue", "missing_value"):
        with suppress(TypeError, ValueError, OverflowError):
            sample = np.asarray(attrs[key]).reshape(-1)[:1].astype(dtype)
    with_it = {key, "calendar"} if key == "units" else {key, "units"} if key == "dtype" else {key}
    kept = {k: attrs[k] for k in with_it if k in attrs}
    if key == "dtype" and "units" in kept and str(attrs[key]).startswith("timedelta64"):
        return True
    try:
        found = Decoding(kept, dtype)(sample)
    except (ValueError, TypeError, OverflowError, KeyError, AttributeError):
        return True
    is_float = dtype.kind == "f"  # numpy asks no text whether it is NaN
    return found.dtype.kind != dtype.kind or not np.array_equal(found, sample, equal_nan=is_float)


def is_time(attrs: Mapping[str, Any]) -> bool:
    """Return whether xarray would decode an array with these attributes to times."""
    return " since " in str(attrs.get("units", ""))


def same_attribute(a: Any, b: Any) -> bool:
    """Return whether two attributes are the same once they are JSON."""
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
            return False
        ours, theirs = ({str(k): v for k, v in m.items()} for m in (a, b))
        return ours.keys() == theirs.keys() and all(
            same_attribute(v, theirs[k]) for k, v in ours.items()
        )
    try:
        x, y = np.asarray(a), np.asarray(b)
    except ValueError:  # lists of several lengths
        return bool(a == b)
    if x.dtype.kind in "fc" and y.dtype.kind in "fciu":
        return x.size == y.size and bool(np.array_equal(x.ravel(), y.ravel(), equal_nan=True))
    # JSON has no scalars of length one apart from scalars, and no numpy
    return bool(x.ravel().tolist() == y.ravel().tolist())


def common_packing(
    packings: Sequence[tuple[np.dtype[Any], float, float]],
) -> dict[str, Any] | None:
    """Find one packing into integers for the values of several, at the finest of their steps.

    - ``packings``: the dtype, the scale and the offset of each.
    - returns: the encoding: its dtype, ``scale_factor``, ``add_offset`` and ``_FillValue``. None
      where one of them does not pack integers, or no integers of 32 bits hold all values.
    """
    if not packings or any(t.kind not in "iu" or not s for t, s, _ in packings):
        return None
    # the values that the least and the greatest integer of each stand for
    limits = [(np.iinfo(t), s, o) for t, s, o in packings]
    ends = [float(n) * s + o for t, s, o in limits for n in (t.min, t.max)]
    _, finest, offset = min(packings, key=lambda p: abs(p[1]))
    scale = abs(finest)
    for dtype in ("int16", "int32"):
        most = np.iinfo(dtype).max
        # the least integer is the fill value
        if all(abs((end - offset) / scale) <= most for end in ends):
            fill = -int(most) - 1
            return {
                "dtype": dtype, "scale_factor": scale, "add_offset": offset, "_FillValue": fill,
            }  # fmt: skip
    return None
