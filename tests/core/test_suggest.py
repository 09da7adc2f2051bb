"""What is advised for real and awkward layouts, and whether it keeps to the memory."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest import lazy_pass, suggestion
from xchunk.core.suggest.access import AccessPattern
from xchunk.core.suggest.suggestion import (
    Suggestion,
    VariableSuggestion,
    suggest_array,
    suggest_dataset,
)
from xchunk.errors import InvalidChunksError, MemoryBudgetError

GB = 10**9


def layout(
    dims: str, shape: tuple[int, ...], chunks: Any, stored: str = "f4", /, **more: Any
) -> ArrayLayout:
    return ArrayLayout(
        more.pop("name", "v"),
        tuple(dims.split()),
        shape,
        np.dtype(more.pop("dtype", stored)),
        np.dtype(stored),
        chunks,
        **{"format": "zarr3", **more},
    )


def workers(memory: float, threads: int, count: int = 4) -> MemoryBudget:
    return MemoryBudget.of_memory(
        int(memory * GB), reserved=150_000_000, threads=threads, workers=count
    )


def advise(v: ArrayLayout, access: Any, budget: MemoryBudget, **more: Any) -> VariableSuggestion:
    return suggest_dataset([v], access, budget, **more).variables[v.name]


ERA5 = layout("time lat lon", (87600, 721, 1440), (1, 721, 1440), "i2", dtype="f8")
SP = layout("time lat lon", (1460, 181, 360), (365, 61, 60))

# The layouts for which peers give advice that fails, with the workers that people have.
SCENARIOS = [
    pytest.param(ERA5, {"time": -1}, {}, workers(4, 4), "stage", 1, id="quantile-over-time"),
    pytest.param(
        ERA5, {"time": -1, "lat": 1, "lon": 1}, {}, workers(4, 4), "stage", 1, id="series-at-points"
    ),
    pytest.param(
        layout("time lat lon", (16071, 720, 1440), (1, 720, 1440), "i2", dtype="f4",
               format="netcdf4"),
        None, {"reduce": ["time"]}, workers(8, 2), "chunk", 1, id="monthly-climatology",
    ),
    pytest.param(
        layout("time y x", (288, 5424, 5424), (1, 226, 226), "i2", dtype="f4", format="netcdf4"),
        {"y": -1, "x": -1}, {}, workers(8, 4), "chunk", 1, id="full-disk-frames",
    ),
    pytest.param(
        layout("time plev lat lon", (1980, 19, 192, 288), (1, 19, 192, 288), format="netcdf4"),
        None, {"reduce": ["time"]}, workers(16, 8), "chunk", 1, id="mean-over-time",
    ),
    pytest.param(
        layout("time y x", (3650, 600, 600), (365, 150, 150)),
        None, {"reduce": ["time"]}, workers(4, 2), "chunk", 1, id="good-already",
    ),
    pytest.param(
        layout("time lat lon", (12, 90, 180), (1, 90, 180)),
        None, {"reduce": ["time"]}, workers(8, 4), "load", 1, id="tiny",
    ),
    pytest.param(
        layout("member init lead lat lon", (100, 365, 40, 181, 360), (1, 1, 40, 181, 360)),
        {"member": -1}, {}, workers(8, 4), "chunk", 4, id="quantile-over-members",
    ),
    pytest.param(
        layout("time lat lon", (8760, 721, 1440), (24, 103, 144), shards=(240, 721, 1440)),
        None, {"rolling": {"time": 24}}, workers(16, 4), "chunk", 1.2, id="sharded-rolling",
    ),
    pytest.param(
        layout("time level lat lon", (1460, 37, 181, 360), (1, 37, 181, 360)),
        {"lat": -1, "lon": -1}, {}, workers(8, 4), "chunk", 1, id="maps-of-levels",
    ),
    pytest.param(SP, {"lat": -1, "lon": -1}, {}, workers(8, 4), "chunk", 1, id="maps-of-bricks"),
    pytest.param(
        layout("time lat lon", (14600, 400, 500), None, format="netcdf4"),
        {"time": -1}, {}, workers(4, 2), "chunk", 1, id="contiguous-trend",
    ),
    pytest.param(
        layout("time station", (200_000, 500), (1, 500), format="netcdf4"),
        None, {"reduce": ["time"]}, workers(4, 4), "chunk", 1, id="one-record-chunks",
    ),
    pytest.param(
        layout("time lat lon", (3650, 721, 1440), (365, 721, 1440)),
        None, {"reduce": ["time"]}, workers(4, 4), "chunk", 6, id="oversized-chunks",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("v", "access", "more", "budget", "action", "amplification"), SCENARIOS)
def test_scenarios(  # noqa: PLR0917 - a row of the table
    v: ArrayLayout,
    access: Any,
    more: dict[str, Any],
    budget: MemoryBudget,
    action: str,
    amplification: float,
) -> None:
    s = advise(v, access, budget, **more)
    assert s.action == action
    assert s.worker_mem <= budget.max_mem
    # windows have many tasks for each block
    blocks = Grid.of(v.shape, tuple(s.chunks.values())).count
    assert blocks <= 20_000
    if action == "stage":
        assert s.break_even_passes is not None
        assert s.break_even_passes < 1
        assert s.seconds_after is not None
        assert s.seconds_after < 0.8 * (s.seconds_now or math.inf)
    else:
        assert s.read_amplification <= amplification
    for d, n in (access or {}).items():
        if n == -1:
            assert s.chunks[d] == v.sizes[d]
    if action == "chunk":
        # blocks of a size that dask is good at, and enough of them; fewer threads take larger ones
        assert s.tasks >= min(budget.slots, v.n_chunks if v.is_chunked else 10**9, 4)
        assert 8e6 < v.nbytes / blocks < 400e6 * budget.threads / s.threads


@pytest.mark.parametrize(("v", "access", "more", "budget", "action", "amplification"), SCENARIOS)
def test_few_candidates_are_looked_at(  # noqa: PLR0917 - a row of the table
    v: ArrayLayout,
    access: Any,
    more: dict[str, Any],
    budget: MemoryBudget,
    action: str,
    amplification: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A suggestion's time is that of its candidates: some 100,000 of them take 50 ms."""
    looked: list[int] = []
    product = lazy_pass._product

    def counted(states: Any, column: Any, size: int, again: int) -> Any:
        looked.append(len(states.tasks) * len(column.items))
        return product(states, column, size, again)

    monkeypatch.setattr(lazy_pass, "_product", counted)
    advise(v, access, budget, **more)
    assert sum(looked) <= 100_000
    assert len(looked) <= 40
    # and a thousand times as many stored chunks do not make it a hundred times as long
    first = sum(looked)
    looked.clear()
    more = {k: x for k, x in more.items() if k != "rolling"}
    advise(replace(v, shape=(1000 * v.shape[0], *v.shape[1:])), access, workers(512, 4), **more)
    assert sum(looked) <= 100_000 + 50 * first
    assert len(looked) <= 100


