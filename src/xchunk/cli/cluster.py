"""The cluster of a command: one that runs already, or workers that live as long as the command."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import click

from xchunk.cli.options import options
from xchunk.cli.output import Output
from xchunk.core.units import parse_bytes
from xchunk.errors import ClusterError

_ADDRESS = re.compile(r"([a-z]+://)?[^\s/]+:\d+/?")
#: Seconds in which a scheduler has to answer, and workers have to come.
_CONNECT, _START = 15, 60
#: Seconds that workers get to end by themselves.
_CLOSE = 3
#: What workers do first. A terminal sends Ctrl-C to all of its processes; it is this one that
#: stops the run, and the workers.
_DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


def _at_least_one(_ctx: click.Context, _param: click.Parameter, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise click.BadParameter(f"{value} is less than 1.")
    return value


cluster_options = options(
    click.option(
        "--scheduler",
        envvar="XCHUNK_SCHEDULER",
        metavar="ADDRESS",
        help="Run on the dask cluster at this address: tcp://host:8786.",
    ),
    click.option(
        "--workers",
        envvar="XCHUNK_WORKERS",
        type=int,
        callback=_at_least_one,
        metavar="N",
        help="Start N worker processes on this machine for the time of the run.",
    ),
    click.option(
        "--memory-limit",
        envvar="XCHUNK_MEMORY_LIMIT",
        metavar="SIZE",
        help="Memory of each of these workers; --memory, or a share of what there is, by default.",
    ),
    click.option(
        "--threads-per-worker",
        envvar="XCHUNK_THREADS_PER_WORKER",
        type=int,
        callback=_at_least_one,
        metavar="N",
        help="Threads of each of them.",
    ),
)


@contextmanager
def on_cluster(out: Output, given: dict[str, Any]) -> Iterator[Any]:
    """Run on the cluster that was asked for; on dask's threads where none was.

    - ``out``: where notes go.
    - ``given``: the values of the command's options; those of `cluster_options` are taken out of
      it.
    - yields: the client, which is the active one.
    - raises `ClusterError` if the scheduler cannot be reached, or no worker starts.
    """
    scheduler, workers = given.pop("scheduler"), given.pop("workers")
    limit, threads = given.pop("memory_limit"), given.pop("threads_per_worker")
    if scheduler and workers:
        raise click.UsageError("give --scheduler or --workers, not both")
    if not workers and (limit or threads):
        name = "--memory-limit" if limit else "--threads-per-worker"
        raise click.UsageError(f"{name} is for workers that are started here: give --workers N too")
    if scheduler:
        if not _ADDRESS.fullmatch(scheduler):
            raise click.UsageError(
                f"--scheduler {scheduler}: is no address; give tcp://HOST:PORT, which "
                "'dask scheduler' prints when it starts"
            )
        with _connected(out, scheduler) as client:
            yield client
    elif workers:
        if limit is None:
            limit = given.get("memory")
        memory = "auto" if limit is None else parse_bytes(limit, "--memory-limit")
        with _started(workers, threads, memory) as client:
            yield client
    else:
        yield None


@contextmanager
def _connected(out: Output, address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        with _quiet_logs():
            client = Client(address, timeout=_CONNECT)
    except (OSError, TimeoutError, ValueError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ClusterError(
            f"no dask scheduler answers at {address} ({said}). Nothing was done. Check the "
            "address, which 'dask scheduler' prints when it starts, and that it is reached from "
            "here."
        ) from error
    try:
        if not client.scheduler_info(n_workers=1)["workers"]:
            out.note(
                f"the cluster at {address} has no worker yet; nothing is copied until there is "
                f"one ('dask worker {address}' starts one)"
            )
        yield client
    finally:
        with _quiet_logs(), suppress(Exception):
            client.close(timeout=_CLOSE)


@contextmanager
def _started(workers: int, threads: int | None, memory: int | str) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with _quiet_logs():
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads or max(1, (os.cpu_count() or 1) // workers),
                memory_limit=memory,
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                preload=_DEAF,
            )
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(f"no workers can be started here ({said}).") from error
        client = None
        try:
            client = Client(cluster, timeout=_CONNECT)
            client.wait_for_workers(workers, timeout=_START)
            yield client
        finally:
            with suppress(Exception):
                if client is not None:
                    client.close(timeout=_CLOSE)
            with suppress(Exception):
                cluster.close(timeout=_CLOSE)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep dask's own log, which is for its developers, off stderr, in workers as well."""
    names: Mapping[str, str] = {"DASK_LOGGING__DISTRIBUTED": "critical"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({n: v for n, v in names.items() if before[n] is None})
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
