"""More of what has broken the tools of this field; `test_cases` has the others."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from shared.stores import empty_maps
from xchunk.cli import main
from xchunk.cli.output import in_flags
from xchunk.core.plan.stages import Limits
from xchunk.core.units import format_bytes

QUIET = {"progress": False}


def packed_part(path: Path, offset: float) -> xr.Dataset:
    ds = xr.Dataset({"v": (("t", "x"), np.array([[1.0, 2.0], [3.0, 4.0]]) + offset)})
    encoding = {"dtype": "u1", "scale_factor": 0.5, "add_offset": offset, "_FillValue": 255}
    ds.to_zarr(path, encoding={"v": encoding})
    return xr.open_zarr(path)


def test_files_that_are_packed_in_different_ways(tmp_path: Path) -> None:
    """What the first file's packing cannot hold is not packed by it: values are kept."""
    parts = [packed_part(tmp_path / f"{n}.zarr", n) for n in (0.0, 500.0)]
    both = xr.concat(parts, "t")
    with pytest.warns(xchunk.LayoutChangeWarning, match="stored in different ways"):
        out = both.chunking.apply({"t": -1}, store="o.zarr", **QUIET)
    np.testing.assert_array_equal(out.v.values, both.v.values)
    assert out.v.dtype == both.v.dtype
    both.chunking.verify("o.zarr")


@pytest.mark.parametrize("opened", ["xarray", "xchunk"])
@pytest.mark.parametrize(
    ("packings", "found"),
    [
        ((("i1", 0.5, 10.0), ("i1", 1.0, 10.0)), ("int16", 0.5)),
        ((("i2", 0.0017, 280.3), ("i2", 0.0011, 276.1)), ("int32", 0.0011)),
        ((("u1", 0.25, 0.0), ("i2", -0.5, 0.0)), ("int32", 0.25)),
    ],
    ids=["multiples", "as ERA5", "signs and dtypes"],
)
def test_one_packing_for_files_that_are_packed_in_different_ways(
    tmp_path: Path, monkeypatch: Any, packings: Any, found: tuple[str, float], opened: str
) -> None:
    """The remedy of the note runs, in Python and on the command line, and rounds to its step."""
    monkeypatch.chdir(tmp_path)
    for i, (kind, scale, offset) in enumerate(packings):
        limits = np.iinfo(kind)
        stored = np.array([[limits.min + 1, 0, 7], [limits.max - 1, 3, limits.min]])
        values = np.where(stored == limits.min, np.nan, stored * scale + offset)
        ds = xr.Dataset({"v": (("t", "x"), values)}, {"t": [2 * i, 2 * i + 1]})
        own = {
            "dtype": kind, "scale_factor": scale, "add_offset": offset, "_FillValue": limits.min,
        }  # fmt: skip
        ds.to_netcdf(f"p{i}.nc", engine="netcdf4", encoding={"v": own})
    files = ["p0.nc", "p1.nc"]
    how = xr.open_mfdataset if opened == "xarray" else xchunk.open_dataset
    ds = how(files, engine="netcdf4")
    with pytest.warns(xchunk.LayoutChangeWarning, match="rounded to steps") as caught:
        ds.chunking.apply({"t": -1}, store="plain.zarr", **QUIET)
    code = re.search(r"ds\['v'\]\.encoding = \{[^}]*\}", str(caught[0].message))
    assert code is not None
    exec(code.group(), {"ds": ds})  # noqa: S102 - our own words
    ds.chunking.apply({"t": -1}, store="python.zarr", **QUIET)
    flag = in_flags(code.group())
    given = ["rechunk", *files, "flag.zarr", "--chunks", "t=-1", *flag.split(), "--quiet"]
    assert main.run(given) == 0
    for name in ("python.zarr", "flag.zarr"):
        out = xr.open_zarr(name)
        assert (out.v.encoding["dtype"], out.v.encoding["scale_factor"]) == found
        np.testing.assert_allclose(out.v.values, ds.v.values, rtol=0, atol=found[1] * 0.500001)
        assert np.isnan(out.v.values).sum() == np.isnan(ds.v.values).sum() > 0


