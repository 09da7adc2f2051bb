from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

import xchunk
from xchunk.errors import SourceError
from xchunk.opening.dataset import spell_out


@pytest.fixture
def files() -> None:
    for name in ("in/b.nc", "in/a.nc", "in/C.NC4", "in/read.me", "in/sub/d.nc", "odd/[1].nc"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for name in ("z.zarr/zarr.json", "z.zarr/a.nc", "old.zarr/.zgroup"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("src", "names"),
    [
        pytest.param("in/a.nc", ["in/a.nc"], id="a file"),
        pytest.param(Path("in/a.nc"), ["in/a.nc"], id="a path"),
        pytest.param("nope.nc", ["nope.nc"], id="what is not there is told when it is opened"),
        pytest.param("in/*.nc", ["in/a.nc", "in/b.nc"], id="a glob"),
        pytest.param("in/**/*.nc", ["in/a.nc", "in/b.nc", "in/sub/d.nc"], id="a deep glob"),
        pytest.param("odd/[1].nc", ["odd/[1].nc"], id="a name that looks like a glob"),
        pytest.param("in", ["in/C.NC4", "in/a.nc", "in/b.nc"], id="a folder of files"),
        pytest.param("in/", ["in/C.NC4", "in/a.nc", "in/b.nc"], id="with a slash"),
        pytest.param("z.zarr", ["z.zarr"], id="a zarr store that has a file in it"),
        pytest.param("old.zarr", ["old.zarr"], id="a zarr v2 store"),
        pytest.param(["in/b.nc", "in/a.nc"], ["in/b.nc", "in/a.nc"], id="a list in its order"),
        pytest.param(["in/a.nc", "in/*.nc"], ["in/a.nc", "in/b.nc"], id="each file once"),
        pytest.param("https://x.org/a.nc?k=1", ["https://x.org/a.nc?k=1"], id="a URL"),
    ],
)
def test_what_is_named(files: None, src: object, names: list[str]) -> None:
    assert spell_out(src) == names


@pytest.mark.parametrize("src", ["in/*.hdf", [], ["in/a.nc", "x*.nc"], 3, "memory://nope/*.nc"])
def test_what_names_nothing(files: None, src: object) -> None:
    with pytest.raises(SourceError):
        spell_out(src)


def test_urls() -> None:
    fs = fsspec.filesystem("memory")
    for name in ("b.nc", "a.nc", "c.txt"):
        fs.pipe(f"/naming/{name}", b"x")
    found = ["memory:///naming/a.nc", "memory:///naming/b.nc"]
    assert spell_out("memory://naming/*.nc") == found
    assert spell_out("memory://naming/") == found
    assert spell_out("memory://naming") == ["memory://naming"]
    fs.pipe("/naming/.zgroup", b"{}")
    assert spell_out("memory://naming/") == ["memory://naming/"]


def test_open_dataset_joins_a_folder(files: None) -> None:
    import numpy as np
    import xarray as xr

    Path("years").mkdir()
    for year in range(2):
        time = ("time", np.arange(3) + 3 * year)
        ds = xr.Dataset({"t": ("time", np.full(3, year))}, {"time": time})
        ds.to_netcdf(f"years/{year}.nc", engine="netcdf4")
    with xchunk.open_dataset("years") as joined:
        assert joined.t.values.tolist() == [0, 0, 0, 1, 1, 1]
