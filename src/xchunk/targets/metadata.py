"""The target: its metadata made beforehand, written first but for the groups', committed last.

xarray itself makes the metadata, by writing the assembled variables without their values to a
store in memory, so that attributes, fill values and dimension names are as ``to_zarr`` would
write them. Arrays' metadata go to the target beside its chunks. Groups' metadata, which make a
store openable, are written when every chunk is there, the root's last: until then no reader
can open the target, and no rename is needed, so that this holds on object stores too.
"""

from __future__ import annotations

import json
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
from xchunk.sources.refs import ZarrRef
from xchunk.stores.adapter import get_key, open_array, put_key, put_keys
from xchunk.stores.overlay import Unpublished
from xchunk.targets.encode import Assembled
from xchunk.targets.fsync import put_all_durably

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
    """Documents of arrays; written while chunks are, before the groups'."""
    groups: Mapping[str, bytes]
    """Documents of groups, in the order of writing: the root's last."""
    zarr_format: int
    """2 or 3."""

    def unpublished(self, store: Store, path: str) -> ZarrRef:
        """Return where an array is written before the target is committed.

        The tasks that write its chunks are shown its documents: they need not ask for them, and
        those of an array that is all of the store make it openable, so that they are written last.
        """
        return ZarrRef(Unpublished(store, self._documents(path)), path, self.zarr_format)

    def _documents(self, path: str) -> dict[str, bytes]:
        keys = (f"{path}/{name}" if path else name for name in _ARRAY_FILES)
        documents = {**self.arrays, **self.groups}
        return {key: documents[key] for key in keys if key in documents}

    def array(self, path: str) -> zarr.Array[Any]:
        """Open an array as it will be, in a store in memory that holds nothing but its metadata."""
        store = MemoryStore()
        put_keys(store, self._documents(path))
        return open_array(store, path, self.zarr_format, mode="r")


def make_metadata(
    groups: Mapping[str, tuple[Sequence[TargetArray], Mapping[str, Any]]], *, zarr_format: int
) -> TargetMetadata:
    """Make the metadata of a target, without its values.

    - ``groups``: for the path of each group (``""`` is the root) its arrays and attributes; parents
      come before children.
    - ``zarr_format`` ({2, 3}): the target's format.
    - raises `EncodingError` if zarr cannot hold an array as it is to be written.
    """
    documents: dict[str, Any] = {}
    store = MemoryStore(documents)
    with warnings.catch_warnings():
        # zarr tells that consolidated metadata and some dtypes are not in the v3 standard
        # yet; xarray writes and reads both.
        warnings.simplefilter("ignore")
        for path, (arrays, attrs) in groups.items():
            _refuse_odd_attrs(f"group {path!r}" if path else "the Dataset", attrs)
            for each in arrays:
                _refuse_odd_attrs(each.assembled.path, each.assembled.attrs)
            # of numbers no value is looked at, so that none has to be lazy, which loads dask.array
            hollow = all(a.assembled.dtype.kind in _NUMBERS for a in arrays)
            # xarray takes names that are numbers for variables only; JSON makes texts of them
            named = {str(key): value for key, value in attrs.items()}
            template = _template(arrays, named, hollow=hollow)
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
            except (ValueError, TypeError, NotImplementedError, KeyError) as error:
                raise EncodingError(
                    f"the target's metadata cannot be made: {error}. Nothing was written."
                ) from error
            _refuse_unreadable(store, path, zarr_format)
            if hollow:
                _fill_up(store, arrays)
            for each in arrays:
                _name_chunks(store, each.assembled, zarr_format)
        zarr.consolidate_metadata(store, zarr_format=zarr_format)  # type: ignore[arg-type]
    return sort_documents(documents, list(groups), zarr_format)


