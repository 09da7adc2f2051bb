"""The short way to the shards of local arrays, against zarr's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    ZstdCodec,
)
from zarr.storage import LocalStore, MemoryStore

from xchunk.stores.chunk_files import ChunkFiles
from xchunk.stores.shard_files import ShardFiles, files_of

HOWS: dict[str, list[Any]] = {
    "raw": [],
    "raw-crc": [Crc32cCodec()],
    "zstd": [ZstdCodec(level=0)],
    "zstd-crc": [ZstdCodec(level=1), Crc32cCodec()],
    "gzip": [GzipCodec(level=1)],
    "blosc-lz4": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
}


def made(
    store: Any, how: str, shape: Any, chunks: Any, per_shard: Any, *, dtype: str = "f4",
    at: str = "end",
) -> Any:  # fmt: skip
    """Make an array; where its index stands is zarr's own default, or said by the codec."""
    shards = tuple(c * n for c, n in zip(chunks, per_shard, strict=True))
    common: dict[str, Any] = {
        "name": "a",
        "shape": shape,
        "dtype": dtype,
        "zarr_format": 3,
        "fill_value": np.zeros((), dtype)[()],
        "config": {"write_empty_chunks": True},
    }
    if at == "end":
        return zarr.create_array(
            store, chunks=chunks, shards=shards, compressors=HOWS[how], **common
        )
    codec = ShardingCodec(
        chunk_shape=chunks, codecs=[BytesCodec(), *HOWS[how]], index_location="start"
    )
    return zarr.create_array(
        store, chunks=shards, serializer=codec, compressors=None, filters=None, **common
    )


def taken(array: Any) -> ShardFiles:
    files = files_of(array)
    assert isinstance(files, ShardFiles)
    return files


def some(shape: Any, dtype: str, seed: int) -> NDArray[Any]:
    bits = np.random.default_rng(seed).integers(0, 9, shape, dtype="u1")
    return np.ascontiguousarray(bits.astype("i8")).astype(dtype)


