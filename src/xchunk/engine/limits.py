"""What the machine, the batch system and the control group allow this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["control_group_memory", "memory_limit", "resident_bytes", "slurm_memory"]

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

    Parameters
    ----------
    env : mapping
        The environment. SLURM counts in MiB; 0 means all of the node.
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

    Parameters
    ----------
    proc, root : Path
        Where the kernel shows processes and control groups.
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