def test_threads_that_cannot_work_are_told() -> None:
    v = layout("time lat lon", (3650, 721, 1440), (365, 721, 1440))
    s = advise(v, None, workers(4, 4), reduce="time")
    assert s.threads == 1
    assert s.binding == "threads"
    assert "workers with 1 thread" in s.why
    assert advise(v, None, workers(32, 4), reduce="time").threads == 4


def test_fewer_threads_are_offered_where_they_read_less() -> None:
    v = layout("member init lead lat lon", (100, 365, 40, 181, 360), (1, 1, 40, 181, 360))
    running = replace(workers(8, 4), running=True)
    s = advise(v, {"member": -1}, running)
    assert s.threads == 4
    assert s.read_amplification == pytest.approx(3)
    assert "With 1 thread for each worker" in s.why
    # workers that are still to be started may have as many threads as is best
    s = advise(v, {"member": -1}, workers(8, 4))
    assert (s.threads, s.binding, s.read_amplification) == (1, "threads", 1)
    assert "with 4 threads, blocks of member whole, init 1, lead whole, lat whole" in s.why


DAILY = layout("time lat lon", (14600, 180, 360), (100, 180, 360), codecs=("zstd",))


def block_nbytes(s: VariableSuggestion) -> int:
    return math.prod(s.chunks[d] if s.chunks[d] != -1 else n for d, n in s.layout.sizes.items()) * 4


