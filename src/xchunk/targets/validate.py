"""Validation: what was encoded is decoded again and compared; nothing wraps or goes missing.

The one place that decides whether an encoding holds values, for a new store and for what goes
into an array that exists (`xchunk.targets.append.encode_like`).

An encoding that came with other data (``int16`` with a scale, and then ``ds.t * 1000``) does
not hold every value. Packed, what is beyond its range wraps, and reads back as something else;
NaN without a fill value becomes a number; a number that is packed to the fill value becomes
NaN. xarray says nothing of it.

The least and the greatest value of a block are encoded and decoded by xarray itself: packing
is monotone, so if these two survive, all between them do. That costs two passes over a block.
What is no packing, but another kind of value (strings that are cut off, numbers as booleans,
integers as floats), is compared value by value. So are times, durations and strings, which are
decoded by what steers a reader: no number of them is monotone in what it is read back as.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends.zarr import encode_zarr_variable
from xarray.conventions import decode_cf_variable

from xchunk.errors import EncodingError
from xchunk.sources.decoding import quietly
from xchunk.sources.foreign import holds_objects, sampled_nbytes
from xchunk.sources.provenance import KNOWN_UNITS


def decode_like(
    stored: NDArray[Any], attrs: Mapping[str, Any], values: NDArray[Any]
) -> NDArray[Any]:
    """Decode stored values as a reader does, into the kind of other values.

    - ``stored``: as they are stored.
    - ``attrs``: the attributes that steer decoding.
    - ``values``: what the result is to be compared with; of the same shape.
    - raises `ValueError, TypeError, OverflowError` if they cannot be decoded.
    """
    kind = values.dtype.kind
    kwargs: dict[str, Any] = {"decode_timedelta": kind == "m"}
    if kind == "O" and "units" in attrs:
        kwargs["decode_times"] = xr.coders.CFDatetimeCoder(use_cftime=True)
    dims = [f"d{i}" for i in range(values.ndim)]
    variable = xr.Variable(dims, stored.copy(), _as_read(attrs))
    with quietly():
        found = np.asarray(decode_cf_variable("value", variable, **kwargs).values)
        unit: Any = np.datetime_data(values.dtype)[0] if kind == "M" else None
        if found.dtype.kind != "M" and unit in KNOWN_UNITS:
            # nanoseconds, to which xarray decodes by default, hold the years 1678 to 2262 only
            kwargs["decode_times"] = xr.coders.CFDatetimeCoder(time_unit=unit)
            found = np.asarray(decode_cf_variable("value", variable, **kwargs).values)
    return found


def _as_read(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they come back from JSON, whose numbers have no precision of their own.

    A scale of 32 bits, for one, is read as 64 bits, and decodes to other values.
    """
    kept = {k: v.item() if isinstance(v, np.generic) else v for k, v in attrs.items()}
    return {**kept, **{k: attrs[k] for k in _FILLS if k in attrs}}


