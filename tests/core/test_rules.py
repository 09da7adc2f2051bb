from __future__ import annotations

import ast
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout, Packing
from xchunk.core.memory import MemoryBudget
from xchunk.core.reports.remedies import Opening
from xchunk.core.reports.rules import (
    CheckReport,
    DatasetFacts,
    Finding,
    RegionWrite,
    VariableFacts,
    check_layouts,
)

BUDGET = MemoryBudget.of_memory(4 * 10**9, reserved=10**8, threads=4)


def layout(shape=(8760, 721, 1440), chunks=(24, 200, 200), **more) -> ArrayLayout:
    dims = ("time", "lat", "lon")[: len(shape)]
    dtype = np.dtype(more.pop("dtype", "f4"))
    return ArrayLayout(
        **{
            "name": "t2m",
            "dims": dims,
            "shape": shape,
            "dtype": dtype,
            "stored_dtype": dtype,
            "chunks": chunks,
            "codecs": ("zstd",),
            "format": "zarr3",
            **more,
        }
    )


def blocks(shape: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(
        (*(c,) * (n // c), *((n % c,) if n % c else ()))
        for n, c in zip(shape, lengths, strict=True)
    )


def codes(report: CheckReport) -> dict[str, str]:
    return {f.code: f.severity for f in report}


COORD = {"name": "time", "is_coord": True, "shape": (8760,), "dtype": "i8"}
SMALL = {"shape": (8760, 10, 10), "dtype": "f4"}

CASES = {
    "good": (layout(), {}),
    "small": (layout(**SMALL, chunks=(12, 10, 10)), {"stored-chunks-too-small": "info"}),
    "tiny": (
        layout(**SMALL, chunks=(1, 10, 10)),
        {"stored-chunks-too-small": "warning", "time-chunk-of-one": "info"},
    ),
    "tiny in shards": (layout(**SMALL, chunks=(2, 10, 10), shards=(4380, 10, 10)), {}),
    "no step of one for few": (layout((50, 721, 1440), (1, 721, 1440)), {}),
    "steps of one": (layout(chunks=(1, 721, 1440)), {"time-chunk-of-one": "info"}),
    "too large for all threads": (
        layout(chunks=(146, 721, 1440)),
        {"stored-chunks-too-large": "error"},
    ),
    "too large for one": (layout(chunks=(730, 721, 1440)), {"stored-chunks-too-large": "error"}),
    "transposed before shards": (
        layout(codecs=("transpose", "sharding_indexed", "zstd")),
        {"transpose-before-shards": "warning"},
    ),
    "transposed within shards": (layout(codecs=("transpose", "zstd"), shards=(240, 400, 400)), {}),
    "a fill value in format 3": (layout(fill_value=-9999.0), {"fill-read-as-values": "warning"}),
    "a fill value of NaN": (layout(fill_value=np.nan), {}),
    "a fill value of 0": (layout(fill_value=0.0), {}),
    "a fill value of zarr 2, not masked": (layout(fill_value=0.0, format="zarr2"), {}),
    "shuffled and compressed": (layout(codecs=("shuffle", "zlib"), format="netcdf4"), {}),
    "read through another package": (
        layout(chunks=None, codecs=(), format="memory", reader="pydap"),
        {"reader-not-known": "info"},
    ),
    "contiguous": (layout(chunks=None, format="netcdf4", codecs=()), {}),
    "whole axis": (layout(**COORD, chunks=(8760,)), {}),
    "axis in a few": (layout(**COORD, chunks=(1024,)), {}),
    "split axis": (layout(**COORD, chunks=(512,)), {"split-coordinate": "info"}),
    "axis of single values": (layout(**COORD, chunks=(1,)), {"split-coordinate": "warning"}),
    "aligned": (layout(dask_chunks=blocks((8760, 721, 1440), (48, 400, 400))), {}),
    "cut": (
        layout(dask_chunks=blocks((8760, 721, 1440), (12, 721, 1440))),
        {"split-stored-chunks": "warning"},
    ),
    "cut a bit": (
        layout(dask_chunks=blocks((8760, 721, 1440), (100, 200, 400))),
        {"split-stored-chunks": "info"},
    ),
    "too large blocks": (
        layout(dask_chunks=blocks((8760, 721, 1440), (2400, 200, 1440))),
        {"blocks-too-large": "error"},
    ),
    "tiny blocks of computed data": (
        layout((10_000, 10, 10), (1, 10, 10), format="dask", codecs=()),
        {"blocks-too-small": "warning"},
    ),
    "empty": (layout((0, 721, 1440), (1, 721, 1440)), {}),
    "scalar": (layout((), ()), {}),
}
CASES["tiny blocks of computed data"] = (
    replace(
        CASES["tiny blocks of computed data"][0],
        dask_chunks=blocks((10_000, 10, 10), (1, 10, 10)),
    ),
    {"blocks-too-small": "warning"},
)


@pytest.mark.parametrize(("v", "expected"), CASES.values(), ids=CASES)
def test_layouts_and_blocks(v: ArrayLayout, expected: dict[str, str]) -> None:
    assert codes(check_layouts([v], BUDGET)) == expected


def test_what_zarr_misreads_is_an_error() -> None:
    facts = DatasetFacts({"t2m": VariableFacts(misread="its shuffle filter has elementsize 0")})
    assert codes(check_layouts([layout()], BUDGET, facts)) == {"values-misread": "error"}


@pytest.mark.parametrize(
    ("zarr_format", "facts", "expected"),
    [
        ("zarr3", VariableFacts(has_fill=True), {}),
        ("zarr2", VariableFacts(has_fill=True, is_masked=True), {"zeros-read-as-missing": "info"}),
    ],
)
def test_fill_values(zarr_format: str, facts: VariableFacts, expected: dict[str, str]) -> None:
    v = layout(fill_value=-1.0 if zarr_format == "zarr3" else 0.0, format=zarr_format)
    report = check_layouts([v], BUDGET, DatasetFacts({"t2m": facts}, opening=Opening(("a.zarr",))))
    assert codes(report) == expected


def test_large_chunks_are_dear_even_where_they_fit() -> None:
    report = check_layouts([layout(chunks=(73, 721, 1440))], BUDGET.with_threads(1))
    assert codes(report) == {"stored-chunks-too-large": "warning"}
    assert "303 MB" in report[0].message


def test_few_blocks_are_few_tasks_at_once() -> None:
    # one block alone: one task holds it, not four
    v = layout((300, 721, 1440), (24, 721, 1440), dask_chunks=((300,), (721,), (1440,)))
    one = codes(check_layouts([v], MemoryBudget.of_growth(3 * 10**9, threads=4)))
    assert "blocks-too-large" not in one


def test_rechunked_by_dask_is_no_split() -> None:
    v = layout(dask_chunks=blocks((8760, 721, 1440), (8760, 10, 10)))
    facts = DatasetFacts({"t2m": VariableFacts(rechunk_tasks=50_000)})
    found = codes(check_layouts([v], BUDGET, facts))
    assert found["rechunked-lazily"] == "warning"
    assert "split-stored-chunks" not in found


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [((24, 400, 400), "info"), ((48, 400, 400), None), ((72, 400, 400), "warning")],
    ids=["within a shard", "one shard", "across shards"],
)
def test_shards_and_blocks(lengths: tuple, expected: str | None) -> None:
    shape = (8640, 800, 1600)
    v = layout(shape, (24, 200, 200), shards=(48, 400, 400), dask_chunks=blocks(shape, lengths))
    assert codes(check_layouts([v], BUDGET)).get("blocks-cut-shards") == expected


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [(99_999, {}), (100_000, {"too-many-tasks": "warning"}), (10**6, {"too-many-tasks": "error"})],
)
def test_graphs(tasks: int, expected: dict[str, str]) -> None:
    assert codes(check_layouts([layout()], BUDGET, DatasetFacts(tasks=tasks))) == expected


def test_variables_that_differ() -> None:
    a, b = layout(), layout(chunks=(240, 100, 100), name="tp")
    report = check_layouts([a, b], BUDGET)
    assert codes(report) == {"mixed-layouts": "info"}
    assert "'tp' in (240, 100, 100)" in report[0].message
    shape = (8760, 721, 1440)
    a = replace(a, dask_chunks=blocks(shape, (24, 400, 400)))
    b = replace(layout(name="tp"), dask_chunks=blocks(shape, (48, 400, 400)))
    report = check_layouts([a, b], BUDGET)
    assert codes(report) == {"blocks-disagree": "info"}
    assert "'time'" in report[0].message


ENCODED = {
    "fits": ((48, 200, 200), (24, 200, 200), None, None),
    "last one shorter": ((8760, 721, 1440), (1000, 500, 500), None, None),
    "cut": ((36, 200, 200), (24, 200, 200), None, "stale-chunks"),
    "longer than the blocks": ((24, 200, 200), (48, 200, 200), None, "stale-chunks"),
    "chunks fit, shards do not": ((24, 200, 200), (24, 200, 200), (48, 200, 200), "stale-chunks"),
    "shards fit": ((48, 200, 200), (24, 100, 100), (48, 200, 200), None),
}


@pytest.mark.parametrize(("lengths", "chunks", "shards", "expected"), ENCODED.values(), ids=ENCODED)
def test_stale_chunks(lengths: tuple, chunks: tuple, shards: tuple, expected: str | None) -> None:
    shape = (8760, 721, 1440)
    v = layout(shape, None, format="dask", codecs=(), dask_chunks=blocks(shape, lengths))
    facts = VariableFacts(encoding_chunks=chunks, encoding_shards=shards)
    found = codes(check_layouts([v], BUDGET, DatasetFacts({"t2m": facts})))
    assert found.get("stale-chunks") == ("error" if expected else None)


PACKED = VariableFacts(encoding_dtype=np.dtype("i2"), packing=Packing(0.01, 273.0), has_fill=True)


@pytest.mark.parametrize(
    ("facts", "more", "expected"),
    [
        (PACKED, {}, {}),
        (PACKED, {"format": "dask"}, {"stale-packing": "warning"}),
        (
            replace(PACKED, lowest=200.0, highest=310.0, is_exact=True),
            {"format": "memory"},
            {},
        ),
        (
            replace(PACKED, lowest=200.0, highest=310.0, is_exact=False),
            {"format": "memory"},
            {"stale-packing": "info"},
        ),
        (
            replace(PACKED, lowest=200.0, highest=1e5, is_exact=True),
            {"format": "memory"},
            {"stale-packing": "error"},
        ),
        (
            replace(PACKED, lowest=200.0, highest=300.0, is_exact=True, has_missing=True),
            {"format": "memory"},
            {},
        ),
        (
            replace(
                PACKED,
                lowest=200.0,
                highest=300.0,
                is_exact=True,
                has_missing=True,
                has_fill=False,
            ),
            {"format": "memory"},
            {"missing-without-fill": "error"},
        ),
        (VariableFacts(codecs_for=2), {}, {"codecs-of-zarr-2": "error"}),
        (VariableFacts(codecs_for=3), {}, {}),
    ],
    ids=["stored", "computed", "exact", "rounded", "wraps", "fill", "no fill", "v2", "v3"],
)
def test_encodings(facts: VariableFacts, more: dict, expected: dict) -> None:
    v = layout((100, 100, 100), None, **{"format": "netcdf4", **more}, codecs=())
    assert codes(check_layouts([v], BUDGET, DatasetFacts({"t2m": facts}))) == expected


REGIONS = {
    "whole chunks": ((48, 96), (24,), None),
    "one block": ((48, 96), (48,), None),
    "to the ragged end": ((72, 100), (28,), None),
    "ends cut": ((50, 98), (48,), "error"),
    "ends cut, in memory": ((50, 98), None, "warning"),
    "blocks cut": ((48, 96), (20,), "error"),
    "offset blocks": ((50, 98), (24,), "error"),
    "in memory": ((48, 96), None, None),
    "wrong size": ((0, 96), (24,), "region-does-not-fit"),
}


@pytest.mark.parametrize(("span", "lengths", "expected"), REGIONS.values(), ids=REGIONS)
def test_regions(span: tuple[int, int], lengths: tuple | None, expected: str | None) -> None:
    n = 28 if span == (72, 100) else 48
    v = layout((n,), None, format="dask" if lengths else "memory", codecs=())
    if lengths:
        v = replace(v, dask_chunks=blocks((n,), lengths))
    region = RegionWrite((100,), (24,), (span[0],), (span[1],))
    facts = DatasetFacts({"t2m": VariableFacts(region=region, encoding_chunks=(7,))})
    found = codes(check_layouts([v], BUDGET, facts))
    if expected == "region-does-not-fit":
        assert found == {"region-does-not-fit": "error"}
    else:
        assert found.get("unsafe-region") == expected
        # the target's chunks count, and not those of the encoding
        assert "stale-chunks" not in found


def test_the_worst_come_first_and_count() -> None:
    shape = (8760, 721, 1440)
    big = layout(shape, (1, 721, 1440), dask_chunks=blocks(shape, (8760, 721, 10)))
    report = check_layouts([layout(**COORD, chunks=(1,)), big], BUDGET)
    order = [f.severity for f in report]
    assert order == sorted(order, key=["error", "warning", "info"].index)
    assert report.worst == "error"
    assert sum(report.counts.values()) == len(report) == len(report.findings)
    assert len(report.at_least("info")) == len(report)
    assert {f.severity for f in report.at_least("warning")} == {"error", "warning"}
    assert report.to_dict()["counts"] == report.counts
    assert CheckReport(()).worst is None
    assert isinstance(report[0], Finding)


dim = st.integers(1, 4000).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(1, n))
)


@given(dims=st.lists(dim, min_size=1, max_size=3), threads=st.integers(1, 8))
def test_any_layout_has_findings_that_make_sense(dims: list, threads: int) -> None:
    shape, stored, lengths = (tuple(d[i] for d in dims) for i in range(3))
    v = layout(shape, stored, dask_chunks=Grid.of(shape, lengths) and blocks(shape, lengths))
    facts = VariableFacts(encoding_chunks=stored)
    budget = MemoryBudget.of_growth(10**8, threads=threads)
    report = check_layouts([v], budget, DatasetFacts({"t2m": facts}, opening=Opening(("x.zarr",))))
    for found in report:
        assert found.message
        assert found.consequence
        ast.parse(found.remedy)
    aligned = Grid.of(shape, lengths).nests(Grid.of(shape, stored))
    assert ("stale-chunks" in codes(report)) == (not aligned)
    for found in report:
        if found.code == "split-stored-chunks":
            chunks = ast.literal_eval(re.search(r"chunks=(\{.*\})", found.remedy).group(1))
            better = Grid.of(shape, tuple(chunks.values()))
            assert better.nests(v.read_grid)
