"""The families of plans, and the search that finds the cheapest of each.

Tables are joined one by one. What is dropped on the way cannot win: rows that break a limit
or cost more than the best known solution even with the least of every table to come, and
rows that another one equals or beats in every column. Dropping these is exact. Beyond
`SLACK` rows the search becomes a beam: of rows whose boxes differ by little the cheapest
stays, so that time and memory stay bounded for any number of dims and chunks.

`Planner.options` returns the best of each family; `xchunk.core.plan.choose` picks one of them and
says why. The searching itself is `xchunk.core.plan.planner`'s, over the tables of
`xchunk.core.plan.model`, with the costs and limits of `xchunk.core.plan.model`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.core.cost import FAR, MAKE, OPEN, Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.memory import IN_FLIGHT, PROCESS_OVERHEAD, MemoryBudget
from xchunk.core.plan.model import (
    ChainModel,
    Columns,
    Dim,
    Facts,
    Geometry,
    Table,
    chain_table,
    direct_table,
    is_exhaustive,
)
from xchunk.core.plan.stages import ArrayPlan, CopyJob, Limits, Stage

#: A beam's width: rows kept after a join, and rows that are compared with each other before.
#: One ten times as wide found nothing better by more than two per cent in 20 real layouts.
BEAM = (80, 500)

#: Combinations up to which a search is exact.
EXACT = 10_000

#: Pairs of rows that are looked at together; some hundred kilobytes of figures.
_BLOCK = 2048

_Bools: TypeAlias = NDArray[np.bool_]
_Floats: TypeAlias = NDArray[np.float64]


class Model(Protocol):
    """What a search needs to know about solutions, given as rows of multiplied columns."""

    @property
    def compared(self) -> Sequence[int]:
        """Columns of which less is never worse."""
        ...

    @property
    def counted(self) -> Sequence[int]:
        """Columns of which neither less nor more is always better: they must be equal."""
        ...

    @property
    def volumes(self) -> Sequence[int]:
        """Columns by which a beam keeps its rows apart."""
        ...

    def fits(self, rows: Table) -> _Bools:
        """Whether rows keep all limits; if a row does, so does every one with less."""
        ...

    def at_least(self, rows: Table) -> _Floats:
        """A cost that no row with as much or more in each column falls below."""
        ...

    def cost(self, rows: Table) -> _Floats:
        """The cost of complete rows."""
        ...


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    picks: tuple[int, ...]
    """The row of each table."""
    cost: float
    """Its cost."""
    exact: bool
    """Whether no other combination of rows is cheaper; False where a beam was needed."""
    visited: int
    """Combinations that were looked at."""


def cheapest(tables: Sequence[Table], model: Model, *, below: float = np.inf) -> Found | None:
    """Find the cheapest combination of one row of each table.

    Exact for up to `EXACT` combinations, and wherever dropping what cannot win leaves few
    enough rows; ``Found.exact`` tells.

    - ``tables``: one table for each dim, of one width.
    - ``model``: limits and costs.
    - ``below``: only solutions cheaper than this are of interest.
    - returns: None where nothing fits, or nothing that fits is cheaper than ``below``.
    """
    combinations = math.prod(len(t) for t in tables)
    if combinations <= EXACT:
        return _join(tables, model, below, EXACT, EXACT)
    return _join(tables, model, below, *BEAM)


def _join(
    tables: Sequence[Table], model: Model, below: float, keep: int, compare: int
) -> Found | None:
    width = tables[0].shape[1]
    least: list[_Floats] = [np.ones(width)]
    for table in reversed(tables):
        least.append(least[-1] * table.min(axis=0))
    least = least[-2::-1]

    rows = np.ones((1, width))
    picks = np.zeros((1, 0), dtype=np.int64)
    visited, exact = 0, True
    for table, rest in zip(tables[:-1], least[:-1], strict=True):
        pairs = _Pairs(rows, table)
        visited += len(pairs)
        alive, costs = pairs.alive(rest, model, below)
        if len(alive) == 0:
            return None
        kept, sure = _thin(pairs, alive, costs, model, (keep, compare))
        exact &= sure
        rows = pairs[kept]
        picks = np.column_stack([picks[kept // len(table)], kept % len(table)])
    pairs = _Pairs(rows, tables[-1])
    visited += len(pairs)
    best, costs = pairs.best(least[-1], model, below)
    if len(best) == 0:
        return None
    picks = np.column_stack([picks[best // len(tables[-1])], best % len(tables[-1])])
    winner = _ranking(pairs[best], costs, picks, model)[0]
    return Found(tuple(int(i) for i in picks[winner]), float(costs[winner]), exact, visited)


class _Pairs:
    """The products of every row with every row of a table, made when they are asked for.

    All of them at once would take tens of megabytes, which count against the budget that is
    being planned for; so they are looked at block by block.
    """

    def __init__(self, rows: Table, table: Table) -> None:
        self.rows, self.table = rows, table

    def __len__(self) -> int:
        return len(self.rows) * len(self.table)

    def __getitem__(self, index: NDArray[np.intp]) -> Table:
        n = len(self.table)
        product: Table = self.rows[index // n] * self.table[index % n]
        return product

    def _blocks(self, rest: _Floats, model: Model) -> Iterator[tuple[NDArray[np.intp], Table]]:
        """Hand out the pairs that fit, even with the least of every table to come."""
        for start in range(0, len(self), _BLOCK):
            index = np.arange(start, min(start + _BLOCK, len(self)))
            products = self[index]
            fitting = np.flatnonzero(model.fits(products * rest))
            yield index[fitting], products[fitting]

    def alive(self, rest: _Floats, model: Model, below: float) -> tuple[NDArray[np.intp], _Floats]:
        """The pairs that fit and may still cost less than ``below``, with their least costs."""
        found, costs = [np.zeros(0, dtype=np.intp)], [np.zeros(0)]
        for index, products in self._blocks(rest, model):
            least = model.at_least(products * rest)
            found.append(index[least < below])
            costs.append(least[least < below])
        return np.concatenate(found), np.concatenate(costs)

    def best(self, rest: _Floats, model: Model, below: float) -> tuple[NDArray[np.intp], _Floats]:
        """The pairs of the last table that cost the least, equal to six digits, if below."""
        found, costs = np.zeros(0, dtype=np.intp), np.zeros(0)
        for index, products in self._blocks(rest, model):
            if not len(index):
                continue
            cost = model.cost(products)
            found, costs = np.concatenate([found, index]), np.concatenate([costs, cost])
            close = (costs <= float(np.min(costs)) * (1 + 1e-6)) & (costs < below)
            found, costs = found[close], costs[close]
            below = min(below, float(np.min(costs)) * (1 + 2e-6)) if len(costs) else below
        return found, costs


def _ranking(rows: Table, costs: _Floats, picks: NDArray[Any], model: Model) -> NDArray[np.intp]:
    """Order by cost, then by tasks, then by volume; equal to the last digits counts as equal."""
    rounded = np.array([float(f"{c:.9e}") for c in costs])
    keys = [rows[:, c] for c in (*model.counted, *model.volumes)]
    order: NDArray[np.intp] = np.lexsort([*picks.T[::-1], *keys[::-1], rounded])
    return order


def _thin(
    pairs: _Pairs,
    alive: NDArray[np.intp],
    costs: _Floats,
    model: Model,
    beam: tuple[int, int],
) -> tuple[NDArray[np.intp], bool]:
    """Choose the pairs to go on with, and tell whether the best one is surely among them."""
    keep, compare = beam
    order = alive[np.argsort(costs, kind="stable")]
    exact = len(order) <= compare
    if not exact:
        order = _spread(pairs, order, model, compare)
    order = order[_undominated(pairs[order], model, counted=exact)]
    if len(order) > keep:
        order, exact = _spread(pairs, order, model, keep), False
    return order, exact


def _undominated(rows: Table, model: Model, *, counted: bool = True) -> NDArray[np.intp]:
    """Indices of the rows that no other row equals or beats in every column; first of equals."""
    values = rows[:, list(model.compared)]
    if counted:
        values = np.column_stack([values, 1 / rows[:, list(model.counted)]])
    left = np.argsort(np.log(values).sum(axis=1), kind="stable")
    kept: list[int] = []
    while len(left):
        kept.append(int(left[0]))
        beaten = (values[left[0]] <= values[left]).all(axis=1)
        beaten[0] = True
        left = left[~beaten]
    return np.sort(np.array(kept, dtype=np.intp))


def _spread(pairs: _Pairs, order: NDArray[np.intp], model: Model, keep: int) -> NDArray[np.intp]:
    """Keep the first in order of those with nearly equal boxes, as finely as there is room."""
    columns = list(model.volumes)
    logs = np.log2(_Pairs(pairs.rows[:, columns], pairs.table[:, columns])[order])
    step = 1 / 32
    while True:
        cells = np.floor(logs / step).astype(np.int64)
        cells -= cells.min(axis=0)
        keys = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
        _, first = np.unique(keys, return_index=True)
        if len(first) <= keep:
            # the cheapest ones stay as well, however close together they are
            some = np.union1d(first, np.arange(min(keep - len(first), len(order))))
            return order[some]
        step *= 2


Family: TypeAlias = Literal["direct", "staged", "multi-stage"]

#: A plan that costs less than this many times its floor is not worth one more stage.
GOOD = 1.15

#: Tasks that run at once on far stores, for each that computes.
MORE_TASKS = 4

#: Shares of what a task may hold that its requests to far stores may take together.
SHARES = (0.5, 0.2)

#: The most stages that are tried.
MOST_STAGES = 4

#: The part of the time spent waiting for scratch pieces from which fewer objects may pay.
WAITING = 0.03


@dataclass(frozen=True)
class Order:
    """A job with its dims sorted, so that a plan does not depend on the order they came in."""

    given: CopyJob
    """The job as it came."""
    job: CopyJob
    """The job with sorted dims; a scalar has become one dim of one element."""
    places: tuple[int, ...]
    """Where each sorted dim stood."""

    @classmethod
    def of(cls, job: CopyJob) -> Order:
        """Sort the dims, except where their order in memory matters."""
        if not job.shape:
            one = Grid((Axis.regular(1, 1),))
            return cls(job, replace(job, shape=(1,), source=one, target=one, units=one), ())
        places = list(range(len(job.shape)))
        if job.source_chunked or job.blocks:
            places.sort(
                key=lambda i: (
                    job.shape[i],
                    job.source.axes[i].chunk,
                    job.source.axes[i].parts or (),
                    job.units.axes[i].chunk,
                    job.target.axes[i].chunk,
                )
            )
        shape = tuple(job.shape[i] for i in places)
        source, target, units = (
            Grid(tuple(grid.axes[i] for i in places))
            for grid in (job.source, job.target, job.units)
        )
        sorted_job = replace(job, shape=shape, source=source, target=target, units=units)
        return cls(job, sorted_job, tuple(places))

    def back(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Return lengths in the order of the dims as they were given."""
        return tuple(lengths[self.places.index(i)] for i in range(len(self.places)))


