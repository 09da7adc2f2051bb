"""Stores by name: paths and URLs to zarr stores, and what is there already."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import (
    FsspecStore,
    LocalStore,
    MemoryStore,
    ObjectStore,
    StorePath,
    ZipStore,
)

from xchunk._secrets import safe_cause, without_credentials, without_secrets
from xchunk.errors import SourceError, TargetExistsError, XchunkError
from xchunk.storage.icechunk import is_session, name_of, store_of
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

#: What can only be read.
_READ_ONLY = ("http", "https", "zip", "tar", "reference", "github", "git", "libarchive")
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}
_BUCKETS = ("s3", "gs", "az", *_ALIASES)
#: Characters of another library's error that are shown.
_SAID = 500

# not .zmetadata: it is written before .zgroup, without which readers find no store
_ROOT_KEYS = ("zarr.json", ".zgroup", ".zarray")


def open_store(
    where: StoreLike, *, read_only: bool = False, storage_options: Mapping[str, Any] | None = None
) -> Store:
    """Turn a path, a URL, an fsspec mapper, a zarr store or one of obstore into a zarr store.

    What lies on a local file system becomes a `zarr.storage.LocalStore`, however it is given.

    Parameters
    ----------
    where : str, path, fsspec mapper, zarr store or obstore store
        ``"series.zarr"``, ``"s3://bucket/series.zarr"``, ``zarr.storage.MemoryStore()``, …
    read_only : bool
        Whether the store will only be read.
    storage_options : mapping, optional
        What fsspec needs to reach a URL (credentials, endpoint, …).

    Raises
    ------
    SourceError
        If a store cannot be made of it, or if it is to be written and can only be read.
    """
    if isinstance(where, StorePath):
        if where.path:
            raise SourceError(
                f"{without_credentials(str(where))} is a path inside a store; give the store "
                "itself, or a URL with the path"
            )
        where = where.store
    where = store_of(where)
    store: Store = where if isinstance(where, Store) else _made(where, read_only, storage_options)
    path = local_path(store)
    if path is not None and not isinstance(store, LocalStore):
        return LocalStore(path, read_only=read_only or store.read_only)
    if not read_only and _scheme(store) in _READ_ONLY:
        raise SourceError(
            f"{describe(store)} can only be read. Nothing was written. Give a target on a disk or "
            "an object store."
        )
    return store


def _made(where: Any, read_only: bool, storage_options: Mapping[str, Any] | None) -> Store:
    if isinstance(where, os.PathLike):
        where = os.fspath(where)
    if isinstance(where, str):
        if not where.strip():
            raise SourceError("the name of a store is empty; give a path or a URL")
        path = local_path(where)
        if path is not None:
            return _on_disk(path, read_only)
        options = dict(storage_options or {})
        if where.partition("://")[0] in _BUCKETS:
            # others write there as well: what was listed a minute ago need not be there now
            options.setdefault("use_listings_cache", False)
        try:
            return FsspecStore.from_url(where, storage_options=options, read_only=read_only)
        except Exception as error:  # noqa: BLE001 - every file system has errors of its own
            raise SourceError(
                f"{without_secrets(where)!r} cannot be opened: {error}. Install what the URL needs "
                "(pip install 'xchunk[remote]'), or give a path."
            ) from safe_cause(error)
    if hasattr(where, "fs") and hasattr(where, "root"):
        return FsspecStore.from_mapper(where, read_only=read_only)
    if type(where).__module__.partition(".")[0] == "obstore":
        return ObjectStore(where, read_only=read_only)
    raise SourceError(
        f"a store cannot be made of {type(where).__name__}; give a path, a URL, an fsspec mapper, "
        "a zarr store or one of obstore"
    )


def _on_disk(path: Path, read_only: bool) -> Store:
    if path.suffix != ".zip" or path.is_dir():
        return LocalStore(path, read_only=read_only)
    if not read_only:
        raise SourceError(
            f"{path}: a zip file cannot be written box by box, nor can anything be deleted in it. "
            "Nothing was written. Give the name of a folder, and pack that when it is complete."
        )
    if not path.is_file():
        raise SourceError(f"{path}: no such file. Check the path.")
    return ZipStore(path, mode="r")


def local_path(where: StoreLike) -> Path | None:
    """Return the folder of a store that lies on a local file system, else None."""
    if isinstance(where, LocalStore):
        return Path(where.root)
    if isinstance(where, FsspecStore):
        return Path(where.path) if _scheme(where) in ("file", "local") else None
    if isinstance(where, ObjectStore):
        prefix = getattr(where.store, "prefix", None)
        is_local = type(where.store).__name__ == "LocalStore" and prefix
        return Path(str(prefix)) if is_local else None
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
    if isinstance(store, ZipStore):
        return str(store.path)
    if isinstance(store, FsspecStore | ObjectStore | str):
        scheme, _, place = _where(store)
        return f"{scheme}://{place}" if scheme else without_secrets(place)
    if isinstance(store, MemoryStore):
        return "a store in memory"
    if is_session(store):
        return name_of(store)
    return f"a {type(store).__name__}"


def _scheme(store: Store) -> str:
    return _where(store)[0] if isinstance(store, FsspecStore | ObjectStore) else ""


def _where(store: StoreLike) -> tuple[str, str, str]:
    """Tell a remote store's scheme, its endpoint where it is known, and its place."""
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        scheme = str(protocol if isinstance(protocol, str) else protocol[0])
        path = store.path if "://" in store.path else f"{scheme}://{store.path}"
        place = without_secrets(path).rpartition("://")[2]
        return _ALIASES.get(scheme, scheme), _endpoint_of(store.fs), place
    if isinstance(store, ObjectStore):
        return _where_of_obstore(store.store)
    scheme, _, rest = without_secrets(str(store)).rpartition("::")[2].partition("://")
    return ("", "", str(store)) if "::" in str(store) else (scheme, "", rest)


