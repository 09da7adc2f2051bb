"""Progress of a rechunk and of a batch: bars in a terminal or a notebook, a few lines in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO, TypeAlias

from xchunk.core.memory import PAUSE, MemoryBudget
from xchunk.core.plan.stages import RechunkPlan
from xchunk.core.units import format_bytes, format_seconds
from xchunk.display.document import Document, Runs
from xchunk.display.phrases import SMALL, STAGES, STATUSES, counted, folded, plain
from xchunk.engine.budget import resident_bytes
from xchunk.engine.cluster import current_client

if TYPE_CHECKING:
    from xchunk.batching.run import BatchReport, JobResult

#: Seconds between two looks at this process, and at the workers of a cluster.
_LOCAL, _CLUSTER = 0.5, 2.0


@dataclass(frozen=True)
class Held:
    """Memory that is in use, against what may be used."""

    who: str
    """Whose memory it is, in words."""
    nbytes: int
    """Bytes that are in use."""
    of: int
    """Bytes that may be: the limit of a worker, or what it may grow by."""
    is_limit: bool = True
    """Whether it is a limit, near which dask pauses and terminates workers."""

    @property
    def is_much(self) -> bool:
        """Whether it is so much that something will happen, or more than was promised."""
        return self.part > (PAUSE if self.is_limit else 1.0)

    @property
    def part(self) -> float:
        """The part of it that is in use."""
        return self.nbytes / max(1, self.of)

    def __str__(self) -> str:
        return f"{format_bytes(self.nbytes)} of {format_bytes(self.of)}"


class Gauge:
    """Looks at the memory from time to time; what is asked in between is answered from memory.

    - ``budget``: where the limit of a worker is known, or its workers have limits of their own, all
      that a process holds is set against it; else what it grows by from now on, against
      ``max_mem``.
    """

    def __init__(self, budget: MemoryBudget):
        self._budget = budget
        self._client = current_client()
        self._before = {name: n for name, (n, _) in self._found().items()}
        self._looked = -1e9
        self._last: Held | None = None
        self.most: Held | None = None

    def look(self) -> Held | None:
        """Return how full memory is; None where it cannot be told."""
        now = time.monotonic()
        if now - self._looked >= (_LOCAL if self._client is None else _CLUSTER):
            self._last = self._look()
            self._looked = time.monotonic()
            if self._last is not None and (self.most is None or self._last.part > self.most.part):
                self.most = self._last
        return self._last

    def _look(self) -> Held | None:
        found = self._found()
        if not found:
            return None
        # what a worker grew by since it began is no use here: it imports its libraries first
        limits = {n for _, n in found.values()}
        who = "memory" if self._client is None else "fullest worker"
        if self._budget.memory is not None:
            return Held(who, max(n for n, _ in found.values()), self._budget.memory)
        if all(limits):
            return max((Held(who, n, limit) for n, limit in found.values()), key=lambda h: h.part)
        began = min(self._before.values(), default=0)
        grown = max(n - self._before.get(name, began) for name, (n, _) in found.items())
        return Held(who, max(0, grown), self._budget.max_mem, is_limit=False)

    def _found(self) -> dict[str, tuple[int, int]]:
        """Bytes that each process holds, and its limit; 0 where it has none."""
        if self._client is None:
            return {"": (resident_bytes(), 0)}
        try:
            infos: dict[str, Any] = dict(self._client.scheduler_info(n_workers=-1)["workers"])
        except Exception:  # noqa: BLE001 - a scheduler that is busy or gone stops no rechunk
            return {}
        return {
            str(name): (int(info["metrics"]["memory"]), int(info.get("memory_limit") or 0))
            for name, info in infos.items()
            if "memory" in (info.get("metrics") or {})
        }


#: Bytes below which a stage of one box, and one of several, is not worth a bar or a line.
_SMALL, _TINY = 10_000_000, SMALL

#: Seconds between two pictures in a notebook, which each go through its document.
_EVERY = 0.4

#: Bars in a terminal at a time.
_MOST = 12

#: A bar: label, part from 0 to 1, numbers, what is left, and whether it warns.
Row: TypeAlias = tuple[str, float, str, str, bool]


@dataclass
class Stage:
    """What is known of one stage of one variable."""

    label: str
    """What it is called."""
    started: float
    """When it began, in seconds."""
    done: int = 0
    """Boxes that are done."""
    total: int = 0
    """Boxes that there are."""
    nbytes: int = 0
    """Bytes of the boxes that are done."""
    ended: float | None = None
    """When the last box was done, in seconds."""
    said: float = 0.0
    """When a log last told of it, in seconds."""
    before: int = 0
    """Boxes that had not to be copied: done by an earlier run, or of which nothing is stored."""
    weight: int = 0
    """Bytes of all of its boxes; 0: not known."""

    @property
    def is_over(self) -> bool:
        """Whether all boxes are done."""
        return self.done >= self.total

    @property
    def is_small(self) -> bool:
        """Whether it is not worth a bar."""
        known = self.nbytes / max(1, self.done - self.before) * self.total
        return (self.weight or known) < (_SMALL if self.total == 1 else _TINY)

    @property
    def part(self) -> float:
        """The part of its boxes that is done."""
        return self.done / max(1, self.total)

    def seconds(self, now: float) -> float:
        """Seconds that it took until it was over, or takes already."""
        return max(1e-6, (self.ended or now) - self.started)

    def rate(self, now: float) -> str:
        """Bytes a second since it began, in words."""
        return f"{format_bytes(self.nbytes / self.seconds(now))}/s"

    def left(self, now: float) -> float:
        """Seconds until the last box is done, if it goes on like this."""
        return self.seconds(now) / max(1, self.done - self.before) * (self.total - self.done)

    def row(self, now: float) -> Row:
        """Its bar."""
        told = f"{self.done}/{self.total} boxes  {format_bytes(self.nbytes)}  {self.rate(now)}"
        if self.before >= self.total:
            return self.label, 1.0, f"{self.done}/{self.total} boxes", "nothing to do", False
        if not self.nbytes:
            # what an earlier run has copied says nothing of how fast this one is
            return self.label, self.part, f"{self.done}/{self.total} boxes", "", False
        took, left = format_seconds(self.seconds(now)), format_seconds(self.left(now))
        return self.label, self.part, told, took if self.is_over else f"{left} left", False


@dataclass(frozen=True)
class State:
    """How far everything is."""

    now: float
    """The time, in seconds."""
    stages: list[Stage]
    """All stages that have begun."""
    held: Held | None = None
    """Memory that is in use; at the end the most that was seen. None: not known."""
    total: int = 0
    """Bytes of all boxes of all stages; 0: not known."""
    how: str = "running"
    """``running``, ``done`` or ``stopped``."""

    @property
    def large(self) -> list[Stage]:
        """The stages that are worth a bar: those of the largest variable first."""
        return sorted((s for s in self.stages if not s.is_small), key=lambda s: -s.weight)

    def rows(self, most: int | None = None) -> list[Row]:
        """The bars: of each stage, of all of it and of memory; the oldest full ones may go."""
        large, out = self.large, []
        many = 0 if most is None else max(0, len(large) + 2 - most)
        for stage in large:
            if many and stage.is_over:
                many -= 1
                continue
            label, part, told, left, warns = stage.row(self.now)
            is_left = self.how == "stopped" and not stage.is_over
            out.append((label, part, told, self.how if is_left else left, warns))
        small = [s for s in self.stages if s.is_small]
        if small and large:
            done, total = sum(s.done for s in small), sum(s.total for s in small)
            name = counted(len({s.label.rpartition(",")[0] for s in small}), "small variable")
            told = f"{done}/{total} boxes  {format_bytes(sum(s.nbytes for s in small))}"
            out.append((name, done / max(1, total), told, "", False))
        if self.total and len(large) > 1:
            out.append(self._overall())
        if self.held is not None:
            who = self.held.who if self.how == "running" else f"{self.held.who} at most"
            full = f"{self.held.part:.0%}"
            out.append((who, self.held.part, str(self.held), full, self.held.is_much))
        return out

    def _overall(self) -> Row:
        done = sum(s.nbytes for s in self.stages)
        took = max(1e-6, self.now - min(s.started for s in self.stages))
        # by boxes: those that have not to be copied have no bytes, and take no time
        reached = sum(s.weight * s.part if s.weight else s.nbytes for s in self.stages)
        before = sum(s.weight * s.before / max(1, s.total) for s in self.stages)
        part, own = min(1.0, reached / self.total), (reached - before) / self.total
        time = format_seconds(took)
        if part < 1 and own > 0 and self.how == "running":
            time = f"{format_seconds(took / own * (1 - part))} left"
        told = f"{format_bytes(done)}  {format_bytes(done / took)}/s"
        return "all of it", part, told, time, False


class View(Protocol):
    """What shows how far it is."""

    def show(self, stage: Stage, state: State) -> None:
        """Show that a box of a stage is done."""

    def stop(self, state: State) -> None:
        """End."""


class Log:
    """A few lines: when a stage begins, from time to time, and when it is done."""

    def __init__(self, file: TextIO, every: float):
        self._file = file
        self._every = every
        self._is_over = False

    def show(self, stage: Stage, state: State) -> None:
        """Say how far a stage is, where that is due; and at once that memory is over its budget."""
        now = state.now
        if state.held is not None and state.held.is_much and not self._is_over:
            self._is_over = True
            self._file.write(f"xchunk: {state.held.who} {state.held}: over the budget\n")
        if stage.is_small or (not stage.nbytes and not stage.is_over):
            # what an earlier run has copied says nothing of how fast this one is
            return
        began = not stage.said and stage.total > 1
        # what takes hours says less often how far it is, but each minute
        hundredth = (now - stage.started + stage.left(now)) / 100
        calm = max(self._every, min(60.0, hundredth)) if self._every else 0.0
        if not (began or stage.is_over or now - stage.said >= calm):
            return
        stage.said = now
        words = [f"{stage.done} of {stage.total} boxes", format_bytes(stage.nbytes)]
        if stage.before >= stage.total:
            words = [f"{stage.total} boxes", "nothing to do"]
        elif stage.is_over:
            words.append(f"done in {format_seconds(stage.seconds(now))}")
        else:
            words += [stage.rate(now), f"about {format_seconds(stage.left(now))} left"]
        if state.held is not None:
            words.append(f"{state.held.who} {state.held}")
        self._file.write(f"xchunk: {stage.label}: {', '.join(words)}\n")
        self._file.flush()

    def stop(self, state: State) -> None:
        """Say nothing more, but for a stage that an earlier run had begun."""
        for stage in state.large:
            if not stage.is_over and state.how == "done":
                stage.total = stage.done
                self.show(stage, state)


class Terminal:
    """Bars that take some lines of a terminal, once there is something worth a bar."""

    def __init__(self, console: Any):
        from rich.live import Live

        self._state: State | None = None
        self._live = Live(console=console, get_renderable=self._bars, refresh_per_second=5)

    def show(self, stage: Stage, state: State) -> None:  # noqa: ARG002
        """Move the bars."""
        if state.large:
            self._state = state
            self._live.start()

    def stop(self, state: State) -> None:
        """Leave the bars as they are."""
        self._state = self._state and state
        self._live.stop()

    def _bars(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
        table.add_column(ratio=1, min_width=8)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, justify="right", width=16)
        for label, part, told, left, warns in self._state.rows(_MOST) if self._state else ():
            style = "bar.pulse" if warns else "bar.complete"
            bar = ProgressBar(total=1.0, completed=part, complete_style=style)
            table.add_row(Text(label), bar, told.replace("  ", " "), left)
        return table


class Notebook:
    """The same bars in the output of a notebook's cell, without any widget."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._handle: Any = None

    def show(self, stage: Stage, state: State) -> None:
        """Draw the bars anew, where that is due."""
        now = time.monotonic()
        if not state.large:
            return
        if now - self._shown >= _EVERY or (stage.is_over and state.now == stage.ended):
            self._shown = now
            self._draw(state)

    def stop(self, state: State) -> None:
        """Draw the bars as they stay."""
        if state.large:
            self._draw(state)

    def _draw(self, state: State) -> None:
        # imported by name: it is there where there is a notebook, and has no types
        ipython = import_module("IPython.display")
        page = ipython.HTML(notebook_html(state))
        if self._handle is None:
            self._handle = ipython.display(page, display_id=True)
        else:
            self._handle.update(page)


