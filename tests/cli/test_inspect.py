from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import main

Run = Callable[..., tuple[int, str, str]]
SHAPE = (40, 100, 100)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        code = main.run([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def maps(first: int = 0) -> xr.Dataset:
    return xr.Dataset(
        {"t": (("time", "y", "x"), np.arange(np.prod(SHAPE), dtype="f8").reshape(SHAPE) % 100)},
        {"time": np.arange(first, first + SHAPE[0])},
    )


def zarr_bytes(folder: str) -> int:
    files = [p for p in Path(folder).rglob("*") if p.is_file() and p.name != "zarr.json"]
    return sum(p.stat().st_size for p in files)


@pytest.mark.parametrize(
    ("encoding", "removed", "said"),
    [
        ({"chunks": (1, 100, 100)}, (), "all 40 chunks"),
        ({"chunks": (1, 100, 100)}, ("c/3/0/0", "c/7/0/0"), "2 of 40 chunks missing"),
        ({"chunks": (1, 50, 50), "shards": (10, 100, 100)}, ("c/1/0/0",), "1 of 4 shards missing"),
    ],
    ids=["complete", "missing", "shards"],
)
def test_bytes_on_disk_and_missing_chunks_of_zarr(
    run: Run, encoding: dict, removed: tuple[str, ...], said: str
) -> None:
    maps().to_zarr("a.zarr", encoding={"t": encoding}, consolidated=False)
    for key in removed:
        Path("a.zarr/t", key).unlink()
    code, out, err = run("inspect", "a.zarr")
    assert (code, err) == (0, "")
    assert said in " ".join(out.split())
    told = json.loads(run("inspect", "a.zarr", "--json")[1])["variables"]["t"]
    assert told["stored_nbytes"] == zarr_bytes("a.zarr/t")
    total = 4 if "shards" in encoding else 40
    assert told["present_chunks"] == total - len(removed)


def test_bytes_on_disk_of_netcdf(run: Run) -> None:
    encoding = {"chunksizes": (1, 100, 100), "zlib": True, "complevel": 1}
    maps().to_netcdf("a.nc", engine="netcdf4", encoding={"t": encoding})
    told = json.loads(run("inspect", "a.nc", "--json")[1])["variables"]
    assert told["t"]["present_chunks"] == 40
    assert 0 < told["t"]["stored_nbytes"] < Path("a.nc").stat().st_size
    assert told["t"]["stored_nbytes"] < told["t"]["nbytes"]
    maps().to_netcdf("b.nc", engine="scipy")
    told = json.loads(run("inspect", "b.nc", "--json")[1])["variables"]
    assert told["t"]["stored_nbytes"] == told["t"]["nbytes"]


def test_the_bytes_of_a_packed_chunk_are_those_that_are_stored(run: Run) -> None:
    packed = {"chunks": (1, 100, 100), "dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}
    maps().to_zarr("a.zarr", encoding={"t": packed}, consolidated=False)
    out = " ".join(run("inspect", "a.zarr")[1].split())
    assert "40 chunks, 20.0 kB each, 80.0 kB in memory" in out


def test_the_source_is_named_as_it_was_typed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    maps().to_zarr("a.zarr", consolidated=False)
    Path("b").mkdir()
    monkeypatch.chdir("b")
    assert run("inspect", "../a.zarr")[1].startswith("xchunk layout of ../a.zarr ")


def test_many_files_are_one_layout_with_what_differs(run: Run) -> None:
    for i, chunk in enumerate((1, 1, 10)):
        encoding = {"chunksizes": (chunk, 100, 100), "zlib": chunk > 1}
        maps(i * SHAPE[0]).to_netcdf(f"m_{i}.nc", engine="netcdf4", encoding={"t": encoding})
    code, out, _ = run("inspect", "m_0.nc", "m_1.nc", "m_2.nc")
    said = " ".join(out.split())
    assert code == 0
    assert "m_0.nc … m_2.nc (3 files)" in said
    assert out.count("time: 120, y: 100, x: 100") == 1
    assert "t: chunks differ: (1, 100, 100) in 2 files" in said
    assert "t: codecs differ" in said
    assert "dask" not in out
    files = run("inspect", "m_*.nc", "--files")[1]
    assert all(f"m_{i}.nc" in files for i in range(3))
    assert "(10, 100, 100)" in files.partition("m_2.nc")[2]


PACKED = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1, "chunksizes": (10, 50, 100)}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"scale_factor": 0.02}, "scale_factor differs: 0.01 in 2 files (first"),
        ({"add_offset": 20.0}, "add_offset differs: none in 2 files (first"),
        ({"_FillValue": -9}, "_FillValue differs: -1 in 2 files (first"),
        ({"dtype": "i4"}, "dtype differs: int16 in 2 files (first"),
        ({"scale_factor": 0.02, "zlib": True}, "codecs differ: none in 2 files (first"),
        ({"scale_factor": 0.02, "chunksizes": (20, 50, 100)}, "chunks differ: (10, 50, 100) in 2"),
    ],
    ids=["scale", "offset", "fill value", "dtype", "codecs", "chunks"],
)
def test_files_that_are_packed_unlike_are_shown_as_each_is_stored(
    run: Run, other: dict, said: str
) -> None:
    for i in range(3):
        own = PACKED | (other if i == 2 else {})
        maps(i * SHAPE[0]).to_netcdf(f"m_{i}.nc", engine="netcdf4", encoding={"t": own})

    def told(*names: str) -> dict:
        return json.loads(run("inspect", *names, "--json")[1])["variables"]["t"]

    out = " ".join(run("inspect", "m_*.nc")[1].split())
    assert f"t: {said}" in out
    assert "m_2.nc" in out.partition(said)[2]
    each = [told(f"m_{i}.nc") for i in range(3)]
    found = told(*(f"m_{i}.nc" for i in range(3)))
    for key in ("stored_nbytes", "present_chunks", "files"):
        assert found[key] == sum(one[key] for one in each)
    assert found["stored_dtype"] == max(one["stored_dtype"] for one in each)
    assert found["format"] == "netcdf4"
    rows = run("inspect", "m_*.nc", "--files")[1].partition("bytes of all")[2]
    assert all(f"m_{i}.nc" in rows for i in range(3))


def test_data_computed_from_files_are_not_stored() -> None:
    for i in range(2):
        own = PACKED | {"scale_factor": 0.01 * (i + 1)}
        maps(i * SHAPE[0]).to_netcdf(f"m_{i}.nc", engine="netcdf4", encoding={"t": own})
    with xr.open_mfdataset("m_*.nc", engine="netcdf4") as ds:
        assert ds.chunking.layout(count=True)["t"].format == "netcdf4"
        found = (ds * 2).chunking.layout(count=True)["t"]
    assert (found.format, found.stored_nbytes, found.files) == ("dask", None, 1)


def test_what_print_shows_is_what_repr_shows() -> None:
    layout = maps().chunking.layout()
    assert str(layout) == repr(layout)
