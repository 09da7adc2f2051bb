"""Plain zarr and dask arrays as sources: no Dataset, no CF, copied with what zarr says of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from xarray.backends.zarr import FillValueCoder
from zarr.storage import MemoryStore

from xchunk.errors import EncodingError
from xchunk.storage.assemble import Assembled
from xchunk.storage.codecs import target_codecs
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stored import StoredInfo, open_stored
from xchunk.storage.target import TargetArray, TargetMetadata, sort_documents
from xchunk.storage.trace import trace

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["PlainArray", "assemble_blocks", "assemble_stored", "dims_of", "make_plain_metadata"]

_DIMS = "_ARRAY_DIMENSIONS"


@dataclass(frozen=True)
class PlainArray:
    """An array of a source, with what its target's metadata will say."""

    assembled: Assembled
    """What is written."""
    chunks: tuple[int, ...]
    """Elements of a chunk of the source along each dim."""
    shards: tuple[int, ...] | None = None
    """Elements of a shard of the source along each dim; None: no shards."""
    dims: tuple[str | None, ...] | None = None
    """Names of the dims; None: they have none."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """The attributes as zarr has them."""
    data_type: Any = None
    """The data type as zarr has it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else is given to zarr when the target is made: codecs, fill value, order."""


def dims_of(array: zarr.Array[Any]) -> tuple[str | None, ...] | None:
    """Return the names of an array's dims; None where it has none."""
    named: Any = getattr(array.metadata, "dimension_names", None)
    if named is None:
        named = array.attrs.get(_DIMS)
    return tuple(named) if isinstance(named, list | tuple) and len(named) == array.ndim else None


def assemble_stored(
    array: zarr.Array[Any], path: str, *, zarr_format: int, options: Mapping[str, Any]
) -> PlainArray:
    """Assemble a zarr array: its bytes are copied as they are stored.

    Parameters
    ----------
    array : zarr.Array
        The source.
    path : str
        Its path in the target; empty: it is all of the target.
    zarr_format : {2, 3}
        The target's format.
    options : mapping
        What is to differ from the source: ``compressors``, ``filters``, ``serializer``,
        ``fill_value`` and ``order``.
    """
    own = array.metadata.zarr_format
    ref = ZarrRef(array.store_path.store, array.path, own)
    info = open_stored(ref).info
    encoding, notes = target_codecs(_with_codecs(info, options), zarr_format)
    dims = dims_of(array)
    names = tuple(d or f"dim_{i}" for i, d in enumerate(dims or (None,) * array.ndim))
    objects = info.dtype.hasobject or info.dtype.kind == "T"
    chunks = tuple(c if isinstance(c, int) else max(c) for c in info.chunks or ())
    variable = None
    if objects:
        import dask.array as da

        variable = xr.Variable(names, da.from_array(array, chunks=chunks or -1))
    group, _, name = path.rpartition("/")
    settings = {**encoding, "fill_value": array.fill_value}
    if zarr_format == 2:
        settings["order"] = array.order
    one = Assembled(
        name=name,
        group=group,
        dims=names,
        shape=info.shape,
        dtype=info.dtype,
        attrs=info.attrs,
        encoding=encoding,
        ref=None if objects else ref,
        origin=() if objects else (0,) * array.ndim,
        info=None if objects else info,
        variable=variable,
        notes=tuple(notes),
    )
    kept = {k: options[k] for k in ("fill_value", "order") if k in options}
    attrs = {k: v for k, v in array.attrs.items() if k != _DIMS}
    if dims is not None and own != zarr_format:
        _move_fill(info, attrs, settings, zarr_format)
    metadata: Any = array.metadata
    data_type = metadata.data_type if own == 3 else metadata.dtype
    return PlainArray(one, chunks, info.shards, dims, attrs, data_type, {**settings, **kept})


def _move_fill(
    info: StoredInfo, attrs: dict[str, Any], settings: dict[str, Any], zarr_format: int
) -> None:
    """Say of an array with named dims what is missing, as xarray reads it in the other format.

    In format 2 it is the fill value, in format 3 an attribute.
    """
    missing = info.attrs.get("_FillValue")
    if zarr_format == 2:
        attrs.pop("_FillValue", None)
        settings["fill_value"] = missing
    elif missing is not None:
        attrs["_FillValue"] = FillValueCoder.encode(missing, info.dtype)


