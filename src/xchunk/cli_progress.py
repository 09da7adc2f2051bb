"""Progress of a command, as its options want it: bars, lines, JSON events or nothing."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from xchunk._typing import ProgressLike
from xchunk.cli_output import Output

__all__ = ["EventProgress", "progress_of"]


def progress_of(out: Output) -> bool | ProgressLike:
    """Return what ``progress=`` is to be for a command."""
    return EventProgress(out) if out.log_json else not out.quiet


@dataclass
class _Stage:
    began: float
    said: float
    tenth: int = 0
    done: int = 0
    nbytes: int = 0
    is_over: bool = False


class EventProgress:
    """Tell how far a rechunk is by events: one each 10 s or 10 %, and when a stage is over.

    Parameters
    ----------
    out : Output
        Where the events go.
    every : float, default 10
        Seconds after which there is an event in any case.
    least : float, default 1
        Seconds between two events of a stage at the least, but for the one at its end.
    """

    def __init__(self, out: Output, *, every: float = 10.0, least: float = 1.0) -> None:
        self._out = out
        self._every = every
        self._least = least
        self._lock = threading.Lock()
        self._stages: dict[tuple[str, str], _Stage] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        """Take note that a box is done.

        Parameters
        ----------
        name, stage : str
            The variable, and the kind of the stage.
        done, total : int
            Boxes of the stage that are done, and that there are.
        nbytes : int
            Bytes of this box.
        """
        now = time.monotonic()
        with self._lock:
            state = self._stages.get((name, stage))
            if state is None:
                state = self._stages[name, stage] = _Stage(self._last, self._last)
            self._last = now
            state.done = max(state.done, done)
            state.nbytes += nbytes
            took = now - state.began
            facts = {
                "variable": name,
                "stage": stage,
                "done": state.done,
                "total": total,
                "nbytes": state.nbytes,
                "seconds": took,
            }
            if state.done >= total:
                if not state.is_over:
                    state.is_over = True
                    self._out.event("stage", **facts)
                return
            waited, tenth = now - state.said, 10 * state.done // total
            if waited < self._least or (tenth == state.tenth and waited < self._every):
                return
            state.said, state.tenth = now, tenth
            left = took / max(1, state.done) * (total - state.done)
            self._out.event("progress", **facts, seconds_left=left)
