"""Watching what dask runs within a ``with`` block, and saying what it means."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from dask.callbacks import Callback
from dask.utils import key_split

from xchunk.core.cost import MeasuredRates, Rates
from xchunk.core.reports.verdicts import (
    Action,
    Diagnosis,
    Facts,
    MemorySample,
    Record,
    Span,
    WorkerSeen,
    diagnose,
    facts_of,
)
from xchunk.core.reports.workload import Reads
from xchunk.core.shown import Shown
from xchunk.engine.budget import local_threads, memory_limit, resident_bytes
from xchunk.engine.cluster import current_client, refuse_asynchronous
from xchunk.errors import InvalidChunksError, XchunkError

if TYPE_CHECKING:
    from distributed import Client, Worker

#: Pairs of a file and a function, the innermost first. Libraries are known by the folders that they
#: are installed in.
Stack: TypeAlias = Sequence[tuple[str, str]]

#: ``lock``: waits for a lock that lets one thread read at a time; ``store``: waits for a store;
#: ``codec``: decodes or encodes; ``file``: in a file format's library, of which it cannot be told
#: from the stack whether it reads or decodes; ``zarr``: waits for zarr's own threads; ``wait``:
#: waits for something else; ``compute``: all other work; ``idle``: none.
State: TypeAlias = Literal["lock", "store", "codec", "file", "zarr", "wait", "compute", "idle"]

_STORE = (
    "/zarr/storage/", "/zarr/abc/store", "/fsspec/", "/s3fs/", "/gcsfs/", "/adlfs/", "/aiohttp/",
    "/botocore/", "/aiobotocore/", "/urllib3/", "/urllib/", "/requests/", "/http/client.py",
    "/socket.py", "/ssl.py", "/obstore/", "/icechunk/",
)  # fmt: skip
_CODEC = (
    "/zarr/codecs/", "/numcodecs/", "/imagecodecs/", "/gzip.py", "/lzma.py", "/bz2.py", "/blosc",
    "/zfpy",
)  # fmt: skip
_FILE = (
    "/netCDF4/", "/h5netcdf/", "/h5py/", "/scipy/io/", "/cfgrib/", "/eccodes/", "/gribapi/",
    "/rasterio/", "/pydap/", "/backends/netCDF4_.py", "/backends/h5netcdf_.py",
    "/backends/scipy_.py", "/backends/pydap_.py",
)  # fmt: skip
_WAITS = ("/threading.py", "/queue.py", "/concurrent/futures/_base.py")
_LOCKS = ("/backends/locks.py",)

#: Where a task begins on the stack of the thread that runs it.
_TASK = (
    ("/dask/local.py", "execute_task"),
    ("/distributed/worker.py", "_run_task_simple"),
    ("/distributed/worker.py", "apply_function_simple"),
)


def task_part(stack: Stack) -> Stack | None:
    """Return the part of a stack that belongs to a task of dask's; None where there is none."""
    for i, (file, function) in enumerate(stack):
        if any(file.endswith(f) and function == name for f, name in _TASK):
            return stack[:i]
    return None


def state_of(stack: Stack) -> State:
    """Report what a thread is doing.

    - ``stack``: of a task's thread the part that `task_part` returns.
    """
    waits = False
    for file, function in stack:
        if file.endswith(_LOCKS) or (
            file.endswith("/dask/utils.py") and function in ("__enter__", "acquire")
        ):
            return "lock"
        if file.endswith(_WAITS):
            waits = True
            continue
        if file.endswith("/zarr/core/sync.py"):
            return "zarr" if waits else "compute"
        for state, places in _PLACES:
            if any(place in file for place in places):
                return state
        if not waits:
            continue
    return "wait" if waits else "compute"


_PLACES: tuple[tuple[State, tuple[str, ...]], ...] = (
    ("codec", _CODEC),
    ("store", _STORE),
    ("file", _FILE),
)


def resolved(others: Iterable[Stack]) -> State:
    """Report what a thread that waits for zarr really waits for, from the other threads' stacks."""
    codec = store = running = False
    for stack in others:
        if not stack or any(file.endswith(_WAITS) for file, _ in stack[:1]):
            continue
        state = state_of(stack)
        codec |= state == "codec"
        store |= state == "store"
        loop = any(f.endswith("/asyncio/base_events.py") and n == "run_forever" for f, n in stack)
        running |= loop and not stack[0][0].endswith("/selectors.py")
    if codec:
        return "codec"
    return "compute" if running and not store else "store"


#: Seconds between two looks, and the most where looking would take too much.
INTERVAL, _RARELY = 0.05, 0.25

