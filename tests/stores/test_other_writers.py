"""Stores that other libraries write, and zarr's pipeline of another library: the same values."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.cli import main
from xchunk.opening.dataset import open_named
from xchunk.opening.formats import open_nameless

VALUES = np.arange(60 * 6 * 8, dtype="i4").reshape(60, 6, 8)
DIMS = ["t", "y", "x"]
SHARDS: dict[str, Any] = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [1, 6, 8],
        "index_location": "start",
        "codecs": [
            {"name": "transpose", "configuration": {"order": [2, 0, 1]}},
            {"name": "bytes", "configuration": {"endian": "big"}},
            {"name": "gzip", "configuration": {"level": 5}},
        ],
    },
}
METADATA: dict[str, dict[str, Any]] = {
    "zarr": {"chunks": [1, 6, 8], "dtype": "<i4", "dimension_separator": "/"},
    "zarr3": {
        "data_type": "int32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 6, 8]}},
        "codecs": [SHARDS],
    },
}


@pytest.mark.parametrize("driver", METADATA)
def test_arrays_of_tensorstore(tmp_path: Path, driver: str) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    place = str(tmp_path / "a.zarr")
    spec = {
        "driver": driver,
        "kvstore": {"driver": "file", "path": place},
        "metadata": {"shape": list(VALUES.shape), **METADATA[driver]},
        "create": True,
    }
    tensorstore.open(spec).result().write(VALUES).result()
    with pytest.raises(xchunk.SourceError, match="--dims"):
        open_named(place)
    ds = open_nameless(place, DIMS, {})
    (name,) = map(str, ds.data_vars)
    assert ds.chunking.layout()[name].chunks == (1, 6, 8)
    ds.chunking.apply({"t": -1, "x": 4}, store="out.zarr", progress=False, verify=True)
    raw: Any = zarr.open_group("out.zarr", mode="r")[name]
    np.testing.assert_array_equal(raw[...], VALUES)
    assert raw.chunks == (60, 6, 4)


@pytest.mark.parametrize("shards", [None, (10, 6, 8)], ids=["chunks", "shards"])
def test_the_pipeline_of_zarrs(shards: tuple[int, ...] | None) -> None:
    pytest.importorskip("zarrs")
    ds = xr.Dataset({"v": (DIMS, VALUES)})
    ds.to_zarr("a.zarr", encoding={"v": {"chunks": (1, 6, 8), "shards": shards}})
    files = []
    for target, path in (("theirs.zarr", "zarrs.ZarrsCodecPipeline"), ("ours.zarr", None)):
        with zarr.config.set({} if path is None else {"codec_pipeline.path": path}):
            opened = xr.open_zarr("a.zarr")
            opened.chunking.apply({"t": -1}, store=target, progress=False, verify=True)
            np.testing.assert_array_equal(xr.open_zarr(target).v.values, VALUES)
        chunks = sorted(Path(target).glob("v/c/**/*"))
        files.append([p.read_bytes() for p in chunks if p.is_file()])
    assert files[0] == files[1]
    assert files[0]


#: Small stores, each as its writer made it of `WRITTEN`: which, and with what, they say.
STORES = json.loads(Path(__file__).with_name("other_writers.json").read_text())
WRITTEN = np.arange(2 * 6 * 8, dtype="u2").reshape(2, 6, 8)


def put(writer: str) -> str:
    """Write one of the stores into this folder; return its name."""
    root = Path(f"{writer}.zarr")
    for key, held in STORES[writer]["files"].items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = json.dumps(held).encode() if isinstance(held, dict) else base64.b64decode(held)
        path.write_bytes(whole)
    return str(root)


#: Store: the array, whether its dims must be named, what is said else, its chunks, its codecs.
WRITERS: dict[str, tuple[str, bool, str, tuple[int, ...], tuple[str, ...]]] = {
    "ome-zarr-0.4": ("s0", True, "have no names", (1, 6, 4), ("zstd",)),
    "ome-zarr-0.5": ("s0", True, "several resolutions.*ARRAY", (1, 6, 4), ("zstd",)),
    "ngff-zarr": ("scale0/image", False, "", (1, 6, 4), ("zstd",)),
    "zarrita": ("", True, "single zarr array.*--dims y,x",
        (1, 6, 4), ("transpose", "gzip", "crc32c")),
    "zarrita-js": ("", True, "single zarr array", (1, 6, 4), ("transpose", "zstd")),
    "gdal-2": ("gdal-2", False, "", (1, 6, 4), ("zlib",)),
    "gdal-3": ("gdal-3", True, "fill value is null.*--dims", (1, 6, 4), ("zstd",)),
    "nczarr-4.9": ("v", False, "", (2, 6, 8), ()),
    "nczarr-4.10": ("v", False, "", (1, 6, 4), ("zlib",)),
}  # fmt: skip


@pytest.mark.parametrize("writer", STORES)
def test_stores_of_other_writers(writer: str) -> None:
    path, nameless, said, chunks, codecs = WRITERS[writer]
    root = put(writer)
    opened, more = root, []
    if nameless:
        with pytest.raises(xchunk.SourceError, match=said):
            open_named(root)
        opened, more = f"{root}/{path}".rstrip("/"), ["--dims", "z,y,x"]
        ds: Any = open_nameless(opened, ["z", "y", "x"], {})
        path = path or root
    else:
        ds = open_named(root)
    group, _, name = path.rpartition("/")
    ds = ds[group].to_dataset() if group else ds
    layout = ds.chunking.layout()[name]
    assert (layout.chunks, layout.codecs) == (chunks, codecs)
    assert layout.stored_dtype == "u2"
    ds[[name]].chunking.apply({}, store="out.zarr", progress=False, verify=True)
    raw: Any = zarr.open_group("out.zarr", mode="r")[name]
    np.testing.assert_array_equal(raw[...], WRITTEN)
    xr.testing.assert_identical(xr.open_zarr("out.zarr")[name].load(), ds[name].load())
    whole, _, cut = ds[name].dims
    chunked = ["--chunks", f"{whole}=-1,{cut}=2"]
    assert main.run(["rechunk", opened, "again.zarr", *more, *chunked, "--quiet"]) == 0
    raw = zarr.open_group("again.zarr", mode="r")[path]
    assert raw.chunks == (2, 6, 2)
    np.testing.assert_array_equal(raw[...], WRITTEN)


def test_zeros_of_an_image_are_no_missing_values() -> None:
    """Format 2 has one fill value, which xarray masks with; these mean what was not written."""
    put("ome-zarr-0.4")
    ds = open_nameless("ome-zarr-0.4.zarr/s0", ["z", "y", "x"], {})
    assert ds.s0.dtype == "u2"
    for zarr_format in (2, 3):
        out = ds.chunking.apply(
            {"x": 2}, store=f"{zarr_format}.zarr", zarr_format=zarr_format, progress=False
        )
        np.testing.assert_array_equal(out.s0.values, WRITTEN)
        assert out.s0.dtype == "u2"
    # each chunk lies where its writer would have put it
    assert Path("2.zarr/s0/1/0/3").is_file()


def test_a_shard_keeps_what_its_writer_chose() -> None:
    """Its index, the order of bytes and of dims, and the checksum are those of the source."""
    put("zarrita")
    ds = open_nameless("zarrita.zarr", ["z", "y", "x"], {})
    ds.chunking.apply({}, store="out.zarr", progress=False)
    (codec,) = json.loads(Path("out.zarr/zarrita.zarr/zarr.json").read_bytes())["codecs"]
    theirs = json.loads(Path("zarrita.zarr/zarr.json").read_bytes())["codecs"][0]
    for key in ("index_location", "codecs", "chunk_shape"):
        assert codec["configuration"][key] == theirs["configuration"][key], key
