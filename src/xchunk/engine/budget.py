"""Budgets: from the machine, batch system, control group or cluster, or as the user says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xchunk.core.memory import TARGET, TERMINATE, MemoryBudget
from xchunk.core.types import ByteSize
from xchunk.core.units import format_bytes, parse_bytes
from xchunk.engine.cluster import Needs, refuse_asynchronous, workers_of
from xchunk.engine.heaps import give_back
from xchunk.errors import MemoryBudgetError

if TYPE_CHECKING:
    from distributed import Client

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

#: From here on, a limit of version 1 means that there is none (2**63 in whole pages).
_NO_LIMIT = 2**60

_GROUP = "the control group's limit"


def memory_limit() -> tuple[int, str]:
    """Return the bytes that this process may have, and where that number comes from."""
    candidates = [(_total_memory(), "this machine's memory")]
    candidates += control_group_memory()
    candidates += slurm_memory(os.environ)
    available = _available_memory()
    if available:
        candidates.append((available + resident_bytes(), "the memory that is free now"))
    return min(candidates)


def slurm_memory(env: Mapping[str, str]) -> list[tuple[int, str]]:
    """Read the memory that SLURM gives a job on this node.

    - ``env``: the environment. SLURM counts in MiB; 0 means all of the node.
    """
    out = []
    per_node = _positive(env.get("SLURM_MEM_PER_NODE"))
    if per_node:
        out.append((per_node * 2**20, "SLURM_MEM_PER_NODE"))
    per_cpu = _positive(env.get("SLURM_MEM_PER_CPU"))
    cpus = _positive(env.get("SLURM_CPUS_ON_NODE")) or _positive(env.get("SLURM_CPUS_PER_TASK"))
    if per_cpu:
        out.append((per_cpu * max(1, cpus) * 2**20, "SLURM_MEM_PER_CPU"))
    return out


def control_group_memory(proc: Path = _PROC, root: Path = _CGROUPS) -> list[tuple[int, str]]:
    """Read the limits of this process's control group and of all groups around it.

    Versions 1 and 2 are read. Besides each limit there is what is left of it, where the
    group's other processes hold memory too; pages of files that could be dropped do not count.

    - ``proc``, ``root``: where the kernel shows processes and control groups.
    """
    out = []
    for group in _groups(proc, root):
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.high", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = _number(group / limit_name)
            if limit is None or not 0 < limit < _NO_LIMIT:
                continue
            out.append((limit, _GROUP))
            used = _number(group / usage_name)
            if used is not None:
                others = used - _droppable(group / "memory.stat") - resident_bytes()
                if 0 < others < limit:
                    out.append((limit - others, "what others leave of " + _GROUP))
    return out


def _groups(proc: Path, root: Path) -> Iterator[Path]:
    """The folders of this process's groups, the innermost first; their roots last."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    seen = set()
    for base, controllers in ((root, ""), (root / "memory", "memory")):
        for line in lines:
            _, _, rest = line.partition(":")
            named, _, path = rest.partition(":")
            if controllers not in named.split(","):
                continue
            inner = base / path.strip().strip("/")
            # in a container the path is the host's, of which only the last part may be seen
            for folder in (inner, *inner.parents):
                if base in (folder, *folder.parents) and folder not in seen and folder != base:
                    seen.add(folder)
                    yield folder
        if base not in seen:
            seen.add(base)
            yield base


def _droppable(stat: Path) -> int:
    """Bytes of pages of files that nobody has used for a while."""
    try:
        for line in stat.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    except (OSError, ValueError):
        return 0
    return 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _positive(text: str | None) -> int:
    """Read a number of MiB or CPUs, such as ``4096``, ``4096M`` or ``16(x2)``; 0 if none."""
    digits = ""
    for c in (text or "").strip():
        if not c.isdigit():
            break
        digits += c
    return int(digits) if digits else 0


