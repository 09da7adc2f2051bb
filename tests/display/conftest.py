"""Reports made by hand: what display shows needs neither stores nor planners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from xchunk.core.cost import Rates, Work
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout, Packing
from xchunk.core.memory import CopyBuffers, MemoryBudget
from xchunk.core.plan.stages import ArrayPlan, CopyJob, RechunkPlan, Scratch, Stage
from xchunk.core.shown import Shown
from xchunk.core.suggest.suggestion import Suggestion, VariableSuggestion


@dataclass(repr=False)
class Report(Shown, view="layouts"):
    """Has what a LayoutReport has, as far as its view asks."""

    layouts: tuple[ArrayLayout, ...]
    source: str = "reanalysis.zarr"

    def __iter__(self) -> Iterator[ArrayLayout]:
        return iter(self.layouts)


def layout(name: str = "t2m", **changes: object) -> ArrayLayout:
    given: dict[str, object] = {
        "name": name,
        "dims": ("time", "lat", "lon"),
        "shape": (1460, 361, 720),
        "dtype": np.dtype("float32"),
        "stored_dtype": np.dtype("int16"),
        "chunks": (1, 361, 720),
        "codecs": ("zstd",),
        "format": "zarr3",
        "packing": Packing(0.01, 273.15, "float32"),
        "dask_chunks": ((10,) * 146, (361,), (720,)),
    }
    return ArrayLayout(**{**given, **changes})  # type: ignore[arg-type]


def layouts() -> tuple[ArrayLayout, ...]:
    float64 = np.dtype("float64")
    one = {"packing": None, "dask_chunks": None, "codecs": (), "is_coord": True}
    return (
        layout(),
        layout(
            "wind_speed_of_gust_at_10m_maximum_since_the_previous_post_processing_step_of_all",
            chunks=(24, 90, 90),
            shards=(240, 180, 360),
            codecs=("shuffle", "blosc.lz4", "crc32c"),
            dask_chunks=((100,) * 14 + (60,), (361,), (180,) * 4),
        ),
        layout(
            "time",
            dims=("time",),
            shape=(1460,),
            dtype=np.dtype("datetime64[ns]"),
            stored_dtype=np.dtype("int64"),
            chunks=(1,),
            **one,
        ),
        layout(
            "lat",
            dims=("lat",),
            shape=(361,),
            dtype=float64,
            stored_dtype=float64,
            chunks=(361,),
            **one,
        ),
        layout(
            "crs",
            dims=(),
            shape=(),
            dtype=np.dtype("int32"),
            stored_dtype=np.dtype("int32"),
            chunks=(),
            **one,
        ),
    )


def suggestion(budget: MemoryBudget) -> Suggestion:
    wide = layout()
    staged = VariableSuggestion(
        layout=wide,
        action="stage",
        chunks={"time": -1, "lat": 38, "lon": 40},
        target_chunks=(1460, 19, 20),
        target_shards=(1460, 38, 40),
        projected_mem=310_000_000,
        tasks=180,
        read_amplification=19.0,
        why="A time series needs every time step of a few pixels, but each stored chunk holds one "
        "whole map: any block of time series decodes all of it. Rewritten once, it pays off "
        "from the second pass on.",
        worker_mem=640_000_000,
        threads=1,
        request_amplification=259_920.0,
        seconds_now=95.0,
        seconds_after=1.5,
        rechunk_seconds=12.0,
    )
    small = VariableSuggestion(
        layout=layout("time", dims=("time",), shape=(1460,), chunks=(1460,), is_coord=True),
        action="load",
        chunks={"time": -1},
        target_chunks=(1460,),
        target_shards=None,
        projected_mem=5840,
        tasks=0,
        read_amplification=1.0,
        why="It is small.",
    )
    return Suggestion({"t2m": staged, "time": small}, budget, "timeseries")


def plan(budget: MemoryBudget) -> RechunkPlan:
    shape = (1460, 361, 720)
    grids = [Grid.of(shape, c) for c in ((1, 361, 720), (1460, 19, 20), (73, 361, 720))]
    job = CopyJob("t2m", shape, 4, grids[0], grids[1], grids[1])
    n = job.nbytes
    read = Stage(
        "read",
        grids[2],
        Scratch((73, 57, 720), None, "none"),
        Work(tasks=20, decodes=1460, decoded_bytes=n, scratch_write_bytes=n, objects=140),
        CopyBuffers(73 * 361 * 720 * 4, 361 * 720 * 4, 73 * 57 * 720 * 4),
    )
    write = Stage(
        "write",
        Grid.of(shape, (1460, 19, 720)),
        None,
        Work(tasks=19, encodes=684, encoded_bytes=n, scratch_read_bytes=n, objects=684),
        CopyBuffers(1460 * 19 * 720 * 4, 0, 1460 * 19 * 20 * 4),
    )
    main = ArrayPlan(job, (read, write), "staged", 11.4, 2, "Direct would decode 19 times as much.")
    line = Grid.of((1460,), (1460,))
    small = Stage("direct", line, None, Work(tasks=1, decodes=1), CopyBuffers(11680, 11680, 11680))
    time = ArrayPlan(CopyJob("time", (1460,), 8, line, line, line), (small,), "direct", 0.01, 2)
    notes = ("t2m: the filter 'quantize' is not kept, as zarr v3 has none.",)
    return RechunkPlan((main, time), budget, Rates(), "series.zarr", notes)


@pytest.fixture(params=["limit", "growth"])
def budget(request: pytest.FixtureRequest) -> MemoryBudget:
    if request.param == "limit":
        return MemoryBudget.of_memory(2 * 1024**3, reserved=180_000_000, threads=2, origin="cgroup")
    return MemoryBudget.of_growth(400_000_000, threads=2)


@pytest.fixture
def make_layout() -> Callable[..., ArrayLayout]:
    return layout


@pytest.fixture
def make_report() -> Callable[..., Report]:
    return lambda *given, source="reanalysis.zarr": Report(given or layouts(), source)


@pytest.fixture
def make_suggestion() -> Callable[[MemoryBudget], Suggestion]:
    return suggestion


@pytest.fixture
def make_plan() -> Callable[[MemoryBudget], RechunkPlan]:
    return plan
