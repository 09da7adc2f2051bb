"""The replays against dask itself, and on graphs small enough to know the answer."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
from dask.callbacks import Callback
from dask.task_spec import Task, TaskRef
from hypothesis import given, settings
from hypothesis import strategies as st

from xchunk.core.cost import Rates
from xchunk.simulate.dask_adapter import Graph
from xchunk.simulate.predict import walk
from xchunk.simulate.replay import Step, on_racing_threads, on_threads, on_workers
from xchunk.simulate.signature import arrays_in, root_of


def chain(n: int) -> list[Step]:
    return [Step((i - 1,) if i else (), 10, (), 15, 1.0, i, i == n - 1) for i in range(n)]


def test_a_chain_holds_two_results() -> None:
    found = on_threads(chain(5), 4, {})
    assert (found.live, found.heap, found.seconds) == (10, 25, 5.0)


def test_leaves_of_a_sum_run_side_by_side() -> None:
    leaves = [Step((), 10, (), 12, 1.0, i) for i in range(6)]
    total = Step(tuple(range(6)), 1, (), 1, 1.0, 6, True)
    found = on_threads([*leaves, total], 3, {})
    assert (found.heap, found.seconds) == (66, 3.0)


@pytest.mark.parametrize(
    ("touched", "most"), [(None, 66), (8, 61), (12, 66)], ids=["not known", "less", "all"]
)
def test_what_is_reserved_and_not_touched(touched: int | None, most: int) -> None:
    leaves = [Step((), 10, (), 12, 1.0, i, touched=touched) for i in range(6)]
    total = Step(tuple(range(6)), 1, (), 1, 1.0, 6, True)
    found = on_threads([*leaves, total], 3, {})
    assert (found.heap, found.touched) == (66, most)


def pairs() -> list[Step]:
    """Tasks of which each second one has a high peak; all of them wait for the first."""
    out = [Step((), 1, (), 1, 1.0, 0)]
    for i in range(40):
        out += [Step((0,), 0, (), 100, 1.0, 2 * i + 1), Step((0,), 0, (), 1, 1.0, 2 * i + 2)]
    return out


@pytest.mark.parametrize(("threads", "heap"), [(1, 101), (2, 201)], ids=["one", "two"])
def test_peaks_that_equal_times_keep_apart(threads: int, heap: int) -> None:
    plain = on_threads(pairs(), threads, {})
    assert plain.heap == 100 + threads
    found = on_racing_threads(pairs(), threads, {})
    assert (found.heap, found.live, found.seconds) == (heap, 1, plain.seconds)
    # and so it is each time
    assert found == on_racing_threads(pairs(), threads, {})


def test_large_graphs_are_replayed_once() -> None:
    steps = pairs() * 100
    assert on_racing_threads(steps, 2, {}) == on_threads(steps, 2, {})


def test_views_keep_what_they_show() -> None:
    steps = [
        Step((), 100, (), 100, 1.0, 0),
        Step((0,), 0, (0,), 0, 1.0, 1),
        Step((1,), 5, (), 5, 1.0, 2, True),
    ]
    found = on_threads(steps, 1, {})
    assert (found.live, found.heap) == (100, 105)


def test_constants_are_there_from_the_start() -> None:
    steps = [Step((), 0, (), 0, 0.0, 0), Step((0,), 7, (), 7, 1.0, 1, True)]
    assert on_threads(steps, 1, {0: "x"}).heap == 7


def test_workers_share_and_send() -> None:
    leaves = [Step((), 10, (), 10, 1.0, i, size=10) for i in range(4)]
    total = Step((0, 1, 2, 3), 1, (), 1, 1.0, 4, True)
    found = on_workers([*leaves, total], 2, 1)
    assert found.moved == 20
    assert found.heap == 41
    assert on_workers([*leaves, total], 1, 1).moved == 0


@st.composite
def graphs(draw: Any) -> list[tuple[tuple[int, ...], int]]:
    n = draw(st.integers(1, 12))
    out = []
    for i in range(n):
        deps = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        out.append((tuple(sorted(deps)), draw(st.integers(1, 5)) * 100_000))
    return out


def _make(size: int, *inputs: Any) -> Any:
    return np.zeros(size, np.uint8)


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_live_bytes_are_those_of_dask(shape: list[tuple[tuple[int, ...], int]]) -> None:
    names = [f"t{i}" for i in range(len(shape))]
    used = {d for deps, _ in shape for d in deps}
    outputs = [names[i] for i in range(len(shape)) if i not in used]
    nodes = {
        name: Task(name, _make, size, *(TaskRef(names[d]) for d in deps))
        for name, (deps, size) in zip(names, shape, strict=True)
    }
    live = []

    def look(key: Any, value: Any, graph: Any, state: Any, worker: Any) -> None:
        roots = {id(root_of(a)): a.nbytes for v in state["cache"].values() for a in arrays_in(v)}
        live.append(sum(roots.values()))

    with Callback(posttask=look):
        dask.get(nodes, outputs)
    walked = walk(Graph(nodes, frozenset(outputs)), Rates(), cap=10**9, seconds=60)
    assert on_threads(walked.steps, 1, walked.constants).live == max(live)
    # more workers never hold more, all together, than there is
    cluster = on_workers(walked.steps, 2, 1)
    assert cluster.heap <= 2 * sum(size for _, size in shape)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_time_is_bounded(threads: int) -> None:
    steps = [Step((), 1, (), 1, 1.0, i, True) for i in range(10)]
    assert on_threads(steps, threads, {}).seconds == -(-10 // threads)
