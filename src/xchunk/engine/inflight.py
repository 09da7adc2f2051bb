"""Boxes in flight: tried again after a passing fault, and waited for when a run ends early."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from xchunk.errors import StageFailedError, XchunkError

__all__ = ["in_flight", "stop", "with_patience"]

T = TypeVar("T")

#: Seconds to wait before each further try.
_PAUSES = (0.1, 0.5)
#: What is not better a moment later.
_LASTING = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
    errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip
#: Seconds for which boxes in flight are waited for: a box takes a few.
_LONGEST = 60.0

_changed = threading.Condition()
_running: dict[str, int] = {}
_stopped: deque[str] = deque(maxlen=10_000)


def with_patience(task: Callable[[], T]) -> T:
    """Run a task, once more after each fault of the store that may pass by itself.

    A box that is copied again writes the same bytes under the same keys, so that it does not
    matter how far the first try came.
    """
    for pause in _PAUSES:
        try:
            return task()
        except XchunkError as error:
            if not _may_pass(error.__cause__):
                raise
        time.sleep(pause)
    return task()


def _may_pass(cause: BaseException | None) -> bool:
    if isinstance(cause, FileNotFoundError | PermissionError):  # some stores give no number
        return False
    return isinstance(cause, OSError) and cause.errno not in _LASTING


@contextmanager
def in_flight(run: str) -> Iterator[None]:
    """Count a box as in flight; refuse to start one of a run that was stopped."""
    with _changed:
        if run in _stopped:
            raise StageFailedError("the run was stopped before this box")
        _running[run] = _running.get(run, 0) + 1
    try:
        yield
    finally:
        with _changed:
            _running[run] -= 1
            if not _running[run]:
                del _running[run]
            _changed.notify_all()


def stop(run: str) -> None:
    """Let no box of a run start any more, and wait for those that are in flight."""
    with _changed:
        _stopped.append(run)
        _changed.wait_for(lambda: run not in _running, timeout=_LONGEST)
