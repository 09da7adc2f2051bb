"""What will be written: each variable as stored bytes or as computed values, with its metadata.

A variable is copied raw, as it is stored, where its lazy array is traced to a box of a stored
array *and* its encoding still says what the store says: then ``to_zarr`` would encode it back
to the very bytes that are stored. Everything else is encoded by xarray, as ``to_zarr`` would.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends.zarr import encode_zarr_variable
from xarray.conventions import CF_RELATED_DATA, encode_dataset_coordinates
from zarr.abc.store import Store

from xchunk.core.chunkspec import sized_chunks
from xchunk.core.grid import Axis
from xchunk.core.units import format_bytes
from xchunk.errors import EncodingError, SourceError
from xchunk.sources import raster
from xchunk.sources.arrays import close_files, expect, open_stored
from xchunk.sources.decoding import decoded_by
from xchunk.sources.foreign import (
    OBJECT_NBYTES,
    as_numpy,
    holds_objects,
    numpy_dtype,
    sampled_nbytes,
)
from xchunk.sources.index_coords import Neighbours, find_twin
from xchunk.sources.joint import UnlikeError
from xchunk.sources.provenance import (
    as_all_are_stored,
    is_given,
    is_left,
    plain,
    reader_name,
    refuse_misread,
    resolved,
    without_stale,
)
from xchunk.sources.refs import FileRef, OneRef, StoredInfo, StoredRef, Traced, ZarrRef
from xchunk.sources.trace import trace
from xchunk.targets.codecs import target_codecs, tidy_codecs
from xchunk.targets.validate import CANNOT_ENCODE, checked, missing_note

#: What packs values, and the filters, which are made for the packed dtype.
_PACKING = (
    "dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "filters",
    "serializer", "fill_value",
)  # fmt: skip
#: Bytes of a block of lazy values: a few stored chunks, and little beside any budget.
_BLOCK = 16_000_000
#: The same of labels that an index generates, of which it makes several copies.
_GENERATED = 1_000_000


def is_packed(variable: xr.Variable) -> bool:
    """Whether a variable's encoding stores its numbers as others than they are."""
    if numpy_dtype(variable.dtype).kind not in "iuf":
        return False
    if any(variable.encoding.get(key) is not None for key in ("scale_factor", "add_offset")):
        return True
    dtype = np.dtype(variable.encoding.get("dtype") or variable.dtype)
    return dtype.kind in "iuf" and dtype.newbyteorder("=") != variable.dtype.newbyteorder("=")


