"""Names of attributes that are no texts, and fill values that zarr 2 has no place for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xchunk

PLACES = ["the Dataset", "a variable"]


def with_attrs(place: str, attrs: Any) -> xr.Dataset:
    ds = xr.Dataset({"a": ("x", np.arange(6.0))})
    (ds if place == "the Dataset" else ds.a).attrs.update(attrs)
    return ds


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["v2", "v3"])
@pytest.mark.parametrize("place", PLACES)
def test_numbers_become_names(place: str, zarr_format: Any, tmp_path: Path) -> None:
    out = with_attrs(place, {1: "one"}).chunking.apply(
        {"x": 2}, store=tmp_path / "o.zarr", zarr_format=zarr_format, verify=True, progress=False
    )
    assert (out if place == "the Dataset" else out.a).attrs == {"1": "one"}


ODD: dict[str, Any] = {
    "none": {None: "b"},
    "a pair": {(1, 2): "b"},
    "a truth": {True: "b"},
    "a number whose text is taken": {1: "a", "1": "b"},
}


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["v2", "v3"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", ODD)
def test_other_names_are_refused_in_words(
    case: str, place: str, zarr_format: Any, tmp_path: Path
) -> None:
    ds = with_attrs(place, ODD[case])
    where = "of the Dataset" if place == "the Dataset" else "of a"
    with pytest.raises(xchunk.EncodingError, match=rf"name of the attribute .* {where} is no text"):
        ds.chunking.plan({"x": 2}, store=tmp_path / "o.zarr", zarr_format=zarr_format)


@pytest.mark.parametrize(
    ("zarr_format", "given", "noted"),
    [
        pytest.param(2, {"fill_value": 7.0}, True, id="v2"),
        pytest.param(2, {"fill_value": 7.0, "_FillValue": 7.0}, False, id="v2, missing values"),
        pytest.param(2, {"fill_value": 0.0}, False, id="v2, the default"),
        pytest.param(3, {"fill_value": 7.0}, False, id="v3"),
    ],
)
@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
def test_a_fill_value_that_zarr_2_would_mask_by_is_noted(
    zarr_format: Any, given: Any, noted: bool, stored: bool, tmp_path: Path
) -> None:
    ds = xr.Dataset({"a": ("x", np.arange(6.0), {}, {"_FillValue": given.get("_FillValue")})})
    if stored:
        ds.to_zarr(tmp_path / "s.zarr", zarr_format=2)
        ds = xr.open_zarr(tmp_path / "s.zarr")
    ds.a.encoding |= given
    plan = ds.chunking.plan({"x": 2}, store=tmp_path / "o.zarr", zarr_format=zarr_format)
    said = [n for n in plan.notes if n.startswith("a: fill_value=7.0 is left out")]
    assert bool(said) == noted
