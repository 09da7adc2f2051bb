"""What is ours in a store, listed and deleted by its names; and one run at a time on one target.

A target that is not complete is deleted key by key: only what has the name of a chunk or of a
metadata document of its arrays. What somebody else put there stays. On a local file system
symbolic links are never followed.

Every run that wants a target puts an object of its own below ``.xchunk/lease`` and then looks
what else is there. Of two runs the one that looks last sees the other, so that never both go
on; that needs nothing of a store but that it lists what was written. A lease of a run that is over
does not count: this process knows its own runs, on the same machine the process is looked for, and
elsewhere its heartbeat.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from xchunk.errors import StageFailedError, TargetExistsError
from xchunk.stores.adapter import (
    delete_keys,
    delete_prefix,
    files_below,
    get_key,
    has_key,
    list_prefix,
    put_key,
)
from xchunk.stores.stores import describe, local_path, reaching
from xchunk.targets.scratch import LEASES, PREFIX, remove_empty_folders

#: Seconds between two heartbeats.
BEAT = 10.0
#: Seconds without a heartbeat after which an owner on another machine may be dead.
SILENCE = 60.0
_TRIES = 5
#: Keys of the leases of runs of this process that go on, and so not of one that stayed behind.
_HELD: set[str] = set()


@dataclass(frozen=True)
class _Owner:
    """The process that holds a lease."""

    place: str
    """Machine, its boot and the namespace of its process ids: where ``pid`` means something."""
    pid: int
    """Number of the process."""
    started: str
    """When the process started, since numbers are used again."""

    @classmethod
    def here(cls) -> _Owner:
        return cls(_place(), os.getpid(), _started(os.getpid()))


def _place() -> str:
    boot, space = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {space}".strip()


def _started(pid: int) -> str:
    """Return when a process started; empty where it is gone, ``?`` where it cannot be told."""
    try:
        # the name, in brackets, may hold anything; the start is the 20th field after it
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "?"


class Lease:
    """A lease that this process holds; made by `lease`."""

    def __init__(self, store: Store):
        self._store = store
        self._token = uuid.uuid4().hex
        #: Whether it was deleted with everything else of ours.
        self.gone = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def key(self) -> str:
        """Key of the object that tells of it."""
        return f"{LEASES}/{self._token}.json"

    def _beat(self) -> None:
        owner = _Owner.here()
        document = {**vars(owner), "host": socket.gethostname(), "time": time.time()}
        put_key(self._store, self.key, json.dumps(document).encode())

    def take(self) -> None:
        """Take the lease, and show signs of life from now on.

        - raises `TargetExistsError` if a run that is alive holds it.
        """
        _HELD.add(self.key)
        for attempt in range(_TRIES):
            try:
                self._beat()
            except FileNotFoundError:
                # a run that ended at this moment has deleted the empty folder
                self._beat()
            others = _living(self._store, but=self.key)
            if not others:
                break
            delete_keys(self._store, [self.key])
            if attempt == _TRIES - 1:
                raise TargetExistsError(_refusal(self._store, others[0]))
            # the other may have drawn back as well
            time.sleep(random.uniform(0.05, 0.3) * (attempt + 1))  # noqa: S311 - no secret
        self._thread = threading.Thread(target=self._go_on, name="xchunk-lease", daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        while not self._over.wait(BEAT):
            # a store that fails now and then is tried again long before the lease is lost
            with suppress(Exception):
                if has_key(self._store, self.key):
                    self._beat()

    def check(self) -> None:
        """Make sure that the lease is still held.

        - raises `StageFailedError` if another run took it over, because this one was silent for too
          long.
        """
        if not has_key(self._store, self.key):
            raise StageFailedError(
                f"another run took over {describe(self._store)}, since this one gave no sign of "
                "life for too long. The target was not committed by this run."
            )

    def retire(self) -> None:
        """Stop the heartbeat: the lease is about to be deleted, with everything else of ours."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def release(self) -> None:
        """Give the lease back, unless it is gone."""
        self.retire()
        try:
            if not self.gone:
                self._delete()
                remove_empty_folders(self._store)
        finally:
            _HELD.discard(self.key)

    def _delete(self) -> None:
        try:
            delete_keys(self._store, [self.key])
        except Exception:
            # other processes must not wait for a run that is over
            if has_key(self._store, self.key):
                put_key(self._store, self.key, b"")
            raise