@pytest.mark.parametrize(
    ("method", "copies"),
    [("mean", 2.4), ("std", 7.6), ("var", 7.6), ("median", 4.1)],
)
def test_copies_of_a_named_method_fit(method: str, copies: float) -> None:
    budget = workers(1, 2, 2)
    s = advise(DAILY, None, budget, reduce={"time": method})
    assert s.projected_mem >= int(copies * block_nbytes(s)) - 1
    assert s.worker_mem <= budget.max_mem
    assert "copies much" not in s.why


def test_what_is_not_named_leaves_room_where_it_costs_little() -> None:
    budget = workers(1, 2, 2)
    unnamed, mean = (advise(DAILY, None, budget, reduce=r) for r in ("time", {"time": "mean"}))
    assert 2 * 7.6 * block_nbytes(unnamed) < 1.3 * budget.max_mem
    assert block_nbytes(unnamed) < block_nbytes(mean)
    assert unnamed.seconds_now < 1.2 * mean.seconds_now
    # chunks that are large already are not split for it, but it is said
    large = layout("time lat lon", (14600, 180, 360), (365, 180, 360), codecs=("zstd",))
    s = advise(large, None, workers(1, 1), reduce="time")
    assert s.read_amplification == 1
    assert "copies much" in s.why


@pytest.mark.parametrize(("method", "held"), [("corr", 2), ("cov", 2)])
def test_what_goes_over_a_dim_twice_holds_all_of_it(method: str, held: int) -> None:
    """Blocks are small enough across the dim that all of a place fit, or the dim is whole."""
    stored = layout("time lat lon", (3650, 180, 360), (365, 180, 180), codecs=("zstd",))
    budget = workers(1, 2, 2)
    s = advise(stored, None, budget, reduce={"time": method})
    column = math.prod(n if d == "time" else s.chunks[d] for d, n in s.layout.sizes.items())
    whole = s.chunks["time"] in (-1, 3650)
    assert s.worker_mem <= budget.max_mem
    assert whole or held * 4 * column <= s.worker_mem
    assert "twice" not in s.why
    plain = advise(stored, None, budget, reduce={"time": "mean"})
    assert plain.chunks == {"time": 365, "lat": 180, "lon": 180}


def test_what_may_go_over_a_dim_twice_is_warned_of() -> None:
    stored = layout("time lat lon", (3650, 180, 360), (365, 180, 180), codecs=("zstd",))
    assert "goes over time twice" in advise(stored, None, workers(1, 2, 2), reduce="time").why
    assert "goes over time twice" not in advise(stored, None, workers(64, 2), reduce="time").why


def test_rolling_windows_leave_room_for_their_copies() -> None:
    stored = layout("time lat lon", (3650, 180, 360), (365, 180, 180), codecs=("zstd",))
    s = advise(stored, None, workers(1, 2), rolling={"time": 30})
    assert 7 * block_nbytes(s) * s.threads <= workers(1, 2).max_mem
    # also where what is done with the windows is named
    named = advise(stored, None, workers(1, 2), rolling={"time": 30}, reduce={"time": "mean"})
    assert 7 * block_nbytes(named) * named.threads <= workers(1, 2).max_mem


def test_only_the_dims_that_are_gone_over_twice_are_held() -> None:
    stored = layout("member time lat", (40, 4000, 500), (1, 400, 500), codecs=("zstd",))
    s = advise(stored, None, workers(1, 2), reduce={"time": "corr", "member": "mean"})
    both = advise(stored, None, workers(1, 2), reduce={"time": "corr", "member": "corr"})
    # of one member all times fit, of all members they do not
    assert s.read_amplification == 1
    assert both.chunks != s.chunks


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(InvalidChunksError, match="'stdd' is not a method whose memory is known"):
        advise(DAILY, None, workers(1, 2), reduce={"time": "stdd"})
    with pytest.raises(InvalidChunksError, match="no dim 'day'"):
        advise(DAILY, None, workers(1, 2), reduce={"day": "std"})