def test_a_float32_scale_factor(tmp_path: Path) -> None:
    """It becomes a JSON number: that is said, the integers stay, and unpack=True keeps float32."""
    values = np.array([[1.25, np.nan], [3.5, 4.75]], dtype="f4")
    encoding = {"dtype": "i2", "scale_factor": np.float32(0.05), "_FillValue": np.int16(-1)}
    xr.Dataset({"v": (("t", "x"), values)}).to_netcdf("s.nc", encoding={"v": encoding})
    with (
        xr.open_dataset("s.nc", chunks={}) as ds,
        xr.open_dataset("s.nc", decode_cf=False) as stored,
    ):
        with pytest.warns(xchunk.LayoutChangeWarning, match="float32 scale_factor"):
            out = ds.chunking.apply({"t": -1}, store="o.zarr", verify=True, **QUIET)
        assert out.v.dtype == "f8"
        raw = zarr.open_group("o.zarr")["v"][...]
        assert raw.tobytes() == stored.v.values.tobytes()
        out = ds.chunking.apply({"t": -1}, store="u.zarr", unpack=True, verify=True, **QUIET)
        assert out.v.dtype == "f4"
        assert out.v.values.tobytes() == ds.v.values.tobytes()


def test_holes_that_read_as_nan(tmp_path: Path) -> None:
    """One deleted key is named; chunks that are empty are not."""
    values = np.arange(40.0).reshape(8, 5)
    values[4:] = np.nan
    ds = xr.Dataset({"v": (("t", "x"), values)})
    ds.v.encoding = {"fill_value": np.nan}
    ds.chunking.apply({"t": 2, "x": 5}, store="o.zarr", **QUIET)
    ds.chunking.verify("o.zarr")
    Path("o.zarr/v/c/1/0").unlink()
    with pytest.raises(xchunk.VerificationError, match=r"v/c/1/0 is lost") as caught:
        ds.chunking.verify("o.zarr")
    assert "c/2/0" not in str(caught.value)


@pytest.mark.parametrize("how", ["groups", "tree"])
def test_groups_that_share_dask_names(how: str) -> None:
    """xarray names blocks of equal names in different groups alike: none gets another's values."""
    values = {name: np.arange(24.0).reshape(6, 4) + n for name, n in (("a", 0), ("b", 100))}
    for name, data in values.items():
        xr.Dataset({"v": (("t", "x"), data)}).to_zarr("s.zarr", group=name, mode="a")
    if how == "groups":
        groups = xr.open_groups("s.zarr", engine="zarr", chunks={}, consolidated=False)
    else:
        tree = xr.open_datatree("s.zarr", engine="zarr", chunks={}, consolidated=False)
        groups = {path: tree[path].to_dataset() for path in ("/a", "/b")}
    doubled = xr.DataTree.from_dict({path: ds * 2 for path, ds in groups.items()})
    out = doubled.chunking.apply({"t": -1, "x": 2}, store="o.zarr", **QUIET)
    for name, data in values.items():
        np.testing.assert_array_equal(out[f"{name}/v"].values, 2 * data)
        np.testing.assert_array_equal(zarr.open_group("o.zarr")[f"{name}/v"][...], 2 * data)
    doubled.chunking.verify("o.zarr")


@pytest.fixture
def rectilinear(tmp_path: Path) -> Iterator[Path]:
    if "rectilinear_chunks" not in zarr.config.config["array"]:
        pytest.skip("this zarr has no rectilinear grids")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        group = zarr.create_group(tmp_path / "s.zarr")
        array = group.create_array(
            "v", shape=(12, 20), chunks=[[3, 4, 5], [10, 10]], dtype="f4",
            dimension_names=("t", "x"),
        )  # fmt: skip
        array[...] = np.arange(240).reshape(12, 20)
        yield tmp_path / "s.zarr"


