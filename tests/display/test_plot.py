"""Plots: what is drawn, by its artists and labels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xchunk
from xchunk.core.cost import Rates, Work
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import CopyBuffers, MemoryBudget
from xchunk.core.plan.stages import ArrayPlan, CopyJob, RechunkPlan, Scratch, Stage
from xchunk.core.reports.workload import Prediction
from xchunk.core.suggest.suggestion import suggest_dataset
from xchunk.display.plot import layout_axes, layouts_axes, plan_axes, prediction_axes

matplotlib = pytest.importorskip("matplotlib")
F4 = np.dtype("float32")


@pytest.fixture(autouse=True)
def plt() -> Iterator[Any]:
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    yield plt
    plt.close("all")


def t2m(**changes: Any) -> ArrayLayout:
    given: dict[str, Any] = {
        "name": "t2m",
        "dims": ("time", "latitude", "longitude"),
        "shape": (365, 90, 180),
        "dtype": F4,
        "stored_dtype": F4,
        "chunks": (1, 90, 180),
        "codecs": ("zstd",),
        "format": "zarr3",
    }
    return ArrayLayout(**{**given, **changes})


def by_gid(ax: Any, gid: str) -> list[Any]:
    return [a for a in ax.get_children() if a.get_gid() == gid]


def legend(ax: Any) -> list[str]:
    return [t.get_text() for t in ax.get_legend().get_texts()]


def test_a_layout_is_drawn_with_chunks_shards_and_blocks() -> None:
    layout = t2m(chunks=(73, 30, 60), shards=(365, 30, 60), dask_chunks=((365,), (30,) * 3, (180,)))
    ax = layout_axes(layout)
    assert legend(ax) == ["stored chunk", "shard", "dask block"]
    assert len(by_gid(ax, "array")) == 3
    # 4 + 2 + 2 inner edges, each on two of the visible faces
    assert len(by_gid(ax, "edge")) == 2 * (4 + 2 + 2)
    assert "time: 365, latitude: 90, longitude: 180" in ax.get_xlabel()
    assert ax.get_aspect() == 1


def test_proportions_are_the_arrays_own() -> None:
    (front, *_) = by_gid(layout_axes(t2m(chunks=None)), "array")
    width, height = np.ptp(front.get_xy(), axis=0)
    assert width / height == pytest.approx(180 / 90)


def test_a_request_is_lit_up() -> None:
    ax = layout_axes(t2m(), request="timeseries")
    assert "touches 365 of 365 chunks, decodes 16,200" in ax.get_xlabel()
    assert len(by_gid(ax, "touched")) == len(by_gid(ax, "needed")) == 3
    one = layout_axes(t2m(chunks=(365, 10, 10)), request={"time": -1})
    assert "touches 1 of 162 chunks" in one.get_xlabel()


def test_it_is_drawn_where_it_is_asked_for(plt: Any) -> None:
    _, ax = plt.subplots()
    assert layout_axes(t2m(), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def suggestion(**options: Any) -> Any:
    budget = MemoryBudget.of_growth(options.pop("max_mem", 60_000_000), threads=2)
    return suggest_dataset([t2m(shape=(3650, 90, 180))], "timeseries", budget, **options)


def test_cost_against_the_size_of_a_block() -> None:
    s = suggestion(passes=10)
    assert s.action == "stage"
    ax = s.plot()
    (chosen,) = by_gid(ax, "chosen")
    v = s.variables["t2m"]
    lengths = [n if v.chunks[d] == -1 else v.chunks[d] for d, n in v.layout.sizes.items()]
    assert chosen.get_xydata().tolist() == [[np.prod(lengths) * 4, v.seconds_after]]
    assert {"as it is stored", "rechunked"} <= set(legend(ax))
    assert any(text.startswith("chosen: ") for text in legend(ax))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    (curve,) = by_gid(ax, "rechunked")
    nearest = curve.get_ydata()[np.argmin(abs(curve.get_xdata() - np.prod(lengths) * 4))]
    assert nearest <= 1.2 * v.seconds_after


def test_amplification_before_and_after() -> None:
    ax = suggestion(passes=10).plot("amplification", access=["timeseries", "map"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["timeseries", "map"]
    before, after = by_gid(ax, "as stored"), by_gid(ax, "rechunked")
    widths = [[1 + b.get_width() for b in bars] for bars in (before, after)]
    assert widths[0] == pytest.approx([90 * 180, 1])
    assert widths[1][0] < widths[0][0] / 10
    assert widths[1][1] > 1
    assert "16,200 ×" in [t.get_text() for t in ax.texts]


def test_before_and_after_side_by_side(plt: Any) -> None:
    left, right = suggestion(passes=10).plot("layout")
    assert left.get_title() == "t2m as it is stored"
    assert right.get_title() == "t2m rechunked"
    assert "touches 3,650 of 3,650 chunks" in left.get_xlabel()
    assert "touches 1 of" in right.get_xlabel()
    with pytest.raises(xchunk.InvalidChunksError, match="two Axes"):
        suggestion().plot("layout", ax=plt.subplots(1, 3)[1])


def test_memory_over_time(plt: Any) -> None:
    found = Prediction(
        tasks=9, reads={}, live=0, heap=8_000_000, threads=2, seconds=4.0, critical=1.0,
        over_time=((0.25, 0.5), (0.5, 1.0), (1.0, 0.25)),
    )  # fmt: skip
    budget = MemoryBudget.of_memory(100_000_000, reserved=20_000_000, threads=2)
    ax = prediction_axes(found, budget=budget)
    (line,) = by_gid(ax, "memory")
    assert max(line.get_ydata()) == 28_000_000
    assert line.get_xdata()[-1] == 4.0
    (allowed,) = by_gid(ax, "budget")
    assert allowed.get_ydata()[0] == 60_000_000
    assert [by_gid(ax, m)[0].get_ydata()[0] for m in ("spill", "pause", "terminate")] == [
        70_000_000, 80_000_000, 95_000_000,
    ]  # fmt: skip
    ax.figure.canvas.draw()
    assert "100 MB" in [t.get_text() for t in ax.get_yticklabels()]


def test_a_plan_stays_below_its_budget() -> None:
    shape = (365, 90, 180)
    maps, series = Grid.of(shape, (1, 90, 180)), Grid.of(shape, (365, 10, 10))
    job = CopyJob("t2m", shape, 4, maps, series, series)
    n = job.nbytes
    read = Stage(
        "read", Grid.of(shape, (73, 90, 180)), Scratch((73, 10, 180)),
        Work(tasks=5, decoded_bytes=n, scratch_write_bytes=n), CopyBuffers(4_700_000, 64_800, 0),
        1.0,
    )  # fmt: skip
    write = Stage(
        "write", Grid.of(shape, (365, 10, 180)), None,
        Work(tasks=9, encoded_bytes=n, scratch_read_bytes=n), CopyBuffers(2_600_000, 0, 146_000),
        2.0,
    )  # fmt: skip
    budget = MemoryBudget.of_growth(60_000_000, threads=2)
    plan = RechunkPlan((ArrayPlan(job, (read, write), "staged", 3.0, 2),), budget, Rates())
    ax = plan_axes(plan)
    (first,), (second,) = by_gid(ax, "read t2m"), by_gid(ax, "write t2m")
    assert first.get_width() + second.get_width() == pytest.approx(3.0)
    assert second.get_x() == pytest.approx(first.get_width())
    assert max(first.get_height(), second.get_height()) == plan.projected_mem
    (allowed,) = by_gid(ax, "budget")
    assert allowed.get_ydata()[0] == 60_000_000
    assert {"source → scratch", "scratch → target", "budget"} == set(legend(ax))


def test_a_datasets_own_reports_plot_themselves(tmp_path: Any) -> None:
    time = xr.date_range("2020", periods=20)
    ds = xr.Dataset(
        {"a": (("time", "y", "x"), np.zeros((20, 8, 8), "f4"))},
        {"time": time, "y": ("y", np.arange(8.0), {"axis": "Y"}), "x": np.arange(8.0)},
    )
    ds.to_zarr(tmp_path / "a.zarr", encoding={"a": {"chunks": (1, 8, 8)}}, consolidated=False)
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as ds:
        report = ds.chunking.layout()
        assert report.plot().get_title() == "a"
        bars = by_gid(report.plot("amplification"), "as stored")
        assert 1 + bars[0].get_width() == pytest.approx(64)
        assert report["a"].plot(request={"time": -1}).get_title() == "a"
        workload = ds.chunking.suggest(workload=lambda ds: ds.a.mean("time"), max_mem="200MB")
        over = workload.plot("memory")
        (line,) = by_gid(over, "memory")
        assert max(line.get_ydata()) == pytest.approx(workload.prediction.peak)
        (chosen,) = by_gid(workload.plot(), "chosen")
        assert chosen.get_ydata()[0] == workload.prediction.seconds
        assert ds.chunking.plan({"time": -1}, store=tmp_path / "b.zarr").plot().get_legend()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.plot("pie"), "'cost', 'memory', 'amplification' or 'layout'"),
        (lambda s: s.plot(variable="tp"), "no variable 'tp'"),
        (lambda s: s.plot("memory"), "for a workload only"),
        (lambda _: layout_axes(t2m(dims=(), shape=(), chunks=())), "nothing to draw"),
        (lambda _: layouts_axes([], "layout"), "no variables"),  # type: ignore[arg-type]
        (lambda _: layouts_axes([t2m(chunks=None)], "amplification"), "no stored chunks"),  # type: ignore[arg-type]
        (lambda _: layout_axes(t2m(), request={"nope": 1}), "no dim 'nope'"),
    ],
    ids=["kind", "variable", "memory", "scalar", "nothing", "contiguous", "dim"],
)
def test_what_cannot_be_plotted_is_said(call: Any, said: str) -> None:
    with pytest.raises(xchunk.InvalidChunksError, match=said):
        call(suggestion())


@pytest.mark.subprocess
def test_without_matplotlib_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import xchunk; from xchunk.display.plot import pyplot\n"
        "try: pyplot()\nexcept xchunk.XchunkError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'xchunk[plot]'" in done.stdout