def test_maps_to_series_is_staged() -> None:
    v = layout("time lat lon", (1460, 361, 720), (1, 361, 720), codecs=("zstd",))
    s = advise(v, "timeseries", workers(2, 2, 1))
    assert s.action == "stage"
    assert s.target_chunks[0] == 1460
    assert 1e6 <= math.prod(s.target_chunks) * 4 <= 16e6
    assert s.target_shards is None
    for d, c in zip(v.dims, s.target_chunks, strict=True):
        assert s.chunks[d] == v.sizes[d] or s.chunks[d] % c == 0
    assert s.chunks["time"] == 1460


def test_a_series_over_series_is_lazy() -> None:
    v = layout("time lat lon", (1460, 361, 720), (1460, 19, 20), codecs=("zstd",))
    s = advise(v, "timeseries", workers(2, 2, 1))
    assert s.action == "chunk"
    assert s.read_amplification == 1
    assert s.target_chunks == (1460, 19, 20)
    assert s.break_even_passes is None


def test_passes_decide() -> None:
    v = layout("time y x", (288, 5424, 5424), (1, 226, 226), "i2", dtype="f4", format="netcdf4")
    once = advise(v, {"y": -1, "x": -1}, workers(8, 4))
    often = advise(v, {"y": -1, "x": -1}, workers(8, 4), passes=50)
    assert (once.action, often.action) == ("chunk", "stage")
    assert 1 < (once.break_even_passes or 0) < 50


@pytest.mark.parametrize(
    "chunks", [(12, 180, 360), (1, 180, 360), None], ids=["maps", "map", "runs"]
)
def test_random_samples_are_read_one_by_one(chunks: Any) -> None:
    v = layout("time lat lon", (1460, 180, 360), chunks, codecs=("zstd",) if chunks else ())
    shape = {"time": 24, "lat": 45, "lon": 45}
    few, many = (
        advise(v, {"samples": shape}, workers(1, 2, 1), passes=passes) for passes in (0.01, 50)
    )
    assert few.action == "chunk"
    if chunks:
        # larger blocks than the stored chunks would be read in vain
        assert tuple(few.chunks.values()) == chunks
        assert few.read_amplification > 20
        assert many.action == "stage"
        assert max(many.target_chunks) < 64
        assert many.seconds_after < many.seconds_now / 1.5
        assert "at a random place" in many.why
    else:
        assert many.action == "chunk"
        assert tuple(many.chunks.values()) == tuple(shape.values())


MAPS = layout("time lat lon", (1460, 121, 240), (1, 121, 240))


def test_cores_are_not_left_idle_for_a_gain_that_is_not_sure() -> None:
    advice = advise(MAPS, {"time": -1}, workers(2.1, 2, 1))
    assert advice.action == "stage"
    assert advice.tasks > 1
    assert advice.close_call


def test_threads_without_work_are_told() -> None:
    series = layout("time lat lon", (1460, 121, 240), (1460, 121, 240))
    advice = advise(series, {"time": -1}, workers(8, 4, 1))
    assert (advice.action, advice.tasks) == ("chunk", 1)
    assert "Only 1 task for 4 threads: the others are idle." in advice.why


def test_windows_that_read_much_again_have_a_rechunk_proposed() -> None:
    budget = MemoryBudget.of_growth(200_000_000, threads=2)
    advice = advise(MAPS, None, budget, rolling={"time": 120})
    assert advice.target_chunks[0] == 1460
    assert advice.action == "stage" or "a rechunk to (1460" in advice.runner_up


