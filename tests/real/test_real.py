"""Real files: each is inspected, suggested for, and rechunked to both formats, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xchunk  # noqa: F401  registers .chunking
from real.compare import assert_same, opener


@dataclass(frozen=True)
class Case:
    """One file (or several), how it will be used, and what is known of it."""

    files: str
    """Name, or a pattern of names that are opened together."""
    access: str | Mapping[str, int]
    """The use."""
    main: str
    """The variable that it is about."""
    stored: tuple[int, ...] | None
    """Stored chunks of the main variable, read off the file by hand; None: contiguous."""
    chunks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Chunks to ask for by name."""
    like_another: bool = False
    """Whether another file is like it, so that it may wait for the slow tests."""


IRIS = [
    Case(
        "A1B_north_america.nc",
        "timeseries",
        "air_temperature",
        (1, 37, 49),
        {"air_temperature": {"time": -1, "latitude": 10, "longitude": 7}},
    ),
    Case("E1_north_america.nc", "map", "air_temperature", (1, 37, 49), like_another=True),
    Case("NEMO/nemo_1m_20150101*.nc", {"y": -1}, "tos", (1, 330, 360), {"tos": {"x": 50}}),
    Case("NEMO/nemo_1m_20150201*.nc", {"x": -1}, "tos", (1, 330, 360), like_another=True),
    Case("NEMO/nemo_1m_20150301*.nc", "scan", "tos", (1, 330, 360), like_another=True),
    Case(
        "orca2_votemper.nc",
        {"dim0": -1},
        "votemper",
        (1, 180),
        {"votemper": {"dim0": -1, "dim1": 11}, "nav_lat_bnds": {"dim0": 50, "bnds_4": 2}},
    ),
    Case(
        "hybrid_height.nc",
        {"model_level_number": -1},
        "air_potential_temperature",
        (1, 100, 100),
        {"air_potential_temperature": {"model_level_number": -1, "grid_latitude": 33}},
    ),
    Case(
        "ostia_monthly.nc",
        "timeseries",
        "surface_temperature",
        (1, 18, 432),
        {"surface_temperature": {"time": -1, "longitude": 100}},
    ),
    Case("vlstr_type.nc", "timeseries", "wind", (1, 1, 1), {"wind": {"time": -1}}),
    Case("SOI_Darwin.nc", "timeseries", "SOI_Darwin", (1,), {"SOI_Darwin": {"time": 500}}),
    Case("atlantic_profiles.nc", {"depth": -1}, "theta", (1, 6, 8), {"theta": {"depth": 7}}),
    Case("mesh_C4_synthetic_float.nc", {"nexample_C4_face": -1}, "synthetic", None),
    Case("rotated_pole.nc", {"grid_latitude": -1}, "air_pressure_at_sea_level", (1, 36)),
    Case("space_weather.nc", {"height": -1}, "Ne", None, {"Ne": {"height": -1, "rLon": 10}}),
    Case("toa_brightness_stereographic.nc", {"y": -1}, "data", (1, 256), {"data": {"x": 100}}),
]
HV = [
    Case("air_temperature_small.nc", "timeseries", "air", None, {"air": {"time": -1, "lat": 7}}),
]


