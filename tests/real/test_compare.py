"""The comparison itself: plain copies by xarray pass, and every kind of damage is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from real.compare import assert_same


def copy_as_stored(
    source: Path, target: Path, zarr_format: int, encoding: dict[str, dict[str, Any]] | None = None
) -> None:
    with xr.open_dataset(source, engine="netcdf4", decode_cf=False) as ds:
        # without this, xarray gives a _FillValue of NaN to floats that have none
        none = {k: {"_FillValue": None} for k, v in ds.variables.items() if v.dtype.kind == "f"}
        none = {k: e for k, e in none.items() if "_FillValue" not in ds[k].attrs}
        ds.drop_encoding().to_zarr(
            target, zarr_format=zarr_format, consolidated=True, encoding=none | (encoding or {})
        )


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A small file with everything that gets lost: packing, fill, times, NaN, text, attributes."""
    time = np.arange(4, dtype="f8") * 6 + 0.5
    values = np.arange(4 * 3, dtype="i2").reshape(4, 3)
    noise = np.array([1.5, np.nan, -0.0], dtype="f4")
    ds = xr.Dataset(
        {
            "packed": (
                ("time", "x"),
                values,
                {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": np.int16(-32767)},
            ),
            "noise": ("x", noise, {"_FillValue": np.float32("nan"), "valid_range": [0.0, 1.0]}),
            "scalar": ((), np.int32(7), {"grid_mapping_name": "latitude_longitude"}),
        },
        {
            "time": ("time", time, {"units": "hours since 2000-01-01", "calendar": "360_day"}),
            "label": ("x", np.array(["a", "bb", "ç"], dtype=object), {"long_name": "ß"}),
        },
        {"title": "t", "level": np.int32(3)},
    )
    path = tmp_path / "packed.nc"
    ds.to_netcdf(path, engine="netcdf4")
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plain_copy_of_a_made_file_passes(packed: Path, tmp_path: Path, zarr_format: int) -> None:
    copy_as_stored(packed, tmp_path / "t.zarr", zarr_format)
    assert_same(packed, tmp_path / "t.zarr", zarr_format=zarr_format, chunks={"packed": {"x": -1}})


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["A1B_north_america.nc", "orca2_votemper.nc", "vlstr_type.nc"])
def test_a_plain_copy_of_a_real_file_passes(
    iris: Path, tmp_path: Path, name: str, zarr_format: int
) -> None:
    copy_as_stored(iris / name, tmp_path / "t.zarr", zarr_format)
    assert_same(iris / name, tmp_path / "t.zarr", zarr_format=zarr_format)


def one_bit(root: zarr.Group) -> None:
    root["packed"][2, 1] = root["packed"][2, 1] ^ 1


def another_nan(root: zarr.Group) -> None:
    root["noise"][1:2] = np.array([0x7FC00001], dtype="u4").view("f4")


def lost_sign_of_zero(root: zarr.Group) -> None:
    root["noise"][2] = 0.0


def another_letter(root: zarr.Group) -> None:
    root["label"][2:3] = np.array(["c"], dtype=object)


def lost_attribute(root: zarr.Group) -> None:
    del root["scalar"].attrs["grid_mapping_name"]


def added_attribute(root: zarr.Group) -> None:
    root["scalar"].attrs["history"] = "xchunk"


def other_units(root: zarr.Group) -> None:
    root["time"].attrs["units"] = "hours since 2000-01-02"


def nearly_the_scale(root: zarr.Group) -> None:
    root["packed"].attrs["scale_factor"] = float(np.float32(0.01))


def number_as_text(root: zarr.Group) -> None:
    root.attrs["level"] = "3"


def lost_root_attribute(root: zarr.Group) -> None:
    del root.attrs["title"]


def lost_variable(root: zarr.Group) -> None:
    del root["scalar"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (one_bit, r"packed: stored bits differ first at \(2, 1\)"),
        (another_nan, "noise: stored bits differ"),
        (lost_sign_of_zero, "noise: stored bits differ"),
        (another_letter, "label"),
        (lost_attribute, "scalar: attributes"),
        (added_attribute, "scalar: attributes"),
        (other_units, "time: units"),
        (nearly_the_scale, "packed: scale_factor"),
        (number_as_text, "the root: level"),
        (lost_root_attribute, "the root: attributes"),
        (lost_variable, "scalar"),
    ],
)
def test_damage_is_seen(
    packed: Path,
    tmp_path: Path,
    damage: Callable[[zarr.Group], None],
    said: str,
    zarr_format: int,
) -> None:
    target = tmp_path / "t.zarr"
    copy_as_stored(packed, target, zarr_format)
    damage(zarr.open_group(str(target), mode="r+", use_consolidated=False))
    zarr.consolidate_metadata(str(target))
    with pytest.raises(AssertionError, match=said):
        assert_same(packed, target, zarr_format=zarr_format)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_split_coordinate_is_seen(packed: Path, tmp_path: Path, zarr_format: int) -> None:
    encoding = {"time": {"chunks": (1,), "_FillValue": None}}
    copy_as_stored(packed, tmp_path / "t.zarr", zarr_format, encoding)
    with pytest.raises(AssertionError, match=r"time: split into \(1,\)"):
        assert_same(packed, tmp_path / "t.zarr", zarr_format=zarr_format)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_another_dtype_is_seen(packed: Path, tmp_path: Path, zarr_format: int) -> None:
    copy_as_stored(packed, tmp_path / "t.zarr", zarr_format, {"scalar": {"dtype": "i8"}})
    with pytest.raises(AssertionError, match="scalar: int64"):
        assert_same(packed, tmp_path / "t.zarr", zarr_format=zarr_format)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_other_chunks_are_seen(packed: Path, tmp_path: Path, zarr_format: int) -> None:
    copy_as_stored(packed, tmp_path / "t.zarr", zarr_format, {"packed": {"chunks": (2, 3)}})
    with pytest.raises(AssertionError, match="packed, time: 2"):
        assert_same(
            packed, tmp_path / "t.zarr", zarr_format=zarr_format, chunks={"packed": {"time": -1}}
        )


def test_another_format_is_seen(packed: Path, tmp_path: Path) -> None:
    copy_as_stored(packed, tmp_path / "t.zarr", 2)
    with pytest.raises(AssertionError):
        assert_same(packed, tmp_path / "t.zarr", zarr_format=3)


def test_decoding_and_encoding_again_is_seen(packed: Path, tmp_path: Path) -> None:
    with xr.open_dataset(packed, engine="netcdf4") as ds:
        ds.drop_encoding().to_zarr(tmp_path / "t.zarr", zarr_format=3, consolidated=True)
    with pytest.raises(AssertionError, match=r"packed|time|noise"):
        assert_same(packed, tmp_path / "t.zarr", zarr_format=3)
