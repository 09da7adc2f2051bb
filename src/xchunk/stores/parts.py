"""A part of a store: opened as a store of its own, and put in the place of the whole.

Object stores rename nothing. S3 and Google's copy an object by themselves when they are asked to;
elsewhere each object goes through this process, one at a time, so that none but the largest has
to fit into memory. Local files are renamed, and no object in memory is held twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from xchunk.stores.adapter import copy_key, delete_keys, forget, is_near, list_prefix
from xchunk.stores.in_flight import wait_for
from xchunk.stores.overlay import Within
from xchunk.stores.stores import local_path, scheme_of

#: Schemes of stores that have copied an object when they answer; others copy when they like.
_COPYING = ("s3", "gs")
#: Copies that a store is asked for at once, and that are noted together.
_AT_ONCE, _BATCH = 50, 1000
_DOCUMENTS = (".zattrs", ".zmetadata", ".zgroup", ".zarray", "zarr.json")

Copy = Callable[[str, str], Coroutine[Any, Any, None]]


def part_of(store: Store, prefix: str) -> Store:
    """Return what lies below a prefix of a store, which need not be there yet, as a store."""
    if type(store) is LocalStore:
        return LocalStore(Path(store.root) / prefix, read_only=store.read_only)
    if type(store) is FsspecStore:
        path = f"{store.path.rstrip('/')}/{prefix}"
        return FsspecStore(store.fs, store.read_only, path, store.allowed_exceptions)
    return Within(store, prefix)


def is_document(key: str) -> bool:
    """Return whether a key is that of metadata, without which zarr opens nothing."""
    return key.rpartition("/")[2] in _DOCUMENTS


def documents_last(keys: Sequence[str]) -> list[str]:
    """Sort keys so that what makes something openable comes last, the root's after all others."""
    chunks = sorted(key for key in keys if not is_document(key))
    names = {name: i for i, name in enumerate(_DOCUMENTS)}
    found = [key for key in keys if is_document(key)]
    found.sort(key=lambda k: (-k.count("/"), k.rpartition("/")[0], names[k.rpartition("/")[2]]))
    return [*chunks, *found]


def put_in_place(store: Store, prefix: str, but: str, done: int = 0) -> Iterator[int]:
    """Copy what lies below a prefix of a store to the place of the whole, metadata last.

    What lies on this machine, on a disk or in memory, is moved; elsewhere it stays as well.

    Parameters
    ----------
    store : zarr store
        The store.
    prefix : str
        The prefix.
    but : str
        A prefix within the part; what lies below it is left out.
    done : int
        How many objects were copied before, by what was yielded then.

    Yields
    ------
    int
        How many objects are copied by now.
    """
    found = [key.removeprefix(f"{prefix}/") for key in list_prefix(store, f"{prefix}/")]
    keys = documents_last([key for key in found if not key.startswith(f"{but}/")])
    if is_near(store):
        yield from _moved(store, prefix, keys)
        return
    copy = _copier(store)
    for start in range(done, len(keys), _BATCH):
        pairs = [(f"{prefix}/{key}", key) for key in keys[start : start + _BATCH]]
        chunks = [pair for pair in pairs if not is_document(pair[1])]
        failed = _copied(copy, chunks)
        forget(store, "")  # the store has changed by itself
        if len(failed) == len(chunks):
            copy = None
        for old, new in [*failed, *pairs[len(chunks) :]]:
            copy_key(store, old, new)
        yield start + len(pairs)


def _moved(store: Store, prefix: str, keys: Sequence[str]) -> Iterator[int]:
    """Move objects on this machine; those that were moved before are not listed any more."""
    root = local_path(store)
    chunks = sum(not is_document(key) for key in keys)
    for number, key in enumerate(keys):
        if number == chunks:
            yield 0
        if root is None:
            copy_key(store, f"{prefix}/{key}", key)
            delete_keys(store, [f"{prefix}/{key}"])
        else:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / prefix / key).replace(root / key)
    yield 0


def _copied(copy: Copy | None, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Let the store copy objects; return those that it did not."""
    if copy is None:
        return pairs

    async def copy_all() -> list[Any]:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(old: str, new: str) -> None:
            async with slots:
                await copy(old, new)

        return await asyncio.gather(*(one(*p) for p in pairs), return_exceptions=True)

    # who may read and write an object need not be allowed to copy it, and some are too large for it
    done = wait_for(copy_all())
    return [pair for pair, found in zip(pairs, done, strict=True) if found is not None]


def _copier(store: Store) -> Copy | None:
    """Return what lets a store copy an object by itself; None where it cannot."""
    if scheme_of(store) not in _COPYING:
        return None
    if isinstance(store, ObjectStore):
        import obstore

        async def copy(old: str, new: str) -> None:
            await obstore.copy_async(store.store, old, new)

        return copy
    if not isinstance(store, FsspecStore):
        return None
    fs, root = store.fs, store.path.rstrip("/")

    async def copy_file(old: str, new: str) -> None:
        # what an asynchronous file system offers is called by its coroutine, with an underscore
        await fs._cp_file(f"{root}/{old}", f"{root}/{new}")  # noqa: SLF001

    return copy_file
