"""The target: its metadata made beforehand, written first but for the groups', committed last.

xarray itself makes the metadata, by writing the assembled variables without their values to a
store in memory, so that attributes, fill values and dimension names are as ``to_zarr`` would
write them. Arrays' metadata go to the target before any chunk. Groups' metadata, which make a
store openable, are written when every chunk is there, the root's last: until then no reader
can open the target, and no rename is needed, so that this holds on object stores too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from xchunk.errors import EncodingError
from xchunk.storage.assemble import Assembled
from xchunk.storage.durable import put_durably
from xchunk.storage.refs import ZarrRef
from xchunk.storage.unpublished import Unpublished
from xchunk.storage.zarr_io import open_array, put_key

__all__ = [
    "TargetArray",
    "TargetMetadata",
    "commit",
    "make_metadata",
    "sort_documents",
    "write_arrays",
]

#: Kinds of dtypes that xarray encodes by their dtype alone.
_NUMBERS = "biufc"
_ARRAY_FILES = (".zarray", ".zattrs", "zarr.json")
_GROUP_FILES = (".zattrs", ".zmetadata", ".zgroup", ".zarray", "zarr.json")


@dataclass(frozen=True)
class TargetArray:
    """An assembled variable with the chunks that it gets."""

    assembled: Assembled
    """What is written."""
    chunks: tuple[int, ...]
    """Elements of a chunk along each dim."""
    shards: tuple[int, ...] | None = None
    """Elements of a shard along each dim; None: no shards."""


@dataclass(frozen=True)
class TargetMetadata:
    """The metadata documents of a target, by key."""

    arrays: Mapping[str, bytes]
    """Documents of arrays; written before any chunk."""
    groups: Mapping[str, bytes]
    """Documents of groups, in the order of writing: the root's last."""
    zarr_format: int
    """2 or 3."""

    def unpublished(self, store: Store, path: str) -> ZarrRef:
        """Return where an array is written before the target is committed.

        The documents of an array that is all of the store make it openable, so that they are
        written last: the tasks that write its chunks are shown them meanwhile.
        """
        shown = store if path else Unpublished(store, self.groups)
        return ZarrRef(shown, path, self.zarr_format)

    def array(self, path: str) -> zarr.Array[Any]:
        """Open an array as it will be, in a store in memory that holds nothing but its metadata."""
        store, documents = MemoryStore(), {**self.arrays, **self.groups}
        for name in _ARRAY_FILES:
            key = f"{path}/{name}" if path else name
            if key in documents:
                put_key(store, key, documents[key])
        return open_array(store, path, self.zarr_format, mode="r")


def make_metadata(
    groups: Mapping[str, tuple[Sequence[TargetArray], Mapping[str, Any]]], *, zarr_format: int
) -> TargetMetadata:
    """Make the metadata of a target, without its values.

    Parameters
    ----------
    groups : mapping
        For the path of each group (``""`` is the root) its arrays and attributes; parents
        come before children.
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
        # zarr tells that consolidated metadata and some dtypes are not in the v3 standard
        # yet; xarray writes and reads both.
        warnings.simplefilter("ignore")
        for path, (arrays, attrs) in groups.items():
            # of numbers no value is looked at, so that none has to be lazy, which loads dask.array
            hollow = all(a.assembled.dtype.kind in _NUMBERS for a in arrays)
            template = _template(arrays, attrs, hollow=hollow)
            try:
                template.to_zarr(
                    store,
                    group=path or None,
                    mode="a",
                    compute=hollow,  # type: ignore[call-overload] # of either type, and not used
                    consolidated=False,
                    zarr_format=zarr_format,
                    safe_chunks=False,
                )
                if hollow:
                    _fill_up(store, arrays)
            except (ValueError, TypeError, NotImplementedError, KeyError) as error:
                raise EncodingError(
                    f"the target's metadata cannot be made: {error}. Nothing was written."
                ) from error
        zarr.consolidate_metadata(store, zarr_format=zarr_format)  # type: ignore[arg-type]
    return sort_documents(documents, list(groups), zarr_format)


def sort_documents(
    documents: Mapping[str, Any], groups: Sequence[str], zarr_format: int
) -> TargetMetadata:
    """Sort what a store in memory holds by when it is written to the target.

    Parameters
    ----------
    documents : mapping
        The buffers of the store.
    groups : sequence of str
        Paths of its groups.
    zarr_format : {2, 3}
        Its format.
    """
    contents = {key: value.to_bytes() for key, value in documents.items()}
    group_keys = _group_keys(contents, groups)
    array_keys = [
        key
        for key in contents
        if key.rpartition("/")[2] in _ARRAY_FILES and key not in set(group_keys)
    ]
    return TargetMetadata(
        arrays={key: contents[key] for key in array_keys},
        groups={key: contents[key] for key in group_keys},
        zarr_format=zarr_format,
    )


def _group_keys(contents: Mapping[str, bytes], paths: Sequence[str]) -> list[str]:
    """List the groups' documents: the deepest first, the root last."""
    deepest_first = sorted({*paths, *_parents(paths), ""}, key=lambda p: (-len(p.split("/")), p))
    deepest_first.sort(key=lambda p: p == "")
    return [
        key
        for path in deepest_first
        for key in (f"{path}/{name}" if path else name for name in _GROUP_FILES)
        if key in contents
    ]


