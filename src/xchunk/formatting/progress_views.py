"""Where progress is shown: bars in a terminal, bars in a notebook, or lines in a log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from xchunk.core.units import format_bytes, format_seconds
from xchunk.formatting.style import card, esc
from xchunk.formatting.usage import Held

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Log", "Notebook", "Stage", "State", "Terminal", "View", "notebook_html"]

#: Bytes below which a stage of one box, such as a coordinate's, is not worth a bar or a line.
_SMALL = 10_000_000

#: Seconds between two pictures in a notebook, which each go through its document.
_EVERY = 0.4

#: Bars in a terminal at a time.
_MOST = 12


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

    @property
    def is_over(self) -> bool:
        """Whether all boxes are done."""
        return self.done >= self.total

    @property
    def is_small(self) -> bool:
        """Whether it is not worth a bar."""
        return self.total == 1 and self.nbytes < _SMALL

    def seconds(self, now: float) -> float:
        """Seconds that it took until it was over, or takes already."""
        return max(1e-6, (self.ended or now) - self.started)

    def rate(self, now: float) -> float:
        """Bytes a second since it began."""
        return self.nbytes / self.seconds(now)

    def left(self, now: float) -> float:
        """Seconds until the last box is done, if it goes on like this."""
        return self.seconds(now) / max(1, self.done) * (self.total - self.done)

    def boxes(self) -> str:
        """Boxes that are done, of all."""
        return f"{self.done}/{self.total} boxes"

    def time(self, now: float) -> str:
        """Say how long it took, or will still take."""
        if self.is_over:
            return format_seconds(self.seconds(now))
        return f"-{format_seconds(self.left(now))}"


@dataclass(frozen=True)
class State:
    """How far everything is."""

    now: float
    """The time, in seconds."""
    stages: list[Stage]
    """The stages that have begun and are worth a bar."""
    held: Held | None
    """Memory that is in use; at the end the most that was seen. None: not known."""
    total: int
    """Bytes of all boxes of all stages; 0: not known."""
    is_over: bool
    """Whether it is the end."""
    every: list[Stage]
    """All stages that have begun."""

    @property
    def memory(self) -> str:
        """Say what the memory is that is shown."""
        who = "" if self.held is None else self.held.who
        return f"{who}, the most seen" if self.is_over else who

    @property
    def overall(self) -> tuple[float, str] | None:
        """The part of all bytes that is done, in words too; None where it says nothing more."""
        if not self.total or not self.every or len(self.stages) < 2:
            return None
        done = sum(s.nbytes for s in self.every)
        took = self.now - min(s.started for s in self.every)
        part = min(1.0, done / self.total)
        words = f"{format_bytes(done)}  {format_bytes(done / max(took, 1e-6))}/s"
        if part >= 1 or self.is_over:
            return part, f"{words}  {format_seconds(took)}"
        return part, f"{words}  -{format_seconds(took / max(part, 1e-6) * (1 - part))}"


class View(Protocol):
    """What shows how far it is."""

    def start(self) -> None:
        """Begin."""

    def show(self, stage: Stage, state: State) -> None:
        """Show that a box of a stage is done."""

    def stop(self, state: State, how: str) -> None:
        """End; ``how`` is ``done`` or ``stopped``."""


class Log:
    """A few lines: when a stage begins, from time to time, and when it is done."""

    def __init__(self, file: TextIO, every: float):
        self._file = file
        self._every = every

    def start(self) -> None:
        """Say nothing yet."""

    def show(self, stage: Stage, state: State) -> None:
        """Say how far a stage is, where that is due."""
        began = not stage.said and stage.total > 1
        # what takes hours says less often how far it is, but each minute
        hundredth = (state.now - stage.started + stage.left(state.now)) / 100
        calm = max(self._every, min(60.0, hundredth)) if self._every else 0.0
        if not (began or stage.is_over or state.now - stage.said >= calm):
            return
        stage.said = state.now
        words = [f"{stage.done} of {stage.total} boxes", format_bytes(stage.nbytes)]
        if stage.is_over:
            words.append(f"done in {format_seconds(stage.seconds(state.now))}")
        else:
            words.append(f"{format_bytes(stage.rate(state.now))}/s")
            words.append(f"about {format_seconds(stage.left(state.now))} left")
        if state.held is not None:
            words.append(f"{state.held.who} {state.held}")
        self._file.write(f"xchunk: {stage.label}: {', '.join(words)}\n")
        self._file.flush()

    def stop(self, state: State, how: str) -> None:
        """Say nothing more, but for a stage that an earlier run had begun."""
        for stage in state.stages:
            if not stage.is_over and how == "done":
                stage.total = stage.done
                self.show(stage, state)


class Terminal:
    """A bar for each stage, and one for memory."""

    def __init__(self, console: Any):
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        label = Column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
        numbers = Column(no_wrap=True, justify="right")
        self._bars = Progress(
            TextColumn("{task.description}", table_column=label, markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            TextColumn("{task.fields[told]}", table_column=numbers),
            TextColumn(
                "{task.fields[left]}", table_column=Column(no_wrap=True, justify="right", width=9)
            ),
            console=console,
            expand=True,
            refresh_per_second=5,
        )
        self._tasks: dict[str, TaskID] = {}

    def start(self) -> None:
        """Take some lines of the terminal."""
        self._bars.start()

    def show(self, stage: Stage, state: State) -> None:
        """Move the bars."""
        told = (
            f"{stage.boxes()} {format_bytes(stage.nbytes)} {format_bytes(stage.rate(state.now))}/s"
        )
        self._move(stage.label, stage.done, stage.total, told, stage.time(state.now))
        self._whole(state)

    def stop(self, state: State, how: str) -> None:
        """Leave the bars as they are."""
        for label in self._tasks if how == "stopped" else ():
            self._bars.update(self._tasks[label], left=how)
        self._whole(state)
        self._bars.stop()

    def _whole(self, state: State) -> None:
        if state.overall is not None:
            part, words = state.overall
            *told, left = words.split("  ")
            self._move("all of it", round(1000 * part), 1000, " ".join(told), left)
        if state.held is not None and (self._tasks or not state.is_over):
            held = state.held
            full = f"{held.part:.0%}"
            self._move(held.who, min(held.nbytes, held.of), held.of, str(held), full)
            if state.is_over:
                self._bars.update(self._tasks[held.who], description=state.memory)

    def _move(self, label: str, done: int, total: int, told: str, left: str) -> None:
        task = self._tasks.get(label)
        if task is None:
            self._make_room()
            task = self._tasks[label] = self._bars.add_task(
                label, total=total, told=told, left=left
            )
        self._bars.update(task, completed=done, total=total, told=told, left=left)

    def _make_room(self) -> None:
        """Take the oldest bar that is full away, where there are as many as fit a terminal."""
        stages = [t for t in self._bars.tasks if "boxes" in t.fields["told"]]
        full = [t for t in stages if t.finished and t.visible]
        if full and sum(t.visible for t in self._bars.tasks) >= _MOST:
            self._bars.update(full[0].id, visible=False)


class Notebook:
    """The same bars in the output of a notebook's cell, without any widget."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._handle: Any = None

    def start(self) -> None:
        """Show nothing yet: there may be nothing worth a bar."""

    def show(self, stage: Stage, state: State) -> None:
        """Draw the bars anew, where that is due."""
        now = time.monotonic()
        if now - self._shown >= _EVERY or (stage.is_over and state.now == stage.ended):
            self._shown = now
            self._draw(notebook_html(state))

    def stop(self, state: State, how: str) -> None:
        """Draw the bars as they stay."""
        if state.stages:
            self._draw(notebook_html(state, how))

    def _draw(self, page: str) -> None:
        # imported by name: it is there where there is a notebook, and has no types
        ipython = import_module("IPython.display")
        if self._handle is None:
            self._handle = ipython.display(ipython.HTML(page), display_id=True)
        else:
            self._handle.update(ipython.HTML(page))


def notebook_html(state: State, how: str = "running") -> str:
    """Draw how far everything is, as HTML."""
    rows = [
        _row(
            s.label,
            s.done / max(1, s.total),
            f"{s.boxes()}, {format_bytes(s.nbytes)}, {format_bytes(s.rate(state.now))}/s",
            s.time(state.now),
        )
        for s in state.stages
    ]
    if state.overall is not None:
        part, words = state.overall
        rows.append(_row("all of it", part, words.replace("  ", ", "), ""))
    if state.held is not None:
        held = state.held
        rows.append(_row(state.memory, held.part, str(held), f"{held.part:.0%}", warn=held.is_much))
    return card("xchunk rechunk", [how], f'<div class="xc-run">{"".join(rows)}</div>')


def _row(label: str, part: float, told: str, left: str, *, warn: bool = False) -> str:
    kind = "g w" if warn else "g"
    bar = f'<i class="{kind}" style="left:0;width:{100 * min(1.0, part):.1f}%"></i>'
    return (
        f'<div><span>{esc(label)}</span><div class="xc-bar">{bar}</div>'
        f'<span class="xc-num">{esc(told)}</span>'
        f'<span class="xc-num xc-dim">{esc(left)}</span></div>'
    )
