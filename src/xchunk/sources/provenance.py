"""What a dask array was opened from, where that is more than one stored array.

Of files that are put together, xarray keeps the encoding of the first. Packed with its scale, or
cast to its dtype, the values of the others may be rounded or wrap around; so it has to be known
whether all were stored alike.

xarray keeps the encoding of what was read when new data are put in its place
(``ds.a.data = ds.a.data * 1j``). By it, ``to_zarr`` would drop the imaginary parts, make numbers
booleans, and cut strings off, without a word. Where what is shown cannot have been read by the
encoding, the encoding is not that of the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from xchunk.errors import EncodingError, SourceError, TargetExistsError
from xchunk.sources.arrays import open_stored
from xchunk.sources.decoding import common_packing
from xchunk.sources.joint import JoinedArray, Pieces
from xchunk.sources.refs import FileRef, OneRef, StoredRef, ZarrRef, ones_of
from xchunk.sources.versions import place_of_part, token_of_values
from xchunk.stores.overlay import Unpublished, innermost
from xchunk.stores.stores import describe, is_zarr, overlaps

if TYPE_CHECKING:
    import dask.array as da

#: What says how values are stored, and so holds for the data that are stored like that.
VALUE_KEYS = (
    "dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units",
    "filters", "serializer",
)  # fmt: skip
#: The units of times that xarray decodes to, and coarser ones, which it converts to seconds.
KNOWN_UNITS = ("s", "ms", "us", "ns")
_COARSE = ("Y", "M", "W", "D", "h", "m")
#: What only reading a file or store puts into an encoding: without it, a user has made it anew.
READ_KEYS = ("preferred_chunks", "source", "original_shape")


def is_left(encoding: Mapping[Any, Any]) -> bool:
    """Return whether an encoding was left by reading a file or store."""
    return any(k in encoding for k in READ_KEYS) and any(k in encoding for k in VALUE_KEYS)


def plain(variable: xr.Variable) -> xr.Variable:
    """Return a variable whose encoding says nothing of how its values are stored."""
    out = variable.copy(deep=False)
    out.encoding = {k: v for k, v in variable.encoding.items() if k not in VALUE_KEYS}
    out.encoding.pop("calendar", None)
    return out


def resolved(variable: xr.Variable) -> tuple[xr.Variable, list[str]]:
    """Resolve what xarray does not encode although it reads it.

    - returns: the variable, and a note on what is left out of its encoding.
    - raises `EncodingError` if its times have steps that xarray does not know.
    """
    if variable.dtype.kind in "mM":
        return _with_known_steps(variable)
    encoding = variable.encoding
    fill, other = encoding.get("_FillValue"), encoding.get("missing_value")
    if fill is None and other is None and "_Unsigned" in encoding and variable.dtype.kind in "iu":
        # xarray moves it to the attributes together with a fill value only
        out = variable.copy(deep=False)
        out.encoding = {k: v for k, v in encoding.items() if k != "_Unsigned"}
        out.attrs = {**variable.attrs, "_Unsigned": encoding["_Unsigned"]}
        return out, []
    if fill is None or other is None or _is_one(fill, other):
        return variable, []
    out = variable.copy(deep=False)
    out.encoding = {k: v for k, v in encoding.items() if k != "missing_value"}
    note = (
        f"its missing_value {other!s} is left out: all that is missing is stored as the "
        f"_FillValue {fill!s}"
    )
    return out, [note]


def _with_known_steps(variable: xr.Variable) -> tuple[xr.Variable, list[str]]:
    """Take from times what only zarr's own have: steps of several units, a date as fill value."""
    said = {**variable.attrs, **variable.encoding}
    native = [k for k in ("dtype", "_FillValue") if np.asarray(said.get(k)).dtype.kind in "mM"]
    if "dtype" in variable.encoding and np.dtype(variable.encoding["dtype"]).kind in "mM":
        native.append("dtype")
    unit, count = np.datetime_data(variable.dtype)
    odd = count != 1 or unit not in (*_COARSE, *KNOWN_UNITS)
    if not native and not odd:
        return variable, []
    out = variable.copy(deep=False)
    if odd:
        known = f"{variable.dtype.kind}8[{unit if unit in KNOWN_UNITS else 's'}]"
        if unit not in (*_COARSE, *KNOWN_UNITS) or (variable.dtype.kind == "m" and unit in "YM"):
            raise EncodingError(
                f"times with steps of {variable.dtype} are not known to xarray, which would store "
                f"others. Nothing was written. Convert them first: .astype({known!r})."
            )
        out = variable.astype(known)
    out.attrs = {k: v for k, v in variable.attrs.items() if k not in native}
    out.encoding = {k: v for k, v in variable.encoding.items() if k not in native}
    note = (
        f"its times, which zarr stores as {variable.dtype}, are stored as numbers with units, as "
        "xarray stores times"
    )
    return out, [note]


