"""What will be written: each variable as stored bytes or as computed values, with its metadata.

A variable is copied raw, as it is stored, where its lazy array is traced to a box of a stored
array *and* its encoding still says what the store says: then ``to_zarr`` would encode it back
to the very bytes that are stored. Everything else is encoded by xarray, as ``to_zarr`` would.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends.zarr import encode_zarr_variable
from xarray.conventions import encode_dataset_coordinates

from xchunk.errors import EncodingError
from xchunk.storage.checked import checked
from xchunk.storage.codecs import target_codecs
from xchunk.storage.refs import OneRef, StoredRef, Traced
from xchunk.storage.roots import as_all_are_stored
from xchunk.storage.stale import without_stale
from xchunk.storage.stored import StoredInfo, close_files, open_stored
from xchunk.storage.trace import trace
from xchunk.storage.twins import Neighbours, find_twin
from xchunk.storage.unpacked import as_blocks, unpacked

__all__ = ["Assembled", "assemble", "stored_variables"]

# Attributes that decoding moves into the encoding, and that steer how values are decoded.
_VALUE_KEYS = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_TIME_KEYS = ("units", "calendar")
_ZARR_KEYS = ("compressors", "filters", "serializer")


@dataclass(frozen=True)
class Assembled:
    """One variable, ready to be planned and copied."""

    name: str
    """Name in its group."""
    group: str
    """Path of its group; empty for the root."""
    dims: tuple[str, ...]
    """Names of the dims."""
    shape: tuple[int, ...]
    """Elements along each dim."""
    dtype: np.dtype[Any]
    """The dtype that will be stored."""
    attrs: Mapping[str, Any]
    """The attributes that will be stored."""
    encoding: Mapping[str, Any]
    """Codecs and fill value for the target; chunks and shards are added when they are known."""
    ref: StoredRef | None = None
    """Where the stored bytes are copied from; None: the values are computed."""
    origin: tuple[int, ...] = ()
    """First element of the copied box along each axis of the stored array."""
    info: StoredInfo | None = None
    """What the source's store says, where there is a ``ref``."""
    variable: xr.Variable | None = None
    """The encoded values, where there is no ``ref``."""
    is_coord: bool = False
    """Whether the variable is a coordinate."""
    notes: tuple[str, ...] = field(default=())
    """What cannot be kept as it is stored, in words."""
    remarks: tuple[str, ...] = field(default=())
    """What is done with it because it was asked for, in words."""

    @property
    def path(self) -> str:
        """Path of the array in the target's store."""
        return f"{self.group}/{self.name}" if self.group else self.name


def assemble(
    ds: xr.Dataset,
    *,
    zarr_format: int,
    group: str = "",
    unpack: bool | Collection[str] = False,
    homes: Sequence[OneRef] = (),
) -> tuple[list[Assembled], dict[str, Any]]:
    """Assemble every variable of a Dataset, and the attributes of its group.

    Parameters
    ----------
    ds : xarray.Dataset
        As the user has it; not computed and not changed.
    zarr_format : {2, 3}
        The target's format.
    group : str
        Path of the group that the Dataset becomes.
    unpack : bool or collection of str
        Whether packed variables (or these of them) are written as their decoded values.
    homes : sequence
        Where the group is stored, by what other groups tell (`xchunk.storage.twins`).

    Raises
    ------
    EncodingError
        If a variable cannot be encoded.
    """
    ds, remarks = unpacked(ds, unpack)
    variables, attrs = encode_dataset_coordinates(ds)
    try:
        traces = {name: trace(variable) for name, variable in ds.variables.items()}
        neighbours = Neighbours.of(
            ((ds.variables[name], traced) for name, traced in traces.items() if traced is not None),
            homes,
        )
        assembled = []
        for name, variable in variables.items():
            if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
                raise EncodingError(
                    f"the variable name {name!r} cannot be a path in a zarr store; rename it "
                    f"first: ds.rename({{{name!r}: 'a_plain_name'}})"
                )
            traced = traces[name] or find_twin(name, ds.variables[name], neighbours)
            one = _raw(name, group, traced, variable, zarr_format)
            if one is None:
                one = _computed(name, group, as_blocks(variable, traced), zarr_format)
            one = replace(one, remarks=tuple(remarks.get(name, ())))
            coord = name in ds.coords
            assembled.append(one if not coord else replace(one, is_coord=True))
    finally:
        # netCDF's library fails where a file is opened again beside a handle that stays open
        close_files()
    assembled = _without_repeated_units(assembled)
    return _without_made_up_coordinates(ds, assembled, attrs), dict(attrs)


