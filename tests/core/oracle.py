"""Exhaustive search, by which plans are judged: every box and every piece along each dim."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from xchunk.core.grid import Grid, ceildiv
from xchunk.core.plan.model import ChainModel, Columns, Dim, Facts, Table, _figures
from xchunk.core.plan.planner import Planner
from xchunk.core.plan.stages import CopyJob

#: Rows that are multiplied at once.
BLOCK = 2**18


def job(shape, source, target, units=None, itemsize=1_000_000, **facts) -> CopyJob:
    """One array; its elements are so large that memory is counted in elements."""
    grids = (Grid.of(shape, source), Grid.of(shape, target), Grid.of(shape, units or target))
    return CopyJob("a", tuple(shape), itemsize, *grids, **facts)


def writers(n: int) -> Iterator[tuple[int, int]]:
    """Every box with every piece that it writes whole."""
    for box in range(1, n + 1):
        for piece in range(1, n + 1):
            if box == n or box % piece == 0:
                yield box, piece


def full_table(dim: Dim, stages: int) -> Table:
    """All that so many stages could do along a dim: boxes of whole pieces, then of whole units."""
    n = dim.size
    last = sorted({min(k * dim.unit, n) for k in range(1, ceildiv(n, dim.unit) + 1)})
    pairs = np.array(list(writers(n)))
    rows = np.array([[b] for b in last])
    for k in reversed(range(stages - 1)):
        some = pairs
        if k == 0 and dim.fixed:
            some = pairs[pairs[:, 0] == dim.source.chunk]
        left = np.repeat(np.arange(len(some)), len(rows))
        right = np.tile(np.arange(len(rows)), len(some))
        rows = np.column_stack([some[left], rows[right]])
    if stages == 1 and dim.fixed:
        rows = np.array([[dim.source.chunk]])
    table = _figures(dim, list(rows.T[0::2]), list(rows.T[1::2]))
    # equal counts are one way: what is longer than the dim is the dim
    return np.unique(table, axis=0)


def undominated(table: Table, model: ChainModel) -> Table:
    """Leave out rows that another one equals or beats in all that counts, tasks being equal."""
    columns = list(model.compared)
    counted = [c for c in columns if c not in model.counted]
    order = np.lexsort([table[:, c] for c in [*reversed(counted), *model.counted]])
    table = table[order]
    keys = table[:, list(model.counted)]
    edges = np.flatnonzero(np.any(keys[1:] != keys[:-1], axis=1)) + 1
    kept = []
    for group in np.split(table, edges):
        values = group[:, counted]
        best: list[int] = []
        for i, row in enumerate(values):
            if not best or not (values[best] <= row).all(axis=1).any():
                best.append(i)
        kept.append(group[best])
    return np.concatenate(kept)


def best_cost(planner: Planner, facts: Facts, stages: int) -> float:
    """The cost of the cheapest plan of so many stages that there is; infinite where none fits."""
    model = ChainModel(facts, Columns(stages))
    rows = np.ones((1, model.columns.width))
    tables = [undominated(full_table(dim, stages), model) for dim in planner._dims(-1)]
    for table in tables[:-1]:
        rows = (rows[:, None, :] * table[None, :, :]).reshape(-1, rows.shape[1])
        rows = rows[model.fits(rows)]
    best, step = math.inf, max(1, BLOCK // len(tables[-1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        part = (part[:, None, :] * tables[-1][None, :, :]).reshape(-1, rows.shape[1])
        part = part[model.fits(part)]
        best = min(best, float(model.cost(part).min(initial=math.inf)))
    return best


@dataclass(frozen=True)
class Judged:
    """One random case: what the search found and what there is."""

    job: CopyJob
    facts: Facts
    stages: int
    found: float
    best: float

    @property
    def ratio(self) -> float:
        """How much dearer what was found is than the cheapest; 1 where there is no plan at all."""
        if self.best == math.inf:
            return 1.0 if self.found == math.inf else 0.0
        return self.found / self.best


def random_cases(
    seed: int, stages: int, dims: int, sizes: tuple[int, int], **more
) -> Iterator[Judged]:
    """Random jobs and budgets, each searched and judged."""
    from xchunk.core.cost import Rates
    from xchunk.core.memory import PROCESS_OVERHEAD, TASK_OVERHEAD, MemoryBudget
    from xchunk.core.plan.stages import Limits

    rng = np.random.default_rng(seed)
    while True:
        shape = tuple(int(n) for n in rng.integers(*sizes, dims))
        source, target = (tuple(int(rng.integers(1, n + 1)) for n in shape) for _ in range(2))
        a_job = job(shape, source, target, fused=bool(rng.integers(2)))
        rates = Rates(latency=float(rng.choice([0.0, 2e-4, 0.02])))
        least = 2 * math.prod(source) + 4 * math.prod(target)
        room = int(least * rng.uniform(0.6, 4)) * a_job.itemsize
        budget = MemoryBudget.of_growth(room + PROCESS_OVERHEAD + TASK_OVERHEAD, threads=1)
        planner = Planner(a_job, budget, rates=rates, limits=Limits(), concurrency=1)
        facts = planner.facts(budget.max_mem, 1)
        facts = replace(facts, packed=bool(rng.integers(2)), sharded=bool(rng.integers(2)))
        found = planner.search(facts, stages)
        best = best_cost(planner, facts, stages)
        yield Judged(a_job, facts, stages, found.seconds if found else math.inf, best)
