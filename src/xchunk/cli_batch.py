"""The command that rechunks many sources: ``xchunk batch``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from xchunk.cli_options import debug, examples, json_flag, options, show

__all__ = ["FAILED", "batch"]

#: The exit code of a batch of which some jobs failed.
FAILED = 12
INTERRUPTED = 130


@click.command(
    epilog=examples(
        "xchunk batch jobs.toml --dry-run",
        "xchunk batch jobs.toml --workers 4 --memory-limit 4GiB --report out.html",
        "xchunk batch jobs.toml --only surface --no-resume",
        "xchunk batch jobs.toml --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
    )
)
@click.argument("jobs")
@click.option("--dry-run", is_flag=True, help="Plan every job; write nothing.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Run jobs of this name or pattern only; may be repeated.",
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
    help="Whether finished jobs are skipped, and unfinished ones gone on with.",
)
@click.option("--shard", metavar="K/N", help="Run the K-th of N parts, on one of N machines.")
@click.option("--state", metavar="DIR", help="Folder of state and logs; beside JOBS by default.")
@click.option(
    "--report",
    multiple=True,
    metavar="FILE",
    help="Write the report: .html, .json, .md or .txt; may be repeated.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on the dask cluster at tcp://….")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Start N workers here.")
@click.option("--memory-limit", metavar="SIZE", help="Memory of each of --workers.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but the report.")
@options(json_flag, debug)
def batch(
    jobs: str,
    report: tuple[str, ...],
    scheduler: str | None,
    workers: int | None,
    memory_limit: str | None,
    quiet: bool,
    as_json: bool,
    **how: Any,
) -> int:
    """Rechunk all that the job file JOBS names, unattended.

    JOBS is TOML: a table of defaults, and a list of jobs with source, target, and chunks or
    access. It is safe to start again: what is finished is skipped, the rest goes on.
    """
    from xchunk.batching.start import start_batch
    from xchunk.formatting import shown
    from xchunk.formatting.batches import Lines, text
    from xchunk.formatting.saving import save_report

    with _terminable(), _cluster(scheduler, workers, memory_limit):
        done = shown(start_batch(jobs, watcher=Lines(enabled=not (quiet or as_json)), **how))
        for file in report:
            save_report(done, file)
    show(done.to_dict() if as_json else text(done))
    if any(result.status == "interrupted" for result in done):
        return INTERRUPTED
    return FAILED if done.failed or done.interrupted else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Take a batch system's SIGTERM for a Ctrl-C, so that state and report are written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _cluster(
    scheduler: str | None, workers: int | None, memory_limit: str | None
) -> Iterator[None]:
    """Reach or start the cluster that was asked for."""
    if scheduler is None and workers is None:
        if memory_limit is not None:
            raise click.UsageError("--memory-limit is that of --workers: say how many")
        yield
        return
    if scheduler is not None and workers is not None:
        raise click.UsageError("give --scheduler or --workers, not both")
    from distributed import Client, LocalCluster

    from xchunk.core.units import parse_bytes
    from xchunk.engine.budget import local_threads
    from xchunk.errors import XchunkError

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s", set_as_default=True)
        except (OSError, ValueError) as error:
            raise XchunkError(
                f"there is no cluster at {scheduler} ({error}). Nothing was run."
            ) from error
        with client:
            yield
        return
    limit = "auto" if memory_limit is None else parse_bytes(memory_limit, "--memory-limit")
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=max(1, local_threads() // (workers or 1)),
            memory_limit=limit,
            dashboard_address=None,
        ) as cluster,
        Client(cluster),
    ):
        yield
