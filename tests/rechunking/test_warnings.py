"""What `apply` warns of: what cannot be kept, and a source that is read many times over."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
import xchunk.core.plan.stages
from shared.stores import empty_maps
from xchunk.cli import main
from xchunk.core.plan.stages import Limits


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    ds = xr.Dataset({"v": (("t", "x"), np.arange(24.0).reshape(6, 4))})
    encoding = {"dtype": "i2", "scale_factor": np.float32(0.5), "_FillValue": -1}
    ds.to_netcdf(tmp_path / "s.nc", engine="netcdf4", encoding={"v": encoding})
    return tmp_path / "s.nc"


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """32 MB of maps, none of which is there: nothing has to be decoded."""
    return empty_maps(tmp_path / "maps.zarr", (80, 1000, 100), (1, 1000, 100))


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
    assert main.run(["rechunk", str(packed), "o.zarr", "--chunks", "t=-1"]) == 0
    said = capsys.readouterr()
    assert said.out.count("float32 scale_factor") == 1
    assert "float32 scale_factor" not in said.err
    call = ["rechunk", str(packed), "o.zarr", "--chunks", "t=-1", "--overwrite", "--json"]
    assert main.run(call) == 0
    assert capsys.readouterr().err.count("float32 scale_factor") == 1


def test_a_source_that_is_decoded_many_times(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xchunk.core.plan.stages, "EXCESS_BYTES", 50_000_000)
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
    assert [n for n in staged.notes if "no chunk of it" not in n] == []


def test_little_data_are_read_again_without_a_word(maps: Path) -> None:
    ds = xr.open_zarr(maps)
    call = {"store": "o.zarr", "max_mem": "20MB", "limits": Limits(scratch=False)}
    notes = ds.chunking.plan({"t": -1, "y": 20}, **call).notes
    assert [n for n in notes if "no chunk of it" not in n] == []


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


NUMBERS = np.array([1.0, 2.0, np.nan, -9999.0])

#: Values, the attributes with them, and those by which xarray reads others than were given.
DECODED: dict[str, tuple[np.ndarray, dict[str, object], set[str]]] = {
    "a scale beside floats": (NUMBERS, {"scale_factor": 0.1, "units": "K"}, {"scale_factor"}),
    "an offset beside floats": (NUMBERS, {"add_offset": 5.0}, {"add_offset"}),
    "a scale of one": (NUMBERS, {"scale_factor": 1.0, "add_offset": 0.0}, set()),
    "packed numbers": (np.arange(4, dtype="i2"), {"scale_factor": 0.1}, {"scale_factor"}),
    "a fill": (NUMBERS, {"_FillValue": -9999.0}, {"_FillValue"}),
    "a fill of NaN": (NUMBERS, {"_FillValue": np.nan}, set()),
    "another fill": (np.arange(4), {"missing_value": 3}, {"missing_value"}),
    "times": (np.arange(4), {"units": "days since 2000-01-01", "calendar": "noleap"}, {"units"}),
    "a time that is none": (np.arange(4), {"units": "seconds since launch"}, {"units"}),
    "a duration": (np.arange(4), {"units": "days", "dtype": "timedelta64[ns]"}, {"dtype"}),
    "days": (np.arange(4), {"units": "days"}, set()),
    "flags": (np.arange(4, dtype="i1") % 2, {"dtype": "bool"}, {"dtype"}),
    "bytes read as unsigned": (np.arange(-2, 2, dtype="i1"), {"_Unsigned": "true"}, {"_Unsigned"}),
    "bytes read as text": (np.array([b"a", b"bc"]), {"_Encoding": "utf-8"}, {"_Encoding"}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", DECODED)
def test_attributes_that_readers_decode_by_are_named(case: str) -> None:
    values, attrs, named = DECODED[case]
    ds = xr.Dataset({"v": ("x", values, attrs)})
    job = ds.chunking.plan({"x": 2}, store="a.zarr", max_mem="60MB")
    said = [n for n in job.plan.notes if "readers decode them" in n]
    assert len(said) == bool(named)
    assert all(f"{key}={attrs[key]}" in said[0] for key in named)
    is_odd = bool(named & {"scale_factor", "add_offset"}) and values.dtype.kind == "f"
    assert bool(job.plan.changes) == is_odd
    job.run(verify=True, progress=False)
    raw = xr.open_zarr("a.zarr", decode_cf=False)
    np.testing.assert_array_equal(raw.v.values, values)
    if case != "a time that is none":
        # older xarrays still make durations of "days" by themselves
        durations = None if "dtype" in attrs else False
        as_read = xr.open_zarr("a.zarr", decode_timedelta=durations).v.load()
        same = as_read.dtype.kind == values.dtype.kind and as_read.equals(ds.v)
        # a reader of attributes that are named sees other values, and of no others
        assert same == (not named)
    # what is stored with its attributes is undecoded data, of which nothing has to be said
    again = raw.chunking.plan({"x": 1}, store="b.zarr", max_mem="60MB")
    assert not [n for n in again.plan.notes if "readers decode them" in n]
