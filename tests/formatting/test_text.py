from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xchunk.core.grid import Grid
from xchunk.core.memory import MemoryBudget
from xchunk.formatting import text


def widest(shown: str) -> int:
    return max(len(line) for line in shown.splitlines())


def test_a_layout_says_how_each_variable_is_stored(make_report) -> None:
    shown = text.layout_report(make_report())
    assert "reanalysis.zarr" in shown
    assert "int16 → float32" in shown
    assert "(1, 361, 720)  1,460 chunks, 1.04 MB each" in shown
    assert "shards  (240, 180, 360)" in shown
    assert "shuffle + blosc.lz4 + crc32c  in zarr3" in shown
    assert "(10, 361, 720)  146 blocks" in shown
    assert widest(shown) <= text.WIDTH


def test_blocks_that_cut_chunks_are_told_with_their_cost(make_layout, make_report) -> None:
    fits = make_layout(chunks=(10, 361, 720), dask_chunks=((20,) * 73, (361,), (720,)))
    cuts = make_layout(chunks=(10, 361, 720), dask_chunks=((5,) * 292, (361,), (720,)))
    assert "cut" not in text.layout_report(make_report(fits))
    assert "each is read 2 times" in text.layout_report(make_report(cuts))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chunks": None, "format": "netcdf3"}, "contiguous"),
        ({"chunks": None, "format": "memory", "dask_chunks": None}, "in memory"),
        ({"dims": (), "shape": (), "chunks": (), "dask_chunks": None}, "scalar"),
        ({"chunks": ((700, 760), 361, 720)}, "(700…760, 361, 720)"),
        ({"shape": (0, 361, 720), "dask_chunks": ((0,), (361,), (720,))}, "0 chunks"),
    ],
    ids=["contiguous", "memory", "scalar", "irregular", "empty"],
)
def test_layouts_of_every_kind(make_layout, make_report, changes, said: str) -> None:
    assert said in text.layout_report(make_report(make_layout(**changes)))


def test_an_empty_dataset_has_a_layout_too(make_report) -> None:
    report = make_report()
    report.layouts = ()
    assert "0 variables" in text.layout_report(report)


def test_of_very_many_variables_the_largest_are_shown(make_layout, make_report) -> None:
    many = [
        make_layout(f"v{i:03d}", dims=("x",), shape=(1000 + i,), chunks=(10,), dask_chunks=None)
        for i in range(100)
    ]
    shown = text.layout_report(make_report(*many))
    assert "v099" in shown
    assert "v000" not in shown
    assert "and 60 variables more" in shown


def test_a_budget_shows_the_thresholds_of_the_limit(budget: MemoryBudget) -> None:
    shown = text.memory_budget(budget)
    assert ("95% terminate" in shown) == (budget.memory is not None)
    assert widest(shown) <= text.WIDTH


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
    (line,) = text.bar(budget, growth, indent=0, width=40)
    assert line.startswith(cells)
    assert caption in line
    assert len(line.partition("]")[0]) == 41


def test_a_suggestion_says_what_to_do_and_why(budget: MemoryBudget, make_suggestion) -> None:
    shown = text.suggestion(make_suggestion(budget))
    unfolded = " ".join(shown.split())
    for said in (
        "rechunk to zarr first",
        "time: all 1460, lat: 38, lon: 40",
        "(1, 361, 720) → (1460, 19, 20) in shards of (1460, 38, 40)",
        "19 × what is needed in a pass, 259,920 × in one request",
        "180 a pass, on 1 of 2 threads",
        "as it is 1 min 35 s, rechunked 1.5 s, the rechunk itself 12.0 s",
        "each stored",
        "1 coordinate",
    ):
        assert said in unfolded
    assert widest(shown) <= text.WIDTH


def test_a_plan_shows_stages_and_totals(budget: MemoryBudget, make_plan) -> None:
    plan = make_plan(budget)
    shown = text.rechunk_plan(plan)
    for said in (
        "series.zarr",
        "40 tasks",
        "824 objects",
        "    source   (1, 361, 720) chunks\n      │      reads 1.52 GB, 1,460 decodes",
        "      │      20 tasks, box (73, 361, 720), peak 205 MB",
        "      ▼      writes 1.52 GB, 140 objects\n    scratch  (73, 57, 720) pieces",
        "      ▼      writes 1.52 GB, 684 objects\n    target   (1460, 19, 20) chunks",
        "copied in one piece: time",
        "zarr v3 has none",
    ):
        assert said in shown
    assert widest(shown) <= text.WIDTH


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
    shown = text.layout_report(make_report(given_layout, source=data.draw(names)))
    assert widest(shown) <= text.WIDTH
    assert set(shown) <= {"\n", *filter(str.isprintable, shown)}


def test_escape_sequences_in_names_do_not_reach_the_terminal(make_layout, make_report) -> None:
    shown = text.layout_report(make_report(make_layout("red\x1b[31m\nname")))
    assert "\x1b" not in shown
    assert "red\\x1b[31m\\nname" in shown
    assert set(string.printable) & set(shown)
