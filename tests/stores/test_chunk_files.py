"""The short way to the chunks of local arrays, against zarr's own."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from xchunk.stores.chunk_files import ChunkFiles

V3: dict[str, list[Any]] = {
    "raw": [],
    "raw-crc": [Crc32cCodec()],
    "zstd": [ZstdCodec(level=0)],
    "zstd-own-checksum": [ZstdCodec(level=3, checksum=True)],
    "zstd-crc": [ZstdCodec(level=1), Crc32cCodec()],
    "gzip": [GzipCodec(level=1)],
    "blosc-lz4-shuffle": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")],
    "blosc-zstd-bits": [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")],
}
V2: dict[str, Any] = {
    "raw": None,
    "zstd": numcodecs.Zstd(level=1),
    "zlib": numcodecs.Zlib(level=1),
    "gzip": numcodecs.GZip(level=1),
    "blosc": numcodecs.Blosc(cname="lz4", clevel=5, shuffle=1),
}
DTYPES = ["?", "i1", "u2", "i4", "f4", "f8", "c8", "M8[ns]"]
HOWS = [(3, name) for name in V3] + [(2, name) for name in V2]


def made(store: Any, how: tuple[int, str], shape: Any, chunks: Any, dtype: str) -> Any:
    zarr_format, name = how
    compressors = V3[name] if zarr_format == 3 else V2[name]
    return zarr.create_array(
        store,
        name="a",
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        zarr_format=zarr_format,  # type: ignore[arg-type]
        compressors=compressors,
        fill_value=np.zeros((), dtype)[()],
        config={"write_empty_chunks": True},
    )


def taken(array: Any) -> ChunkFiles:
    files = ChunkFiles.of(array)
    assert files is not None
    return files


def some(shape: Any, dtype: str, seed: int) -> NDArray[Any]:
    bits = np.random.default_rng(seed).integers(0, 9, shape, dtype="u1")
    return np.ascontiguousarray(bits.astype("i8")).astype(dtype)


def files_below(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_what_is_read_and_written_is_zarrs(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whole arrays are written either way, to equal files, and any region is read either way."""
    how = data.draw(st.sampled_from(HOWS))
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunks = tuple(data.draw(st.integers(1, 5)) for _ in shape)
    values = some(shape, dtype, data.draw(st.integers(0, 9)))
    path = tmp_path_factory.mktemp("either")
    mine, theirs = (
        made(LocalStore(path / who), how, shape, chunks, dtype) for who in ("mine", "theirs")
    )
    files = taken(mine)
    # what is written need not be contiguous
    laid = np.asfortranarray(values) if data.draw(st.booleans()) else values
    assert files.takes([slice(0, n) for n in shape])
    files.write([slice(0, n) for n in shape], laid)
    theirs[...] = values
    written, expected = files_below(path / "mine"), files_below(path / "theirs")
    # Blosc's threads may cut a buffer in another way, and gzip has the time in its header
    assert how[1].startswith(("blosc", "gzip")) or written == expected
    assert written.keys() == expected.keys()
    assert np.array_equal(mine[...], values)
    region = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape
    )
    for lost in data.draw(st.lists(st.sampled_from(sorted(written)), max_size=2)):
        if not lost.endswith((".json", ".zarray", ".zattrs")):
            (path / "mine" / lost).unlink(missing_ok=True)
    out = np.empty([r.stop - r.start for r in region], dtype=dtype)
    files.read(region, out)
    assert out.tobytes() == mine[region].tobytes()


@pytest.mark.parametrize("how", HOWS, ids=lambda how: f"v{how[0]}-{how[1]}")
@pytest.mark.parametrize("damage", ["short", "long", "other"])
def test_a_damaged_chunk_is_never_values(tmp_path: Path, how: tuple[int, str], damage: str) -> None:
    """A chunk that was cut, grew, or is that of another shape."""
    array = made(LocalStore(tmp_path / "s"), how, (64,), (64,), "f4")
    files, values = taken(array), some((64,), "f4", 1)
    files.write([slice(0, 64)], values)
    chunk = next(p for p in (tmp_path / "s" / "a").rglob("*") if p.name == "0")
    stored = chunk.read_bytes()
    if damage == "other":
        others = made(LocalStore(tmp_path / "o"), how, (32,), (32,), "f4")
        taken(others).write([slice(0, 32)], values[:32])
        changed = next(p for p in (tmp_path / "o" / "a").rglob("*") if p.name == "0").read_bytes()
    else:
        changed = stored[:-3] if damage == "short" else stored + b"12345678"
    chunk.write_bytes(changed)
    out = np.full(64, 7, dtype="f4")
    try:
        files.read([slice(0, 64)], out)
    except ValueError as error:
        assert str(chunk) in str(error)
        assert "damaged" in str(error)
        return
    # what lies behind the end that some chunks tell of themselves is not read, and some codecs
    # do not look at their own checksum
    assert damage != "other"
    assert np.array_equal(out, values)


@pytest.mark.parametrize("name", ["raw-crc", "zstd-crc"])
def test_every_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    array = made(LocalStore(tmp_path / "s"), (3, name), (16,), (16,), "u2")
    files, values = taken(array), some((16,), "u2", 1)
    files.write([slice(0, 16)], values)
    chunk = tmp_path / "s" / "a" / "c" / "0"
    stored = chunk.read_bytes()
    for place, bit in itertools.product(range(len(stored)), range(8)):
        changed = bytearray(stored)
        changed[place] ^= 1 << bit
        chunk.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match=r"checksum|decompressed"):
            files.read([slice(0, 16)], np.empty(16, dtype="u2"))