def unpacked(
    ds: xr.Dataset, which: bool | Collection[str]
) -> tuple[xr.Dataset, dict[str, list[str]]]:
    """Take the packing from the encodings of packed variables.

    - ``ds``: it is not changed.
    - ``which``: all of them or none, or those of these names.
    - returns ``ds``: with encodings by which the values are stored as they are.
    - returns ``notes``: what that means for each of them, in words.
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
    from xchunk.sources.xarray_adapter import is_generated, is_lazy

    if not variable.ndim or not is_lazy(variable):
        return variable
    itemsize = variable.dtype.itemsize
    if variable.dtype.kind == "T":
        itemsize = sampled_nbytes(variable, read=True)
    elif variable.dtype.kind not in "iuf":
        return variable
    if variable.size * itemsize <= _BLOCK:
        return variable
    chunks = _stored_chunks(variable, traced)
    if chunks is None:
        aim = _GENERATED if is_generated(variable) else _BLOCK
        blocks = sized_chunks(variable.shape, itemsize, {}, aim)
    else:
        blocks = _whole_chunks(variable.shape, chunks, itemsize)
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
    chunk_keys: Mapping[str, Any] | None = None
    """How chunks are named: ``{"name": "v2", "separator": "/"}``; None: as the format does."""
    is_coord: bool = False
    """Whether the variable is a coordinate."""
    notes: tuple[str, ...] = field(default=())
    """What cannot be kept as it is stored, in words."""
    remarks: tuple[str, ...] = field(default=())
    """What is done with it because it was asked for, in words."""
    object_nbytes: int = OBJECT_NBYTES
    """Bytes of memory for one value, where the dtype does not tell; by a sample."""
    shared_nbytes: int = 0
    """Bytes of computed blocks that dask holds at once, since each is a part of several boxes."""

    @property
    def itemsize(self) -> int:
        """Bytes of memory for one value."""
        return self.object_nbytes if holds_objects(self.dtype) else self.dtype.itemsize

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

    - ``ds``: as the user has it; not computed and not changed.
    - ``zarr_format`` ({2, 3}): the target's format.
    - ``group``: path of the group that the Dataset becomes.
    - ``unpack``: whether packed variables (or these of them) are written as their decoded values.
    - ``homes``: where the group is stored, by what other groups tell
      (`xchunk.sources.index_coords`).
    - raises `EncodingError` if a variable cannot be encoded.
    """
    ds, remarks = unpacked(as_numpy(ds, group), unpack)
    variables, attrs = encode_dataset_coordinates(ds)
    try:
        traces = {name: trace(variable) for name, variable in ds.variables.items()}
        expect(traced.ref for traced in traces.values() if traced is not None)
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
            for dim in (d for d in variable.dims if not isinstance(d, str)):
                raise EncodingError(
                    f"the dim {dim!r} of {name!r} has a name that is no text, as names are in a "
                    f"zarr store; rename it first: ds.rename({{{dim!r}: 'a_plain_name'}})"
                )
            refuse_misread(name, ds.variables[name])
            traced = traces[name] or find_twin(name, ds.variables[name], neighbours)
            one, unlike = None, ""
            try:
                one = _raw(name, group, traced, variable, zarr_format)
            except UnlikeError as error:
                traced, unlike = (
                    None,
                    f"it is encoded anew, and not copied as it is stored: {error}",
                )
            if one is None:
                blocks = as_blocks(variable, traced)
                one = _computed(name, group, blocks, zarr_format, read=traced is not None)
                one = replace(one, notes=(*([unlike] if unlike else []), *one.notes))
            more = _read_note(ds.variables[name]) if traced is None else ()
            one = _with_decoding(one, ds.variables[name], (*remarks.get(name, ()), *more))
            coord = name in ds.coords
            assembled.append(one if not coord else replace(one, is_coord=True))
    finally:
        # netCDF's library fails where a file is opened again beside a handle that stays open
        close_files()
    assembled = _without_repeated_units(assembled)
    return _without_made_up_coordinates(ds, assembled, attrs), dict(attrs)


def _read_note(variable: xr.Variable) -> tuple[str, ...]:
    """Say that a package takes memory which is not known."""
    reader = reader_name(variable)
    if not reader:
        return ()
    said = f"it is read through {reader}, one block at a time: what {reader} holds besides a block"
    return (f"{said} is not known, and the budget does not count it",)


def stored_variables(
    ds: xr.Dataset, *, zarr_format: int, group: str = "", homes: Sequence[OneRef] = ()
) -> dict[str, Assembled]:
    """Assemble those variables only that can be copied as they are stored, by their names."""
    variables, _ = encode_dataset_coordinates(ds)
    out: dict[str, Assembled] = {}
    try:
        traces = {name: trace(variable) for name, variable in ds.variables.items()}
        expect(traced.ref for traced in traces.values() if traced is not None)
        neighbours = Neighbours.of(
            ((ds.variables[name], traced) for name, traced in traces.items() if traced is not None),
            homes,
        )
        for name, variable in variables.items():
            refuse_misread(str(name), ds.variables[name])
            traced = traces[name] or find_twin(str(name), ds.variables[name], neighbours)
            try:
                one = _raw(str(name), group, traced, variable, zarr_format)
            except UnlikeError:
                continue
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
    stored = open_stored(traced.ref)
    info = stored.info
    # what is read without a library is known to be plain numbers
    is_known = info.by_chunk or info.dtype.kind not in "iufc" or not all(info.shape)
    if isinstance(traced.ref, FileRef) and not is_known:
        _refuse_unreadable(name, stored, info)
    # zarr's own times become numbers, as xarray stores times
    if info.shape != traced.stored_shape or info.dtype.hasobject or info.dtype.kind in "TmM":
        return None
    if len(info.shape) != variable.ndim or not _encodes_back(variable, info):
        return None
    attrs = dict(variable.attrs)
    # Decoding may take attributes away that the encoding now holds; they travel as stored.
    for key, value in info.attrs.items():
        if key not in attrs and key in variable.encoding:
            attrs[key] = value
    # what names other variables is an attribute again, read or given
    attrs |= {k: variable.encoding[k] for k in CF_RELATED_DATA if k in variable.encoding}
    own = tidy_codecs({k: variable.encoding[k] for k in _ZARR_KEYS if k in variable.encoding}, name)
    like = info
    if own:
        # a user may have asked for other codecs than the source has, as for to_zarr
        like = replace(info, format=_format_of(own), encoding={**info.encoding, **own})
    # what was asked for has decoded nothing of what is stored
    asked = any((own[k] or ()) != (info.encoding.get(k) or ()) for k in own)
    encoding, notes = target_codecs(like, zarr_format, inherited=not asked)
    attrs, lost = _without_fill_of_strings(attrs, info.dtype, zarr_format)
    notes += lost
    if zarr_format == 3 and info.format.startswith("zarr") and info.fill_value is not None:
        encoding["fill_value"] = variable.encoding.get("fill_value", info.fill_value)
    if not same_value(variable.encoding.get("fill_value"), info.fill_value):
        notes += _without_fill_value(variable.encoding, info.attrs, zarr_format)
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
        chunk_keys=_chunk_keys(variable, info, zarr_format),
        notes=tuple(notes),
    )


