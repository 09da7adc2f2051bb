"""Stores that answer late: chunks in flight are chosen together with tasks at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import IN_FLIGHT, CopyJob, plan_array

SHAPE = (400, 360, 720)
JOB = CopyJob(
    "v",
    SHAPE,
    4,
    source=Grid.of(SHAPE, (1, 360, 720)),
    target=Grid.of(SHAPE, (400, 30, 30)),
    units=Grid.of(SHAPE, (400, 30, 30)),
    fused=False,
)
FAR = replace(JOB, near=False)


def test_a_near_store_has_one_chunk_in_flight() -> None:
    assert plan_array(JOB, MemoryBudget.of_growth(10**8, threads=2)).concurrency == 1


@pytest.mark.parametrize("mb", [60, 200, 1000])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_far_store_has_several_within_the_budget(mb: int, threads: int) -> None:
    budget = MemoryBudget.of_growth(mb * 10**6, threads=threads)
    plan = plan_array(FAR, budget)
    assert 1 < plan.concurrency <= IN_FLIGHT
    assert plan.worker_mem <= budget.max_mem
    assert all(s.buffers.concurrency == plan.concurrency + 2 for s in plan.stages)
    one = plan_array(FAR, budget, concurrency=1)
    assert plan.seconds < one.seconds / 2


def test_with_little_memory_fewer_are_in_flight() -> None:
    small, large = (
        plan_array(FAR, MemoryBudget.of_growth(n * 10**6)).concurrency for n in (30, 1000)
    )
    assert 1 <= small < large


def test_the_smallest_budget_does_not_need_several() -> None:
    near = replace(FAR, near=True)
    least = MemoryBudget.of_growth(19_000_000)
    assert plan_array(FAR, least).worker_mem <= 19_000_000
    assert plan_array(near, least, rates=Rates.usual(near=False)).concurrency == 1
