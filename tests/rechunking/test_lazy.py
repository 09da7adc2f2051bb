"""``ds.chunks`` works where a suggestion was followed, whatever the variables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xchunk

N = 400
MAX_MEM = "150MB"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Elements of several sizes, and a map beside them that is one chunk."""
    folder = tmp_path_factory.mktemp("mixed")
    cube = np.arange(N * 120 * 240).reshape(N, 120, 240) % 199
    ds = xr.Dataset(
        {
            "f4": (("time", "y", "x"), cube.astype("f4")),
            "f8": (("time", "y", "x"), cube.astype("f8")),
            "i1": (("time", "y", "x"), cube.astype("i1")),
            "oro": (("y", "x"), cube[0].astype("f4")),
        },
        {"time": np.arange(N), "area": (("y", "x"), cube[1].astype("f8"))},
    )
    maps = {v: {"chunks": (1, 120, 240)} for v in ("f4", "f8", "i1")}
    ds.to_zarr(folder / "maps.zarr", encoding=maps)
    tiles = {"f4": (N, 25, 24), "f8": (N, 10, 24), "i1": (N, 60, 60)}
    ds.to_zarr(folder / "series.zarr", encoding={v: {"chunks": c} for v, c in tiles.items()})
    for i in range(4):
        part = ds.isel(time=slice(i * N // 4, (i + 1) * N // 4))
        part.drop_vars("oro").to_netcdf(folder / f"maps{i}.nc")
    return folder


@pytest.mark.parametrize("opened", [None, {}], ids=["no-dask", "dask"])
@pytest.mark.parametrize("access", [None, "map", {"time": -1}], ids=str)
@pytest.mark.parametrize("name", ["maps.zarr", "series.zarr"])
def test_chunks_agree_as_suggested(
    mixed: Path, tmp_path: Path, name: str, access: object, opened: dict | None
) -> None:
    ds = xr.open_zarr(mixed / name, chunks=opened)
    suggestion = ds.chunking.suggest(access, max_mem=MAX_MEM)
    assert ds.chunk(suggestion).chunks
    if suggestion.action == "stage":
        store = tmp_path / "out.zarr"
        out = ds.chunking.apply(suggestion, store=store, max_mem=MAX_MEM, progress=False)
    else:
        out = ds.chunking.apply(suggestion)
        xr.testing.assert_equal(out.oro, ds.oro)
        # what was cut can be written all the same
        out.to_zarr(tmp_path / "written.zarr", compute=False)
    assert out.chunks
    assert out.isel(time=slice(0, 3)).map_blocks(lambda block: block * 2).f4.dtype == "f4"


@pytest.mark.filterwarnings("ignore::xchunk.errors.XchunkWarning")
@pytest.mark.parametrize("access", [None, {"time": -1}], ids=str)
@pytest.mark.parametrize("name", ["maps.zarr", "series.zarr", "maps?.nc"])
def test_chunks_agree_as_opened(mixed: Path, name: str, access: object) -> None:
    with xchunk.open_dataset(str(mixed / name), access, max_mem=MAX_MEM, progress=False) as ds:
        assert ds.chunks
        assert ds.area.chunks is None or ds.area.chunks == tuple(ds.chunks[d] for d in ds.area.dims)


def test_blocks_follow_the_largest_elements(mixed: Path) -> None:
    # what fits the widest fits all, and no chunk is decoded more for it
    found = xr.open_zarr(mixed / "maps.zarr", chunks=None).chunking.suggest(max_mem=MAX_MEM)
    wide = found.variables["f8"]
    assert found.variables["f4"].chunks == wide.chunks
    assert found.variables["f4"].read_amplification == 1
    assert found.variables["f4"].worker_mem <= wide.worker_mem


def test_chunks_of_ones_own_may_disagree(mixed: Path) -> None:
    ds = xr.open_zarr(mixed / "maps.zarr", chunks=None)
    out = ds.chunking.apply({"f4": {"y": 60}, "f8": {"y": 40}})
    assert out.f4.chunks[1] == (60, 60)
    assert out.f8.chunks[1] == (40, 40, 40)
