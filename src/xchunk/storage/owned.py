"""What is ours in a store: listed and deleted by its names, and nothing else.

A target that is not complete is deleted key by key: only what has the name of a chunk or of a
metadata document of its arrays. What somebody else put there stays. On a local file system
symbolic links are never followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from zarr.abc.store import Store

from xchunk.storage.stores import local_path
from xchunk.storage.workspace import PREFIX
from xchunk.storage.zarr_io import delete_keys, delete_prefix, list_prefix

__all__ = ["delete_owned", "forget", "is_safe_path", "owned_below", "owned_keys", "sweep_partials"]

_DOCUMENTS = r"zarr\.json|\.zarray|\.zattrs|\.zgroup|\.zmetadata"
#: Scratch arrays that one array may have.
_MOST_STAGES = 4
#: What zarr writes to a local disk before it renames it; a process that is killed leaves it.
#: What zarr's local store appends to the name of a file while it is being written.
_HALF_WRITTEN = f".{'0' * 32}.partial"
_PARTIAL = re.compile(r"(.*/)?[^/]*\.[0-9a-f]{32}\.partial")
_OF_ARRAY = re.compile(rf"{_DOCUMENTS}|c(/\d+)*|\d+([./]\d+)*")
_OF_GROUP = re.compile(_DOCUMENTS)


def is_safe_path(path: str) -> bool:
    """Tell whether a path stays below the root of a store."""
    return bool(path) and all(
        part not in ("", ".", "..") and "\\" not in part and "\0" not in part
        for part in path.split("/")
    )


def owned_keys(store: Store, arrays: Sequence[str], groups: Sequence[str] = ()) -> list[str]:
    """List the keys of arrays and the documents of groups that are in a store."""
    out = []
    for path in filter(_is_array_path, arrays):
        for key in _below(store, path):
            name = key.removeprefix(f"{path}/")
            if _OF_ARRAY.fullmatch(name) or _PARTIAL.fullmatch(name):
                out.append(key)
    for key in filter(is_safe_path, groups):
        folder, _, name = key.rpartition("/")
        if _OF_GROUP.fullmatch(name):
            out += [k for k in _list(store, folder, deep=False) if k == key or _is_part(k, folder)]
    return sorted(set(out))


def _is_array_path(path: str) -> bool:
    """Tell whether a path may be an array's; the empty one is that of an array without a group."""
    return not path or is_safe_path(path)


def _below(store: Store, path: str) -> list[str]:
    """List the keys below an array; our own folder is no part of one that is all of its store."""
    if path:
        return _list(store, path)
    return [key for key in _list(store, "") if not key.startswith(f"{PREFIX}/")]


def _is_part(key: str, folder: str) -> bool:
    name = key.removeprefix(f"{folder}/") if folder else key
    return "/" not in name and bool(_PARTIAL.fullmatch(name))


def owned_below(store: Store, prefix: str) -> list[str]:
    """List all keys below a prefix that is ours as a whole."""
    return _list(store, prefix)


def _list(store: Store, path: str, *, deep: bool = True) -> list[str]:
    root = local_path(store)
    if root is None:
        keys = list_prefix(store, f"{path}/" if path else "")
        depth = path.count("/") + 1 if path else 0
        return [k for k in keys if deep or k.count("/") == depth]
    start = root / path
    if _has_link(root, path) or not start.is_dir():
        return []
    above = len(str(root).rstrip(os.sep)) + 1
    return sorted(path[above:].replace(os.sep, "/") for path in _files(str(start), deep=deep))


def _files(folder: str, *, deep: bool) -> Iterator[str]:
    """Yield the paths of files, which are many, so that they are not made objects of; no links."""
    try:
        with os.scandir(folder) as found:
            entries = [e for e in found if not e.is_symlink()]
    except OSError:
        # another run may have deleted it by now
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            yield entry.path
        elif deep:
            yield from _files(entry.path, deep=True)


def _has_link(root: Path, path: str) -> bool:
    at = root
    for part in filter(None, path.split("/")):
        at = at / part
        if at.is_symlink():
            return True
    return False


def delete_owned(store: Store, keys: Iterable[str], arrays: Sequence[str] = ()) -> None:
    """Delete keys, and on a local file system the folders of arrays that are empty then."""
    root = local_path(store)
    wanted = list(keys)
    if root is None:
        delete_keys(store, wanted)
        return
    folders: set[Path] = set()
    for key in wanted:
        if not is_safe_path(key) or _has_link(root, key):
            continue
        path = root / key
        path.unlink(missing_ok=True)
        folders.update(p for p in path.parents if root in p.parents)
    for array in filter(_is_array_path, arrays):
        # the chunks of an array that is all of its store lie in a folder that zarr calls c
        within = array or "c"
        if not _has_link(root, within):
            # a write that failed may have made a folder, and nothing in it
            here = root / within
            folders.update(Path(f) for f, _, _ in os.walk(here, followlinks=False))
            folders.update(p for p in here.parents if root in p.parents)
    for folder in sorted(folders, key=lambda p: -len(p.parts)):
        with suppress(OSError):
            folder.rmdir()


def forget(store: Store, path: str) -> None:
    """Delete what is written of one array, which begins anew, and its scratch data."""
    delete_owned(store, owned_keys(store, [path]), [path])
    for stage in range(_MOST_STAGES):
        delete_prefix(store, f"{PREFIX}/scratch/{stage}/{path}".rstrip("/"))


def sweep_partials(store: Store, arrays: Sequence[str], documents: Iterable[str]) -> None:
    """Delete what writers that were killed left half-written: below arrays, and of groups."""
    if local_path(store) is None:
        return
    for path in arrays:
        delete_owned(store, [k for k in _below(store, path) if _PARTIAL.fullmatch(k)])
    # zarr puts the random part in the place of a suffix: zarr.json, .zgroup
    stems = {key.removesuffix(".json") for key in documents}
    for group in {key.rpartition("/")[0] for key in documents}:
        halves = [k for k in _list(store, group, deep=False) if _PARTIAL.fullmatch(k)]
        delete_owned(store, [k for k in halves if k[: -len(_HALF_WRITTEN)] in stems])
