"""Predictions against what really happens: counts to the last one, memory within bounds."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback

from xchunk.core.cost import Rates
from xchunk.simulate.dask_adapter import SimulationError, capture
from xchunk.simulate.lazy import dask_arrays
from xchunk.simulate.predict import Profile, Profiler, Spent, predict, walk
from xchunk.simulate.signature import value_of
from xchunk.simulate.standin import Discard


def _detrend(block: xr.DataArray) -> xr.DataArray:
    return block * 1.5 - block.mean("lat")


def _anomaly(ds: xr.Dataset) -> xr.DataArray:
    groups = ds.a.groupby("time.month")
    return groups - groups.mean()


WORKLOADS: dict[str, Any] = {
    "mean": lambda ds: ds.a.mean("time"),
    "std": lambda ds: ds.a.std("time"),
    "quantile": lambda ds: ds.a.chunk(time=-1).quantile(0.9, "time"),
    "rolling": lambda ds: ds.a.rolling(time=10).mean(),
    "resample": lambda ds: ds.a.resample(time="MS").mean(),
    "climatology": lambda ds: ds.a.groupby("time.month").mean(),
    "anomaly": _anomaly,
    "correlation": lambda ds: xr.corr(ds.a, ds.b, "time"),
    "interp": lambda ds: ds.a.interp(lat=np.linspace(-79, 79, 50), lon=np.arange(0.5, 95, 2)),
    "dot": lambda ds: xr.dot(ds.a, ds.a.rename(lon="lon2"), dim=["time", "lat"]),
    "map_blocks": lambda ds: ds.a.map_blocks(_detrend, template=ds.a),
    "cumsum": lambda ds: ds.a.cumsum("time"),
}

CHUNKINGS = {
    "stored": {"time": 61, "lat": 48, "lon": 32},
    "series": {"time": -1, "lat": 48, "lon": 32},
    "maps": {"time": 61, "lat": -1, "lon": -1},
    "split": {"time": 100, "lat": 40, "lon": 50},
}

QUICK = [
    ("mean", "split"), ("std", "maps"), ("quantile", "series"), ("resample", "series"),
    ("climatology", "maps"), ("correlation", "series"), ("interp", "maps"), ("dot", "series"),
    ("map_blocks", "maps"), ("cumsum", "split"), ("rolling", "series"),
]  # fmt: skip

CASES = [
    pytest.param(w, c, marks=() if (w, c) in QUICK else pytest.mark.slow, id=f"{w}-{c}")
    for w in WORKLOADS
    for c in CHUNKINGS
]


def compute(lazy: Any, threads: int, gather: bool) -> dict[str, int]:
    """Run it, and watch."""
    arrays = list(dask_arrays(lazy))
    what: Any = arrays
    if not gather:
        targets = [Discard(a.shape, a.dtype) for a in arrays]
        what = da.store(arrays, targets, lock=False, compute=False)
    seen = {"tasks": 0}

    def count(*_: Any) -> None:
        seen["tasks"] += 1

    gc.collect()
    tracemalloc.start(1)
    before = tracemalloc.get_traced_memory()[0]
    try:
        with Callback(posttask=count):
            dask.compute(what, scheduler="threads", num_workers=threads)
        seen["heap"] = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return seen


@pytest.mark.parametrize(("workload", "chunks"), CASES)
def test_counts_and_memory(workload: str, chunks: str, opened: Any, reads: dict[str, int]) -> None:
    ds = opened(CHUNKINGS[chunks])
    lazy = WORKLOADS[workload](ds)
    gather = workload not in ("rolling", "anomaly", "map_blocks", "cumsum")
    reads.clear()
    found = predict(lazy, threads=1, gather=gather)
    assert reads == {}
    # what is imported and kept by the first run is no part of a workload
    dask.compute(ds.a[:2, :2, :2].data, scheduler="sync")
    reads.clear()
    real = compute(lazy, 1, gather)
    assert found.tasks == real["tasks"]
    assert {name: r.decodes for name, r in found.reads.items()} == reads
    assert found.heap == pytest.approx(real["heap"], rel=0.3, abs=1.5e6)


@pytest.mark.parametrize(
    ("change", "chunks", "less"),
    [
        (lambda ds: ds.a, "series", True),
        (lambda ds: ds.packed, "series", False),
        (lambda ds: ds.a, "maps", False),
        (lambda ds: ds.a.std("time"), "series", False),
    ],
    ids=["chunks after each other", "decoded again", "chunks side by side", "temporaries"],
)
def test_where_reading_makes_the_peak_less_is_touched(
    change: Any, chunks: str, less: bool, opened: Any
) -> None:
    found = predict(change(opened(CHUNKINGS[chunks])), threads=2, gather=False)
    assert found.touched <= found.heap
    assert (found.touched < 0.95 * found.heap) == less
    assert found.rss[0] == found.touched
    assert found.rss[1] > found.heap


@pytest.mark.parametrize("workload", ["mean", "std", "map_blocks"])
def test_two_threads_take_more(workload: str, opened: Any) -> None:
    lazy = WORKLOADS[workload](opened(CHUNKINGS["maps"]))
    one, two = (predict(lazy, threads=t, gather=False) for t in (1, 2))
    assert one.heap < two.heap <= 2.2 * one.heap
    assert two.seconds < one.seconds
    assert two.critical <= one.seconds
    assert (one.tasks, one.reads) == (two.tasks, two.reads)


def test_reads_that_split_chunks_are_amplified(opened: Any) -> None:
    lazy = opened({"time": 61, "lat": 96, "lon": 96}).a.mean()
    assert predict(lazy, threads=1).amplification == 1
    split = predict(opened({"time": 366, "lat": 12, "lon": 96}).a.mean(), threads=1)
    assert split.amplification == 4
    assert split.reads["a"].decodes == 4 * 36
    part = predict(opened({"time": 61, "lat": 48, "lon": 32}).a[:61].mean(), threads=1)
    assert (part.amplification, part.reads["a"].decodes) == (1, 6)


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.a[::7, 5:50],
        lambda ds: ds.a.isel(time=[3, 300, 5]),
        lambda ds: ds.a.isel(lat=40),
        lambda ds: ds.packed[:, 10:20],
        lambda ds: ds.a + ds.b[:50],
        lambda ds: ds.a.sel(lat=slice(40, -10)).transpose("lon", "lat", "time"),
        lambda ds: ds.a.where(ds.packed > 0.5),
        lambda ds: ds.a[:, :, ::-1],
    ],
    ids=["steps", "positions", "integer", "packed", "two", "labels", "where", "backwards"],
)
def test_reads_of_parts(change: Any, opened: Any, reads: dict[str, int]) -> None:
    lazy = change(opened(CHUNKINGS["split"])).max()
    found = predict(lazy, threads=2)
    reads.clear()
    lazy.compute(scheduler="sync")
    assert {name: r.decodes for name, r in found.reads.items()} == reads


def test_data_in_memory_are_not_read(opened: Any) -> None:
    lazy = opened().a.load().chunk(time=61).mean()
    found = predict(lazy, threads=1)
    assert found.reads == {}
    assert found.tasks > 6


@pytest.mark.parametrize("inline", [False, True])
def test_arrays_of_other_kinds(inline: bool) -> None:
    class Stored:
        shape, dtype, ndim = (400, 100), np.dtype("f8"), 2
        chunks = (100, 100)

        def __getitem__(self, index: Any) -> Any:
            raise AssertionError("it was read")

    array = da.from_array(
        Stored(), chunks=(200, 50), inline_array=inline, name="stored", meta=np.empty((0, 0))
    )
    found = predict((array + 1).sum(), threads=1)
    (one,) = found.reads.values()
    assert (one.requests, one.decodes, one.amplification) == (4, 8, 2)


@pytest.mark.parametrize("lazy", [xr.Dataset({"a": ("x", [1, 2])}), 3, [], np.ones(3)])
def test_nothing_lazy(lazy: Any) -> None:
    with pytest.raises(SimulationError, match="nothing lazy"):
        predict(lazy)


def test_what_fails_is_assumed() -> None:
    def fail(block: Any) -> Any:
        raise ValueError("not with these values")

    whole = da.from_array(np.ones((1000, 1000)), chunks=(500, 1000))
    array = whole.map_blocks(fail, dtype="f8", meta=np.empty(0))
    found = predict(array, threads=1)
    assert found.assumed >= 1
    assert found.heap >= 4e6
    assert "not with these values" in found.notes[0]


@pytest.mark.parametrize("cap", [3_000_000, 6_000_000])
def test_what_is_untried_is_not_reckoned_from_guesses(cap: int) -> None:
    blocks = da.ones((8, 1000, 1000), chunks=(1, 500, 1000))
    # one task takes 4 MB, the second what the first is taken to make, and the last 16 of these
    lazy = blocks.rechunk((1, 1000, 1000)).map_blocks(np.sort).sum()
    untried = walk(capture(lazy), Rates(), cap=cap, seconds=60).untried
    assert untried == (8_000_000 if cap < 8_000_000 else 0)


@pytest.mark.parametrize("guessed", [False, True])
def test_small_inputs_that_would_make_a_giant_are_not_tried(guessed: bool) -> None:
    column, row = (
        da.from_array(np.ones(s), chunks=5_000).rechunk(-1) for s in ((30_000, 1), (1, 20_000))
    )
    if guessed:
        row = (
            row.map_blocks(_fail, dtype="f8", meta=np.empty((0, 0))).rechunk((1, 9_000)).rechunk(-1)
        )
    graph = capture((column + row).sum())
    tracemalloc.start()
    walked = walk(graph, Rates(), cap=20_000_000, seconds=60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000
    assert walked.assumed
    assert guessed or walked.untried == 8 * 30_000 * 20_000


def _fail(block: Any) -> Any:
    raise ValueError("not with these values")


def test_a_view_is_not_guessed_to_show_more_than_it_is_given() -> None:
    profiler = Profiler(10**9, 0.0, Spent())
    tried = Profile(value_of(np.ones((1000, 10))), 0, (0,), 0, 0, 1e-4, 1e-4)
    profiler._layers["view"].append((80_000, tried))
    signature: Any = SimpleNamespace(deps=["block"], reads=[])
    found = profiler._guess([value_of(np.ones((10, 10)))], 0, signature, "view")
    assert (found.value.nbytes, found.own, found.views) == (800, 0, (0,))


@pytest.mark.parametrize(("timed", "least", "most"), [(False, 0.0, 0.1), (True, 10.0, 11.0)])
def test_slow_tasks_count_as_long_as_they_take_on_the_clock(
    timed: bool, least: float, most: float
) -> None:
    profiler = Profiler(10**9, 1.0, Spent(timed=timed))
    slow = Profile(value_of(np.ones(3)), 24, (), 24, 24, 1e-4, 5.0)
    assert least <= profiler._cost(24, slow) <= most


def test_other_threads_compute_meanwhile() -> None:
    results = []

    def elsewhere() -> None:
        results.append(int(da.ones(10, chunks=5).sum().compute()))

    class Slow(da.Array):
        def __dask_graph__(self) -> Any:
            other = threading.Thread(target=elsewhere)
            other.start()
            other.join()
            return super().__dask_graph__()

    array = da.ones(10, chunks=5)
    slow = Slow(array.dask, array.name, array.chunks, array.dtype)
    assert capture(slow).tasks >= 2
    assert results == [10]
    assert da.ones(4, chunks=2).sum().compute() == 4


def test_large_graphs_are_refused() -> None:
    from xchunk.simulate.predict import Effort

    with pytest.raises(SimulationError, match="tasks"):
        predict(da.ones(100, chunks=1) + 1, threads=1, effort=Effort(tasks=50))


def test_gathering_is_told() -> None:
    array = da.ones((3000, 1000, 10), chunks=(500, 1000, 10))
    apart, gathered = predict(array, threads=1), predict(array, threads=1, gather=True)
    # its blocks are all there when they are copied into one array
    assert apart.gathered == 2 * array.nbytes
    assert predict(array.rechunk(-1), threads=1).gathered == array.nbytes
    assert gathered.gathered == 0
    assert gathered.heap >= array.nbytes > apart.heap