def test_a_chunk_that_does_not_tell_its_size(tmp_path: Path) -> None:
    """zstd writes none where it is given its input bit by bit."""
    array = made(LocalStore(tmp_path / "s"), (3, "zstd"), (300,), (300,), "u1")
    files, values = taken(array), some((300,), "u1", 1)
    files.write([slice(0, 300)], values)
    chunk = tmp_path / "s" / "a" / "c" / "0"
    # one raw block of 300 bytes in a frame with a window, and without a size
    header = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0x58])
    chunk.write_bytes(header + (1 | 0 << 1 | 300 << 3).to_bytes(3, "little") + values.tobytes())
    assert np.array_equal(array[...], values)
    out = np.empty(300, dtype="u1")
    files.read([slice(0, 300)], out)
    assert np.array_equal(out, values)


class Watched(LocalStore):
    """A store of somebody's own."""


@pytest.mark.parametrize(
    ("case", "more"),
    [
        ("memory", {"store": MemoryStore}),
        ("subclass", {"store": Watched}),
        ("shards", {"shards": (8,)}),
        ("big-endian", {"serializer": BytesCodec(endian="big")}),
        ("strings", {"dtype": "S3", "fill": b""}),
        ("two compressors", {"compressors": [GzipCodec(), ZstdCodec()]}),
        ("filters", {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="i4")]}),
        ("F order", {"zarr_format": 2, "order": "F"}),
        ("byte-swapped", {"zarr_format": 2, "dtype": ">i4"}),
        ("other codec", {"zarr_format": 2, "compressors": numcodecs.LZ4()}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_left_to_zarr(tmp_path: Path, case: str, more: dict[str, Any]) -> None:
    make = more.pop("store", LocalStore)
    store = make() if make is MemoryStore else make(tmp_path / "s")
    how: dict[str, Any] = {"dtype": "i4", "shape": (16,), "chunks": (4,), **more}
    fill = how.pop("fill", 0)
    array = zarr.create_array(store, fill_value=fill, **how)
    assert ChunkFiles.of(array) is None


def test_parts_of_chunks_and_read_only_stores_are_not_written(tmp_path: Path) -> None:
    array = made(LocalStore(tmp_path / "s"), (3, "zstd"), (10,), (4,), "i4")
    files = taken(array)
    assert files.takes([slice(4, 10)])
    assert not files.takes([slice(4, 9)])
    assert not files.takes([slice(3, 8)])
    closed = zarr.open_array(LocalStore(tmp_path / "s", read_only=True), path="a", mode="r")
    assert not taken(closed).takes([slice(4, 8)])


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    array = made(LocalStore(tmp_path / "s"), (3, "raw-crc"), (4, 4), (2, 2), "i4")
    files, before = taken(array), files_below(tmp_path)

    def full(file: Any, data: NDArray[Any]) -> None:
        file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xchunk.stores.chunk_files._write_all", full)
    with pytest.raises(OSError, match="No space left"):
        files.write([slice(0, 4), slice(0, 4)], np.ones((4, 4), dtype="i4"))
    assert files_below(tmp_path) == before


def test_each_chunk_is_opened_once(tmp_path: Path) -> None:
    """As the plan predicts: as many requests as chunks."""
    array = made(LocalStore(tmp_path / "s"), (3, "zstd"), (30, 30), (7, 30), "i4")
    files, values = taken(array), some((30, 30), "i4", 1)
    opened: list[str] = []
    folder, counting = str(tmp_path / "s" / "a" / "c"), [True]

    def hook(event: str, args: Any) -> None:
        if counting[0] and event == "open" and str(args[0]).startswith(folder):
            opened.append(str(args[0]))

    sys.addaudithook(hook)
    try:
        files.write([slice(0, 30), slice(0, 30)], values)
        assert len(set(opened)) == 5
        opened.clear()
        out = np.empty((16, 30), dtype="i4")
        files.read([slice(5, 21), slice(0, 30)], out)
        assert len(opened) == 3
    finally:
        counting[0] = False
    assert np.array_equal(out, values[5:21])


@pytest.mark.parametrize("codec", [numcodecs.GZip(1), numcodecs.Zlib(1)], ids=["gzip", "zlib"])
@pytest.mark.parametrize("kind", ["equal", "random", "members", "too long"])
def test_streams_of_any_length(tmp_path: Path, codec: Any, kind: str) -> None:
    """Streams longer than what is decoded at once, several after another, and one too long."""
    n = 300_000
    array = zarr.create_array(
        LocalStore(tmp_path), name="a", shape=(n,), chunks=(n,), dtype="f8", zarr_format=2,
        compressors=codec,
    )  # fmt: skip
    files = taken(array)
    values = np.full(n, 7.0) if kind == "equal" else np.random.default_rng(0).random(n)
    files.write([slice(0, n)], values)
    assert np.array_equal(array[:], values)
    chunk = tmp_path / "a" / "0"
    if kind == "members":
        chunk.write_bytes(codec.encode(values[:9]) + codec.encode(values[9:]))
    if kind == "too long":
        chunk.write_bytes(codec.encode(np.append(values, 1.0)))
    out = np.empty(n)
    if kind == "too long" or (kind == "members" and codec.codec_id == "zlib"):
        with pytest.raises(ValueError, match="damaged"):
            files.read([slice(0, n)], out)
        return
    files.read([slice(0, n)], out)
    assert np.array_equal(out, values)
