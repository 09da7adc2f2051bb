"""Computed blocks and coordinates are held against the budget before anything is written."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xchunk  # noqa: F401 - the accessor
from xchunk.errors import MemoryBudgetError


@pytest.mark.parametrize(
    ("blocks", "chunks"),
    [(-1, {"y": 400, "x": 400}), (-1, {"y": -1, "x": 10}), ((4000, 2000), {"y": 10, "x": -1})],
    ids=["one block", "columns", "halves"],
)
def test_the_refusal_names_chunks_that_fit(
    blocks: object, chunks: dict[str, int], tmp_path: Path
) -> None:
    ds = xr.Dataset({"a": (("y", "x"), da.ones((4000, 4000), chunks=blocks))})
    how = {"store": tmp_path / "out.zarr", "max_mem": "30MB"}
    with pytest.raises(MemoryBudgetError, match="one block of") as caught:
        ds.chunking.plan(chunks, **how)
    assert not (tmp_path / "out.zarr").exists()
    said = re.search(r"ds\.chunk\((\{.*?\})\)", str(caught.value))
    assert said is not None
    smaller = ds.chunk(ast.literal_eval(said[1])).chunking.plan(chunks, **how)
    assert smaller.projected_mem <= 30_000_000
    larger = ds.chunking.plan(chunks, **{**how, "max_mem": caught.value.smallest})
    assert larger.projected_mem <= caught.value.smallest


def test_a_large_coordinate_is_chunked_as_its_dim_is(tmp_path: Path) -> None:
    n = 3_000_000
    lat = ("obs", da.zeros(n, chunks=1_000_000))
    few = ("station", np.zeros(10))
    ds = xr.Dataset(
        {"v": ("obs", da.zeros(n, chunks=1_000_000))}, coords={"lat": lat, "height": few}
    )
    plan = ds.chunking.plan({"obs": 500_000, "station": 2}, store=tmp_path / "out.zarr")
    units = {a.name: a.job.target.chunks for a in plan.arrays}
    assert units == {"v": (500_000,), "lat": (500_000,), "height": (10,)}


def test_one_budget_is_named_that_is_enough_for_all_variables(tmp_path: Path) -> None:
    lengths = {"small": 2000, "large": 9000, "middle": 5000}
    ds = xr.Dataset(
        {k: ((f"y_{k}", "x"), da.ones((n, 1000), chunks=(n, 100))) for k, n in lengths.items()}
    )
    chunks, store = {"x": 10}, tmp_path / "out.zarr"
    with pytest.raises(MemoryBudgetError, match="large:") as caught:
        ds.chunking.plan(chunks, store=store, max_mem="1MB")
    plan = ds.chunking.plan(chunks, store=store, max_mem=caught.value.smallest)
    assert {a.name for a in plan.arrays} == set(lengths)


@pytest.mark.parametrize("made", ["stored", "in memory", "computed"])
@pytest.mark.parametrize(
    ("chunks", "max_mem", "expected"),
    [
        ({"obs": 50_000}, "200MB", (1_500_000,)),
        ({"obs": 50_000, "lat": {"obs": 70_000}}, "200MB", (70_000,)),
        ({"obs": 50_000}, "10MB", None),
        ({"obs": 50_000, "lat": {"obs": 70_000}}, "10MB", (70_000,)),
    ],
)
def test_a_coordinate_is_one_chunk_where_it_fits_and_nothing_is_said_of_it(
    chunks: dict, max_mem: str, expected: tuple[int, ...] | None, made: str
) -> None:
    n = 1_500_000
    ds = xr.Dataset(
        {"a": ("obs", np.arange(n) * 1.0)},
        {"obs": np.arange(n), "lat": ("obs", np.linspace(0, 1, n))},
    )
    wanted = ds + 1 if made == "computed" else ds
    if made != "in memory":
        ds.to_zarr("s.zarr", encoding={k: {"chunks": (100_000,)} for k in ds.variables})
        ds = xr.open_zarr("s.zarr")
        ds = ds + 1 if made == "computed" else ds
    ds.chunking.apply(chunks, store="t.zarr", max_mem=max_mem, progress=False)
    after = xr.open_zarr("t.zarr")
    xr.testing.assert_identical(after.load(), wanted)
    found = after.lat.encoding["chunks"]
    assert found == expected if expected else 250_000 <= 8 * found[0] < 10_000_000