@contextmanager
def lease(store: Store) -> Iterator[Lease]:
    """Hold the lease of a target.

    - raises `TargetExistsError` if a run that is alive holds it.
    """
    held = Lease(store)
    try:
        with reaching(store):
            held.take()
    except BaseException:
        with suppress(Exception):
            held.release()
        raise
    try:
        yield held
    finally:
        # an error on the way out must not hide the one that is on its way
        with suppress(Exception):
            held.release()


def holder_of(store: Store) -> str | None:
    """Return who holds the lease of a target, in words; None: nobody who is alive."""
    others = _living(store, but="")
    return _words(others[0]) if others else None


def _living(store: Store, *, but: str) -> list[dict[str, Any]]:
    """Return the leases of other runs that are alive; delete those of dead ones."""
    living: list[dict[str, Any]] = []
    dead: list[str] = []
    for key in list_prefix(store, f"{LEASES}/"):
        if key == but or not key.endswith(".json"):
            continue
        raw = get_key(store, key)
        if raw is None:
            continue
        found = _parse(raw)
        if found is not None and _is_alive(store, key, raw, found):
            living.append(found)
        else:
            dead.append(key)
    if dead and but:
        # what cannot be deleted does not count the next time either
        with suppress(Exception):
            delete_keys(store, dead)
    return living


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
        _Owner(str(found["place"]), int(found["pid"]), str(found["started"]))
        float(found["time"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return dict(found)


def _is_alive(store: Store, key: str, raw: bytes, found: dict[str, Any]) -> bool:
    if found["place"] == _place():
        if _started(int(found["pid"])) != found["started"]:
            return False
        return int(found["pid"]) != os.getpid() or key in _HELD
    if abs(time.time() - float(found["time"])) < SILENCE:
        return True
    # clocks may differ: what counts is whether it moves
    deadline = time.monotonic() + 2 * BEAT
    while time.monotonic() < deadline:
        time.sleep(BEAT / 5)
        if get_key(store, key) != raw:
            return True
    return False


def _words(found: dict[str, Any]) -> str:
    return f"process {found['pid']} on {found.get('host', 'another machine')}"


def _refusal(store: Store, found: dict[str, Any]) -> str:
    return (
        f"{describe(store)} is being written by another run, {_words(found)}. Nothing was "
        "written. Wait until it is done, or stop it; if it is dead, its lease ends within "
        f"{SILENCE + 2 * BEAT:.0f} seconds."
    )


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
    """Return whether a path stays below the root of a store."""
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
    """Return whether a path may be an array's; it is empty for an array without a group."""
    return not path or is_safe_path(path)


def _below(store: Store, path: str) -> Iterable[str]:
    """Yield the keys below an array; our own folder is no part of one that is all of its store."""
    if path:
        return _list(store, path)
    return (key for key in _list(store, "") if not key.startswith(f"{PREFIX}/"))


def _is_part(key: str, folder: str) -> bool:
    name = key.removeprefix(f"{folder}/") if folder else key
    return "/" not in name and bool(_PARTIAL.fullmatch(name))


def owned_below(store: Store, prefix: str) -> list[str]:
    """List all keys below a prefix that is ours as a whole."""
    return sorted(_list(store, prefix))


def _list(store: Store, path: str, *, deep: bool = True) -> Iterable[str]:
    # files are yielded as they are found: an array may have millions
    root = local_path(store)
    if root is None:
        keys = list_prefix(store, f"{path}/" if path else "")
        depth = path.count("/") + 1 if path else 0
        return [k for k in keys if deep or k.count("/") == depth]
    start = root / path
    if _has_link(root, path) or not start.is_dir():
        return []
    above = len(str(root).rstrip(os.sep)) + 1
    # what cannot be listed is not ours to delete
    files = files_below(str(start), deep=deep, skipped=(OSError,))
    return (path[above:].replace(os.sep, "/") for path in files)


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