def notebook_html(state: State) -> str:
    """Draw how far everything is, as HTML."""
    from xchunk.display.render import as_html

    return as_html(Document("xchunk rechunk", right=state.how, body=[Runs(state.rows())]))


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
        """Take note of what will be run, for its bytes and its budget."""
        self._plan = plan

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._stages = {}
        if self.enabled:
            self._gauge = None if self._plan is None else Gauge(self._plan.budget)
            self._view = self._make()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            view, self._view = self._view, None
            if view is not None:
                view.stop(self._state(time.monotonic(), "stopped" if kind else "done"))

    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        """Take note that a box is done.

        - ``name``: name of the variable.
        - ``stage``: kind of the stage: ``direct``, ``read``, ``move`` or ``write``.
        - ``done``, ``total``: boxes of the stage that are done, and that there are.
        - ``nbytes``: bytes of this box.
        """
        if not self.enabled:
            return
        now = time.monotonic()
        with self._lock:
            state = self._stages.get((name, stage))
            if state is None:
                label = f"{plain(name)}, {STAGES.get(stage, plain(stage))}"
                weight = self._weights.get(name, 0)
                state = self._stages[name, stage] = Stage(label, self._last, weight=weight)
            self._last = now
            state.done, state.total = max(state.done, done), max(state.total, total)
            state.nbytes += nbytes
            # it is told of a box that was copied by its bytes, and of others by their number
            state.before += nbytes == 0
            if state.is_over:
                state.ended = now
            if self._view is not None:
                self._view.show(state, self._state(now))

    def _state(self, now: float, how: str = "running") -> State:
        held = None if self._gauge is None else self._gauge.look()
        if how != "running" and self._gauge is not None:
            held = self._gauge.most
        arrays = () if self._plan is None else self._plan.arrays
        reads_back = any(kind.startswith("verify") for _, kind in self._stages)
        total = sum(a.nbytes * (2 if reads_back else len(a.stages)) for a in arrays)
        return State(now, list(self._stages.values()), held, total, how)

    @property
    def _weights(self) -> dict[str, int]:
        return {} if self._plan is None else {a.name: a.nbytes for a in self._plan.arrays}

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


