"""An existing zarr store: its arrays, and the metadata documents that say how long they are.

The marker of a store that is being extended holds the documents as they were and as they will
be. As long as the store does not hold the new ones, everything beyond the old end can be
deleted, and the old units, which may hold new values beyond that end, be written as they were.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from xchunk.core.grid import Grid, ceildiv
from xchunk.errors import EncodingError, SourceError, XchunkWarning
from xchunk.sources.arrays import open_stored
from xchunk.sources.refs import StoredInfo, ZarrRef
from xchunk.sources.trace import trace
from xchunk.stores.adapter import get_key, has_key, is_near, open_array, put_key, write_units
from xchunk.stores.overlay import Unpublished
from xchunk.stores.stores import describe, is_empty
from xchunk.targets.ownership import delete_owned, owned_keys, sweep_partials
from xchunk.targets.scratch import Workspace

_ARRAYS = ("zarr.json", ".zarray")


@dataclass(frozen=True)
class Extending:
    """The record of a store that is being extended."""

    digest: str
    """What the run would commit, as a digest."""
    old: Mapping[str, bytes]
    """The documents that change, as they were."""
    new: Mapping[str, bytes]
    """The documents that change, as they will be, in the order of writing."""

    @classmethod
    def read(cls, store: Store) -> Extending | None:
        """Read the record of an append that was stopped; None where there is none."""
        found: Any = (Workspace(store).read_marker() or {}).get("extending")
        try:
            old, new = (
                {str(k): str(v).encode() for k, v in found[part].items()} for part in ("old", "new")
            )
            return cls(str(found["digest"]), old, new)
        except (TypeError, KeyError, AttributeError):
            return None

    def write(self, store: Store, *, target: str) -> None:
        """Write the record into the marker."""
        documents = {
            part: {k: v.decode() for k, v in which.items()}
            for part, which in (("old", self.old), ("new", self.new))
        }
        record = {"digest": self.digest, **documents}
        Workspace(store).create(target=target, extending=record)

    @property
    def grows(self) -> bool:
        """Whether anything becomes longer; otherwise a region was being written, in place."""
        return any(True for _ in _grown(self))

    def is_committed(self, store: Store) -> bool:
        """Return whether everybody sees the new length already."""
        changed = {k: v for k, v in self.new.items() if v != self.old.get(k)}
        return bool(changed) and all(get_key(store, k) == v for k, v in changed.items())


def half_written(store: Store) -> bool:
    """Return whether a region was being written in place: old and new values lie side by side."""
    record = Extending.read(store)
    return record is not None and not record.grows


def warn_of_half_written(groups: Mapping[str, xr.Dataset]) -> None:
    """Warn where a store that some Datasets were opened from is in the midst of a region."""
    seen: list[Store] = []
    for ds in groups.values():
        for variable in ds.variables.values():
            traced = trace(variable)
            if traced is None or not isinstance(traced.ref, ZarrRef):
                continue
            store = traced.ref.store
            if store in seen or not is_near(store):
                continue
            seen.append(store)
            if half_written(store):
                warnings.warn(
                    f"{describe(store)} holds old and new values side by side: a region was being "
                    "written into it, and that was stopped. The same call of write_region (xchunk "
                    "rechunk --region) finishes it.",
                    XchunkWarning,
                    stacklevel=2,
                )


def take_back(store: Store) -> None:
    """Delete what a stopped append has written; the store is as it was before, and not longer."""
    record = Extending.read(store)
    if record is None or record.is_committed(store):
        return
    for key, value in reversed(list(record.old.items())):
        if get_key(store, key) != value:
            put_key(store, key, value)
    delete_owned(store, beyond(store))
    arrays = {key.rpartition("/")[0] for key in record.old if key.rpartition("/")[2] in _ARRAYS}
    sweep_partials(store, sorted(arrays - {""}), record.old)
    for path, zarr_format, old, _, axis in _grown(record):
        array = open_array(store, path, zarr_format, mode="r+")
        unit = tuple(array.shards or array.chunks)
        if old[axis] % unit[axis]:
            _write_edge(array, ZarrRef(store, path, zarr_format), old, unit, axis)


def beyond(store: Store) -> list[str]:
    """List the chunks that a stopped append has written beyond the end of what there was."""
    record = Extending.read(store)
    if record is None or record.is_committed(store):
        return []
    out = []
    for path, zarr_format, old, _, axis in _grown(record):
        array = open_array(store, path, zarr_format, mode="r")
        first = ceildiv(old[axis], (array.shards or array.chunks)[axis])
        for key in owned_keys(store, [path]):
            index = _index(array, path, key)
            if index is not None and index[axis] >= first:
                out.append(key)
    return out


def _grown(
    record: Extending,
) -> Iterator[tuple[str, int, tuple[int, ...], tuple[int, ...], int]]:
    """Yield path, format, old and new shape, and the axis that grows, of each array that does."""
    for key, raw in record.old.items():
        path, _, name = key.rpartition("/")
        if name not in _ARRAYS or not path or key not in record.new:
            continue
        documents = [json.loads(document) for document in (raw, record.new[key])]
        if any("shape" not in document for document in documents):
            continue
        old, new = (tuple(document["shape"]) for document in documents)
        axes = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        if axes:
            yield path, 3 if name == "zarr.json" else 2, old, new, axes[0]


def _write_edge(
    array: Any, ref: ZarrRef, shape: tuple[int, ...], unit: tuple[int, ...], axis: int
) -> None:
    """Write the old values of the last, half-full units again, and nothing beyond them."""
    stored, grid = open_stored(ref), Grid.of(shape, unit)
    last = grid.counts[axis] - 1
    # as long as the array, so that what lies beyond its end is fill
    padded = tuple(
        ceildiv(n, u) * u if i == axis else n
        for i, (n, u) in enumerate(zip(shape, unit, strict=True))
    )
    key = f"{ref.path}/{'zarr.json' if ref.zarr_format == 3 else '.zarray'}"
    document = json.loads(get_key(ref.store, key) or b"{}")
    document["shape"] = list(padded)
    shown = Unpublished(ref.store, {key: json.dumps(document).encode()})
    whole = open_array(shown, ref.path, ref.zarr_format, mode="r+")
    others = (*grid.counts[:axis], 1, *grid.counts[axis + 1 :])
    for number in range(math.prod(others)):
        index = [int(i) for i in np.unravel_index(number, others)]
        index[axis] = last
        if not has_key(ref.store, f"{ref.path}/{array.metadata.encode_chunk_key(tuple(index))}"):
            continue
        region = [slice(*a.bounds(i)) for a, i in zip(grid.axes, index, strict=True)]
        values = stored.read(region)
        full = [slice(r.start, r.stop) for r in region]
        full[axis] = slice(region[axis].start, padded[axis])
        fill = array.fill_value if array.fill_value is not None else np.zeros((), values.dtype)[()]
        out = np.full([r.stop - r.start for r in full], fill, dtype=values.dtype)
        out[tuple(slice(0, n) for n in values.shape)] = values
        write_units(whole, full, out, fill=array.fill_value, delete_empty=True)


def _index(array: Any, path: str, key: str) -> tuple[int, ...] | None:
    """Return the index of the unit that a key holds; None where it holds none."""
    name = key.removeprefix(f"{path}/")
    digits = [p for p in name.replace(".", "/").split("/") if p.isdigit()]
    index = tuple(map(int, digits))
    if len(index) != array.ndim or array.metadata.encode_chunk_key(index) != name:
        return None
    return index


_ARRAY = {2: ".zarray", 3: "zarr.json"}


@dataclass(frozen=True)
class Held:
    """One array of an existing store."""

    path: str
    """Path of the array in the store."""
    dims: tuple[str, ...]
    """Names of the dims."""
    info: StoredInfo
    """What the store says of it."""
    ref: ZarrRef
    """Where it is read, as long as it was."""
    inherited: Mapping[str, Any] = field(default_factory=dict)
    """Units and calendar that bounds have from what they bound, and do not say themselves."""

    @property
    def decoding(self) -> dict[str, Any]:
        """The attributes by which it is decoded."""
        return {**self.inherited, **self.info.attrs}

    @property
    def units(self) -> tuple[int, ...]:
        """Elements of a write unit along each dim."""
        chunks = self.info.shards or self.info.chunks or ()
        if not all(isinstance(c, int) for c in chunks):
            raise EncodingError(
                f"{self.path} is stored in chunks of several lengths, to which xchunk cannot "
                "write. Nothing was written. Rechunk the store to a new one first."
            )
        return tuple(max(1, int(c)) for c in chunks)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Existing:
    """An existing zarr store."""

    store: Store
    """The store."""
    zarr_format: int
    """2 or 3."""
    documents: Mapping[str, bytes]
    """The documents of arrays and groups, by key; arrays first, the root's last."""
    arrays: Mapping[str, Held]
    """The arrays by their path."""
    consolidated: bool
    """Whether the root holds all metadata, so that one write makes a new length visible."""

    def key(self, path: str) -> str:
        """Return the key of an array's document."""
        return f"{path}/{_ARRAY[self.zarr_format]}"

    def grown(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, bytes]:
        """Return the documents that say other shapes, in the order of writing.

        - ``shapes``: the new shapes by path of the array.
        """
        out: dict[str, bytes] = {}
        for path, shape in shapes.items():
            document = json.loads(self.documents[self.key(path)])
            document["shape"] = list(shape)
            out[self.key(path)] = _dump(document)
        for key, raw in self.documents.items():
            if key not in {self.key(path) for path in self.arrays}:
                changed = self._group(key, raw, shapes)
                if changed is not None:
                    out[key] = changed
        return out

    def _group(self, key: str, raw: bytes, shapes: Mapping[str, Sequence[int]]) -> bytes | None:
        """Return a group's document with other shapes in its consolidated metadata."""
        group, _, name = key.rpartition("/")
        document = json.loads(raw)
        members = _members(document, name)
        changed = False
        for path, shape in shapes.items():
            prefix = f"{group}/" if group else ""
            if not path.startswith(prefix):
                continue
            inner = path.removeprefix(prefix)
            member = members.get(inner if name == "zarr.json" else f"{inner}/.zarray")
            if member is not None and list(member["shape"]) != list(shape):
                member["shape"] = list(shape)
                changed = True
        return _dump(document) if changed else None