def _is_one(fill: Any, other: Any) -> bool:
    try:
        return bool(np.all(np.isclose(np.ravel(fill), np.ravel(other), equal_nan=True)))
    except (TypeError, ValueError):
        return bool(np.all(np.ravel(fill) == np.ravel(other)))


#: Where rioxarray keeps what differs between the bands of a raster, which no encoding can say.
_OF_BANDS = ("scales", "offsets")


def without_stale(variable: xr.Variable, *, read: bool = False) -> tuple[xr.Variable, list[str]]:
    """Take from a variable's encoding what is of other data than it shows.

    - ``read``: whether its values are those that were read, so that an encoding which says
      otherwise has been given by the user.
    - returns: the variable, whose values are then stored as they are, and a note that says so, or
      that they are stored with fewer digits.
    """
    encoding = variable.encoding
    if "dtype" not in encoding or not is_left(encoding):
        return variable, []
    stored = np.dtype(encoding["dtype"])
    if any(encoding.get(k) is not None for k in _OF_BANDS) and variable.dtype.kind == "f":
        note = (
            f"each of its bands has a scale or an offset of its own, so its values are stored as "
            f"they are, as {variable.dtype}"
        )
        return plain(variable), [note]
    if _may_show(encoding, variable.dtype):
        packed = any(encoding.get(k) is not None for k in ("scale_factor", "add_offset"))
        shown = variable.dtype
        rounded = shown.kind == stored.kind == "f" and stored.itemsize < shown.itemsize
        if packed or not (rounded or (shown.kind in "iu" and stored.kind == "f")):
            return variable, []
        if read:
            said = f"its {shown} values are rounded to {stored}, which its encoding says"
            return variable, [said] if rounded else []
        # floats are not shown with more digits than they are stored with, nor as integers
    note = (
        f"its encoding is that of other data, stored as {stored}, so its values are stored as "
        f"they are, as {variable.dtype}"
    )
    if _may_show(encoding, variable.dtype):
        note += f"; .astype({str(stored)!r}) converts them"
    return plain(variable), [note]


def _may_show(encoding: Mapping[Any, Any], shown: np.dtype[Any]) -> bool:
    """Return whether data that are stored by an encoding may be shown as a dtype.

    Numbers of another width may: a user may have set the dtype, and they are checked.
    """
    stored = np.dtype(encoding["dtype"])
    ours, theirs = shown.kind, stored.kind
    dated = " since " in str(encoding.get("units", ""))
    if ours in "mM":
        return ours == theirs or (dated if ours == "M" else "units" in encoding and not dated)
    if ours == "O" and theirs in "iuf":
        return dated
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


#: xarray's, and thereby dask's, name of the layer that holds what was opened.
_OPENED = "original-"


def unlike(variable: xr.Variable) -> tuple[str, OneRef | None] | None:
    """Report which arrays a variable was put together from are stored in different ways.

    - ``variable``: the variable; its data are neither read nor computed.
    - returns: two of them, in words, and the first of all; None where it was opened from one array,
      from several that are stored alike, or where that cannot be told.
    """
    first: tuple[Any, OneRef | None] | None = None
    alike = True
    for node in _opened(variable):
        array = getattr(node, "value", node)
        joined = isinstance(array, JoinedArray)
        alike = alike and (not joined or array.is_stored_alike)
        for one in array.variables.flat if joined else (array,):
            found = _stored(one)
            first = first or found
            if found[0] != first[0]:
                names = [place_of_part(r) if r else "one of them" for r in (found[1], first[1])]
                return " is unlike ".join(names), first[1]
    return None if alike or first is None else ("one of them is unlike the others", first[1])


def reader_name(variable: xr.Variable) -> str:
    """Name the package that reads a variable, where only that can tell how it is stored.

    - ``variable``: the variable, of which no stored array is known; nothing of it is read.
    - returns: empty where its values are in memory, or computed from arrays that are known.
    """
    try:
        from xchunk.sources.xarray_adapter import unknown_backend

        held = [variable] if variable.chunks is None else _opened(variable)
        parts = (p for item in held for p in _parts_of(getattr(item, "value", item)))
        return next(filter(None, map(unknown_backend, parts)), "")
    # Private parts of other libraries may fail in any way once they change.
    except Exception:  # noqa: BLE001
        return ""


def is_given(variable: xr.Variable) -> bool:
    """Return whether a user has given a dtype: what was opened is stored in others, as is known."""
    if not is_left(variable.encoding) or "dtype" not in variable.encoding:
        return False
    dtype = np.dtype(variable.encoding["dtype"])
    if dtype.kind not in "iufc":
        return False
    found = {_stored(getattr(node, "value", node))[0] for node in _opened(variable)}
    dtypes = {stored[0] for stored in found if stored is not None}
    return bool(dtypes) and None not in found and dtype.newbyteorder("=").str not in dtypes


