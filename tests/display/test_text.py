from __future__ import annotations

import re
import string
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xchunk
from xchunk.core.grid import Grid
from xchunk.core.memory import MemoryBudget
from xchunk.display import render
from xchunk.display.document import Bar, Document, Table
from xchunk.display.phrases import fill


def widest(shown: str) -> int:
    return max(len(line) for line in shown.splitlines())


def test_a_layout_says_how_each_variable_is_stored(make_report) -> None:
    shown = repr(make_report())
    assert "reanalysis.zarr" in shown
    assert "int16 → float32" in shown
    assert "(1, 361, 720)  1,460 chunks, 520 kB each, 1.04 MB in memory" in shown
    assert "shards  (240, 180, 360)" in shown
    assert "shuffle + blosc.lz4 + crc32c  in zarr3" in shown
    assert "(10, 361, 720)  146 blocks" in shown
    assert widest(shown) <= render.WIDTH


def test_blocks_that_cut_chunks_are_told_with_their_cost(make_layout, make_report) -> None:
    fits = make_layout(chunks=(10, 361, 720), dask_chunks=((20,) * 73, (361,), (720,)))
    cuts = make_layout(chunks=(10, 361, 720), dask_chunks=((5,) * 292, (361,), (720,)))
    assert "cut" not in repr(make_report(fits))
    assert "each is read 2 times" in repr(make_report(cuts))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chunks": None, "format": "netcdf3"}, "contiguous"),
        ({"chunks": None, "format": "memory", "dask_chunks": None}, "in memory"),
        (
            {"chunks": None, "format": "memory", "dask_chunks": None, "dtype": np.dtype("U9")},
            "in memory (xarray loads texts of netCDF as it opens them)",
        ),
        ({"dims": (), "shape": (), "chunks": (), "dask_chunks": None}, "scalar"),
        ({"chunks": ((700, 760), 361, 720)}, "(700…760, 361, 720)"),
        ({"shape": (0, 361, 720), "dask_chunks": ((0,), (361,), (720,))}, "0 chunks"),
    ],
    ids=["contiguous", "memory", "texts", "scalar", "irregular", "empty"],
)
def test_layouts_of_every_kind(make_layout, make_report, changes, said: str) -> None:
    assert said in repr(make_report(make_layout(**changes)))


def test_an_empty_dataset_has_a_layout_too(make_report) -> None:
    report = make_report()
    report.layouts = ()
    assert "0 variables" in repr(report)


def test_of_very_many_variables_the_largest_are_shown(make_layout, make_report) -> None:
    many = [
        make_layout(f"v{i:03d}", dims=("x",), shape=(1000 + i,), chunks=(10,), dask_chunks=None)
        for i in range(100)
    ]
    shown = repr(make_report(*many))
    assert "v099" in shown
    assert "v000" not in shown
    assert "and 60 variables more" in shown


def test_a_budget_shows_the_thresholds_of_the_limit(budget: MemoryBudget) -> None:
    shown = repr(budget)
    assert ("95% terminate" in shown) == (budget.memory is not None)
    assert widest(shown) <= render.WIDTH


@pytest.mark.parametrize(
    ("growth", "cells", "caption"),
    [
        (0, "[▒▒▒▒·····", "(10%)"),
        (500_000_000, "[▒▒▒▒██████", "(60%)"),
        (950_000_000, "[▒▒▒▒██████", "past terminate"),
        (5_000_000_000, "[▒▒▒▒██████", "past terminate"),
    ],
    ids=["nothing", "target", "terminate", "far above"],
)
def test_a_bar_fills_up_to_the_thresholds(growth: int, cells: str, caption: str) -> None:
    budget = MemoryBudget.of_memory(1_000_000_000, reserved=100_000_000)
    line = render.block_text(Bar(fill(budget, growth))).strip()
    assert line.startswith(cells)
    assert caption in line
    assert len(line.partition("]")[0]) == 41


def test_a_suggestion_says_what_to_do_and_why(budget: MemoryBudget, make_suggestion) -> None:
    shown = make_suggestion(budget).details()
    unfolded = " ".join(shown.split())
    for said in (
        "rechunk to zarr first",
        "time: all 1460, lat: 38, lon: 40",
        "(1, 361, 720) → (1460, 19, 20) in shards of (1460, 38, 40)",
        "19 × what is needed in a pass, 259,920 × in one request",
        "180 a pass, on 1 of 2 threads",
        "as it is 1 min 35 s, rechunked 1.5 s, the rechunk itself 12.0 s",
        "each stored",
        "1 small variable, to load: time",
    ):
        assert said in unfolded
    assert widest(shown) <= render.WIDTH


def test_a_suggestion_is_a_verdict_and_a_row_for_each_variable(
    budget: MemoryBudget, make_suggestion
) -> None:
    shown = repr(make_suggestion(budget))
    unfolded = " ".join(shown.split())
    for said in (
        "rechunk to zarr first",
        "t2m rechunk (1460, 19, 20) in shards",
        "a pass takes: 1 min 35 s → 1.5 s",
        "The rechunk takes about 12.0 s",
        "1 small variable, to load: time",
        'ds.chunking.apply(suggestion, store="rechunked.zarr")',
    ):
        assert said in unfolded
    assert "each stored" not in shown
    assert widest(shown) <= render.WIDTH