def _endpoint_of(fs: Any) -> str:
    options = getattr(fs, "storage_options", None) or {}
    of_client = options.get("client_kwargs") or {}
    named = (options.get("endpoint_url"), of_client.get("endpoint_url"), options.get("endpoint"))
    return without_secrets(str(next((n for n in named if n), "")))


def _where_of_obstore(inner: Any) -> tuple[str, str, str]:
    name = type(inner).__name__
    config = getattr(inner, "config", None) or {}
    prefix = str(getattr(inner, "prefix", None) or "").strip("/")
    if name == "HTTPStore":
        scheme, _, rest = without_secrets(str(inner.url)).partition("://")
        return scheme, "", rest
    if name == "MemoryStore":
        return "memory", "", prefix
    scheme = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az"}.get(name, name)
    bucket = str(config.get("bucket") or config.get("container_name") or "")
    endpoint = without_secrets(str(config.get("endpoint") or ""))
    return scheme, endpoint, "/".join(p for p in (bucket, prefix) if p)


def is_zarr(store: Store) -> bool:
    """Tell whether the root of a store is a zarr group or array."""
    return any(get_key(store, key) is not None for key in _ROOT_KEYS)


def is_empty(store: Store) -> bool:
    """Tell whether there is nothing at all in a store."""
    path = local_path(store)
    if path is not None:
        return not path.exists() or (path.is_dir() and not any(path.iterdir()))
    return not is_zarr(store) and not holds_any(store, "")


def overlaps(a: StoreLike, b: StoreLike) -> bool:
    """Tell whether one store is the other, or lies within it (symbolic links followed)."""
    path_a, path_b = local_path(a), local_path(b)
    if path_a is not None and path_b is not None:
        real_a, real_b = path_a.resolve(), path_b.resolve()
        return real_a == real_b or real_a in real_b.parents or real_b in real_a.parents
    remote = (FsspecStore, ObjectStore)
    if isinstance(a, remote) and isinstance(b, remote):
        (scheme_a, end_a, place_a), (scheme_b, end_b, place_b) = _where(a), _where(b)
        if scheme_a != scheme_b or (scheme_a == "memory" and type(a) is not type(b)):
            return False
        if scheme_a == "memory" and isinstance(a, ObjectStore) and isinstance(b, ObjectStore):
            return a.store is b.store
        if end_a and end_b and end_a.rstrip("/") != end_b.rstrip("/"):
            return False
        root_a, root_b = (p.strip("/") + "/" for p in (place_a, place_b))
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
            said = " ".join(str(error).split())[:_SAID]
            raise SourceError(
                f"{describe(store)} cannot be reached: {type(error).__name__}: {said}. Nothing "
                "was written. Check the place and the rights to it, and call again."
            ) from safe_cause(error)
        raise


def refuse_overlap(source: StoreLike, target: StoreLike, name: str) -> None:
    """Refuse a target that is the source, lies inside it, or holds it."""
    if overlaps(source, target):
        raise TargetExistsError(
            f"the target {describe(target)} and the source of {name!r}, {describe(source)}, lie "
            "one inside the other; writing would destroy what is being read. Give a target "
            "elsewhere."
        )
