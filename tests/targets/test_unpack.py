"""``unpack=True``: packed variables are stored as their decoded values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.cli import main
from xchunk.sources.arrays import close_files, open_stored
from xchunk.sources.refs import FileRef
from xchunk.targets.encode import as_blocks, unpacked

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A netCDF file as they are made: int16, packed by float32, with a fill value."""
    rng = np.random.default_rng(3)
    values = (rng.random((20, 30, 40)) * 50).astype("f4")
    values[3, 4:9] = np.nan
    ds = xr.Dataset({"v": (("t", "y", "x"), values, {"units": "K"}), "n": ("t", np.arange(20))})
    encoding = {
        "dtype": "i2", "scale_factor": np.float32(0.01), "add_offset": np.float32(20),
        "_FillValue": np.int16(-32767), "zlib": True, "chunksizes": (1, 30, 40),
    }  # fmt: skip
    ds.to_netcdf(tmp_path / "s.nc", engine="netcdf4", encoding={"v": encoding})
    return tmp_path / "s.nc"


@pytest.mark.parametrize("chunks", [None, {}, {"t": 7}], ids=["lazy", "stored", "sevens"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_decoded_values_are_stored(packed: Path, chunks: Any, zarr_format: Any) -> None:
    with xr.open_dataset(packed, engine="netcdf4", chunks=chunks) as ds:
        assert ds.v.dtype == "f4"
        out = ds.chunking.apply(
            {"t": -1, "y": 10}, store="o.zarr", unpack=True, zarr_format=zarr_format, verify=True,
            **QUIET,
        )  # fmt: skip
        assert out.v.dtype == "f4"
        assert out.v.values.tobytes() == ds.v.values.tobytes()
        assert out.n.values.tolist() == ds.n.values.tolist()
        # a later verification sees for itself that it was unpacked
        assert ds.chunking.verify("o.zarr").variables
    stored = zarr.open_group("o.zarr")["v"]
    assert stored.dtype == "f4"
    assert stored.chunks == (20, 10, 40)
    assert stored.attrs["units"] == "K"
    assert not {"scale_factor", "add_offset", "missing_value"} & set(stored.attrs)


def test_a_changed_value_is_still_found(packed: Path) -> None:
    with xr.open_dataset(packed, engine="netcdf4", chunks={}) as ds:
        ds.chunking.apply({"t": -1}, store="o.zarr", unpack=True, **QUIET)
        zarr.open_group("o.zarr", mode="r+")["v"][3, 20, 7] += 1
        with pytest.raises(xchunk.VerificationError, match=r"v: .*is altered"):
            ds.chunking.verify("o.zarr")


def test_packed_numbers_are_kept_without_it(packed: Path) -> None:
    with xr.open_dataset(packed, engine="netcdf4", chunks={}) as ds:
        plan = ds.chunking.plan({"t": -1}, store="o.zarr")
        assert any("float32 scale_factor" in note for note in plan.changes)
        plan = ds.chunking.plan({"t": -1}, store="o.zarr", unpack=True)
        assert plan.changes == ()
        (note,) = plan.notes
        assert note.startswith("v: its decoded values are stored as float32, 96.0 kB")
        assert note.endswith("not packed as int16, 48.0 kB")
        assert plan["v"].job.itemsize == 4


def test_stored_values_are_read_as_they_are_stored(packed: Path) -> None:
    """Whatever way a file is opened to be read raw: nothing of it is decoded."""
    with xr.open_dataset(packed, engine="netcdf4", decode_cf=False) as raw:
        stored = open_stored(FileRef(str(packed), "netcdf4", None, "v"))
        assert stored.info.dtype == "i2"
        assert set(stored.info.attrs) == {"_FillValue", "scale_factor", "add_offset", "units"}
        found = stored.read((slice(0, 20), slice(0, 30), slice(0, 40)))
        assert found.tobytes() == raw.v.values.tobytes()
    close_files()


@pytest.mark.filterwarnings("ignore:Numcodecs")  # what older zarrs say of Delta in format 3
def test_filters_for_the_packed_dtype_are_left_out() -> None:
    filters = [zarr.codecs.numcodecs.Delta(dtype="i2")]
    ds = xr.Dataset({"v": (("t", "x"), np.arange(40.0).reshape(8, 5))})
    encoding = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1, "filters": filters}
    ds.to_zarr("s.zarr", encoding={"v": encoding})
    source = xr.open_zarr("s.zarr")
    out = source.chunking.apply({"t": -1}, store="o.zarr", unpack=True, verify=True, **QUIET)
    np.testing.assert_array_equal(out.v.values, ds.v.values)
    stored = zarr.open_group("o.zarr")["v"]
    assert stored.filters == ()
    assert stored.compressors == zarr.open_group("s.zarr")["v"].compressors


def test_plain_variables_are_copied_raw_all_the_same() -> None:
    ds = xr.Dataset(
        {"f": ("x", np.arange(9.0)), "i": ("x", np.arange(9)), "s": ("x", list("abcdefghi"))},
        {"time": ("x", np.arange(9).astype("M8[D]").astype("M8[ns]"))},
    )
    ds.to_zarr("s.zarr")
    source = xr.open_zarr("s.zarr")
    again, remarks = unpacked(source, True)
    assert again is source
    assert remarks == {}
    out = source.chunking.apply({"x": 2}, store="o.zarr", unpack=True, verify=True, **QUIET)
    xr.testing.assert_identical(out.load(), ds)


def test_lazy_values_are_cut_into_whole_stored_chunks() -> None:
    group = zarr.create_group("s.zarr")
    group.create_array(
        "v", shape=(500, 100, 300), chunks=(3, 50, 300), dtype="f4",
        dimension_names=("t", "y", "x"),
    )  # fmt: skip
    lazy = xr.open_zarr("s.zarr", chunks=None, consolidated=False).v
    blocks = as_blocks(lazy[[*range(0, 500, 2)]].variable, None)
    assert blocks.chunks is not None
    assert max(b.size for b in blocks.chunks and [blocks]) == 250 * 100 * 300
    assert all(n % 3 == 0 for n in blocks.chunks[0][:-1])
    nbytes = blocks.chunks[0][0] * blocks.chunks[1][0] * blocks.chunks[2][0] * 4
    assert nbytes <= 16_000_000
    # what is in memory, dask's, or small stays as it is
    for kept in (lazy[:2].variable, lazy.variable.load(), blocks):
        assert as_blocks(kept, None) is kept


def test_the_command_line(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["rechunk", str(packed), "o.zarr", "--chunks", "t=-1", "--unpack", "--verify"]
    assert main.run(call) == 0
    assert "decoded values are stored as float32" in capsys.readouterr().out
    assert zarr.open_group("o.zarr")["v"].dtype == "f4"
    assert main.run(["verify", str(packed), "o.zarr"]) == 0
