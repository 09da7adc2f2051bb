"""Predicting a lazy result: tasks, reads, memory and time, from its graph alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xchunk.core.cost import Rates
from xchunk.core.memory import MemoryBudget
from xchunk.simulate._dask import Graph, SimulationError
from xchunk.simulate.lazy import lazy_graph
from xchunk.simulate.reads import Reads
from xchunk.simulate.replay import on_threads, on_workers
from xchunk.simulate.walk import Walked, walk

__all__ = ["Prediction", "predict", "predict_graph"]

#: What a process holds for each byte on the heap where the allocator keeps what was freed.
#: Measured at 1.0 to 2.7, in the middle 1.5; with MALLOC_TRIM_THRESHOLD_ set it is about 1.
KEPT, KEPT_AT_WORST = 1.5, 2.7


@dataclass(frozen=True)
class Prediction:
    """What running a lazy result would take."""

    tasks: int
    """Tasks that the scheduler runs."""
    reads: Mapping[str, Reads]
    """What is read of each stored array, by name."""
    live: int
    """Bytes of results that are alive at the same time, at the most."""
    heap: int
    """Bytes on the heap at the most: results and the tasks at work; threads of one process."""
    threads: int
    """Tasks that one process runs at once."""
    seconds: float
    """Time on the clock, coarsely: within a factor of 2 nothing is promised."""
    critical: float
    """Seconds of the longest chain of tasks, which no number of workers makes shorter."""
    gathered: int = 0
    """Bytes that gathering the result in one process would add; 0 where they are counted."""
    workers: int = 1
    """Workers of the cluster."""
    worker_heap: int = 0
    """Bytes on the heap of the fullest worker at the most."""
    moved: int = 0
    """Bytes that workers send to each other."""
    block: int = 0
    """Bytes of the largest part that is read at once."""
    profiled: int = 0
    """Tasks that were run on noise to learn what all of them take."""
    assumed: int = 0
    """Kinds of tasks that could not be run, and were taken to copy their inputs."""
    scaled: float = 1.0
    """How many times larger the real graph is than the one that was looked at."""
    notes: tuple[str, ...] = ()
    """What limits the prediction, in words."""

    @property
    def nbytes_read(self) -> int:
        """Bytes decoded, as stored before codecs."""
        return sum(r.nbytes for r in self.reads.values())

    @property
    def decodes(self) -> int:
        """Stored chunks decoded."""
        return sum(r.decodes for r in self.reads.values())

    @property
    def amplification(self) -> float:
        """Bytes decoded / bytes of the chunks that are needed."""
        distinct = sum(r.distinct for r in self.reads.values())
        return self.nbytes_read / distinct if distinct else 1.0

    @property
    def peak(self) -> int:
        """Bytes on the heap of the process, or of the fullest worker of several."""
        return self.worker_heap if self.workers > 1 else self.heap

    @property
    def rss(self) -> tuple[int, int]:
        """Bytes by which the process grows: with malloc trimming, and at worst without it."""
        return self.peak, int(KEPT_AT_WORST * self.peak)

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON types."""
        return {
            "tasks": self.tasks,
            "reads": {name: r.to_dict() for name, r in self.reads.items()},
            "nbytes_read": self.nbytes_read,
            "decodes": self.decodes,
            "amplification": self.amplification,
            "live": self.live,
            "heap": self.heap,
            "rss": list(self.rss),
            "threads": self.threads,
            "workers": self.workers,
            "worker_heap": self.worker_heap,
            "moved": self.moved,
            "seconds": self.seconds,
            "critical": self.critical,
            "gathered": self.gathered,
            "block": self.block,
            "profiled": self.profiled,
            "assumed": self.assumed,
            "scaled": self.scaled,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Effort:
    """How much a prediction may cost."""

    cap: int = 400_000_000
    """Bytes of one task beyond which it is not run on noise."""
    seconds: float = 10.0
    """Seconds of such runs for one graph."""
    tasks: int = 100_000
    """Tasks beyond which a graph is not walked."""


def predict(
    lazy: Any,
    *,
    threads: int | None = None,
    workers: int = 1,
    budget: MemoryBudget | None = None,
    rates: Rates | None = None,
    gather: bool | None = None,
    effort: Effort | None = None,
) -> Prediction:
    """Predict what computing a lazy result would take; it is not computed.

    Parameters
    ----------
    lazy : xarray.Dataset, xarray.DataArray or dask array
        The result. Large ones are taken to be written block by block, as ``to_zarr`` does.
    threads : int, optional
        Tasks that one process runs at once; the budget's, or those of dask's own scheduler.
    workers : int
        Workers of a cluster.
    budget : MemoryBudget, optional
        Gives threads and workers where they are not said.
    rates : Rates, optional
        How fast stores, codecs and the scheduler are.
    gather : bool, optional
        Whether the result is gathered in memory; by default only where it is small.
    effort : Effort, optional
        How much the prediction itself may take.

    Returns
    -------
    Prediction
        Tasks, reads, memory and time.

    Raises
    ------
    SimulationError
        If there is nothing lazy, or dask's graphs are not as they are known to be.
    """
    if threads is None:
        threads, workers = _slots(budget, workers)
    graph, gathered = lazy_graph(lazy, gather=gather)
    return predict_graph(
        graph, threads=threads, workers=workers, rates=rates, gathered=gathered, effort=effort
    )


def predict_graph(
    graph: Graph,
    *,
    threads: int,
    workers: int = 1,
    rates: Rates | None = None,
    gathered: int = 0,
    effort: Effort | None = None,
    stored: Mapping[int, Any] | None = None,
) -> Prediction:
    """Predict a graph that was captured."""
    effort, rates = effort or Effort(), rates or Rates()
    if graph.tasks > effort.tasks:
        raise SimulationError(
            f"the graph has {graph.tasks} tasks, more than the {effort.tasks} that a prediction "
            "walks through. Predict a part of the data, or raise effort.tasks."
        )
    walked = walk(graph, rates, cap=effort.cap, seconds=effort.seconds)
    return predict_walked(walked, threads=threads, workers=workers, rates=rates, gathered=gathered)


def predict_walked(
    walked: Walked, *, threads: int, workers: int = 1, rates: Rates, gathered: int = 0
) -> Prediction:
    """Replay a graph that was walked through, for some threads and workers."""
    local = on_threads(walked.steps, threads, walked.constants)
    tasks = len(walked.steps) - len(walked.constants)
    common = local.seconds
    heap, moved = local.heap, 0
    if workers > 1:
        cluster = on_workers(walked.steps, workers, threads, walked.constants)
        common, heap, moved = cluster.seconds, cluster.heap, cluster.moved
    return Prediction(
        tasks=tasks,
        reads=walked.reads,
        live=local.live,
        heap=local.heap,
        threads=threads,
        seconds=common + tasks * rates.task,
        critical=walked.critical(),
        gathered=gathered,
        workers=workers,
        worker_heap=heap,
        moved=moved,
        block=walked.block,
        profiled=walked.profiled,
        assumed=walked.assumed,
        notes=walked.notes,
    )


def _slots(budget: MemoryBudget | None, workers: int) -> tuple[int, int]:
    if budget is not None:
        return max(1, budget.threads), max(workers, budget.workers)
    from xchunk.engine.budget import local_threads

    return local_threads(), workers
