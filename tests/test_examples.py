"""The examples in the docstrings of the public names run, and print what they say."""

from __future__ import annotations

import doctest
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import pytest
import xarray as xr

import xchunk

#: What every method and function must have, so that nobody has to guess how it is called.
OF_ONE = {
    name: found
    for name, found in inspect.getmembers(xchunk.DatasetChunking, inspect.isfunction)
    if not name.startswith("_")
} | {
    name: getattr(xchunk, name)
    for name in xchunk.__all__
    if inspect.isfunction(getattr(xchunk, name))
}


def weather(days: int, start: str) -> xr.Dataset:
    values = np.random.default_rng(0).normal(288, 9, (days, 40, 80)).astype("f4")
    ds = xr.Dataset(
        {"t2m": (("time", "lat", "lon"), values)},
        {
            "time": xr.date_range(start, periods=days),
            "lat": ("lat", np.linspace(-87.75, 87.75, 40), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0, 360, 4.5), {"units": "degrees_east"}),
        },
    )
    ds.time.encoding |= {"units": "days since 1900-01-01", "dtype": "int64"}
    return ds


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the examples take for given; each test has copies of the stores."""
    folder = tmp_path_factory.mktemp("examples")
    year = weather(360, "2001-01-01")
    options: dict[str, Any] = {"zarr_format": 2, "consolidated": True}
    for name, days in (("maps", 1), ("archive", 90), ("copy", 90)):
        year.to_zarr(
            folder / f"{name}.zarr", encoding={"t2m": {"chunks": (days, 40, 80)}}, **options
        )
    return {
        "ds": xr.open_zarr(folder / "maps.zarr"),
        "new": weather(30, "2001-12-27"),
        "part": year.isel(time=slice(0, 24)),
        "xr": xr,
        "xchunk": xchunk,
        "folder": folder,
    }


@pytest.fixture
def here(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    for store in names["folder"].iterdir():
        shutil.copytree(store, tmp_path / store.name)
    monkeypatch.chdir(tmp_path)
    with dask.config.set(num_workers=2):
        yield {k: v for k, v in names.items() if k != "folder"}


@pytest.mark.parametrize("name", sorted(OF_ONE))
def test_an_example_runs(name: str, here: dict[str, Any]) -> None:
    found = doctest.DocTestFinder(recurse=False).find(OF_ONE[name], name, globs=here)
    examples = [example for test in found for example in test.examples]
    assert examples, f"{name} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    for test in found:
        runner.run(test)
    assert runner.failures == 0
