"""The adapter to zarr: the one place that names what zarr has not made public.

Three things are needed that zarr's public API does not offer. All fail soft:

* ``zarr.core.sync.sync`` runs a store's coroutine on zarr's own event loop. Remote stores bind
  their sessions to that loop, so that another loop would not do. Without it, the coroutine is
  run on a loop of our own, which local and memory stores accept.
* ``FusedCodecPipeline`` (zarr >= 3.4) is named by its path in ``zarr.config``. Where it is
  missing, the default pipeline is used; and for stores that cannot be read without an event
  loop, for which it would hold all chunks of a box at once.
* ``AsyncArray._get_selection`` reads into a buffer from a coroutine, which may run in the thread
  of our own task (`xchunk.storage.in_thread`). Without it, zarr's loop and threads are used.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.buffer.cpu import Buffer, NDBuffer, buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from xchunk.storage.chunk_files import ChunkFiles
from xchunk.storage.in_thread import is_free, run_here
from xchunk.storage.local_files import put_file, unfinished
from xchunk.storage.shard_files import ShardFiles
from xchunk.storage.unpublished import Unpublished

__all__ = [
    "bits",
    "delete_keys",
    "delete_prefix",
    "get_key",
    "get_keys",
    "has_fused_pipeline",
    "has_key",
    "holds_any",
    "is_near",
    "list_prefix",
    "open_array",
    "put_key",
    "read_into",
    "tuned",
    "wait_for",
    "write_units",
]

T = TypeVar("T")

_FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
_config_lock = threading.Lock()
#: The tuned configurations that are in force, of which only the first one set anything.
_tuned: list[Any] = []


def _sync(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        from zarr.core.sync import sync
    except ImportError:
        return asyncio.run(coroutine)
    return sync(coroutine)


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a store's file system, on the loop that its sessions belong to."""
    return _sync(coroutine)


@cache
def has_fused_pipeline() -> bool:
    """Tell whether this zarr has the pipeline that runs codecs without an event loop."""
    try:
        module = importlib.import_module(_FUSED.rpartition(".")[0])
    except ImportError:
        return False
    return hasattr(module, "FusedCodecPipeline")


@contextmanager
def tuned(concurrency: int = 1) -> Iterator[None]:
    """Set zarr's configuration for our own tasks, and leave the user's as it was.

    zarr's configuration belongs to the process, not to a thread, so that the first task
    sets it and the last one to leave restores it. What others do with zarr meanwhile
    stays right; only its speed may change.
    """
    settings: dict[str, Any] = {"async.concurrency": concurrency}
    if has_fused_pipeline():
        settings["codec_pipeline.max_workers"] = 1
    with _config_lock:
        _tuned.append(nullcontext() if _tuned else zarr.config.set(settings))
        _tuned[-1].__enter__()
    try:
        yield
    finally:
        with _config_lock:
            # any of the tasks may be the last to leave: the first entry is the one that counts
            _tuned.pop() if len(_tuned) > 1 else _tuned.pop().__exit__(None, None, None)


def is_near(store: Store) -> bool:
    """Tell whether a store answers without waiting: it is on this machine, or in its memory."""
    below = store.base if isinstance(store, Unpublished) else store
    return isinstance(below, LocalStore | MemoryStore)


def open_array(store: Store, path: str, zarr_format: int, *, mode: str) -> zarr.Array[Any]:
    """Open one array; ``mode`` is ``"r"`` or ``"r+"``.

    Written chunks are never dropped by zarr: its test for empty chunks takes any NaN for a
    NaN fill, which would lose payloads. `write_units` makes its own, by bits.
    """
    # zarr < 3.2 takes no such setting when it opens an array, but reads the configuration then
    settings: dict[str, Any] = {"array.write_empty_chunks": True}
    if has_fused_pipeline() and is_near(store):
        settings["codec_pipeline.path"] = _FUSED
    with _config_lock, zarr.config.set(settings):
        return zarr.open_array(
            store,
            path=path,
            mode=mode,
            zarr_format=zarr_format,  # type: ignore[arg-type]
        )


def read_into(array: zarr.Array[Any], region: Sequence[slice], out: NDArray[Any]) -> None:
    """Read a region of a stored array into a C-contiguous numpy array of its shape and dtype."""
    if not array.ndim:
        out[()] = array[()]
    elif out.dtype.hasobject or out.dtype.kind == "T":
        out[...] = array[tuple(region)]
    else:
        buffer = NDBuffer.from_numpy_array(out)
        reading = _reading(array, tuple(region), buffer) if _may_run_here(array) else None
        if reading is None:
            array.get_basic_selection(tuple(region), out=buffer)
        else:
            run_here(reading)


def _may_run_here(array: zarr.Array[Any]) -> bool:
    return is_near(array.store) and hasattr(array, "async_array") and is_free()


def _reading(
    array: zarr.Array[Any], region: tuple[slice, ...], out: NDBuffer
) -> Coroutine[Any, Any, Any] | None:
    try:
        from zarr.core.indexing import BasicIndexer

        inner: Any = array.async_array
        grid = inner._chunk_grid if hasattr(inner, "_chunk_grid") else inner.metadata.chunk_grid
        indexer = BasicIndexer(region, array.shape, grid)
        reading: Coroutine[Any, Any, Any] = inner._get_selection(
            indexer, prototype=buffer_prototype, out=out
        )
    except (ImportError, AttributeError, TypeError):
        return None
    return reading


def _write(
    array: zarr.Array[Any],
    region: tuple[slice, ...],
    values: NDArray[Any],
    files: ChunkFiles | ShardFiles | None,
) -> None:
    if files is not None and values.dtype == array.dtype and files.takes(region):
        files.write(region, values)
    elif _may_run_here(array):
        run_here(array.async_array.setitem(region, values))
    else:
        array[region] = values


