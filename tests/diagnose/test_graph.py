from __future__ import annotations

import json
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xchunk
from xchunk.core.reports.graph import layer_of, role_of, scaled_tasks
from xchunk.errors import InvalidChunksError
from xchunk.simulate.lazy import lazy_graph

SHAPE, CHUNKS = (40, 20, 20), (2, 5, 10)

WORKLOADS = {
    "plain": lambda ds: ds,
    "mean": lambda ds: ds.a.mean("t"),
    "anomaly": lambda ds: ds.a - ds.a.mean("t"),
    "std": lambda ds: ds.a.std(),
    "chain": lambda ds: (ds.a * 2 + 1).sum(["y", "x"]),
    "series": lambda ds: ds.a.isel(y=3, x=4),
    "rechunk": lambda ds: ds.a.chunk(t=-1, x=5),
    "rolling": lambda ds: ds.a.rolling(t=5).mean(),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(tmp_path_factory.mktemp("graph") / "a.zarr")
    values = np.random.default_rng(0).random(SHAPE).astype("f4")
    xr.Dataset({"a": (("t", "y", "x"), values)}).to_zarr(name, encoding={"a": {"chunks": CHUNKS}})
    return name


@pytest.fixture
def ds(path: str) -> xr.Dataset:
    return xr.open_zarr(path)


def graph(result):
    return xchunk.graph(result, max_mem="1GB")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "rolling" else ()) for n in WORKLOADS]
)
def test_what_a_graph_holds(ds: xr.Dataset, name: str) -> None:
    result = WORKLOADS[name](ds)
    report = graph(result)
    array = result.a.data if name == "plain" else result.data
    layers = array.__dask_graph__().layers
    written = sum(map(len, layers.values())) - sum(n.startswith("original-") for n in layers)
    assert report.tasks == written
    assert report.outputs == array.npartitions
    assert report.nbytes_out == array.nbytes
    assert report.blocks == (20, 4, 2)
    truth, _ = lazy_graph(result)
    # dask adds a task that puts blocks together
    tasks = truth.tasks - (array.npartitions > 1)
    assert report.run_tasks == pytest.approx(tasks, rel=0 if report.part == 1 else 0.35)
    stored = 4 * np.prod(SHAPE) if name != "series" else 20 * 4 * 2 * 5 * 10
    assert report.nbytes_in == pytest.approx(stored, rel=0 if report.part == 1 else 0.25)
    assert 1 <= report.critical <= len(report.layers) + 8
    assert report.peak > 0


def test_the_layers_say_what_they_do(ds: xr.Dataset) -> None:
    report = graph(WORKLOADS["mean"](ds))
    assert [v.role for v in report.layers] == ["read", "map", "aggregate", "aggregate", "aggregate"]
    assert report.input_tasks == 160
    assert (
        report.layers[2].sentence
        == "It aggregates: 160 blocks become 40 blocks, up to 4 in one task."
    )
    assert report.critical == 4  # reading is fused with the first step
    rechunked = graph(WORKLOADS["rechunk"](ds))
    assert rechunked.rechunks
    assert any("rechunk" in said and "compare_rechunk" in said for said in rechunked.says)
    assert graph(ds.a[:, 3]).rechunks == ()


@pytest.mark.parametrize("name", ["plain", "mean", "anomaly", "std", "chain"])
def test_estimates_for_other_chunks_are_near_the_truth(ds: xr.Dataset, name: str) -> None:
    guessed = graph(WORKLOADS[name](ds))
    built = ds.chunking.graph(workload=WORKLOADS[name], max_mem="1GB")
    assert [s.factor for s in built.sizes] == [0.5, 1, 2, 4]
    assert all(s.exact for s in built.sizes)
    for guess, truth in zip(guessed.sizes, built.sizes, strict=True):
        assert guess.tasks == pytest.approx(truth.tasks, rel=0.15)
        assert guess.input_tasks == truth.input_tasks
        assert guess.block == truth.block
    assert built.tasks == guessed.tasks


