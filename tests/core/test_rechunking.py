from __future__ import annotations

import itertools
import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.array.rechunk import plan_rechunk
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.reports.comparison import compare_ways, tasks_of_rechunk
from xchunk.errors import InvalidChunksError

dims = st.lists(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(1, n))
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60)
@given(dims=dims)
def test_tasks_are_those_that_dask_makes(dims: list[tuple[int, int, int]]) -> None:
    shape, before, after = (tuple(d[i] for d in dims) for i in range(3))
    array = da.zeros(shape, chunks=before)
    wanted = array.rechunk(after, method="tasks")
    counted = len(wanted.__dask_graph__()) - len(array.__dask_graph__())
    steps = plan_rechunk(array.chunks, wanted.chunks, 8)
    grids = [Grid.of(shape, c) for c in (array.chunks, *steps)]
    pairs = [(a, b) for a, b in itertools.pairwise(grids) if a != b]
    assert sum(tasks_of_rechunk(a, b) for a, b in pairs) == counted


@pytest.mark.parametrize(
    ("shape", "before", "after"),
    [
        ((1000, 200, 200), (10, 200, 200), (1000, 10, 10)),
        ((100, 100), (10, 100), (100, 10)),
        ((365, 180, 360), (1, 180, 360), (365, 20, 20)),
        ((1000, 200), (10, 200), (100, 20)),
    ],
)
def test_p2p_takes_as_many_tasks_as_dask_makes(
    client_in_threads: Client, shape: tuple, before: tuple, after: tuple
) -> None:
    wanted = da.zeros(shape, chunks=before).rechunk(after, method="p2p")
    counted = len(wanted.__dask_graph__())
    v = ArrayLayout(
        "a",
        tuple("xyz"[: len(shape)]),
        shape,
        np.dtype("f8"),
        np.dtype("f8"),
        chunks=before,
        format="zarr3",
    )
    assert compare_ways(v, Grid.of(shape, after), BUDGET)["p2p"].tasks == counted


def layout(**more: object) -> ArrayLayout:
    given = {
        "name": "t2m",
        "dims": ("time", "lat", "lon"),
        "shape": (8760, 360, 720),
        "dtype": np.dtype("f4"),
        "stored_dtype": np.dtype("f4"),
        "chunks": (1, 360, 720),
        "codecs": ("zstd",),
        "format": "zarr3",
        **more,
    }
    return ArrayLayout(**given)


BUDGET = MemoryBudget.of_growth(2 * 10**9, threads=2, workers=4)


def test_maps_to_series() -> None:
    v = layout()
    found = compare_ways(v, Grid.of(v.shape, (8760, 20, 20)), BUDGET)
    assert [w.name for w in found.ways] == ["lazy", "tasks", "p2p", "staged"]
    assert found["lazy"].decoded == 18 * 36 * v.nbytes
    assert found["tasks"].decoded == found["p2p"].decoded == v.nbytes
    # everything hangs together: all of it is held, a quarter on each worker
    assert found["tasks"].worker_mem >= v.nbytes / 4
    assert found["p2p"].worker_disk == v.nbytes // 4
    assert found["p2p"].worker_mem < BUDGET.max_mem
    assert found["staged"].worker_mem <= BUDGET.max_mem
    assert found["staged"].store_disk >= v.nbytes
    assert not found["tasks"].fits
    assert found.best is not None
    assert found.best.name in ("staged", "p2p")
    json.dumps(found.to_dict(), allow_nan=False)


def test_merging_stored_chunks_is_best_done_by_reading() -> None:
    v = layout()
    found = compare_ways(v, Grid.of(v.shape, (50, 360, 720)), BUDGET)
    assert found.best is not None
    assert found.best.name == "lazy"
    assert found["lazy"].decoded == v.nbytes
    assert found["lazy"].tasks == 176
    assert found["tasks"].tasks == 8760 + 176
    # what hangs together is one block, not the array
    assert found["tasks"].worker_mem < v.nbytes / 10


def test_aligned_parts_are_rechunked_on_their_own() -> None:
    many = layout(chunks=(1, 360, 720), dask_chunks=None)
    one = compare_ways(many, Grid.of(many.shape, (876, 36, 720)), BUDGET)["tasks"]
    all_of_it = compare_ways(many, Grid.of(many.shape, (8760, 36, 72)), BUDGET)["tasks"]
    assert one.worker_mem < all_of_it.worker_mem


def test_computed_blocks_cannot_be_read_in_others() -> None:
    shape = (100, 100)
    v = ArrayLayout(
        "a",
        ("x", "y"),
        shape,
        np.dtype("f8"),
        np.dtype("f8"),
        chunks=(10, 100),
        format="dask",
        dask_chunks=((10,) * 10, (100,)),
    )
    found = compare_ways(v, Grid.of(shape, (100, 10)), BUDGET)
    with pytest.raises(KeyError):
        found["lazy"]
    assert found["tasks"].tasks >= 20


def test_nothing_fits() -> None:
    v = layout(chunks=(8760, 360, 720))
    found = compare_ways(v, Grid.of(v.shape, (8760, 20, 20)), MemoryBudget.of_growth(10**7))
    assert found.best is None


@pytest.mark.parametrize("what", [{"time": -1, "lat": 5}, {"a": {"time": 20}}], ids=str)
def test_of_a_dataset(what: dict) -> None:
    values = np.zeros((100, 20, 30), "f4")
    ds = xr.Dataset({"a": (("time", "lat", "lon"), values), "b": ("time", values[:, 0, 0])})
    ds.to_zarr("a.zarr", encoding={"a": {"chunks": (10, 20, 30)}})
    found = xr.open_zarr("a.zarr").chunking.compare_rechunk(what, max_mem="1GB")
    assert found.variable == "a"
    assert found.before == (10, 20, 30)
    shown = repr(found)
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("lazy", "dask tasks", "dask p2p", "staged", "the quickest is"):
        assert word in shown
    assert "xchunk rechunk" in found._repr_html_()


def test_a_suggestion_is_compared_too() -> None:
    ds = xr.Dataset({"a": (("time", "x"), da.zeros((1000, 20_000), chunks=(10, 20_000)))})
    suggestion = ds.chunking.suggest({"time": -1}, max_mem="200MB")
    found = ds.chunking.compare_rechunk(suggestion, max_mem="200MB")
    assert found.after[0] == 1000


@pytest.mark.parametrize(
    ("what", "more", "said"),
    [({"z": 1}, {}, "no dim"), ({"x": 2}, {"variable": "b"}, "'b'"), ({}, {}, "no variable")],
)
def test_what_cannot_be_compared(what: dict, more: dict, said: str) -> None:
    ds = xr.Dataset({"a": (("x", "y"), np.zeros((4, 4)))})
    with pytest.raises(InvalidChunksError, match=said):
        ds.chunking.compare_rechunk(what, max_mem="1GB", **more)