#: Seconds after which the progress of a job is shown.
PATIENCE = 3.0


class Lines:
    """Report on stderr how far a batch is: a line when a job ends.

    - ``enabled``: whether anything is told at all.
    - ``file``: where to; stderr by default.
    """

    def __init__(self, enabled: bool = True, *, file: TextIO | None = None):
        self._enabled, self._file = enabled, file
        self._skipped = 0

    def begin(self, number: int, total: int, name: str, why: str) -> None:
        """Say why a job is not simply begun."""
        self._tell_skipped()
        if why:
            self._say(f"{_place(number, total)} {name}: {why}")

    def end(self, number: int, total: int, result: JobResult) -> None:
        """Say what became of a job; those that are skipped are counted."""
        if result.status == "skipped":
            self._skipped += 1
            if number == total:
                self._tell_skipped()
            return
        said = f"{_place(number, total)} {result.name}: {STATUSES[result.status]}"
        if result.status in ("done", "planned") and result.nbytes:
            said += f", {format_bytes(result.nbytes)} in {_seconds(result)}"
        if result.verified:
            said += ", verified"
        if result.status in ("failed", "interrupted"):
            said += f": {result.message}"
        self._tell_skipped()
        self._say(said)

    def progress(self, name: str) -> _Named:
        """Return what shows the progress of one job."""
        return _Named(name, Progress(enabled=self._enabled, file=self._file))

    def _tell_skipped(self) -> None:
        if self._skipped:
            self._say(f"{counted(self._skipped, 'job')} done by an earlier run, and still right")
            self._skipped = 0

    def _say(self, what: str) -> None:
        if self._enabled:
            file = self._file or sys.stderr
            # a terminal that is gone is no reason for jobs to fail
            with suppress(OSError, ValueError):
                said = f"xchunk: {plain(what)}"
                file.write(f"{folded(said) if file.isatty() else said}\n")
                file.flush()