def write_units(
    array: zarr.Array[Any],
    region: Sequence[slice],
    values: NDArray[Any],
    fill: Any,
    *,
    delete_empty: bool = False,
    files: ChunkFiles | ShardFiles | None = None,
) -> int:
    """Write a region made of whole write units; return how many units were written.

    Units that hold nothing but the bits of the fill value are left out, so that what was
    missing in the source stays missing in the target; or deleted, where they may be there.
    Where the files of the array's chunks are given, they are written the short way.
    """
    if not array.ndim:
        array[()] = values
        return 1
    unit = tuple(array.shards or array.chunks)
    # Only a unit whose first element is the fill can be empty: one look at each unit.
    heads = values[tuple(slice(None, None, u) for u in unit)]
    suspects = _equals_fill(heads, fill)
    if not suspects.any():
        _write(array, tuple(region), values, files)
        return heads.size
    written = 0
    for index in np.ndindex(*heads.shape):
        local = tuple(
            slice(i * u, min((i + 1) * u, n))
            for i, u, n in zip(index, unit, values.shape, strict=True)
        )
        part = values[local]
        if suspects[index] and _equals_fill(part, fill).all():
            if delete_empty:
                at = [(r.start + s.start) // u for r, s, u in zip(region, local, unit, strict=True)]
                key = array.metadata.encode_chunk_key(tuple(at))
                delete_keys(array.store, [f"{array.path}/{key}"])
            continue
        place = tuple(
            slice(r.start + s.start, r.start + s.stop) for r, s in zip(region, local, strict=True)
        )
        _write(array, place, part, files)
        written += 1
    return written


def _equals_fill(values: NDArray[Any], fill: Any) -> NDArray[np.bool_]:
    """Compare with the fill value bit by bit, so that -0.0 and NaN payloads count."""
    if fill is None:
        return np.zeros(values.shape, dtype=bool)
    if values.dtype.hasobject or values.dtype.kind == "T":
        return np.asarray(values == fill, dtype=bool)
    return np.asarray(bits(values) == bits(np.asarray([fill], dtype=values.dtype)))


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """View values as integers (or void) of their width, so that equal means equal bits."""
    width = values.dtype.itemsize
    contiguous = np.ascontiguousarray(values)
    return contiguous.view(f"u{width}" if width in (1, 2, 4, 8) else f"V{width}")


def _is_absent(store: Store) -> bool:
    """Tell whether a local store has no folder yet: zarr would make it, just to look into it."""
    return isinstance(store, LocalStore) and not Path(store.root).is_dir()


def get_key(store: Store, key: str, part: ByteRequest | None = None) -> bytes | None:
    """Read one object, or a part of it; None where there is none."""
    if _is_absent(store):
        return None
    buffer = _sync(store.get(key, prototype=buffer_prototype, byte_range=part))
    return None if buffer is None else buffer.to_bytes()


def put_key(store: Store, key: str, value: bytes) -> None:
    """Write one object."""
    if type(store) is LocalStore and not store.read_only:
        # the way to zarr's event loop and back takes six times as long, for each box that is noted
        put_file(f"{store.root}/{key}", [value], unfinished())
    else:
        _sync(store.set(key, Buffer.from_bytes(value)))


def list_prefix(store: Store, prefix: str, limit: int | None = None) -> list[str]:
    """List the keys below a prefix (which ends with a slash, or is empty), at most ``limit``.

    Only objects count. Some object stores keep folders in which there is nothing any more, and
    list them, or are said by fsspec to hold them.
    """
    if _is_absent(store):
        return []
    own = store.path.strip("/") if isinstance(store, FsspecStore) else None

    async def collect() -> list[str]:
        keys: list[str] = []
        async for key in store.list_prefix(prefix):
            if key.startswith(prefix) and not key.endswith("/") and key.strip("/") not in ("", own):
                keys.append(key)
            if limit is not None and len(keys) >= limit:
                break
        return keys

    return _sync(collect())


def delete_prefix(store: Store, prefix: str) -> None:
    """Delete everything below a prefix."""
    if not _is_absent(store):
        _sync(store.delete_dir(prefix.rstrip("/")))


def delete_keys(store: Store, keys: Sequence[str]) -> None:
    """Delete these objects, as many at once as zarr is configured for; missing ones are fine."""
    if _is_absent(store):
        return

    async def delete(key: str) -> None:
        await store.delete(key)

    _sync(_side_by_side([partial(delete, key) for key in keys]))


def get_keys(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """Read several objects, as many at once as zarr is configured for."""
    if _is_absent(store):
        return [None] * len(keys)

    async def get(key: str) -> bytes | None:
        buffer = await store.get(key, prototype=buffer_prototype)
        return None if buffer is None else buffer.to_bytes()

    return _sync(_side_by_side([partial(get, key) for key in keys]))


async def _side_by_side(calls: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    slots = asyncio.Semaphore(int(zarr.config.get("async.concurrency") or 1))

    async def one(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with slots:
            return await call()

    return list(await asyncio.gather(*(one(call) for call in calls)))


def has_key(store: Store, key: str) -> bool:
    """Tell whether there is an object, without reading it."""
    return not _is_absent(store) and bool(_sync(store.exists(key)))


def holds_any(store: Store, prefix: str) -> bool:
    """Tell whether any object lies below a prefix; an empty folder is none."""
    if _is_absent(store):
        return False

    async def look() -> bool:
        async for _ in store.list_dir(prefix.rstrip("/")):
            return True
        return False

    # one level is listed first: where it is empty, as it mostly is, that is all
    return _sync(look()) and bool(list_prefix(store, f"{prefix}/" if prefix else "", limit=1))
