"""Progress of a rechunk: a bar in a terminal or notebook, a few calm lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from xchunk.core.units import format_bytes, format_seconds
from xchunk.formatting.describe import STAGES, plain

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress"]

#: Bytes below which a stage of one box, such as a coordinate's, is not worth a bar or a line.
_SMALL = 10_000_000
#: Seconds after which a log that goes on for hours has another line.
_MINUTE = 60.0
#: Bars at a time: those of stages that are over make room for others.
_MOST = 8


@dataclass
class _Stage:
    """What is known of one stage of one variable."""

    label: str
    started: float
    done: int = 0
    total: int = 0
    nbytes: int = 0
    said: float = 0.0
    task: TaskID | None = None
    removed: bool = False

    @property
    def is_over(self) -> bool:
        return self.done >= self.total

    def rate(self, now: float) -> float:
        """Bytes a second since the stage began."""
        return self.nbytes / max(1e-6, now - self.started)

    def left(self, now: float) -> float:
        """Seconds until the last box is done, if it goes on like this."""
        return (now - self.started) / max(1, self.done) * (self.total - self.done)


class Progress:
    """Show how far a rechunk is, on stderr.

    In a terminal (or a notebook) each stage has a bar with boxes, bytes, speed and the time
    that is left. Where stderr is a file or a pipe, such as that of a batch job, each stage
    says when it begins, then at most every ``every`` seconds (or every hundredth of it, up to
    a minute), and when it is done.

    Parameters
    ----------
    enabled : bool, default True
        Whether anything is shown at all.
    file : file, optional
        Where to; stderr by default.
    every : float, default 10
        Seconds between the lines of a log.

    Notes
    -----
    `update` may be called by any thread, and with counts in any order: the highest stands.
    A stage is taken to begin where the box before its first one was done.
    """

    def __init__(
        self, enabled: bool = True, *, file: TextIO | None = None, every: float = 10.0
    ) -> None:
        self.enabled = enabled
        self._file = file
        self._every = every
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._stages: dict[tuple[str, str], _Stage] = {}
        self._bars: RichProgress | None = None

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        if self.enabled:
            self._bars = self._terminal()
            if self._bars is not None:
                self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()

    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        """Take note that a box is done.

        Parameters
        ----------
        name : str
            Name of the variable.
        stage : str
            Kind of the stage: ``direct``, ``read``, ``move`` or ``write``.
        done, total : int
            Boxes of the stage that are done, and that there are.
        nbytes : int
            Bytes of this box.
        """
        if not self.enabled:
            return
        now = time.monotonic()
        with self._lock:
            state = self._stages.get((name, stage))
            if state is None:
                label = f"{plain(name)}, {STAGES.get(stage, plain(stage))}"
                state = self._stages[name, stage] = _Stage(label, self._last)
            self._last = now
            state.done, state.total = max(state.done, done), max(state.total, total)
            state.nbytes += nbytes
            if state.removed or (state.total == 1 and state.nbytes < _SMALL):
                return
            if self._bars is not None:
                self._draw(self._bars, state, now)
            else:
                self._log(state, now)

    def _terminal(self) -> RichProgress | None:
        """Make the bars, where there is a terminal to draw them in."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        file = self._file or sys.stderr
        console = Console(file=file)
        # a variable such as FORCE_COLOR makes no terminal of a log file
        drawable = console.is_jupyter or (console.is_terminal and file.isatty())
        if not drawable or console.is_dumb_terminal:
            return None
        label = Column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
        return Progress(
            TextColumn("{task.description}", table_column=label, markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            TextColumn(
                "{task.completed}/{task.total} boxes {task.fields[size]} {task.fields[rate]}",
                table_column=Column(no_wrap=True, justify="right"),
            ),
            TextColumn(
                "{task.fields[left]}", table_column=Column(no_wrap=True, justify="right", width=9)
            ),
            console=console,
            expand=True,
            refresh_per_second=5,
        )

    def _draw(self, bars: RichProgress, state: _Stage, now: float) -> None:
        took = format_seconds(now - state.started)
        shown: dict[str, Any] = {
            "size": format_bytes(state.nbytes),
            "rate": f"{format_bytes(state.rate(now))}/s",
            "left": took if state.is_over else f"-{format_seconds(state.left(now))}",
        }
        if state.task is None:
            state.task = bars.add_task(state.label, total=state.total, **shown)
            over = [s for s in self._stages.values() if s.is_over and s.task is not None]
            for old in over[: max(0, len(bars.task_ids) - _MOST)]:
                if old.task is not None:
                    bars.remove_task(old.task)
                    old.task = None
                    old.removed = True
        bars.update(state.task, completed=state.done, total=state.total, **shown)

    def _log(self, state: _Stage, now: float) -> None:
        began = not state.said and state.total > 1
        hundredth = (now - state.started + state.left(now)) / 100
        calm = max(self._every, min(_MINUTE, hundredth))
        if not (began or state.is_over or now - state.said >= calm):
            return
        state.said = now
        words = [f"{state.done} of {state.total} boxes", format_bytes(state.nbytes)]
        if state.is_over:
            words.append(f"done in {format_seconds(now - state.started)}")
        else:
            words.append(f"{format_bytes(state.rate(now))}/s")
            words.append(f"about {format_seconds(state.left(now))} left")
        file = self._file or sys.stderr
        file.write(f"xchunk: {state.label}: {', '.join(words)}\n")
        file.flush()
