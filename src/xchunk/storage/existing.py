"""A zarr store that is there: its arrays, and the metadata documents that say how long they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zarr.abc.store import Store

from xchunk.errors import EncodingError, SourceError
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stored import StoredInfo, open_stored
from xchunk.storage.stores import describe
from xchunk.storage.unpublished import Unpublished
from xchunk.storage.zarr_io import get_key

__all__ = ["Existing", "Held", "read_existing"]

_ARRAY = {2: ".zarray", 3: "zarr.json"}


@dataclass(frozen=True)
class Held:
    """One array of a store that is there."""

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
    """A zarr store that is there."""

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

        Parameters
        ----------
        shapes : mapping
            The new shapes by path of the array.
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

    Parameters
    ----------
    store : zarr store
        The store.
    groups : sequence of str
        Paths of the groups whose arrays are wanted.
    documents : mapping, optional
        Documents that count instead of those that are there.

    Raises
    ------
    SourceError
        If it is no zarr store, or has no such group.
    """
    seen: Store = Unpublished(store, documents) if documents else store
    own = dict(documents or {})

    def get(key: str) -> bytes | None:
        return own[key] if key in own else get_key(store, key)

    zarr_format = 3 if get("zarr.json") is not None else 2
    if zarr_format == 2 and get(".zgroup") is None:
        raise SourceError(
            f"{describe(store)} is no zarr store with groups, so that there is nothing to append "
            "to. Nothing was written. Write it first, without append_dim and region."
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
    for group in groups:
        if consolidated and root is not None:
            paths += _listed(_members(json.loads(root), name), group, zarr_format)
        else:
            paths += _searched(store, group, zarr_format)
    arrays = _with_bounds({path: _held(seen, path, zarr_format) for path in paths})
    ordered = {f"{p}/{_ARRAY[zarr_format]}": get(f"{p}/{_ARRAY[zarr_format]}") for p in paths}
    ordered |= {key: found[key] for key in sorted(found, key=lambda k: -k.count("/"))}
    return Existing(
        store,
        zarr_format,
        {key: raw for key, raw in ordered.items() if raw is not None},
        arrays,
        consolidated,
    )


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


def _searched(store: Store, group: str, zarr_format: int) -> list[str]:
    import zarr

    node = zarr.open_group(
        store,
        path=group or None,
        mode="r",
        zarr_format=zarr_format,  # type: ignore[arg-type]
        use_consolidated=False,
    )
    prefix = f"{group}/" if group else ""
    return [f"{prefix}{name}" for name in sorted(node.array_keys())]


def _held(store: Store, path: str, zarr_format: int) -> Held:
    ref = ZarrRef(store, path, zarr_format)
    info = open_stored(ref).info
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