@pytest.mark.parametrize("chunks", [None, {}], ids=["lazy", "dask"])
def test_a_rectilinear_grid_is_read(rectilinear: Path, chunks: Any) -> None:
    ds = xr.open_zarr(rectilinear, chunks=chunks, consolidated=False)
    assert ds.chunking.layout()["v"].chunks == ((3, 4, 5), 10)
    job = ds.chunking.plan({"t": -1, "x": 5}, store="o.zarr")["v"].job
    assert job.source.axes[0].parts == (3, 4, 5)
    assert job.source_chunked
    out = ds.chunking.apply({"t": -1, "x": 5}, store="o.zarr", verify=True, **QUIET)
    np.testing.assert_array_equal(out.v.values, np.arange(240).reshape(12, 20))
    assert out.v.chunks == ((12,), (5,) * 4)


def test_a_rectilinear_grid_that_zarr_does_not_read(
    rectilinear: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zarr.config.set({"array.rectilinear_chunks": False}):
        assert main.run(["rechunk", str(rectilinear), "o.zarr", "--chunks", "t=-1"]) == 6
    said = capsys.readouterr().err
    assert "Rectilinear chunk grids" in said
    assert "array.rectilinear_chunks" in said
    assert not Path("o.zarr").exists()


def maps(shape: tuple[int, ...], chunks: tuple[int, ...]) -> xr.Dataset:
    """Metadata of a large array, of which nothing is there."""
    return xr.open_zarr(empty_maps(Path("maps.zarr"), shape, chunks), chunks=None)


def test_p2p_is_predicted_before_it_starts() -> None:
    """It needs room for the whole array on the workers' disks, and says so with the numbers."""
    ds = maps((20_000, 1000, 1000), (10, 1000, 1000))
    found = ds.chunking.compare_rechunk({"t": -1, "y": 10, "x": 10}, memory="4GB")
    p2p, staged = found["p2p"], found["staged"]
    assert p2p.worker_disk >= ds.v.nbytes / max(1, found.budget.workers)
    assert found["tasks"].worker_mem > 4e9
    assert not found["tasks"].fits
    assert staged.worker_mem <= 4e9
    said = str(found)
    assert "p2p" in said
    assert format_bytes(p2p.worker_disk) in said


@pytest.mark.parametrize(
    ("shape", "source", "target"),
    [
        ((100_000, 1000, 1000), (1, 1000, 1000), (100_000, 1, 1)),
        ((1_000_000, 100_000), (1, 100_000), (1_000_000, 1)),
        ((20_000, 2000, 2000), (1, 2000, 2000), (20_000, 10, 10)),
    ],
    ids=["400 GB", "400 GB of two dims", "320 GB"],
)
def test_tiny_intermediates(
    shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]
) -> None:
    """Objects, tasks and the sizes of pieces are bounded, whatever the shapes."""
    ds = maps(shape, source)
    named = dict(zip(ds.v.dims, target, strict=True))
    plan = ds.chunking.plan({"v": named}, store="o.zarr", max_mem="4GB")["v"]
    limits = Limits()
    for stage in plan.stages:
        assert stage.boxes.count <= limits.tasks
        if stage.scratch is not None:
            assert stage.work.objects <= limits.objects
            assert math.prod(stage.scratch.shards or stage.scratch.chunks) * 4 >= 64_000
    assert plan.amplification == 1.0


def test_limits_are_named_where_they_cannot_be_kept() -> None:
    ds = maps((100_000, 1000, 1000), (1, 1000, 1000))
    with pytest.raises(xchunk.MemoryBudgetError, match="100 tasks") as caught:
        ds.chunking.plan(
            {"t": -1, "y": 1, "x": 1}, store="o.zarr", max_mem="1GB", limits=Limits(tasks=100)
        )
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.allowed == 1_000_000_000 < error.smallest
