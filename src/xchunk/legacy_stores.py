"""Where rechunker's callers want things: strings, mappings, stores, and groups in a store."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath

from xchunk.errors import InvalidChunksError
from xchunk.storage.stores import describe, open_store

__all__ = ["Target", "find_target", "in_order", "open_scratch"]


@dataclass(frozen=True)
class Target:
    """Where the result goes."""

    store: Store
    """The store, of which the result is all."""
    parent: zarr.Group | None = None
    """The group of which the result becomes a member."""
    overwrite: bool = False
    """Whether a zarr store that is there is replaced."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of an empty group that is there, which stay."""

    def refresh(self) -> None:
        """Show the new member in the consolidated metadata of its group, where there are any."""
        parent = self.parent
        if parent is None or parent.metadata.consolidated_metadata is None:
            return
        zarr.consolidate_metadata(parent.store_path.store, path=parent.path or None)


def _is_place(value: Any) -> bool:
    """Tell whether this is where something is stored, and no mapping of options."""
    kinds = (str, os.PathLike, Store, StorePath, zarr.Group)
    return isinstance(value, kinds) or (hasattr(value, "fs") and hasattr(value, "root"))


def in_order(options: Any, temp_store: Any) -> tuple[Mapping[str, Any] | None, Any]:
    """Return options and scratch store in their order.

    Early versions of rechunker had the scratch store as their fifth argument; what is given
    there tells which of the two it is.
    """
    if _is_place(options):
        return (temp_store if isinstance(temp_store, Mapping) else None), options
    if options is None and isinstance(temp_store, dict) and temp_store:
        return temp_store, None
    if options is not None and not isinstance(options, Mapping):
        raise InvalidChunksError(f"target_options={options!r} is not a mapping of options.")
    return options, temp_store


def find_target(where: Any, name: str | None, storage_options: Mapping[str, Any] | None) -> Target:
    """Find the place of the result.

    Parameters
    ----------
    where : str, path, mapping, zarr store or zarr.Group
        What the user named.
    name : str, optional
        Name within a group, of an array; empty: the result is a group itself; None: an array
        without a name.
    storage_options : mapping, optional
        What fsspec needs to reach a URL.

    Raises
    ------
    InvalidChunksError
        If an array without a name is to become a member of a group.
    """
    if not isinstance(where, zarr.Group):
        return Target(_open(where, storage_options))
    if name is None:
        raise InvalidChunksError(
            "the target is a group, so that the array needs a name in it: give array_name."
        )
    if name:
        return Target(_below(where.store_path.store, _joined(where.path, name)), parent=where)
    empty = where.nmembers() == 0
    store = _below(where.store_path.store, where.path)
    return Target(store, overwrite=empty, attrs=dict(where.attrs) if empty else {})


def open_scratch(where: Any, storage_options: Mapping[str, Any] | None) -> Store:
    """Open the store for scratch data."""
    if isinstance(where, zarr.Group):
        return _below(where.store_path.store, where.path)
    return _open(where, storage_options)


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _open(where: Any, storage_options: Mapping[str, Any] | None) -> Store:
    if isinstance(where, StorePath) and where.path:
        return _below(where.store, where.path)
    if isinstance(where, MutableMapping) and not hasattr(where, "fs"):
        return MemoryStore(where)
    return open_store(where, storage_options=storage_options)


def _below(store: Store, path: str) -> Store:
    """Return what lies below a path of a store as a store of its own."""
    if not path:
        return store
    if isinstance(store, LocalStore):
        return LocalStore(Path(store.root) / path)
    if isinstance(store, FsspecStore):
        return FsspecStore(store.fs, path=f"{store.path.rstrip('/')}/{path}")
    raise InvalidChunksError(
        f"a path within {describe(store)} cannot be a target of its own; give a path or a URL."
    )
