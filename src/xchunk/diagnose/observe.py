"""Watching what dask runs within a ``with`` block, and saying what it means."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from dask.callbacks import Callback
from dask.utils import key_split

from xchunk.core.cost import Rates
from xchunk.core.diagnosis import Diagnosis
from xchunk.core.measured import MeasuredRates
from xchunk.core.observed import Facts, MemorySample, Record, Span, WorkerSeen, facts_of
from xchunk.core.symptoms import diagnose
from xchunk.diagnose.sampling import Sampled, Sampler
from xchunk.engine.budget import local_threads
from xchunk.engine.limits import memory_limit
from xchunk.engine.run import current_client
from xchunk.errors import InvalidChunksError

if TYPE_CHECKING:
    from distributed import Client

    from xchunk.diagnose.watching import ClusterWatch

__all__ = ["Observation"]

#: Spans that ``to_dict`` writes out, the longest first.
_WRITTEN = 5_000

#: What numbers of processes stay below.
_PROCESSES = 2**22 + 1


class _Tasks(Callback):
    """Notes when the tasks of a local scheduler begin and end."""

    def __init__(self) -> None:
        self.begun: dict[Any, float] = {}
        self.ended: list[tuple[Any, float, float, Any]] = []
        self.cpu: tuple[float, float] | None = None

    def _pretask(self, key: Any, dsk: Any, state: Any) -> None:  # noqa: ARG002
        if self.cpu is None:
            now = time.process_time()
            self.cpu = (now, now)
        self.begun[key] = time.time()

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:  # noqa: ARG002
        self.ended.append((key, self.begun.pop(key, 0.0), time.time(), worker_id))

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:  # noqa: ARG002
        if self.cpu is not None:
            self.cpu = (self.cpu[0], time.process_time())


class Observation:
    """What dask ran within the block, as its dashboard would show it; and what it means.

    Made by `xchunk.observe`. While the block runs it holds nothing; afterwards it shows
    itself, explains itself and can be saved.
    """

    def __init__(self, *, rates: Rates | None = None, client: Client | None = None) -> None:
        if rates is not None and not isinstance(rates, Rates):
            raise InvalidChunksError(
                f"rates={rates!r} are no rates. Give what ds.chunking.probe() returns."
            )
        self.rates = rates if isinstance(rates, MeasuredRates) else None
        self._client = client
        self._watch: ClusterWatch | None = None
        self._sampler: Sampler | None = None
        self._tasks = _Tasks()
        self._record: Record | None = None

    def __enter__(self) -> Self:
        """Begin to watch."""
        client = self._client or current_client()
        self._record = None
        if client is not None:
            from xchunk.diagnose.watching import ClusterWatch

            self._watch = ClusterWatch(client)
            self._watch.start()
        else:
            self._sampler = Sampler()
            self._sampler.start()
        self._tasks = _Tasks()
        self._tasks.register()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; an error within the block goes on."""
        self._tasks.unregister()
        sampled = self._sampler.stop() if self._sampler is not None else None
        self._sampler = None
        record = None
        if self._watch is not None:
            watch, self._watch = self._watch, None
            try:
                record = watch.stop()
            except (OSError, TimeoutError, RuntimeError):
                # the cluster is gone; an error of the block's own tells more
                if kind is None:
                    raise
        if record is None or (not record.tasks and self._tasks.ended):
            record = _local(self._tasks, sampled)
        self._record = record

    @property
    def ended(self) -> bool:
        """Whether the block has ended, so that there is something to tell."""
        return self._record is not None

    @property
    def record(self) -> Record:
        """All that was seen.

        Raises
        ------
        InvalidChunksError
            If the block has not ended yet.
        """
        if self._record is None:
            raise InvalidChunksError(
                "nothing was seen yet: the block has not ended. Write: with xchunk.observe() as "
                "seen: result.compute(); and then seen.explain()."
            )
        return self._record

    @property
    def facts(self) -> Facts:
        """The numbers that the judgement is made of."""
        return facts_of(self.record, self.rates)

    def explain(self) -> Diagnosis:
        """Say in words what was seen, what it means and what to change.

        Returns
        -------
        Diagnosis
            The symptoms, the gravest first, each with a remedy as code; ``str()`` is the text.
        """
        return diagnose(self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Return what was seen and what it means, as JSON types; of tasks the longest 5,000."""
        r = self.record
        spans = sorted(r.spans, key=lambda s: -s.seconds)[:_WRITTEN]
        return {
            "scheduler": r.scheduler,
            "tasks": r.tasks,
            "elapsed": r.elapsed,
            "own_cpu": r.own,
            "workers": [
                {"name": w.name, "threads": w.threads, "limit": w.limit} for w in r.workers
            ],
            "facts": self.facts.to_dict(),
            "diagnosis": self.explain().to_dict(),
            "spans": [
                [s.worker, s.lane, s.name, s.action, round(s.start, 4), round(s.stop, 4)]
                for s in sorted(spans, key=lambda s: s.start)
            ],
            "memory": [
                [m.worker, round(m.time, 3), m.rss, m.managed, m.spilled, m.paused]
                for m in r.memory
            ],
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return what ``to_dict`` does as JSON text.

        Parameters
        ----------
        indent : int, optional
            Spaces by which levels are indented.
        """
        import json

        return json.dumps(self.to_dict(), indent=indent)


def _local(tasks: _Tasks, sampled: Sampled | None) -> Record:
    """What a local scheduler ran."""
    ended = [t for t in tasks.ended if t[1]]
    zero = min((t[1] for t in ended), default=0.0)
    lanes: dict[Any, int] = {}
    free: dict[int, float] = {}
    spans = []
    for key, start, stop, worker in ended:
        lane = lanes.setdefault(worker, len(lanes))
        # a task is handed over before a thread is free to begin it
        begun = max(start, free.get(lane, 0.0))
        free[lane] = stop
        spans.append(Span(0, lane, key_split(key), "compute", begun - zero, stop - zero))
    kind = _kind(lanes)
    limit, _ = memory_limit()
    threads = 1 if kind == "synchronous" else _threads(len(lanes), len(ended))
    memory = [MemorySample(0, t - zero, rss) for t, rss, _ in (sampled.memory if sampled else ())]
    seen = sampled or Sampled("")
    return Record(
        scheduler=kind,
        workers=(WorkerSeen("this process", threads, limit),),
        spans=tuple(spans),
        memory=tuple(memory),
        states=dict(seen.states),
        tasks=len(ended),
        elapsed=max((s.stop for s in spans), default=0.0),
        # what building the graph took is not the tasks'
        cpu=seen.cpu if tasks.cpu is None else tasks.cpu[1] - tasks.cpu[0],
        starved=seen.starved,
        crowded=seen.crowded,
        own=seen.own,
        gil=seen.late / seen.looks if seen.looks else 0.0,
    )


def _kind(ids: Collection[Any]) -> Literal["threads", "processes", "synchronous", "none"]:
    """Which local scheduler it was, from what it calls its workers; of one, nothing."""
    if not ids:
        return "none"
    if set(ids) <= {None, threading.main_thread().ident}:
        return "synchronous"
    # threads are called by numbers far above those that processes have
    return "processes" if all(isinstance(i, int) and i < _PROCESSES for i in ids) else "threads"


def _threads(lanes: int, tasks: int) -> int:
    """How many tasks ran at once: those that did, or could have where there were few tasks."""
    could = local_threads()
    return lanes if lanes > could or tasks >= 4 * could else could
