"""Stores by name: paths and URLs to zarr stores, and what is there already."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import (
    FsspecStore,
    LocalStore,
    MemoryStore,
    ObjectStore,
    StorePath,
    ZipStore,
)

from xchunk.core.redact import safe_cause, without_credentials, without_secrets
from xchunk.errors import SourceError, TargetExistsError, XchunkError
from xchunk.stores.adapter import (
    get_key,
    get_keys,
    holds_any,
    holds_one_of,
    is_near,
    seconds_of,
    share_memory,
)
from xchunk.stores.icechunk import is_session, name_of, store_of
from xchunk.stores.object_stores import folder_above, through_obstore
from xchunk.stores.overlay import innermost

StoreLike = Any

#: What can only be read.
_READ_ONLY = ("http", "https", "zip", "tar", "reference", "github", "git", "libarchive")
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}
_BUCKETS = ("s3", "gs", "az", *_ALIASES)
#: Characters of another library's error that are shown.
_SAID = 500

#: Documents of which one makes a store openable.
# not .zmetadata: it is written before .zgroup, without which readers find no store
ROOT_KEYS = ("zarr.json", ".zgroup", ".zarray")


def open_store(
    where: StoreLike, *, read_only: bool = False, storage_options: Mapping[str, Any] | None = None
) -> Store:
    """Turn a path, a URL, an fsspec mapper, a zarr store or one of obstore into a zarr store.

    What lies on a local file system becomes a `zarr.storage.LocalStore`, however it is given.

    - ``where``: ``"series.zarr"``, ``"s3://bucket/series.zarr"``, ``zarr.storage.MemoryStore()``, …
    - ``read_only``: whether the store will only be read.
    - ``storage_options``: what fsspec needs to reach a URL (credentials, endpoint, …).
    - raises `SourceError` if a store cannot be made of it, or if it is to be written and can only
      be read.
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
    if not read_only and scheme_of(store) in _READ_ONLY:
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
        if found := through_obstore(where, options, read_only=read_only):
            return found
        if where.partition("://")[0] in _BUCKETS:
            # others write there as well: what was listed a minute ago need not be there now
            options.setdefault("use_listings_cache", False)
        if where.startswith(("s3://", "s3a://")):
            # s3fs would ask for the size of each object before it reads it
            options.setdefault("max_concurrency", 1)
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
        return Path(_below(where)[1]) if scheme_of(where) in ("file", "local") else None
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
    if isinstance(store, Store):
        store = innermost(store)
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


def scheme_of(store: Store) -> str:
    """Return the scheme of a remote store's URL; empty for others."""
    return _where(store)[0] if isinstance(store, FsspecStore | ObjectStore) else ""


def _where(store: StoreLike) -> tuple[str, str, str]:
    """Report a remote store's scheme, its endpoint where it is known, and its place."""
    if isinstance(store, FsspecStore):
        fs, path = _below(store)
        protocol = fs.protocol
        scheme = str(protocol if isinstance(protocol, str) else protocol[0])
        place = without_secrets(path if "://" in path else f"{scheme}://{path}")
        return _ALIASES.get(scheme, scheme), _endpoint_of(fs), place.rpartition("://")[2]
    if isinstance(store, ObjectStore):
        return _where_of_obstore(store.store)
    scheme, _, rest = without_secrets(str(store)).rpartition("::")[2].partition("://")
    return ("", "", str(store)) if "::" in str(store) else (scheme, "", rest)


def _below(store: FsspecStore) -> tuple[Any, str]:
    """Return fsspec's file system below those that wrap another, and the path in it."""
    fs, path = store.fs, store.path
    while True:
        kind = type(fs).__name__
        if kind == "AsyncFileSystemWrapper":
            fs = fs.sync_fs
        elif kind == "DirFileSystem":
            fs, path = fs.fs, f"{fs.path.rstrip('/')}/{path.strip('/')}"
        else:
            return fs, path


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
    """Return whether the root of a store is a zarr group or array."""
    return holds_one_of(store, ROOT_KEYS)


def latency_of(*stores: Store) -> float | None:
    """Measure the seconds of a request to the farthest of some stores; None: it cannot be told."""
    told: list[float] = []
    far: list[Store] = []
    # a session answers from memory what is not yet in its store
    for store in (s for s in stores if not is_session(s)):
        path = local_path(store)
        if path is not None:
            told.append(_seconds_of_folder(path))
        elif is_near(store):
            told.append(0.0)
        else:
            far.append(store)
    return max([*told, *(seconds_of(far) if far else ())], default=None)


def _seconds_of_folder(path: Path) -> float:
    folder = next((p for p in (path, *path.absolute().parents) if p.is_dir()), path)
    least = math.inf
    for _ in range(3):
        # a name that nobody has asked for: what is cached would be near
        name, began = folder / f".{uuid.uuid4().hex}", time.perf_counter()
        with suppress(OSError):
            name.exists()
        least = min(least, time.perf_counter() - began)
    return least


def root_of(store: Store) -> tuple[Store, str]:
    """Return the outermost store that a store is a group of, and the path of that group in it.

    Readers find all metadata in the root of a hierarchy: who writes to a group has to know it.
    A store that lies in no other group is returned as it is, with an empty path.
    """
    root = store, ""
    for root in groups_above(store):  # noqa: B007 - the last one is wanted
        pass
    return root


