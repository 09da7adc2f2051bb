"""Whatever kind of values: what is stored decodes to them, or it is said, or it is refused."""

from __future__ import annotations

import warnings
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import xchunk
from xchunk.stores.stores import is_zarr
from xchunk.targets.validate import decode_like, differing

N = np.nan
#: What only reading a file leaves in an encoding.
READ = {"source": "a.nc", "original_shape": (3,)}
SECONDS = "seconds since 1970-01-01"


def dates(*said: str, unit: str = "ns") -> np.ndarray[Any, Any]:
    return np.array(said, dtype=f"M8[{unit}]")


def hours(*said: float) -> np.ndarray[Any, Any]:
    return (np.array(said) * 60).astype("m8[m]").astype("m8[ns]")


def objects(*said: Any) -> np.ndarray[Any, Any]:
    out = np.empty(len(said), dtype=object)
    out[:] = said
    return out


NOLEAP = objects(*(cftime.DatetimeNoLeap(2000, 2, 28, hour, 0, 1) for hour in (1, 2, 3)))
DAYS360 = objects(*(cftime.Datetime360Day(2000, 2, day) for day in (1, 29, 30)))
KEPT, PLAIN, ERROR = "kept", "stored as they are, with a note", "refused"

#: name: values, encoding, and what becomes of them where the encoding was given by the user in
#: memory and in dask, and where it was left by other data in memory and in dask.
CASES: dict[str, tuple[Any, dict[str, Any], tuple[str, str, str, str]]] = {
    "times that fit": (dates("2020-01-01", "2020-01-02", "NaT"), {"dtype": "i8", "units": SECONDS},
                       (KEPT, KEPT, KEPT, KEPT)),
    "int32 seconds after 2038": (dates("2020-01-01", "2040-01-01"),
        {"dtype": "i4", "units": SECONDS},
                                 (ERROR, ERROR, PLAIN, ERROR)),
    "float32 seconds": (dates("2020-01-01T00:00:01", "2040-01-01"),
        {"dtype": "f4", "units": SECONDS},
                        (ERROR, ERROR, PLAIN, ERROR)),
    "NaT in int32 without a fill": (dates("2020-01-01", "NaT"), {"dtype": "i4", "units": SECONDS},
                                    (ERROR, ERROR, PLAIN, ERROR)),
    "NaT in filled int32": (dates("2020-01-01", "NaT"),
        {"dtype": "i4", "units": SECONDS, "_FillValue": -1},
                            (KEPT, KEPT, KEPT, KEPT)),
    "a time that is the fill": (dates("1970-01-01", "2000-01-01"),
                                {"dtype": "i4", "units": SECONDS, "_FillValue": 0},
                                (ERROR, ERROR, PLAIN, ERROR)),
    "thirds of days as float64": (dates("2020-01-01", "2020-01-01T00:20"),
                                  {"dtype": "f8", "units": "days since 1970-01-01"},
                                  (ERROR, ERROR, PLAIN, ERROR)),
    "hours as whole days": (dates("2020-01-01", "2020-01-01T01"),
                            {"dtype": "i8", "units": "days since 1970-01-01"},
                            (KEPT, ERROR, KEPT, ERROR)),
    "the year 1200": (dates("1200-03-01", "2020-01-01T01", "2300-01-01", unit="us"),
                      {"dtype": "i8", "units": "minutes since 1970-01-01",
                       "calendar": "proleptic_gregorian"},
                      (KEPT, KEPT, KEPT, KEPT)),
    "times under durations": (dates("2020-01-01", "2020-01-01T01"),
        {"dtype": "i8", "units": "hours"},
                              (ERROR, ERROR, PLAIN, PLAIN)),
    "durations": (hours(1, 2, 0.5), {"dtype": "i4", "units": "minutes"}, (KEPT, KEPT, KEPT, KEPT)),
    "long durations": (hours(1, 2_000_000), {"dtype": "i2", "units": "hours"},
                       (ERROR, ERROR, PLAIN, ERROR)),
    "durations under dates": (hours(1, 2), {"dtype": "i8", "units": "hours since 2000-01-01"},
                              (ERROR, ERROR, PLAIN, PLAIN)),
    "noleap": (NOLEAP, {"dtype": "i8", "units": SECONDS, "calendar": "noleap"},
        (KEPT, KEPT, KEPT, KEPT)),
    "noleap as float32": (NOLEAP, {"dtype": "f4", "units": SECONDS, "calendar": "noleap"},
                          (ERROR, ERROR, PLAIN, ERROR)),
    "360_day": (DAYS360, {"dtype": "f8", "units": "days since 1850-01-01", "calendar": "360_day"},
                (KEPT, KEPT, KEPT, KEPT)),
    "integers in float32": (np.array([16777216, 16777217, 2**30]), {"dtype": "f4"},
                            (ERROR, ERROR, PLAIN, PLAIN)),
    "integers in float32 that fit": (np.array([1, 2**24]), {"dtype": "f4"},
        (KEPT, KEPT, PLAIN, PLAIN)),
    "integers in float64": (np.array([1, 2**53 + 1, 2**60]), {"dtype": "f8"},
                            (ERROR, ERROR, PLAIN, PLAIN)),
    "unsigned in float64": (np.array([1, 2**64 - 1], "u8"), {"dtype": "f8"},
                            (ERROR, ERROR, PLAIN, PLAIN)),
    "float64 in float32 left": (np.array([1.0, 1 / 3]), {"dtype": "f4"}, ("", "", PLAIN, PLAIN)),
    "halves in integers left": (np.array([1.0, 1.5]), {"dtype": "i4", "_FillValue": -1},
        ("", "", PLAIN, ERROR)),
    "numbers as booleans": (np.array([1, 2, 0]), {"dtype": "bool"}, (ERROR, ERROR, PLAIN, PLAIN)),
    "booleans": (np.array([True, False]), {}, (KEPT, KEPT, "", "")),
    "long strings": (np.array(["ab", "abcd"]), {"dtype": "<U3"}, (ERROR, ERROR, PLAIN, PLAIN)),
    "strings": (objects("ab", "", "ä€"), {}, (KEPT, KEPT, "", "")),
    "large numbers beside None": (objects(2**60 + 1, None), {}, (ERROR, ERROR, "", "")),
    "unsigned": (np.array([0, 200, 255], "u1"), {"dtype": "i1", "_Unsigned": "true"},
                 (KEPT, KEPT, KEPT, KEPT)),
    "unsigned with a fill": (np.array([0, 200, N], "f4"),
        {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1},
                             (KEPT, KEPT, KEPT, KEPT)),
    "packed beyond": (np.array([1.0, 1e6]), {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1},
                      (ERROR, ERROR, ERROR, ERROR)),
    "two fills": (np.array([1.0, N]), {"dtype": "f8", "_FillValue": -1.0, "missing_value": -9.0},
                  (PLAIN, PLAIN, PLAIN, PLAIN)),
}  # fmt: skip