def shards_below(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_what_is_read_and_written_is_zarrs(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whole arrays are written either way, and any region is read either way."""
    how = data.draw(st.sampled_from(sorted(HOWS)))
    dtype = data.draw(st.sampled_from(["?", "i2", "f4", "f8", "c8", "M8[ns]"]))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunks = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    per_shard = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    at = data.draw(st.sampled_from(["end", "start"]))
    values = some(shape, dtype, data.draw(st.integers(0, 9)))
    path = tmp_path_factory.mktemp("either")
    array = made(LocalStore(path / "s"), how, shape, chunks, per_shard, dtype=dtype, at=at)
    files, whole = taken(array), [slice(0, n) for n in shape]
    if data.draw(st.booleans()) and at == "end":
        assert files.takes(whole)
        # what is written need not be contiguous
        files.write(whole, np.asfortranarray(values) if data.draw(st.booleans()) else values)
    else:
        assert files.takes(whole) == (at == "end")
        array[...] = values
    assert np.array_equal(array[...], values)
    for lost in data.draw(st.lists(st.sampled_from(shards_below(path)), max_size=2, unique=True)):
        lost.unlink()
    region = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape
    )
    out = np.empty([r.stop - r.start for r in region], dtype=dtype)
    files.read(region, out)
    assert out.tobytes() == array[region].tobytes()


def test_chunks_that_a_shard_leaves_out_hold_the_fill_value(tmp_path: Path) -> None:
    """zarr leaves chunks out that hold nothing but the fill value, unless it is told not to."""
    array = zarr.create_array(
        LocalStore(tmp_path), shape=(8, 8), chunks=(2, 2), shards=(4, 4), dtype="f4", fill_value=7
    )
    array[:2, :2] = 1
    array[6:, 4:] = 2
    out = np.zeros((8, 8), dtype="f4")
    taken(array).read([slice(0, 8)] * 2, out)
    assert np.array_equal(out, array[...])
    assert (out == 7).sum() == 64 - 4 - 8


def test_a_region_has_to_be_of_whole_shards(tmp_path: Path) -> None:
    """One that ends with the array is whole, too."""
    files = taken(made(LocalStore(tmp_path), "zstd", (10,), (2,), (2,)))
    assert files.takes([slice(4, 10)])
    assert not files.takes([slice(4, 6)])
    assert not files.takes([slice(2, 8)])


@pytest.mark.parametrize("at", ["end", "start"])
@pytest.mark.parametrize("how", sorted(HOWS))
def test_any_flipped_bit_of_a_checked_shard_is_found(tmp_path: Path, how: str, at: str) -> None:
    """The index has a checksum always, the chunks where the codecs say so."""
    array = made(LocalStore(tmp_path), how, (12,), (3,), (4,), at=at)
    files, values, out = taken(array), some((12,), "f4", 1), np.empty(12, "f4")
    array[...] = values
    (shard,) = shards_below(tmp_path)
    stored = shard.read_bytes()
    index = 4 * 16 + 4
    spot = range(index) if at == "start" else range(len(stored) - index, len(stored))
    checked = how.endswith("crc") or how == "blosc-lz4"
    for i in range(len(stored)) if checked else spot:
        shard.write_bytes(stored[:i] + bytes([stored[i] ^ 8]) + stored[i + 1 :])
        with pytest.raises(ValueError):  # noqa: PT011 - codecs have words of their own
            files.read([slice(0, 12)], out)
    shard.write_bytes(stored)
    files.read([slice(0, 12)], out)
    assert np.array_equal(out, values)


@pytest.mark.parametrize("how", sorted(HOWS))
@pytest.mark.parametrize("keep", [0, 3, 70, -1], ids=lambda n: f"{n}-bytes")
def test_a_cut_shard_is_never_values(tmp_path: Path, how: str, keep: int) -> None:
    """Its index is at the end, and says so."""
    array = made(LocalStore(tmp_path), how, (64,), (16,), (4,))
    files = taken(array)
    files.write([slice(0, 64)], some((64,), "f4", 1))
    (shard,) = shards_below(tmp_path)
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ValueError, match="It is damaged"):
        files.read([slice(0, 64)], np.empty(64, "f4"))


def test_a_chunk_that_is_said_to_lie_elsewhere_is_never_read(tmp_path: Path) -> None:
    """An index whose checksum is right, and whose places are not."""
    import google_crc32c

    array = made(LocalStore(tmp_path), "raw", (4,), (2,), (2,))
    taken(array).write([slice(0, 4)], some((4,), "f4", 1))
    (shard,) = shards_below(tmp_path)
    for place in ((2**63, 8), (4, 16), (0, 4), (10**9, 8)):
        index = np.array([place, (8, 8)], dtype="<u8").tobytes()
        tail = google_crc32c.value(index).to_bytes(4, "little")
        shard.write_bytes(shard.read_bytes()[:16] + index + tail)
        with pytest.raises(ValueError, match="It is damaged"):
            taken(array).read([slice(0, 4)], np.empty(4, "f4"))


class _OwnStore(LocalStore):
    pass


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        pytest.param(lambda p: made(MemoryStore(), "raw", (4,), (2,), (2,)), None, id="memory"),
        pytest.param(lambda p: made(_OwnStore(p), "raw", (4,), (2,), (2,)), None, id="subclass"),
        pytest.param(
            lambda p: made(LocalStore(p), "raw", (4,), (2,), (2,), dtype=">f4"), None, id="big-end"
        ),
        pytest.param(
            lambda p: zarr.create_array(
                LocalStore(p), shape=(4,), chunks=(4,), dtype="f4", fill_value=0,
                serializer=ShardingCodec(
                    chunk_shape=(4,), codecs=[ShardingCodec(chunk_shape=(2,))]
                ), compressors=None, filters=None,
            ),
            None, id="shards-in-shards",
        ),
        pytest.param(
            lambda p: zarr.create_array(
                LocalStore(p), shape=(4,), chunks=(4,), dtype="f4", fill_value=0,
                serializer=ShardingCodec(chunk_shape=(2,)), compressors=[ZstdCodec()], filters=None,
            ),
            None, id="a-codec-around",
        ),
        pytest.param(
            lambda p: zarr.create_array(
                LocalStore(p), shape=(4,), chunks=(4,), dtype="f4", fill_value=0,
                serializer=ShardingCodec(chunk_shape=(2,), index_codecs=[BytesCodec()]),
                compressors=None, filters=None,
            ),
            None, id="an-index-without-checksum",
        ),
        pytest.param(
            lambda p: zarr.create_array(LocalStore(p), shape=(4,), chunks=(2,), dtype="f4"),
            ChunkFiles, id="no-shards",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec:UserWarning")
def test_what_else_is_left_to_zarr(tmp_path: Path, array: Any, kind: Any) -> None:
    """Only what is known by heart goes the short way."""
    files = files_of(array(tmp_path))
    assert files is None if kind is None else isinstance(files, kind)


def test_one_write_of_a_box_holds_one_chunk(tmp_path: Path) -> None:
    """However large a shard is: what lives besides the values is a chunk and a buffer."""
    import tracemalloc

    array = made(LocalStore(tmp_path), "raw-crc", (64, 64, 256), (8, 64, 64), (8, 1, 4))
    files, values = taken(array), np.ones((64, 64, 256), "f4")
    files.write([slice(0, n) for n in values.shape], values)
    tracemalloc.start()
    files.write([slice(0, n) for n in values.shape], values)
    files.read([slice(0, n) for n in values.shape], values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 8 * 64 * 64 * 4 + 600_000 < values.nbytes / 2
