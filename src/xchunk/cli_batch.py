"""The command that rechunks many sources: ``xchunk batch``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xchunk._typing import ProgressLike
from xchunk.cli_cluster import cluster_options, on_cluster
from xchunk.cli_options import common, examples, options, place
from xchunk.cli_output import Command, Output
from xchunk.cli_progress import EventProgress

if TYPE_CHECKING:
    from xchunk.batching.report import JobResult

__all__ = ["FAILED", "batch"]

#: The exit code of a batch of which some jobs failed, and of one that was interrupted.
FAILED, INTERRUPTED = 12, 130
#: How the names of reports end.
_REPORTS = (".html", ".json", ".md", ".txt")


@click.command(
    cls=Command,
    epilog=examples(
        "xchunk batch jobs.toml --dry-run",
        "xchunk batch jobs.toml --workers 4 --memory-limit 4GiB",
        "xchunk batch jobs.toml --only surface --report surface.html",
        "xchunk batch jobs.toml --shard 3/10",
    ),
    short_help="Rechunk all that a job file names.",
)
@click.argument("jobs", type=place)
@click.option("--dry-run", is_flag=True, help="Plan every job; write nothing.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Run only jobs of this name, or pattern of names. May be repeated.",
)
@click.option(
    "--keep-going/--stop",
    default=True,
    show_default=True,
    help="Whether the rest is run after a job that failed.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Whether finished jobs are skipped and unfinished ones gone on with; or all is done "
    "again.",
)
@click.option("--shard", metavar="K/N", help="Run the K-th of N parts of the jobs.")
@click.option("--state", type=place, help="Folder of state and logs; beside JOBS by default.")
@click.option(
    "--report",
    multiple=True,
    type=place,
    help="Write the report to a .html, .json, .md or .txt file. May be repeated.",
)
@options(cluster_options, common)
@click.pass_obj
def batch(out: Output, /, jobs: str, report: tuple[str, ...], **given: Any) -> int:
    """Rechunk all that the job file JOBS names, unattended.

    JOBS is TOML: a table of defaults, and a list of jobs with source, target, and chunks or
    access. It is safe to start it again: what is finished is skipped, and what is not goes on.
    """
    from xchunk.batching.start import start_batch
    from xchunk.formatting import shown
    from xchunk.formatting.batches import text
    from xchunk.formatting.saving import save_report

    for file in report:
        _check(file)
    with on_cluster(out, given):
        done = shown(start_batch(jobs, watcher=_Told(out), **given))
    for file in report:
        save_report(done, file)
    out.result("batch", done.to_dict, lambda: text(done))
    if out.quiet and not out.log_json:
        for result in done.failed:
            out.complain(f"error: {result.name}: {result.message}")
    if any(result.status == "interrupted" for result in done):
        return INTERRUPTED
    return FAILED if done.failed or done.interrupted else 0


def _check(file: str) -> None:
    """Refuse a report that could not be written, before hours of work."""
    path = Path(file)
    if path.suffix.lower() not in _REPORTS:
        raise click.UsageError(f"--report {file}: give a {', '.join(_REPORTS)} file")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise click.UsageError(f"--report {file}: cannot be written; is there such a folder?")


class _Told:
    """Who is told how far a batch is: lines or JSON events on stderr, or nothing."""

    def __init__(self, out: Output):
        from xchunk.formatting.batches import Lines

        self._out = out
        self._lines = Lines(enabled=not (out.quiet or out.log_json))

    def begin(self, number: int, total: int, name: str, why: str) -> None:
        self._lines.begin(number, total, name, why)
        self._out.event("job", number=number, total=total, name=name, status="running", message=why)

    def end(self, number: int, total: int, result: JobResult) -> None:
        self._lines.end(number, total, result)
        self._out.event("job", number=number, total=total, **result.to_dict())

    def progress(self, name: str) -> ProgressLike:
        return EventProgress(self._out) if self._out.log_json else self._lines.progress(name)
