"""What has to be on the disk before something else is, for a machine that may lose its power.

A process that is killed loses nothing that it wrote; a machine without power loses what the
operating system still held. On a local file system three things are made sure of:

* The documents that a store hangs on (journal, marker, metadata of groups) are there as a whole
  or not at all: they are flushed before they get their names.
* All data are flushed before the metadata that make a target readable are written, and those
  before anything is deleted.
* Notes of finished boxes say which boot of the machine they are of. After another boot only
  those count that a flush, once in half a minute, has confirmed.

So chunks and pieces, which are many, are never flushed one by one.
"""

from __future__ import annotations

import ctypes
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from zarr.abc.store import Store

from xchunk.stores.adapter import put_key, put_keys
from xchunk.stores.stores import local_path

#: Seconds between two flushes while boxes are copied.
PERIOD = 30.0
_OFF = "XCHUNK_NO_SYNC"


def is_wanted() -> bool:
    """Whether anything is flushed at all; ``XCHUNK_NO_SYNC=1`` in the environment says no."""
    return os.environ.get(_OFF, "") in ("", "0")


def boot() -> str:
    """Return what is another text after each start of this machine; empty where nothing is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def flush(stores: Iterable[Store | None]) -> None:
    """Wait until everything that was written to local stores is on their disks.

    Whole file systems are flushed, which takes no longer than what is left to be written.

    - raises `OSError` if something could not be written, as the operating system found out only
      now.
    """
    if not is_wanted():
        return
    done: set[int] = set()
    for store in stores:
        path = None if store is None else local_path(store)
        if path is None or not path.exists():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            device = os.fstat(handle).st_dev
            if device not in done:
                _flush_file_system(handle)
                done.add(device)
        finally:
            os.close(handle)


def _flush_file_system(handle: int) -> None:
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(handle) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the disk could not be written: {os.strerror(number)}")


def put_durably(store: Store, key: str, value: bytes) -> None:
    """Write one object so that it is there as a whole or not at all, and stays."""
    root = local_path(store)
    if root is None or not is_wanted():
        put_key(store, key, value)
        return
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    # named as zarr names what it has not finished, so that it is known and swept like that
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    with suppress(OSError):
        # not every file system lets a folder be flushed; its files are
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def put_all_durably(store: Store, objects: Mapping[str, bytes]) -> None:
    """Write several objects as `put_durably` does; to a far store beside each other."""
    if local_path(store) is None or not is_wanted():
        put_keys(store, objects)
        return
    for key, value in objects.items():
        put_durably(store, key, value)


class Confirming:
    """A thread that now and then confirms what is finished, while boxes are copied.

    - ``confirm``: called in the thread, and once more in the end.
    - ``stores``: what it concerns; where none is local, there is no thread.
    """

    def __init__(self, confirm: Callable[[], None], stores: Iterable[Store | None]):
        self._confirm = confirm
        self._over = threading.Event()
        local = any(s is not None and local_path(s) is not None for s in stores)
        self._thread: threading.Thread | None = None
        if local and is_wanted():
            self._thread = threading.Thread(target=self._go_on, name="xchunk-flush", daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join(timeout=60)

    def _go_on(self) -> None:
        while not self._over.wait(PERIOD):
            # what cannot be confirmed now is next time; the commit does not go on without
            with suppress(Exception):
                self._confirm()