def test_tasks_do_not_fall_in_proportion(ds: xr.Dataset) -> None:
    built = ds.chunking.graph(workload=lambda ds: ds.a.chunk(t=-1, y=2, x=2), max_mem="1GB")
    by = {s.factor: s for s in built.sizes}
    assert by[1].input_tasks == 4 * by[4].input_tasks
    assert by[1].tasks < 2 * by[4].tasks
    assert any("not in proportion" in said for said in built.says)


def test_a_large_graph_is_looked_at_in_part() -> None:
    ds = xr.Dataset({"a": (("t", "y", "x"), da.zeros((480, 480, 480), chunks=10))})
    result = (ds.a * 2 + 1).mean("t")
    begun = time.process_time()
    report = graph(result)
    took = time.process_time() - begun
    assert report.input_tasks == 48**3 == 110_592
    assert report.tasks > 400_000
    assert report.part < 0.1
    assert report.run_tasks == pytest.approx(48**3 * 1.35, rel=0.05)
    assert took < 10  # CPU time; it takes about one second, dask alone eight to fuse it all
    assert "110,592" in repr(report)


def test_what_gathering_a_result_takes_is_said() -> None:
    array = da.ones((3000, 1000, 10), chunks=(500, 1000, 10))
    report = (xr.DataArray(array) + 1).chunking.graph(max_mem="1GB")
    assert report.prediction is not None
    assert report.prediction.gathered == 2 * array.nbytes
    assert any("as .compute() does, that adds 480 MB: its blocks" in said for said in report.says)
    assert not any(
        ".compute()" in said
        for said in xr.DataArray(array).sum().chunking.graph(max_mem="1GB").says
    )


