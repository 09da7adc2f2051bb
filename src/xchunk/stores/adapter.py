"""The adapter to zarr: the place that names what zarr has not made public.

Two things are needed here that zarr's public API does not offer, and a third one in
`xchunk.stores.chunk_objects`. All fail soft:

* ``FusedCodecPipeline`` (zarr >= 3.4) is named by its path in ``zarr.config``. Where it is
  missing, the default pipeline is used; and for stores that cannot be read without an event
  loop, for which it would hold all chunks of a box at once.
* ``AsyncArray._get_selection`` reads into a buffer from a coroutine, which may run in the thread
  of our own task (`xchunk.stores.adapter`). Without it, zarr's loop and threads are used.

zarr runs every request on one event loop, which hands reading and codecs to the threads of a
pool. A task of ours has a thread of its own already: running them there saves the way to the
loop and back, and chunks come from one heap instead of those of all the threads of the pool,
each of which keeps a chunk or two.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar, copy_context
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
import zarr.api.asynchronous
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.buffer.cpu import Buffer, NDBuffer, buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath

from xchunk.core.grid import ceildiv
from xchunk.stores.chunk_files import put_file, unfinished
from xchunk.stores.chunk_objects import ChunkObjects, is_free, run_here
from xchunk.stores.in_flight import wait_for
from xchunk.stores.object_stores import all_of, delete_objects, is_bucket, share_descriptions
from xchunk.stores.overlay import Unpublished, Within, file_system_of
from xchunk.stores.shard_files import ShortWay

T = TypeVar("T")


_FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
_config_lock = threading.Lock()
#: The tuned configurations that are in force, of which only the first one set anything.
_tuned: list[Any] = []


@cache
def has_fused_pipeline() -> bool:
    """Return whether this zarr has the pipeline that runs codecs without an event loop."""
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
    """Return whether a store answers without waiting: it is on this machine, or in its memory."""
    while isinstance(store, Unpublished | Within):
        store = store.base
    return isinstance(store, LocalStore | MemoryStore)


def share_memory(a: MemoryStore, b: MemoryStore) -> bool:
    """Return whether two stores in memory show the same objects.

    Compared with ``==`` they would be equal where they hold equal objects, and differ where one
    is the read-only view of the other that xarray opens.
    """
    return a._store_dict is b._store_dict


def open_array(store: Store, path: str, zarr_format: int, *, mode: str) -> zarr.Array[Any]:
    """Open one array; ``mode`` is ``"r"`` or ``"r+"``.

    Written chunks are never dropped by zarr: its test for empty chunks takes any NaN for a
    NaN fill, which would lose payloads. `write_units` makes its own, by bits.
    """
    share_descriptions(file_system_of(store))
    # zarr < 3.2 takes no such setting when it opens an array, but reads the configuration then
    settings: dict[str, Any] = {"array.write_empty_chunks": True}
    if has_fused_pipeline() and is_near(store):
        settings["codec_pipeline.path"] = _FUSED

    def ask() -> zarr.Array[Any]:
        with _config_lock, zarr.config.set(settings):
            return zarr.open_array(
                store,
                path=path,
                mode=mode,
                zarr_format=zarr_format,  # type: ignore[arg-type]
            )

    return _asked(store, f"open {mode} {zarr_format}", path, ask)


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
    files: ShortWay | None,
) -> None:
    if files is not None and values.dtype == array.dtype and files.takes(region):
        files.write(region, values)
    elif _may_run_here(array):
        run_here(array.async_array.setitem(region, values))
    elif _is_far_sharded(array):
        _write_shards(array, _units_of(tuple(array.shards or ()), region, values))
    else:
        array[region] = values


def _is_far_sharded(array: zarr.Array[Any]) -> bool:
    return not is_near(array.store) and array.shards is not None and hasattr(array, "async_array")


def _write_shards(
    array: zarr.Array[Any], units: Iterable[tuple[tuple[slice, ...], NDArray[Any]]]
) -> None:
    """Write shards to a far store, as many at once as zarr is configured for.

    Of those that it is given together, zarr holds some besides those that it writes.
    """
    setitem = array.async_array.setitem
    wait_for(_side_by_side([partial(setitem, place, part) for place, part in units]))


def _units_of(
    unit: tuple[int, ...], region: Sequence[slice], values: NDArray[Any]
) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """Yield the write units of a region that begins with a whole one, each with its values."""
    for index in np.ndindex(*(ceildiv(n, u) for n, u in zip(values.shape, unit, strict=True))):
        local = tuple(
            slice(i * u, min((i + 1) * u, n))
            for i, u, n in zip(index, unit, values.shape, strict=True)
        )
        place = tuple(
            slice(r.start + s.start, r.start + s.stop) for r, s in zip(region, local, strict=True)
        )
        yield place, values[local]


def write_units(
    array: zarr.Array[Any],
    region: Sequence[slice],
    values: NDArray[Any],
    fill: Any,
    *,
    delete_empty: bool = False,
    files: ShortWay | None = None,
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
    empty: list[str] = []
    count = 0

    def units() -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
        """Yield what is to be written; units may be so many that a list would outgrow them."""
        nonlocal count
        parts = _units_of(unit, region, values)
        for index, (place, part) in zip(np.ndindex(*heads.shape), parts, strict=True):
            if suspects[index] and _equals_fill(part, fill).all():
                if delete_empty:
                    at = tuple(r.start // u for r, u in zip(place, unit, strict=True))
                    empty.append(f"{array.path}/{array.metadata.encode_chunk_key(at)}")
                continue
            count += 1
            yield place, part

    if isinstance(files, ChunkObjects) and values.dtype == array.dtype and files.takes(region):
        files.write_all(units())
    elif files is None and _is_far_sharded(array):
        _write_shards(array, units())
    else:
        for place, part in units():
            _write(array, place, part, files)
    delete_keys(array.store, empty)
    return count


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
    """Return whether a local store has no folder yet: zarr would make it, just to look into it."""
    return isinstance(store, LocalStore) and not Path(store.root).is_dir()


#: What far stores said while nothing is written, by the store's id, the question and the key; with
#: the store, which keeps its id. None: they are asked each time.
_known: ContextVar[dict[tuple[int, str, str], tuple[Store, Any]] | None] = ContextVar(
    "xchunk_known", default=None
)


@contextmanager
def asking_once() -> Iterator[None]:
    """Ask a far store each question once, while a plan is made of what it holds at that time."""
    token = _known.set({} if _known.get() is None else _known.get())
    try:
        yield
    finally:
        _known.reset(token)


@contextmanager
def beside(task: Callable[[], object]) -> Iterator[None]:
    """Run something in a thread of its own meanwhile; wait for it at the end, and raise its error.

    Parameters
    ----------
    task : callable
        What mostly waits for a store, as the block does.
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(copy_context().run, task)
        yield
    running.result()


