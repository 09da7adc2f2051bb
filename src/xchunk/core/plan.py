"""Choosing how an array is copied: the cheapest stages that stay within the memory.

Three families compete (see `xchunk.core.stages`): direct, staged through one scratch array,
and multi-stage through two or three, for shapes so extreme that one scratch array would
fall into crumbs. Each is tried with every number of tasks at once that the worker's threads
allow, since fewer tasks have more memory each; the predicted time decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xchunk.core.chains import Columns, Dim, Table, chain_table, direct_table
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.memory import MemoryBudget
from xchunk.core.predict import ChainModel, Facts, Geometry, stage_seconds
from xchunk.core.search import SLACK, Found, cheapest
from xchunk.core.stages import (
    ArrayPlan,
    CopyJob,
    Limits,
    RechunkPlan,
    Scratch,
    Stage,
)
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.errors import InvalidChunksError, MemoryBudgetError

__all__ = [
    "ArrayPlan",
    "CopyJob",
    "Limits",
    "RechunkPlan",
    "Scratch",
    "Stage",
    "plan_array",
]

Family = Literal["direct", "staged", "multi-stage"]

#: A staged plan is good enough to skip more stages below this many times its floor.
_GOOD = 1.5


def plan_array(
    job: CopyJob,
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
    limits: Limits | None = None,
    concurrency: int = 1,
) -> ArrayPlan:
    """Choose the cheapest way to copy one array within a budget.

    No stage of the plan holds more than ``budget.max_mem`` divided by the tasks at once,
    ``ArrayPlan.threads``, which are fewer than ``budget.threads`` where that is faster or
    where nothing else fits.

    Parameters
    ----------
    job : CopyJob
        The array, its source's chunks and its target's.
    budget : MemoryBudget
        What one worker may grow by, and the tasks that it runs at once.
    rates : Rates, optional
        What work costs; decides between plans that fit.
    limits : Limits, optional
        The most tasks and scratch objects, and whether there may be a scratch array at all.
    concurrency : int
        Chunks in flight at once within a task.

    Returns
    -------
    ArrayPlan
        The plan with its predictions, and the runner-up with the reason why it lost.

    Raises
    ------
    MemoryBudgetError
        If nothing fits the memory, the tasks and the objects together; with the smallest
        budget for which there is a plan.
    InvalidChunksError
        If the job itself makes no sense, or no budget would help.

    Notes
    -----
    The search covers boxes and pieces that cut each dim regularly. Direct plans are the
    best of all where the dim has at most 96 write units; staged ones where it has at most
    16 elements. Longer dims are searched in a geometric choice of lengths. Where many dims
    leave more than a few thousand undominated combinations, the search keeps the best of each
    size only (`xchunk.core.search`).
    """
    rates, limits = rates or Rates(), limits or Limits()
    _check_job(job, concurrency)
    if math.prod(job.shape) == 0:
        return ArrayPlan(job, (), "empty", 0.0, budget.threads)
    planner = _Planner(job, budget, rates, limits, concurrency)
    options = planner.options()
    if not options:
        raise planner.no_plan()
    options.sort(key=lambda o: (float(f"{o.seconds:.9e}"), o.tasks, o.peak))
    best = options[0]
    plan = best.plan(planner.order)
    plan = replace(plan, runner_up=planner.runner_up(options))
    plan.check_exclusive()
    return plan


def _check_job(job: CopyJob, concurrency: int) -> None:
    grids = {"source": job.source, "target": job.target, "units": job.units}
    for what, grid in grids.items():
        if grid.shape != job.shape:
            raise InvalidChunksError(
                f"{job.name}: the {what} chunks are for an array of {grid.shape}, "
                f"but the array to copy has {job.shape}."
            )
    if not (job.target.is_regular and job.units.is_regular):
        raise InvalidChunksError(
            f"{job.name}: the target's chunks must all have one length along each dim. "
            "Give one length for each dim instead of a list of lengths."
        )
    if concurrency < 1:
        raise InvalidChunksError(f"concurrency={concurrency} must be at least 1.")


@dataclass(frozen=True)
class _Option:
    """A plan that fits, before it is spelled out for the user's order of dims."""

    family: Family
    geometry: Geometry
    facts: Facts
    seconds: float
    threads: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.geometry.stages(self.facts)

    @property
    def tasks(self) -> int:
        return sum(s.work.tasks for s in self.stages)

    @property
    def peak(self) -> int:
        return max(s.projected_mem for s in self.stages)

    def plan(self, order: _Order) -> ArrayPlan:
        """Spell the plan out for the job as it was given."""
        facts = replace(self.facts, job=order.given)
        geometry = Geometry(
            tuple(order.back(b) for b in self.geometry.boxes),
            tuple(order.back(p) for p in self.geometry.pieces),
        )
        stages = geometry.stages(facts)
        seconds = sum(stage_seconds(s.work, facts) for s in stages)
        return ArrayPlan(order.given, stages, self.family, seconds, self.threads)