#: Part of the process's CPU time that looking may take. Where the process rarely runs, a part of
#: the processor instead, so that one that waits for a store is looked at all the same.
_OWN, _LEAST_RUN = 0.015, 0.2

#: Looks that are kept for the picture of the memory; beyond, every other one is let go.
_KEPT = 4_000

#: Frames of a stack that are looked at, and seconds by which a late look shows a taken lock.
_DEEPEST, _LATE = 200, 0.002

_THREADS, _MACHINE = Path("/proc/self/task"), Path("/proc/stat")


@dataclass
class Sampled:
    """What was seen of one process; plain values, that they can be sent."""

    process: str
    """Host and number of the process."""
    states: dict[str, float] = field(default_factory=dict)
    """Seconds of tasks' threads by what they did."""
    memory: list[tuple[float, int, list[Any]]] = field(default_factory=list)
    """Time since 1970, bytes of the process, and what the owner of the sampler adds."""
    cpu: float = 0.0
    """Seconds of CPU time."""
    starved: float = 0.0
    """Seconds in which threads waited for a processor."""
    crowded: float = 0.0
    """Those of them in which other processes had it."""
    looks: int = 0
    """Number of looks."""
    late: int = 0
    """Those that had to wait for the interpreter's lock."""
    own: float = 0.0
    """Seconds of CPU time that the looks took."""
    began: float = 0.0
    """Time since 1970 of the first look."""


class Sampler(threading.Thread):
    """Looks at this process until it is stopped.

    - ``more``: called at each look; what it returns is kept beside the process's memory.
    """

    def __init__(self, more: Callable[[], list[Any]] | None = None) -> None:
        super().__init__(name="xchunk-observe", daemon=True)
        self.seen = Sampled(f"{os.uname().nodename}-{os.getpid()}", began=time.time())
        self._more = more
        self._ended = threading.Event()
        self._cpu, self._machine = time.process_time(), _machine()
        self._waits: dict[int, tuple[float, float]] = {}
        self._every = 1

    def stop(self) -> Sampled:
        """Stop, and return what was seen."""
        self._ended.set()
        if self.is_alive():
            self.join(timeout=5)
        self.seen.cpu = time.process_time() - self._cpu
        self._look_at_waits()
        self.seen.starved = sum(last - first for first, last in self._waits.values())
        # threads of one process also wait for each other
        others = _machine() - self._machine - self.seen.cpu
        self.seen.crowded = min(self.seen.starved, max(0.0, others))
        return self.seen

    def run(self) -> None:
        """Look, until it is stopped."""
        me = threading.get_native_id()
        first = last = time.monotonic()
        waited, interval = _waited(me), INTERVAL
        while not self._ended.wait(interval):
            now, before = time.monotonic(), waited
            waited = _waited(me)
            # what is not the system's delay is the interpreter's
            late = now - last - interval - (waited - before)
            self.seen.looks += 1
            self.seen.late += late > _LATE
            self._look(now - last)
            self.seen.own = time.thread_time()
            last = time.monotonic()
            run = max(time.process_time() - self._cpu, _LEAST_RUN * (last - first))
            too_much = self.seen.own > _OWN * run
            interval = min(_RARELY, interval * 1.5) if too_much else max(INTERVAL, interval / 1.5)

    def _look(self, seconds: float) -> None:
        stacks = self._stacks()
        inside: dict[int, Stack] = {}
        others: list[Stack] = []
        for ident, stack in stacks.items():
            part = task_part(stack)
            if part is None:
                others.append(stack)
            else:
                inside[ident] = part
        native = {t.ident: t.native_id for t in threading.enumerate()}
        states = self.seen.states
        for ident, stack in inside.items():
            state = _doing(stack, others, native.get(ident))
            states[state] = states.get(state, 0.0) + seconds
        if self.seen.looks % 10 == 1:
            for tid in native.values():
                if tid is not None and tid not in self._waits and tid != self.native_id:
                    self._waits[tid] = (now := _waited(tid), now)
        if self.seen.looks % self._every == 0:
            more = self._more() if self._more is not None else []
            self.seen.memory.append((time.time(), resident_bytes(), more))
        if len(self.seen.memory) > _KEPT:
            del self.seen.memory[::2]
            self._every *= 2
        if self.seen.looks % 10 == 0:
            self._look_at_waits()

    def _stacks(self) -> dict[int, Stack]:
        """The stacks of all threads but this one, the innermost function first."""
        out: dict[int, Stack] = {}
        me = threading.get_ident()
        for ident, top in sys._current_frames().items():  # noqa: SLF001 - documented, for this use
            if ident == me:
                continue
            stack: list[tuple[str, str]] = []
            frame: Any = top
            while frame is not None and len(stack) < _DEEPEST:
                code = frame.f_code
                stack.append((code.co_filename, code.co_name))
                frame = frame.f_back
            out[ident] = stack
        return out

    def _look_at_waits(self) -> None:
        for tid, (first, last) in self._waits.items():
            self._waits[tid] = (first, max(last, _waited(tid)))


