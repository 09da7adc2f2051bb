from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xchunk.demo.compare import compare
from xchunk.errors import VerificationError
from xchunk.sources import open_source

pytestmark = pytest.mark.filterwarnings("ignore:.*[Cc]onsolidated.*")


def dataset() -> xr.Dataset:
    values = np.random.default_rng(3).random((50, 8, 9)).astype("float32")
    values[3, 3, 3] = np.nan
    return xr.Dataset(
        {
            "t": (("time", "y", "x"), values),
            "n": (("time",), np.arange(50, dtype="int16")),
            "s": (("y",), np.array(list("abcdefgh"), dtype=object)),
            "scalar": ((), np.int64(7)),
            "empty": (("none",), np.zeros(0)),
        }
    )


def stored(ds: xr.Dataset, path: str, chunks: tuple[int, ...]) -> xr.Dataset:
    ds.to_zarr(path, encoding={"t": {"chunks": chunks}}, zarr_format=2)
    return open_source(path, chunks=None, decode_cf=False)


@pytest.mark.parametrize("max_mem", [100, 10_000, 10**8], ids=["tiny", "some", "all"])
def test_the_same_data_in_other_chunks(max_mem: int) -> None:
    maps = stored(dataset(), "maps.zarr", (1, 8, 9))
    series = stored(dataset(), "series.zarr", (50, 2, 3))
    found = compare(maps, series, max_mem=max_mem)
    assert found.elements == 50 * 72 + 50 + 8 + 1
    assert set(found.variables) == {"t", "n", "s", "scalar", "empty"}
    assert found.boxes >= (50 if max_mem == 100 else 4)


def negative_nan(ds: xr.Dataset) -> None:
    bits = ds.t.to_numpy()
    bits.view("uint32")[3, 3, 3] |= 0x80000001
    ds["t"] = (ds.t.dims, bits)


def one_bit(ds: xr.Dataset) -> None:
    bits = ds.t.to_numpy()
    bits.view("uint32")[49, 7, 8] ^= 1
    ds["t"] = (ds.t.dims, bits)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_bit, r"t: 1 elements differ.*\(49, 7, 8\)"),
        (negative_nan, r"t: 1 elements differ.*\(3, 3, 3\)"),
        (lambda ds: ds.update({"s": ("y", np.array(list("abcdefgX"), dtype=object))}), r"s: .*X"),
        (lambda ds: ds.update({"scalar": 8}), "scalar: 1 elements"),
        (lambda ds: ds.update({"n": ds.n.astype("int32")}), "n: .*int16.*int32"),
    ],
    ids=["bit", "payload", "string", "scalar", "dtype"],
)
def test_any_difference_is_named(change, said: str) -> None:
    other = dataset()
    change(other)
    with pytest.raises(VerificationError, match=said):
        compare(dataset(), other)


def test_missing_variables_and_other_shapes_are_named() -> None:
    with pytest.raises(VerificationError, match="lacks n"):
        compare(dataset(), dataset().drop_vars("n"))
    with pytest.raises(VerificationError, match=r"t: the source has .*time.*50.*49"):
        compare(dataset()[["t"]], dataset()[["t"]].isel(time=slice(49)))


def test_byte_order_is_not_a_difference() -> None:
    ds = dataset()[["n"]]
    other = ds.copy()
    other["n"] = ("time", ds.n.to_numpy().astype(">i2"))
    assert compare(ds, other).elements == 50
