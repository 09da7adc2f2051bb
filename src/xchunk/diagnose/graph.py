"""Looking into the graph of a lazy result before it runs; nothing is computed.

What needs the tasks themselves, such as what they hold in memory, is found on the whole graph
where it is small, and else on a part of it: so many blocks of the result, or of an operation
on the way, as a second is enough for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import xarray as xr
from dask.utils import key_split

from xchunk.core.cost import Rates
from xchunk.core.decide import SMALL
from xchunk.core.graphs import GraphReport, sizes_of
from xchunk.core.memory import MemoryBudget
from xchunk.core.workload import Prediction, Reads
from xchunk.diagnose.layers import (
    Whole,
    blocks_of,
    depths,
    layers_of,
    part_to_look_at,
    whole_graph,
)
from xchunk.errors import XchunkError
from xchunk.simulate._dask import Graph
from xchunk.simulate.predict import predict_walked
from xchunk.simulate.replay import Step
from xchunk.simulate.walk import Walked, walk

__all__ = ["graph_report"]

#: Bytes of a task that is tried on noise, and seconds of such tries.
_CAP, _SECONDS = 200_000_000, 0.7

#: Bytes of one task in the process that schedules the graph, as `xchunk.simulate.predict` has it.
_TASK_NBYTES = 2_300


def graph_report(
    lazy: Any,
    *,
    budget: MemoryBudget | None = None,
    rates: Rates | None = None,
    source: str = "",
) -> GraphReport:
    """Tell what the graph of a lazy result holds; it is not computed.

    Parameters
    ----------
    lazy : Dataset, DataArray, DataTree or dask array
        The result.
    budget : MemoryBudget, optional
        What one worker may take, and the threads that it has.
    rates : Rates, optional
        How fast things are.
    source : str, optional
        What it is, in words.

    Returns
    -------
    GraphReport
        Layers, tasks, bytes and the predicted peak.

    Raises
    ------
    SimulationError
        If there is nothing lazy in it.
    """
    rates = rates or Rates()
    whole = whole_graph(lazy)
    layers = layers_of(whole)
    blocks = blocks_of(whole)
    report = GraphReport(
        layers=layers,
        run_tasks=whole.tasks,
        outputs=len(whole.keys),
        critical=max(depths(whole).values(), default=0),
        nbytes_out=whole.nbytes,
        blocks=blocks,
        budget=budget,
        source=source or _named(lazy),
    )
    block = 0
    try:
        looked = _look(whole, rates)
    except (XchunkError, RuntimeError, ValueError, TypeError, KeyError) as error:
        note = f"the tasks could not be looked at, so that no memory is predicted ({error})"
        report = replace(report, notes=(note,))
    else:
        report = _with_tasks(report, whole, looked, rates)
        block = looked.block
    fused = report.run_tasks / max(1, report.tasks)
    sizes = sizes_of(layers, blocks, block, rates, fused=fused)
    return replace(report, sizes=sizes)


def _named(lazy: Any) -> str:
    name = getattr(lazy, "name", None)
    what = type(lazy).__name__
    return f"{what} {name}" if isinstance(name, str) and isinstance(lazy, xr.DataArray) else what


@dataclass(frozen=True)
class _Looked:
    """What was found on a graph, or on a part of it."""

    walked: Walked
    """Its tasks, and what each takes."""
    graph: Graph
    """The tasks."""
    part: float
    """How much of the whole it is, by its inputs."""
    more: int = 0
    """Layers of the longest chain that come after it."""
    whole: int = 0
    """Tasks of the whole that a scheduler runs."""
    sinks: int = 0
    """Tasks that were added to take the results."""

    @property
    def block(self) -> int:
        """Bytes of the largest block that is read; of those that are made, where none is."""
        if self.walked.block:
            return self.walked.block
        sizes = (
            s.size
            for i, s in enumerate(self.walked.steps)
            if i not in self.walked.constants and all(d in self.walked.constants for d in s.deps)
        )
        return max(sizes, default=0)

    @property
    def tasks(self) -> int:
        """Tasks of the graph, constants left out."""
        return len(self.walked.steps) - len(self.walked.constants) - self.sinks

    def critical(self) -> int:
        """Tasks of the longest chain."""
        ends: list[int] = []
        for i, step in enumerate(self.walked.steps):
            own = i not in self.walked.constants
            ends.append(own + max((ends[d] for d in step.deps), default=0))
        return max(ends, default=0) + self.more - bool(self.sinks)


def _look(whole: Whole, rates: Rates) -> _Looked:
    """Walk through the graph, or a part of it."""
    chosen = part_to_look_at(whole)
    walked = walk(chosen.graph, rates, cap=_CAP, seconds=_SECONDS)
    sinks = _sinks(walked) if chosen.more or whole.nbytes > SMALL else []
    walked = replace(walked, steps=(*walked.steps, *sinks))
    return _Looked(walked, chosen.graph, chosen.part, chosen.more, chosen.tasks, len(sinks))


def _sinks(walked: Walked) -> list[Step]:
    """Tasks that take the results as a store does, so that none of them is kept."""
    users = {d for step in walked.steps for d in step.deps}
    last = [i for i in range(len(walked.steps)) if i not in users and i not in walked.constants]
    return [Step((i,), 0, (), 0, 0.0, walked.steps[i].rank, False) for i in last]


def _with_tasks(report: GraphReport, whole: Whole, looked: _Looked, rates: Rates) -> GraphReport:
    """Put in what the tasks tell."""
    budget = report.budget
    threads = 1 if budget is None else max(1, budget.threads)
    workers = 1 if budget is None else max(1, budget.workers)
    gathered = whole.nbytes if whole.nbytes > SMALL else 0
    p = predict_walked(
        looked.walked, threads=threads, workers=workers, rates=rates, gathered=gathered
    )
    own = looked.tasks
    tasks = own if looked.part == 1 else looked.whole
    p = replace(p, tasks=tasks)
    notes = report.notes + p.notes
    if looked.part < 1:
        p = _extended(p, looked.part, tasks - own, rates)
        part = f"{100 * looked.part:.2g} % of the graph"
        notes += (f"memory and reads were found on {part}; what combines the parts adds a little",)
    fan = _fan_in(looked.graph)
    layers = tuple(replace(v, fan_in=fan.get(v.name)) for v in report.layers)
    return replace(
        report,
        layers=layers,
        run_tasks=tasks,
        critical=looked.critical(),
        prediction=p,
        part=looked.part,
        notes=notes,
    )


def _extended(p: Prediction, part: float, more_tasks: int, rates: Rates) -> Prediction:
    """Enlarge what grows with the data; what is held at once does not, but for the tasks."""

    def more(n: int) -> int:
        return round(n / part)

    reads = {
        name: Reads(name, more(r.requests), more(r.decodes), more(r.nbytes), more(r.distinct))
        for name, r in p.reads.items()
    }
    working = p.seconds - (p.tasks - more_tasks) * rates.task
    return replace(
        p,
        reads=reads,
        heap=p.heap + more_tasks * _TASK_NBYTES,
        touched=p.touched + more_tasks * _TASK_NBYTES,
        worker_heap=p.worker_heap + more_tasks * _TASK_NBYTES if p.workers > 1 else p.worker_heap,
        moved=more(p.moved),
        seconds=max(0.0, working) / part + p.tasks * rates.task,
        scaled=1 / part,
    )


def _fan_in(graph: Graph) -> dict[str, int]:
    """Blocks that one task takes, at the most, by the name of the layer."""
    out: dict[str, int] = {}
    for key, node in graph.nodes.items():
        kind = key_split(key)
        out[kind] = max(out.get(kind, 0), len(node.dependencies))
    return {k: n for k, n in out.items() if n}