def _asked(store: Store, what: str, key: str, ask: Callable[[], T]) -> T:
    known = _known.get()
    if known is None or is_near(store):
        return ask()
    at = (id(store), what, key)
    if at not in known:
        known[at] = store, ask()
    answer: T = known[at][1]
    return answer


def forget(store: Store, prefix: str) -> None:
    """Forget what was known of the objects below a prefix, and of what a store holds at all."""
    known = _known.get() or {}
    for at in [a for a in known if a[0] == id(store)]:
        if at[1] != "get" or at[2].startswith(prefix):
            del known[at]


def get_key(store: Store, key: str, part: ByteRequest | None = None) -> bytes | None:
    """Read one object, or a part of it; None where there is none."""
    if _is_absent(store):
        return None

    def ask() -> bytes | None:
        asked = all_of(store) if part is None else part
        buffer = wait_for(store.get(key, prototype=buffer_prototype, byte_range=asked))
        return None if buffer is None else buffer.to_bytes()

    return ask() if part is not None else _asked(store, "get", key, ask)


def put_key(store: Store, key: str, value: bytes) -> None:
    """Write one object."""
    put_keys(store, {key: value})


def put_keys(store: Store, objects: Mapping[str, bytes]) -> None:
    """Write several objects in no order, as many at once as zarr is configured for."""
    for key in objects:
        forget(store, key)
    if type(store) is LocalStore and not store.read_only:
        # the way to zarr's event loop and back takes six times as long, for each box that is noted
        for key, value in objects.items():
            put_file(f"{store.root}/{key}", [value], unfinished())
        return
    calls = [partial(store.set, k, Buffer.from_bytes(v)) for k, v in objects.items()]
    wait_for(_side_by_side(calls))
    known = _known.get()
    if known is not None and not is_near(store):
        known.update({(id(store), "get", k): (store, v) for k, v in objects.items()})


