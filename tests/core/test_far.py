"""Stores that answer late: requests in flight are chosen together with tasks at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.memory import FETCH_COPIES, IN_FLIGHT, PROCESS_OVERHEAD, CopyBuffers, MemoryBudget
from xchunk.core.plan.choose import plan_array
from xchunk.core.plan.stages import CopyJob

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
STREAMED = replace(FAR, streamed=True, read_copies=FETCH_COPIES)


def most(job: CopyJob, budget: MemoryBudget) -> int:
    """The most requests that all tasks of a plan read at once."""
    plan = plan_array(job, budget)
    assert plan.worker_mem <= budget.max_mem
    return plan.threads * max(s.buffers.reads for s in plan.stages)


def test_a_near_store_has_one_request_in_flight() -> None:
    plan = plan_array(JOB, MemoryBudget.of_growth(10**8, threads=2))
    assert {(s.buffers.reads, s.buffers.writes, s.buffers.flight) for s in plan.stages} == {
        (1, 1, 0)
    }
    assert plan.threads <= 2


@pytest.mark.slow  # some seconds a search
@pytest.mark.parametrize("mb", [60, 200, 1000])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("job", [FAR, STREAMED], ids=["zarr", "streamed"])
def test_a_far_store_has_several_within_the_budget(job: CopyJob, mb: int, threads: int) -> None:
    budget = MemoryBudget.of_growth(mb * 10**6, threads=threads)
    assert most(job, budget) > threads
    one = plan_array(job, budget, concurrency=1)
    assert plan_array(job, budget).seconds <= one.seconds


def test_more_tasks_run_at_once_than_compute() -> None:
    """Where each of them has one request on its way."""
    plan = plan_array(STREAMED, MemoryBudget.of_growth(10**9, threads=2), concurrency=1)
    assert plan.threads > 2


def test_blocks_are_computed_by_no_more_tasks_than_there_are_threads() -> None:
    blocks = replace(FAR, blocks=True, source=Grid.of(SHAPE, (400, 30, 360)))
    assert plan_array(blocks, MemoryBudget.of_growth(10**9, threads=2)).threads <= 2


def test_a_mount_that_answers_late_has_more_tasks_at_once() -> None:
    """Files are read one after the other within a task, however long each takes."""
    rates = replace(Rates(), latency=0.05)
    files = replace(JOB, fused=True)
    plan = plan_array(files, MemoryBudget.of_growth(10**9, threads=2), rates=rates)
    assert plan.threads > 2
    assert all(s.buffers.reads == 1 for s in plan.stages)


def test_with_little_memory_fewer_are_in_flight() -> None:
    small, large = (most(FAR, MemoryBudget.of_growth(n * 10**6)) for n in (30, 1000))
    assert 1 <= small < large


def test_the_smallest_budget_does_not_need_several() -> None:
    near = replace(FAR, near=True)
    least = MemoryBudget.of_growth(19_000_000)
    assert plan_array(FAR, least).worker_mem <= 19_000_000
    plan = plan_array(near, least, rates=Rates.usual(near=False))
    assert all(s.buffers.reads == 1 for s in plan.stages)


@pytest.mark.parametrize(
    ("flight", "queued", "expected"),
    [
        pytest.param(0, (0, 0), (1, 1), id="one by one"),
        pytest.param(1000, (0, 0), (10, 5), id="as many as the bytes hold"),
        pytest.param(1000, (1, 0), (9, 5), id="one is decoded meanwhile"),
        pytest.param(50, (0, 0), (1, 1), id="one at least"),
        pytest.param(10**9, (0, 0), (IN_FLIGHT, IN_FLIGHT), id="not without end"),
    ],
)
def test_requests_in_flight_are_bound_by_their_bytes(
    flight: int, queued: tuple[int, int], expected: tuple[int, int]
) -> None:
    buffers = CopyBuffers(
        0, 50, 100, queued=queued, flight=flight, read_copies=2.0, write_copies=2.0
    )
    assert (buffers.reads, buffers.writes) == expected
    assert buffers.in_flight >= flight


@pytest.mark.slow
def test_clients_of_far_stores_are_part_of_the_budget() -> None:
    budget = MemoryBudget.of_growth(60_000_000, threads=2)
    served = replace(STREAMED, clients=20_000_000)
    plan, alone = plan_array(served, budget), plan_array(STREAMED, budget)
    assert plan.worker_mem <= 60_000_000
    assert plan.worker_mem - plan.threads * plan.projected_mem == PROCESS_OVERHEAD + 20_000_000
    assert plan.threads * plan.projected_mem < alone.threads * alone.projected_mem


def test_a_store_that_copies_what_it_sends_is_sent_less_at_once() -> None:
    copying = replace(STREAMED, sent_copies=5.0)
    for stage in plan_array(copying, MemoryBudget.of_growth(60_000_000, threads=2)).stages:
        assert stage.buffers.write_copies == 5.0
        assert stage.buffers.requests.copies == 5.0
        assert stage.buffers.requests.write == 5 * stage.buffers.write_unit


def test_what_is_sent_as_it_is_encoded_is_held_once() -> None:
    """Besides, one chunk is held twice: as its values, and as the encoder's bound."""
    for stage in plan_array(STREAMED, MemoryBudget.of_growth(60_000_000, threads=2)).stages:
        buffers = stage.buffers
        requests = buffers.requests
        assert requests.write + requests.spare <= requests.nbytes == int(buffers.in_flight)
        assert min(2, buffers.writes) * requests.write <= requests.nbytes
    copying = plan_array(replace(STREAMED, sent_copies=2.2), MemoryBudget.of_growth(60_000_000))
    sending = plan_array(STREAMED, MemoryBudget.of_growth(60_000_000))
    assert sending.seconds <= copying.seconds


@pytest.mark.parametrize(
    ("near", "measured", "expected"),
    [
        pytest.param(True, None, Rates.latency, id="a disk"),
        pytest.param(True, 0.0001, Rates.latency, id="a fast disk"),
        pytest.param(True, 0.004, Rates.latency, id="a disk that is busy"),
        pytest.param(True, 0.045, 0.05, id="a mount"),
        pytest.param(False, None, 0.02, id="not measured"),
        pytest.param(False, 0.0, 0.005, id="no less than far stores take"),
        pytest.param(False, 0.0231, 0.02, id="in steps"),
        pytest.param(False, 0.16, 0.2, id="far"),
        pytest.param(False, 30.0, 1.0, id="out of reach"),
    ],
)
def test_measured_latencies_are_taken_in_steps(
    near: bool, measured: float | None, expected: float
) -> None:
    assert Rates.usual(near=near, latency=measured).latency == expected


@pytest.mark.parametrize(
    ("job", "queued"),
    [
        pytest.param(FAR, (2, 2), id="chunks"),
        pytest.param(replace(FAR, units=Grid.of(SHAPE, (400, 60, 60))), (2, 0), id="shards"),
        pytest.param(
            replace(FAR, near=True, units=Grid.of(SHAPE, (400, 60, 60))), (2, 2), id="near shards"
        ),
    ],
)
def test_shards_in_far_stores_are_given_to_zarr_one_by_one(
    job: CopyJob, queued: tuple[int, int]
) -> None:
    budget = MemoryBudget.of_growth(60_000_000, threads=2)
    plan = plan_array(job, budget)
    assert plan.stages[-1].buffers.queued == queued
    assert plan.stages[0].buffers.queued == ((2, 2) if len(plan.stages) > 1 else queued)
    assert plan.worker_mem <= budget.max_mem
