"""Arrays of other packages: looked at as they are, and refused before anything is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xchunk


class Array:
    """What an array of another package shows of itself, and nothing of its values."""

    shape, ndim, dtype = (4, 6), 2, np.dtype("f8")
    chunks: Any = None

    def __array_function__(self, *_: Any) -> Any:
        return NotImplemented

    def __array_ufunc__(self, *_: Any) -> Any:
        return NotImplemented

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("there are no values")

    def todense(self) -> Any:
        return np.arange(24.0).reshape(4, 6)


def of(package: str, **known: Any) -> Any:
    return type("Array", (Array,), {"__module__": f"{package}.core", **known})()


MANIFEST, SPARSE = "references to stored chunks", "sparse arrays"
CASES: dict[str, tuple[Any, str]] = {
    "cubed": (of("cubed", chunks=((2, 2), (6,))), "computed by cubed"),
    "sparse": (of("sparse"), SPARSE),
    "cupy": (of("cupy"), "graphics card"),
    "VirtualiZarr": (of("virtualizarr"), MANIFEST),
    "an expression of dask": (of("dask", expr=None, chunks=((2, 2), (6,))), "array expressions"),
}


def dataset(case: str) -> xr.Dataset:
    return xr.Dataset({"a": (("y", "x"), CASES[case][0])})


@pytest.mark.parametrize("case", CASES)
def test_other_arrays_are_looked_at_without_their_values(case: str) -> None:
    chunking = dataset(case).chunking
    assert chunking.layout()["a"].shape == (4, 6)
    assert "a" in repr(chunking)
    assert "a" in chunking._repr_html_()
    assert "a" in chunking.suggest({"y": -1}).variables
    assert "1 variable" in repr(chunking.check())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_other_arrays_are_refused_before_anything_is_written(
    case: str, verb: str, tmp_path: Path
) -> None:
    target = tmp_path / "out.zarr"
    more = {} if verb == "plan" else {"progress": False}
    with pytest.raises(xchunk.EncodingError, match=rf"'a' .*{CASES[case][1]}.*Convert it: "):
        getattr(dataset(case).chunking, verb)({"x": 1}, store=target, max_mem="40MB", **more)
    assert not target.exists()


@pytest.mark.parametrize("case", ["VirtualiZarr", "cubed"])
def test_what_blocks_of_dask_cannot_hold_is_refused_without_a_store_too(case: str) -> None:
    for given in (dataset(case), dataset(case)["a"]):
        with pytest.raises(xchunk.EncodingError, match=rf"'a' .*{CASES[case][1]}.*Convert it: "):
            given.chunking.apply({"x": 1})


def test_blocks_of_sparse_arrays_are_refused_and_the_remedy_works(tmp_path: Path) -> None:
    sparse = pytest.importorskip("sparse")
    dense = np.arange(24.0).reshape(4, 6)
    blocks = da.from_array(dense, chunks=(2, 6)).map_blocks(sparse.COO.from_numpy)
    for data in (sparse.COO.from_numpy(dense), blocks):
        ds = xr.Dataset({"a": (("y", "x"), data)})
        with pytest.raises(xchunk.EncodingError, match=SPARSE) as caught:
            ds.chunking.plan({"x": 1}, store=tmp_path / "out.zarr", max_mem="40MB")
        remedy = str(caught.value).partition("block by block: ")[2].removesuffix(".")
        known = {"ds": ds, "np": np}
        exec(remedy, known)  # noqa: S102 - the line that a user is given
        assert np.array_equal(known["ds"].a.values, dense)
        known["ds"].chunking.plan({"x": 1}, store=tmp_path / "out.zarr", max_mem="40MB")


EXPRESSIONS = """
import dask
dask.config.set({"array.query-planning": True})
import dask.array as da, xarray as xr, xchunk
ds = xr.Dataset({"a": (("y", "x"), da.ones((4, 6), chunks=(2, 6)))})
assert hasattr(ds.a.data, "expr")
try:
    ds.chunking.plan({"x": 1}, store="nowhere.zarr", max_mem="40MB")
except xchunk.EncodingError as error:
    print(error)
"""


@pytest.mark.slow
def test_arrays_of_expressions_are_told_from_others() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXPRESSIONS],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "array expressions" in done.stdout