def copy_key(store: Store, old: str, new: str) -> None:
    """Copy one object through this process, which holds it once.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    forget(store, new)

    async def copy() -> None:
        buffer = await store.get(old, prototype=buffer_prototype)
        if buffer is None:
            raise FileNotFoundError(f"{old} is not there any more")
        await store.set(new, buffer)

    wait_for(copy())


def list_prefix(store: Store, prefix: str, limit: int | None = None) -> list[str]:
    """List the keys below a prefix (which ends with a slash, or is empty), at most ``limit``.

    Only objects count. Some object stores keep folders in which there is nothing any more, and
    list them, or are said by fsspec to hold them.
    """
    if _is_absent(store):
        return []
    return _asked(store, f"list {limit}", prefix, lambda: wait_for(_listed(store, prefix, limit)))


#: What a folder says that another run has deleted by now.
_GONE = (FileNotFoundError, NotADirectoryError)


def files_below(
    folder: str,
    *,
    deep: bool = True,
    links: bool = False,
    skipped: tuple[type[OSError], ...] = _GONE,
) -> Iterator[str]:
    """Yield the paths of the files in a folder as they are found.

    They are many, so that no objects are made of them, and who needs the first ones only does not
    wait for the rest.

    - ``deep``: whether those of its folders are files of it.
    - ``links``: whether links to files are. Links to folders are never followed.
    - ``skipped``: errors for which a folder is left out. Chunks that are left out would be taken
      for missing ones, and be filled.
    """
    with suppress(*skipped), os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                if deep:
                    yield from files_below(entry.path, links=links, skipped=skipped)
            elif (links or not entry.is_symlink()) and entry.is_file():
                yield entry.path


async def _listed(store: Store, prefix: str, limit: int | None) -> list[str]:
    if type(store) is LocalStore:
        # zarr looks at every file before it gives the first one
        root = str(store.root)
        files = files_below(str(store.root / prefix), links=True)
        start = len(root.rstrip(os.sep)) + 1
        return [f[start:].replace(os.sep, "/") for f in itertools.islice(files, limit)]
    own = store.path.strip("/") if isinstance(store, FsspecStore) else None
    keys: list[str] = []
    async for key in store.list_prefix(prefix):
        if key.startswith(prefix) and not key.endswith("/") and key.strip("/") not in ("", own):
            keys.append(key)
        if limit is not None and len(keys) >= limit:
            break
    return keys


def delete_prefix(store: Store, *prefixes: str) -> None:
    """Delete everything below one or several prefixes."""
    for prefix in prefixes:
        forget(store, prefix)
    if not _is_absent(store):
        calls = [partial(_delete_dir, store, prefix.rstrip("/")) for prefix in prefixes]
        wait_for(_side_by_side(calls))


async def _delete_dir(store: Store, folder: str) -> None:
    if is_bucket(store):
        await delete_objects(store, await _listed(store, f"{folder}/" if folder else "", None))
    else:
        await store.delete_dir(folder)


def delete_keys(store: Store, keys: Sequence[str]) -> None:
    """Delete these objects, as many at once as zarr is configured for; missing ones are fine."""
    for key in keys:
        forget(store, key)
    if _is_absent(store) or not keys:
        return

    if is_bucket(store):
        wait_for(delete_objects(store, keys))
    else:
        wait_for(_side_by_side([partial(store.delete, key) for key in keys]))


def get_keys(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """Read several objects, as many at once as zarr is configured for."""
    if _is_absent(store):
        return [None] * len(keys)
    known = _known.get()
    if known is None or is_near(store):
        return wait_for(_side_by_side([partial(_get, store, key) for key in keys]))
    ask_ahead(store, keys)
    return [known[id(store), "get", key][1] for key in keys]


async def _get(store: Store, key: str) -> bytes | None:
    try:
        buffer = await store.get(key, buffer_prototype, all_of(store))
    except ValueError:
        # fsspec takes a key that references in parquet do not hold for the number of a chunk
        protocol = getattr(getattr(store, "fs", None), "protocol", None)
        if not (key.endswith("zarr.json") and protocol == "reference"):
            raise
        return None
    return None if buffer is None else buffer.to_bytes()


def ask_ahead(
    store: Store, keys: Iterable[str] = (), *, folders: Iterable[str] = (), few: int = 0
) -> None:
    """Ask a far store beside each other what will be asked one by one, where it is asked once.

    Parameters
    ----------
    store : zarr store
        The store; one that is near is not asked.
    keys : iterable of str
        Objects that will be read.
    folders : iterable of str
        Prefixes of which `holds_any` will be asked.
    few : int
        How many keys of all will be listed by `list_prefix`; 0: none.
    """
    known = _known.get()
    if known is None or is_near(store):
        return
    calls: dict[tuple[int, str, str], Callable[[], Coroutine[Any, Any, Any]]] = {}
    calls |= {(id(store), "get", key): partial(_get, store, key) for key in keys}
    calls |= {(id(store), "holds", path): partial(_holds, store, path) for path in folders}
    if few:
        calls[id(store), f"list {few}", ""] = partial(_listed, store, "", few)
    new = {at: call for at, call in calls.items() if at not in known}
    found = wait_for(_side_by_side(list(new.values()))) if new else ()
    known.update({at: (store, answer) for at, answer in zip(new, found, strict=True)})


def open_ahead(arrays: Iterable[tuple[Store, str, int]]) -> None:
    """Open arrays of far stores beside each other that will be opened one by one, to be read."""
    known = _known.get()
    if known is None:
        return
    new = {
        (id(store), f"open r {zarr_format}", path): store
        for store, path, zarr_format in arrays
        if not is_near(store)
    }
    new = {at: store for at, store in new.items() if at not in known}

    async def open_one(store: Store, path: str, zarr_format: int) -> Any:
        try:
            if zarr_format == 3:
                # its document is asked for by who notes what the source was
                key = f"{path}/zarr.json".lstrip("/")
                raw = known[id(store), "get", key] = store, await _get(store, key)
                document = json.loads(raw[1] or b"null")
                return zarr.AsyncArray.from_dict(StorePath(store, path), document)
            return await zarr.api.asynchronous.open_array(
                store=store,
                path=path,
                mode="r",
                zarr_format=zarr_format,  # type: ignore[arg-type]
            )
        except Exception:
            # who opens it by itself is told
            return None

    with _config_lock, zarr.config.set({"array.write_empty_chunks": True}):
        calls = [partial(open_one, s, at[2], int(at[1][-1])) for at, s in new.items()]
        found = wait_for(_side_by_side(calls)) if calls else ()
    for (at, store), array in zip(new.items(), found, strict=True):
        if array is not None:
            known[at] = store, zarr.Array(array)


async def _side_by_side(calls: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    slots = asyncio.Semaphore(int(zarr.config.get("async.concurrency") or 1))

    async def one(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with slots:
            return await call()

    # also those beside one that fails are waited for: nothing is under way any more afterwards
    found = await asyncio.gather(*(one(call) for call in calls), return_exceptions=True)
    for error in found:
        if isinstance(error, BaseException):
            raise error
    return [answer for answer in found if not isinstance(answer, BaseException)]


def has_key(store: Store, key: str) -> bool:
    """Return whether there is an object, without reading it."""
    return not _is_absent(store) and bool(wait_for(store.exists(key)))


def have_keys(store: Store, keys: Sequence[str]) -> list[bool]:
    """Return which of several objects are there, as many at once as zarr is configured for."""
    if _is_absent(store):
        return [False] * len(keys)
    return wait_for(_side_by_side([partial(store.exists, key) for key in keys]))


#: How often a store is asked to know how far it is.
_TRIES = 2


def seconds_of(stores: Sequence[Store]) -> list[float]:
    """Measure the seconds of a request to each of several stores, beside each other.

    The least of a few counts: one may have to connect, or the machine is busy.
    """

    async def ask(store: Store) -> float:
        began = time.perf_counter()
        with suppress(Exception):
            await store.exists("zarr.json")
        return time.perf_counter() - began

    found = wait_for(_side_by_side([partial(ask, s) for s in stores for _ in range(_TRIES)]))
    return [min(found[i : i + _TRIES]) for i in range(0, len(found), _TRIES)]


def holds_any(store: Store, prefix: str) -> bool:
    """Return whether any object lies below a prefix; an empty folder is none."""
    if _is_absent(store):
        return False

    known = _known.get() or {}
    if known.get((id(store), "holds", ""), (store, True))[1] is False:
        return False
    return _asked(store, "holds", prefix, lambda: wait_for(_holds(store, prefix)))


async def _holds(store: Store, prefix: str) -> bool:
    # one level is listed first: where it is empty, as it mostly is, that is all
    async for _ in store.list_dir(prefix.rstrip("/")):
        return bool(await _listed(store, f"{prefix}/" if prefix else "", 1))
    return False


def names_in(store: Store, folder: str) -> list[str]:
    """List what lies directly in a folder; nothing where the store cannot list."""
    return wait_for(_names_in(store, folder)) if store.supports_listing else []


async def _names_in(store: Store, folder: str) -> list[str]:
    return [name.rstrip("/") async for name in store.list_dir(folder)]


def holds_one_of(store: Store, keys: Sequence[str]) -> bool:
    """Return whether any of a few objects is there; a far store is asked for all at once."""
    if is_near(store):
        return any(get_key(store, key) is not None for key in keys)
    return any(found is not None for found in get_keys(store, keys))


def is_regular(array: Any) -> bool:
    """Return whether a zarr array's chunks, or its shards, have one length along each axis."""
    try:
        return array.shards is not None or array.chunks is not None
    except NotImplementedError:
        return False