def stored_variables(ds: xr.Dataset, *, zarr_format: int, group: str = "") -> dict[str, Assembled]:
    """Assemble those variables only that can be copied as they are stored, by their names."""
    variables, _ = encode_dataset_coordinates(ds)
    out: dict[str, Assembled] = {}
    try:
        traces = {name: trace(variable) for name, variable in ds.variables.items()}
        neighbours = Neighbours.of(
            (ds.variables[name], traced) for name, traced in traces.items() if traced is not None
        )
        for name, variable in variables.items():
            traced = traces[name] or find_twin(str(name), ds.variables[name], neighbours)
            one = _raw(str(name), group, traced, variable, zarr_format)
            if one is not None:
                out[str(name)] = one
    finally:
        close_files()
    return out


def _without_repeated_units(assembled: list[Assembled]) -> list[Assembled]:
    """Take back from computed bounds the units that they share with what they bound.

    CF lets bounds have none, xarray decodes them by their parent's, and encodes them with a
    copy of its own.
    """
    by_name = {one.name: one for one in assembled}
    parents = {str(p.attrs["bounds"]): p for p in assembled if "bounds" in p.attrs}
    for name, parent in parents.items():
        one = by_name.get(name)
        if one is None or one.ref is not None:
            continue
        shared = {k for k in _TIME_KEYS if k in one.attrs and one.attrs[k] == parent.attrs.get(k)}
        by_name[name] = replace(one, attrs={k: v for k, v in one.attrs.items() if k not in shared})
    return list(by_name.values())


def _without_made_up_coordinates(
    ds: xr.Dataset, assembled: list[Assembled], attrs: Mapping[Any, Any]
) -> list[Assembled]:
    """Take back the ``coordinates`` that xarray gives to variables that are stored without.

    They are needed only where no other variable names a coordinate as one.
    """
    kept, made_up = [], set()
    for one in assembled:
        original = ds.variables[one.name]
        said = "coordinates" in original.attrs or "coordinates" in original.encoding
        if not said and "coordinates" in one.attrs:
            made_up.add(one.name)
        else:
            kept.append(str(one.attrs.get("coordinates", "")))
    named = set(" ".join([*kept, str(attrs.get("coordinates", ""))]).split())
    if not {str(c) for c in set(ds.coords) - set(ds.dims)} <= named:
        return assembled
    return [
        replace(one, attrs={k: v for k, v in one.attrs.items() if k != "coordinates"})
        if one.name in made_up
        else one
        for one in assembled
    ]


def _raw(
    name: str, group: str, traced: Traced | None, variable: xr.Variable, zarr_format: int
) -> Assembled | None:
    if traced is None or not traced.is_box:
        return None
    info = open_stored(traced.ref).info
    if info.shape != traced.stored_shape or info.dtype.hasobject or info.dtype.kind == "T":
        return None
    if len(info.shape) != variable.ndim or not _encodes_back(variable, info):
        return None
    attrs = dict(variable.attrs)
    # Decoding may take attributes away that the encoding now holds; they travel as stored.
    for key, value in info.attrs.items():
        if key not in attrs and key in variable.encoding:
            attrs[key] = value
    own = {k: variable.encoding[k] for k in _ZARR_KEYS if k in variable.encoding}
    like = info
    if own:
        # a user may have asked for other codecs than the source has, as for to_zarr
        like = replace(info, format=_format_of(own), encoding={**info.encoding, **own})
    encoding, notes = target_codecs(like, zarr_format)
    if zarr_format == 3 and info.format.startswith("zarr") and info.fill_value is not None:
        encoding["fill_value"] = info.fill_value
    notes += _decoding_notes(info)
    return Assembled(
        name=name,
        group=group,
        dims=tuple(str(d) for d in variable.dims),
        shape=tuple(p.count for p in traced.axes),
        dtype=info.dtype,
        attrs=attrs,
        encoding=encoding,
        ref=traced.ref,
        origin=tuple(p.start for p in traced.axes),
        info=info,
        notes=tuple(notes),
    )


