"""suggest(workload=...): the chunks that it picks, and what it says of them."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xchunk.simulate.predict
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis
from xchunk.core.memory import MemoryBudget
from xchunk.core.reports.workload import Outcome, Prediction, Reads, best_outcomes
from xchunk.core.suggest.decision import Rewritten, Target
from xchunk.errors import InvalidChunksError, MemoryBudgetError
from xchunk.simulate.lazy import Shape, Source, lazy_graph
from xchunk.simulate.predict import predict
from xchunk.simulate.workload import Staging, weigh
from xchunk.sources.layouts import read_layouts


def test_picks_chunks_and_tells_what_they_take(opened: Any, reads: dict[str, int]) -> None:
    ds = opened()
    reads.clear()
    found = ds.chunking.suggest(workload=lambda ds: ds.a.mean("time"), max_mem="50MB")
    assert reads == {}
    assert found.access == "workload"
    one = found.variables["a"]
    assert found.prediction.amplification == one.read_amplification == 1
    assert found.prediction.peak <= 50e6
    assert set(found) >= {"time", "lat", "lon"}
    assert {d: found[d] for d in one.chunks} == dict(one.chunks)
    assert one.tasks == math.prod(
        Axis.of(n, one.chunks[d] if one.chunks[d] != -1 else n).count for d, n in ds.a.sizes.items()
    )
    assert "simulated" in found.why
    assert found.runner_up is not None
    told = found.to_dict()
    assert told["prediction"]["tasks"] == found.prediction.tasks
    assert len(told["outcomes"]) == len(found.outcomes) > 3
    # and the prediction is that of the chunks that are suggested
    again = predict(opened(dict(one.chunks)).a.mean("time"), threads=found.prediction.threads)
    assert again.tasks == found.prediction.tasks
    assert again.decodes == found.prediction.decodes
    assert found.prediction.heap == pytest.approx(again.heap, rel=0.15)


def test_all_variables_of_a_workload_share_their_chunks(opened: Any) -> None:
    found = opened().chunking.suggest(workload=lambda ds: xr.corr(ds.a, ds.b, "time"))
    assert found.variables["a"].chunks == found.variables["b"].chunks
    assert set(found.prediction.reads) == {"a", "b"}
    assert "packed" not in found.why


def test_data_arrays_and_trees(opened: Any) -> None:
    ds = opened()
    found = ds.a.chunking.suggest(workload=lambda a: a.std("time"))
    assert set(found.prediction.reads) == {"a"}
    tree = xr.DataTree.from_dict({"/": ds[["a"]], "/child": ds[["b"]].rename(b="c")})
    found = tree.chunking.suggest(workload=lambda t: t["child"].c.mean("lat"))
    assert set(found.prediction.reads) == {"child/c"}


def test_chunks_that_the_workload_cannot_use_are_left_out(opened: Any) -> None:
    def whole_series(ds: xr.Dataset) -> xr.DataArray:
        if len(ds.a.chunks[0]) > 1:
            raise ValueError("it needs time in one block")
        return ds.a.max("time")

    found = opened().chunking.suggest(workload=whole_series, max_mem="30MB")
    assert found.variables["a"].chunks["time"] in (-1, 366)
    assert any(o.failure for o in found.outcomes)


def test_a_function_that_computes_is_caught(opened: Any, reads: dict[str, int]) -> None:
    ds = opened()
    reads.clear()
    found = ds.chunking.suggest(workload=lambda ds: ds.a.mean().compute() + 1)
    assert reads == {}
    assert "computes by itself" in found.why


def test_nothing_is_ever_written(opened: Any, tmp_path: Any) -> None:
    written: list[Any] = []

    class Target:
        def __setitem__(self, index: Any, value: Any) -> None:
            written.append(value)

    ds = opened()
    ds.chunking.suggest(workload=lambda ds: da.store(ds.a.data + 1, Target(), lock=False))
    assert written == []
    stores = (tmp_path / f"{i}.zarr" for i in range(1000))
    ds.chunking.suggest(
        workload=lambda ds: (ds[["a"]] * 2).to_zarr(next(stores), consolidated=False)
    )
    # xarray writes metadata and coordinates before it computes; no block is
    assert (tmp_path / "0.zarr" / "a" / "zarr.json").exists()
    assert not list(tmp_path.glob("*.zarr/a/c/**/*"))


def test_computed_arrays_bring_their_graphs() -> None:
    lazy = xr.Dataset({"v": (("t", "x"), da.random.random((4000, 500), chunks=(500, 500)) + 1)})
    found = lazy.chunking.suggest(workload=lambda ds: ds.v.mean("t"), max_mem="100MB")
    assert found.variables["v"].chunks
    assert found.prediction.tasks > 8


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        (lambda ds: ds.nothing.mean(), "failed on a stand-in"),
        (lambda ds: 1 / 0, "ZeroDivisionError"),
        (lambda ds: ds.lat * 2, "nothing lazy"),
        ("mean", "not a function"),
    ],
    ids=["missing", "raises", "coords", "string"],
)
def test_functions_that_are_none(workload: Any, said: str, opened: Any) -> None:
    with pytest.raises(Exception, match=said) as caught:
        opened().chunking.suggest(workload=workload)
    assert type(caught.value).__module__.startswith("xchunk")


def test_what_cannot_be_asked(opened: Any) -> None:
    with pytest.raises(InvalidChunksError, match="alone"):
        opened().chunking.suggest("map", workload=lambda ds: ds.a.mean())
    with pytest.raises(InvalidChunksError, match="in memory"):
        opened().load().chunking.suggest(workload=lambda ds: ds.a.mean())


def test_too_little_memory(opened: Any) -> None:
    with pytest.raises(MemoryBudgetError, match="however the data are chunked") as caught:
        opened().chunking.suggest(
            workload=lambda ds: ds.a.chunk(time=-1).quantile(0.5, "time"), max_mem="1.2MB"
        )
    assert caught.value.needed > caught.value.allowed


def source(ds: xr.Dataset) -> Source:
    groups = {"": ds}
    return Source(groups, {v.name: v for v in read_layouts(groups).layouts}, Rates())


CHUNKS = {n: {"time": 100, "lat": 48, "lon": 96} for n in ("a", "b", "packed")}


def test_a_twin_is_the_dataset_but_for_its_values(opened: Any) -> None:
    ds = opened()
    twin = source(ds).twin(CHUNKS)[""]
    assert twin.sizes == ds.sizes
    assert list(twin.data_vars) == list(ds.data_vars)
    assert set(twin.coords) == set(ds.coords)
    for name in ds.coords:
        xr.testing.assert_identical(twin[name], ds[name])
    for name, v in ds.data_vars.items():
        assert (twin[name].dims, twin[name].dtype, twin[name].attrs) == (v.dims, v.dtype, v.attrs)
    assert twin.a.chunks == ((100, 100, 100, 66), (48, 48), (96,))


def test_thinner_twins_have_the_same_graph_and_reads(opened: Any) -> None:
    s = source(opened())
    shape = Shape(thin={"lat": 0.5, "lon": 0.25})
    full, thin = (s.twin(CHUNKS, x)[""] for x in (None, shape))
    assert shape.fraction(s.sizes) == pytest.approx(0.125)
    graphs = [lazy_graph(t.a.std("time"))[0] for t in (full, thin)]
    assert graphs[0].tasks == graphs[1].tasks
    a, b = (predict(t.a.std("time"), threads=1) for t in (full, thin))
    assert {n: r.decodes for n, r in a.reads.items()} == {n: r.decodes for n, r in b.reads.items()}
    assert a.nbytes_read == 8 * b.nbytes_read
    assert a.heap == pytest.approx(8 * b.heap, rel=0.25)


def test_smaller_twins_end_earlier(opened: Any) -> None:
    s = source(opened())
    twin = s.twin(CHUNKS, Shape(keep={"lat": 48}))[""]
    assert dict(twin.sizes) == {"time": 366, "lat": 48, "lon": 96}
    assert s.twin(CHUNKS, Shape(keep={"lat": 48}))[""].lat.equals(opened().lat[:48])
    assert predict(twin.a.mean(), threads=1).reads["a"].amplification > 1


def outcome(label: str, nbytes: int, seconds: float, tasks: int, heap: int) -> Outcome:
    reads = {"v": Reads("v", 1, 1, nbytes, 100)}
    return Outcome(label, {}, Prediction(tasks, reads, heap, heap, 2, seconds, 0.1))


@pytest.mark.parametrize(
    ("outcomes", "best"),
    [
        ([("a", 100, 9, 10, 10), ("b", 200, 1, 10, 10)], "a"),
        ([("a", 100, 9, 10, 2000), ("b", 200, 1, 10, 10)], "b"),
        ([("a", 100, 9, 10, 10), ("b", 105, 1, 10, 10)], "b"),
        ([("a", 100, 1.2, 200, 10), ("b", 100, 1, 900, 10)], "a"),
        ([("a", 100, 1.2, 20, 50), ("b", 100, 1, 50, 10)], "b"),
        ([("a", 100, 1.2, 20, 50), ("b", 100, 1, 90, 10)], "a"),
        ([("a", 100, 1.4, 20, 10), ("b", 100, 1, 900, 10)], "b"),
        ([("a", 100, 1, 10, 900), ("b", 100, 5, 10, 10)], "b"),
    ],
    ids=[
        "bytes first",
        "must fit",
        "bytes alike",
        "tasks",
        "few tasks",
        "blocks take time",
        "time",
        "easily fits",
    ],
)
def test_the_order_of_preference(outcomes: list[Any], best: str) -> None:
    found = best_outcomes([outcome(*o) for o in outcomes], MemoryBudget.of_growth(1000))
    assert found[0].label == best


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """10.5 MB, a map in each chunk."""
    path = tmp_path_factory.mktemp("maps") / "maps.zarr"
    values = np.random.default_rng(1).random((730, 60, 60), "f4")
    time = np.arange("2001-01-01", "2003-01-01", dtype="M8[D]").astype("M8[ns]")
    ds = xr.Dataset({"v": (("time", "lat", "lon"), values)}, {"time": time})
    ds.to_zarr(path, encoding={"v": {"chunks": (1, 60, 60)}}, consolidated=False)
    return xr.open_zarr(path, chunks=None, consolidated=False)


def ranges(ds: xr.Dataset) -> xr.DataArray:
    series = ds.v.chunk(time=-1)
    return series.cumsum("time").max("time")


def test_what_fits_only_by_reading_again_and_again_is_rechunked(maps: Any, tmp_path: Any) -> None:
    found = maps.chunking.suggest(workload=ranges, max_mem="8MB")
    v = found.variables["v"]
    assert (found.action, v.action) == ("stage", "stage")
    assert v.target_chunks[0] == 730
    assert found.prediction.amplification == 1
    assert found.prediction.peak <= 8e6
    assert v.seconds_now is None or v.seconds_now > v.seconds_after
    assert "Rechunked once to" in found.why
    assert "pays off" in found.why or "No lazy blocks fit" in found.why
    new = maps.chunking.apply(found, store=tmp_path / "new.zarr", max_mem="80MB")
    assert new.v.encoding["chunks"] == v.target_chunks
    np.testing.assert_allclose(ranges(new).values, ranges(maps).values)


def test_a_rechunk_that_does_not_pay_is_told(maps: Any) -> None:
    found = maps.chunking.suggest(workload=lambda ds: ds.v.mean("time"), max_mem="80MB")
    v = found.variables["v"]
    assert found.action != "stage"
    assert v.rechunk_seconds > 0
    # once is not enough; whether many runs would be is the machine's affair
    assert v.break_even_passes is None or v.break_even_passes > 1


def predicted(seconds: float, peak: int = 10, nbytes: int = 100) -> Prediction:
    return Prediction(5, {"v": Reads("v", 1, 1, nbytes, 100)}, peak, peak, 2, seconds, 0.1)


@pytest.mark.parametrize(
    ("lazy", "after", "passes", "pays", "even"),
    [
        (None, predicted(1), 1, True, 0),
        (predicted(30), predicted(2), 1, True, 10 / 28),
        (predicted(6), predicted(2), 1, False, 2.5),
        (predicted(6), predicted(2), 20, True, 2.5),
        (predicted(6), predicted(4), 99, False, 5),
        (predicted(6, nbytes=200), predicted(4), 99, True, 5),
        (predicted(2), predicted(6), 99, False, math.inf),
        (None, predicted(1, peak=101), 1, None, 0),
    ],
    ids=["nothing else fits", "at once", "not yet", "many runs", "a tie of times",
         "less is read for sure", "slower", "does not fit either"],
)  # fmt: skip
def test_when_a_rechunk_pays(
    lazy: Any, after: Prediction, passes: float, pays: bool | None, even: float
) -> None:
    new = Rewritten(Target((1,), None), None, 10.0)  # type: ignore[arg-type]
    staging = Staging("chunks of (1,)", {"v": new}, {})
    looked = [(staging, Outcome("it", {}, after))]
    found = weigh(looked, lazy, MemoryBudget.of_growth(100), passes)
    assert (None if found is None else found.pays) == pays
    if found is not None:
        assert found.break_even == pytest.approx(even)


def test_time_is_bounded_and_what_was_left_out_is_told(opened: Any) -> None:
    found = opened().chunking.suggest(workload=lambda ds: ds.a.mean("time"), seconds=1e-6)
    assert len(found.outcomes) == 1
    assert "left out for lack of time" in found.why
    for wrong in (0, -1, True, "5"):
        with pytest.raises(InvalidChunksError, match="seconds is"):
            opened().chunking.suggest(workload=lambda ds: ds.a.mean(), seconds=wrong)


@pytest.mark.slow
def test_large_graphs_are_predicted_from_small_ones(tmp_path: Any) -> None:
    import zarr

    root = zarr.create_group(tmp_path / "large.zarr")
    # nothing is written: only metadata are looked at
    big = root.create_array(
        "v", shape=(1_000_000, 1000, 1000), chunks=(100, 50, 50), dtype="f4",
        dimension_names=("time", "lat", "lon"),
    )  # fmt: skip
    assert big.nbytes == 4e12
    ds = xr.open_zarr(tmp_path / "large.zarr", chunks=None, consolidated=False)
    found = ds.chunking.suggest(workload=lambda ds: ds.v.mean("time"), max_mem="2GB", seconds=60)
    assert found.prediction.scaled > 1.5
    assert found.prediction.reads["v"].decodes == pytest.approx(10_000 * 20 * 20, rel=0.02)
    assert found.prediction.nbytes_read == pytest.approx(4e12, rel=0.02)


@pytest.fixture
def thin_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are looked at by twins, as those of large blocks are."""
    monkeypatch.setattr(xchunk.simulate.predict, "_BLOCK", 50_000)