def _doing(stack: Stack, others: Sequence[Stack], tid: int | None) -> str:
    """What a task's thread does, also by what the system says of it."""
    state = state_of(stack)
    if state == "zarr":
        return resolved(others)
    if state == "file":
        return "file-codec" if _is_running(tid) else "file-store"
    return "blocked" if state == "compute" and not _is_running(tid) else state


def _waited(tid: int) -> float:
    """Seconds that a thread waited for a processor; 0 where the system does not tell."""
    try:
        return int((_THREADS / str(tid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _machine() -> float:
    """CPU-seconds of all processes since the start, stolen ones too; 0 where they are not told."""
    try:
        told = _MACHINE.read_text().partition("\n")[0].split()[1:9]
        user, nice, system, _idle, _io, irq, softirq, stolen = map(int, told)
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def _is_running(tid: int | None) -> bool:
    """Whether a thread runs or could; taken to be so where the system does not tell."""
    try:
        text = (_THREADS / str(tid) / "stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "R"


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
        refuse_asynchronous(client)
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


#: Spans that ``to_dict`` writes out, the longest first.
_WRITTEN = 5_000

#: What numbers of processes stay below.
_PROCESSES = 2**22 + 1


#: Tasks of which it is counted what they read, which takes a tenth of a millisecond each.
_COUNTED = 10_000


class _Tasks(Callback):
    """Notes when the tasks of a local scheduler begin and end."""

    def __init__(self) -> None:
        self.begun: dict[Any, float] = {}
        self.ended: list[tuple[Any, float, float, Any]] = []
        self.cpu: tuple[float, float] | None = None
        self.graphs: list[dict[Any, Any]] = []
        self.left = _COUNTED

    def _start(self, dsk: Any) -> None:
        if len(dsk) <= self.left:
            self.left -= len(dsk)
            self.graphs.append(dict(dsk))

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


class Observation(Shown, view="observation"):
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
        reads = _reads(self._tasks.graphs)
        self._tasks.graphs.clear()
        self._record = replace(
            record,
            decoded=sum(r.nbytes for r in reads),
            distinct=sum(r.distinct for r in reads),
            codecs=max(reads, key=lambda r: r.nbytes).codecs if reads else (),
        )

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


def _reads(graphs: Iterable[Mapping[Any, Any]]) -> list[Reads]:
    """Count the bytes of stored chunks that tasks asked for: each as often as they did, and once.

    What they read is known from the graphs alone; of those that cannot be looked at, nothing is.
    """
    out: list[Reads] = []
    for graph in graphs:
        try:
            from xchunk.simulate.dask_adapter import graph_of
            from xchunk.simulate.predict import walk

            # no task is tried out
            walked = walk(graph_of(graph), Rates(), cap=0, seconds=0)
        except (XchunkError, RuntimeError, ValueError, TypeError, KeyError):
            continue
        out += walked.reads.values()
    return out


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


def observe(*, rates: Rates | None = None, client: Client | None = None) -> Observation:
    """Watch what dask runs within a ``with`` block, to explain it afterwards.

    The active ``distributed.Client`` is watched, or dask's local schedulers where there is none:
    what ran when and on which thread, transfers, spills and idle time, the memory of each
    worker, and what the threads waited for. It takes less than 3 % of the CPU time.

    Parameters
    ----------
    rates : Rates, optional
        What ``ds.chunking.probe`` measured; it sharpens the explanation.
    client : distributed.Client, optional
        The cluster that is watched, where it is not the active one.

    Returns
    -------
    Observation
        To be used as ``with xchunk.observe() as seen: ...``. Afterwards ``seen.explain()`` says
        what it means and what to change; ``seen.save("seen.html")`` keeps it.

    Raises
    ------
    InvalidChunksError
        If the client is an asynchronous one, or the rates are none.

    Examples
    --------
    >>> with xchunk.observe() as seen:  # doctest: +SKIP
    ...     ds.t2m.mean("time").compute()
    >>> print(seen.explain())  # doctest: +SKIP
    """
    return Observation(rates=rates, client=client)
