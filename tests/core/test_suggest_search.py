"""The search against brute force, and what must hold of every pass it finds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid, near_equal
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest.access import AccessPattern
from xchunk.core.suggest.lazy_pass import (
    LazyPass,
    PassModel,
    best_pass,
    dim_candidates,
    item_nbytes,
)

SCAN = AccessPattern("scan")


def stored(
    shape: tuple[int, ...], chunks: tuple[int | tuple[int, ...], ...], dtype: str = "f8"
) -> ArrayLayout:
    dims = tuple("abcd"[: len(shape)])
    kind = np.dtype(dtype)
    return ArrayLayout("v", dims, shape, kind, kind, chunks, format="zarr3", codecs=("zstd",))


def brute_force(model: PassModel) -> float | None:
    """The lowest rank of all blocks that are multiples of stored chunks, or whole dims."""
    v = model.layout
    grid = Grid.of(v.shape, v.chunks or ())
    best = math.inf
    lengths = [
        [min(m * axis.chunk, n) for m in range(1, axis.count + 1)]
        for axis, n in zip(grid.axes, v.shape, strict=True)
    ]
    for block in itertools.product(*lengths):
        blocks = Grid.of(v.shape, block)
        elements = blocks.box_elements
        task = model.task_mem(float(elements), 1.0, False)
        column = math.prod(
            n if d in model.twice else b for d, n, b in zip(v.dims, v.shape, block, strict=True)
        )
        if model.worker_mem(task, elements, column, blocks.count) > model.budget.max_mem:
            continue
        reads = blocks.pairs(grid)
        seconds = model.seconds(float(blocks.count), float(v.size), float(reads), 0.0)
        best = min(best, float(model.rank(seconds, float(blocks.count), float(elements))))
    return best if math.isfinite(best) else None


TWICE = AccessPattern("corr", reduces=("a",), methods={"a": "corr"})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pattern", [SCAN, TWICE], ids=["scan", "over a dim twice"])
def test_aligned_blocks_are_the_best_of_all(pattern: AccessPattern, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(100):
        ndim = int(rng.integers(1, 4))
        shape = tuple(int(n) for n in rng.integers(1, 40, ndim))
        chunks = tuple(int(rng.integers(1, n + 1)) for n in shape)
        layout = stored(shape, chunks)
        budget = MemoryBudget.of_growth(
            int(8 * math.prod(chunks) * 2 ** rng.uniform(0.5, 10)),
            threads=int(rng.integers(1, 5)),
            workers=int(rng.integers(1, 4)),
        )
        # rates at which bytes, requests and tasks of such small arrays all matter
        rates = Rates(
            decode=float(rng.choice([1e4, 1e6])),
            latency=float(rng.choice([0.0, 1e-3])),
            task=float(rng.choice([1e-5, 1e-3, 1e-1])),
        )
        model = PassModel(layout, pattern, budget, rates)
        best = best_pass(layout, pattern, budget, rates)
        expected = brute_force(model)
        if expected is None:
            assert best is None or best.splits
        else:
            assert best is not None
            assert not best.splits
            assert best.rank == pytest.approx(expected, rel=1e-12)
            found += 1
    assert found > 50


def axes() -> st.SearchStrategy[Axis]:
    regular = st.tuples(st.integers(1, 300), st.integers(1, 300)).map(
        lambda t: Axis.regular(t[0], min(t))
    )
    irregular = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(
        lambda parts: Axis.of(sum(parts), parts)
    )
    return regular | irregular


@given(axes(), st.booleans(), st.integers(0, 30))
def test_what_candidates_say_is_what_their_blocks_do(axis: Axis, split: bool, halo: int) -> None:
    for c in dim_candidates(axis, split=split, halo=halo).items:
        chunk = near_equal(axis, c.base) if c.chunk is None else c.chunk
        cut = Axis.of(axis.size, chunk)
        assert cut.count == c.blocks
        assert cut.chunk == c.base
        for i in range(cut.count):
            start, stop = cut.bounds(i)
            touched = axis.touched(start, stop)
            if c.splits and not cut.nests(axis):
                inside = (
                    len(touched) == 1
                    or all(cut.has_edge(axis.bounds(j)[0]) for j in touched[1:])
                    or (axis.has_edge(start) and axis.has_edge(stop))
                )
                assert inside, "a block straddles the edge of a stored chunk that is split"
        if halo:
            continue
        assert c.length == c.base
        assert c.reads == cut.pairs(axis)
        assert c.touched >= cut.most_touched(axis) - (0 if axis.is_regular else 1)
        decoded = sum(
            axis.bounds(j)[1] - axis.bounds(j)[0]
            for i in range(cut.count)
            for j in axis.touched(*cut.bounds(i))
        )
        assert c.decoded == decoded


def test_candidates_of_a_billion_chunks_are_few() -> None:
    found = dim_candidates(Axis.regular(10**9, 1)).items
    assert len(found) < 400
    assert {1, 10**9} <= {c.blocks for c in found}


layouts = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.tuples(*[st.integers(1, 400)] * n),
        st.tuples(*[st.integers(1, 400)] * n),
        st.sampled_from(["i2", "f4", "f8"]),
        st.sampled_from(["i2", "f4"]),
        st.sampled_from(["zarr3", "netcdf4", "memory", "contiguous", "dask"]),
        st.sets(st.integers(0, n - 1)),
    )
)


def check(layout: ArrayLayout, pattern: AccessPattern, budget: MemoryBudget, p: LazyPass) -> None:
    """Whole dims are whole, stored chunks are not straddled, and nothing is above the budget."""
    assert set(p.chunks) == set(layout.dims)
    assert p.worker_mem <= budget.max_mem
    assert p.projected_mem * budget.threads <= p.worker_mem + budget.threads  # rounding
    cut = Grid.of(layout.shape, tuple(p.chunks[d] for d in layout.dims))
    assert cut.count == p.tasks
    assert cut.box_elements * item_nbytes(layout.dtype) <= p.block_nbytes
    for d, axis in zip(layout.dims, cut.axes, strict=True):
        if d in pattern.whole:
            assert axis.count == 1
    if layout.chunks is not None:
        grid = Grid.of(layout.shape, layout.chunks)
        for axis, chunks in zip(cut.axes, grid.axes, strict=True):
            assert axis.nests(chunks) or chunks.nests(axis)
        assert p.decodes == cut.pairs(grid)
        assert p.splits == (not cut.nests(grid))
        assert (p.amplification > 1) <= p.splits


@given(layouts, st.floats(0.2, 22), st.integers(1, 4), st.booleans())
def test_every_pass_keeps_its_word(
    drawn: tuple[tuple[int, ...], tuple[int, ...], str, str, str, set[int]],
    power: float,
    threads: int,
    reduces: bool,
) -> None:
    shape, chunks, dtype, stored_dtype, kind, whole = drawn
    chunks = tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
    contiguous = kind in ("contiguous", "memory")
    layout = ArrayLayout(
        "v",
        tuple("abcd"[: len(shape)]),
        shape,
        np.dtype(dtype),
        np.dtype(stored_dtype),
        None if contiguous else chunks,
        format="netcdf4" if kind == "contiguous" else kind,
        codecs=() if contiguous else ("zstd",),
    )
    pattern = AccessPattern(
        "drawn",
        tuple(layout.dims[i] for i in sorted(whole)),
        reduces=layout.dims[:1] if reduces else (),
    )
    budget = MemoryBudget.of_growth(int(100 * 2**power), threads=threads, workers=2)
    found = best_pass(layout, pattern, budget, Rates())
    if found is not None:
        check(layout, pattern, budget, found)
    else:
        # nothing less than the smallest blocks was asked for
        one = math.prod(n for d, n in layout.sizes.items() if d in pattern.whole)
        assert layout.size > 10**6 or budget.max_mem < threads * (
            20 * one * 8 + 25 * math.prod(chunks) * 8 + 1
        )


def test_a_halo_is_paid_for() -> None:
    layout = stored((10_000, 50, 50), (10, 50, 50))
    budget = MemoryBudget.of_growth(2**30, threads=2)
    plain = best_pass(layout, SCAN, budget, Rates())
    rolling = best_pass(layout, AccessPattern("r", halo={"a": 95}), budget, Rates())
    assert plain is not None
    assert rolling is not None
    assert plain.amplification == 1 < rolling.amplification < 1.5


def test_blocks_end_at_periods_where_chunks_do() -> None:
    layout = stored((3650, 200, 200), (5, 200, 200))
    ends = tuple(range(365, 3650, 365))
    pattern = AccessPattern("yearly", groups={"a": ends})
    found = best_pass(layout, pattern, MemoryBudget.of_growth(2**31, threads=2), Rates())
    assert found is not None
    edges = Axis.of(3650, found.chunks["a"])
    assert all(edges.bounds(i)[0] % 365 == 0 for i in range(edges.count))
    assert found.decodes == 730