@pytest.mark.parametrize("workers_", [1, 2])
def test_the_tasks_of_windows_are_counted(workers_: int) -> None:
    budget = MemoryBudget.of_growth(2**29, threads=2, workers=workers_)
    plain = advise(MAPS, None, budget)
    short, long = (advise(MAPS, None, budget, rolling={"time": n}) for n in (5, 50))
    assert plain.tasks < 50 < 5 * short.tasks < long.tasks
    assert plain.seconds_now is not None
    assert short.seconds_now is not None
    assert long.seconds_now is not None
    assert plain.seconds_now < short.seconds_now / 2 < long.seconds_now / 10
    assert "Windows are built one by one" in long.why
    # the process that builds the graph holds it too
    block = math.prod(long.chunks.values())
    assert long.worker_mem >= (long.tasks * 2000 if workers_ == 1 else 0) + 4 * block


def test_windows_for_which_there_is_no_room_are_told_of() -> None:
    budget = MemoryBudget.of_growth(30_000_000, threads=2)
    with pytest.raises(MemoryBudgetError, match="1801 tasks of moving windows"):
        advise(MAPS, None, budget, rolling={"time": 120})


@pytest.mark.parametrize(
    ("growing", "files", "most"),
    [({"time": 24}, 1, 96), ("time", 1, 584), ("time", 12, 484), ({"time": 5000}, 1, 1460)],
    ids=["said", "unknown", "by files", "more than there is"],
)
def test_chunks_of_a_growing_dim_hold_a_few_appends(growing: Any, files: int, most: int) -> None:
    s = suggest_dataset([replace(MAPS, files=files)], "scan", workers(2.1, 2, 1), growing=growing)
    one = suggest_dataset([replace(MAPS, files=files)], {"time": -1}, workers(2.1, 2, 1),
                          growing=growing).variables["v"]  # fmt: skip
    assert one.target_chunks[0] == most
    assert s.variables["v"].target_chunks[0] <= most
    assert "time grows by" in s.notes[0]


@pytest.mark.parametrize("growing", ["tme", {"time": 0}, {"time": True}, 7])
def test_what_cannot_grow_is_refused(growing: Any) -> None:
    with pytest.raises(InvalidChunksError, match="growing"):
        suggest_dataset([MAPS], "scan", workers(2.1, 2, 1), growing=growing)


def test_very_many_chunks_are_sharded() -> None:
    s = advise(ERA5, "timeseries", workers(4, 4))
    assert s.target_shards is not None
    assert Grid.of(ERA5.shape, s.target_chunks).count > 100_000
    assert Grid.of(ERA5.shape, s.target_shards).count <= 100_000
    assert all(a % b == 0 for a, b in zip(s.target_shards, s.target_chunks, strict=True))


def test_the_objects_of_all_variables_are_counted() -> None:
    one = layout("time lat lon", (23_000, 721, 1440), (1, 721, 1440))
    alone = advise(one, "timeseries", workers(4, 2))
    assert alone.target_shards is None
    assert 10_000 < Grid.of(one.shape, alone.target_chunks).count < 100_000
    many = [replace(one, name=f"v{i}") for i in range(8)]
    found = suggest_dataset(many, "timeseries", workers(4, 2)).variables.values()
    assert {v.target_chunks for v in found} == {alone.target_chunks}
    assert sum(Grid.of(one.shape, v.target_shards or (1, 1, 1)).count for v in found) <= 10_000
    assert "which are 780 objects" in next(iter(found)).why


@pytest.mark.parametrize(
    ("kind", "n", "said"),
    [
        ("zarr3", 721, None),
        ("zarr2", 721, r"format 2, which has no shards: 259,920 chunks .* they are 8,190: give"),
        ("zarr3", 100_000, r"writes [\d,]{7} objects \(files\): .* shards= of your own, "),
    ],
)
def test_objects_that_remain_many_are_said(kind: str, n: int, said: str | None) -> None:
    v = layout("time lat lon", (184_000, n, 1440), (1, 721, 1440), format=kind)
    s = suggest_dataset([v], "timeseries", MemoryBudget.of_growth(8 * GB, threads=1))
    notes = suggestion.objects_notes(s)
    assert notes == () if said is None else len(notes) == 1 and re.search(said, notes[0])
    assert ("zarr_format=3" in str(s)) == (kind == "zarr2")


