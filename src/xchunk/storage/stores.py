"""Stores by name: paths and URLs to zarr stores, and what is there already."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath

from xchunk.errors import SourceError, TargetExistsError, XchunkError
from xchunk.storage.zarr_io import get_key, holds_any

__all__ = [
    "StoreLike",
    "describe",
    "is_fault_of_store",
    "is_zarr",
    "local_path",
    "open_store",
    "overlaps",
    "reaching",
    "refuse_overlap",
    "same_place",
]

StoreLike = Any

# not .zmetadata: it is written before .zgroup, without which readers find no store
_ROOT_KEYS = ("zarr.json", ".zgroup", ".zarray")


def open_store(
    where: StoreLike, *, read_only: bool = False, storage_options: Mapping[str, Any] | None = None
) -> Store:
    """Turn a path, a URL, an fsspec mapper or a zarr store into a zarr store.

    Parameters
    ----------
    where : str, path, fsspec mapper or zarr store
        ``"series.zarr"``, ``"s3://bucket/series.zarr"``, ``zarr.storage.MemoryStore()``, …
    read_only : bool
        Whether the store will only be read.
    storage_options : mapping, optional
        What fsspec needs to reach a URL (credentials, endpoint, …).
    """
    if isinstance(where, StorePath):
        if where.path:
            raise SourceError(
                f"{where} is a path inside a store; give the store itself, or a URL with the path"
            )
        where = where.store
    if isinstance(where, Store):
        return where
    if isinstance(where, os.PathLike):
        where = os.fspath(where)
    if isinstance(where, str):
        if not where.strip():
            raise SourceError("the name of a store is empty; give a path or a URL")
        path = local_path(where)
        if path is not None:
            return LocalStore(path, read_only=read_only)
        try:
            return FsspecStore.from_url(
                where, storage_options=dict(storage_options or {}), read_only=read_only
            )
        except (ImportError, ValueError) as error:
            raise SourceError(
                f"{where!r} cannot be opened: {error}. Install what the URL needs "
                "(pip install 'xchunk[remote]'), or give a path."
            ) from error
    if hasattr(where, "fs") and hasattr(where, "root"):
        return FsspecStore.from_mapper(where, read_only=read_only)
    raise SourceError(
        f"a store cannot be made of {type(where).__name__}; give a path, a URL, an fsspec mapper "
        "or a zarr store"
    )


def local_path(where: StoreLike) -> Path | None:
    """Return the folder of a store that lies on a local file system, else None."""
    if isinstance(where, LocalStore):
        return Path(where.root)
    if isinstance(where, os.PathLike):
        where = os.fspath(where)
    if not isinstance(where, str) or "::" in where:
        return None
    if where.startswith(("file://", "local://")):
        where = where.split("://", 1)[1]
    return None if "://" in where else Path(where).expanduser()


def describe(store: StoreLike) -> str:
    """Name a store without its credentials."""
    path = local_path(store)
    if path is not None:
        return str(path)
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        return f"{protocol if isinstance(protocol, str) else protocol[0]}://{store.path}"
    if isinstance(store, MemoryStore):
        return "a store in memory"
    if isinstance(store, str):
        scheme, _, rest = store.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"
    return f"a {type(store).__name__}"


def is_zarr(store: Store) -> bool:
    """Tell whether the root of a store is a zarr group or array."""
    return any(get_key(store, key) is not None for key in _ROOT_KEYS)


def is_empty(store: Store) -> bool:
    """Tell whether there is nothing at all in a store."""
    path = local_path(store)
    if path is not None:
        return not path.exists() or (path.is_dir() and not any(path.iterdir()))
    return not holds_any(store, "")


def overlaps(a: StoreLike, b: StoreLike) -> bool:
    """Tell whether one store is the other, or lies within it (symbolic links followed)."""
    path_a, path_b = local_path(a), local_path(b)
    if path_a is not None and path_b is not None:
        real_a, real_b = path_a.resolve(), path_b.resolve()
        return real_a == real_b or real_a in real_b.parents or real_b in real_a.parents
    if isinstance(a, FsspecStore) and isinstance(b, FsspecStore):
        if type(a.fs) is not type(b.fs):
            return False
        root_a, root_b = (s.path.strip("/") + "/" for s in (a, b))
        return root_a.startswith(root_b) or root_b.startswith(root_a)
    return isinstance(a, Store) and a == b


def same_place(a: Store, b: Store) -> bool:
    """Tell whether two stores are one and the same place."""
    path_a, path_b = local_path(a), local_path(b)
    if path_a is not None and path_b is not None:
        return path_a.resolve() == path_b.resolve()
    return a == b


def is_fault_of_store(error: BaseException) -> bool:
    """Tell whether an error is a store's, each of which has errors of its own, and not ours."""
    ours = (XchunkError, TypeError, AttributeError, NameError, NotImplementedError)
    return isinstance(error, Exception) and not isinstance(error, ours)


@contextmanager
def reaching(store: StoreLike) -> Iterator[None]:
    """Turn what a store raises into one of our errors; nothing was written yet.

    Raises
    ------
    SourceError
        If the store cannot be reached.
    """
    try:
        yield
    except Exception as error:
        if is_fault_of_store(error):
            said = " ".join(str(error).split())
            raise SourceError(
                f"{describe(store)} cannot be reached: {type(error).__name__}: {said}. Nothing "
                "was written. Check the place and the rights to it, and call again."
            ) from error
        raise


def refuse_overlap(source: StoreLike, target: StoreLike, name: str) -> None:
    """Refuse a target that is the source, lies inside it, or holds it."""
    if overlaps(source, target):
        raise TargetExistsError(
            f"the target {describe(target)} and the source of {name!r}, {describe(source)}, lie "
            "one inside the other; writing would destroy what is being read. Give a target "
            "elsewhere."
        )
