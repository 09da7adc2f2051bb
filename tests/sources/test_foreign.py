"""Values of pandas' types and of pint are looked at, and refused with a remedy or stored."""

from __future__ import annotations

from typing import Any, ClassVar

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import xchunk
from xchunk.stores.stores import is_zarr


def indexed(index: pd.Index[Any]) -> xr.Dataset:
    return xr.Dataset({"a": ("x", [1.0, 2.0, 3.0])}, coords={"x": index})


def held(values: Any) -> xr.Dataset:
    return xr.Dataset({"a": ("x", values), "b": ("x", [1, 2, 3])})


#: name: what is refused, and what its error offers; None: it is stored.
CASES: dict[str, tuple[xr.Dataset, str | None]] = {
    "intervals": (indexed(pd.interval_range(0, 3)), "i.mid for i in"),
    "periods": (indexed(pd.period_range("2000", periods=3, freq="Y")), "to_timestamp()"),
    "time zones": (indexed(pd.date_range("2000", periods=3, tz="UTC")), "tz_convert(None)"),
    "an index of categories": (indexed(pd.CategoricalIndex(["a", "b", "c"])), "astype(object)"),
    "categories": (held(pd.Categorical(["a", "b", "a"])), "astype(object)"),
    "periods as values": (held(pd.array(pd.period_range("2000", periods=3))), "to_timestamp()"),
    "integers, one missing": (held(pd.array([1, None, 3], dtype="Int64")), "astype('float64')"),
    "integers": (held(pd.array([1, 2, 3], dtype="Int64")), None),
    "booleans": (held(pd.array([True, False, True], dtype="boolean")), None),
    "strings": (held(pd.array(["a", "b", ""], dtype="string")), None),
}


@pytest.mark.parametrize("name", CASES)
def test_pandas_types_are_shown_and_refused_or_stored(name: str) -> None:
    ds, remedy = CASES[name]
    assert repr(ds.chunking)
    assert ds.chunking._repr_html_()
    assert len(ds.chunking.layout()) == len(ds.variables)
    assert ds.chunking.suggest({"x": -1})
    assert str(ds.chunking.check())
    assert ds.chunking.apply({"x": 2}).sizes == ds.sizes
    store = MemoryStore()
    if remedy is None:
        out = ds.chunking.apply({"x": 2}, store=store, progress=False, verify=True)
        assert out.a.values.tolist() == list(ds.a.values)
        return
    with pytest.raises(xchunk.EncodingError) as caught:
        ds.chunking.apply({"x": 2}, store=store, progress=False)
    assert remedy in str(caught.value)
    assert not is_zarr(store)


@pytest.mark.parametrize(
    ("name", "converted"),
    [
        ("intervals", lambda ds: ds.assign_coords(x=[i.mid for i in ds["x"].values])),
        ("periods", lambda ds: ds.assign_coords(x=ds["x"].to_index().to_timestamp())),
        ("time zones", lambda ds: ds.assign_coords(x=ds["x"].to_index().tz_convert(None))),
        ("an index of categories", lambda ds: ds.assign_coords(x=ds["x"].astype(object))),
        ("categories", lambda ds: ds.assign(a=ds["a"].astype(object))),
        ("integers, one missing", lambda ds: ds.assign(a=ds["a"].astype("float64"))),
    ],
)
def test_the_remedies_work(name: str, converted: Any) -> None:
    ds = converted(CASES[name][0])
    out = ds.chunking.apply({"x": 2}, store=MemoryStore(), progress=False, verify=True)
    xr.testing.assert_equal(out.load(), ds)


def test_an_index_of_levels_is_refused() -> None:
    ds = xr.Dataset({"a": (("x", "y"), np.ones((2, 2)))}, coords={"x": [1, 2], "y": ["a", "b"]})
    stacked = ds.stack(z=("x", "y"))
    assert repr(stacked.chunking)
    with pytest.raises(xchunk.EncodingError, match=r"ds.reset_index\('z'\).*cf_xarray"):
        stacked.chunking.apply({"z": 2}, store=MemoryStore(), progress=False)
    out = stacked.reset_index("z").chunking.apply(
        {"z": 2}, store=MemoryStore(), progress=False, verify=True
    )
    assert out.y.values.tolist() == ["a", "b", "a", "b"]


class Quantity:
    """As much of one of pint's as xarray asks for."""

    units = "m"
    shape, ndim, dtype = (3,), 1, np.dtype("f8")
    magnitude: ClassVar[list[float]] = [1.0, 2.0, 3.0]
    __array_priority__ = 1

    def __array_function__(self, *_: Any) -> Any:
        return NotImplemented

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        return NotImplemented

    def __getitem__(self, key: Any) -> Quantity:
        return self

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("units would be lost")


def test_quantities_are_refused() -> None:
    ds = xr.Dataset({"a": xr.Variable("x", Quantity())})
    with pytest.raises(xchunk.EncodingError, match="dequantify"):
        ds.chunking.apply({"x": 2}, store=MemoryStore(), progress=False)


@pytest.mark.parametrize("how", [{"dim": "x"}, {"region": {"x": slice(0, 3)}}])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (Quantity(), "dequantify"),
        (da.Array({("q", 0): Quantity()}, "q", ((3,),), meta=Quantity()), "dequantify"),
        (pd.array(pd.period_range("2000", periods=3)), "to_timestamp"),
    ],
    ids=["quantities", "blocks of quantities", "periods"],
)
def test_what_no_store_holds_is_not_added_to_one(values: Any, said: str, how: dict) -> None:
    xr.Dataset({"a": ("x", [1.0, 2.0, 3.0])}).to_zarr("s.zarr")
    ds = xr.Dataset({"a": xr.Variable("x", values)})
    with pytest.raises(xchunk.EncodingError, match=said):
        ds.chunking.apply({"x": 2}, store="t.zarr", progress=False)
    call = ds.chunking.append if "dim" in how else ds.chunking.write_region
    with pytest.raises(xchunk.EncodingError, match=said):
        call("s.zarr", progress=False, **how)
    assert xr.open_zarr("s.zarr").a.values.tolist() == [1, 2, 3]
