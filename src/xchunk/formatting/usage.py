"""How full memory is while something runs: this process, or the fullest worker of a cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xchunk.core.memory import MemoryBudget
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
        Where the limit of a worker is known, all that a process holds is set against it; else
        what it grows by from now on is set against ``max_mem``.
    """

    def __init__(self, budget: MemoryBudget):
        self._budget = budget
        self._client = _reachable(current_client())
        self._before = self._workers() if self._client is not None else {"": resident_bytes()}
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
        b = self._budget
        found = {"": resident_bytes()} if self._client is None else self._workers()
        if not found:
            return None
        who = "memory" if self._client is None else "fullest worker"
        if b.memory is not None:
            return Held(who, max(found.values()), b.memory)
        # a worker that came later began with what the others began with
        began = min(self._before.values(), default=0)
        grown = max(n - self._before.get(name, began) for name, n in found.items())
        return Held(who, max(0, grown), b.max_mem)

    def _workers(self) -> dict[str, int]:
        if self._client is None:
            return {}
        try:
            infos: dict[str, Any] = dict(self._client.scheduler_info(n_workers=-1)["workers"])
        except Exception:  # noqa: BLE001 - a scheduler that is busy or gone stops no rechunk
            return {}
        metrics = {str(name): info.get("metrics") or {} for name, info in infos.items()}
        return {name: int(m["memory"]) for name, m in metrics.items() if "memory" in m}


def _reachable(client: Client | None) -> Client | None:
    """A client that can be asked from here: one within an event loop cannot be waited for."""
    return None if client is None or client.asynchronous else client