def _chunk_keys(
    variable: xr.Variable, info: StoredInfo | None, zarr_format: int
) -> Mapping[str, Any] | None:
    """Report how chunks are to be named: as asked, or as in a source of the same format."""
    asked = variable.encoding.get("chunk_key_encoding")
    if isinstance(asked, Mapping):
        return {**asked, **asked.get("configuration", {})}
    same = info is not None and info.format == f"zarr{zarr_format}"
    return info.chunk_keys if same and info is not None else None


def _is_ragged(variable: xr.Variable) -> bool:
    """Return whether objects are arrays; what is stored says it, or the first of them."""
    said = dict(variable.dtype.metadata or {})
    kind = said.get("vlen", said.get("element_type"))
    if kind is not None or not variable.size:
        return kind not in (None, str, bytes)
    first = np.asarray(variable[(slice(0, 1),) * variable.ndim].values).flat[0]
    return isinstance(first, np.ndarray | list | tuple)


def _ragged(name: str) -> EncodingError:
    return EncodingError(
        f"variable {name!r} is ragged: each of its elements is an array of a length of its own "
        "(HDF5's vlen), which zarr cannot hold. Nothing was written. Leave it out: "
        f"ds.drop_vars({name!r})."
    )


def _refuse_unreadable(name: str, stored: Any, info: StoredInfo) -> None:
    """Read one element: refuse what is ragged, and what HDF5 here does not undo."""
    try:
        first = stored.read([slice(0, 1)] * len(info.shape))
    except (OSError, RuntimeError) as error:  # h5py's, and netCDF4's
        if not info.codecs:
            raise
        way = (
            "open the file with engine='h5netcdf', whose h5py has it"
            if "lzf" in info.codecs
            else "pip install hdf5plugin, and before Python starts: "
            'export HDF5_PLUGIN_PATH=$(python -c "import hdf5plugin as h; print(h.PLUGIN_PATH)")'
        )
        raise SourceError(
            f"variable {name!r} is stored with {' + '.join(info.codecs)}, which the HDF5 here does "
            f"not undo ({error}). Nothing was written. To read it, {way}; or leave it out: "
            f"ds.drop_vars({name!r})."
        ) from error
    if first.dtype.hasobject:
        raise _ragged(name)


def _encodes_back(variable: xr.Variable, info: StoredInfo) -> bool:
    """Return whether xarray would encode the variable to just what is stored."""
    encoding, stored = variable.encoding, info.attrs
    dtype = np.dtype(encoding.get("dtype", variable.dtype)).newbyteorder("=")
    # xarray notes bool for the int8 that netCDF stores it as
    is_bool = stored.get("dtype") == "bool" and dtype.kind == "b"
    if dtype != info.dtype.newbyteorder("=") and not is_bool:
        return False
    # integers that were masked would be floats: a fill value that they do not show masks none
    integers = variable.dtype == info.dtype and info.dtype.kind in "iu"
    for key in _VALUE_KEYS:
        is_unused = integers and key == "_FillValue" and key not in encoding
        if key in variable.attrs or is_unused:
            continue
        if not same_value(encoding.get(key), stored.get(key)):
            return False
    return all(
        key not in stored or key in variable.attrs or same_value(encoding.get(key), stored[key])
        for key in _TIME_KEYS
        if key in encoding or variable.dtype.kind in "mMO"
    )