def _with_codecs(info: StoredInfo, options: Mapping[str, Any]) -> StoredInfo:
    asked = {k: options[k] for k in ("compressors", "filters", "serializer") if k in options}
    if not asked:
        return info
    of_v2 = any(hasattr(c, "get_config") for k in asked for c in asked[k] or ())
    known = dict(info.encoding) if ("zarr2" if of_v2 else "zarr3") == info.format else {}
    return replace(info, format="zarr2" if of_v2 else "zarr3", encoding={**known, **asked})


def assemble_blocks(
    array: da.Array, path: str, *, zarr_format: int, options: Mapping[str, Any]
) -> PlainArray:
    """Assemble a dask array: stored bytes where it shows some as they are, else its blocks.

    The parameters are those of `assemble_stored`.
    """
    if any(np.isnan(n) for n in array.shape):
        raise EncodingError(
            f"the dask array has an unknown shape, {array.shape}. Nothing was written. "
            "Call its compute_chunk_sizes() first."
        )
    dims = tuple(f"dim_{i}" for i in range(array.ndim))
    shape = tuple(int(n) for n in array.shape)
    dtype = np.dtype(array.dtype)
    empty = StoredInfo(shape, dtype, None, None, (), f"zarr{zarr_format}", None, {}, {})
    encoding, notes = target_codecs(_with_codecs(empty, options), zarr_format)
    group, _, name = path.rpartition("/")
    variable = xr.Variable(dims, array)
    one = Assembled(
        name, group, dims, shape, dtype, {}, encoding, variable=variable, notes=tuple(notes)
    )
    traced = trace(variable)
    if traced is not None and traced.is_box and not traced.decoders and dtype.kind not in "OT":
        info = open_stored(traced.ref).info
        if info.dtype == dtype:
            origin = tuple(part.start for part in traced.axes)
            one = replace(one, variable=None, ref=traced.ref, origin=origin, info=info)
    chunks = tuple(max(1, *sizes) if sizes else 1 for sizes in array.chunks)
    kept = {k: options[k] for k in ("fill_value", "order") if k in options}
    return PlainArray(one, chunks, data_type=dtype, settings={**encoding, **kept})


def make_plain_metadata(
    arrays: Sequence[tuple[PlainArray, TargetArray]],
    groups: Mapping[str, Mapping[str, Any]],
    *,
    zarr_format: int,
) -> TargetMetadata:
    """Make the metadata of a target of plain arrays.

    Parameters
    ----------
    arrays : sequence
        The arrays, with the chunks that they get.
    groups : mapping
        Attributes by path of the group; none where an array is all of the target.
    zarr_format : {2, 3}
        The target's format.

    Raises
    ------
    EncodingError
        If zarr cannot hold an array as it is to be written.
    """
    documents: dict[str, Any] = {}
    store = MemoryStore(documents)
    with warnings.catch_warnings():
        # zarr tells that consolidated metadata and some dtypes are not in the v3 standard yet
        warnings.simplefilter("ignore")
        for path, attrs in groups.items():
            zarr.create_group(
                store,
                path=path or None,
                attributes=dict(attrs),
                zarr_format=zarr_format,  # type: ignore[arg-type]
                overwrite=True,
            )
        for plain, target in arrays:
            try:
                _create(store, plain, target, zarr_format)
            except (ValueError, TypeError, NotImplementedError, KeyError) as error:
                raise EncodingError(
                    f"{plain.assembled.path or 'the array'}: the target's metadata cannot be "
                    f"made: {error}. Nothing was written."
                ) from error
        if groups:
            zarr.consolidate_metadata(store, zarr_format=zarr_format)  # type: ignore[arg-type]
    return sort_documents(documents, list(groups) or [""], zarr_format)


def _create(store: MemoryStore, plain: PlainArray, target: TargetArray, zarr_format: int) -> None:
    settings = dict(plain.settings)
    attrs = dict(plain.attrs)
    if plain.dims is not None and zarr_format == 2:
        attrs[_DIMS] = list(plain.dims)
    elif plain.dims is not None:
        settings["dimension_names"] = plain.dims
    for key in ("filters", "compressors", "serializer"):
        if key in settings and settings[key] is None:
            settings[key] = () if key != "serializer" else "auto"
    shape = plain.assembled.shape
    zarr.create_array(
        store,
        name=plain.assembled.path or None,
        shape=shape,
        dtype=plain.data_type,
        chunks=tuple(max(1, c) for c in target.chunks) if shape else (),
        shards=target.shards,
        zarr_format=zarr_format,  # type: ignore[arg-type]
        attributes=attrs,
        **settings,
    )
