"""The short way to chunks in far stores: the bytes are zarr's, and requests are bounded."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.storage import MemoryStore

from faults.stores import FaultyStore
from xchunk.core.memory import TaskRequests
from xchunk.stores.adapter import tuned, write_units
from xchunk.stores.chunk_objects import ChunkObjects
from xchunk.stores.in_flight import Room

SHAPE, CHUNKS = (21, 30), (4, 7)
CODECS: dict[str, Any] = {
    "plain": None,
    "checksum": [Crc32cCodec()],
    "zstd": [ZstdCodec(level=1)],
    "zstd and a checksum": [ZstdCodec(level=1), Crc32cCodec()],
    "blosc": [BloscCodec(cname="lz4")],
    "gzip": [GzipCodec(level=1)],
}
#: Regions of whole chunks, or up to the end, which can be written.
WHOLE = [(slice(0, 21), slice(0, 30)), (slice(4, 12), slice(7, 14)), (slice(20, 21), slice(28, 30))]
ANY = [*WHOLE, (slice(3, 18), slice(5, 29)), (slice(5, 6), slice(8, 9))]


class Watched(FaultyStore):
    """Counts the requests that are under way."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seen = {"now": 0, "most": 0, "ended": 0}

    async def _meet(self, operation: str, key: str) -> bool:
        if "c/" in key:
            self.seen["now"] += 1
            self.seen["most"] = max(self.seen["most"], self.seen["now"])
            await asyncio.sleep(0.002)
            self.seen["now"] -= 1
            self.seen["ended"] += 1
        return await super()._meet(operation, key)


def made(store: Any, codecs: Any, dtype: str = "f4", **more: Any) -> zarr.Array[Any]:
    given = {"fill_value": 7, "compressors": codecs} | more
    return zarr.create_array(store, name="v", shape=SHAPE, chunks=CHUNKS, dtype=dtype, **given)


def values_of(shape: tuple[int, ...], dtype: str = "f4") -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("codecs", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_either_way_reads_what_the_other_has_written(codecs: Any, zarr_format: int) -> None:
    if zarr_format == 2 and codecs is not None:
        codecs = "auto"
    store = FaultyStore()
    array = made(store, codecs, zarr_format=zarr_format)
    objects = ChunkObjects.of(array)
    assert objects is not None
    values = values_of(SHAPE)
    array[...] = values
    kept = {k: v.to_bytes() for k, v in store.inner._store_dict.items()}
    for region in ANY:
        out = np.empty([r.stop - r.start for r in region], "f4")
        objects.read(region, out)
        assert np.array_equal(out, values[region])
    for region in WHOLE:
        assert objects.takes(region)
        objects.write(region, values[region].copy())
    assert np.array_equal(array[...], values)
    if codecs is None or "gzip" not in str(codecs).lower():
        assert {k: v.to_bytes() for k, v in store.inner._store_dict.items()} == kept


def test_missing_chunks_are_the_fill_value() -> None:
    objects = ChunkObjects.of(made(FaultyStore(), None))
    assert objects is not None
    out = np.zeros((9, 20), "f4")
    objects.read((slice(2, 11), slice(3, 23)), out)
    assert (out == 7).all()


def test_a_store_that_keeps_what_it_is_given_keeps_the_values_of_that_time() -> None:
    """The memory of a box is used again, and a store in memory copies nothing."""
    array = made(FaultyStore(), None)
    objects = ChunkObjects.of(array)
    assert objects is not None
    region = (slice(0, 4), slice(0, 7))
    box = np.ones(CHUNKS, "f4")
    objects.write(region, box)
    box[...] = 2
    assert (array[region] == 1).all()


@pytest.mark.parametrize(
    ("store", "more"),
    [
        pytest.param(MemoryStore(), {"dtype": "str", "fill_value": ""}, id="strings"),
        pytest.param(MemoryStore(), {"dtype": ">f4"}, id="foreign byte order"),
        pytest.param(MemoryStore(), {"shards": (8, 14)}, id="shards"),
    ],
)
def test_what_is_not_plain_is_left_to_zarr(store: Any, more: dict[str, Any]) -> None:
    assert ChunkObjects.of(made(store, None, **more)) is None


@pytest.mark.parametrize("most", [1, 3, 64])
def test_no_more_requests_are_under_way_than_are_allowed(most: int) -> None:
    store = Watched()
    array = made(store, None)
    objects = ChunkObjects.of(array)
    assert objects is not None
    values, whole = values_of(SHAPE), (slice(0, 21), slice(0, 30))
    nbytes = 4 * CHUNKS[0] * CHUNKS[1]
    each = TaskRequests(most * nbytes, read=nbytes, write=nbytes, copies=1)
    with Room(1, each).turn() as turn, turn.box():
        objects.write(whole, values)
        turn.settle()
        written = copy.copy(store.seen)
        store.seen["most"] = 0
        out = np.empty(SHAPE, "f4")
        objects.read(whole, out)
    assert np.array_equal(out, values)
    chunks = 6 * 5
    assert written["most"] <= most
    assert store.seen["most"] <= most
    assert max(written["most"], store.seen["most"]) >= min(2, most)
    assert store.seen["ended"] == 2 * chunks


def in_a_task(objects: ChunkObjects, operation: str, region: Any, values: Any) -> None:
    with Room(1, TaskRequests(10**9, read=1)).turn() as turn, turn.box():
        objects.read(region, values) if operation == "get" else objects.write(region, values)
        turn.settle()


@pytest.mark.parametrize("operation", ["get", "set"])
def test_no_request_is_under_way_any_more_when_one_has_failed(operation: str) -> None:
    store = Watched()
    array = made(store, None)
    objects = ChunkObjects.of(array)
    assert objects is not None
    whole, out = (slice(0, 21), slice(0, 30)), values_of(SHAPE)
    store.operation, store.only = operation, "c/"
    store.state["at"] = store.calls.get(operation, 0) + 3
    store.calls[operation] = store.state["at"] - 3
    with pytest.raises(OSError, match="injected"):
        in_a_task(objects, operation, whole, out)
    assert store.seen["now"] == 0


@pytest.mark.parametrize("codecs", [None, [ZstdCodec()], [Crc32cCodec()]], ids=str)
def test_a_damaged_chunk_is_said_by_its_key(codecs: Any) -> None:
    store = FaultyStore()
    array = made(store, codecs)
    array[...] = values_of(SHAPE)
    (key,) = [k for k in store.inner._store_dict if k.endswith("c/1/1")]
    raw = store.inner._store_dict[key]
    store.inner._store_dict[key] = type(raw).from_bytes(raw.to_bytes()[:-5])
    objects = ChunkObjects.of(array)
    assert objects is not None
    with pytest.raises(ValueError, match=r"v/c/1/1 .* damaged"):
        objects.read((slice(0, 21), slice(0, 30)), np.empty(SHAPE, "f4"))


@pytest.mark.parametrize("at_once", [1, 2])
def test_shards_are_given_to_zarr_one_by_one(at_once: int) -> None:
    """Of those that it is given together, it holds more than it writes."""
    store = Watched()
    array = made(store, None, shards=(8, 14))
    values, whole = values_of(SHAPE), (slice(0, 21), slice(0, 30))
    values[:8, :14] = 7
    with tuned(at_once):
        assert write_units(array, whole, values, fill=np.float32(7)) == 8
    assert store.seen["most"] == at_once
    assert np.array_equal(array[...], values)