HOW = ("given", "given-dask", "left", "left-dask")
#: Without those where rounding is what is asked for, or where there is no encoding to be left.
RUNS = [
    pytest.param(name, how, id=f"{name}-{HOW[how]}")
    for name, (_, _, fates) in CASES.items()
    for how in range(4)
    if fates[how]
]


def _same(a: xr.Variable, b: xr.Variable) -> bool:
    return a.shape == b.shape and not differing(np.asarray(a.values), np.asarray(b.values)).any()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("name", "how"), RUNS)
def test_values_are_kept_or_said_or_refused(name: str, how: int, zarr_format: Any) -> None:
    values, encoding, fates = CASES[name]
    ds = xr.Dataset({"v": ("x", values)})
    if how % 2:
        ds = ds.chunk(x=2)
    ds.v.encoding = {**encoding, **(READ if how >= 2 else {})}
    store = MemoryStore()
    call: dict[str, Any] = {"store": store, "progress": False, "zarr_format": zarr_format}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if fates[how] == ERROR:
            with pytest.raises(xchunk.EncodingError, match=r"'v'[^.]*") as caught:
                ds.chunking.apply({"x": 1}, **call)
            assert "drop_encoding" in str(caught.value) or "unpack=True" in str(caught.value)
            assert not is_zarr(store)
            return
        out = ds.chunking.apply({"x": 1}, **call, verify=True)
    notes = [w for w in said if issubclass(w.category, xchunk.LayoutChangeWarning)]
    assert len(notes) == (fates[how] == PLAIN)
    assert _same(ds.v.variable, out.v.variable)
    if values.dtype.kind in "mM":
        assert out.v.dtype == ds.v.dtype
    time = xr.coders.CFDatetimeCoder(
        use_cftime=True if values.dtype.kind == "O" else None,
        time_unit=np.datetime_data(values.dtype)[0] if values.dtype.kind == "M" else "ns",
    )
    plain = xr.open_zarr(store, decode_times=time, consolidated=False)
    assert _same(ds.v.variable, plain.v.variable)


@pytest.mark.parametrize("chunks", [None, 2], ids=["memory", "dask"])
@pytest.mark.parametrize("missing", [None, N], ids=repr)
def test_missing_strings_are_said(chunks: int | None, missing: Any) -> None:
    ds = xr.Dataset({"v": ("x", objects("Ulm", missing, ""))})
    ds = ds.chunk(x=chunks) if chunks else ds
    with pytest.warns(xchunk.LayoutChangeWarning, match="v: 1 of its strings are missing"):
        out = ds.chunking.apply({"x": 1}, store=MemoryStore(), progress=False)
    assert out.v.values.tolist() == ["Ulm", "", ""]
    # whoever asks for a proof is told that it is not the same
    with (
        pytest.warns(xchunk.LayoutChangeWarning),
        pytest.raises(xchunk.VerificationError, match="missing in the source"),
    ):
        ds.chunking.apply({"x": 1}, store=MemoryStore(), progress=False, verify=True)