def test_mixtures_compromise() -> None:
    v = layout("time lat lon", (10_000, 500, 500), (1, 500, 500), codecs=("zstd",))
    uses = [("timeseries", 0.5), ("map", 0.5)]
    mixed = advise(v, uses, workers(4, 2), passes=20)
    series = advise(v, "timeseries", workers(4, 2))
    time, *space = mixed.target_chunks
    assert 1 < time < 10_000 == series.target_chunks[0]
    assert all(n > 1 for n in space)
    # Rew's balance: either use touches about as many chunks as the other
    touched = [math.ceil(10_000 / time), math.prod(math.ceil(500 / n) for n in space)]
    assert max(touched) / min(touched) < 4


COORDS = [
    layout("time", (20_000,), (1,), "i8", dtype="M8[ns]", name="time", is_coord=True),
    layout("lat", (361,), (361,), "f8", name="lat", is_coord=True),
    layout("", (), (), "i4", name="crs", is_coord=True),
]


def test_coordinates_are_one_chunk() -> None:
    v = layout("time lat", (20_000, 361), (1, 361), name="t")
    s = suggest_dataset([v, *COORDS], "timeseries", workers(4, 2))
    assert s.encoding["time"] == {"chunks": (20_000,)}
    assert s.variables["time"].action == "load"
    assert "crs" not in s.encoding
    assert s.variables["crs"].chunks == {}
    assert s["time"] == 20_000


def test_variables_may_disagree() -> None:
    u = layout("time level lat lon", (1460, 37, 181, 360), (1, 37, 181, 360), name="u")
    sp = layout("time lat lon", (1460, 181, 360), (365, 61, 60), name="sp")
    mask = layout("lat lon", (181, 360), (181, 360), name="mask")
    s = suggest_dataset([u, sp, mask], "map", workers(8, 4))
    assert s.chunks["u"]["time"] != s.chunks["sp"]["time"]
    assert dict(s) == s.chunks["u"]
    assert s.action == "chunk"
    assert "u: " in s.why
    assert "sp: " in s.why
    json.dumps(s.to_dict(), allow_nan=False)
    assert isinstance(s, Suggestion)


AWKWARD = [
    pytest.param(layout("t x", (0, 5), (1, 5)), "load", id="no-elements"),
    pytest.param(layout("", (), ()), "load", id="scalar"),
    pytest.param(layout("n", (10**6,), (1000,), "O"), "load", id="strings"),
    pytest.param(layout("n", (10**8,), (10**5,), "O"), "chunk", id="many-strings"),
    pytest.param(layout("t x", (731, 10**6), ((365, 366), 1000)), "chunk", id="irregular"),
    pytest.param(
        layout("t x", (10_000, 10_000), None, format="memory"), "chunk", id="in-memory"
    ),
    pytest.param(
        layout("t x", (10_000, 10_000), ((4000, 6000), (5000, 5000)), format="dask",
               dask_chunks=((4000, 6000), (5000, 5000))),
        "chunk", id="computed-blocks",
    ),
    pytest.param(layout("t x", (10**9, 2), (1, 2), "i1"), "chunk", id="a-billion-chunks"),
    pytest.param(layout("p", (999_999_937,), (7,), "f8"), "chunk", id="prime"),
    pytest.param(
        layout("a b c d e f", (30,) * 6, (7, 5, 3, 30, 1, 2)), "chunk", id="six-dims"
    ),
    pytest.param(layout("t x", (10_000, 10_000), None, ">f4", format="netcdf3"), "chunk",
                 id="big-endian"),
]  # fmt: skip


@pytest.mark.parametrize(("v", "action"), AWKWARD)
def test_awkward_layouts(v: ArrayLayout, action: str) -> None:
    budget = workers(8, 4)
    s = advise(v, "scan", budget)
    assert s.action == action
    assert set(s.chunks) == set(v.dims)
    assert len(s.target_chunks) == v.ndim
    assert all(c >= 1 for c in s.target_chunks)
    assert s.worker_mem <= budget.max_mem
    assert s.why
    json.dumps(s.to_dict(), allow_nan=False)


