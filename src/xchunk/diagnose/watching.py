"""Watching the workers of a cluster: a plugin in each of them, and the scheduler's task stream.

All of it is ``distributed``'s public API. What a worker tells of itself beyond that (bytes
spilled, sums that it keeps for its dashboard) is asked for with care, and may be missing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import key_split

from xchunk.core.observed import Action, MemorySample, Record, Span, WorkerSeen
from xchunk.diagnose.sampling import Sampled, Sampler
from xchunk.errors import InvalidChunksError

if TYPE_CHECKING:
    from distributed import Client, Worker

__all__ = ["ClusterWatch"]

_ACTIONS: dict[str, Action] = {
    "compute": "compute",
    "transfer": "transfer",
    "disk-read": "spill",
    "disk-write": "spill",
    "deserialize": "deserialize",
}

#: Of each process, by the name of the observation: the sampler, and its workers.
_WATCHES: dict[str, _Watch] = {}


@dataclass
class _Watch:
    """What watches one process."""

    sampler: Sampler
    """Looks at it."""
    workers: dict[str, Worker]
    """The workers that live in it, by address."""
    before: dict[str, dict[str, float]]
    """What each had counted before."""


def _plugin(token: str) -> Any:
    """Make what each worker registers; it watches the process as long as it is there."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class Observer(WorkerPlugin):
        def __init__(self) -> None:
            self.name = f"xchunk-observe-{token}"

        def setup(self, worker: Worker) -> None:
            _begin(token, worker)

        def teardown(self, worker: Worker) -> None:
            _end(token, worker)

    return Observer()


def _begin(token: str, worker: Worker) -> None:
    """Begin to watch a worker."""
    watch = _WATCHES.get(token)
    if watch is None:
        workers: dict[str, Worker] = {}
        watch = _Watch(Sampler(lambda: _told(workers)), workers, {})
        _WATCHES[token] = watch
        watch.sampler.start()
    watch.workers[worker.address] = worker
    watch.before[worker.address] = _counted(worker)


def _end(token: str, worker: Worker) -> None:
    """Stop; with the last of its workers, the process is no longer looked at."""
    watch = _WATCHES.get(token)
    if watch is None:
        return
    watch.workers.pop(worker.address, None)
    if not watch.workers:
        watch.sampler.stop()
        _WATCHES.pop(token, None)


def _told(workers: Mapping[str, Worker]) -> list[Any]:
    """Address, managed bytes, bytes on disk and whether it is paused, of each worker."""
    out = []
    for address, worker in list(workers.items()):
        managed = getattr(getattr(worker, "state", None), "nbytes", None)
        spilled = getattr(getattr(worker, "data", None), "spilled_total", None)
        on_disk = getattr(spilled, "disk", 0) if spilled is not None else 0
        status = getattr(getattr(worker, "status", None), "name", "")
        out.append((address, managed, int(on_disk), status == "paused"))
    return out


def _counted(worker: Worker) -> dict[str, float]:
    """What a worker has summed up so far of transfers and spills."""
    out = {"spilled": 0.0, "transferred": 0.0}
    for key, value in list(getattr(worker, "digests_total", {}).items()):
        if not isinstance(key, tuple) or len(key) < 2:
            continue
        what, unit = key[-2:]
        if what == "disk-write" and unit == "bytes" and "p2p" not in key:
            out["spilled"] += value
    for sent in list(getattr(worker, "transfer_incoming_log", ())):
        out["transferred"] += sent.get("total", 0)
    return out


def _collect(token: str) -> tuple[Sampled | None, dict[str, dict[str, float]]]:
    """What was seen in this process; runs on each worker."""
    watch = _WATCHES.get(token)
    if watch is None:
        return None, {}
    counts = {}
    for address, worker in watch.workers.items():
        before, now = watch.before[address], _counted(worker)
        counts[address] = {k: max(0.0, now[k] - before.get(k, 0.0)) for k in now}
    return watch.sampler.stop(), counts