@pytest.mark.parametrize("target", [2, 3])
@pytest.mark.parametrize("source", [2, 3])
@pytest.mark.parametrize("dtype", ["M8[s]", "M8[10s]", "m8[15m]", "M8[D]", "m8[ns]", "M8[100ms]"])
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_times_of_zarr_itself_keep_their_steps(dtype: str, source: Any, target: Any) -> None:
    import zarr

    group = zarr.open_group(MemoryStore(), mode="w", zarr_format=source)
    names = {"dimension_names": ("x",)} if source == 3 else {}
    array = group.create_array("t", shape=(4,), chunks=(2,), dtype=np.dtype(dtype), **names)
    array[:] = values = np.array([1, 2, 3, 7]).astype(dtype)
    if source == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["x"]
    ds = xr.open_zarr(group.store, consolidated=False, chunks={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xchunk.LayoutChangeWarning)
        out = ds.chunking.apply(
            {"x": 4}, store=MemoryStore(), zarr_format=target, progress=False, verify=True
        )
    assert (out.t.values == values).all()


def test_a_store_that_holds_wrapped_times_is_not_verified() -> None:
    ds = xr.Dataset({"t": ("x", dates("2020-01-01", "2040-01-01"))})
    ds.t.encoding = {"dtype": "i4", "units": SECONDS}
    for source in (ds, ds.chunk(x=1)):
        store = MemoryStore()
        ds.to_zarr(store, consolidated=False)
        with pytest.raises(xchunk.VerificationError, match="2040-01-01"):
            source.chunking.verify(store)


def test_large_blocks_are_compared_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xchunk.targets.validate._AT_ONCE", 10)
    times = np.arange(60).reshape(20, 3).astype("M8[h]").astype("M8[ns]")
    ds = xr.Dataset({"t": (("x", "y"), times)}).chunk(x=20)
    ds.t.encoding = {"dtype": "i2", "units": "hours since 1970-01-01"}
    out = ds.chunking.apply({"x": 5}, store=MemoryStore(), progress=False, verify=True)
    xr.testing.assert_equal(out, ds)
    ds.t.encoding["dtype"] = "i1"
    ds["t"].data = ds.t.data + np.timedelta64(100, "h")
    with pytest.raises(xchunk.EncodingError, match="does not fit"):
        ds.chunking.apply({"x": 5}, store=MemoryStore(), progress=False)


@pytest.mark.parametrize(
    ("values", "back", "wrong"),
    [
        (np.array([2**53 + 1, 1]), np.array([2.0**53, 1.0]), [True, False]),
        (np.array([44, -1], "i1"), np.array([300.0, -1.0]), [True, False]),
        (np.array([0, 3], "u1"), np.array([-1.0, 3.5]), [True, True]),
        (np.array([1.5, N]), np.array([1.5, N], "f4"), [False, False]),
        (dates("NaT", "2000-01-01"), dates("NaT", "NaT"), [False, True]),
        (dates("NaT", "2000-01-01"), NOLEAP[:2], [False, True]),
        (objects(None, "a", "b"), objects(N, None, "b"), [False, True, False]),
        (NOLEAP, NOLEAP[::-1], [True, False, True]),
    ],
)
def test_what_differs(values: Any, back: Any, wrong: list[bool]) -> None:
    assert differing(values, back).tolist() == wrong


def test_times_are_decoded_in_the_unit_that_holds_them() -> None:
    attrs = {"units": "days since 1200-01-01", "calendar": "proleptic_gregorian"}
    back = decode_like(np.array([0, 1]), attrs, dates("1200-01-01", "1200-01-02", unit="s"))
    assert back.dtype == np.dtype("M8[s]")
    assert back.astype(str).tolist() == ["1200-01-01T00:00:00", "1200-01-02T00:00:00"]


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize("scale", [np.float32(0.01), np.float64(0.01), 0.01])
def test_a_scale_is_read_back_from_json(unit: str, scale: Any) -> None:
    """One of 32 bits comes back with 64, which makes it another one, and times fall short."""
    times = dates("1970-01-01T00:00:00", "1970-01-01T00:00:01", unit=unit)
    ds = xr.Dataset({"a": ("t", times)})
    ds.a.encoding = {"scale_factor": scale, "units": "seconds since 1970-01-01", "dtype": "f4"}
    store = MemoryStore()
    try:
        ds.chunking.apply({"t": 1}, store=store, progress=False)
    except xchunk.EncodingError:
        return
    assert xr.open_zarr(store).a.values.tolist() == ds.a.values.astype("M8[ns]").tolist()