def _opened(variable: xr.Variable) -> Iterator[Any]:
    """Yield what the layers of a dask array hold that was opened."""
    if variable.chunks is None:
        return
    layers = getattr(getattr(variable.data, "dask", None), "layers", None) or {}
    for name, layer in layers.items():
        if str(name).startswith(_OPENED):
            yield from dict(layer).values()


def _stored(array: Any) -> tuple[tuple[str, ...] | None, OneRef | None]:
    """Say how an array is stored: its dtype, and each step of its decoding; and where."""
    try:
        from xchunk.sources.xarray_adapter import lazy_part, lazy_part_of, reference

        value: Any = lazy_part_of(array) if isinstance(array, xr.Variable) else lazy_part(array)
        ref, dtype = reference(value)
        kind = np.dtype(dtype).newbyteorder("=").str
        return (kind, *(d.text for d in value.decoders)), ref
    # Private parts of other libraries may fail in any way; what is not known is like nothing known.
    except Exception:  # noqa: BLE001
        return None, None


def _is_that_of(encoding: Mapping[Any, Any], ref: OneRef) -> bool:
    """Return whether an encoding is that of a stored array: not all backends leave other traces."""
    try:
        info = open_stored(ref).info
    except SourceError:
        return False
    same = all(
        np.array_equal(encoding.get(k, np.nan), info.attrs.get(k, np.nan), equal_nan=True)
        for k in ("scale_factor", "add_offset", "_FillValue", "missing_value")
    )
    return same and np.dtype(encoding.get("dtype", info.dtype)).newbyteorder(
        "="
    ) == info.dtype.newbyteorder("=")


def as_all_are_stored(variable: xr.Variable, name: str) -> tuple[xr.Variable, list[str]]:
    """Take from a variable's encoding what does not hold for all that it was put together from.

    - ``name``: its name, in a tree with the path of its group.
    - returns: the variable, whose values are then stored as they are, and a note that says so.
    """
    encoding = variable.encoding
    found = unlike(variable) if encoding else None
    if found is None:
        return variable, []
    differ, first = found
    given = any(k in encoding for k in VALUE_KEYS) and not is_left(encoding)
    if given and not (first and _is_that_of(encoding, first)):
        return variable, []
    note = (
        "it was put together from arrays that are stored in different ways (dtype, packing, units "
        f"or fill value: {differ}), so its values are stored as they are, as {variable.dtype}"
    )
    return plain(variable), [note + _one_packing(name, variable)]


def _one_packing(name: str, variable: xr.Variable) -> str:
    """Name a packing by which a variable can be written that was put together from several."""
    packings: dict[tuple[Any, ...], None] = {}
    for node in _opened(variable):
        array = getattr(node, "value", node)
        for one in array.variables.flat if isinstance(array, JoinedArray) else (array,):
            found = _packing(one)
            if found is None:
                return ""
            packings[found] = None
    common = common_packing([*packings])
    if common is None:
        return ""
    return (
        f". To write packed integers, use ds[{name!r}].encoding = {common!r}: values are then "
        f"rounded to steps of {common['scale_factor']!r}, the finest of the arrays' steps"
    )


def _packing(array: Any) -> tuple[np.dtype[Any], float, float] | None:
    """Read how an array is packed: its dtype, scale and offset; None where it is something else."""
    try:
        from xchunk.sources.xarray_adapter import lazy_part, lazy_part_of, reference

        value: Any = lazy_part_of(array) if isinstance(array, xr.Variable) else lazy_part(array)
        *others, last = value.decoders
        known = {"_apply_mask", "NativeEndiannessArray"}
        if last.name != "_scale_offset_decoding" or not {d.name for d in others} <= known:
            return None
        scale, offset = (last.func.keywords.get(key) for key in ("scale_factor", "add_offset"))
        dtype = np.dtype(reference(value)[1])
        return dtype, float(1 if scale is None else scale), float(0 if offset is None else offset)
    # As in `_stored`.
    except Exception:  # noqa: BLE001
        return None


