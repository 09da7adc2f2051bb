"""The families of plans, tried with every number of tasks at once.

`Planner.options` returns the best of each family; `xchunk.core.plan` picks one of them and
says why. The searching itself is `xchunk.core.search`'s, over the tables of
`xchunk.core.chains`, with the costs and limits of `xchunk.core.predict`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from xchunk.core.chains import Columns, Dim, Table, chain_table, direct_table, is_exhaustive
from xchunk.core.cost import MAKE, OPEN, Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.memory import PROCESS_OVERHEAD, MemoryBudget
from xchunk.core.predict import ChainModel, Facts, Geometry, stage_seconds
from xchunk.core.search import cheapest
from xchunk.core.stages import ArrayPlan, CopyJob, Limits, Stage

__all__ = ["Family", "Option", "Order", "Planner", "least_with_scratch"]

Family: TypeAlias = Literal["direct", "staged", "multi-stage"]

#: A plan that costs less than this many times its floor is not worth one more stage.
GOOD = 1.15

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
        return cls(geometry, facts, stages, sum(stage_seconds(s.work, facts) for s in stages))

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
        return ArrayPlan(
            order.given, stages, self.family, self.seconds, threads, concurrency=facts.concurrency
        )

    @property
    def waits(self) -> bool:
        """Whether requests for scratch pieces take so long that fewer objects may pay."""
        pieces = sum(s.work.objects for s in self.stages if s.scratch is not None)
        facts = self.facts
        each = OPEN + MAKE if facts.job.scratch_files else 2 / facts.concurrency
        waiting = pieces * each * facts.job_rates.latency / facts.slots
        return waiting > WAITING * self.seconds


def least_with_scratch(facts: Facts, arrays: int) -> float:
    """Seconds that no plan with so many scratch arrays falls below, compressed or not."""
    return min(facts.floor(arrays), replace(facts, packed=True).floor(arrays))


class Planner:
    """The search for one job; keeps its tables."""

    def __init__(
        self, job: CopyJob, budget: MemoryBudget, *, rates: Rates, limits: Limits, concurrency: int
    ):
        self.order = Order.of(job)
        self.job = self.order.job
        self.budget, self.rates, self.limits = budget, rates, limits
        self.concurrency = concurrency
        self.visited = 0
        self.can_be_direct = not job.blocks or job.source.nests(job.units)
        self._tables: dict[tuple[int, int], list[Table]] = {}

    def facts(self, max_mem: int, threads: int, concurrency: int = 1) -> Facts:
        """The circumstances with so many tasks at once, and so many requests in each."""
        workers = max(1, self.budget.workers)
        return Facts(
            self.job,
            self.rates,
            self.limits,
            (max_mem - PROCESS_OVERHEAD) // threads,
            threads * workers,
            workers,
            concurrency,
        )

    def options(self) -> list[Option]:
        """The best plan of each family over all numbers of tasks at once, the best first.

        Chunks in flight within a task hide latency and take memory from its box, as do tasks
        at once: both are chosen together.
        """
        best: dict[Family, Option] = {}
        for concurrency in self._concurrencies():
            threads = max(1, self.budget.threads)
            while threads:
                facts = self.facts(self.budget.max_mem, threads, concurrency)
                for option in self._families(facts, best):
                    best[option.family] = option
                threads //= 2
        return sorted(best.values(), key=lambda o: o.rank)

    def _concurrencies(self) -> Iterator[int]:
        """Numbers of chunks in flight, from the most by fours down to one."""
        n = self.concurrency
        while n > 1:
            yield n
            n //= 4
        yield 1

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
