from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import GzipCodec, ZstdCodec

import xchunk  # noqa: F401
from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.choose import forecast
from xchunk.core.reports.comparison import compare_ways
from xchunk.core.suggest.access import AccessPattern
from xchunk.core.suggest.decision import rewritten
from xchunk.core.suggest.suggestion import suggest_array

SHAPE, MAP, SERIES = (1460, 181, 360), (1, 181, 360), (1460, 10, 10)

STORED: dict[str, dict[str, Any]] = {
    "maps": {"chunks": MAP},
    "maps without a codec": {"chunks": MAP, "compressors": None},
    "maps in gzip": {"chunks": MAP, "compressors": GzipCodec()},
    "maps in shards": {"chunks": MAP, "shards": (73, 181, 360)},
    "cubes": {"chunks": (100, 100, 100), "compressors": ZstdCodec()},
}


@pytest.mark.parametrize("memory", ["60MB", "250MB", "4GB"])
@pytest.mark.parametrize("stored", STORED.values(), ids=STORED.keys())
def test_suggest_compare_and_plan_say_the_same_seconds(
    tmp_path: Path, stored: dict[str, Any], memory: str
) -> None:
    group = zarr.create_group(tmp_path / "in.zarr")
    group.create_array("v", shape=SHAPE, dtype="f4", dimension_names=("time", "y", "x"), **stored)
    ds = xr.open_zarr(tmp_path / "in.zarr", consolidated=False, chunks=None)
    found = ds.chunking.suggest({"time": -1}, max_mem=memory).variables["v"]
    target, shards = (
        {"v": dict(zip(("time", "y", "x"), lengths, strict=True))}
        for lengths in (found.target_chunks, found.target_shards or found.target_chunks)
    )
    plan = ds.chunking.plan(target, shards=shards, store=tmp_path / "out.zarr", max_mem=memory)
    assert found.rechunk_seconds == plan["v"].seconds == sum(s.seconds for s in plan["v"].stages)

    layout, budget = found.layout, plan.budget
    ways = compare_ways(layout, Grid.of(SHAPE, found.target_chunks), budget)
    after = forecast(layout, ways.after, None, budget, Rates())
    assert after is not None
    assert ways["staged"].copy_seconds == after.seconds
    reading = ways["staged"].seconds - after.seconds
    assert 0 < reading < after.seconds


LOCKED = {
    "read by the library": (False, True),
    "read chunk by chunk": (True, False),
}


@pytest.mark.parametrize(("by_chunk", "locked"), LOCKED.values(), ids=LOCKED.keys())
def test_a_lock_counts_where_the_library_reads(by_chunk: bool, locked: bool) -> None:
    f4 = np.dtype("f4")
    layout = ArrayLayout(
        "v", ("time", "y", "x"), SHAPE, f4, f4, MAP, None, ("zlib",), "netcdf4", by_chunk=by_chunk
    )
    budget = MemoryBudget.of_growth(10**9, threads=16)
    plan = forecast(layout, SERIES, None, budget, Rates())
    assert plan is not None
    decoding = layout.raw_nbytes / Rates().decode
    assert (plan.stages[0].seconds > decoding) == locked


def test_a_rechunk_that_no_plan_fits_is_not_advised() -> None:
    f4, shape = np.dtype("f4"), (2_400_000, 721, 1440)
    layout = ArrayLayout("v", ("time", "y", "x"), shape, f4, f4, (1, 721, 1440), format="zarr3")
    use = AccessPattern("use", ("time",))
    budget = MemoryBudget.of_growth(400_000_000, threads=4)
    assert rewritten(layout, use, budget, Rates()) is None
    found = suggest_array(layout, use, budget)
    assert (found.action, found.rechunk_seconds) == ("chunk", None)
