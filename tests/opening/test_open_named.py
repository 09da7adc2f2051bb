from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import main
from xchunk.errors import SourceError
from xchunk.opening.dataset import open_named


@pytest.fixture
def years() -> list[str]:
    """Two years of maps, 365 and 366 days, in files of their own."""
    rng = np.random.default_rng(7)
    start = 0
    Path("years").mkdir()
    for year, days in ((2023, 365), (2024, 366)):
        time = ("time", np.arange(days) + start, {"units": "days since 2023-01-01"})
        values = rng.random((days, 4, 6), dtype="float32")
        ds = xr.Dataset({"t": (("time", "lat", "lon"), values)}, {"time": time})
        encoding = {"t": {"chunksizes": (1, 4, 6)}}
        ds.to_netcdf(f"years/{year}.nc", engine="netcdf4", encoding=encoding)
        start += days
    return ["years/2023.nc", "years/2024.nc"]


@pytest.fixture
def tree() -> str:
    ds = xr.Dataset({"t": (("time", "x"), np.arange(24.0).reshape(4, 6))})
    groups = {"/": xr.Dataset(attrs={"title": "root"}), "/a": ds, "/a/b": ds[["t"]] * 2}
    xr.DataTree.from_dict(groups).to_netcdf("tree.nc", engine="netcdf4")
    return "tree.nc"


@pytest.mark.parametrize(
    "src",
    [
        pytest.param(["years/2023.nc", "years/2024.nc"], id="a list"),
        pytest.param(["years/*.nc"], id="a glob"),
        pytest.param(["years"], id="a folder"),
        pytest.param("years", id="its name"),
    ],
)
@pytest.mark.parametrize("concat_dim", [None, "time"])
def test_files_are_joined(years: list[str], src: object, concat_dim: str | None) -> None:
    ds = open_named(src, concat_dim=concat_dim)
    assert isinstance(ds, xr.Dataset)
    assert ds.sizes == {"time": 731, "lat": 4, "lon": 6}
    assert ds.chunking.layout()["t"].chunks == (1, 4, 6)
    whole = xr.concat([xr.open_dataset(name) for name in years], "time")
    np.testing.assert_array_equal(ds.t.values, whole.t.values)
    fitting = open_named(src, concat_dim=concat_dim, blocks="fitting", sizes={"max_mem": 10**8})
    assert isinstance(fitting, xr.Dataset)
    assert fitting.t.chunks is None or len(fitting.t.chunks[0]) < 731


def test_files_that_do_not_fit_together(years: list[str]) -> None:
    xr.Dataset({"t": (("time", "lat", "lon"), np.zeros((1, 9, 9)))}, {"time": [9]}).to_netcdf(
        "odd.nc", engine="netcdf4"
    )
    with pytest.raises(SourceError, match="do not fit together"):
        open_named([*years, "odd.nc"])


def test_all_groups_are_opened(tree: str) -> None:
    found = open_named(tree)
    assert isinstance(found, xr.DataTree)
    assert found["a/b/t"].values[3, 5] == 46
    assert set(found.chunking.layout()["a/t"].dims) == {"time", "x"}
    one = open_named(tree, group="a/b")
    assert isinstance(one, xr.Dataset)
    assert one.t.values[3, 5] == 46


def test_groups_of_many_files(tree: str) -> None:
    with xr.open_datatree(tree) as source:
        source.load().to_netcdf("again.nc", engine="netcdf4")
    found = open_named([tree, "again.nc"], concat_dim="time")
    assert isinstance(found, xr.DataTree)
    assert found["a"].sizes == {"time": 8, "x": 6}
    assert found["a/b/t"].values[7, 5] == 46


def test_groups_that_not_all_files_have(tree: str) -> None:
    xr.DataTree.from_dict({"/a": xr.Dataset({"t": (("time", "x"), np.ones((4, 6)))})}).to_netcdf(
        "less.nc", engine="netcdf4"
    )
    with pytest.raises(SourceError, match="do not hold the same groups: a/b"):
        open_named([tree, "less.nc"], concat_dim="time")
    assert open_named([tree, "less.nc"], "a", concat_dim="time").sizes["time"] == 8


def test_joined_files_are_rechunked_and_verified(
    years: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["rechunk", "years/*.nc", "out.zarr", "--chunks", "time=-1,lat=2", "--max-mem", "20MB"]
    assert main.run([*given, "--verify", "--quiet"]) == 0
    assert main.run(["verify", *years, "out.zarr", "--max-mem", "20MB"]) == 0
    assert "equal bit by bit" in capsys.readouterr().out
    with xr.open_zarr("out.zarr") as out:
        assert out.t.encoding["chunks"] == (731, 2, 6)
        whole = xr.concat([xr.open_dataset(name) for name in years], "time")
        np.testing.assert_array_equal(out.t.values, whole.t.values)
        np.testing.assert_array_equal(out.time.values, whole.time.values)


def test_a_tree_is_rechunked_and_verified(tree: str) -> None:
    given = ["rechunk", tree, "out.zarr", "--chunks", "x=2", "--max-mem", "20MB", "--verify", "-q"]
    assert main.run(given) == 0
    with xr.open_datatree("out.zarr", engine="zarr", chunks={}) as out:
        assert out.attrs["title"] == "root"
        assert out["a/b/t"].encoding["chunks"] == (4, 2)
        assert out["a/b/t"].values[3, 5] == 46


def test_append_from_the_command_line(years: list[str]) -> None:
    first, second = years
    chunks = ["--chunks", "time=100", "--max-mem", "20MB", "-q"]
    assert main.run(["rechunk", first, "out.zarr", *chunks]) == 0
    assert main.run(["rechunk", second, "out.zarr", "--append-dim", "time", "--verify", "-q"]) == 0
    with xr.open_zarr("out.zarr") as out:
        whole = xr.concat([xr.open_dataset(name) for name in years], "time")
        np.testing.assert_array_equal(out.t.values, whole.t.values)


def test_a_probe_takes_the_largest_variable_of_all_files(
    years: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with xr.open_dataset(years[0]) as one:
        large = xr.Dataset({"u": (("n",), np.zeros(10**5))})
        large.to_netcdf("large.nc", engine="netcdf4")
        assert one.t.size < 10**5
    assert main.run(["probe", *years, "large.nc", "--max-bytes", "10MB"]) == 0
    out, err = capsys.readouterr()
    assert "xchunk probe of u" in out
    assert err == ""