def groups_above(store: Store) -> Iterator[tuple[Store, str]]:
    """Yield the groups that a store lies in, the nearest first, with the store's path in each."""
    path = ""
    while (found := above(store)) is not None:
        store, name = found
        try:
            if not _is_group(store):
                return
        except Exception:  # noqa: BLE001 - what may not be read cannot be the root of this
            return
        path = f"{name}/{path}".rstrip("/")
        yield store, path


def above(store: Store) -> tuple[Store, str] | None:
    """Return the store of the folder that a store lies in, and its name there."""
    if type(store) is LocalStore:
        path = Path(store.root)
        if path.name in ("", "..") or path.parent == path:
            return None
        return LocalStore(path.parent, read_only=store.read_only), path.name
    if type(store) is FsspecStore:
        outer, _, name = store.path.rstrip("/").rpartition("/")
        if outer.strip("/") and name:
            return FsspecStore(store.fs, read_only=store.read_only, path=outer), name
    if type(store) is ObjectStore:
        return folder_above(store)
    return None


def _is_group(store: Store) -> bool:
    third, second = get_keys(store, ["zarr.json", ".zgroup"])
    return second is not None if third is None else json.loads(third).get("node_type") == "group"


def is_empty(store: Store) -> bool:
    """Return whether there is nothing at all in a store."""
    path = local_path(store)
    if path is not None:
        return not path.exists() or (path.is_dir() and not any(path.iterdir()))
    return not is_zarr(store) and not holds_any(store, "")


def overlaps(a: StoreLike, b: StoreLike, path_a: str = "", path_b: str = "") -> bool:
    """Return whether one place is the other, or lies within it (symbolic links followed).

    - ``a``, ``b``: two stores, or files. Stores that wrap another are that other.
    - ``path_a``, ``path_b``: paths within them, where not all of the store is meant.
    """
    if isinstance(a, Store) and isinstance(b, Store):
        a, b = innermost(a), innermost(b)
    local_a, local_b = local_path(a), local_path(b)
    if local_a is not None and local_b is not None:
        real_a, real_b = (local_a / path_a).resolve(), (local_b / path_b).resolve()
        return real_a == real_b or real_a in real_b.parents or real_b in real_a.parents
    remote = (FsspecStore, ObjectStore)
    if isinstance(a, remote) and isinstance(b, remote):
        (scheme_a, end_a, place_a), (scheme_b, end_b, place_b) = _where(a), _where(b)
        if scheme_a != scheme_b or (scheme_a == "memory" and type(a) is not type(b)):
            return False
        if scheme_a == "memory" and isinstance(a, ObjectStore) and isinstance(b, ObjectStore):
            return a.store is b.store and _one_within(path_a, path_b)
        if end_a and end_b and end_a.rstrip("/") != end_b.rstrip("/"):
            return False
        return _one_within(f"{place_a.strip('/')}/{path_a}", f"{place_b.strip('/')}/{path_b}")
    if isinstance(a, MemoryStore) and isinstance(b, MemoryStore):
        return share_memory(a, b) and _one_within(path_a, path_b)
    return isinstance(a, Store) and a == b and _one_within(path_a, path_b)


def _one_within(a: str, b: str) -> bool:
    """Return whether one path within a store is the other, or lies below it."""
    one, other = (f"{p.strip('/')}/".lstrip("/") for p in (a, b))
    return one.startswith(other) or other.startswith(one)


def same_place(a: Store, b: Store) -> bool:
    """Return whether two stores are one and the same place."""
    path_a, path_b = local_path(a), local_path(b)
    if path_a is not None and path_b is not None:
        return path_a.resolve() == path_b.resolve()
    if isinstance(a, MemoryStore) and isinstance(b, MemoryStore):
        return share_memory(a, b)
    return a == b


def is_fault_of_store(error: BaseException) -> bool:
    """Return whether an error is a store's, each of which has errors of its own, and not ours."""
    ours = (XchunkError, TypeError, AttributeError, NameError, NotImplementedError)
    return isinstance(error, Exception) and not isinstance(error, ours)


@contextmanager
def reaching(store: StoreLike) -> Iterator[None]:
    """Turn what a store raises into one of our errors; nothing was written yet.

    - raises `SourceError` if the store cannot be reached.
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


#: Places that have answered rightly, so that each is asked once in a process.
_known: set[str] = set()
_MOST_KNOWN = 1000


def refuse_without_ranges(store: Store, key: str) -> None:
    """Refuse a remote store of sharded arrays whose server does not serve parts of objects.

    - ``store``: the store; those on disk and in memory are not asked.
    - ``key``: an object of more than one byte that is there.
    - raises `SourceError` if the first byte of the object, or its last, is not what is answered
      when it is asked for.
    """
    place = describe(store)
    if not isinstance(store, FsspecStore | ObjectStore) or place in _known:
        return
    whole = get_key(store, key)
    if not whole or len(whole) < 2:
        return
    try:
        first = get_key(store, key, RangeByteRequest(0, 1))
        last = get_key(store, key, SuffixByteRequest(1))
    except OSError as error:
        raise _refusal(place) from error
    if (first, last) != (whole[:1], whole[-1:]):
        raise _refusal(place)
    if len(_known) < _MOST_KNOWN:
        _known.add(place)


def _refusal(place: str) -> SourceError:
    return SourceError(
        f"the server of {place} ignores which bytes of an object are asked for, so that sharded "
        "arrays cannot be read from it: parts of shards would be taken for others. Nothing was "
        "copied. Use a server with range requests (nginx, or an object store), or copy the store "
        "to a disk first."
    )