def sort_documents(
    documents: Mapping[str, Any], groups: Sequence[str], zarr_format: int
) -> TargetMetadata:
    """Sort what a store in memory holds by when it is written to the target.

    - ``documents``: the buffers of the store.
    - ``groups``: paths of its groups.
    - ``zarr_format`` ({2, 3}): its format.
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


def _refuse_odd_attrs(where: str, attrs: Mapping[Any, Any]) -> None:
    """Refuse attributes that JSON, and so zarr, cannot hold; by their names."""
    for key, value in attrs.items():
        taken = not isinstance(key, str) and str(key) in attrs
        if not isinstance(key, str | int) or isinstance(key, bool) or taken:
            raise EncodingError(
                f"the name of the attribute {key!r} of {where} is no text, as names are in zarr. "
                f"Nothing was written. Rename it: attrs[{str(key)!r}] = attrs.pop({key!r})."
            )
        if key == "_FillValue":
            continue  # xarray has a way of its own for it
        try:
            plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            json.dumps(plain)
        except (TypeError, ValueError) as error:
            raise EncodingError(
                f"the attribute {key!r} of {where} is {value!r:.100}, which JSON, and so zarr, "
                f"cannot hold ({error}). Nothing was written. Change it to text, numbers, or "
                "lists of them, or leave it out: del ds[…].attrs[…]."
            ) from error


def _refuse_unreadable(store: Store, group: str, zarr_format: int) -> None:
    """Refuse metadata that xarray writes and cannot read, before they replace anything.

    What it decodes by CF is left out: the source may have been opened without.
    """
    try:
        xr.open_zarr(
            store,
            group=group or None,
            chunks=None,
            consolidated=False,
            zarr_format=zarr_format,
            decode_cf=False,
        )
    except Exception as error:
        raise EncodingError(
            f"the target{f' group {group!r}' if group else ''} could not be opened again by "
            f"xarray: {type(error).__name__}: {error}. Nothing was written. Choose another dtype, "
            "fill value or zarr_format for the variable that is named."
        ) from error


def _name_chunks(store: Store, one: Assembled, zarr_format: int) -> None:
    """Say in an array's document how its chunks are named, where that is not the format's way."""
    if one.chunk_keys is None:
        return
    key = f"{one.path}/{'zarr.json' if zarr_format == 3 else '.zarray'}"
    document = json.loads(get_key(store, key) or b"{}")
    if zarr_format == 2:
        document["dimension_separator"] = one.chunk_keys["separator"]
    else:
        own = {"separator": one.chunk_keys.get("separator", "/")}
        document["chunk_key_encoding"] = {"name": one.chunk_keys["name"], "configuration": own}
    put_key(store, key, json.dumps(document, indent=2).encode())


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
    put_keys(store, metadata.arrays)


def commit(store: Store, metadata: TargetMetadata) -> None:
    """Make the target visible: write the groups' metadata, the root's last."""
    put_all_durably(store, dict([*metadata.groups.items()][:-1]))
    put_all_durably(store, dict([*metadata.groups.items()][-1:]))


def tell_above(above: Sequence[tuple[Store, str]], documents: Mapping[str, bytes]) -> None:
    """Let the groups that a store lies in say what it holds, where they hold all metadata.

    Readers take their word for it: who opens a group through its root would read new chunks by
    old metadata. Two runs in one hierarchy that end at the same instant may overwrite each
    other's words, as those of zarr's own ``consolidate_metadata`` do.

    - ``above``: the groups, with the store's path in each (`xchunk.stores.stores.groups_above`).
    - ``documents``: the store's documents by their keys in it; none: it is about to be replaced.
    """
    for outer, path in above:
        for key in ("zarr.json", ".zmetadata"):
            raw = get_key(outer, key)
            new = None if raw is None else _with_members(key, raw, path, documents)
            if new is not None and new != raw:
                put_all_durably(outer, {key: new})


def _with_members(key: str, raw: bytes, path: str, documents: Mapping[str, bytes]) -> bytes | None:
    """Return a group's document that says of what lies at a path what is there now.

    - returns: None where the group says nothing of what is in it.
    """
    whole = json.loads(raw)
    third = key == "zarr.json"
    said = whole.get("consolidated_metadata") if third else whole
    if not said or "metadata" not in said:
        return None
    kept = {k: v for k, v in said["metadata"].items() if not f"{k}/".startswith(f"{path}/")}
    names = ("zarr.json",) if third else (".zarray", ".zattrs", ".zgroup")
    for own, document in documents.items():
        folder, _, name = own.rpartition("/")
        if name in names:
            member = json.loads(document)
            if member.get("node_type") == "group":
                member["consolidated_metadata"] = {**said, "metadata": {}}
            kept["/".join(filter(None, (path, folder, "" if third else name)))] = member
    if kept == said["metadata"]:
        return raw
    said["metadata"] = kept
    return json.dumps(whole, indent=2).encode()