def test_variables_that_are_alike_are_told_once(budget: MemoryBudget, make_suggestion) -> None:
    made = make_suggestion(budget)
    one = made.variables["t2m"]
    others = {n: replace(one, layout=replace(one.layout, name=n)) for n in ("t2m", "tp", "msl")}
    shown = repr(replace(made, variables=others))
    assert shown.count("(1460, 19, 20)") == 1
    assert "t2m, tp, msl" in shown
    # whose time it is
    assert "a pass of each" in shown
    assert "The rechunk of all 3 takes about 36.0 s" in " ".join(shown.split())
    many = {
        n: replace(one, layout=replace(one.layout, name=n)) for n in map("v{}".format, range(20))
    }
    assert "v0 +19" in repr(replace(made, variables=many))


@given(
    st.lists(st.tuples(st.sampled_from(["size", "a pass takes", "about"]), st.integers(1, 30)),
             min_size=2, max_size=7),
    st.integers(1, 3),
)  # fmt: skip
def test_columns_are_told_apart_from_words(columns: list[tuple[str, int]], rows: int) -> None:
    table = Table([name for name, _ in columns], [["x" * n for _, n in columns]] * rows)
    head, *lines = render.as_text(Document("t", body=[table])).splitlines()[2:]
    shown = re.split(r" {2,}", head.strip())
    assert shown == [name for name, _ in columns][: len(shown)]
    assert len(shown) >= 2
    # what has no column is below its row, each value with its name
    rest = " ".join(" ".join(lines).split())
    for name, n in columns[len(shown) :]:
        assert f"{name}: {'x' * n}" in rest
    assert max(map(len, (head, *lines))) <= render.WIDTH


def test_a_plan_shows_stages_and_totals(budget: MemoryBudget, make_plan) -> None:
    plan = make_plan(budget)
    brief = repr(plan)
    for said in ("series.zarr", "(1, 361, 720) → (1460, 19, 20)", "staged", "824 objects"):
        assert said in brief
    assert "decodes\n" not in brief
    assert max(widest(brief), len(brief.splitlines())) <= render.WIDTH
    shown = plan.details()
    for said in (
        "series.zarr",
        "40 tasks",
        "824 objects",
        "    source   (1, 361, 720) chunks\n      │      reads 1.52 GB, 1,460 decodes",
        "      │      20 tasks, box (73, 361, 720), peak 205 MB",
        "      ▼      writes 1.52 GB, 140 objects\n    scratch  (73, 57, 720) pieces",
        "      ▼      writes 1.52 GB, 684 objects\n    target   (1460, 19, 20) chunks",
        "1 small variable: time",
        "zarr v3 has none",
    ):
        assert said in shown
    assert widest(shown) <= render.WIDTH


names = st.text(min_size=1, max_size=120)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_no_name_size_or_layout_breaks_the_lines(data, make_layout, make_report) -> None:
    ndim = data.draw(st.integers(0, 6))
    shape = tuple(data.draw(st.lists(st.integers(0, 10**12), min_size=ndim, max_size=ndim)))
    dims = tuple(data.draw(st.lists(names, min_size=ndim, max_size=ndim, unique=True)))
    chunks = tuple(data.draw(st.integers(1, max(1, n))) for n in shape)
    given_layout = make_layout(
        data.draw(names),
        dims=dims,
        shape=shape,
        chunks=data.draw(st.sampled_from([chunks, None])),
        codecs=tuple(data.draw(st.lists(names, max_size=5))),
        dask_chunks=None,
        is_coord=data.draw(st.booleans()),
        dtype=np.dtype(data.draw(st.sampled_from(["f4", "datetime64[ns]", "U30", "O"]))),
    )
    assert Grid.of(shape, chunks).chunks == chunks
    shown = repr(make_report(given_layout, source=data.draw(names)))
    assert widest(shown) <= render.WIDTH
    assert set(shown) <= {"\n", *filter(str.isprintable, shown)}


def test_escape_sequences_in_names_do_not_reach_the_terminal(make_layout, make_report) -> None:
    shown = repr(make_report(make_layout("red\x1b[31m\nname")))
    assert "\x1b" not in shown
    assert "red\\x1b[31m\\nname" in shown
    assert set(string.printable) & set(shown)


@pytest.mark.parametrize(
    ("ds", "said"),
    [
        (xr.Dataset(), "No variables."),
        (xr.Dataset({"x": 3}), "x            load"),
        (xr.Dataset(coords={"x": [1, 2]}), "load"),
    ],
    ids=["empty", "a scalar", "a coordinate"],
)
def test_a_suggestion_of_next_to_nothing(ds: xr.Dataset, said: str) -> None:
    made = ds.chunking.suggest("scan", max_mem="100MB")
    assert said in repr(made)
    assert made.details()


def test_equal_layers_of_a_graph_are_one() -> None:
    time = xr.date_range("2001-01-01", periods=24, freq="MS")
    ds = xr.Dataset({"v": (("time", "x"), da.ones((24, 10), chunks=(1, 10)))}, {"time": time})
    with xr.set_options(use_flox=False):
        months = ds.v.groupby("time.month")
        said = str(xchunk.graph((months - months.mean()).std("time")))
    assert said.count("mean_agg-aggregate") == 1
    assert "12 layers; the first: it aggregates: 2 blocks become 1 block" in " ".join(said.split())
