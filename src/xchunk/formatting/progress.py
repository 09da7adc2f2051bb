"""Progress of a rechunk: bars in a terminal or a notebook, a few calm lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self, TextIO

from xchunk.core.plan import RechunkPlan
from xchunk.formatting.describe import STAGES, plain
from xchunk.formatting.progress_views import Log, Notebook, Stage, State, Terminal, View
from xchunk.formatting.usage import Gauge

__all__ = ["Progress"]


class Progress:
    """Show how far a rechunk is, on stderr or in a notebook.

    In a terminal and in a notebook each stage has a bar with boxes, bytes, speed and the time
    that is left; where the plan is known, so has the whole, and memory is shown against the
    budget: of this process, or of the fullest worker of the active ``distributed.Client``.
    Where stderr is a file or a pipe, each stage says when it begins, then at most every
    ``every`` seconds, and when it is done.

    Parameters
    ----------
    enabled : bool, default True
        Whether anything is shown at all.
    file : file, optional
        Where to; stderr by default.
    every : float, default 10
        Seconds between the lines of a log.
    plan : RechunkPlan, optional
        What is run; `begin` tells it later.

    Notes
    -----
    `update` may be called by any thread, and with counts in any order: the highest stands.
    A stage is taken to begin where the box before its first one was done.
    """

    def __init__(
        self,
        enabled: bool = True,
        *,
        file: TextIO | None = None,
        every: float = 10.0,
        plan: RechunkPlan | None = None,
    ) -> None:
        self.enabled = enabled
        self._file = file
        self._every = every
        self._plan = plan
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._stages: dict[tuple[str, str], Stage] = {}
        self._gauge: Gauge | None = None
        self._view: View | None = None

    def begin(self, plan: RechunkPlan) -> None:
        """Take note of what will be run, for its bytes and its budget.

        Parameters
        ----------
        plan : RechunkPlan
            The plan.
        """
        self._plan = plan

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._stages = {}
        if self.enabled:
            self._gauge = None if self._plan is None else Gauge(self._plan.budget)
            self._view = self._make()
            self._view.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            view, self._view = self._view, None
            if view is not None:
                view.stop(
                    self._state(time.monotonic(), is_over=True), "stopped" if kind else "done"
                )

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
                state = self._stages[name, stage] = Stage(label, self._last)
            self._last = now
            state.done, state.total = max(state.done, done), max(state.total, total)
            state.nbytes += nbytes
            if state.is_over:
                state.ended = now
            if self._view is not None and not state.is_small:
                self._view.show(state, self._state(now))

    def _state(self, now: float, *, is_over: bool = False) -> State:
        held = None if self._gauge is None else self._gauge.look()
        if is_over and self._gauge is not None:
            held = self._gauge.most
        total = (
            0 if self._plan is None else sum(a.nbytes * len(a.stages) for a in self._plan.arrays)
        )
        stages = list(self._stages.values())
        return State(now, [s for s in stages if not s.is_small], held, total, is_over, stages)

    def _make(self) -> View:
        """Choose what fits where it is shown."""
        from rich.console import Console

        file = self._file or sys.stderr
        console: Any = Console(file=file)
        if self._file is None and console.is_jupyter:
            return Notebook()
        # a variable such as FORCE_COLOR makes no terminal of a log file
        if console.is_terminal and file.isatty() and not console.is_dumb_terminal:
            return Terminal(console)
        return Log(file, self._every)
