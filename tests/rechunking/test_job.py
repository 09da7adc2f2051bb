"""A job: what is shown is what runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xchunk

QUIET = {"progress": False}


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    monkeypatch.chdir(tmp_path)
    values = np.arange(24 * 6 * 8, dtype="f4").reshape(24, 6, 8)
    made = xr.Dataset({"v": (("t", "y", "x"), values)}, coords={"t": np.arange(24)})
    made.to_zarr("maps.zarr", encoding={"v": {"chunks": (1, 6, 8)}})
    return xr.open_zarr("maps.zarr")


def test_the_plan_that_is_shown_runs(maps: xr.Dataset) -> None:
    job = maps.chunking.plan({"t": -1, "y": 3}, store="series.zarr")
    assert isinstance(job, xchunk.RechunkJob)
    assert repr(job) == repr(job.plan)
    assert job._repr_html_() == job.plan._repr_html_()
    assert job["v"] is job.plan["v"]
    assert job.tasks == job.plan.tasks
    assert not Path("series.zarr").exists()
    assert job.bound.plan is job.plan
    out = job.run(verify=True, **QUIET)
    assert out.load().identical(maps.load())


def test_a_job_runs_once(maps: xr.Dataset) -> None:
    job = maps.chunking.plan({"t": -1}, store="series.zarr")
    job.run(**QUIET)
    with pytest.raises(xchunk.TargetExistsError):
        job.run(**QUIET)


def test_data_that_were_edited_since_are_refused(maps: xr.Dataset) -> None:
    lazy = xr.open_zarr("maps.zarr", chunks=None)
    job = lazy.chunking.plan({"t": -1}, store="series.zarr")
    lazy["v"][0, 0, 0] = 99
    with pytest.raises(xchunk.SourceError, match=r"v has changed since.*Plan again"):
        job.run(**QUIET)
    assert not Path("series.zarr").exists()
    out = lazy.chunking.plan({"t": -1}, store="series.zarr").run(**QUIET)
    assert float(out["v"][0, 0, 0]) == 99


def test_appends_and_regions_are_planned_first(maps: xr.Dataset) -> None:
    maps.isel(t=slice(0, 20)).chunking.apply({"t": 5}, store="s.zarr", **QUIET)
    job = maps.isel(t=slice(20, 24)).chunking.plan_append("s.zarr", dim="t")
    assert xr.open_zarr("s.zarr").sizes["t"] == 20
    assert job.run(verify=True, **QUIET).load().identical(maps.load())
    change = (maps.isel(t=slice(3, 6)) * 2).chunking.plan_region("s.zarr", region="auto")
    assert xr.open_zarr("s.zarr").load().identical(maps.load())
    change.run(**QUIET)
    expected = maps.load().copy(deep=True)
    expected["v"][3:6] *= 2
    assert xr.open_zarr("s.zarr").load().identical(expected)
