"""Encodings that do not hold the values are errors, and nothing is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cftime
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from xarray.backends.zarr import encode_zarr_variable
from xarray.conventions import decode_cf_variable

import xchunk
from xchunk.targets.validate import checked

N = np.nan
READ = {"source": "a.zarr", "preferred_chunks": {"x": 4}}
PACKED = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -32768}

#: name: values, encoding, what is said; None: it is written.
CASES: dict[str, tuple[list[Any], dict[str, Any], str | None]] = {
    "in range": ([5.0, 300.0, -300.0], PACKED, None),
    "in range, with NaN": ([5.0, N], PACKED, None),
    "the greatest": ([332.67, 332.674], PACKED, None),
    "half a step beyond": ([332.676], PACKED, "332.676 does not fit"),
    "beyond": ([5.0, 1e4], PACKED, "10000.0 does not fit"),
    "below": ([5.0, -1e4], PACKED, "-10000.0 does not fit"),
    "infinite": ([5.0, np.inf], PACKED, "inf does not fit"),
    "the fill value": ([5.0, -32768 * 0.01 + 5.0, N], PACKED, "would read back as"),
    "the fill value between others": (
        [0.0, 3.0, 9.0],
        {"dtype": "i2", "scale_factor": 1.0, "_FillValue": 3},
        "1 values of one block become",
    ),
    "no fill value for NaN": ([5.0, N], {**PACKED, "_FillValue": None}, "there is no _FillValue"),
    "only NaN, no fill value": ([N, N], {"dtype": "i4"}, "there is no _FillValue"),
    "unpacked integers of floats": ([1.0, 2.4, 4.0], {"dtype": "i4"}, "2.4 does not fit"),
    "whole numbers, packed by nothing": ([1.0, 2.0, 4.0], {"dtype": "i4"}, None),
    "integers with a scale of one": ([1.0, 2.4], {"dtype": "i4", "scale_factor": 1.0}, None),
    "unpacked integers of NaN": ([1.0, N], {"dtype": "i4"}, "there is no _FillValue"),
    "unpacked integers, filled": ([1.0, N], {"dtype": "i4", "_FillValue": -1}, None),
    "unpacked integers that collide": (
        [-3.0, -1.0, 4.0],
        {"dtype": "i4", "_FillValue": -1},
        "is the fill value",
    ),
    "narrow integers": ([1, 2, 300], {"dtype": "i1"}, "300 does not fit"),
    "narrow integers that fit": ([1, 2, -100], {"dtype": "i1"}, None),
    "negative as unsigned": ([1, -1], {"dtype": "u2"}, "-1 does not fit"),
    "_Unsigned": (
        [0.0, 200.0, N],
        {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1, "scale_factor": 1.0},
        None,
    ),
    "_Unsigned, beyond": (
        [0.0, 260.0],
        {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1, "scale_factor": 1.0},
        "260.0 does not fit",
    ),
    "float32": ([1.0, 1 / 3, N], {"dtype": "f4"}, None),
    "float32, beyond": ([1.0, 1e300], {"dtype": "f4"}, "does not fit"),
    "float32, filled": ([1.0, N], {"dtype": "f4", "_FillValue": 1e20}, None),
    "float32, as the fill value": ([1e20, 1.0, 2e20], {"dtype": "f4", "_FillValue": 1e20}, "1e+20"),
    "negative scale": ([-1.0, 1.0], {"dtype": "i1", "scale_factor": -0.01}, None),
    "negative scale, beyond": ([-2.0, 1.0], {"dtype": "i1", "scale_factor": -0.01}, "-2.0 does"),
    "nothing": ([], PACKED, None),
    # what a file was read with, while other values are shown
    "integers left by a file": ([1.0, 2.4, 3.0], {"dtype": "i4", **READ}, "2.4 does not fit"),
    "integers left by a file, whole": ([1.0, 2.0], {"dtype": "i4", **READ}, None),
    "filled integers left by a file": (
        [1.0, N, 2.5, 3.0],
        {"dtype": "i4", "_FillValue": -1, **READ},
        "2.5 does not fit",
    ),
    "integers as floats, one between others": (
        [0, 2**24 + 1, 2**30],
        {"dtype": "f4"},
        "16777217 does not fit",
    ),
    "integers as floats": ([0, 2**24], {"dtype": "f4"}, None),
    "as booleans": ([0, 2, 1], {"dtype": "bool"}, "2 does not fit"),
    "as booleans that they are": ([0.0, 1.0], {"dtype": "bool"}, None),
    "the real part": ([1 + 0j, 2 - 1j], {"dtype": "f8"}, "(2-1j) does not fit"),
    "the real part is all": ([1 + 0j, complex(2, 0)], {"dtype": "f8"}, None),
    "longer strings": (["ab", "abcd"], {"dtype": "<U3"}, "abcd does not fit"),
    "longer bytes": ([b"ab", b"abcd"], {"dtype": "S3"}, "does not fit"),
    "short strings": (["ab", "a"], {"dtype": "<U1"}, "ab does not fit"),
    "a boolean that is the fill value": (
        [True, False], {"dtype": "i1", "_FillValue": 1}, "True does not fit"),
    "a boolean that is missing_value": (
        [True, False], {"dtype": "i1", "missing_value": 0}, "False does not fit"),
    "booleans and another fill value": ([True, False], {"dtype": "i1", "_FillValue": -1}, None),
    "a complex fill value": ([1j, 0], {"_FillValue": 0j}, "0j does not fit"),
    "another complex fill value": ([1j, N], {"_FillValue": complex(N, N)}, None),
    "text that is the fill value": (["ab", "b"], {"_FillValue": "b"}, "b does not fit"),
    "bytes that are the fill value": ([b"ab", b"b"], {"_FillValue": b"b"}, "b'b' does not fit"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # xarray's and numpy's own words on casts
@pytest.mark.parametrize("lazy", [False, True], ids=["memory", "dask"])
@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_an_error(name: str, lazy: bool) -> None:
    values, encoding, said = CASES[name]
    encoding = {k: v for k, v in encoding.items() if v is not None}
    variable = xr.Variable("x", np.array(values), {}, encoding)
    if lazy:
        variable = variable.chunk(x=max(1, len(values)))
    encoded = encode_zarr_variable(variable, name="t")
    if said is None:
        back = decode_cf_variable("t", checked(variable, encoded, "a/t").compute(scheduler="sync"))
        step = encoding.get("scale_factor", 1.0)
        np.testing.assert_allclose(back.values, values, atol=abs(step) * 0.51, rtol=1e-6)
        return
    with pytest.raises(xchunk.EncodingError) as caught:
        checked(variable, encoded, "a/t").compute(scheduler="sync")
    assert said in str(caught.value)
    numbers = np.array(values).dtype.kind in "iuf"
    assert ("unpack=True" if numbers else "drop_encoding()") in str(caught.value)
    assert str(caught.value).startswith("'a/t' is encoded as")


#: name: values, and the dtype of another kind that an encoding asks for.
OTHER_KINDS: dict[str, tuple[Any, str]] = {
    "a number as bytes": (0.0, "S3"),
    "numbers as text": ([1, 2000], "U3"),
    "numbers as dates": ([1.25, 12.0], "M8[s]"),
    "numbers as complex ones": ([1.3], "c8"),
    "booleans as bytes": ([True], "S3"),
    "complex numbers as text": ([1 + 2j], "U3"),
    "text as bytes": (["ab", "cdef"], "S3"),
    "text as booleans": (["ab", ""], "bool"),
    "bytes as text": ([b"ab", b"cdef"], "U3"),
    "bytes as booleans": ([b"ab", b""], "bool"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lazy", [False, True], ids=["memory", "dask"])
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_values_do_not_become_another_kind(tmp_path: Path, name: str, lazy: bool) -> None:
    values, dtype = OTHER_KINDS[name]
    variable = xr.Variable(("x",) * np.ndim(values), np.array(values), {}, {"dtype": dtype})
    ds = xr.Dataset({"t": variable.chunk() if lazy else variable})
    with pytest.raises(xchunk.EncodingError, match=r"'t' holds .*asks for .*leave the dtype out"):
        ds.chunking.apply({}, store=tmp_path / "o.zarr", progress=False)
    assert not (tmp_path / "o.zarr/zarr.json").exists()


@pytest.mark.parametrize(
    "encoding",
    [{"units": "days since 1900-01-01", "calendar": "standard"}, {"dtype": "M8[s]"}],
    ids=["units", "dtype"],
)
def test_dates_of_another_calendar_are_refused(tmp_path: Path, encoding: dict[str, Any]) -> None:
    dates = np.array([cftime.Datetime360Day(1, 1, 30)], dtype=object)
    ds = xr.Dataset({"t": ("x", dates, {}, encoding)})
    with pytest.raises(xchunk.EncodingError, match="'t'"):
        ds.chunking.apply({}, store=tmp_path / "o.zarr", progress=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["beyond", "no fill value for NaN", "narrow integers"])
def test_nothing_is_committed(tmp_path: Path, name: str) -> None:
    values, encoding, _ = CASES[name]
    ds = xr.Dataset({"t": ("x", np.array(values))}).chunk(x=4)
    ds.t.encoding = {k: v for k, v in encoding.items() if v is not None}
    call: dict[str, Any] = {"store": tmp_path / "o.zarr", "progress": False}
    with pytest.raises(xchunk.EncodingError, match="unpack=True"):
        ds.chunking.apply({"x": 2}, **call)
    assert not (tmp_path / "o.zarr/zarr.json").exists()
    out = ds.chunking.apply({"x": 2}, unpack=True, resume=False, verify=True, **call)
    np.testing.assert_array_equal(out.t.values, ds.t.values)
    assert out.t.dtype == ds.t.dtype


def test_a_fill_value_that_does_not_fit(tmp_path: Path) -> None:
    ds = xr.Dataset({"t": ("x", np.array([1.0, N]))}).chunk(x=2)
    ds.t.encoding = {"dtype": "u1", "scale_factor": 1.0, "_FillValue": -9999}
    with pytest.raises(xchunk.EncodingError, match=r"-9999|_FillValue"):
        ds.chunking.apply({"x": 2}, store=tmp_path / "o.zarr", progress=False)
    assert list(tmp_path.glob("**/zarr.json")) == []


def test_a_stale_packing_is_found_box_by_box(tmp_path: Path) -> None:
    ds = xr.Dataset({"t": (("x", "y"), np.random.default_rng(0).random((400, 300)) * 10)})
    encoding = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -32768, "chunks": (50, 300)}
    ds.to_zarr(tmp_path / "s.zarr", encoding={"t": encoding})
    source = xr.open_zarr(tmp_path / "s.zarr")
    kept = source.t.data
    source["t"].data = da.where(da.arange(400, chunks=50)[:, None] < 390, kept, kept * 1000)
    with pytest.raises(xchunk.EncodingError, match="does not fit") as caught:
        source.chunking.apply({"x": -1, "y": 10}, store=tmp_path / "o.zarr", progress=False)
    assert caught.value.exit_code == 5
    assert not (tmp_path / "o.zarr/zarr.json").exists()
    out = source.chunking.apply(
        {"x": -1, "y": 10}, store=tmp_path / "o.zarr", progress=False, unpack=True, resume=False
    )
    np.testing.assert_array_equal(out.t.values, source.t.values)


@settings(max_examples=200)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32) | st.just(N), min_size=1, max_size=12),
    st.sampled_from(["i1", "u1", "i2"]),
    st.sampled_from([1.0, 0.1, -0.5, 7.0]),
    st.sampled_from([0.0, 100.0]),
    st.sampled_from([None, -1, 0, 255, 127]),
)
@pytest.mark.filterwarnings("ignore")
def test_no_value_is_read_back_as_another(
    values: list[float], dtype: str, scale: float, offset: float, fill: int | None
) -> None:
    """Whatever is let through survives, element by element; whatever is refused does not."""
    data = np.array(values, dtype="f4")
    encoding = {"dtype": dtype, "scale_factor": scale, "add_offset": offset, "_FillValue": fill}
    encoding = {k: v for k, v in encoding.items() if v is not None}
    variable = xr.Variable("x", data, {}, encoding)
    try:
        encoded = encode_zarr_variable(variable, name="v")
    except OverflowError:
        return  # xarray itself refuses a fill value that does not fit
    back = decode_cf_variable("v", encoded.copy()).values
    right = bool(
        (
            np.isclose(back, data, atol=abs(scale) * 0.501, rtol=1e-5)
            | (np.isnan(back) & np.isnan(data))
        ).all()
    )
    try:
        checked(variable, encoded, "v")
    except xchunk.EncodingError:
        assert not right
    else:
        assert right


def test_what_cannot_lose_anything_is_left_alone() -> None:
    for dtype, encoding in [("f4", {}), ("f4", {"_FillValue": N}), ("i2", {"dtype": "i4"})]:
        variable = xr.Variable("x", da.zeros(4, dtype=dtype, chunks=2), {}, encoding)
        encoded = encode_zarr_variable(variable, name="v")
        assert checked(variable, encoded, "v") is encoded
