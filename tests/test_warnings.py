"""What `apply` warns of: what cannot be kept, and a source that is read many times over."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
import xchunk.core.stages
from xchunk import cli
from xchunk.core.plan import Limits


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    ds = xr.Dataset({"v": (("t", "x"), np.arange(24.0).reshape(6, 4))})
    encoding = {"dtype": "i2", "scale_factor": np.float32(0.5), "_FillValue": -1}
    ds.to_netcdf(tmp_path / "s.nc", engine="netcdf4", encoding={"v": encoding})
    return tmp_path / "s.nc"


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """32 MB of maps, none of which is there: nothing has to be decoded."""
    zarr.create_group(tmp_path / "maps.zarr").create_array(
        "v", shape=(80, 1000, 100), chunks=(1, 1000, 100), dtype="f4",
        dimension_names=("t", "y", "x"),
    )  # fmt: skip
    zarr.consolidate_metadata(tmp_path / "maps.zarr")
    return tmp_path / "maps.zarr"


def test_what_cannot_be_kept(packed: Path) -> None:
    with xr.open_dataset(packed, engine="netcdf4", chunks={}) as ds:
        with pytest.warns(xchunk.LayoutChangeWarning, match="v: its float32 scale_factor") as seen:
            ds.chunking.apply({"t": -1}, store="o.zarr", progress=False)
        assert len(seen) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # a plan says it in its notes; and what was asked for is no surprise
            assert len(ds.chunking.plan({"t": -1}, store="p.zarr").changes) == 1
            ds.chunking.apply({"t": -1}, store="p.zarr", progress=False, unpack=True)


def test_a_codec_without_counterpart(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "s.zarr", zarr_format=3)
    array = group.create_array(
        "v", shape=(6,), chunks=(2,), dtype="i4", dimension_names=("x",),
        compressors=[zarr.codecs.Crc32cCodec()],
    )  # fmt: skip
    array[:] = 1
    ds = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    with pytest.warns(xchunk.LayoutChangeWarning, match="'crc32c' has no counterpart in zarr 2"):
        ds.chunking.apply({"x": 3}, store="o.zarr", zarr_format=2, progress=False)


def test_the_command_line_says_it_once(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["rechunk", str(packed), "o.zarr", "--chunks", "t=-1"]) == 0
    said = capsys.readouterr()
    assert said.out.count("float32 scale_factor") == 1
    assert "float32 scale_factor" not in said.err
    call = ["rechunk", str(packed), "o.zarr", "--chunks", "t=-1", "--overwrite", "--json"]
    assert cli.run(call) == 0
    assert capsys.readouterr().err.count("float32 scale_factor") == 1


def test_a_source_that_is_decoded_many_times(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xchunk.core.stages, "EXCESS_BYTES", 50_000_000)
    ds = xr.open_zarr(maps)
    call = {"store": "o.zarr", "max_mem": "20MB", "limits": Limits(scratch=False)}
    plan = ds.chunking.plan({"t": -1, "y": 20}, **call)
    amplification = plan["v"].amplification
    assert amplification == plan.work.decodes / 80
    assert amplification >= 3
    said = rf"v: each stored chunk is decoded {amplification:.1f} times"
    assert [note for note in plan.notes if note.startswith(said)]
    with pytest.warns(xchunk.ExcessiveIOWarning, match=said):
        ds.chunking.apply({"t": -1, "y": 20}, progress=False, **call)
    staged = ds.chunking.plan({"t": -1, "y": 20}, store="p.zarr", max_mem="20MB")
    assert staged["v"].amplification <= 2.0
    assert staged.notes == ()


def test_little_data_are_read_again_without_a_word(maps: Path) -> None:
    ds = xr.open_zarr(maps)
    call = {"store": "o.zarr", "max_mem": "20MB", "limits": Limits(scratch=False)}
    assert ds.chunking.plan({"t": -1, "y": 20}, **call).notes == ()


def test_lazy_blocks_across_stored_chunks(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "s.zarr").create_array(
        "v", shape=(1000, 1000, 500), chunks=(1, 1000, 500), dtype="f4",
        dimension_names=("t", "y", "x"),
    )  # fmt: skip
    ds = xr.open_zarr(tmp_path / "s.zarr", consolidated=False, chunks=None)
    with pytest.warns(xchunk.ExcessiveIOWarning, match="each stored chunk 100.0 times") as seen:
        out = ds.chunking.apply({"t": -1, "y": 10})
    assert out.v.chunks[1] == (10,) * 100
    assert "store=" in str(seen[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.chunking.apply({"t": 10})
        # dask's own blocks are read once, and shuffled
        ds.chunk(t=1).chunking.apply({"t": -1, "y": 500})