class ClusterWatch:
    """Watches all workers of a client's cluster."""

    def __init__(self, client: Client) -> None:
        if client.asynchronous:
            raise InvalidChunksError(
                "observe() needs a client that is not asynchronous: Client(...) in a plain "
                "program or notebook."
            )
        self.client = client
        self.token = uuid.uuid4().hex[:12]
        self.began = 0.0
        self._names: dict[Any, str] = {}

    def start(self) -> None:
        """Begin to watch."""
        # the first call makes the scheduler keep the task stream
        self.client.get_task_stream(start=0, stop=0)
        self.client.register_plugin(_plugin(self.token))
        self._names = {w["name"]: a for a, w in self._workers().items()}
        self.began = time.time()

    def _workers(self) -> dict[str, Any]:
        return dict(self.client.scheduler_info(n_workers=-1)["workers"])

    def stop(self) -> Record:
        """Stop, and return what was seen."""
        ended = time.time()
        try:
            stream = self.client.get_task_stream(start=self.began, stop=ended + 60)
            info = self._workers()
            found = self.client.run(_collect, self.token, on_error="ignore")
        finally:
            self.client.unregister_worker_plugin(f"xchunk-observe-{self.token}")
        seen: dict[str, Sampled] = {}
        counts: dict[str, dict[str, float]] = {}
        for sampled, own in found.values():
            if sampled is not None:
                seen[sampled.process] = sampled
                counts.update(own)
        names = {w["name"]: a for a, w in info.items()}
        changed = sum(n in names and names[n] != a for n, a in self._names.items())
        gone = sum(n not in names for n in self._names)
        late = sum(s.began > self.began + 2 for s in seen.values())
        return self._record(stream, info, seen.values(), counts, max(changed + gone, late))

    def _record(
        self,
        stream: Iterable[Mapping[str, Any]],
        info: Mapping[str, Any],
        seen: Iterable[Sampled],
        counts: Mapping[str, Mapping[str, float]],
        restarts: int,
    ) -> Record:
        workers = {
            a: WorkerSeen(str(w.get("name", a)), w["nthreads"], w.get("memory_limit") or None)
            for a, w in info.items()
        }
        messages = [m for m in stream if m.get("startstops")]
        for m in messages:
            # one that died meanwhile
            workers.setdefault(m["worker"], WorkerSeen(str(m["worker"]), 1))
        numbers = {a: i for i, a in enumerate(workers)}
        lanes: dict[tuple[str, Any], int] = {}
        spans: list[Span] = []
        zero = min((s["start"] for m in messages for s in m["startstops"]), default=self.began)
        zero = max(zero, self.began)
        for m in messages:
            address, name = m["worker"], key_split(m["key"])
            lane = lanes.setdefault((address, m["thread"]), len(lanes))
            for s in m["startstops"]:
                action = _ACTIONS.get(s["action"])
                if action is not None and s["stop"] >= zero:
                    start = max(0.0, s["start"] - zero)
                    spans.append(
                        Span(numbers[address], lane, name, action, start, s["stop"] - zero)
                    )
        states: dict[str, float] = {}
        memory: list[MemorySample] = []
        looks = late = 0
        cpu = starved = crowded = own = 0.0
        for sampled in seen:
            cpu, starved = cpu + sampled.cpu, starved + sampled.starved
            crowded, own = crowded + sampled.crowded, own + sampled.own
            looks, late = looks + sampled.looks, late + sampled.late
            for state, seconds in sampled.states.items():
                states[state] = states.get(state, 0.0) + seconds
            for moment, rss, told in sampled.memory:
                memory += [
                    MemorySample(numbers[a], moment - zero, rss, managed, disk, paused)
                    for a, managed, disk, paused in told
                    if a in numbers
                ]
        memory.sort(key=lambda s: s.time)
        alive = [a for a in workers if a in info or any(m["worker"] == a for m in messages)]
        return Record(
            scheduler="cluster",
            workers=tuple(workers[a] for a in alive),
            spans=tuple(spans),
            memory=tuple(memory),
            states=states,
            tasks=len(messages),
            elapsed=max((s.stop for s in spans), default=0.0),
            cpu=cpu,
            starved=starved,
            crowded=crowded,
            own=own,
            gil=late / looks if looks else 0.0,
            transferred=round(sum(c["transferred"] for c in counts.values())),
            spilled=round(sum(c["spilled"] for c in counts.values())),
            restarts=restarts,
            failed=sum(m.get("status") not in (None, "OK") for m in messages),
        )
