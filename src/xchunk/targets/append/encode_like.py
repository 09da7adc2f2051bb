"""New values in the encoding of an existing array: exactly, or not at all.

Bytes of a stored array with the same encoding are copied as they are. Everything else is
encoded as the array there is, decoded again, and compared: what would wrap, be rounded or go
missing is refused, never written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends.zarr import encode_zarr_variable

from xchunk.errors import EncodingError
from xchunk.sources.decoding import quietly
from xchunk.sources.foreign import holds_objects
from xchunk.stores.adapter import bits
from xchunk.targets.append.existing import Held
from xchunk.targets.encode import Assembled, same_value
from xchunk.targets.validate import decode_like, differing, first_of

_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_TIMES = ("units", "calendar")
#: Bytes up to which values that are not dask's are encoded, and so checked, before it starts.
_AT_ONCE = 32_000_000


def conform(
    variable: xr.Variable, raw: Assembled | None, held: Held, *, decoded: bool = True
) -> Assembled:
    """Return new values of an array as they will be stored in it.

    - ``variable``: as the user has it.
    - ``raw``: the same, where it can be copied as it is stored.
    - ``held``: the existing array.
    - ``decoded``: whether times were decoded when the data were opened.
    - raises `EncodingError` if it is seen already that the array cannot hold the values.
    """
    if variable.dims != held.dims:
        raise EncodingError(
            f"{held.path} has the dims {held.dims} in the store, and {variable.dims} in what is "
            f"to be written. Nothing was written. "
            + (
                f"Transpose it first: ds.transpose{held.dims}."
                if set(variable.dims) == set(held.dims)
                else "Give the data the dims of the store."
            )
        )
    group, _, name = held.path.rpartition("/")
    common: dict[str, Any] = {
        "name": name,
        "group": group,
        "dims": held.dims,
        "shape": variable.shape,
        "dtype": held.info.dtype,
        "attrs": held.info.attrs,
        "encoding": held.info.encoding,
    }
    if raw is not None and raw.ref is not None and _is_stored_alike(raw, variable, held):
        return Assembled(**common, ref=raw.ref, origin=raw.origin, info=raw.info)
    encoder = ExactEncoder.of(variable, held, decoded=decoded)
    data: Any = variable.data
    if variable.chunks is None and variable.size * max(1, variable.dtype.itemsize) <= _AT_ONCE:
        data = encoder(np.asarray(data))
    else:
        import dask.array as da

        data = da.map_blocks(
            encoder,
            (variable if variable.chunks is not None else variable.chunk("auto")).data,
            dtype=held.info.dtype,
            meta=np.empty((0,) * variable.ndim, dtype=held.info.dtype),
        )
    return Assembled(**common, variable=xr.Variable(held.dims, data))


def _is_stored_alike(raw: Assembled, variable: xr.Variable, held: Held) -> bool:
    ours = {**{k: variable.encoding[k] for k in _TIMES if k in variable.encoding}, **raw.attrs}
    theirs = held.decoding
    keys: tuple[str, ...] = _PACKING
    if _is_time(ours) or _is_time(theirs):
        keys = (*_PACKING, *_TIMES)
    elif None not in (ours.get("units"), theirs.get("units")):
        keys = (*_PACKING, "units")
    if _is_duration(ours) != _is_duration(theirs):
        return False
    return raw.dtype == held.info.dtype and all(
        same_value(ours.get(k), theirs.get(k)) for k in keys
    )


def _is_time(attrs: Mapping[str, Any]) -> bool:
    """Return whether xarray would decode an array with these attributes to times."""
    return " since " in str(attrs.get("units", ""))


def _is_duration(attrs: Mapping[str, Any]) -> bool:
    """Return whether xarray would decode an array with these attributes to durations."""
    return str(attrs.get("dtype", "")).startswith("timedelta64")


@dataclass(frozen=True)
class ExactEncoder:
    """Encodes blocks of one variable as an existing array; travels to the workers."""

    path: str
    """Path of the array."""
    dtype: np.dtype[Any]
    """The dtype of the array."""
    attrs: Mapping[str, Any]
    """The attributes of the array that steer decoding; none: values are stored as they are."""

    @classmethod
    def of(cls, variable: xr.Variable, held: Held, *, decoded: bool = True) -> ExactEncoder:
        """Make one, and refuse what is seen to differ before any value is looked at.

        - raises `EncodingError` if kinds of values, units or calendars do not go together.
        """
        stored = held.decoding
        attrs = {k: stored[k] for k in _PACKING if stored.get(k) is not None}
        if _is_time(stored) or variable.dtype.kind == "m":
            attrs |= {k: stored[k] for k in (*_TIMES, "dtype") if k in stored}
        _refuse_other_units(variable, held)
        if not decoded and held.inherited and variable.dtype.kind in "iuf":
            return cls(held.path, held.info.dtype, {})
        if any(k in variable.attrs for k in _PACKING) or _is_time(variable.attrs):
            # opened without decoding: the values are those that are to be stored
            keys = [k for k in (*_PACKING, *_TIMES) if k in attrs or k in variable.attrs]
            for key in keys:
                if not same_value(variable.attrs.get(key), stored.get(key)):
                    raise _differs(held.path, key, variable.attrs.get(key), stored.get(key))
            attrs = {}
        elif variable.size and not _go_together(variable, held):
            raise EncodingError(
                f"{held.path} is stored as {_kind(held)}, which cannot hold {variable.dtype}. "
                "Nothing was written. Convert the data first, for example with astype()."
            )
        return cls(held.path, held.info.dtype, attrs)

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Encode one block.

        - raises `EncodingError` if a value would not be read back as it is.
        """
        if not values.size:
            return np.empty(values.shape, dtype=self.dtype)
        if not self.attrs:
            with quietly():
                try:
                    stored = values.astype(self.dtype)
                    # cast back, an integer that wrapped around would be what it was
                    whole = values.dtype.kind in "iu"
                    back = stored.real if whole else stored.astype(values.dtype)
                except (ValueError, TypeError, OverflowError) as error:
                    raise self._error(str(error)) from error
            self._compare(values, back)
            return stored
        stored = self._encode(values)
        self._compare(values, self._decode(stored, values))
        return stored

    def _encode(self, values: NDArray[Any]) -> NDArray[Any]:
        dims = [f"d{i}" for i in range(values.ndim)]
        encoding = {k: v for k, v in self.attrs.items() if k != "dtype"}
        encoding["dtype"] = self.dtype
        encoding.setdefault("_FillValue", None)
        with quietly():
            try:
                done = encode_zarr_variable(xr.Variable(dims, values, {}, encoding), name="value")
                stored = np.asarray(done.values).astype(self.dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise self._error(" ".join(str(error).split())) from error
        for key in _TIMES:
            if key in self.attrs and not _same_units(done.attrs.get(key), self.attrs[key]):
                raise self._error(
                    f"they need the {key} {done.attrs.get(key)!r}, and the store has "
                    f"{self.attrs[key]!r}"
                )
        return stored

    def _decode(self, stored: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
        try:
            return decode_like(stored, self.attrs, values)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._error(" ".join(str(error).split())) from error

    def _compare(self, values: NDArray[Any], back: NDArray[Any]) -> None:
        wrong = differing(values, back)
        if values.dtype.kind == "f" and not self.attrs and not wrong.any():
            # -0.0 is not 0.0
            wrong = (bits(values) != bits(back.astype(values.dtype))) & ~np.isnan(values)
        elif values.dtype.kind == "c" and back.dtype == values.dtype:
            # NaN is no error, as long as it is the same in both parts
            wrong &= bits(values) != bits(back)
        if not wrong.any():
            return
        at = first_of(wrong)
        raise self._error(f"the value {values[at]!s} would be read back as {back[at]!s}")

    def _error(self, why: str) -> EncodingError:
        said = ", ".join(f"{k}={v!s}" for k, v in self.attrs.items())
        how = f"{self.dtype}" + (f" with {said}" if said else "")
        if "units" in self.attrs:
            remedy = (
                "Rechunk the store to a new one whose times have finer units "
                "(ds.time.encoding['units'] = 'hours since …'), and append to that."
            )
        elif self.attrs and self.dtype.kind != "f":
            remedy = (
                "Write the store anew with unpack=True (--unpack), or round the values to the "
                "packing yourself."
            )
        elif holds_objects(self.dtype):
            remedy = "Give text only, and an empty one where it is missing: .fillna('')."
        else:
            remedy = f"Convert the data yourself, if that is meant: .astype({str(self.dtype)!r})."
        return EncodingError(
            f"{self.path} is stored as {how}, which does not hold the new values exactly: {why}. "
            f"{remedy}"
        )


def _refuse_other_units(variable: xr.Variable, held: Held) -> None:
    ours, theirs = variable.attrs.get("units"), held.info.attrs.get("units")
    if None not in (ours, theirs) and not same_value(ours, theirs):
        raise _differs(held.path, "units", ours, theirs)
    if variable.dtype.kind in "MO" and _is_time(held.decoding):
        calendar, theirs = _calendar(variable), held.decoding.get("calendar", "standard")
        if calendar and _plain(calendar) != _plain(theirs):
            raise _differs(held.path, "calendar", calendar, theirs)


def _calendar(variable: xr.Variable) -> str | None:
    if variable.dtype.kind == "M":
        return "proleptic_gregorian"
    if not variable.size:
        return None
    first = np.asarray(variable[(0,) * variable.ndim].values).item()
    found = getattr(first, "calendar", None)
    return None if found is None else str(found)


def _plain(calendar: Any) -> str:
    """Take for one what differs before 1582 only: the values are compared as well."""
    name = str(calendar).lower()
    same = {
        "gregorian": "standard",
        "proleptic_gregorian": "standard",
        "365_day": "noleap",
        "366_day": "all_leap",
    }
    return same.get(name, name)


def _differs(path: str, key: str, ours: Any, theirs: Any) -> EncodingError:
    if key == "calendar":
        remedy = f"Convert the data to the calendar of the store: ds.convert_calendar({theirs!r})."
    elif key in _TIMES and (_is_time({"units": ours}) or _is_time({"units": theirs})):
        remedy = "Open the data with decode_times=True, so that times are encoded as the store's."
    elif key == "units":
        remedy = "Convert the data to the units of the store, and set their attribute to them."
    else:
        remedy = "Open the data decoded (mask_and_scale=True), so that they are encoded anew."
    return EncodingError(
        f"{path}: {key} is {theirs!r} in the store, and {ours!r} in what is to be written. "
        f"Nothing was written. {remedy}"
    )


def _same_units(a: Any, b: Any) -> bool:
    """Return whether xarray encoded as it was told to; dates it writes in a form of its own."""
    first, second = (str(u).partition(" since ")[0].rstrip("s") for u in (a, b))
    return _plain(first) == _plain(second)


def _go_together(variable: xr.Variable, held: Held) -> bool:
    ours, theirs = variable.dtype.kind, held.info.dtype.kind
    time = _is_time(held.decoding)
    if ours == "M":
        return time or theirs == "M"
    if ours == "m":
        return (not time and "units" in held.decoding) or theirs == "m"
    if ours == "O" and time:
        return True
    strings = "OTSU"
    if ours in strings or theirs in strings:
        return ours in strings and theirs in strings and (ours == "S") == (theirs == "S")
    if time or _is_duration(held.decoding) != _is_duration(variable.attrs):
        return False
    if ours == "b" or theirs == "b":
        return bool(ours == theirs)
    if theirs in "iu" and ours == "f":
        return any(held.info.attrs.get(k) is not None for k in _PACKING)
    return ours in "iufc" and theirs in "iufc" and (ours != "c" or theirs == "c")


def _kind(held: Held) -> str:
    kind = str(held.info.dtype)
    times = _is_time(held.decoding) or _is_duration(held.decoding)
    return f"{kind} ({held.decoding.get('units')})" if times else kind