def _encodes_back(variable: xr.Variable, info: StoredInfo) -> bool:
    """Tell whether xarray would encode the variable to just what is stored."""
    encoding, stored = variable.encoding, info.attrs
    dtype = np.dtype(encoding.get("dtype", variable.dtype)).newbyteorder("=")
    # xarray notes bool for the int8 that netCDF stores it as
    is_bool = stored.get("dtype") == "bool" and dtype.kind == "b"
    if dtype != info.dtype.newbyteorder("=") and not is_bool:
        return False
    for key in _VALUE_KEYS:
        if key in variable.attrs:
            continue
        if not _same(encoding.get(key), stored.get(key)):
            return False
    return all(
        key not in stored or key in variable.attrs or _same(encoding.get(key), stored[key])
        for key in _TIME_KEYS
        if key in encoding or variable.dtype.kind in "mMO"
    )


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, str | bytes) or isinstance(b, str | bytes):
        return bool(a == b)
    try:
        x, y = np.asarray(a), np.asarray(b)
        return x.shape == y.shape and bool(np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"))
    except TypeError:
        return bool(a == b)


def _decoding_notes(info: StoredInfo) -> list[str]:
    """Report what xarray will decode differently, though the stored values are the same."""
    packing = [info.attrs.get(k) for k in ("scale_factor", "add_offset")]
    narrow = [v for v in packing if isinstance(v, np.generic | np.ndarray) and v.dtype == "f4"]
    if narrow and info.dtype.kind in "iu":
        note = (
            "its float32 scale_factor or add_offset becomes a JSON number, so that xarray "
            "decodes the copy as float64; the stored integers are the same"
        )
        return [note]
    return []


@cache
def _encoder_takes_format() -> bool:
    return "zarr_format" in inspect.signature(encode_zarr_variable).parameters


def _computed(name: str, group: str, variable: xr.Variable, zarr_format: int) -> Assembled:
    variable, stale = without_stale(variable)
    variable, mixed = as_all_are_stored(variable)
    if zarr_format == 2 and variable.dtype.kind == "T":
        # xarray would store strings of any length as those of the longest one
        variable = variable.copy(deep=False)
        variable.encoding = {**variable.encoding, "dtype": object}
    kwargs: dict[str, Any] = {"zarr_format": zarr_format} if _encoder_takes_format() else {}
    try:
        encoded = encode_zarr_variable(variable, name=name, **kwargs)
    except (ValueError, TypeError, OverflowError) as error:
        raise EncodingError(
            f"variable {name!r} cannot be encoded for zarr: {error}. Nothing was written. "
            f"Look at ds[{name!r}].encoding; ds[{name!r}].drop_encoding() writes plain values."
        ) from error
    if encoded.dtype == np.dtype("S1") and encoded.ndim:
        # xarray reads bytes of length 1 as the characters of strings along the last dim
        encoded = encoded.astype("S2")
    encoded = checked(variable, encoded, f"{group}/{name}" if group else name)
    own = {k: variable.encoding[k] for k in _ZARR_KEYS if k in variable.encoding}
    notes: list[str] = []
    if own:
        like = StoredInfo((), encoded.dtype, None, None, (), _format_of(own), None, {}, own)
        own, notes = target_codecs(like, zarr_format)
    if encoded.dtype.hasobject and not own.get("filters"):
        own.pop("filters", None)  # zarr 2 has one for strings of any length, which is implied
    return Assembled(
        name=name,
        group=group,
        dims=tuple(str(d) for d in encoded.dims),
        shape=encoded.shape,
        dtype=encoded.dtype,
        attrs=dict(encoded.attrs),
        encoding=own,
        variable=encoded,
        notes=(*stale, *mixed, *notes),
    )


def _format_of(encoding: Mapping[str, Any]) -> str:
    """Tell from its codecs which zarr format an encoding was made for."""
    codecs = [*(encoding.get("compressors") or ()), *(encoding.get("filters") or ())]
    return "zarr2" if any(hasattr(c, "get_config") for c in codecs) else "zarr3"
