"""Predicting a lazy result: tasks, reads, memory and time, from its graph alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xchunk.core.cost import Rates
from xchunk.core.memory import PROCESS_OVERHEAD, TASK_OVERHEAD, MemoryBudget
from xchunk.core.workload import Prediction
from xchunk.simulate._dask import Graph, SimulationError
from xchunk.simulate.cluster import on_workers
from xchunk.simulate.lazy import lazy_graph
from xchunk.simulate.replay import on_racing_threads
from xchunk.simulate.walk import Walked, walk

__all__ = ["Effort", "Prediction", "predict", "predict_graph", "predict_walked"]


#: Bytes of one task in the process that builds and schedules the graph: measured at 2.1 to 2.5
#: thousand with graphs of 5,000 to 50,000 tasks.
_TASK_NBYTES = 2_300


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
    local = on_racing_threads(walked.steps, threads, walked.constants)
    tasks = len(walked.steps) - len(walked.constants)
    common, over_time = local.seconds + tasks * rates.task, local.over_time
    heap, moved = local.heap + tasks * _TASK_NBYTES, 0
    if workers > 1:
        cluster = on_workers(walked.steps, workers, threads, rates.task)
        common, moved, over_time = cluster.seconds, cluster.moved, cluster.over_time
        heap = cluster.heap + PROCESS_OVERHEAD + threads * TASK_OVERHEAD
    return Prediction(
        tasks=tasks,
        reads=walked.reads,
        live=local.live,
        heap=local.heap + tasks * _TASK_NBYTES,
        threads=threads,
        seconds=common,
        critical=walked.critical(),
        gathered=gathered,
        workers=workers,
        worker_heap=heap,
        moved=moved,
        block=walked.block,
        profiled=walked.profiled,
        assumed=walked.assumed,
        notes=walked.notes,
        over_time=over_time,
        touched=local.touched + tasks * _TASK_NBYTES,
    )


def _slots(budget: MemoryBudget | None, workers: int) -> tuple[int, int]:
    if budget is not None:
        return max(1, budget.threads), max(workers, budget.workers)
    from xchunk.engine.budget import local_threads

    return local_threads(), workers
