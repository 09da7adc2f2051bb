"""What a remote store says of its objects: by that a changed chunk is noticed.

One request lists a thousand objects, so that this is cheap; nothing is read. A server of HTTP
does not list, so that it is asked for some of the chunks, one by one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

from zarr.storage import FsspecStore, ObjectStore

from xchunk.core.grid import Grid
from xchunk.storage.refs import ZarrRef
from xchunk.storage.zarr_io import open_array, wait_for

__all__ = ["stamp_of_file", "stamp_of_objects"]

#: Objects of an array that are listed: twenty requests. Of larger arrays nothing is.
MOST_OBJECTS = 20_000
#: Chunks of an array that a server of HTTP is asked for. Of larger arrays this many of them: who
#: writes an array anew writes more than one chunk.
MOST_ASKED = 64
#: What tells one content of an object from another one; the first that is known.
_KEYS = (
    "ETag", "etag", "e_tag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated",
    "mtime", "created", "Content-MD5", "Digest", "Last-Modified",
)  # fmt: skip


def stamp_of_objects(ref: ZarrRef) -> str | None:
    """Digest names, sizes and entity tags (else times) of the objects of an array.

    Returns
    -------
    str or None
        None where the store does not tell, or where there are too many objects to list.
    """
    store, path = ref.store, ref.path
    try:
        if isinstance(store, FsspecStore):
            found = _of_http(store, ref) if _is_http(store.fs) else _of_fsspec(store, path)
        elif isinstance(store, ObjectStore):
            found = _of_obstore(store, ref)
        else:
            return None
    except Exception:  # noqa: BLE001 - every file system has errors of its own; it is no must
        return None
    return _digest(found) if found else None


def stamp_of_file(url: str) -> str | None:
    """Digest what a server says of one file: its size, and its entity tag or time."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url)
        return _digest({"": fs.info(path)})
    except Exception:  # noqa: BLE001 - every file system has errors of its own; it is no must
        return None


def _digest(found: Mapping[str, Mapping[str, Any]]) -> str:
    state = hashlib.sha256()
    for name, about in sorted(found.items()):
        tag = next((about[k] for k in _KEYS if about.get(k)), "")
        state.update(f"{name}\0{about.get('size')}\0{tag}\0".encode(errors="surrogateescape"))
    return state.hexdigest()


def _is_http(fs: Any) -> bool:
    names = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return bool({"http", "https"} & names)


def _of_fsspec(store: FsspecStore, path: str) -> Mapping[str, Mapping[str, Any]] | None:
    root = f"{store.path}/{path}".rstrip("/")
    # what an asynchronous file system offers is called by its coroutine, with an underscore
    found = wait_for(store.fs._find(root, detail=True))  # noqa: SLF001
    if len(found) > MOST_OBJECTS:
        return None
    return {str(name).removeprefix(root): about for name, about in found.items()}


def _of_http(store: FsspecStore, ref: ZarrRef) -> Mapping[str, Mapping[str, Any]]:
    async def ask(key: str) -> Mapping[str, Any]:
        try:
            about: Mapping[str, Any] = await store.fs._info(f"{store.path}/{key}")  # noqa: SLF001
        except FileNotFoundError:
            return {}
        return about

    async def ask_all(keys: list[str]) -> list[Mapping[str, Any]]:
        return list(await asyncio.gather(*map(ask, keys)))

    keys = _some_chunks(ref)
    return dict(zip(keys, wait_for(ask_all(keys)), strict=True))


def _some_chunks(ref: ZarrRef) -> list[str]:
    """Name chunks (shards, where there are) of an array: all, or some over all of it."""
    array: Any = open_array(ref.store, ref.path, ref.zarr_format, mode="r")
    grid = Grid.of(array.shape, array.shards or array.chunks)
    asked = min(grid.count, MOST_ASKED)
    some = [grid.index(i * grid.count // asked) for i in range(asked)]
    prefix = f"{ref.path}/" if ref.path else ""
    return [prefix + array.metadata.encode_chunk_key(at) for at in some]


def _of_obstore(store: ObjectStore[Any], ref: ZarrRef) -> Mapping[str, Mapping[str, Any]] | None:
    found: dict[str, Mapping[str, Any]] = {}
    path = ref.path
    if type(store.store).__name__ == "HTTPStore":
        for key in _some_chunks(ref):
            try:
                found[key] = store.store.head(key)
            except FileNotFoundError:
                found[key] = {}
        return found
    for batch in store.store.list(prefix=f"{path}/" if path else None, chunk_size=1000):
        found |= {str(about["path"]): about for about in batch}
        if len(found) > MOST_OBJECTS:
            return None
    return found