@dataclass(frozen=True)
class Option:
    """A plan that fits, for the job with sorted dims."""

    geometry: Geometry
    """Its boxes and pieces."""
    facts: Facts
    """The circumstances for which it is made."""
    stages: tuple[Stage, ...]
    """Its stages, counted."""
    seconds: float
    """Predicted time on the clock."""

    @classmethod
    def of(cls, geometry: Geometry, facts: Facts) -> Option:
        """Count a geometry."""
        stages = geometry.stages(facts)
        return cls(geometry, facts, stages, sum(stage.seconds for stage in stages))

    @property
    def family(self) -> Family:
        """Direct, staged or multi-stage."""
        if len(self.stages) > 2:
            return "multi-stage"
        return "staged" if len(self.stages) > 1 else "direct"

    @property
    def rank(self) -> tuple[float, int, int]:
        """What orders options: time to the last digits, then tasks, then memory."""
        tasks = sum(s.work.tasks for s in self.stages)
        peak = max(s.projected_mem for s in self.stages)
        return float(f"{self.seconds:.9e}"), tasks, peak

    def plan(self, order: Order) -> ArrayPlan:
        """Spell the plan out for the job as it was given."""
        facts = replace(self.facts, job=order.given)
        geometry = Geometry(
            tuple(order.back(b) for b in self.geometry.boxes),
            tuple(order.back(p) for p in self.geometry.pieces),
        )
        stages = geometry.stages(facts)
        threads = facts.slots // facts.workers
        return ArrayPlan(order.given, stages, self.family, self.seconds, threads)

    @property
    def waits(self) -> bool:
        """Whether requests for scratch pieces take so long that fewer objects may pay."""
        pieces = sum(s.work.objects for s in self.stages if s.scratch is not None)
        facts = self.facts
        rates = facts.job_rates
        if facts.job.scratch_files:
            each = (OPEN + MAKE) * rates.near_latency
        else:
            each = 2 * rates.latency / (IN_FLIGHT if facts.flight else 1)
        waiting = pieces * each / facts.slots
        return waiting > WAITING * self.seconds