@pytest.mark.usefixtures("thin_twins")
def test_the_winner_is_looked_at_as_it_is(opened: Any) -> None:
    found = opened().chunking.suggest(workload=lambda ds: ds.a.std("time"), max_mem="100MB")
    assert any(o.prediction and o.prediction.scaled > 1.5 for o in found.outcomes)
    assert found.prediction.scaled == 1
    again = predict(opened(dict(found.variables["a"].chunks)).a.std("time"), threads=2)
    assert found.prediction.tasks == again.tasks
    assert found.prediction.decodes == again.decodes


def test_advice_does_not_depend_on_how_fast_tasks_run(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> Any:
        found = opened().chunking.suggest(workload=lambda ds: ds.a.std("time"), max_mem="20MB")
        ways = [(o.label, o.prediction and o.prediction.tasks) for o in found.outcomes]
        return found.variables["a"].chunks, found.action, ways

    quiet, watched = told(), xchunk.simulate.predict._watched
    rng = np.random.default_rng(1)

    def busy(*task: Any) -> Any:
        *found, seconds = watched(*task)
        return (*found, seconds * rng.uniform(1, 20))

    monkeypatch.setattr(xchunk.simulate.predict, "_watched", busy)
    assert told() == quiet


def test_values_that_are_strings_are_carried(tmp_path: Any) -> None:
    ds = xr.Dataset(
        {"v": (("t", "x"), np.ones((200, 300))), "names": ("x", np.array(["ab"] * 300))}
    )
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=2, consolidated=False)
    opened = xr.open_zarr(tmp_path / "s.zarr", chunks=None, consolidated=False)
    found = opened.chunking.suggest(workload=lambda ds: ds.v.where(ds.names != "b").sum("t"))
    assert set(found.prediction.reads) >= {"v"}
