"""Budgets read from the machine, from a cluster, or from what the user says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask

from xchunk._typing import ByteSize
from xchunk.core.memory import TARGET, MemoryBudget
from xchunk.core.units import format_bytes, parse_bytes
from xchunk.engine.limits import memory_limit, resident_bytes
from xchunk.errors import MemoryBudgetError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["detect_budget", "local_threads", "memory_limit", "resident_bytes"]

_FRACTION = "distributed.worker.memory.target"


@dataclass(frozen=True)
class _Worker:
    """One worker of a cluster, as its scheduler and it itself describe it."""

    name: str
    """Its address."""
    threads: int
    """Tasks that it runs at once."""
    limit: int
    """Bytes that it may hold."""
    held: int
    """Bytes that it holds already."""
    fraction: float
    """The part of the limit from which it spills to its target."""

    @property
    def growth(self) -> int:
        """Bytes by which it may grow."""
        return int(self.fraction * self.limit) - self.held


def detect_budget(
    memory: ByteSize | None = None,
    max_mem: ByteSize | None = None,
    *,
    client: Client | None = None,
) -> MemoryBudget:
    """Find the budget of the tasks of one worker.

    Parameters
    ----------
    memory : int or str, optional
        The limit of one worker, of which dask's target fraction is used.
    max_mem : int or str, optional
        The bytes by which one worker may grow, taken as they are; overrides ``memory``.
    client : distributed.Client, optional
        The cluster, whose worker with the least memory for a task decides; None: this
        process and dask's threads.

    Raises
    ------
    InvalidChunksError
        If a size cannot be understood.
    MemoryBudgetError
        If the limit leaves nothing for data.
    """
    limit = None if memory is None else parse_bytes(memory, "memory")
    growth = None if max_mem is None else parse_bytes(max_mem, "max_mem")
    infos = {} if client is None else dict(client.scheduler_info(n_workers=-1)["workers"])
    if client is not None and infos:
        found = _of_cluster(client, infos, limit, growth)
    else:
        found = _of_process(client, limit, growth)
    return replace(found, running=True)


def _of_process(client: Client | None, limit: int | None, growth: int | None) -> MemoryBudget:
    threads = 1 if client is not None else local_threads()
    if growth is not None:
        return MemoryBudget.of_growth(growth, threads=threads)
    detected, origin = memory_limit()
    if client is not None:
        origin += " (the cluster has no worker yet)"
    return MemoryBudget.of_memory(
        detected if limit is None else limit,
        reserved=resident_bytes(),
        threads=threads,
        fraction=_own_fraction(),
        origin=origin if limit is None else "memory",
    )


def _of_cluster(
    client: Client, infos: Mapping[str, Any], memory: int | None, max_mem: int | None
) -> MemoryBudget:
    threads = sum(max(1, int(w["nthreads"])) for w in infos.values())
    if max_mem is not None:
        # it holds for each worker, so that the one with the most threads decides
        most = max(max(1, int(w["nthreads"])) for w in infos.values())
        return MemoryBudget.of_growth(max_mem, threads=most, workers=max(1, threads // most))
    workers = _workers(client, infos, memory)
    # What fits a task of this worker fits one of any other, whatever their threads are.
    least = min(workers, key=lambda w: w.growth / w.threads)
    origin = "memory" if memory is not None else _which(least, workers)
    try:
        return MemoryBudget.of_memory(
            least.limit,
            reserved=least.held,
            threads=least.threads,
            workers=max(1, threads // least.threads),
            fraction=least.fraction,
            origin=origin,
        )
    except MemoryBudgetError as error:
        raise MemoryBudgetError(
            f"worker {least.name} has no memory left for data: it holds "
            f"{format_bytes(least.held)} already, and {least.fraction:.0%} of its limit of "
            f"{format_bytes(least.limit)} is {format_bytes(least.fraction * least.limit)}. "
            "Release what it holds (del the results, client.restart()), give it more memory, "
            "or say with max_mem by how much a worker may grow.",
            needed=error.needed,
            allowed=error.allowed,
            smallest=error.smallest,
        ) from error


def _which(least: _Worker, workers: list[_Worker]) -> str:
    if len(workers) == 1:
        return "the worker"
    alike = {(w.threads, w.limit) for w in workers}
    of = f"the smallest of {len(workers)} workers"
    return of if len(alike) == 1 else f"{of} of a mixed cluster, {least.name}"


def _workers(client: Client, infos: Mapping[str, Any], memory: int | None) -> list[_Worker]:
    answers = _answers(client)
    share = memory_limit()[0] // len(infos)
    out = []
    for address, info in infos.items():
        metrics = info.get("metrics") or {}
        fraction, held = answers.get(str(address), (TARGET, 0))
        out.append(
            _Worker(
                name=str(address),
                threads=max(1, int(info["nthreads"])),
                # a worker without a limit says 0
                limit=memory if memory is not None else int(info.get("memory_limit") or share),
                held=max(held, int(metrics.get("memory", 0))),
                fraction=fraction or TARGET,
            )
        )
    return out


def _answers(client: Client) -> dict[str, tuple[float, int]]:
    """Ask each worker for the part of its limit that it uses, and for what it holds already.

    What does not answer is left out.
    """
    if client.asynchronous:
        # nothing can be waited for here; the workers have our configuration, as a rule
        addresses = client.scheduler_info(n_workers=-1)["workers"]
        return {str(a): (_own_fraction(), 0) for a in addresses}
    try:
        answers = client.run(_answer, on_error="ignore")
    except Exception:  # noqa: BLE001 - a worker that is going away is no reason to fail
        return {}
    return {str(k): v for k, v in answers.items() if isinstance(v, tuple)}


def _answer(dask_worker: Any) -> tuple[float, int]:
    """Tell, on a worker, the part of its limit that it uses, and what it holds before any data.

    What it was started with or configured to, and the libraries that it will need: the first
    task would load them otherwise, and they count against the limit as the data do.
    """
    import xchunk.engine.run  # noqa: F401

    manager = getattr(dask_worker, "memory_manager", None)
    fraction = float(getattr(manager, "memory_target_fraction", None) or _own_fraction())
    return fraction, resident_bytes()


def _own_fraction() -> float:
    """The part of the limit that dask is configured to use here; False means never to spill."""
    return float(dask.config.get(_FRACTION, TARGET) or TARGET)


def local_threads() -> int:
    """Count the threads that dask's local scheduler would use."""
    from dask.system import CPU_COUNT

    return int(dask.config.get("num_workers", None) or CPU_COUNT)
