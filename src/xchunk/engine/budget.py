"""Budgets read from the machine, from a cluster, or from what the user says."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dask

from xchunk._typing import ByteSize
from xchunk.core.memory import TARGET, MemoryBudget
from xchunk.core.units import parse_bytes

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["detect_budget", "local_threads", "memory_limit", "resident_bytes"]


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
        The cluster whose smallest worker decides; None: this process and dask's threads.

    Raises
    ------
    InvalidChunksError
        If a size cannot be understood.
    MemoryBudgetError
        If the limit leaves nothing for data.
    """
    threads, workers, limit, reserved, origin = (
        _of_cluster(client) if client is not None else _of_process()
    )
    if max_mem is not None:
        growth = parse_bytes(max_mem, "max_mem")
        return MemoryBudget.of_growth(growth, threads=threads, workers=workers)
    if memory is not None:
        limit, origin = parse_bytes(memory, "memory"), "memory"
    fraction = dask.config.get("distributed.worker.memory.target", TARGET)
    return MemoryBudget.of_memory(
        limit,
        reserved=reserved,
        threads=threads,
        workers=workers,
        fraction=float(fraction) if fraction else TARGET,
        origin=origin,
    )


def _of_cluster(client: Client) -> tuple[int, int, int, int, str]:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        threads, workers_count = 1, 1
        limit = memory_limit()[0]
        return threads, workers_count, limit, 0, "this machine (the cluster has no worker yet)"
    threads = max(w["nthreads"] for w in workers.values())
    limits = [w["memory_limit"] for w in workers.values()]
    # a worker without a limit says 0
    limit = min((n for n in limits if n), default=memory_limit()[0] // len(workers))
    reserved = max(int(w.get("metrics", {}).get("memory", 0)) for w in workers.values())
    origin = f"the smallest of {len(workers)} workers" if len(workers) > 1 else "the worker"
    return threads, len(workers), limit, reserved, origin


def _of_process() -> tuple[int, int, int, int, str]:
    limit, origin = memory_limit()
    return local_threads(), 1, limit, resident_bytes(), origin


def local_threads() -> int:
    """Count the threads that dask's local scheduler would use."""
    from dask.system import CPU_COUNT

    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def memory_limit() -> tuple[int, str]:
    """Return the bytes that this process may have, and where that number comes from."""
    candidates = [(_total_memory(), "this machine's memory")]
    for path, origin in (
        ("/sys/fs/cgroup/memory.max", "the control group's limit"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "the control group's limit"),
    ):
        value = _read_int(path)
        if value is not None:
            candidates.append((value, origin))
    per_node = os.environ.get("SLURM_MEM_PER_NODE", "")
    if per_node.isdigit() and int(per_node) > 0:
        candidates.append((int(per_node) * 2**20, "SLURM_MEM_PER_NODE"))
    available = _available_memory()
    if available:
        candidates.append((available + resident_bytes(), "the memory that is free now"))
    return min(candidates)


def _read_int(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _total_memory() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _available_memory() -> int | None:
    return _proc_field("/proc/meminfo", "MemAvailable")


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now."""
    now = _proc_field("/proc/self/status", "VmRSS")
    if now is not None:
        return now
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def _proc_field(path: str, field: str) -> int | None:
    try:
        with Path(path).open() as lines:
            for line in lines:
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None