def table(chosen: Callable[[Case], bool], slow: Callable[[Case], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("folder", "case"),
        [
            pytest.param(folder, c, id=c.files, marks=[pytest.mark.slow] if slow(c) else [])
            for folder, group in [("iris", IRIS), ("hv", HV)]
            for c in group
            if chosen(c)
        ],
    )


cases = table(lambda c: True, slow=lambda c: False)
formats = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture
def path(request: pytest.FixtureRequest, folder: str, case: Case) -> Path:
    (found,) = request.getfixturevalue(folder).glob(case.files)
    return found


def test_no_file_is_left_out(iris: Path, hv: Path) -> None:
    for root, known in [(iris, IRIS), (hv, HV)]:
        here = set(root.rglob("*.nc"))
        assert here == {p for c in known for p in root.glob(c.files)}


@cases
def test_inspected(path: Path, case: Case) -> None:
    with xr.open_dataset(path, engine="netcdf4", chunks={}) as ds:
        report = ds.chunking.layout()
        found = {layout.name: layout for layout in report}
        assert set(found) == set(ds.variables)
        layout = found[case.main]
        assert layout.chunks == case.stored
        assert layout.shape == ds[case.main].shape
        assert layout.dtype == ds[case.main].dtype
        with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as raw:
            for name, one in found.items():
                if raw[name].dtype.kind not in "UTO":
                    assert one.stored_dtype == raw[name].dtype, name
        assert case.main in repr(ds.chunking)
        assert case.main in ds.chunking._repr_html_()
        assert len(report.to_dataframe()) == len(ds.variables)
        json.dumps(report.to_dict(), allow_nan=False)


@cases
def test_suggested_for(path: Path, case: Case) -> None:
    with xr.open_dataset(path, engine="netcdf4", chunks={}) as ds:
        before = {k: dict(v.attrs) for k, v in ds.variables.items()}
        found = ds.chunking.suggest(access=case.access, memory="2GiB")
        assert set(found.chunks) == set(ds.variables)
        assert found.action in ("load", "chunk", "stage")
        assert found.why
        assert found.projected_mem <= found.budget.per_task
        if isinstance(case.access, Mapping):
            for dim in case.access:
                assert found.chunks[case.main][dim] in (-1, ds.sizes[dim])
        json.dumps(found.to_dict(), allow_nan=False)
        assert {k: dict(v.attrs) for k, v in ds.variables.items()} == before


@table(lambda c: True, slow=lambda c: c.like_another)
@formats
def test_rechunked_by_use(path: Path, case: Case, zarr_format: int, tmp_path: Path) -> None:
    target = tmp_path / "out" / "target.zarr"
    with xr.open_dataset(path, engine="netcdf4", chunks={}) as ds:
        out = ds.chunking.apply(
            access=case.access, store=target, zarr_format=zarr_format, progress=False
        )
        xr.testing.assert_identical(out.load(), ds.load())
    assert_same(path, target, zarr_format=zarr_format)
    assert [p.name for p in target.parent.iterdir()] == ["target.zarr"]  # no scratch is left


@table(lambda c: bool(c.chunks), slow=lambda c: False)
@formats
def test_rechunked_to_given_chunks(
    path: Path, case: Case, zarr_format: int, tmp_path: Path
) -> None:
    target = tmp_path / "target.zarr"
    with xr.open_dataset(path, engine="netcdf4", chunks={}) as ds:
        plan = ds.chunking.plan(case.chunks, store=target, max_mem="40MB", zarr_format=zarr_format)
        assert not target.exists()  # a plan writes nothing
        assert plan.projected_mem <= 40_000_000
        json.dumps(plan.to_dict(), allow_nan=False)
        out = ds.chunking.apply(
            case.chunks, store=target, max_mem="40MB", zarr_format=zarr_format, progress=False
        )
        xr.testing.assert_identical(out.load(), ds.load())
    assert_same(path, target, zarr_format=zarr_format, chunks=case.chunks)


@table(lambda c: True, slow=lambda c: c.files not in ("orca2_votemper.nc", "vlstr_type.nc"))
def test_without_dask_too(path: Path, case: Case, tmp_path: Path) -> None:
    """A Dataset that was opened without chunks is traced and rechunked all the same."""
    target = tmp_path / "target.zarr"
    with xr.open_dataset(path, engine="netcdf4") as ds:
        ds.chunking.apply(access=case.access, store=target, progress=False)
    assert_same(path, target, zarr_format=3)


# ---- several files ------------------------------------------------------------------------


def nemo(iris: Path) -> Callable[..., xr.Dataset]:
    files = sorted((iris / "NEMO").glob("nemo_1m_*_grid-T.nc"))
    assert len(files) == 3

    def open_them(**kwargs: Any) -> xr.Dataset:
        return xr.open_mfdataset(
            files,
            engine="netcdf4",
            combine="nested",
            concat_dim="time_counter",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="exact",
            **kwargs,
        )

    return open_them


@formats
@pytest.mark.parametrize("chunks", [None, {"tos": {"time_counter": -1, "y": 100, "x": 100}}])
def test_three_files_as_one(
    iris: Path, tmp_path: Path, zarr_format: int, chunks: dict[str, dict[str, int]] | None
) -> None:
    open_them = nemo(iris)
    target = tmp_path / "target.zarr"
    with open_them() as ds:
        report = {layout.name: layout for layout in ds.chunking.layout()}
        assert report["tos"].shape == (3, 330, 360)
        ds.chunking.apply(
            chunks,
            access=None if chunks else {"time_counter": -1},
            store=target,
            zarr_format=zarr_format,
            progress=False,
        )
    assert_same(open_them, target, zarr_format=zarr_format, chunks=chunks, computed=True)


# ---- another library reads the file -------------------------------------------------------


H5NETCDF = """
import sys, json
import xarray as xr, xchunk
source, target, access = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
ds = xr.open_dataset(source, engine="h5netcdf", chunks={})
ds.chunking.apply(access=access, store=target, progress=False)
assert "netCDF4" not in sys.modules  # nothing opens the file by the other library
"""


@pytest.mark.subprocess
@pytest.mark.parametrize("name", ["A1B_north_america.nc", "orca2_votemper.nc", "ostia_monthly.nc"])
def test_by_h5netcdf(iris: Path, tmp_path: Path, name: str) -> None:
    # In a process of its own: netCDF4 and h5py in one process may crash it.
    case = next(c for c in IRIS if c.files == name)
    target = tmp_path / "target.zarr"
    command = [sys.executable, "-c", H5NETCDF, iris / name, target, json.dumps(case.access)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(iris / name, target, zarr_format=3)


def test_the_packed_file_stays_packed(hv: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.zarr"
    with xr.open_dataset(hv / "air_temperature_small.nc", engine="netcdf4", chunks={}) as ds:
        ds.chunking.apply({"time": -1, "lat": 5, "lon": 5}, store=target, progress=False)
    with (
        xr.open_zarr(target, mask_and_scale=False, chunks=None) as stored,
        opener(hv / "air_temperature_small.nc")(mask_and_scale=False) as source,
    ):
        assert stored.air.dtype == np.dtype("i2")
        assert stored.air.encoding["chunks"] == (20, 5, 5)
        np.testing.assert_array_equal(stored.air, source.air)
