"""The cluster that a call runs on: its client, its workers, and which of them a task fits."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xchunk.core.units import format_bytes
from xchunk.errors import ClusterError, XchunkWarning

if TYPE_CHECKING:
    from distributed import Client

#: How long a cluster without workers is waited for, in dask's configuration; and the default.
_WAIT, _PATIENCE = "xchunk.wait-for-workers", "60s"


def current_client() -> Client | None:
    """Return the active client of dask.distributed, if there is one, without importing it.

    - raises `ClusterError` if it is asynchronous here, so that nothing of it can be waited for.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        client = get_client()
    except ValueError:
        return None
    refuse_asynchronous(client)
    return client


def refuse_asynchronous(client: Client) -> None:
    """Refuse a client whose event loop runs here: waiting for it would stop the loop.

    - raises `ClusterError` if it is asynchronous here. From another thread the same client can be
      waited for.
    """
    if client.asynchronous:
        raise ClusterError(
            "the active dask client is asynchronous, and this is its event loop: xchunk would "
            "wait for the cluster, and the cluster for this loop. Nothing was done. Call from "
            "another thread, as in 'await asyncio.to_thread(ds.chunking.apply, …)', or use a "
            "Client(...) that is not asynchronous."
        )


def workers_of(client: Client) -> dict[str, Any]:
    """Return what the scheduler says of each worker; wait for the first where there is none.

    How long is waited is ``xchunk.wait-for-workers`` in dask's configuration, a minute by default.

    - raises `ClusterError` if no worker comes.
    """
    found = _known_workers(client)
    if found:
        return found
    import dask.config
    from dask.utils import parse_timedelta

    limit = parse_timedelta(dask.config.get(_WAIT, _PATIENCE))
    warnings.warn(
        f"the cluster has no worker yet, and without one its memory is not known: waiting up to "
        f"{limit:g} seconds for the first",
        XchunkWarning,
        stacklevel=2,
    )
    # an adaptive cluster starts workers when there is a task
    first = client.submit(_here, pure=False)
    try:
        first.result(timeout=limit)
        found = _known_workers(client)
    except TimeoutError:
        found = {}
    finally:
        with suppress(Exception):
            first.cancel()
    if not found:
        raise ClusterError(
            f"the cluster has no worker after {limit:g} seconds, and without one its memory is not "
            "known. Nothing was done. Start workers (client.cluster.scale(2)); wait for them with "
            "client.wait_for_workers(1), or longer here with "
            f"dask.config.set({{'{_WAIT}': '1h'}})."
        )
    return found


def _known_workers(client: Client) -> dict[str, Any]:
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def _here() -> bool:
    return True


@contextmanager
def seceded() -> Iterator[bool]:
    """Leave a worker's thread to other tasks while one of its tasks waits for the cluster.

    Else the tasks that are waited for may wait for this very thread. Yields whether this is a
    task of a worker.
    """
    if "distributed" not in sys.modules:
        yield False
        return
    from distributed import get_worker, rejoin, secede

    try:
        get_worker()
    except ValueError:
        yield False
        return
    left = False
    # a thread that has left already, or is none of the worker's pool, takes no place in it
    with suppress(Exception):
        secede()
        left = True
    try:
        yield True
    finally:
        if left:
            rejoin()


def leave_thread() -> None:
    """Leave a worker's thread to the next task, while this one mostly waits for a store.

    Does nothing elsewhere, and in a thread that has left already.
    """
    if "distributed" not in sys.modules:
        return
    from distributed import get_worker, secede

    with suppress(Exception):
        get_worker()
        secede()


def worker_threads() -> int:
    """Count the threads of the worker that runs this task; 1 where none does."""
    if "distributed" not in sys.modules:
        return 1
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except (ValueError, AttributeError):
        return 1


@dataclass(frozen=True)
class Needs:
    """What a worker must have for the tasks of a stage."""

    task: int
    """Bytes by which one task makes a worker grow at most."""
    threads: int
    """Tasks of the stage that a worker runs at once at most."""
    reserved: int
    """Bytes that a worker holds before any data."""
    fraction: float
    """The part of a worker's limit that is used."""
    waits: bool = False
    """Whether so many run at once also where a worker has fewer threads."""

    def fit(self, limit: int | None, threads: int) -> bool:
        """Return whether the tasks fit a worker with this limit, and so many threads."""
        if not limit:
            return True
        tasks = self.threads if self.waits else min(max(1, threads), self.threads)
        wanted = self.reserved + self.task * tasks
        # a limit is met where the plan was made for this very worker, but for rounding
        return 1.01 * self.fraction * limit >= wanted


@dataclass(frozen=True)
class Declined:
    """What a task returns that was sent to a worker too small for it, and did nothing."""

    worker: str
    """The worker's address."""
    limit: int
    """Bytes that it may hold."""

    def __str__(self) -> str:
        return f"{self.worker} ({format_bytes(self.limit)})"


def declined(needs: Needs | None) -> Declined | None:
    """Return whether the worker that runs this task is too small for it; None where it is not."""
    if needs is None:
        return None
    from distributed import get_worker

    try:
        worker = get_worker()
        limit = int(worker.memory_manager.memory_limit or 0)
        threads = int(worker.state.nthreads)
    except (ValueError, AttributeError):
        return None
    return None if needs.fit(limit, threads) else Declined(str(worker.address), limit)


def fitting_workers(client: Client, needs: Needs) -> tuple[list[str], list[Declined]]:
    """Return the workers that the tasks of a stage fit, and those that are too small for them."""
    fitting: list[str] = []
    small: list[Declined] = []
    infos: Mapping[str, Any] = _known_workers(client)
    for address, info in infos.items():
        limit = int(info.get("memory_limit") or 0)
        if needs.fit(limit, int(info["nthreads"])):
            fitting.append(str(address))
        else:
            small.append(Declined(str(address), limit))
    return fitting, small
