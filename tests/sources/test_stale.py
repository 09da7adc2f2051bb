"""Encodings that were left by other data do not alter the data that took their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xchunk.sources.provenance import without_stale

READ = {"source": "a.zarr", "preferred_chunks": {"x": 4}, "compressors": ()}
TIME = {"units": "days since 2000-01-01", "calendar": "standard"}
PACKED = {"scale_factor": 0.5, "_FillValue": -1}

#: name: encoding that was read, dtype that is shown, whether the encoding may be that of the data.
CASES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "floats": ({"dtype": "f8"}, "f8", True),
    "complex of floats": ({"dtype": "f8"}, "c16", False),
    "floats of complex": ({"dtype": "c8"}, "f8", False),
    "booleans": ({"dtype": "bool"}, "bool", True),
    "numbers of booleans": ({"dtype": "bool"}, "i8", False),
    "booleans of floats": ({"dtype": "f8"}, "bool", False),
    "packed": ({"dtype": "i2", **PACKED}, "f8", True),
    "more digits": ({"dtype": "f4"}, "f8", False),
    "fewer digits": ({"dtype": "f8"}, "f4", True),
    "integers of floats": ({"dtype": "f4"}, "i4", False),
    "packed integers of floats": ({"dtype": "f4", "scale_factor": 2.0}, "i4", True),
    "strings": ({"dtype": "<U3"}, "<U3", True),
    "shorter strings": ({"dtype": "<U3"}, "<U2", True),
    "longer strings": ({"dtype": "<U3"}, "<U4", False),
    "objects of fixed strings": ({"dtype": "<U3"}, "O", False),
    "longer bytes": ({"dtype": "S3"}, "S4", False),
    "characters": ({"dtype": "S1", "char_dim_name": "string7"}, "S9", True),
    "encoded characters": ({"dtype": "S4", "_Encoding": "utf-8"}, "O", True),
    "strings of any length": ({"dtype": str}, "O", True),
    "numbers of strings": ({"dtype": "<U3"}, "f8", False),
    "strings of numbers": ({"dtype": "f8"}, "<U3", False),
    "times": ({"dtype": "i8", **TIME}, "M8[ns]", True),
    "calendar times": ({"dtype": "i8", **TIME}, "O", True),
    "durations of times": ({"dtype": "i8", **TIME}, "m8[ns]", False),
    "durations": ({"dtype": "i8", "units": "hours"}, "m8[ns]", True),
    "times of durations": ({"dtype": "i8", "units": "hours"}, "M8[ns]", False),
    "floats of times": ({"dtype": "i8", **TIME}, "f8", False),
    "times of integers": ({"dtype": "i2"}, "M8[s]", False),
}


@pytest.mark.parametrize("name", CASES)
def test_what_may_be_of_the_data(name: str) -> None:
    encoding, shown, kept = CASES[name]
    variable = xr.Variable("x", np.zeros(3, dtype=shown), {}, {**encoding, **READ})
    found, notes = without_stale(variable)
    if kept:
        assert found.encoding == variable.encoding
    else:
        assert found.encoding == READ
        assert f"as they are, as {np.dtype(shown)}" in notes[0]
    # what a user has made anew is what the user wants
    fresh = xr.Variable("x", variable.values, {}, dict(encoding))
    assert without_stale(fresh) == (fresh, [])


@pytest.mark.parametrize("key", ["scales", "offsets"])
def test_what_differs_between_bands_is_no_packing(key: str) -> None:
    # as rioxarray leaves it: the values are decoded, and no encoding tells how
    encoding = {"dtype": np.dtype("i2"), "add_offset": 0.0, key: (0.5, 1.0), **READ}
    found, notes = without_stale(xr.Variable("x", np.array([0.5, 1.0]), {}, encoding), read=True)
    assert "dtype" not in found.encoding
    assert "as they are, as float64" in notes[0]


@pytest.mark.parametrize("shown", ["f8", "i4"])
def test_what_was_read_and_is_narrowed_is_a_wish(shown: str) -> None:
    variable = xr.Variable("x", np.zeros(3, dtype=shown), {}, {"dtype": np.dtype("f4"), **READ})
    kept, notes = without_stale(variable, read=True)
    assert kept is variable
    told = ["its float64 values are rounded to float32, which its encoding says"]
    assert notes == (told if shown == "f8" else [])
    plain, (said,) = without_stale(variable)
    assert "dtype" not in plain.encoding
    assert said.endswith("; .astype('float32') converts them")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [None, {}], ids=["lazy", "dask"])
def test_other_data_are_written_as_they_are(tmp_path: Path, chunks: Any, zarr_format: Any) -> None:
    ds = xr.Dataset(
        {
            "imaginary": ("x", np.arange(4.0)),
            "counted": ("x", np.array([True, False, True, True])),
            "named": ("x", np.array(["ab", "c", "d", ""])),
            "dated": ("x", np.arange(4).astype("M8[D]").astype("M8[s]")),
        }
    )
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=zarr_format, consolidated=False)
    changed = xr.open_dataset(
        tmp_path / "s.zarr", engine="zarr", chunks=chunks, consolidated=False, decode_times=True
    )
    changed.imaginary.data = changed.imaginary.data * 1j
    changed.counted.data = changed.counted.data.astype("i8") * 3
    changed.named.data = np.array(["abcd", "c", "d", ""])
    changed.dated.data = changed.dated.data.astype("i8") / 7
    wanted = changed.copy(deep=True).load()
    with pytest.warns(match="encoding is that of other data"):
        out = changed.chunking.apply(
            {"x": 2}, store=tmp_path / "t.zarr", progress=False, verify=True
        )
    for name in wanted.variables:
        assert out[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(out[name].values, wanted[name].values)