@pytest.mark.parametrize("n", [12, 40])
def test_a_part_predicts_what_the_whole_does(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    from xchunk.diagnose import graph as layers

    ds = xr.Dataset({"a": (("t", "y"), da.ones((n * 100, 1000), chunks=100))})
    result = (ds.a + 1).mean("y")
    whole = graph(result)
    monkeypatch.setattr(layers, "_WALKED", 60)
    part = graph(result)
    assert whole.part == 1
    assert part.part < 1
    assert part.run_tasks == pytest.approx(whole.run_tasks, rel=0.1)
    assert part.critical == whole.critical
    tasks = (whole.run_tasks + 1) * 2_300
    assert part.peak - tasks == pytest.approx(whole.peak - tasks, rel=0.4)


@pytest.mark.parametrize("seconds", [0.02, 0.05])
def test_tasks_without_time_are_like_others_of_their_layer(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks of a groupby each are of a kind of their own, and cut up what they take."""
    made = da.zeros((365, 90, 180), dtype="f4", chunks=(30, 90, 180))
    time = np.arange("2001-01", "2002-01", dtype="M8[D]").astype("M8[ns]")
    groups = xr.DataArray(made, {"time": time}, ("time", "y", "x")).groupby("time.month")
    monkeypatch.setattr("xchunk.diagnose.graph._SECONDS", 60.0)
    tried = (groups - groups.mean()).chunking.graph(memory="4GiB")
    monkeypatch.setattr("xchunk.diagnose.graph._SECONDS", seconds)
    found = (groups - groups.mean()).chunking.graph(memory="4GiB")
    assert found.peak is not None
    assert tried.peak is not None
    # a guess; as large as the largest input, each would make it 19 times as much
    assert 0.25 < found.peak / tried.peak < 4
    assert found.prediction is not None
    assert found.prediction.assumed
    assert any("were not tried: it is a guess" in text for text in found.says)
    assert not any("were not tried" in text for text in tried.says)


def test_it_never_computes() -> None:
    def fail(block):
        raise AssertionError("computed")

    lazy = da.ones((8, 8), chunks=2).map_blocks(fail, dtype=float, meta=np.ones((0, 0)))
    report = graph(xr.DataArray(lazy).sum())
    assert report.tasks > 16
    # trying a task on noise meets the error, and says so
    assert any("AssertionError" in note or "taken to copy" in note for note in report.notes)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda ds: xchunk.graph(ds.load()), "nothing lazy"),
        (lambda ds: ds.compute().chunking.graph(), "nothing lazy"),
        (lambda ds: xchunk.graph(3), "nothing lazy"),
        (lambda ds: ds.chunking.graph(workload=3), "not a function"),
        (lambda ds: ds.chunking.graph(workload=lambda d: d.a.sum().compute()), "by itself"),
        (lambda ds: ds.chunking.graph(workload=lambda d: d.b), "failed on a stand-in"),
        (lambda ds: ds.chunking.graph(max_mem="lots"), "not a size"),
    ],
    ids=["loaded", "accessor", "number", "no function", "eager", "fails", "memory"],
)
def test_what_has_no_graph(ds: xr.Dataset, ask, said: str) -> None:
    with pytest.raises(InvalidChunksError, match=said):
        ask(ds)


def test_other_objects_have_graphs_too(ds: xr.Dataset) -> None:
    tree = xr.DataTree.from_dict({"/x": ds, "/y": ds})
    assert tree.chunking.graph(max_mem="1GB").tasks == 160  # one source, read once
    assert ds.a.chunking.graph(max_mem="1GB").tasks == 160
    assert xchunk.graph([ds.a.mean(), ds.a.max()], max_mem="1GB").outputs == 2
    assert xchunk.graph(ds.a.data, max_mem="1GB").source == "Array"


def test_it_shows_itself(ds: xr.Dataset) -> None:
    ds = ds.rename(a="<script>")
    report = ds["<script>"].chunk(t=-1).std("t").chunking.graph(max_mem="1GB")
    shown = repr(report)
    assert max(map(len, shown.splitlines())) <= 80
    assert "longest chain" in shown
    assert "×½" in shown
    html = report._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["tasks"] == report.tasks
    assert told["layers"][0]["sentence"]
    assert report.save("g.html").read_text().startswith("<!doctype html>")


def test_a_budget_that_is_too_small_is_told() -> None:
    x = da.random.random((4000, 4000), chunks=2000)
    report = xchunk.graph(xr.DataArray(x).sum(), max_mem="10MB")
    assert any("does not fit" in said for said in report.says)
    with dask.config.set(num_workers=16):
        assert any("Only 4 of 16" in said for said in xchunk.graph(x, max_mem="1GB").says)


@pytest.mark.parametrize(
    ("name", "blocks", "before", "stored", "role"),
    [
        ("open_dataset-a", 8, 0, True, "read"),
        ("zeros", 8, 0, False, "create"),
        ("add", 8, 8, False, "map"),
        ("mean_agg-aggregate", 2, 8, False, "aggregate"),
        ("getitem", 32, 8, False, "widen"),
        ("rechunk-merge", 8, 8, False, "rechunk"),
        ("rechunk-p2p", 8, 8, False, "rechunk"),
        ("overlap", 8, 8, False, "overlap"),
        ("store-map", 8, 8, False, "write"),
    ],
)
def test_roles(name: str, blocks: int, before: int, stored: bool, role: str) -> None:
    assert role_of(name, blocks, before, stored=stored) == role
    assert layer_of(name, blocks, before, blocks=blocks, stored=stored).sentence.endswith(".")


@pytest.mark.parametrize(
    ("factor", "tasks", "inputs"),
    [(0.5, 210, 200), (1, 110, 100), (2, 60, 50), (4, 35, 25), (1000, 11, 1)],
)
def test_scaled_tasks(factor: float, tasks: int, inputs: int) -> None:
    layers = [layer_of("open_dataset", 100, 0, stored=True), layer_of("mean_agg", 10, 100)]
    # the second layer has one task for each block of the other dim
    assert scaled_tasks(layers, (10, 10), factor)[1] == inputs or factor == 1000
    assert scaled_tasks(layers, (10, 10), factor)[0] == pytest.approx(tasks, rel=0.2)


@pytest.mark.parametrize("blocks", [40, 4000], ids=["whole", "a part"])
def test_a_large_result_is_not_kept(blocks: int) -> None:
    array = da.ones((blocks * 1000, 400), chunks=(1000, 400)) + 1
    report = xchunk.graph(array, max_mem="1GB")
    assert (report.part < 1) is (blocks > 2000)
    assert report.prediction.heap < 30e6 + blocks * 10_000
    assert report.prediction.gathered >= array.nbytes
