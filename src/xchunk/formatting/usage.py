"""How full memory is while something runs: this process, or the fullest worker of a cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xchunk.core.memory import PAUSE, MemoryBudget
from xchunk.core.units import format_bytes
from xchunk.engine.budget import resident_bytes
from xchunk.engine.run import current_client

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Gauge", "Held"]

#: Seconds between two looks at this process, and at the workers of a cluster.
_LOCAL, _CLUSTER = 0.5, 2.0


@dataclass(frozen=True)
class Held:
    """Memory that is in use, against what may be used."""

    who: str
    """Whose memory it is, in words."""
    nbytes: int
    """Bytes that are in use."""
    of: int
    """Bytes that may be: the limit of a worker, or what it may grow by."""
    is_limit: bool = True
    """Whether it is a limit, near which dask pauses and terminates workers."""

    @property
    def is_much(self) -> bool:
        """Whether it is so much that something will happen, or more than was promised."""
        return self.part > (PAUSE if self.is_limit else 1.0)

    @property
    def part(self) -> float:
        """The part of it that is in use."""
        return self.nbytes / max(1, self.of)

    def __str__(self) -> str:
        return f"{format_bytes(self.nbytes)} of {format_bytes(self.of)}"


class Gauge:
    """Looks at the memory from time to time; what is asked in between is answered from memory.

    Parameters
    ----------
    budget : MemoryBudget
        Where the limit of a worker is known, or its workers have limits of their own, all that
        a process holds is set against it; else what it grows by from now on, against ``max_mem``.
    """

    def __init__(self, budget: MemoryBudget):
        self._budget = budget
        self._client = _reachable(current_client())
        self._before = {name: n for name, (n, _) in self._found().items()}
        self._looked = -1e9
        self._last: Held | None = None
        self.most: Held | None = None

    def look(self) -> Held | None:
        """Tell how full memory is; None where it cannot be told."""
        now = time.monotonic()
        if now - self._looked >= (_LOCAL if self._client is None else _CLUSTER):
            self._last = self._look()
            self._looked = time.monotonic()
            if self._last is not None and (self.most is None or self._last.part > self.most.part):
                self.most = self._last
        return self._last

    def _look(self) -> Held | None:
        found = self._found()
        if not found:
            return None
        # what a worker grew by since it began is no use here: it imports its libraries first
        limits = {n for _, n in found.values()}
        who = "memory" if self._client is None else "fullest worker"
        if self._budget.memory is not None:
            return Held(who, max(n for n, _ in found.values()), self._budget.memory)
        if all(limits):
            return max((Held(who, n, limit) for n, limit in found.values()), key=lambda h: h.part)
        began = min(self._before.values(), default=0)
        grown = max(n - self._before.get(name, began) for name, (n, _) in found.items())
        return Held(who, max(0, grown), self._budget.max_mem, is_limit=False)

    def _found(self) -> dict[str, tuple[int, int]]:
        """Bytes that each process holds, and its limit; 0 where it has none."""
        if self._client is None:
            return {"": (resident_bytes(), 0)}
        try:
            infos: dict[str, Any] = dict(self._client.scheduler_info(n_workers=-1)["workers"])
        except Exception:  # noqa: BLE001 - a scheduler that is busy or gone stops no rechunk
            return {}
        return {
            str(name): (int(info["metrics"]["memory"]), int(info.get("memory_limit") or 0))
            for name, info in infos.items()
            if "memory" in (info.get("metrics") or {})
        }


def _reachable(client: Client | None) -> Client | None:
    """A client that can be asked from here: one within an event loop cannot be waited for."""
    return None if client is None or client.asynchronous else client
