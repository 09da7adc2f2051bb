"""The search against exhaustive search, and the columns against exact counting."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid, ceildiv
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.model import (
    FULL,
    ChainModel,
    Columns,
    Dim,
    Facts,
    Geometry,
    Table,
    _figures,
    chain_table,
    direct_table,
    lengths,
    pairs_of,
    pairs_with,
)
from xchunk.core.plan.planner import Option, Planner
from xchunk.core.plan.stages import CopyJob, Limits

ITEM = 1_000_000


def job(shape, source, target, units=None, **facts) -> CopyJob:
    grids = (Grid.of(shape, source), Grid.of(shape, target), Grid.of(shape, units or target))
    return CopyJob("a", tuple(shape), ITEM, *grids, **facts)


def planner(a_job: CopyJob, max_mem: int, threads: int = 2, **more) -> Planner:
    given = {"rates": Rates(), "limits": Limits(), "concurrency": 1} | more
    return Planner(a_job, MemoryBudget.of_growth(max_mem, threads=threads), **given)


@st.composite
def jobs(draw, most=6, dims=(1, 2), unchunked=True):
    shape = tuple(draw(st.lists(st.integers(1, most), min_size=dims[0], max_size=dims[1])))
    lengths_of = st.tuples(*(st.integers(1, n) for n in shape))
    how = draw(st.sampled_from(["chunks", "chunks", "parts", *["runs", "blocks"] * unchunked]))
    source = draw(lengths_of)
    if how == "parts":
        source = tuple(
            draw(st.permutations(_parts(n, c))) for n, c in zip(shape, source, strict=True)
        )
    target = draw(lengths_of)
    units = draw(
        st.sampled_from([target, tuple(min(n, 2 * c) for n, c in zip(shape, target, strict=True))])
    )
    units = tuple(u if u % c == 0 else c for u, c in zip(units, target, strict=True))
    files = {name: draw(st.booleans()) for name in ("scratch_files", "unit_files", "raw_files")}
    facts = {"source_chunked": how != "runs", "blocks": how == "blocks", **files}
    return job(shape, source, target, units, **facts)


def _parts(n, longest):
    return [longest] * (n // longest) + ([n % longest] if n % longest else [])


def ways_to_chain(n: int, unit: int, first: list[int] | None = None):
    """Every (box, piece, box) of a dim that two stages could have."""
    for b1 in first or range(1, n + 1):
        for c in range(1, n + 1):
            if b1 < n and b1 % c:
                continue
            for k in range(1, ceildiv(n, unit) + 1):
                yield b1, c, min(k * unit, n)


def best_by_force(facts: Facts, stages: int) -> float:
    """The cost of the cheapest plan of all that the search space holds."""
    axes = zip(facts.job.source.axes, facts.job.units.axes, strict=True)
    first = [[s.chunk] if facts.job.blocks else None for s in facts.job.source.axes]
    if stages == 1:
        dims = [
            [(b,) for b in (f or {min(k * u.chunk, s.size) for k in range(1, u.count + 1)})]
            for (s, u), f in zip(axes, first, strict=True)
        ]
    else:
        dims = [
            list(ways_to_chain(s.size, u.chunk, f)) for (s, u), f in zip(axes, first, strict=True)
        ]
    best = math.inf
    for combination in itertools.product(*dims):
        by_stage = list(zip(*combination, strict=True))
        option = Option.of(Geometry(tuple(by_stage[0::2]), tuple(by_stage[1::2])), facts)
        if option.seconds < best and allowed(option):
            best = option.seconds
    return best


def allowed(option: Option) -> bool:
    facts = option.facts
    for k, stage in enumerate(option.stages):
        own = facts.job.blocks and k == 0
        if stage.projected_mem > facts.per_task:
            return False
        if not own and stage.work.tasks > facts.limits.tasks:
            return False
        if stage.scratch is not None and stage.work.objects > facts.limits.objects:
            return False
    return True


@settings(max_examples=120, deadline=None)
@given(jobs(most=12), st.integers(8, 300), st.integers(1, 4), st.integers(3, 50))
def test_direct_plan_is_the_cheapest_of_all(a_job, elements, threads, tasks):
    p = planner(a_job, elements * ITEM, threads, limits=Limits(tasks=tasks))
    facts = p.facts(elements * ITEM, threads)
    if not p.can_be_direct:
        return
    found = p.search(facts, 1)
    best = best_by_force(replace(facts, job=p.job), 1)
    assert (found.seconds if found else math.inf) == pytest.approx(best, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    jobs(most=5),
    st.integers(6, 120),
    st.integers(1, 3),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([Limits(), Limits(tasks=5), Limits(objects=9)]),
)
def test_staged_plan_is_the_cheapest_of_all(a_job, elements, threads, way, limits):
    p = planner(a_job, elements * ITEM, threads, limits=limits)
    facts = replace(p.facts(elements * ITEM, threads), packed=way[0], sharded=way[1])
    found = p.search(facts, 2)
    best = best_by_force(facts, 2)
    assert (found.seconds if found else math.inf) == pytest.approx(best, rel=1e-9)


def full_table(dim: Dim) -> Table:
    columns = np.array(sorted(set(ways_to_chain(dim.size, dim.unit)))).T
    return _figures(dim, [columns[0], columns[2]], [columns[1]])


def ratios(seed: int, dims: int, most: int, cases: int) -> list[float]:
    """How much dearer staged plans are than the cheapest of all, where lengths are chosen."""
    rng = np.random.default_rng(seed)
    out = []
    while len(out) < cases:
        shape = tuple(int(n) for n in rng.integers(FULL + 1, most, dims))
        source, target = (tuple(int(rng.integers(1, n + 1)) for n in shape) for _ in range(2))
        a_job = job(shape, source, target)
        least = 2 * math.prod(source) + 4 * math.prod(target)
        p = planner(a_job, int(least * rng.uniform(0.6, 4)) * ITEM, 1)
        facts = p.facts(p.budget.max_mem, 1)
        model = ChainModel(facts, Columns(2))
        rows = np.ones((1, model.columns.width))
        for dim in p._dims(-1):
            rows = (rows[:, None, :] * full_table(dim)[None, :, :]).reshape(-1, rows.shape[1])
            rows = rows[model.fits(rows)]
        best = model.cost(rows).min(initial=math.inf)
        found = p.search(facts, 2)
        if best < math.inf:
            out.append(found.seconds / best if found else math.inf)
    return out


@pytest.mark.parametrize(("dims", "most", "cases"), [(1, 90, 60), (2, 22, 6)])
def test_staged_plan_of_longer_dims_is_near_the_cheapest(dims, most, cases):
    """Beyond dims of 16 elements lengths are chosen, not all tried."""
    found = ratios(1, dims, most, cases)
    assert min(found) >= 1 - 1e-9
    assert max(found) <= 1.15
    assert float(np.median(found)) <= 1.01


@settings(max_examples=150, deadline=None)
@given(jobs(most=30, dims=(1, 3)), st.integers(1, 4), st.tuples(st.booleans(), st.booleans()))
def test_columns_say_what_exact_counting_says(a_job, stages, way):
    p = planner(a_job, 10**15)
    facts = replace(p.facts(10**15, 2), packed=way[0], sharded=way[1])
    model = ChainModel(facts, Columns(stages))
    places = [-1] if a_job.source_chunked or a_job.blocks else range(len(a_job.shape))
    for at in places:
        tables = p._make(stages, at)
        rng = np.random.default_rng(0)
        for _ in range(5):
            rows = [t[rng.integers(len(t))] for t in tables]
            total = np.prod(rows, axis=0)[None, :]
            by_dim = [r.astype(int) for r in rows]
            geometry = Geometry(
                tuple(tuple(int(r[k]) for r in by_dim) for k in range(stages)),
                tuple(
                    tuple(int(r[model.columns.piece(k)]) for r in by_dim) for k in range(stages - 1)
                ),
            )
            option = Option.of(geometry, facts)
            cost = float(model.cost(total)[0])
            if a_job.source_chunked or a_job.blocks:
                assert cost == pytest.approx(option.seconds, rel=1e-9)
            else:
                # runs are counted for the dim at which the table cuts them; whole dims have fewer
                assert cost >= option.seconds * (1 - 1e-9)
            peak = max(s.projected_mem for s in option.stages)
            for bound, fits in ((peak, True), (peak - 1, False)):
                tight = ChainModel(replace(facts, per_task=bound), model.columns)
                if a_job.source_chunked and peak:
                    assert bool(tight.fits(total)[0]) is fits
            assert model.at_least(total)[0] <= cost * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(jobs(most=9), st.integers(8, 200), st.integers(1, 4))
def test_no_plan_is_faster_than_the_floor(a_job, elements, threads):
    p = planner(a_job, elements * ITEM, threads)
    facts = p.facts(elements * ITEM, threads)
    for stages in (1, 2):
        found = p.search(facts, stages) if stages > 1 or p.can_be_direct else None
        assert found is None or found.seconds >= facts.floor(stages - 1) * (1 - 1e-9)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_pairs_of_agrees_with_axis(n, a, b):
    a, b = min(a, n), min(b, n)
    many = pairs_of(n, np.array([a]), np.array([b]))
    assert many[0] == Axis.regular(n, a).pairs(Axis.regular(n, b))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 50))
def test_pairs_with_agrees_with_axis(parts, box):
    source = Axis.of(sum(parts), parts)
    box = min(box, source.size)
    counted = pairs_with(source, np.array([box, box]))
    assert list(counted) == [Axis.regular(source.size, box).pairs(source)] * 2


def test_pairs_of_does_not_overflow():
    n = 2**40
    a, b = 2**31 - 1, 2**31 + 11
    assert pairs_of(n, np.array([a]), np.array([b]))[0] == Axis.regular(n, a).pairs(
        Axis.regular(n, b)
    )


@pytest.mark.parametrize(
    ("size", "base", "most", "near"),
    [(10**9, 1, 32, None), (10**9, 7, 96, 10**5), (100, 3, 50, None), (5, 9, 4, None)],
)
def test_lengths_are_few_and_legal(size, base, most, near):
    found = lengths(size, [base], most, near)
    assert size in found
    assert all(b % base == 0 or b == size for b in found)
    assert len(found) <= most + 2


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize(
    "dim",
    [
        Dim(1000, Axis.regular(1000, 1), 1000),
        Dim(1000, Axis.regular(1000, 1000), 7),
        Dim(997, Axis.regular(997, 100), 99),
        Dim(10**6, Axis.regular(10**6, 1), 10**6),
        Dim(1, Axis.regular(1, 1), 1),
        Dim(50, Axis.regular(50, 10), 7, fixed=True),
        Dim(12, Axis.of(12, (5, 4, 3)), 5),
    ],
    ids=lambda d: f"{d.size}-{d.source.chunk}-{d.unit}" if isinstance(d, Dim) else None,
)
def test_every_row_writes_whole_pieces_and_units(dim, stages):
    col, table = Columns(stages), chain_table(dim, stages)
    assert table.shape[1] == col.width
    assert (table >= 1).all()
    for row in table.astype(int):
        for k in range(stages - 1):
            box, piece = row[col.box(k)], row[col.piece(k)]
            assert box == dim.size or box % piece == 0
        last = row[col.box(stages - 1)]
        assert last == dim.size or last % dim.unit == 0


def test_work_of_a_search_does_not_grow_with_the_array():
    """Counted, not timed: combinations looked at, for a thousand and a billion chunks."""
    visited = []
    for n in (10**3, 10**6):
        a_job = CopyJob(
            "a",
            (n, 721, 1440),
            4,
            Grid.of((n, 721, 1440), (1, 721, 1440)),
            Grid.of((n, 721, 1440), (n, 10, 10)),
            Grid.of((n, 721, 1440), (n, 10, 10)),
        )
        p = planner(a_job, 32 * 10**9, 8)
        assert p.options()
        visited.append(p.visited)
    assert max(visited) < 400_000


def test_direct_table_is_exhaustive_for_short_dims():
    table = direct_table(Dim(90, Axis.regular(90, 7), 3))
    assert [int(b) for b in table[:, 0]] == list(range(3, 91, 3))