def test_irregular_blocks_end_where_stored_chunks_do() -> None:
    parts = (365, 366, 365, 365) * 25
    v = layout("t x", (sum(parts), 20_000), (parts, 20_000))
    s = advise(v, "scan", workers(8, 4))
    cut, chunks = Axis.of(sum(parts), s.chunks["t"]), Axis.of(sum(parts), parts)
    assert cut.nests(chunks)
    assert s.read_amplification == 1


def test_what_cannot_fit_says_what_would() -> None:
    v = layout("time x", (10**8, 10), (10**8, 1), "f8", codecs=("zstd",))
    with pytest.raises(MemoryBudgetError) as caught:
        suggest_dataset([v], {"time": -1}, MemoryBudget.of_growth(10**8, threads=4))
    error = caught.value
    assert error.allowed == 10**8 < error.smallest == error.needed
    s = advise(v, {"time": -1}, MemoryBudget.of_growth(error.smallest, threads=4))
    assert s.worker_mem <= error.smallest
    assert s.threads == 1
    with pytest.raises(MemoryBudgetError):
        advise(v, {"time": -1}, MemoryBudget.of_growth(error.smallest - 1, threads=4))
    assert "time whole" in str(error)


def test_unknown_dims_and_presets_are_refused() -> None:
    v = layout("a b", (10, 10), (1, 10))
    with pytest.raises(InvalidChunksError, match="b \\(10\\)"):
        suggest_dataset([v], {"tiem": -1}, workers(4, 2))
    with pytest.raises(InvalidChunksError, match="a \\(10\\)"):
        suggest_dataset([v], "timeseries", workers(4, 2))


def test_reasons_carry_their_terms() -> None:
    v = layout("time lat lon", (1460, 361, 720), (1, 361, 720), codecs=("zstd",))
    s = advise(v, "timeseries", workers(2, 2, 1))
    for term in (
        "1,460 chunks of (1, 361, 720)",
        "time whole",
        str(s.target_chunks),
        "a worker with 2 threads",
        "of its limit",
        "paid off after the first pass",
        "Runner-up: lazy blocks",
    ):
        assert term in s.why
    assert s.runner_up in s.why


@pytest.mark.slow
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 3000), st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from([("time",), ("lat", "lon"), (), ("time", "lat")]),
    st.floats(5, 11),
    st.integers(1, 4),
)
def test_no_advice_is_above_the_budget(
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    whole: tuple[str, ...],
    power: float,
    threads: int,
) -> None:
    chunks = tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
    v = layout("time lat lon", shape, chunks, "i2", dtype="f4", codecs=("zstd",))
    budget = MemoryBudget.of_growth(int(10**power), threads=threads)
    try:
        s = suggest_array(v, AccessPattern("drawn", whole), budget)
    except MemoryBudgetError as error:
        assert error.smallest > budget.max_mem
        return
    assert s.worker_mem <= budget.max_mem
    assert s.threads <= threads
    for d in whole:
        assert s.chunks[d] == v.sizes[d]
    grid = Grid.of(shape, s.target_chunks if s.action == "stage" else chunks)
    blocks = Grid.of(shape, tuple(s.chunks[d] for d in v.dims))
    assert blocks.count == s.tasks
    for cut, stored in zip(blocks.axes, grid.axes, strict=True):
        assert cut.nests(stored) or stored.nests(cut)


def test_what_is_stored_alike_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    one = suggestion.suggest_array

    def counted(v: ArrayLayout, *args: Any, **more: Any) -> VariableSuggestion:
        looked.append(v.name)
        return one(v, *args, **more)

    monkeypatch.setattr(suggestion, "suggest_array", counted)
    alike = [replace(DAILY, name=f"v{i}", fill_value=math.nan) for i in range(30)]
    other = replace(DAILY, name="other", shape=(100, 180, 360))
    found = suggest_dataset([*alike, other], "timeseries", workers(4, 2))
    assert looked == ["v0", "other"]
    for v in (*alike, other):
        assert found.variables[v.name] == one(v, found.patterns, workers(4, 2), rates=found.rates)
        assert found.variables[v.name].layout is v
