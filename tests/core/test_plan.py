"""Plans: what they must hold for any job, and what they are for well-known ones."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xchunk.core.cost import Rates, Work
from xchunk.core.grid import Axis, Grid
from xchunk.core.memory import PROCESS_OVERHEAD, CopyBuffers, MemoryBudget
from xchunk.core.plan.choose import plan_array
from xchunk.core.plan.planner import MORE_TASKS
from xchunk.core.plan.stages import ArrayPlan, CopyJob, Limits, RechunkPlan, Scratch, Stage
from xchunk.errors import InvalidChunksError, MemoryBudgetError
from xchunk.testing.strategies import parts

MB = 1_000_000


def job(shape, source, target, units=None, itemsize=4, **facts) -> CopyJob:
    grids = (Grid.of(shape, source), Grid.of(shape, target), Grid.of(shape, units or target))
    return CopyJob("a", tuple(shape), itemsize, *grids, **facts)


def budget(megabytes, threads=2, workers=1) -> MemoryBudget:
    """A budget of so much for boxes, besides what every process takes."""
    growth = int(megabytes * MB) + PROCESS_OVERHEAD
    return MemoryBudget.of_growth(growth, threads=threads, workers=workers)


def check(plan: ArrayPlan, given: MemoryBudget, limits: Limits = Limits()) -> None:  # noqa: B008
    """What must hold for every plan, whatever the job; counted one by one."""
    a_job = plan.job
    per_task = given.max_mem // plan.threads
    assert 1 <= plan.threads <= MORE_TASKS * max(1, given.threads)
    read: Grid = a_job.source
    for k, stage in enumerate(plan.stages):
        last = k == len(plan.stages) - 1
        assert (stage.scratch is None) == last
        assert stage.boxes.shape == a_job.shape
        if not (a_job.blocks and k == 0):
            assert stage.projected_mem <= per_task
            assert stage.work.tasks <= limits.tasks
        else:
            assert stage.boxes == a_job.source
        written = stage.written(a_job)
        regions = list(stage.boxes.regions())
        assert stage.work.tasks == len(regions)
        seen: Counter[tuple[int, ...]] = Counter()
        reads = 0
        covered = 0
        for region in regions:
            covered += math.prod(r.stop - r.start for r in region)
            keys = touched(written, region)
            for key in keys:
                part = [a.bounds(i) for a, i in zip(written.axes, key, strict=True)]
                assert all(
                    r.start <= lo and hi <= r.stop for r, (lo, hi) in zip(region, part, strict=True)
                )
            seen.update(keys)
            reads += len(touched(read, region))
        assert covered == math.prod(a_job.shape)
        assert set(seen.values()) == {1}
        assert len(seen) == written.count
        if k == 0:
            if a_job.source_chunked or a_job.blocks:
                assert stage.work.decodes == reads
        else:
            nbytes = math.prod(read.chunks) * a_job.itemsize
            assert stage.work.scratch_read_bytes == reads * nbytes
        if stage.scratch is not None:
            pieces = Grid.of(a_job.shape, stage.scratch.chunks)
            assert stage.work.scratch_write_bytes == (
                pieces.count * pieces.box_elements * a_job.itemsize
            )
            assert stage.work.objects == written.count <= limits.objects
            assert written.nests(pieces)
            read = pieces
        else:
            assert stage.work.objects == a_job.units.count
            assert stage.work.encodes == a_job.target.count


def touched(grid: Grid, region: tuple[slice, ...]) -> list[tuple[int, ...]]:
    """Indices of the parts that a region overlaps, by looking at each part."""
    per_dim = []
    for axis, r in zip(grid.axes, region, strict=True):
        hits = []
        for i in range(axis.count):
            start, stop = axis.bounds(i)
            if start < r.stop and r.start < stop:
                hits.append(i)
        per_dim.append(hits)
    return list(itertools.product(*per_dim))


SHAPES = [
    # name, job, MB, threads, family, decodes of each source chunk
    pytest.param(
        job((1460, 361, 720), (1, 361, 720), (1460, 19, 20)), 400, 2, "staged", 1.0, id="series"
    ),
    pytest.param(
        job((1460, 361, 720), (1460, 19, 20), (1, 361, 720)), 400, 2, "staged", 1.0, id="maps"
    ),
    pytest.param(
        job((1460, 361, 720), (1, 361, 720), (100, 100, 100)), 400, 2, "direct", 1.0, id="cubes"
    ),
    pytest.param(
        job((1460, 361, 720), (1, 361, 720), (1460, 19, 20), (1460, 95, 100)),
        600,
        2,
        "staged",
        1.0,
        id="sharded-target",
    ),
    pytest.param(job((5000, 5000), (1000, 1000), (999, 999)), 300, 2, "direct", 1.4, id="coprime"),
    pytest.param(job((5000, 5000), (1000, 1000), (999, 999)), 40, 1, None, 2.0, id="coprime-tight"),
    pytest.param(job((997, 991), (101, 103), (89, 97)), 20, 2, None, 1.5, id="primes"),
    pytest.param(job((997, 991), (997, 1), (1, 991)), 12, 2, None, 3.0, id="primes-transposed"),
    pytest.param(job((100, 1, 1), (10, 1, 1), (7, 1, 1)), 20, 2, "direct", 2.0, id="ones"),
    pytest.param(job((), (), ()), 20, 2, "direct", 1.0, id="scalar"),
    pytest.param(job((30, 40), (100, 100), (70, 80)), 20, 2, "direct", 1.0, id="longer-chunks"),
    pytest.param(job((1000, 1000), (10, 1000), (10, 1000)), 100, 2, "direct", 1.0, id="copy"),
    pytest.param(job((1000, 1000), (10, 1000), (100, 500)), 100, 2, "direct", 1.0, id="fits"),
    pytest.param(job((10**4, 1), (10**4, 1), (10, 1)), 60, 4, "direct", 4.0, id="column"),
    pytest.param(
        job((731, 100, 100), ((365, 366), 100, 100), (731, 10, 10)), 60, 2, None, 4.0, id="years"
    ),
    pytest.param(
        job((300, 60, 60), ((7, 50, 50, 50, 50, 50, 43), 60, 60), (300, 10, 10)),
        8,
        2,
        None,
        3.0,
        id="sliced",
    ),
    pytest.param(
        job((1460, 361, 720), (73, 361, 720), (1460, 19, 20), blocks=True),
        400,
        2,
        "staged",
        1.0,
        id="blocks",
    ),
    pytest.param(
        job((100, 60, 60), (20, 60, 60), (10, 30, 30), blocks=True),
        400,
        2,
        "direct",
        1.0,
        id="blocks-nested",
    ),
]


@pytest.mark.parametrize(("a_job", "mem", "threads", "family", "amplification"), SHAPES)
def test_known_shapes(a_job, mem, threads, family, amplification):
    given = budget(mem, threads)
    plan = plan_array(a_job, given)
    if math.prod(a_job.source.counts) < 3000:
        check(plan, given)
    assert family in {None, plan.family}
    assert plan.work.decodes <= amplification * a_job.source.count
    assert plan.runner_up
    assert plan.seconds > 0


def test_maps_to_series_decodes_once_in_few_boxes():
    plan = plan_array(job((1460, 361, 720), (1, 361, 720), (1460, 19, 20)), budget(400, 2))
    first, second = plan.stages
    assert (first.kind, second.kind) == ("read", "write")
    assert first.work.decodes == 1460
    assert first.boxes.count <= 25
    assert second.boxes.count <= 25
    assert second.work.scratch_read_bytes == first.work.scratch_write_bytes
    assert first.scratch is not None
    assert "direct" in plan.runner_up


@pytest.mark.parametrize(
    ("shape", "mem"),
    [((0,), 10), ((3, 0, 4), 10)],
)
def test_no_elements_no_stages(shape, mem):
    chunks = (2,) * len(shape)
    plan = plan_array(job(shape, chunks, chunks), budget(mem))
    assert (plan.family, plan.stages, plan.seconds) == ("empty", (), 0.0)
    assert plan.projected_mem == 0


def test_extreme_shape_goes_through_more_scratch_arrays():
    n = 10**6
    a_job = job((n, n), (1, n), (n, 1))
    plan = plan_array(a_job, budget(4000, 4))
    assert plan.family == "multi-stage"
    assert plan.work.decodes == n
    assert all(s.work.tasks <= Limits().tasks for s in plan.stages)
    for stage in plan.stages[:-1]:
        assert stage.work.objects <= Limits().objects
        assert math.prod(stage.scratch.chunks) * 4 >= 64_000
    plan.check_exclusive()


def test_petabyte():
    shape = (10**6, 721, 1440)
    plan = plan_array(job(shape, (1, 721, 1440), (8760, 20, 20)), budget(8000, 8))
    assert plan.work.decodes == 10**6
    assert all(s.work.tasks <= Limits().tasks for s in plan.stages)
    plan.check_exclusive()


@st.composite
def jobs(draw):
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, (200, 30, 12)[ndim - 1])) for _ in range(ndim))
    chunks = st.tuples(*(st.integers(1, n) for n in shape))
    how = draw(st.sampled_from(["chunks", "parts", "runs", "blocks"]))
    source: tuple = draw(chunks)
    if how == "parts":
        source = tuple(draw(parts(n)) for n in shape)
    target = draw(chunks)
    units = tuple(t * draw(st.integers(1, 3)) for t in target)
    return job(
        shape,
        source,
        target,
        units,
        itemsize=draw(st.sampled_from([1, 8, 100_000])),
        fused=draw(st.booleans()),
        scratch_files=draw(st.booleans()),
        unit_files=draw(st.booleans()),
        raw_files=draw(st.booleans()),
        source_chunked=how != "runs",
        source_compressed=draw(st.booleans()),
        blocks=how == "blocks",
    )


RATES = st.sampled_from(
    [
        Rates(),
        Rates(latency=0.05),
        Rates(bandwidth=5e7),
        Rates(serial_read=True),
        Rates(scratch_write=5e7, scratch_read=5e7),
        Rates(task=0.5),
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    jobs(),
    st.floats(4.1, 400),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([Limits(), Limits(tasks=30, objects=60), Limits(scratch=False)]),
    RATES,
    st.integers(1, 3),
)
def test_any_plan(  # noqa: PLR0917
    a_job, megabytes, threads, workers, limits, rates, concurrency
):
    given = budget(megabytes, threads, workers)
    more = {"rates": rates, "limits": limits, "concurrency": concurrency}
    try:
        plan = plan_array(a_job, given, **more)
    except InvalidChunksError as error:
        assert a_job.blocks
        few = a_job.source.count > min(limits.objects, limits.tasks)
        assert few if limits.scratch else "without a scratch array" in str(error)
        return
    except MemoryBudgetError as error:
        assert error.allowed == given.max_mem < error.smallest == error.needed
        enough = MemoryBudget.of_growth(error.smallest, threads=threads, workers=workers)
        check(plan_array(a_job, enough, **more), enough, limits)
        return
    assume(a_job.source.count < 2000)
    check(plan, given, limits)
    assert plan.family in {"direct", "staged", "multi-stage"}
    assert limits.scratch or plan.family == "direct"
    again = plan_array(a_job, given, **more)
    assert again == plan


@settings(max_examples=60, deadline=None)
@given(jobs(), st.floats(3, 400), st.integers(1, 3), st.randoms(use_true_random=False))
def test_permuting_the_dims_permutes_the_plan(a_job, megabytes, threads, random):
    assume(a_job.source_chunked)
    order = list(range(len(a_job.shape)))
    random.shuffle(order)
    pairs = zip(a_job.shape, a_job.source.axes, a_job.units.axes, a_job.target.axes, strict=True)
    assume(len({(n, s, u, t) for n, s, u, t in pairs}) == len(order))

    def turn(grid: Grid) -> Grid:
        return Grid(tuple(grid.axes[i] for i in order))

    turned = replace(
        a_job,
        shape=tuple(a_job.shape[i] for i in order),
        source=turn(a_job.source),
        target=turn(a_job.target),
        units=turn(a_job.units),
    )
    try:
        plan = plan_array(a_job, budget(megabytes, threads))
    except MemoryBudgetError as error:
        with pytest.raises(MemoryBudgetError) as other:
            plan_array(turned, budget(megabytes, threads))
        assert other.value.smallest == error.smallest
        return
    other_plan = plan_array(turned, budget(megabytes, threads))
    assert [s.boxes for s in other_plan.stages] == [turn(s.boxes) for s in plan.stages]
    assert other_plan.work == plan.work
    assert other_plan.seconds == pytest.approx(plan.seconds)
    assert other_plan.runner_up == plan.runner_up


def test_nothing_fits():
    a_job = job((100, 1000, 1000), (1, 1000, 1000), (100, 1000, 1000))
    with pytest.raises(MemoryBudgetError, match="do not fit") as caught:
        plan_array(a_job, budget(100, 4))
    error = caught.value
    assert 2 * 400 * MB < error.smallest < 4 * 400 * MB
    assert "max_mem=" in str(error)
    assert plan_array(a_job, MemoryBudget.of_growth(error.smallest, threads=4)).threads == 1
    with pytest.raises(MemoryBudgetError):
        plan_array(a_job, MemoryBudget.of_growth(int(error.smallest * 0.97), threads=4))


def test_too_many_tasks_names_the_budget_that_is_enough():
    a_job = job((1460, 361, 720), (1, 361, 720), (1460, 19, 20))
    limits = Limits(tasks=4)
    with pytest.raises(MemoryBudgetError, match="more than 4 tasks") as caught:
        plan_array(a_job, budget(100, 2), limits=limits)
    enough = MemoryBudget.of_growth(caught.value.smallest, threads=2)
    plan = plan_array(a_job, enough, limits=limits)
    assert all(s.work.tasks <= 4 for s in plan.stages)


def test_without_scratch_chunks_are_decoded_again():
    a_job = job((1460, 361, 720), (1, 361, 720), (1460, 19, 20))
    plan = plan_array(a_job, budget(400, 2), limits=Limits(scratch=False))
    assert plan.family == "direct"
    assert plan.work.decodes > 1460
    assert plan.runner_up == "staged: no scratch array is allowed"


def test_blocks_without_scratch_that_share_units_are_refused():
    a_job = job((10, 10), (3, 10), (2, 10), blocks=True)
    with pytest.raises(InvalidChunksError, match="without a scratch array"):
        plan_array(a_job, budget(100), limits=Limits(scratch=False))


def test_a_block_that_is_larger_than_the_budget_is_refused():
    a_job = job((4, 1000, 1000), (1, 1000, 1000), (4, 100, 100), blocks=True)
    with pytest.raises(MemoryBudgetError, match="one block") as caught:
        plan_array(a_job, budget(6, 1))
    enough = MemoryBudget.of_growth(caught.value.smallest)
    plan = plan_array(a_job, enough)
    assert plan.stages[0].boxes == a_job.source
    assert plan.projected_mem <= caught.value.smallest


def test_fewer_tasks_at_once_where_one_unit_fills_the_budget():
    a_job = job((64, 1000, 1000), (1, 1000, 1000), (64, 500, 500))
    plan = plan_array(a_job, budget(300, 8))
    assert plan.threads < 8
    check(plan, budget(300, 8))


def test_a_queue_and_gzip_take_room_for_more_chunks():
    a_job = job((1460, 361, 720), (10, 361, 720), (1460, 19, 20))
    for more in ({"fused": False}, {"read_copies": 4.0}):
        tight = replace(a_job, **more)
        plain, plan = (plan_array(j, budget(100, 1)).stages[0] for j in (a_job, tight))
        assert plan.boxes.box_elements < plain.boxes.box_elements
        assert plan.projected_mem <= 100 * MB


def test_slow_scratch_is_compressed():
    a_job = job((1460, 361, 720), (1, 361, 720), (1460, 19, 20))
    slow = Rates(scratch_write=3e8, scratch_read=3e8)
    packed = plan_array(a_job, budget(400, 2), rates=slow)
    plain = plan_array(a_job, budget(400, 2))
    assert packed.stages[0].scratch.compressor == "lz4"
    assert plain.stages[0].scratch.compressor == "none"


def test_few_objects_call_for_shards():
    n = 10**5
    limits = Limits(objects=2000)
    plan = plan_array(job((n, n), (1, n), (n, 1)), budget(400, 4), limits=limits)
    assert plan.work.decodes == n
    for stage in plan.stages[:-1]:
        shards, pieces = stage.scratch.shards, stage.scratch.chunks
        assert all(s % c == 0 for s, c in zip(shards, pieces, strict=True))
        assert stage.work.objects == stage.boxes.count <= 2000
    plan.check_exclusive()


def test_contiguous_source_is_cut_across_its_rows():
    """Rows of (1460, 361, 720) are read best in boxes whose last dim is whole."""
    a_job = job((1460, 361, 720), (1, 1, 720), (1460, 19, 20), source_chunked=False)
    plan = plan_array(a_job, budget(400, 2))
    assert plan.family == "direct"
    assert plan.stages[0].boxes.axes[2].count == 1
    assert plan.work.decoded_bytes == a_job.nbytes
    assert plan.work.runs == 1460 * plan.stages[0].boxes.axes[1].count


def test_contiguous_array_as_one_box_is_one_run():
    a_job = job((10, 20), (1, 20), (10, 20), source_chunked=False)
    assert plan_array(a_job, budget(100)).work.runs == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"source": Grid.of((10, 9), (5, 5))}, "source chunks are for an array"),
        ({"units": Grid.of((9,), (5,))}, "units chunks are for an array"),
        ({"target": Grid.of((10, 10), ((1, 9), 5))}, "one length along each dim"),
        ({"units": Grid.of((10, 10), ((1, 9), 5))}, "one length along each dim"),
        ({"source": Grid.of((10, 10), ((1, 9), 5)), "blocks": True}, "regular blocks first"),
    ],
)
def test_senseless_jobs_are_refused(change, match):
    with pytest.raises(InvalidChunksError, match=match):
        plan_array(replace(job((10, 10), (5, 5), (2, 2)), **change), budget(100))


def test_senseless_concurrency_is_refused():
    with pytest.raises(InvalidChunksError, match="concurrency=0"):
        plan_array(job((10,), (5,), (2,)), budget(100), concurrency=0)


def test_shared_keys_are_found():
    a_job = job((10,), (5,), (4,))
    boxes = Grid((Axis.regular(10, 6),))
    stage = Stage("direct", boxes, None, Work(tasks=2), CopyBuffers(24, 20, 16))
    with pytest.raises(InvalidChunksError, match="two tasks would write one storage key"):
        ArrayPlan(a_job, (stage,), "direct", 1.0, 1).check_exclusive()
    scratch = Stage("read", boxes, Scratch((3,), (6,)), Work(tasks=2), CopyBuffers(24, 20, 12))
    ArrayPlan(a_job, (scratch,), "staged", 1.0, 1).check_exclusive()


def test_plans_survive_pickling_and_become_json():
    import json

    plan = plan_array(job((1460, 361, 720), (1, 361, 720), (1460, 19, 20)), budget(400, 2))
    assert pickle.loads(pickle.dumps(plan)) == plan
    whole = RechunkPlan((plan,), budget(400, 2), Rates(), "series.zarr")
    said = json.loads(json.dumps(whole.to_dict()))
    assert said["arrays"][0]["family"] == "staged"
    assert said["projected_mem"] <= 400 * MB
    assert whole["a"] is plan
    assert whole.tasks == plan.work.tasks


def test_scratch_of_three_stages_exists_two_at_a_time():
    n = 10**6
    plan = plan_array(job((n, n), (1, n), (n, 1)), budget(4000, 4))
    written = [s.work.scratch_write_bytes for s in plan.stages]
    assert plan.scratch_nbytes == max(a + b for a, b in itertools.pairwise(written))
