"""A keyword that is misspelt is refused with the one that is meant."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xchunk
from xchunk.accessor import DatasetChunking


@pytest.fixture
def ds() -> xr.Dataset:
    return xr.Dataset({"t": (("time",), np.zeros(10))})


@pytest.mark.parametrize(
    ("method", "given", "meant"),
    [
        ("suggest", {"axcess": "map"}, "access"),
        ("suggest", {"max_memory": "1GB"}, "max_mem"),
        ("layout", {"counts": True}, "count"),
        ("budget", {"memoryy": "1GB"}, "memory"),
        ("check", {"memori": "1GB"}, "memory"),
        ("probe", {"max_byte": 3}, "max_bytes"),
        ("graph", {"workloadd": None}, "workload"),
        ("verify", {"store": "a.zarr", "progress_": True}, "progress"),
        ("apply", {"chunk": {"time": 1}}, "chunks"),
        ("plan", {"store": "a.zarr", "max_men": "1GB"}, "max_mem"),
        ("append", {"store": "a.zarr", "dim": "time", "check_label": True}, "check_labels"),
    ],
)
def test_the_nearest_keyword_is_suggested(
    ds: xr.Dataset, method: str, given: dict[str, Any], meant: str
) -> None:
    with pytest.raises(TypeError, match=f"did you mean '{meant}'"):
        getattr(ds.chunking, method)(**given)


def test_keywords_of_xarray_go_on_and_others_do_not(ds: xr.Dataset) -> None:
    ds.assign(u=ds.t).to_zarr("a.zarr", consolidated=False)
    with pytest.raises(TypeError, match="did you mean 'access'"):
        xchunk.open_dataset("a.zarr", axcess="map")
    assert list(xchunk.open_dataset("a.zarr", drop_variables=["t"]).variables) == ["u"]


def test_signatures_stay_those_of_the_methods() -> None:
    parameters = inspect.signature(DatasetChunking.suggest).parameters
    assert list(parameters)[:2] == ["self", "access"]
    assert DatasetChunking.suggest.__doc__
