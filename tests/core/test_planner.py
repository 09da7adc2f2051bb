"""The planner against exhaustive search, and its limits; `benchmarks/planner` has more cases."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from core.oracle import job, random_cases
from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.memory import PROCESS_OVERHEAD, MemoryBudget
from xchunk.core.plan.choose import plan_array
from xchunk.core.plan.planner import Planner
from xchunk.core.plan.stages import CopyJob, Limits
from xchunk.core.units import parse_bytes
from xchunk.errors import MemoryBudgetError

MB = 1_000_000


@pytest.mark.parametrize(
    ("stages", "dims", "sizes", "cases"),
    [
        (1, 1, (1, 97), 40),
        (1, 2, (1, 97), 40),
        (2, 1, (1, 17), 40),
        (2, 2, (1, 9), 20),
        (3, 1, (1, 9), 30),
        (3, 2, (1, 6), 10),
        pytest.param(1, 3, (1, 30), 60, marks=pytest.mark.slow),
        pytest.param(2, 1, (1, 17), 300, marks=pytest.mark.slow),
        pytest.param(3, 1, (1, 9), 200, marks=pytest.mark.slow),
    ],
)
def test_the_search_is_exact_for_short_dims(
    stages: int, dims: int, sizes: tuple[int, int], cases: int
) -> None:
    """Direct up to 96 units along a dim, staged up to 16 elements, three stages up to 8."""
    for case in itertools.islice(random_cases(5, stages, dims, sizes), cases):
        assert case.ratio == pytest.approx(1, rel=1e-9), case


@pytest.mark.parametrize(
    ("stages", "dims", "sizes", "cases", "worst"),
    [
        (2, 1, (17, 80), 40, 1.10),
        (2, 2, (17, 30), 4, 1.05),
        (3, 1, (9, 14), 12, 1.20),
        pytest.param(2, 1, (17, 120), 500, 1.6, marks=pytest.mark.slow),
        pytest.param(3, 1, (9, 22), 60, 1.20, marks=pytest.mark.slow),
    ],
)
def test_the_search_comes_near_for_longer_dims(
    stages: int, dims: int, sizes: tuple[int, int], cases: int, worst: float
) -> None:
    judged = itertools.islice(random_cases(6, stages, dims, sizes), cases)
    found = np.array([case.ratio for case in judged])
    assert found.min() >= 1 - 1e-9
    assert np.median(found) <= 1.001
    assert np.quantile(found, 0.9) <= 1.05
    assert found.max() <= worst


def large(shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]) -> CopyJob:
    return CopyJob("v", shape, 4, *(Grid.of(shape, c) for c in (source, target, target)))


@pytest.mark.parametrize(
    ("shape", "source", "target"),
    [
        ((10**9, 100, 100), (1, 100, 100), (10**6, 10, 10)),
        ((10**5,) * 3, (100,) * 3, (250, 40, 1000)),
        ((240_000_000, 721, 1440), (1, 721, 1440), (8760, 20, 20)),
        ((10**6, 10**6), (1, 10**6), (10**6, 1)),
        ((1000, 50, 100, 721, 1440), (1, 1, 20, 7, 1440), (1000, 1, 1, 20, 20)),
        ((10**6, 10**6), (1000, 1000), (999, 999)),
    ],
    ids=["maps", "cubes", "petabyte", "columns", "five dims", "coprime"],
)
def test_large_arrays_are_planned_with_little_work(
    shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]
) -> None:
    """Counted, not timed: combinations looked at, whatever the number of stored chunks."""
    given = MemoryBudget.of_growth(512 * 10**9, threads=16, workers=64)
    a_job, limits = large(shape, source, target), Limits()
    planner = Planner(a_job, given, rates=Rates(), limits=limits, concurrency=1)
    (best, *_) = planner.options()
    assert planner.visited < 1_000_000
    assert best.facts.per_task * best.facts.slots <= given.max_mem * given.workers
    plan = plan_array(a_job, given)
    plan.check_exclusive()
    for stage in plan.stages:
        assert stage.boxes.count <= limits.tasks
        assert stage.scratch is None or stage.work.objects <= limits.objects


def test_what_cannot_fit_is_not_searched() -> None:
    """So few boxes could not hold the array, however they are cut."""
    a_job = large((10**5,) * 3, (100,) * 3, (250, 40, 1000))
    planner = Planner(
        a_job,
        MemoryBudget.of_growth(10**9, threads=1),
        rates=Rates(),
        limits=Limits(),
        concurrency=1,
    )
    assert planner.options() == []
    assert planner._tables == {}


JOBS = {
    "series": (job((60, 40, 40), (1, 40, 40), (60, 5, 5), itemsize=1000), Limits()),
    "sharded": (job((60, 40), (7, 40), (6, 4), (30, 20), itemsize=20_000), Limits()),
    "files": (
        job((60, 40, 40), (1, 40, 40), (60, 5, 5), itemsize=1000, scratch_files=True),
        Limits(),
    ),
    "few tasks": (job((60, 40, 40), (1, 40, 40), (60, 5, 5), itemsize=1000), Limits(tasks=7)),
    "few objects": (
        job((60, 40, 40), (1, 40, 40), (60, 5, 5), itemsize=1000),
        Limits(objects=50, tasks=30),
    ),
    "no scratch": (job((61, 43), (9, 43), (61, 4), itemsize=40_000), Limits(scratch=False)),
    "irregular": (job((50, 30), ((3, 40, 7), 30), (50, 3), itemsize=30_000), Limits()),
    "runs": (job((40, 50), (1, 50), (40, 5), itemsize=10_000, source_chunked=False), Limits()),
    "coprime": (job((100, 100), (10, 10), (9, 9), itemsize=100_000), Limits()),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow)
        if n in ("few tasks", "few objects", "coprime")
        else n
        for n in JOBS
    ],
)
def test_the_smallest_budget_is_the_smallest(name: str) -> None:
    a_job, limits = JOBS[name]
    with pytest.raises(MemoryBudgetError) as caught:
        plan_array(a_job, MemoryBudget.of_growth(PROCESS_OVERHEAD, threads=3), limits=limits)
    smallest = caught.value.smallest
    assert plan_array(a_job, MemoryBudget.of_growth(smallest, threads=3), limits=limits).stages
    # the budget as it is shown, in three digits, is enough too
    shown = str(caught.value).partition("max_mem=")[2]
    shown = shown.partition("Give max_mem=")[2] or shown
    size = parse_bytes(" ".join(shown.split()[:2]))
    assert smallest <= size <= smallest * 1.011 + 1
    for share in (0.998, 0.99, 0.97, 0.9, 0.8, 0.6, 0.3):
        less = MemoryBudget.of_growth(int(smallest * share), threads=3)
        with pytest.raises(MemoryBudgetError) as again:
            plan_array(a_job, less, limits=limits)
        assert again.value.smallest == pytest.approx(smallest, rel=2e-3, abs=128)


def budget(megabytes: float, threads: int = 2) -> MemoryBudget:
    return MemoryBudget.of_growth(int(megabytes * MB) + PROCESS_OVERHEAD, threads=threads)


SHAPES = {
    "a sharded source": (
        job((1460, 361, 720), (10, 361, 720), (1460, 19, 20), itemsize=4, source_sharded=True),
        "staged",
    ),
    "sharded source and target": (
        job(
            (1460, 361, 720), (10, 361, 720), (1460, 19, 20), (1460, 38, 40), itemsize=4,
            source_sharded=True,
        ),
        "staged",
    ),
    "the same in files": (
        job(
            (1460, 361, 720), (10, 361, 720), (1460, 19, 20), (1460, 38, 40), itemsize=4,
            scratch_files=True, unit_files=True,
        ),
        "staged",
    ),
    "files along two dims": (
        job((731, 200, 200), ((365, 366), (90, 110), 200), (731, 20, 20), itemsize=4),
        None,
    ),
    "dask tuples in every dim": (
        job((100, 90), ((10, 1, 80, 9), (30, 30, 29, 1)), (25, 90), itemsize=1000),
        None,
    ),
    "coprime in three dims": (
        job((2000, 1000, 1000), (1000, 100, 100), (999, 99, 99), itemsize=4),
        None,
    ),
    "prime sizes": (job((1009, 997, 13), (101, 997, 1), (1009, 31, 13), itemsize=8), None),
    "one element": (job((1,), (1,), (1,), itemsize=8), "direct"),
    "longer chunks than dims": (job((3, 5), (100, 100), (50, 70), itemsize=8), "direct"),
    "one row": (job((1, 10**6), (1, 1000), (1, 10**6), itemsize=8), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_odd_sources_and_targets(name: str) -> None:
    a_job, family = SHAPES[name]
    plan = plan_array(a_job, budget(400))
    plan.check_exclusive()
    assert family in (None, plan.family)
    assert plan.projected_mem <= budget(400).max_mem // plan.threads
    assert plan.amplification <= 4
    assert plan.runner_up
    assert plan == plan_array(a_job, budget(400))


@pytest.mark.parametrize(
    ("a_job", "limits", "said"),
    [
        (job((1460, 361, 720), (1, 361, 720), (1460, 19, 20), itemsize=4), Limits(), "decodes"),
        (job((100, 100), (10, 100), (20, 100), itemsize=4), Limits(), "staged: "),
        (
            job((1460, 361, 720), (1, 361, 720), (1460, 19, 20), itemsize=4),
            Limits(scratch=False),
            "no scratch array is allowed",
        ),
        (
            job((10, 10), (3, 10), (2, 10), itemsize=MB, blocks=True),
            Limits(),
            "blocks do not hold whole write units",
        ),
    ],
    ids=["direct loses", "staged loses", "no scratch", "blocks"],
)
def test_the_runner_up_and_why_it_lost(a_job: CopyJob, limits: Limits, said: str) -> None:
    assert said in plan_array(a_job, budget(400), limits=limits).runner_up


def test_scratch_is_not_sharded_where_zarr_cannot() -> None:
    """Where few objects are allowed, boxes are written as one; if zarr can."""
    n, limits = 10**5, Limits(objects=2000)
    a_job = job((n, n), (1, n), (n, 1), itemsize=4)
    plan = plan_array(a_job, budget(400, 4), limits=limits)
    assert any(s.scratch is not None and s.scratch.shards for s in plan.stages)
    plain = replace(a_job, shardable=False)
    try:
        plan = plan_array(plain, budget(400, 4), limits=limits)
    except MemoryBudgetError as error:
        enough = MemoryBudget.of_growth(error.smallest, threads=4)
        plan = plan_array(plain, enough, limits=limits)
    assert not any(s.scratch is not None and s.scratch.shards for s in plan.stages)


def test_a_shard_in_a_file_takes_no_more_memory_than_a_piece() -> None:
    """So that one scratch array is enough where zarr, which holds shards, needs two."""
    by_zarr = job((1460, 361, 720), (1, 361, 720), (1460, 19, 20), itemsize=4)
    by_file = replace(by_zarr, scratch_files=True, unit_files=True)
    small = budget(12, 1)
    slow, fast = plan_array(by_zarr, small), plan_array(by_file, small)
    assert (slow.family, fast.family) == ("multi-stage", "staged")
    first = fast.stages[0]
    assert first.scratch is not None
    assert first.scratch.shards is not None
    assert first.buffers.write_unit == math.prod(first.scratch.chunks) * 4
    assert first.work.objects == first.boxes.count
    assert fast.work.requests == fast.work.decodes + 684 + fast.work.opened + fast.work.made
    assert fast.seconds < slow.seconds


def test_the_chunks_of_a_shard_are_written_to_a_file_one_by_one() -> None:
    a_job = job((1000, 1000), (10, 1000), (1000, 10), (1000, 1000), itemsize=4)
    held, one_by_one = (
        plan_array(replace(a_job, unit_files=way), budget(20, 1)).stages[-1].buffers
        for way in (False, True)
    )
    assert (held.write_unit, one_by_one.write_unit) == (4_000_000, 40_000)


def test_no_elements_no_plan() -> None:
    for shape in ((0,), (0, 5), (3, 0, 1)):
        one = (1,) * len(shape)
        plan = plan_array(job(shape, one, one), budget(1))
        assert (plan.family, plan.stages, math.prod(shape)) == ("empty", (), 0)
