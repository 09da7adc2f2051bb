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


class Wrapped(Quantity):
    """One that shows what it wraps as its own, as pint's do."""

    def __init__(self, magnitude: Any) -> None:
        self.magnitude = magnitude  # type: ignore[misc]
        self.shape, self.ndim, self.dtype = magnitude.shape, magnitude.ndim, magnitude.dtype

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["magnitude"], name)

    def __getitem__(self, key: Any) -> Wrapped:
        return Wrapped(self.magnitude[key])


def quantities(values: Any) -> xr.Dataset:
    return xr.Dataset({"a": xr.Variable("x", Wrapped(values))})


@pytest.mark.parametrize("store", [None, "s.zarr"])
@pytest.mark.parametrize("whole", [True, False], ids=["Dataset", "DataArray"])
@pytest.mark.parametrize(
    "values", [np.arange(3.0), da.arange(3.0, chunks=2)], ids=["in memory", "blocks within"]
)
def test_quantities_are_refused(values: Any, *, whole: bool, store: str | None) -> None:
    ds = quantities(values) if whole else quantities(values).a
    with pytest.raises(xchunk.EncodingError, match=r"'a' holds quantities.*Give ds.pint.dequant"):
        ds.chunking.apply({"x": 2}, store=store, progress=False)


def test_what_lies_beneath_quantities_is_known_as_stored() -> None:
    xr.Dataset({"a": ("x", np.arange(6.0))}).to_zarr("s.zarr", encoding={"a": {"chunks": (2,)}})
    stored = xr.open_zarr("s.zarr").a.data
    layout = quantities(stored).chunking.layout()["a"]
    assert (layout.format, layout.chunks, layout.dask_chunks) == ("zarr3", (2,), ((2, 2, 2),))


@pytest.mark.parametrize("store", [None, "s.zarr"])
def test_blocks_of_quantities_are_refused_and_the_remedy_works(store: str | None) -> None:
    held = {("q", i): Wrapped(np.arange(2.0) + 2 * i) for i in range(2)}
    blocks = da.Array(held, "q", ((2, 2),), meta=Wrapped(np.empty(0)))
    ds = xr.Dataset({"a": xr.Variable("x", blocks)})
    with pytest.raises(xchunk.EncodingError, match=r"Chunk with ds.pint.chunk") as caught:
        ds.chunking.apply({"x": 4}, store=store, progress=False)
    code = str(caught.value).partition("blocks: ")[2].removesuffix(".")
    known = {"ds": ds, "np": np}
    exec(code, known)  # noqa: S102 - the line that a user is given
    assert known["ds"].a.values.tolist() == [0, 1, 2, 3]
    assert known["ds"].a.attrs == {"units": "m"}
    out = known["ds"].chunking.apply({"x": 4}, store="t.zarr", progress=False)
    assert out.a.values.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("how", [{"dim": "x"}, {"region": {"x": slice(0, 3)}}])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (Quantity(), "dequantify"),
        (da.Array({("q", 0): Quantity()}, "q", ((3,),), meta=Quantity()), "ds.pint.chunk"),
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