def made_from(array: da.Array) -> tuple[list[OneRef], list[str]]:
    """Report what the blocks of a dask array are computed from, as far as that is known.

    dask's name of an array says what is done, and to which place: it does not change where a
    store is written anew, or where the data of an earlier computation are kept in memory.

    - returns ``refs``: where it is stored, without repetitions.
    - returns ``tokens``: what else tells values apart: digests of those in memory, clients that
      hold others.
    """
    refs: dict[Any, OneRef] = {}
    tokens: list[str] = []
    try:
        from xchunk.sources.dask_adapter import held_by

        # an array may be held by each task that reads from it
        items = list({id(item): item for item in held_by(array)}.values())
        for place in _places(items):
            if isinstance(place, np.ndarray):
                tokens.append(token_of_values(place))
            elif isinstance(place, str):
                tokens.append(place)
            else:
                refs.setdefault(_key(place), place)
    # Private parts of other libraries may fail in any way once they change.
    except Exception:  # noqa: BLE001
        return list(refs.values()), sorted(tokens)
    return list(refs.values()), sorted(tokens)


def _is_plain_folder(store: Store) -> bool:
    """Return whether only our overlay makes a folder with arrays a zarr group."""
    return isinstance(store, Unpublished) and not is_zarr(innermost(store))


def refuse_own_roots(
    name: str,
    ref: StoredRef | None,
    variable: xr.Variable | None,
    target: Store,
    written: Collection[str] | None = None,
) -> None:
    """Refuse to write where the values are read from, however they are computed from it.

    A box would read what other boxes have written. In memory, and where what is there is deleted
    first, the source would be gone before it is read.

    - ``name``: the variable, as an error calls it.
    - ``ref``: where the variable is stored; None where its values are computed.
    - ``variable``: the variable, where its values are computed; nothing of it is computed here.
    - ``target``: where it is written.
    - ``written``: paths of the arrays that are written there; all of the store is by default.
    - raises `TargetExistsError` if it is so. Arrays that a graph does not show are not found: those
      that a function of the user's opens by itself.
    """
    roots: list[OneRef] = list(ones_of(ref))
    if variable is not None and ref is None:
        roots, _ = made_from(variable.data) if variable.chunks is not None else _lazy_root(variable)
    for root in roots:
        place = root.filename if isinstance(root, FileRef) else root.store
        # a new store is made neither around nor inside of the one that is read
        inside = ""
        if isinstance(root, ZarrRef) and (written is not None or _is_plain_folder(root.store)):
            inside = root.path
        if any(overlaps(place, target, inside, path) for path in written or ("",)):
            computed = "are computed from" if ref is None else "are read from"
            raise TargetExistsError(
                f"the values of {name!r} {computed} {describe(place)}, and the target "
                f"{describe(target)} lies there: writing would destroy what is being read, since "
                "the two are one, or one inside the other. Nothing was written. Write to another "
                "store first, and move it here or copy it from there; or load what is small: "
                "ds.load()."
            )


def refuse_misread(name: str, data: Any) -> None:
    """Refuse values that zarr reads wrong, without an error.

    - ``name``: the variable, as an error calls it.
    - ``data``: its values; nothing of them is read.
    - raises `SourceError` if what they are made from is stored in such a way.
    """
    why = why_misread(data)
    if why:
        raise SourceError(
            f"{name}: {why}: the values would be wrong. Nothing was written. Read it with "
            "netCDF's own library instead: xr.open_dataset('file://…#mode=nczarr', "
            "engine='netcdf4')."
        )


def why_misread(data: Any) -> str:
    """Say why zarr reads other values than are stored; empty where it does not."""
    try:
        from xchunk.sources.xarray_adapter import misread

        held = [data]
        if getattr(data, "chunks", None) is not None and isinstance(data, xr.Variable):
            from xchunk.sources.dask_adapter import held_by

            held = list(held_by(data.data))
        return next(filter(None, (misread(part) for item in held for part in _parts_of(item))), "")
    # Private parts of other libraries may fail in any way once they change.
    except Exception:  # noqa: BLE001
        return ""


def _parts_of(item: Any) -> Iterator[Any]:
    if isinstance(item, JoinedArray):
        for part in item.variables.flat:
            yield from _parts_of(part)
    elif isinstance(item, Pieces):
        yield item.variable
    else:
        yield item


def _lazy_root(variable: xr.Variable) -> tuple[list[OneRef], list[str]]:
    from xchunk.sources.xarray_adapter import place_of

    found = place_of(variable)
    return ([found] if isinstance(found, ZarrRef | FileRef) else []), []


def _key(ref: OneRef) -> tuple[Any, ...]:
    return (ref.filename,) if isinstance(ref, FileRef) else (id(ref.store), ref.path)


def _places(items: list[Any]) -> Iterator[OneRef | np.ndarray[Any, Any] | str]:
    from xchunk.sources.xarray_adapter import place_of

    for item in items:
        if isinstance(item, JoinedArray):
            yield from _places(list(item.variables.flat))
        elif isinstance(item, Pieces):
            yield from _places([item.variable])
        elif type(item).__name__ == "Future":
            # its values lie on a cluster; another client has computed others
            yield str(getattr(getattr(item, "client", None), "id", ""))
        elif (place := place_of(item)) is not None:
            yield place
