"""Zarr arrays whose dims have no names, as tensorstore, zarrita and OME-Zarr write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.cli import main

FORMATS = [pytest.param(2, id="v2"), pytest.param(3, id="v3")]
VALUES = np.arange(600.0).reshape(20, 30)


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("place", ["a.zarr", "g.zarr/0"], ids=["alone", "in a group"])
def test_an_array_is_inspected_and_rechunked(
    zarr_format: Any, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "/" in place:
        zarr.open_group("g.zarr", mode="w", zarr_format=zarr_format)
    zarr.create_array(place, data=VALUES, chunks=(5, 30), zarr_format=zarr_format)
    assert main.run(["inspect", place]) == 6
    said = capsys.readouterr().err
    assert "--dims" in said
    assert "xchunk.rechunk(zarr.open_array" in said
    assert main.run(["inspect", place, "--dims", "y,x"]) == 0
    assert "5" in capsys.readouterr().out
    args = ["rechunk", place, "t.zarr", "--dims", "y,x", "--chunks", "y=20,x=10", "--quiet"]
    assert main.run(args) == 0
    name = place.rpartition("/")[2]
    out = xr.open_zarr("t.zarr")[name]
    assert out.dims == ("y", "x")
    assert out.encoding["chunks"] == (20, 10)
    # what format 2 reads where nothing is stored is missing to xarray
    assert np.array_equal(zarr.open_group("t.zarr", mode="r")[name][:], VALUES)


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_a_group_of_arrays(zarr_format: Any, capsys: pytest.CaptureFixture[str]) -> None:
    group = zarr.open_group("g.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("image", data=VALUES, chunks=(5, 30))
    group.create_array("row", data=VALUES[0])
    assert main.run(["inspect", "g.zarr"]) == 6
    assert "--dims" in capsys.readouterr().err
    args = ["rechunk", "g.zarr", "t.zarr", "--dims", "y,x", "--chunks", "y=20", "--quiet"]
    assert main.run(args) == 0
    out = xr.open_zarr("t.zarr")
    assert (out.image.dims, out["row"].dims) == (("y", "x"), ("x",))
    assert np.array_equal(zarr.open_group("t.zarr", mode="r")["image"][:], VALUES)


def test_names_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array("a.zarr", data=VALUES, chunks=(5, 30))
    assert main.run(["inspect", "a.zarr", "--dims", "x"]) == 6
    assert "has 2 dims, and 1 are named" in capsys.readouterr().err
    assert main.run(["inspect", "a.zarr", "a.zarr", "--dims", "y,x"]) == 2


def test_a_source_is_never_its_own_target(capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array("a.zarr", data=VALUES, chunks=(5, 30))
    args = ["rechunk", "a.zarr", "a.zarr", "--dims", "y,x", "--chunks", "y=20", "--overwrite"]
    assert main.run(args) == xchunk.TargetExistsError.exit_code
    assert np.array_equal(zarr.open_array("a.zarr")[:], VALUES)
