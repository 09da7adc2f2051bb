"""What a remote store says of its objects when it lists them: by that a changed chunk is noticed.

One request lists a thousand objects, so that this is cheap; nothing is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, ObjectStore

from xchunk.storage.zarr_io import wait_for

__all__ = ["stamp_of_objects"]

#: Objects of an array that are listed: twenty requests. Of larger arrays nothing is.
MOST_OBJECTS = 20_000
#: What tells one content of an object from another one; the first that is known.
_KEYS = (
    "ETag", "etag", "e_tag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated",
    "mtime", "created",
)  # fmt: skip


def stamp_of_objects(store: Store, path: str) -> str | None:
    """Digest names, sizes and entity tags (else times) of the objects below a path.

    Returns
    -------
    str or None
        None where the store does not list, or where there are too many objects.
    """
    try:
        if isinstance(store, FsspecStore):
            found = _of_fsspec(store, path)
        elif isinstance(store, ObjectStore):
            found = _of_obstore(store, path)
        else:
            return None
    except Exception:  # noqa: BLE001 - every file system has errors of its own; it is no must
        return None
    if not found:
        return None
    state = hashlib.sha256()
    for name, about in sorted(found.items()):
        tag = next((about[k] for k in _KEYS if about.get(k)), "")
        state.update(f"{name}\0{about.get('size')}\0{tag}\0".encode(errors="surrogateescape"))
    return state.hexdigest()


def _of_fsspec(store: FsspecStore, path: str) -> Mapping[str, Mapping[str, Any]] | None:
    protocol = store.fs.protocol
    if {"http", "https"} & ({protocol} if isinstance(protocol, str) else set(protocol)):
        # pages of links are no listing
        return None
    root = f"{store.path}/{path}".rstrip("/")
    # what an asynchronous file system offers is called by its coroutine, with an underscore
    found = wait_for(store.fs._find(root, detail=True))  # noqa: SLF001
    if len(found) > MOST_OBJECTS:
        return None
    return {str(name).removeprefix(root): about for name, about in found.items()}


def _of_obstore(store: ObjectStore[Any], path: str) -> Mapping[str, Mapping[str, Any]] | None:
    found: dict[str, Mapping[str, Any]] = {}
    for batch in store.store.list(prefix=f"{path}/" if path else None, chunk_size=1000):
        found |= {str(about["path"]): about for about in batch}
        if len(found) > MOST_OBJECTS:
            return None
    return found