@dataclass(frozen=True)
class _Order:
    """A job with its dims sorted, so that a plan does not depend on the order they came in."""

    given: CopyJob
    job: CopyJob
    places: tuple[int, ...]

    @classmethod
    def of(cls, job: CopyJob) -> _Order:
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
        sort = [Grid(tuple(g.axes[i] for i in places)) for g in (job.source, job.target, job.units)]
        shape = tuple(job.shape[i] for i in places)
        sorted_job = replace(job, shape=shape, source=sort[0], target=sort[1], units=sort[2])
        return cls(job, sorted_job, tuple(places))

    def back(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Return lengths in the order of the dims as they were given."""
        return tuple(lengths[self.places.index(i)] for i in range(len(self.places)))


class _Planner:
    """One call of `plan_array`."""

    def __init__(
        self, job: CopyJob, budget: MemoryBudget, rates: Rates, limits: Limits, concurrency: int
    ):
        self.order = _Order.of(job)
        self.job = self.order.job
        self.budget, self.rates, self.limits = budget, rates, limits
        self.concurrency = concurrency
        self.visited = 0
        self._tables: dict[tuple[int, int], list[Table]] = {}

    def facts(self, max_mem: int, threads: int) -> Facts:
        return Facts(
            self.job,
            self.rates,
            self.limits,
            max_mem // threads,
            threads * self.budget.workers,
            self.budget.workers,
            self.concurrency,
        )

    def options(self) -> list[_Option]:
        """The best plan of each family over all numbers of tasks at once."""
        best: dict[Family, _Option] = {}
        threads = max(1, self.budget.threads)
        while True:
            facts = self.facts(self.budget.max_mem, threads)
            for option in self._at(facts, threads, best):
                best[option.family] = option
            if threads == 1:
                return list(best.values())
            threads //= 2

    def _at(self, facts: Facts, threads: int, best: dict[Family, _Option]) -> Iterator[_Option]:
        """Plans with so many tasks at once that beat the best of their family so far."""

        def record(family: Family) -> float:
            return best[family].seconds if family in best else math.inf

        def leader() -> float:
            return min((o.seconds for o in best.values()), default=math.inf)

        floor = facts.least_seconds
        if floor >= leader():
            return
        direct = None
        if not self.job.blocks or self.job.source.nests(self.job.units):
            direct = self._search(facts, threads, "direct", 1, record("direct"))
            if direct is not None:
                best["direct"] = direct
                yield direct
        if not self.limits.scratch:
            return
        floor += facts.scratch_seconds
        if floor >= leader():
            return
        staged = self._staged(facts, threads, "staged", 2, record("staged"))
        if staged is not None:
            best["staged"] = staged
            yield staged
        floor += facts.scratch_seconds
        if floor >= leader() or (leader() < _GOOD * floor):
            return
        for stages in (3, 4):
            moved = self._staged(facts, threads, "multi-stage", stages, record("multi-stage"))
            if moved is not None:
                best["multi-stage"] = moved
                yield moved

    def _staged(
        self, facts: Facts, threads: int, family: Family, stages: int, below: float
    ) -> _Option | None:
        """The best over plain pieces and shards, uncompressed and packed."""
        best = None
        packed = replace(facts, packed=True)
        plain_first = facts.scratch_seconds <= packed.scratch_seconds
        ways = (facts, packed) if plain_first else (packed, facts)
        for sharded in (False, True):
            for way in ways:
                option = self._search(replace(way, sharded=sharded), threads, family, stages, below)
                if option is not None:
                    best, below = option, option.seconds
                    # the other codec moves more seconds for each byte: only memory calls for it
                    break
            if best is not None and not sharded and not _waits(best):
                break
        return best

    def _search(
        self,
        facts: Facts,
        threads: int,
        family: Family,
        stages: int,
        below: float,
        slack: int = SLACK,
    ) -> _Option | None:
        model = ChainModel(facts, Columns(stages))
        best: tuple[Found, list[Table]] | None = None
        places = [-1] if self.job.source_chunked or self.job.blocks else range(len(self.job.shape))
        for at in places:
            tables = self._make(stages, at)
            found = cheapest(tables, model, below=below, slack=slack)
            if found is not None:
                self.visited += found.visited
                best, below = (found, tables), found.cost
        if best is None:
            return None
        found, tables = best
        rows = [t[i].astype(np.int64) for t, i in zip(tables, found.picks, strict=True)]
        col = model.columns
        geometry = Geometry(
            tuple(tuple(int(r[col.box(k)]) for r in rows) for k in range(stages)),
            tuple(tuple(int(r[col.piece(k)]) for r in rows) for k in range(stages - 1)),
        )
        return _Option(family, geometry, facts, geometry.seconds(facts), threads)

    def _make(self, stages: int, at: int) -> list[Table]:
        """Tables of all dims; ``at`` is the dim in which a contiguous source is cut, or -1."""
        if (stages, at) not in self._tables:
            tables = []
            for i, (n, source, unit) in enumerate(
                zip(self.job.shape, self.job.source.axes, self.job.units.axes, strict=True)
            ):
                runs: Literal["none", "before", "at", "after"] = "none"
                if at >= 0:
                    runs = "before" if i < at else "at" if i == at else "after"
                    source = Axis.regular(n, 1)
                dim = Dim(n, source, unit.chunk, runs, self.job.blocks)
                tables.append(direct_table(dim) if stages == 1 else chain_table(dim, stages))
            self._tables[stages, at] = tables
        return self._tables[stages, at]

    def _feasible(self, max_mem: int) -> bool:
        facts = self.facts(max_mem, 1)
        if not self.job.blocks or self.job.source.nests(self.job.units):
            if self._search(facts, 1, "direct", 1, math.inf, slack=100) is not None:
                return True
        if not self.limits.scratch:
            return False
        return any(
            self._search(replace(facts, sharded=sharded), 1, "staged", stages, math.inf, 100)
            is not None
            for stages in (2, 3, 4)
            for sharded in (False, True)
        )

    def smallest(self) -> int | None:
        """The smallest ``max_mem`` with a plan, to two per cent above; None if none helps."""
        low, high = 0, max(self.budget.max_mem, 1024)
        while not self._feasible(high):
            low, high = high, high * 2
            if high > 2**70:
                return None
        while high - low > max(64, high // 50):
            middle = (low + high) // 2
            low, high = (low, middle) if self._feasible(middle) else (middle, high)
        return high

    def no_plan(self) -> MemoryBudgetError | InvalidChunksError:
        """Say that nothing fits, and what would."""
        job, budget = self.order.given, self.budget
        smallest = self.smallest()
        if smallest is None:
            return InvalidChunksError(
                f"{job.name}: no budget lets blocks of {job.source.chunks} be written in units of "
                f"{job.units.chunks} without a scratch array. Allow one, or chunk the data in "
                "multiples of the units."
            )
        unlimited = replace(self.limits, tasks=2**62, objects=2**62)
        free = _Planner(job, budget, self.rates, unlimited, self.concurrency)
        source = format_bytes(job.source.box_elements * job.itemsize)
        unit = format_bytes(job.units.box_elements * job.itemsize)
        if free._feasible(budget.max_mem):
            reason = (
                f"with max_mem={format_bytes(budget.max_mem)} it would take more than "
                f"{format_count(self.limits.tasks)} tasks or "
                f"{format_count(self.limits.objects)} scratch objects"
            )
        else:
            reason = (
                f"one stored chunk of {source} and one write unit of {unit} do not fit "
                f"max_mem={format_bytes(budget.max_mem)}, even with one task at a time"
            )
        return MemoryBudgetError(
            f"{job.name}: {reason}. Nothing was written. Give at least "
            f"max_mem={smallest} ({format_bytes(smallest)}), or smaller target chunks.",
            needed=smallest,
            allowed=budget.max_mem,
            smallest=smallest,
        )

    def runner_up(self, options: list[_Option]) -> str:
        """Say what came second, and why it lost."""
        best = options[0]
        if len(options) > 1:
            other = options[1]
            work, mine = _total(other), _total(best)
            return (
                f"{other.family}: {format_seconds(other.seconds)} against "
                f"{format_seconds(best.seconds)}; it decodes {format_count(work[0])} stored chunks "
                f"({format_count(mine[0])}), moves {format_bytes(work[1])} through scratch "
                f"({format_bytes(mine[1])}) and writes {format_count(work[2])} objects "
                f"({format_count(mine[2])})"
            )
        if best.family != "direct":
            return "direct: nothing fits the memory and the limits"
        if not self.limits.scratch:
            return "staged: no scratch array is allowed"
        least = best.facts.least_seconds + best.facts.scratch_seconds
        return (
            f"staged: at least {format_seconds(least)} against {format_seconds(best.seconds)}; "
            "everything would go through scratch once, to save nothing"
        )


def _total(option: _Option) -> tuple[int, int, int]:
    stages = option.stages
    moved = sum(s.work.scratch_write_bytes for s in stages)
    return sum(s.work.decodes for s in stages), moved, sum(s.work.objects for s in stages)


def _waits(option: _Option) -> bool:
    """Whether requests for scratch pieces take so long that fewer objects may pay."""
    facts = option.facts
    pieces = sum(s.work.objects for s in option.stages if s.scratch is not None)
    waiting = 2 * pieces * facts.job_rates.latency / facts.concurrency / facts.slots
    return waiting > 0.1 * option.seconds