def _total_memory() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _available_memory() -> int | None:
    return _proc_field(_PROC / "meminfo", "MemAvailable")


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now."""
    now = _proc_field(_PROC / "self" / "status", "VmRSS")
    if now is not None:
        return now
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def _proc_field(path: Path, field: str) -> int | None:
    try:
        with path.open() as lines:
            for line in lines:
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


_FRACTION = "distributed.worker.memory.target"
#: Where a budget comes from whose limit the user said.
_GIVEN = "memory"


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
    looking: bool = False,
) -> MemoryBudget:
    """Find the budget of the tasks of one worker.

    - ``memory``: the limit of one worker, of which dask's target fraction is used.
    - ``max_mem``: the bytes by which one worker may grow, used as given; overrides ``memory``.
    - ``client``: the cluster, whose worker with the least memory for a task decides; None: this
      process and dask's threads.
    - ``looking``: whether nothing will be held, so that what is held already is no reason to
      refuse.
    - raises `InvalidChunksError` if a size cannot be understood.
    - raises `MemoryBudgetError` if the limit leaves nothing for data.
    - raises `ClusterError` if the cluster has no worker, and none comes; or its client is
      asynchronous.
    """
    limit = None if memory is None else parse_bytes(memory, "memory")
    growth = None if max_mem is None else parse_bytes(max_mem, "max_mem")
    infos = None
    if client is not None:
        refuse_asynchronous(client)
        infos = workers_of(client)
    try:
        found = _of(client, infos, limit, growth, counted=True)
    except MemoryBudgetError:
        if not looking:
            raise
        found = _of(client, infos, limit, growth, counted=False)
        found = replace(found, origin=f"{found.origin}, without what is held now")
    return replace(found, running=True)


def _of(
    client: Client | None,
    infos: Mapping[str, Any] | None,
    limit: int | None,
    growth: int | None,
    *,
    counted: bool,
) -> MemoryBudget:
    if client is None or infos is None:
        return _of_process(limit, growth, counted=counted)
    return _of_cluster(client, infos, limit, growth, counted=counted)


def needs_of(budget: MemoryBudget, task: int, threads: int) -> Needs | None:
    """Report what a worker must have for tasks of so many bytes; None where the user said it."""
    if budget.memory is None or budget.origin == _GIVEN:
        return None
    waits = threads > budget.threads
    return Needs(task, max(1, threads), budget.reserved, budget.fraction, waits)


def _of_process(limit: int | None, growth: int | None, *, counted: bool) -> MemoryBudget:
    threads = local_threads()
    if growth is not None:
        return MemoryBudget.of_growth(growth, threads=threads)
    # what the allocator keeps free is there for the data
    give_back()
    detected, origin = memory_limit()
    return MemoryBudget.of_memory(
        detected if limit is None else limit,
        reserved=resident_bytes() if counted else 0,
        threads=threads,
        fraction=_own_fraction(),
        origin=origin if limit is None else _GIVEN,
    )


def _of_cluster(
    client: Client,
    infos: Mapping[str, Any],
    memory: int | None,
    max_mem: int | None,
    *,
    counted: bool,
) -> MemoryBudget:
    threads = sum(max(1, int(w["nthreads"])) for w in infos.values())
    if max_mem is not None:
        # it holds for each worker, so that the one with the most threads decides
        most = max(max(1, int(w["nthreads"])) for w in infos.values())
        if counted:
            _refuse_beyond_limits(infos, max_mem)
        return MemoryBudget.of_growth(max_mem, threads=most, workers=max(1, threads // most))
    workers = _workers(client, infos, memory)
    if not counted:
        workers = [replace(w, held=0) for w in workers]
    # What fits a task of this worker fits one of any other, whatever their threads are.
    least = min(workers, key=lambda w: w.growth / w.threads)
    origin = _GIVEN if memory is not None else _which(least, workers)
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


def _refuse_beyond_limits(infos: Mapping[str, Any], max_mem: int) -> None:
    """Refuse a growth at which dask ends a worker; a worker without a limit says 0."""
    limits = [int(w.get("memory_limit") or 0) for w in infos.values()]
    least = min((limit for limit in limits if limit), default=None)
    if least is None or max_mem <= TERMINATE * least:
        return
    raise MemoryBudgetError(
        f"max_mem={format_bytes(max_mem)} is more than a worker has: its limit is "
        f"{format_bytes(least)}, and dask ends it at {TERMINATE:.0%} of that. Nothing was written. "
        f"Leave max_mem out, so that {TARGET:.0%} of the limit is used, or start workers with more "
        "memory.",
        needed=max_mem,
        allowed=int(TERMINATE * least),
        smallest=1,
    )


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
        # what the scheduler knows is of a while ago, and includes what is kept free
        told = int(metrics.get("memory", 0))
        fraction, held = answers.get(str(address), (TARGET, told))
        out.append(
            _Worker(
                name=str(address),
                threads=max(1, int(info["nthreads"])),
                # a worker without a limit says 0
                limit=memory if memory is not None else int(info.get("memory_limit") or share),
                held=held,
                fraction=fraction or TARGET,
            )
        )
    return out


def _answers(client: Client) -> dict[str, tuple[float, int]]:
    """Ask each worker for the part of its limit that it uses, and for what it holds already.

    What does not answer is left out.
    """
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
    import xchunk.engine.graph  # noqa: F401

    give_back()
    manager = getattr(dask_worker, "memory_manager", None)
    fraction = float(getattr(manager, "memory_target_fraction", None) or _own_fraction())
    return fraction, resident_bytes()


def _own_fraction() -> float:
    """The part of the limit that dask is configured to use here; False means never to spill."""
    import dask.config

    return float(dask.config.get(_FRACTION, TARGET) or TARGET)


def local_threads() -> int:
    """Count the threads that dask's local scheduler would use."""
    import dask.config
    from dask.system import CPU_COUNT

    return int(dask.config.get("num_workers", None) or CPU_COUNT)
