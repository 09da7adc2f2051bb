"""Codecs: kept where what is read back cannot depend on the chunk, else replaced with a note."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import (
    BloscCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.storage import MemoryStore

import xchunk
from xchunk.errors import EncodingError, SourceError, XchunkError
from xchunk.targets.codecs import for_chunks

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*not in the Zarr.*", "ignore:Numcodecs codecs are not", "ignore:Consolidated metadata"
)

#: Rows that start far from each other, whose steps are small.
STEPS = np.tile(np.arange(100, dtype="i4"), (4, 1)) + np.array([[-30000], [30000], [-9], [9]], "i4")
FLOATS = np.random.default_rng(0).normal(280, 9, (4, 100)).astype("f4")


def made(values: np.ndarray[Any, Any], zarr_format: int, **codecs: Any) -> xr.Dataset:
    store = MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(store, zarr_format=zarr_format)  # type: ignore[arg-type]
        named: dict[str, Any] = (
            {"fill_value": None} if zarr_format == 2 else {"dimension_names": ("y", "x")}
        )
        array = group.create_array(
            "v", shape=values.shape, chunks=(1, 100), dtype=values.dtype, **named, **codecs
        )
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
        array[...] = values
        return xr.open_zarr(store, consolidated=False, chunks={})


def rechunked(ds: xr.Dataset, zarr_format: int) -> tuple[zarr.Array[Any], list[str]]:
    target = MemoryStore()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds.chunking.apply(
            {"y": -1}, store=target, max_mem="20MB", zarr_format=zarr_format, verify=True
        )
        array = zarr.open_array(target, path="v", mode="r")
    notes = [str(w.message) for w in caught if issubclass(w.category, xchunk.LayoutChangeWarning)]
    return array, notes


def names(array: zarr.Array[Any]) -> list[str]:
    return [type(c).__name__ for c in (*array.filters, *array.compressors)]


V2: dict[str, tuple[np.ndarray[Any, Any], dict[str, Any], str]] = {
    "delta-that-wraps": (STEPS, {"filters": [numcodecs.Delta("<i4", "<i2")]}, "delta"),
    "delta": (STEPS, {"filters": [numcodecs.Delta("<i4")]}, ""),
    "delta-of-floats": (FLOATS, {"filters": [numcodecs.Delta("<f4")]}, "delta"),
    "bitround": (FLOATS, {"filters": [numcodecs.BitRound(8)]}, ""),
    "quantize": (FLOATS, {"filters": [numcodecs.Quantize(2, "<f4")]}, ""),
    "fixedscaleoffset": (
        FLOATS,
        {"filters": [numcodecs.FixedScaleOffset(280, 100, "<f4", "<i2")]},
        "fixedscaleoffset",
    ),
    "astype": (STEPS, {"filters": [numcodecs.AsType("<i2", "<i4")]}, "astype"),
    "packbits": (STEPS > 0, {"filters": [numcodecs.PackBits()]}, ""),
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("case", V2)
def test_codecs_of_zarr_2_give_what_the_source_gives(case: str, zarr_format: int) -> None:
    values, codecs, replaced = V2[case]
    ds = made(values, 2, compressors=None, **codecs)
    expected = ds.v.values
    if case == "packbits" and tuple(map(int, xr.__version__.split(".")[:2])) < (2026, 9):
        # this xarray makes int8 of booleans, which the codec cannot hold: refused, never wrong
        with pytest.raises(XchunkError):
            rechunked(ds, zarr_format)
        return
    array, notes = rechunked(ds, zarr_format)
    assert np.array_equal(array[...], expected)
    assert array.chunks == (4, 100)
    assert bool(replaced) == any(f"codec {replaced!r} is not kept" in note for note in notes)
    assert len(array.filters) == (not replaced)


@pytest.mark.parametrize(
    ("filters", "compressor", "expected"),
    [
        ([numcodecs.Shuffle(4), numcodecs.Zlib(4)], None, ["BloscCodec"]),
        ([numcodecs.Shuffle(4)], numcodecs.Zlib(4), ["BloscCodec"]),
        ([numcodecs.Shuffle(4), numcodecs.Zlib(4), numcodecs.Fletcher32()], None,
         ["BloscCodec", "Crc32cCodec"]),
        ([numcodecs.Shuffle(4)], numcodecs.Zstd(3), ["BloscCodec"]),
        ([numcodecs.Shuffle(4)], None, []),
        ([numcodecs.Zlib(2)], None, ["GzipCodec"]),
        ([], numcodecs.Zlib(2), ["GzipCodec"]),
        ([numcodecs.CRC32()], numcodecs.GZip(1), ["GzipCodec", "Crc32cCodec"]),
        ([numcodecs.Delta("<i4"), numcodecs.Shuffle(4)], numcodecs.Zlib(1),
         ["Delta", "BloscCodec"]),
        ([], None, []),
    ],
    ids=["kerchunk", "nczarr", "summed", "zstd", "shuffled", "packed", "zlib", "crc32", "delta",
         "none"],
)  # fmt: skip
def test_codecs_of_netcdf_become_those_of_zarr_3(
    filters: list[Any], compressor: Any, expected: list[str]
) -> None:
    ds = made(STEPS, 2, filters=filters or None, compressors=compressor)
    array, _ = rechunked(ds, 3)
    assert np.array_equal(array[...], STEPS)
    assert names(array) == expected


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "encoding", "expected"),
    [
        ("i2", {"zlib": True, "shuffle": True}, "blosc"),
        ("f4", {"zlib": True, "shuffle": True}, "blosc"),
        ("f8", {"zlib": True, "shuffle": True}, "blosc"),
        ("i2", {"zlib": True, "shuffle": False}, None),
        ("i1", {"zlib": True, "shuffle": True}, None),
        ("i2", {"zlib": False}, None),
    ],
    ids=["i2", "f4", "f8", "not shuffled", "of one byte", "plain"],
)
def test_the_shuffle_of_a_netcdf_file_is_kept_by_blosc(
    tmp_path: Path, zarr_format: int, dtype: str, encoding: dict[str, Any], expected: str | None
) -> None:
    values = (STEPS % 100).astype(dtype)
    file = tmp_path / "a.nc"
    encodings = {"v": {"chunksizes": (1, 100), **encoding}}
    xr.Dataset({"v": (("y", "x"), values)}).to_netcdf(file, engine="netcdf4", encoding=encodings)
    with xr.open_dataset(file, engine="netcdf4", chunks={}) as ds:
        array, notes = rechunked(ds, zarr_format)
    assert np.array_equal(array[...], values)
    assert array.dtype == values.dtype
    if expected is None:
        ds = xr.Dataset({"v": (("y", "x"), values)})
        ds.to_zarr(tmp_path / "b.zarr", zarr_format=zarr_format, consolidated=False)
        assert array.compressors == zarr.open_array(tmp_path / "b.zarr" / "v").compressors
    else:
        assert [name.lower().removesuffix("codec") for name in names(array)] == [expected]
        shuffle = array.compressors[0].shuffle
        assert getattr(shuffle, "value", shuffle) in ("shuffle", numcodecs.Blosc.SHUFFLE)
    assert notes == []


@pytest.mark.parametrize(
    ("codec", "nbytes", "is_kept"),
    [
        (BloscCodec(), 2**31 - 17, True),
        (BloscCodec(), 2**31 - 16, False),
        (numcodecs.Blosc(), 2**31, False),
        (numcodecs.LZ4(), 2**31, False),
        (ZstdCodec(), 2**31, True),
        (GzipCodec(), 2**31, True),
    ],
    ids=["largest", "larger", "blosc of zarr 2", "lz4", "zstd", "gzip"],
)
def test_what_does_not_take_a_large_chunk_is_replaced(
    codec: Any, nbytes: int, is_kept: bool
) -> None:
    encoding, notes = for_chunks({"compressors": (codec,), "filters": None}, nbytes)
    assert ("compressors" in encoding) == is_kept
    assert encoding["filters"] is None
    assert [note for note in notes if "at most 2 GiB" not in note] == []
    assert bool(notes) != is_kept


def test_shards_behind_a_transpose_are_not_kept() -> None:
    inner = ShardingCodec(chunk_shape=(1, 1))
    ds = made(STEPS, 3, filters=[TransposeCodec(order=(1, 0))], serializer=inner, compressors=None)
    array, notes = rechunked(ds, 3)
    assert np.array_equal(array[...], STEPS)
    assert any("sharding_indexed" in note for note in notes)


def test_what_is_computed_is_not_rounded_by_filters_that_were_left() -> None:
    ds = made(FLOATS, 2, filters=[numcodecs.BitRound(8)], compressors=None)
    encoding = ds.v.encoding
    ds["v"] = ds.v * np.float32(1.1)
    ds.v.encoding = encoding
    array, notes = rechunked(ds, 2)
    assert np.array_equal(array[...], ds.v.values)
    assert any("'bitround'" in note for note in notes)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (ZstdCodec(level=5), ["ZstdCodec"]),
        ([GzipCodec(level=1), Crc32cCodec()], ["GzipCodec", "Crc32cCodec"]),
        ({"name": "gzip", "configuration": {"level": 2}}, ["GzipCodec"]),
        (None, []),
        ((), []),
        ("auto", ["ZstdCodec"]),
    ],
    ids=["one", "several", "json", "none", "empty", "auto"],
)
def test_codecs_are_taken_as_zarr_takes_them(said: Any, expected: list[str]) -> None:
    for change in (0, 1):
        ds = made(STEPS, 3, compressors=BloscCodec())
        encoding = {**ds.v.encoding, "compressors": said}
        ds["v"] = ds.v + change if change else ds.v
        ds.v.encoding = encoding
        if said == "auto" and not change:
            expected = ["BloscCodec"]  # what the source has
        array, _ = rechunked(ds, 3)
        assert names(array) == (["ZstdCodec"] if said == "auto" and change else expected)


@pytest.mark.parametrize("change", [lambda ds: ds, lambda ds: ds * 2], ids=["raw", "computed"])
def test_a_shuffle_that_zarr_reads_wrong_is_refused(change: Any) -> None:
    # netCDF's library shuffles by the size of the type, which numcodecs takes for no shuffle
    ds = change(made(STEPS, 2, filters=[numcodecs.Shuffle(0), numcodecs.Zlib(1)]))
    asked: dict[str, Any] = {"store": MemoryStore(), "max_mem": "20MB"}
    with pytest.raises(SourceError, match=r"v: .*elementsize 0.*Nothing was written"):
        ds.chunking.apply({"y": -1}, zarr_format=3, **asked)
    made(STEPS, 2).to_zarr(asked["store"], consolidated=False, zarr_format=2)
    with pytest.raises(SourceError, match=r"v: .*elementsize 0.*Nothing was written"):
        ds.chunking.append(asked.pop("store"), dim="y", **asked)
    bytes_only = made(STEPS.astype("i1"), 2, filters=[numcodecs.Shuffle(0)])
    array, _ = rechunked(bytes_only, 2)
    assert np.array_equal(array[...], STEPS.astype("i1"))


@pytest.mark.parametrize("said", [5, "zstd", {"name": "no-such"}, [object()]])
def test_what_is_no_codec_is_refused_by_name(said: Any) -> None:
    ds = made(STEPS, 3)
    ds.v.encoding["compressors"] = said
    with pytest.raises(EncodingError, match=r"^v: .*is no codec that zarr knows"):
        ds.chunking.apply({"y": -1}, store=MemoryStore(), max_mem="20MB")


@pytest.mark.parametrize("astype", [">i2", ">i4", "<i4"])
@pytest.mark.parametrize("chunks", [{}, {"x": 1}, {"y": -1, "x": -1}], ids=str)
def test_filters_of_the_other_byte_order_are_left_out_of_format_3(
    chunks: dict, astype: str
) -> None:
    from numcodecs import Delta

    values = np.arange(-20, 35, dtype="i2").reshape(11, 5)
    group = zarr.open_group("a.zarr", mode="w", zarr_format=2)
    filters = [Delta(dtype=">i2", astype=astype)]
    made = group.create_array("v", shape=(11, 5), chunks=(4, 3), dtype=">i2", filters=filters)
    made[:] = values
    made.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    ds = xr.open_zarr("a.zarr", consolidated=False, mask_and_scale=False)
    with pytest.warns(xchunk.XchunkWarning, match="codec 'delta' has no counterpart"):
        ds.chunking.apply(chunks, store="b.zarr", zarr_format=3, progress=False)
    copied = zarr.open_group("b.zarr", mode="r")["v"]
    assert not copied.filters
    np.testing.assert_array_equal(copied[:], values)