def differing(values: NDArray[Any], back: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the values that are read back as others; what is missing in both is the same."""
    if values.dtype.kind == "f" and back.dtype.kind in "fiu":
        if back.dtype.kind != "f" or back.dtype.itemsize > values.dtype.itemsize:
            with np.errstate(all="ignore"):
                back = back.astype(values.dtype)
        return np.asarray((values != back) & ~(np.isnan(values) & np.isnan(back)))
    if values.dtype.kind in "iu" and back.dtype.kind == "f":
        # to compare them, numpy would round the integers as the floats were
        wide: Any = np.int64
        low, high = -(2.0**63), 2.0**63
        if values.dtype.kind == "u":
            wide, low, high = np.uint64, 0.0, 2.0**64
        fits = (back >= low) & (back < high)
        whole = np.where(fits, back, 0).astype(wide)
        return np.asarray(~fits | (whole != values) | (back != np.trunc(back)))
    if values.dtype.kind in "mM":
        if back.dtype.kind != values.dtype.kind:
            return np.asarray(~np.isnat(values))
        return np.asarray((values != back) & ~(np.isnat(values) & np.isnat(back)))
    if "O" in (values.dtype.kind, back.dtype.kind):
        import pandas as pd

        ours, theirs = values.astype(object), back.astype(object)
        missing = np.asarray(pd.isnull(ours)), np.asarray(pd.isnull(theirs))
        wrong: NDArray[np.bool_] = np.asarray(missing[0] != missing[1])
        there = ~(missing[0] | missing[1])
        try:
            wrong[there] = np.asarray(ours[there] != theirs[there], dtype=bool)
        except TypeError:
            # dates of two calendars are not even comparable
            wrong[there] = True
        return wrong
    wrong = np.asarray(values != back)
    return wrong & ~(np.isnan(values) & np.isnan(back)) if values.dtype.kind == "c" else wrong


def first_of(wrong: NDArray[np.bool_]) -> tuple[Any, ...]:
    """Return the index of the first element that is marked."""
    return np.unravel_index(int(np.argmax(wrong)), wrong.shape)


#: What xarray raises where values cannot be encoded; units that it does not know are a KeyError.
CANNOT_ENCODE = (ValueError, TypeError, OverflowError, KeyError, NotImplementedError)

_PACKING = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_FILLS = ("_FillValue", "missing_value")
#: The attributes by which a reader decodes what is no plain number.
_DECODING = (*_PACKING, "units", "calendar", "_Encoding")
#: The kinds of dtype that values of a kind may be stored as; what is not listed is decoded again.
_STORED_AS = {
    **dict.fromkeys("biuf", "biuf"), "c": "biufc", "U": "UOT", "S": "SO",
}  # fmt: skip
#: Elements that are looked at together, so that what is compared takes little memory.
_AT_ONCE = 1 << 20
#: Bytes of strings that are.
_STRINGS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Check:
    """How one variable is encoded, as far as its values depend on it; travels to the workers."""

    name: str
    """Path of the variable, for errors."""
    encoding: Mapping[str, Any]
    """The keys of its encoding that change values."""
    attrs: Mapping[str, Any]
    """The attributes of the variable that change how it is encoded."""
    kind: str = "f"
    """The kind of the values, as numpy abbreviates it."""
    exact: bool = False
    """Whether each value has to be the same once it is cast back: nothing is packed."""
    decoding: Mapping[str, Any] | None = None
    """The attributes by which times, durations and strings are decoded again; None: numbers."""

    def __call__(self, encoded: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
        """Check one block and hand it on.

        - raises `EncodingError` if a value would read back as another one.
        """
        if not values.size:
            return encoded
        if self.decoding is not None:
            most = _at_once(values)
            for stored, part in zip(_parts(encoded, most), _parts(values, most), strict=True):
                self.compare_decoded(stored, part)
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
                    f"{self.which(packed.dtype)}: {filled - gaps} values of one block become "
                    f"{fill!s}, which is the fill value, and would read back as missing. "
                    f"{self.remedy()}"
                )
        return encoded

    def _compare(self, encoded: NDArray[Any], values: NDArray[Any]) -> None:
        for stored, part in zip(_parts(encoded), _parts(values), strict=True):
            if part.dtype.kind in "iu" and stored.dtype.kind in "iuf":
                # cast back, an integer that wrapped around would be what it was
                back = self._with_sign(stored)
                wrong = differing(part, back)
            else:
                with quietly():
                    back = self._with_sign(stored).astype(part.dtype)
                # what is missing is looked at besides
                wrong = np.asarray((part != back) & (part == part))  # noqa: PLR0124
            if wrong.any():
                at = first_of(wrong)
                raise self._error(part[at], back[at], encoded.dtype)

    def _with_sign(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return integers as those that a reader takes them for."""
        kind = {"true": "u", "false": "i"}.get(str(self.encoding.get("_Unsigned")))
        if kind is None or stored.dtype.kind not in "iu":
            return stored
        return stored.view(f"{kind}{stored.dtype.itemsize}")

    def compare_decoded(self, stored: NDArray[Any], values: NDArray[Any]) -> None:
        """Decode stored times, durations or strings again, and compare them with what they were.

        - raises `EncodingError` if a value would read back as another one.
        """
        try:
            back = decode_like(stored, self.decoding or {}, values)
        except CANNOT_ENCODE as error:
            said = " ".join(str(error).split())
            raise EncodingError(
                f"{self.which(stored.dtype)}: its values could not be decoded again ({said}). "
                f"{self.remedy()}"
            ) from error
        wrong = differing(values, back)
        if wrong.any() and back.dtype.kind in "OTSU":
            # strings have nothing that stands for a missing one, which is said beforehand
            wrong &= ~(_is_missing(values) & (_lengths(back) == 0))
        if wrong.any():
            at = first_of(wrong)
            raise self._error(values[at], back[at], stored.dtype)

    def _there_and_back(self, values: NDArray[Any]) -> tuple[xr.Variable, NDArray[Any]]:
        small = xr.Variable("value", values, dict(self.attrs), dict(self.encoding))
        with quietly():  # what xarray and numpy say of values that do not fit is said as an error
            packed = encode_zarr_variable(small, name="value")
            read = xr.Variable(packed.dims, packed.data, _as_read(packed.attrs))
            back = decode_cf_variable("value", read, decode_times=False)
        return packed, back.values

    def _is_same(self, value: Any, found: Any, dtype: np.dtype[Any]) -> bool:
        if np.isnan(value) or np.isnan(found):
            return bool(np.isnan(value) and np.isnan(found))
        if not (np.isfinite(value) and np.isfinite(found)):
            return bool(value == found)
        if value == found:
            return True
        # What is packed is rounded to the nearest step, and decoded with as few digits as it has.
        # Integers without a scale are no packing: nobody has said that values may be rounded.
        packing = [self.encoding.get(key) for key in ("scale_factor", "add_offset")]
        is_packed = dtype.kind in "iu" and packing != [None, None]
        step = abs(float(packing[0] or 1)) if is_packed else 0.0
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
        if value is None or value != value:  # noqa: PLR0124 - NaN and NaT, and nothing else
            none = "NaT" if isinstance(value, np.datetime64 | np.timedelta64) else "NaN"
            said = f"{none} would read back as {found!s}, since there is no _FillValue for it"
            if any(self.encoding.get(key) is not None for key in _FILLS):
                said = (
                    f"{none} would read back as {found!s}, since {dtype} cannot hold the _FillValue"
                )
        else:
            said = f"the value {value!s} does not fit, and would read back as {found!s}"
        return EncodingError(f"{self.which(dtype)}: {said}. {self.remedy()}")

    def which(self, dtype: np.dtype[Any]) -> str:
        """Name the variable and its encoding, for errors."""
        known = dict(self.encoding)
        if self.decoding is not None:
            known |= {k: self.decoding[k] for k in ("units", "calendar") if k in self.decoding}
        packing = ", ".join(f"{k}={v!s}" for k, v in known.items() if k != "dtype")
        return f"{self.name!r} is encoded as {dtype}" + (f" with {packing}" if packing else "")

    def remedy(self) -> str:
        """Say what can be done."""
        name = self.name.rpartition("/")[2]
        how = "unpack=True (--unpack) stores the values themselves; or choose another encoding"
        how += ", with a scale_factor if values may be rounded: "
        if self.kind not in "iuf":
            how = (
                f"ds[{name!r}] = ds[{name!r}].drop_encoding() stores values in an encoding that "
                "holds them; or choose another one: "
            )
        return (
            f"The target was not committed. {how}ds[{name!r}].encoding. Give resume=False "
            "(--no-resume) with it, if boxes were written already."
        )


@dataclass(frozen=True)
class _EncodeTimes:
    """Encodes blocks of times or durations, and decodes them again to compare them."""

    check: Check
    """What compares them."""
    dtype: np.dtype[Any]
    """The dtype that is stored."""

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(values.shape, dtype=self.dtype)
        for stored, part in zip(_parts(out), _parts(values), strict=True):
            if part.size:
                stored[...] = self._encode(part)
                self.check.compare_decoded(stored, part)
        return out

    def _encode(self, values: NDArray[Any]) -> NDArray[Any]:
        decoding = self.check.decoding or {}
        times = {k: decoding[k] for k in ("units", "calendar") if k in decoding}
        encoding = {**self.check.encoding, **times, "dtype": self.dtype}
        small = xr.Variable([f"d{i}" for i in range(values.ndim)], values, {}, encoding)
        why = ""
        with quietly():
            try:
                done = encode_zarr_variable(small, name="value")
                if not _same_units(done.attrs.get("units"), times.get("units"), times):
                    why = f"they need the units {done.attrs.get('units')!r}"
                found = np.asarray(done.values)
            except CANNOT_ENCODE as error:
                why = " ".join(str(error).split())
        if why:
            raise EncodingError(
                f"{self.check.which(self.dtype)}, which does not hold its values: {why}. "
                f"{self.check.remedy()}"
            )
        return found


def _same_units(one: Any, other: Any, times: Mapping[str, Any]) -> bool:
    """Return whether two units of times are the same, however they are spelt."""
    if one == other:
        return True
    attrs = {k: v for k, v in times.items() if k == "calendar"}
    values = np.array([0, 1])
    made = [xr.Variable("x", values, {**attrs, "units": units}) for units in (one, other)]
    try:
        first, second = (xr.decode_cf(xr.Dataset({"t": v}))["t"].values for v in made)
    except CANNOT_ENCODE:
        return False
    return bool(np.array_equal(first, second))


def checked(variable: xr.Variable, encoded: xr.Variable, name: str) -> xr.Variable:
    """Return an encoded variable whose blocks are checked when they are computed.

    - ``variable``: what is encoded.
    - ``encoded``: the same, encoded.
    - ``name``: path of the variable, for errors.
    - raises `EncodingError`: at once, where the values are in memory and would not survive.
    """
    _refuse_another_kind(variable, encoded, name)
    decoding = _decoding_of(variable, encoded)
    if decoding is None and not _may_lose(variable, encoded):
        return encoded
    encoding = {k: variable.encoding[k] for k in _PACKING if variable.encoding.get(k) is not None}
    # of the attributes only these change how values are encoded
    attrs = {k: variable.attrs[k] for k in ("units", "_Unsigned") if k in variable.attrs}
    exact = decoding is None and _has_to_be_exact(variable, encoded)
    check = Check(name, encoding, attrs, variable.dtype.kind, exact, decoding)
    if encoded.chunks is None or variable.chunks is None:
        check(np.asarray(encoded.data), np.asarray(variable.data))
        return encoded
    import dask.array as da

    how: Check | _EncodeTimes = check
    blocks = [encoded.data, variable.data]
    if decoding is not None and encoded.dtype.kind in "iuf":
        # xarray's errors on single blocks would not be ours
        blocks, how = [variable.data], _EncodeTimes(check, encoded.dtype)
    data = da.map_blocks(
        how,
        *blocks,
        dtype=encoded.dtype,
        meta=np.empty((0,) * encoded.ndim, dtype=encoded.dtype),
        name=None,
    )
    return encoded.copy(data=data)


def missing_note(variable: xr.Variable, encoded: xr.Variable) -> list[str]:
    """Say how many strings are missing, which no format of ours tells from empty ones."""
    if variable.dtype.kind not in "OT" or encoded.dtype.kind not in "OTSU":
        return []
    if variable.chunks is not None or any(k in encoded.attrs for k in _FILLS):
        return []
    values = np.asarray(variable.data)
    parts = _parts(values, _at_once(values))
    count = sum(int(np.count_nonzero(_is_missing(part))) for part in parts)
    if not count:
        return []
    note = (
        f"{count} of its strings are missing (None or NaN), for which zarr has no place: they are "
        "stored as empty strings"
    )
    return [note]


def _refuse_another_kind(variable: xr.Variable, encoded: xr.Variable, name: str) -> None:
    """Refuse a dtype in which values become those of another kind: numbers that become text."""
    ours, theirs = variable.dtype, encoded.dtype
    allowed = _STORED_AS.get(ours.kind)
    if allowed is None or theirs.kind in allowed or "_Encoding" in encoded.attrs:
        return
    if variable.shape != encoded.shape:
        return  # text as characters, which are joined again
    short = name.rpartition("/")[2]
    raise EncodingError(
        f"{name!r} holds {ours}, and its encoding asks for {theirs}: its values would be read "
        f"back as another kind of data. Nothing was written. Convert the values, with "
        f"ds[{short!r}].astype(…), or leave the dtype out: del ds[{short!r}].encoding['dtype']."
    )


def _decoding_of(variable: xr.Variable, encoded: xr.Variable) -> dict[str, Any] | None:
    """Return what times, durations and strings are decoded by; None for numbers."""
    if variable.shape != encoded.shape:
        return None
    # of other kinds a fill value alone makes others of what is equal to it
    filled = variable.dtype.kind in "bcSU" and any(k in encoded.attrs for k in _FILLS)
    times = variable.dtype.kind in "mM" or (
        variable.dtype.kind == "O" and encoded.dtype.kind not in "OTSU"
    )
    if not times and not filled and variable.dtype.kind not in "OT":
        return None
    return {k: encoded.attrs[k] for k in _DECODING if k in encoded.attrs}


def _is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    import pandas as pd

    return np.asarray(pd.isnull(values.astype(object)))


def _lengths(strings: NDArray[Any]) -> NDArray[np.int64]:
    flat = [len(s) if isinstance(s, str | bytes) else 1 for s in strings.astype(object).flat]
    return np.array(flat, dtype=np.int64).reshape(strings.shape)


def _has_to_be_exact(variable: xr.Variable, encoded: xr.Variable) -> bool:
    """Return whether values are cast to another kind, which is no packing and not asked for."""
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
    if ours.kind in "iu" and theirs.kind == "f" and not packed:
        # between the least and the greatest one others may be rounded
        return bool(ours.itemsize * 8 > np.finfo(theirs).nmant)
    return ours.kind == "f" and theirs.kind in "iu" and not packed


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


def _at_once(values: NDArray[Any]) -> int:
    """Return how many values are looked at together; fewer of long strings."""
    if not holds_objects(values.dtype):
        return _AT_ONCE
    dims = [f"d{i}" for i in range(values.ndim)]
    nbytes = sampled_nbytes(xr.Variable(dims, values), read=False)
    return max(1, min(_AT_ONCE, _STRINGS_AT_ONCE // nbytes))


def _parts(values: NDArray[Any], most: int = _AT_ONCE) -> Iterator[NDArray[Any]]:
    if values.ndim == 0 or values.size <= most:
        yield values
        return
    rows = max(1, most * values.shape[0] // values.size)
    for start in range(0, values.shape[0], rows):
        yield values[start : start + rows]
