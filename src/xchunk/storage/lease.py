"""One run at a time on one target: a lease, which the successor of a dead owner can take over.

Every run that wants the target puts an object of its own below ``.xchunk/lease`` and then looks
what else is there. Of two runs the one that looks last sees the other, so that never both go
on; that needs nothing of a store but that it lists what was written. A lease of a process that
is dead does not count: on the same machine the process is looked for, elsewhere its heartbeat.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from xchunk.errors import StageFailedError, TargetExistsError
from xchunk.storage.stores import describe, reaching
from xchunk.storage.workspace import PREFIX
from xchunk.storage.zarr_io import delete_keys, get_key, has_key, list_prefix, put_key

__all__ = ["Lease", "holder_of", "lease"]

_PREFIX = f"{PREFIX}/lease"
#: Seconds between two heartbeats.
BEAT = 10.0
#: Seconds without a heartbeat after which an owner on another machine may be dead.
SILENCE = 60.0
_TRIES = 5


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
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def _key(self) -> str:
        return f"{_PREFIX}/{self._token}.json"

    def _beat(self) -> None:
        owner = _Owner.here()
        document = {**vars(owner), "host": socket.gethostname(), "time": time.time()}
        put_key(self._store, self._key, json.dumps(document).encode())

    def take(self) -> None:
        """Take the lease, and show signs of life from now on.

        Raises
        ------
        TargetExistsError
            If a run that is alive holds it.
        """
        for attempt in range(_TRIES):
            self._beat()
            others = _living(self._store, but=self._key)
            if not others:
                break
            delete_keys(self._store, [self._key])
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
                if has_key(self._store, self._key):
                    self._beat()

    def check(self) -> None:
        """Make sure that the lease is still held.

        Raises
        ------
        StageFailedError
            If another run took it over, because this one was silent for too long.
        """
        if not has_key(self._store, self._key):
            raise StageFailedError(
                f"another run took over {describe(self._store)}, since this one gave no sign of "
                "life for too long. The target was not committed by this run."
            )

    def retire(self) -> None:
        """Stop the heartbeat: the lease is about to be deleted with everything else of ours."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def release(self) -> None:
        """Give the lease back."""
        self.retire()
        delete_keys(self._store, [self._key])


@contextmanager
def lease(store: Store) -> Iterator[Lease]:
    """Hold the lease of a target.

    Raises
    ------
    TargetExistsError
        If a run that is alive holds it.
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
    for key in list_prefix(store, f"{_PREFIX}/"):
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
        return bool(_started(int(found["pid"])) == found["started"])
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