def least_with_scratch(facts: Facts, arrays: int) -> float:
    """Seconds that no plan with so many scratch arrays falls below, compressed or not."""
    return min(facts.floor(arrays), replace(facts, packed=True).floor(arrays))


class Planner:
    """The search for one job; keeps its tables."""

    def __init__(
        self,
        job: CopyJob,
        budget: MemoryBudget,
        *,
        rates: Rates,
        limits: Limits,
        concurrency: int = 1,
    ):
        self.order = Order.of(job)
        self.job = self.order.job
        self.budget, self.rates, self.limits = budget, rates, limits
        self.concurrency = concurrency
        self.visited = 0
        self.can_be_direct = not job.blocks or job.source.nests(job.units)
        self._tables: dict[tuple[int, int], list[Table]] = {}

    def facts(self, max_mem: int, threads: int, share: float = 0) -> Facts:
        """The circumstances with so many tasks at once, and a share of each for its requests."""
        workers = max(1, self.budget.workers)
        per_task = (max_mem - PROCESS_OVERHEAD - self.job.clients) // threads
        cores = min(threads, max(1, self.budget.threads)) * workers
        return Facts(
            self.job,
            self.rates,
            self.limits,
            per_task,
            threads * workers,
            workers,
            max(0, int(share * per_task)),
            cores if threads * workers > cores else None,
        )

    def options(self) -> list[Option]:
        """The best plan of each family over all numbers of tasks at once, the best first.

        Requests in flight within a task hide latency and take memory from its box, as do tasks
        at once: both are chosen together. On stores that let tasks wait, more of them run at
        once than can compute.
        """
        best: dict[Family, Option] = {}
        threads = max(1, self.budget.threads)
        # blocks are computed before their task can wait for its turn
        if self.rates.latency >= FAR and not self.job.blocks:
            threads *= MORE_TASKS
        while threads:
            for share in (*SHARES, 0) if self.concurrency > 1 else (0,):
                facts = self.facts(self.budget.max_mem, threads, share)
                for option in self._families(facts, best):
                    best[option.family] = option
            threads //= 2
        return sorted(best.values(), key=lambda o: o.rank)

    def _families(self, facts: Facts, best: dict[Family, Option]) -> Iterator[Option]:
        """Plans that beat the best of their family, as far as they could win at all.

        ``best`` is read after each plan that is handed out, and so must hold it by then.
        """

        def leader() -> float:
            return min((o.seconds for o in best.values()), default=math.inf)

        others = leader()
        if facts.floor(0) >= others:
            return
        if self.can_be_direct:
            option = self.search(facts, 1, others)
            if option is not None:
                yield option
        if not self.limits.scratch:
            return
        for stages in range(2, MOST_STAGES + 1):
            floor = least_with_scratch(facts, stages - 1)
            if floor >= leader() or (stages > 2 and leader() < GOOD * floor):
                return
            # the first round looks for a runner-up too, which need not lead
            option = self._scratch(facts, stages, others if stages == 2 else leader())
            if option is not None:
                yield option

    def _scratch(self, facts: Facts, stages: int, below: float) -> Option | None:
        """The best over plain pieces and shards, uncompressed and packed."""
        best = None
        packed = replace(facts, packed=True)
        ways = sorted((facts, packed), key=lambda f: f.floor(stages - 1))
        for sharded in (False, True)[: 1 + self.job.shardable]:
            for way in ways:
                option = self.search(replace(way, sharded=sharded), stages, below)
                if option is not None:
                    # the other codec takes longer for each byte: it is for tight memory only
                    best, below = option, option.seconds
                    break
            if best is not None and not best.waits:
                break
        return best

    def search(self, facts: Facts, stages: int, below: float = math.inf) -> Option | None:
        """The best plan of so many stages that takes less than ``below`` seconds."""
        if not self._may_fit(facts, stages):
            return None
        chunked = self.job.source_chunked or self.job.blocks
        best = None
        for at in [-1] if chunked else range(len(self.job.shape)):
            if (stages, at) not in self._tables:
                self._tables[stages, at] = self._make(stages, at)
            found = self._cheapest(self._tables[stages, at], facts, stages, below)
            if found is None:
                continue
            best, below = found, found.seconds
            if not all(is_exhaustive(dim) for dim in self._dims(at)):
                # long dims were searched at wide steps: look again, closely, around the best
                tables = self._make(stages, at, found.geometry)
                closer = self._cheapest(tables, facts, stages, below)
                if closer is not None:
                    best, below = closer, closer.seconds
        return best

    def _may_fit(self, facts: Facts, stages: int) -> bool:
        """Whether so few boxes as are allowed could hold the array at all."""
        free = self.job.blocks and stages == 1
        return free or self.job.nbytes <= self.limits.tasks * max(0, facts.per_task)

    def _cheapest(
        self, tables: list[Table], facts: Facts, stages: int, below: float
    ) -> Option | None:
        model = ChainModel(facts, Columns(stages))
        found = cheapest(tables, model, below=below)
        if found is None:
            return None
        self.visited += found.visited
        rows = [t[i].astype(np.int64) for t, i in zip(tables, found.picks, strict=True)]
        col = model.columns
        geometry = Geometry(
            tuple(tuple(int(r[col.box(k)]) for r in rows) for k in range(stages)),
            tuple(tuple(int(r[col.piece(k)]) for r in rows) for k in range(stages - 1)),
        )
        return Option.of(geometry, facts)

    def _make(self, stages: int, at: int, around: Geometry | None = None) -> list[Table]:
        """Tables of all dims; ``at`` is the dim in which a contiguous source is cut, or -1."""
        tables = []
        for i, dim in enumerate(self._dims(at)):
            near = [b[i] for b in around.boxes] if around else []
            make = direct_table(dim, near) if stages == 1 else chain_table(dim, stages, near)
            tables.append(make)
        return tables

    def _dims(self, at: int) -> Iterator[Dim]:
        axes = zip(self.job.source.axes, self.job.units.axes, strict=True)
        for i, (source, unit) in enumerate(axes):
            if at < 0:
                yield Dim(source.size, source, unit.chunk, fixed=self.job.blocks)
            else:
                rows = Axis.regular(source.size, 1)
                runs: Literal["before", "at", "after"]
                runs = "before" if i < at else "at" if i == at else "after"
                yield Dim(source.size, rows, unit.chunk, runs)

    def feasible(self, max_mem: int) -> bool:
        """Whether there is any plan, with one task at a time."""
        facts = self.facts(max_mem, 1)
        if self.can_be_direct and self.search(facts, 1) is not None:
            return True
        return self.limits.scratch and any(
            self.search(replace(facts, sharded=sharded), stages) is not None
            for stages in range(2, MOST_STAGES + 1)
            for sharded in (False, True)[: 1 + self.job.shardable]
        )

    def smallest(self) -> int | None:
        """The smallest ``max_mem`` with a plan, to a thousandth above; None if none helps."""
        low, high = 0, max(self.budget.max_mem, 1024)
        while not self.feasible(high):
            low, high = high, high * 2
            if high > 2**70:
                return None
        while high - low > max(64, high // 1000):
            middle = (low + high) // 2
            low, high = (low, middle) if self.feasible(middle) else (middle, high)
        return high
