"""How a batch shows itself: a line for each job while it runs, and its report."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from xchunk.core.units import format_bytes, format_seconds
from xchunk.formatting.describe import counted, folded, plain
from xchunk.formatting.progress import Progress
from xchunk.formatting.style import card, esc, table
from xchunk.formatting.text import WIDTH, cut, sides, wrap

if TYPE_CHECKING:
    from xchunk.batching.report import BatchReport, JobResult, Status

__all__ = ["Lines", "html", "text"]

#: Results shown, at the most, besides those that failed.
MOST = 40
MOST_HTML = 1000
#: Seconds after which the progress of a job is shown.
PATIENCE = 3.0

_WORDS: dict[Status, str] = {
    "done": "done",
    "skipped": "done before",
    "planned": "planned",
    "failed": "failed",
    "interrupted": "interrupted",
    "waiting": "not run",
}


class Lines:
    """Tell on stderr how far a batch is: a line when a job ends.

    Parameters
    ----------
    enabled : bool, default True
        Whether anything is told at all.
    file : file, optional
        Where to; stderr by default.
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
        said = f"{_place(number, total)} {result.name}: {_WORDS[result.status]}"
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shown.__exit__(kind, error, traceback)

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


def _facts(report: BatchReport) -> list[str]:
    counts = [f"{n} {_WORDS[s]}" for s, n in report.counts.items() if n]
    verified = sum(r.verified for r in report)
    return [
        report.source,
        "" if report.shard is None else f"shard {report.shard[0]} of {report.shard[1]}",
        counted(len(report), "job"),
        *counts,
        f"{verified} verified" if verified else "",
        f"{format_bytes(report.nbytes)} written" if report.nbytes else "",
        format_seconds(report.seconds),
        "interrupted: run it again to go on" if report.interrupted else "",
    ]


def _order(report: BatchReport) -> list[JobResult]:
    """What needs somebody's attention first, then all else in the order of the jobs."""
    first = ("failed", "interrupted")
    return sorted(report, key=lambda r: r.status not in first)


def text(report: BatchReport) -> str:
    """Show what became of a batch, in at most 80 columns."""
    head, *facts = [f for f in _facts(report) if f]
    title = f"xchunk batch: {head}" if report.source else "xchunk batch"
    facts = facts if report.source else [head, *facts]
    lines = [cut(title, WIDTH), *wrap(", ".join(facts), 2)]
    shown: list[JobResult] = []
    left = 0
    for result in _order(report):
        if result.status != "failed" and len(shown) >= MOST:
            left += 1
            continue
        shown.append(result)
    for result in shown:
        right = _WORDS[result.status]
        if result.nbytes and result.status in ("done", "planned"):
            right += f"  {format_bytes(result.nbytes):>8}  {_seconds(result):>9}"
        right += "  ✓" if result.verified else "   "
        lines.append(sides(result.name, right, 2))
        if result.message and result.status != "skipped":
            lines += wrap(result.message, 6)
        if result.log and result.status == "failed":
            lines += wrap(f"log: {result.log}", 6)
    if left:
        lines.append(f"  … and {counted(left, 'job')} more, see to_dict()")
    if any(r.verified for r in shown):
        lines.append("  ✓ read back, and equal to its source bit by bit")
    return "\n".join(lines)


def html(report: BatchReport, *, style: bool = True) -> str:
    """Show what became of a batch as a table."""
    rows = []
    for result in _order(report)[:MOST_HTML]:
        note = "" if result.status == "skipped" else result.message
        cells = [
            result.name,
            _WORDS[result.status],
            "✓" if result.verified else "",
            format_bytes(result.nbytes) if result.nbytes else "",
            _seconds(result) if result.seconds else "",
            result.target,
        ]
        rows.append((cells, note))
    head = ("job", "status", "verified", "size", "time", "target")
    body = table(head, rows)
    left = len(report) - len(rows)
    body += f"<p>… and {left} more, see to_dict().</p>" if left > 0 else ""
    if report.state:
        body += f'<p class="xc-dim">State and logs: <code>{esc(report.state)}</code></p>'
    return card("xchunk batch", _facts(report), body, style=style)
