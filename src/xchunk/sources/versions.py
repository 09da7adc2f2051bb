"""What a remote store says of its objects: by that a changed chunk is noticed.

One request lists a thousand objects, so that this is cheap; nothing is read. A server of HTTP
does not list, so that it is asked for some of the chunks, one by one.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dask.base import tokenize
from zarr.storage import FsspecStore, ObjectStore

from xchunk.core.grid import Grid
from xchunk.core.redact import without_secrets
from xchunk.sources.refs import FileRef, OneRef, ZarrRef
from xchunk.sources.remote_file import digest_of
from xchunk.stores.adapter import is_regular, open_array
from xchunk.stores.in_flight import wait_for
from xchunk.stores.stores import describe, local_path

#: Objects of an array that are listed: twenty requests. Of larger arrays nothing is.
MOST_OBJECTS = 20_000
#: Chunks of an array that a server of HTTP is asked for. Of larger arrays this many of them: who
#: writes an array anew writes more than one chunk.
MOST_ASKED = 64


def place_of_part(ref: OneRef) -> str:
    """Say where a stored array is, without secrets."""
    if isinstance(ref, FileRef):
        return without_secrets(ref.filename)
    return without_secrets(f"{describe(ref.store)}/{ref.path}")


def stamp_of_part(ref: OneRef, shape: Sequence[int]) -> int:
    """Return what tells a stored array from one that takes its place later.

    Of a local file it is the size and the time of the last change, of everything else the shape.
    """
    facts: list[Any] = [tuple(map(int, shape))]
    path = local_path(ref.filename) if isinstance(ref, FileRef) else None
    if path is not None:
        stat = path.stat()
        facts += [stat.st_size, stat.st_mtime_ns]
    return zlib.crc32(repr(facts).encode())


def stamp_of_objects(ref: ZarrRef) -> str | None:
    """Digest names, sizes and entity tags (else times) of the objects of an array.

    - returns: None where the store does not tell, or where there are too many objects to list.
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
    return digest_of(found) if found else None


def stamp_of_file(ref: FileRef) -> str | None:
    """Digest what a server says of one file: its size, and its entity tag or time."""
    import fsspec

    try:
        if ref.remote is not None:
            return str(ref.remote.identity())
        fs, path = fsspec.core.url_to_fs(ref.filename)
        return digest_of({"": fs.info(path)})
    except Exception:  # noqa: BLE001 - every file system has errors of its own; it is no must
        return None


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
    units = (array.shards or array.chunks) if is_regular(array) else array.write_chunk_sizes
    grid = Grid.of(array.shape, units)
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


#: Bytes of strings or other objects that are looked at together.
_AT_ONCE = 1_000_000


def token_of_values(values: Any) -> str:
    """Return a token of an array; of strings, dask would make two copies, which may be large."""
    if type(values) is not np.ndarray or not (values.dtype.hasobject or values.dtype.kind == "T"):
        return str(tokenize(values))
    tokens: list[str] = []
    run: list[Any] = []
    held = 0
    for value in values.flat:
        run.append(value)
        held += sys.getsizeof(value)
        if held > _AT_ONCE:
            tokens.append(str(tokenize(run)))
            run, held = [], 0
    tokens.append(str(tokenize(run)))
    return str(tokenize(values.shape, str(values.dtype), tokens))
