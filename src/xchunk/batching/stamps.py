"""Stamps by which a source, or a target, is known to be what it was when a job was done.

They are made without opening anything as a dataset: thousands of finished jobs are looked
through before the first one is run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from xchunk.storage.site import state_of
from xchunk.storage.stores import local_path, open_store
from xchunk.storage.workspace import PREFIX
from xchunk.storage.zarr_io import get_key

__all__ = ["sources_stamp", "target_stamp"]

#: Files of one store whose names and sizes are looked at.
_MOST_FILES = 20_000
_ROOT_DOCUMENTS = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")
#: What file systems call the version of an object.
_VERSIONS = (
    "size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "VersionId",
    "version_id", "generation", "md5Hash", "created",
)  # fmt: skip


def sources_stamp(sources: Sequence[str], options: Mapping[str, Any]) -> str:
    """Digest what can be seen of sources from outside: sizes, times, versions, root metadata."""
    return _digest([_source(name, options) for name in sources])


def _source(name: str, options: Mapping[str, Any]) -> Any:
    path = local_path(name)
    if path is None:
        return _remote(name, options)
    try:
        if path.is_dir():
            return list(_files(str(path), times=True))
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _remote(name: str, options: Mapping[str, Any]) -> Any:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(name, **dict(options))
        info = fs.info(path)
        facts = [(k, str(info[k])) for k in _VERSIONS if info.get(k) is not None]
        documents = []
        if info.get("type") == "directory":
            facts = []
            for key in _ROOT_DOCUMENTS:
                with suppress(FileNotFoundError):
                    documents.append(hashlib.sha256(fs.cat_file(f"{path}/{key}")).hexdigest())
    except Exception:  # noqa: BLE001 - what is wrong is said when it is opened
        return None
    return [facts, documents]


def target_stamp(target: str, options: Mapping[str, Any]) -> str | None:
    """Digest a complete store: its root's metadata, which are written last, and its files.

    Returns
    -------
    str or None
        None where there is no complete zarr store.
    """
    store = open_store(target, read_only=True, storage_options=options)
    if state_of(store) not in ("complete", "committed"):
        return None
    documents = [get_key(store, key) or b"" for key in _ROOT_DOCUMENTS]
    path = local_path(store)
    files = [] if path is None else list(_files(str(path), times=False))
    return _digest([[hashlib.sha256(d).hexdigest() for d in documents], files])


def _files(folder: str, *, times: bool) -> Iterator[list[Any]]:
    """List files below a folder with their sizes, in an order that stays the same."""
    stack, seen = [folder], 0
    while stack:
        here = stack.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name == PREFIX:
                continue
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
                continue
            if seen >= _MOST_FILES:
                return
            seen += 1
            with suppress(OSError):
                stat = entry.stat()
                name = os.path.relpath(entry.path, folder)
                yield [name, stat.st_size, *([stat.st_mtime_ns] if times else [])]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