def _members(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    if name == ".zmetadata":
        return dict(document["metadata"])
    found = document.get("consolidated_metadata") or {}
    return dict(found.get("metadata") or {})


def _dump(document: Any) -> bytes:
    return json.dumps(document, indent=2).encode()


def read_existing(
    store: Store, groups: Sequence[str], documents: Mapping[str, bytes] | None = None
) -> Existing:
    """Read what a store holds, without its values.

    - ``groups``: paths of the groups whose arrays are wanted.
    - ``documents``: documents that count instead of those that are there.
    - raises `SourceError` if it is no zarr store, or has no such group.
    """
    seen: Store = Unpublished(store, documents) if documents else store
    own = dict(documents or {})

    def get(key: str) -> bytes | None:
        return own[key] if key in own else get_key(store, key)

    zarr_format = 3 if get("zarr.json") is not None else 2
    if zarr_format == 2 and get(".zgroup") is None:
        what = "nothing is there" if is_empty(store) else "it is no zarr store with groups"
        raise SourceError(
            f"{describe(store)}: {what}, so that there is nothing to append to, or to write a "
            "region of. Nothing was written. Check the place, or make the store first: "
            "ds.chunking.apply (xchunk rechunk)."
        )
    found: dict[str, bytes] = {}
    consolidated = False
    paths: list[str] = []
    for group in _with_parents(groups):
        prefix = f"{group}/" if group else ""
        raw = get(f"{prefix}{'zarr.json' if zarr_format == 3 else '.zgroup'}")
        if raw is None or (zarr_format == 3 and json.loads(raw)["node_type"] != "group"):
            raise SourceError(
                f"{describe(store)} has no group {group!r}. Nothing was written. Write the group "
                "first, or leave it out."
            )
        key = f"{prefix}{'zarr.json' if zarr_format == 3 else '.zmetadata'}"
        meta = get(key)
        if meta is not None:
            members = _members(json.loads(meta), key.rpartition("/")[2])
            found[key] = meta
            if members and not group:
                consolidated = True
    root = found.get("zarr.json" if zarr_format == 3 else ".zmetadata")
    name = "zarr.json" if zarr_format == 3 else ".zmetadata"
    above: list[str] = []
    for group in _with_parents(groups):
        if consolidated and root is not None:
            own_paths = _listed(_members(json.loads(root), name), group, zarr_format)
        else:
            own_paths = _searched(store, group, zarr_format)
        paths += own_paths if group in groups else []
        above += [] if group in groups else own_paths
    helds = {path: _held(seen, path, zarr_format) for path in paths}
    for path in above:
        # coordinates that the groups inherit; what else lies there does not matter
        with suppress(EncodingError):
            helds[path] = _held(seen, path, zarr_format)
    arrays = _with_bounds(helds)
    paths += [path for path in above if path in helds]
    ordered = {f"{p}/{_ARRAY[zarr_format]}": get(f"{p}/{_ARRAY[zarr_format]}") for p in paths}
    ordered |= {key: found[key] for key in sorted(found, key=lambda k: -k.count("/"))}
    return Existing(
        store,
        zarr_format,
        {key: raw for key, raw in ordered.items() if raw is not None},
        arrays,
        consolidated,
    )


def lengths_of_relatives(existing: Existing, group: str, dim: str) -> dict[str, int]:
    """Return how long a dim is in the arrays of the groups above and below a group, by path.

    A tree can only be opened where each of them has the dim as long as the group has it.
    """
    store, zarr_format = existing.store, existing.zarr_format
    key = "zarr.json" if zarr_format == 3 else ".zmetadata"
    if existing.consolidated:
        members = _members(json.loads(existing.documents[key]), key)
        suffix = "" if zarr_format == 3 else "/.zarray"
        paths = [
            k.removesuffix(suffix)
            for k, m in members.items()
            if (m.get("node_type") == "array" if zarr_format == 3 else k.endswith(suffix))
        ]
    else:
        paths = [p for g in _with_parents([group]) for p in _searched(store, g, zarr_format)]
        paths += _searched(store, group, zarr_format, depth=None)
    out = {}
    for path in dict.fromkeys(paths):
        parent = path.rpartition("/")[0]
        if (parent != group and is_within(parent, group)) or is_within(group, parent):
            with suppress(EncodingError, SourceError):
                held = existing.arrays.get(path) or _held(store, path, zarr_format)
                if dim in held.dims:
                    out[path] = held.info.shape[held.dims.index(dim)]
    return out


def is_within(group: str, other: str) -> bool:
    """Return whether a group is another one, or lies in it."""
    return not other or f"{group}/".startswith(f"{other}/")


def _with_bounds(arrays: dict[str, Held]) -> dict[str, Held]:
    """Give bounds of times the units of what they bound, as xarray does when it decodes them."""
    for path, parent in list(arrays.items()):
        attrs = parent.info.attrs
        group = path.rpartition("/")[0]
        name = attrs.get("bounds", attrs.get("climatology"))
        own = f"{group}/{name}" if group else str(name)
        if own in arrays and " since " in str(attrs.get("units", "")):
            times = {k: attrs[k] for k in ("units", "calendar") if k in attrs}
            arrays[own] = replace(arrays[own], inherited=times)
    return arrays


def _with_parents(groups: Sequence[str]) -> list[str]:
    out = {""}
    for group in groups:
        parts = group.split("/")
        out.update("/".join(parts[:i]) for i in range(1, len(parts) + 1))
    return sorted(out)


def _listed(members: Mapping[str, Any], group: str, zarr_format: int) -> list[str]:
    if zarr_format == 2:
        paths = [k.removesuffix("/.zarray") for k in members if k.endswith("/.zarray")]
    else:
        paths = [k for k, m in members.items() if m.get("node_type") == "array"]
    return [p for p in paths if p.rpartition("/")[0] == group]


def _searched(store: Store, group: str, zarr_format: int, depth: int | None = 0) -> list[str]:
    import zarr

    node = zarr.open_group(
        store,
        path=group or None,
        mode="r",
        zarr_format=zarr_format,  # type: ignore[arg-type]
        use_consolidated=False,
    )
    prefix = f"{group}/" if group else ""
    found = node.members(max_depth=depth)
    return [f"{prefix}{name}" for name, one in sorted(found) if isinstance(one, zarr.Array)]


def _held(store: Store, path: str, zarr_format: int) -> Held:
    ref = ZarrRef(store, path, zarr_format)
    info = open_stored(ref).info
    if not info.regular:
        raise EncodingError(
            f"{path} has chunks or shards of several lengths along a dim (a rectilinear grid), to "
            "which xchunk does not append, and of which it writes no region. Nothing was written. "
            "Rechunk the store to a new one first."
        )
    raw = get_key(store, f"{path}/{'zarr.json' if zarr_format == 3 else '.zattrs'}")
    document = json.loads(raw) if raw is not None else {}
    names = document.get("dimension_names" if zarr_format == 3 else "_ARRAY_DIMENSIONS")
    if names is None and not info.shape:
        names = ()
    if names is None or len(names) != len(info.shape) or None in names:
        raise EncodingError(
            f"{path} has no names of its dims, so that xarray could not read it either. "
            "Nothing was written. Write the store with xarray or xchunk first."
        )
    return Held(path, tuple(names), info, ref)