def same_value(a: Any, b: Any) -> bool:
    """Return whether two values of an encoding, or of an attribute, are the same."""
    if a is None or b is None:
        return a is b
    if isinstance(a, str | bytes) or isinstance(b, str | bytes):
        return bool(a == b)
    try:
        x, y = np.asarray(a), np.asarray(b)
        return x.shape == y.shape and bool(np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"))
    except (TypeError, ValueError):  # objects, and lists of several lengths
        return bool(a == b)


def _decoding_notes(info: StoredInfo) -> list[str]:
    """Report what xarray will decode differently, though the stored values are the same."""
    if info.note:
        return [info.note]
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


def _computed(
    name: str, group: str, variable: xr.Variable, zarr_format: int, *, read: bool
) -> Assembled:
    """Encode a variable; ``read`` tells that its values are known to be those that are stored."""
    read = read or is_given(variable)
    variable, odd = resolved(variable)
    variable, stale = without_stale(variable, read=read)
    variable, mixed = as_all_are_stored(variable, f"{group}/{name}" if group else name)
    said = [*odd, *stale, *mixed]
    if zarr_format == 2 and variable.dtype.kind == "T":
        # xarray would store strings of any length as those of the longest one
        variable = variable.copy(deep=False)
        variable.encoding = {**variable.encoding, "dtype": object}
    if _has_to_be_loaded(variable):
        variable = variable.compute()
    try:
        encoded = _encoded(name, group, variable, zarr_format)
    except EncodingError as error:
        # numbers of a packing take much more room without it, so that it is for the user to say
        if read or not is_left(variable.encoding) or _is_packed(variable):
            raise
        dtype, units = (variable.encoding.get(k) for k in ("dtype", "units"))
        variable = plain(variable)
        try:
            encoded = _encoded(name, group, variable, zarr_format)
        except EncodingError:
            raise error from None
        how = f"{np.dtype(dtype)}" if dtype is not None else "its encoding"
        said.append(
            f"{how}{f' with the units {units!r}' if units else ''}, by which other data were "
            f"stored, does not hold its values, so they are stored as {encoded.dtype}"
            + (f" with the units {encoded.attrs['units']!r}" if "units" in encoded.attrs else "")
        )
    said += missing_note(variable, encoded)
    own = tidy_codecs({k: variable.encoding[k] for k in _ZARR_KEYS if k in variable.encoding}, name)
    notes: list[str] = []
    if own:
        like = StoredInfo((), encoded.dtype, None, None, (), _format_of(own), None, {}, own)
        own, notes = target_codecs(like, zarr_format, inherited=False)
    attrs, lost = _without_fill_of_strings(dict(encoded.attrs), encoded.dtype, zarr_format)
    if zarr_format == 3 and variable.encoding.get("fill_value") is not None:
        own["fill_value"] = variable.encoding["fill_value"]
    lost += _without_fill_value(variable.encoding, encoded.attrs, zarr_format)
    if encoded.dtype.hasobject and not own.get("filters"):
        own.pop("filters", None)  # zarr 2 has one for strings of any length, which is implied
    return Assembled(
        name=name,
        group=group,
        dims=tuple(str(d) for d in encoded.dims),
        shape=encoded.shape,
        dtype=encoded.dtype,
        attrs=attrs,
        encoding=own,
        variable=encoded,
        chunk_keys=_chunk_keys(variable, None, zarr_format),
        notes=(*said, *notes, *lost),
        object_nbytes=sampled_nbytes(encoded, read=read)
        if holds_objects(encoded.dtype)
        else OBJECT_NBYTES,
    )


def _encoded(name: str, group: str, variable: xr.Variable, zarr_format: int) -> xr.Variable:
    """Encode a variable, and have it checked that its values survive."""
    kwargs: dict[str, Any] = {"zarr_format": zarr_format} if _encoder_takes_format() else {}
    try:
        encoded = encode_zarr_variable(variable, name=name, **kwargs)
    except CANNOT_ENCODE as error:
        if variable.dtype.hasobject and _is_ragged(variable):
            raise _ragged(name) from error
        how = "Give values of one of numpy's types"
        if variable.encoding:
            how = (
                f"Look at ds[{name!r}].encoding; ds[{name!r}] = ds[{name!r}].drop_encoding() "
                "writes plain values"
            )
        raise EncodingError(
            f"variable {name!r} cannot be encoded for zarr: {error}. Nothing was written. {how}."
        ) from error
    if encoded.dtype == np.dtype("S1") and encoded.ndim:
        # xarray reads bytes of length 1 as the characters of strings along the last dim
        encoded = encoded.astype("S2")
    if encoded.dtype.hasobject and _is_ragged(encoded):
        raise _ragged(name)
    attrs = encoded.attrs
    encoded.attrs, _ = _without_fill_of_strings(dict(attrs), encoded.dtype, zarr_format)
    out = checked(variable, encoded, f"{group}/{name}" if group else name)
    out.attrs = attrs
    return out


def _has_to_be_loaded(variable: xr.Variable) -> bool:
    """Return whether all values of a variable are looked at to tell what they are.

    xarray's encoder loads objects for that, unless they are dates; what is missing is counted too.
    """
    if variable.dtype.kind != "O" or variable.dtype.metadata or variable.chunks is None:
        return False
    first = variable[(0,) * variable.ndim].values if variable.size else None
    return not hasattr(np.asarray(first).item(), "calendar")


def _with_decoding(one: Assembled, variable: xr.Variable, remarks: Collection[str]) -> Assembled:
    """Say which attributes make readers decode values that are stored as they are.

    Attributes belong to values that were never decoded, and are followed. Those that pack numbers
    are odd beside floats: somebody may have put them there to keep them.
    """
    # a raster's reader shows its scale as attributes, and decodes by them or not, as it is asked
    is_raster = isinstance(one.ref, FileRef) and one.ref.engine == raster.ENGINE
    stored = {} if one.info is None or is_raster else one.info.attrs
    own = {
        k: v for k, v in variable.attrs.items() if k not in stored or not same_value(v, stored[k])
    }
    found = decoded_by({k: v for k, v in own.items() if k in one.attrs}, one.dtype)
    if not found:
        return replace(one, remarks=tuple(remarks))
    which = ", ".join(f"{key}={value!s}" for key, value in found.items())
    said = (
        f"its values are stored as they are, and readers decode them by its attributes: {which}. "
        f"If they are decoded already, take these out of ds[{one.name!r}].attrs"
    )
    shown = variable.dtype.kind if is_raster else one.dtype.kind
    if shown == "f" and any(key in found for key in ("scale_factor", "add_offset")):
        return replace(one, notes=(*one.notes, said), remarks=tuple(remarks))
    return replace(one, remarks=(*remarks, said))


def _is_packed(variable: xr.Variable) -> bool:
    packing = any(variable.encoding.get(k) is not None for k in ("scale_factor", "add_offset"))
    return packing and variable.dtype.kind in "iuf"


def _without_fill_of_strings(
    attrs: dict[Any, Any], dtype: np.dtype[Any], zarr_format: int
) -> tuple[dict[Any, Any], list[str]]:
    """Leave out the ``_FillValue`` of strings of a fixed length, with which xarray opens no v3."""
    if zarr_format != 3 or dtype.kind not in "SU" or "_FillValue" not in attrs:
        return attrs, []
    fill = attrs["_FillValue"]
    note = (
        f"its _FillValue {fill!r} is left out, since xarray opens no zarr 3 array of {dtype} that "
        f"has one: missing strings are read as {fill!r}"
    )
    return {k: v for k, v in attrs.items() if k != "_FillValue"}, [note]


def _without_fill_value(
    encoding: Mapping[str, Any], attrs: Mapping[str, Any], zarr_format: int
) -> list[str]:
    """Say that a fill value is left out: in zarr 2 it would make such values missing ones."""
    asked = encoding.get("fill_value")
    # zarr's default is in the encoding of all that was opened, and says nothing
    if zarr_format != 2 or asked is None or not asked or same_value(asked, attrs.get("_FillValue")):
        return []
    note = (
        f"fill_value={asked!s} is left out: in zarr format 2, xarray reads all values that are "
        "equal to it as missing. Give _FillValue, if they are"
    )
    return [note]


def _format_of(encoding: Mapping[str, Any]) -> str:
    """Report from its codecs which zarr format an encoding was made for."""
    codecs = [*(encoding.get("compressors") or ()), *(encoding.get("filters") or ())]
    return "zarr2" if any(hasattr(c, "get_config") for c in codecs) else "zarr3"