class _Named:
    """The progress of one job, whose name stands before those of its variables.

    A job that is over in no time is not worth a bar or a line: nothing is shown at first.
    """

    def __init__(self, name: str, shown: Progress):
        self._name, self._shown = name, shown
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._shown.__exit__(kind)

    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        """Take note that a box is done."""
        key = (name, stage)
        with self._lock:
            nbytes += self._held.pop(key, 0)
            if time.monotonic() - self._began < PATIENCE:
                self._held[key] = nbytes
                return
        self._shown.update(
            name=f"{self._name}: {name}", stage=stage, done=done, total=total, nbytes=nbytes
        )


def _place(number: int, total: int) -> str:
    return f"[{number:{len(str(total))}}/{total}]"


def _seconds(result: JobResult) -> str:
    about = "about " if result.status == "planned" else ""
    return f"{about}{format_seconds(result.seconds)}"


def batch(
    jobs: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    only: str | Sequence[str] = (),
    shard: str | Sequence[int] | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: bool = True,
    keep_going: bool = True,
    dry_run: bool = False,
    progress: bool = True,
) -> BatchReport:
    """Rechunk many sources, one after the other, unattended.

    Each target is written as ``ds.chunking.apply`` writes it, on the active
    ``distributed.Client`` or on dask's threads. What goes wrong with one does not stop the rest;
    the report tells what became of each.

    Parameters
    ----------
    jobs : str, path, list of mappings, or mapping
        A job file (TOML), whose paths are relative to its folder; or its jobs as a list, or all
        of it as a mapping, whose paths are relative to the working folder.
    defaults : mapping, optional
        What holds for every job that does not say otherwise.
    only : str or sequence of str
        Names of jobs, or of single sources of them (``"surface/2001.nc"``), or patterns of these.
    shard : str or tuple of int, optional
        Which of how many shards is run, of as many machines: ``"3/10"``.
    state : str or path, optional
        The folder of state and logs, by which finished jobs are known when it is run again. Beside
        a job file by default; none for a list.
    resume : bool
        Whether what an earlier run has finished is skipped where source, job and target are
        still the same, and what it left unfinished is resumed. If not, all is done again.
    keep_going : bool
        Whether the rest is run after a job that failed.
    dry_run : bool
        Whether every job is planned only; nothing is written.
    progress : bool
        Whether it is told on stderr how far it is.

    Returns
    -------
    BatchReport
        What became of each target; a sequence of results, with ``counts`` and ``failed``.

    Raises
    ------
    InvalidJobError
        If the jobs cannot be understood; nothing was run.
    TargetExistsError
        If targets collide, or another process is running the same batch; nothing was run.
    KeyboardInterrupt
        If it is interrupted. The same call resumes.

    Examples
    --------
    >>> xchunk.batch("jobs.toml")  # doctest: +SKIP
    >>> job = {"source": "raw/*.nc", "target": "out/{stem}.zarr", "access": "timeseries"}
    >>> xchunk.batch([job], defaults={"memory": "4GiB"}, state="batch")  # doctest: +SKIP
    """
    from xchunk.batching.run import start_batch

    report = start_batch(
        jobs,
        watcher=Lines(enabled=progress),
        defaults=defaults,
        only=only,
        shard=shard,
        state=state,
        resume=resume,
        keep_going=keep_going,
        dry_run=dry_run,
    )
    if report.interrupted and any(r.status == "interrupted" for r in report):
        raise KeyboardInterrupt("the batch was interrupted; the same call resumes")
    return report