def _parents(paths: Sequence[str]) -> set[str]:
    out: set[str] = set()
    for path in paths:
        parts = path.split("/")
        out.update("/".join(parts[:i]) for i in range(1, len(parts)))
    return out


def _template(
    arrays: Sequence[TargetArray], attrs: Mapping[str, Any], *, hollow: bool
) -> xr.Dataset:
    """Make a Dataset that has everything but values, and, where it is hollow, no lengths."""
    variables = {a.assembled.name: _template_variable(a, hollow=hollow) for a in arrays}
    coords = {n: v for n, v in variables.items() if n in v.dims}
    # without an index no value is looked at, and no attribute "coordinates" is made up
    template = xr.Dataset(
        {n: v for n, v in variables.items() if n not in coords},
        coords=xr.Coordinates(coords, indexes={}),
        attrs=dict(attrs),
    )
    return template[list(variables)]


def _fill_up(store: Store, arrays: Sequence[TargetArray]) -> None:
    """Give arrays that were made without elements their lengths."""
    for each in arrays:
        one = each.assembled
        if one.shape:
            zarr.open_array(store, path=one.path, mode="r+").resize(one.shape)


def _template_variable(array: TargetArray, *, hollow: bool) -> xr.Variable:
    one = array.assembled
    encoding = dict(one.encoding)
    if one.shape:
        encoding["chunks"] = tuple(max(1, c) for c in array.chunks)
        if array.shards is not None:
            encoding["shards"] = array.shards
    if "_FillValue" not in one.attrs:
        # otherwise xarray would give floats a NaN fill that the source does not have
        encoding["_FillValue"] = None
    values = np.zeros((0,) * len(one.shape), one.dtype) if hollow else _no_values(one)
    # to look at the values first, xarray would load dask.array
    return xr.Variable(one.dims, values, dict(one.attrs), encoding, fastpath=hollow)


def _no_values(one: Assembled) -> Any:
    if one.dtype.hasobject or one.dtype.kind == "T":
        if one.variable is not None and one.dtype.metadata:
            empty = np.full((), "", dtype=one.dtype)
        else:
            empty = np.full((), "", dtype=object if one.dtype.hasobject else one.dtype)
        return np.broadcast_to(empty, one.shape)
    import dask.array as da

    return da.zeros(one.shape, dtype=one.dtype, chunks=-1)


def write_arrays(store: Store, metadata: TargetMetadata) -> None:
    """Write the arrays' metadata; the store still cannot be opened."""
    for key, value in metadata.arrays.items():
        put_key(store, key, value)


def commit(store: Store, metadata: TargetMetadata) -> None:
    """Make the target visible: write the groups' metadata, the root's last."""
    for key, value in metadata.groups.items():
        put_durably(store, key, value)
