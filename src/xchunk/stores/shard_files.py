"""The shards of a zarr array on a local disk, of which each chunk is read and written by itself.

zarr's codec for shards holds all chunks of a shard that a read asks for, and a shard that is
written twice. Here a task holds one chunk besides its box, however large the shards are: chunks
are found by the shard's index, decoded one after the other into the place of their values, and
written one behind the other, the index last. The layout is that of zarr's ``sharding_indexed``
codec; either way reads what the other has written. See `xchunk.stores.chunk_files` for arrays
without shards.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import google_crc32c
import zarr
from numpy.typing import NDArray

from xchunk.stores.chunk_codec import ChunkBytes
from xchunk.stores.chunk_files import (
    MISSING,
    ChunkFiles,
    Encoded,
    Part,
    Spare,
    fill_of,
    folder_of,
    parts_of,
    put_file,
    read_chunk,
    unfinished,
)
from xchunk.stores.chunk_objects import ChunkObjects

#: What an index says of each chunk: offset and size.
_ENTRY = struct.Struct("<QQ")
#: What it says of one that is not in the shard: as both.
_NONE = 2**64 - 1
#: Bytes of the index's checksum.
_CHECKSUM = 4
#: The most chunks of a shard whose places are kept from one read or write to the next.
_KEPT = 2_000


class _Inner(NamedTuple):
    """A chunk of a shard, as a region of the shard sees it."""

    number: int
    """Where it stands in the index."""
    here: tuple[slice, ...]
    """Where it is in the region."""
    there: tuple[slice, ...]
    """Where the region is in the chunk."""


def takes_one_by_one(array: zarr.Array[Any]) -> bool:
    """Return whether chunks would be read and written one by one, if the store were a local one."""
    return (ChunkFiles.how_of(array) or ShardFiles.how_of(array)) is not None


#: The short ways to an array's chunks.
ShortWay: TypeAlias = "ChunkFiles | ShardFiles | ChunkObjects"


def files_of(array: zarr.Array[Any], *, temporary: bool = False) -> ShortWay | None:
    """Return the short way to an array's chunks; None where zarr is to read and write them.

    What is ``temporary`` will be deleted soon, and is not hurried to the disk.
    """
    return (
        ChunkFiles.of(array, temporary=temporary)
        or ShardFiles.of(array, temporary=temporary)
        or ChunkObjects.of(array)
    )


@dataclass(frozen=True, eq=False)
class ShardFiles:
    """The files of one array with shards."""

    folder: str
    """The array's own folder."""
    array: zarr.Array[Any]
    """The array, for its metadata."""
    how: ChunkBytes
    """How a chunk is encoded."""
    fill: Any
    """What a missing chunk holds."""
    shards: tuple[int, ...]
    """Elements of a shard along each dim."""
    counts: tuple[int, ...]
    """Chunks of a shard along each dim."""
    index_first: bool
    """Whether the index stands before the chunks."""
    temporary: bool = False
    """Whether what is written will be deleted soon."""

    @classmethod
    def of(cls, array: zarr.Array[Any], *, temporary: bool = False) -> ShardFiles | None:
        """Return the files of an array; None where zarr is to read and write them."""
        folder, how = folder_of(array), cls.how_of(array)
        if folder is None or how is None:
            return None
        shards = tuple(array.shards or ())
        counts = tuple(s // c for s, c in zip(shards, array.chunks, strict=True))
        first = _index_location(array.metadata.to_dict()) == "start"
        return cls(folder, array, how, fill_of(array), shards, counts, first, temporary)

    @staticmethod
    def how_of(array: zarr.Array[Any]) -> ChunkBytes | None:
        """Return how the chunks of an array are encoded, if they just lie in shards."""
        try:
            shards = array.shards
        except NotImplementedError:
            # rectilinear chunks
            return None
        if shards is None or not all(shards) or fill_of(array) is None:
            return None
        plain = _index_location(array.metadata.to_dict()) is not None
        return ChunkBytes.of(array) if plain else None

    def read(self, region: Sequence[slice], out: NDArray[Any]) -> None:
        """Read a region into an array of its shape and of the stored dtype."""
        spare = Spare(self.how, self.array.chunks, self.fill)
        for shard in parts_of(region, self.shards):
            place, path = out[tuple(p.here for p in shard)], self._path(shard)
            try:
                file = io.FileIO(path)
            except MISSING:
                place[...] = self.fill
                continue
            with file:
                index, size = self._read_index(file, path)
                for number, here, there in self._inner([p.there for p in shard]):
                    start, nbytes = _ENTRY.unpack_from(index, _ENTRY.size * number)
                    values = place[here]
                    if start == nbytes == _NONE:
                        values[...] = self.fill
                        continue
                    if start + nbytes > size:
                        raise ValueError(f"chunk {number} in {path} ends behind it. It is damaged.")
                    file.seek(start)
                    if values.shape == self.array.chunks and values.flags.c_contiguous:
                        read_chunk(self.how, file, values, path, nbytes)
                        continue
                    whole = spare.values(out.dtype)
                    read_chunk(self.how, file, whole, path, nbytes)
                    values[...] = whole[there]

    def takes(self, region: Sequence[slice]) -> bool:
        """Return whether a region is one of whole shards, so that it can be written."""
        whole = all(
            r.start % s == 0 and (r.stop % s == 0 or r.stop == n)
            for r, s, n in zip(region, self.shards, self.array.shape, strict=True)
        )
        return whole and not self.index_first and not self.array.store.read_only

    def write(self, region: Sequence[slice], values: NDArray[Any]) -> None:
        """Write a region of whole shards, from values of the stored dtype."""
        spare, behind = Spare(self.how, self.array.chunks, self.fill), unfinished()
        for shard in parts_of(region, self.shards):
            encoded = self._encoded(values[tuple(p.here for p in shard)], spare)
            path = self._path(shard)
            put_file(path, encoded, behind, buffered=True, temporary=self.temporary)

    def _encoded(self, values: NDArray[Any], spare: Spare) -> Iterator[Encoded]:
        """Encode a shard: the chunks that have elements of the array, in C order, and the index."""
        index = bytearray(b"\xff") * (_ENTRY.size * math.prod(self.counts))
        start = 0
        for number, here, there in self._inner([slice(0, n) for n in values.shape]):
            nbytes = 0
            for data in spare.encoded(values[here], there):
                nbytes += len(data)
                yield data
            _ENTRY.pack_into(index, _ENTRY.size * number, start, nbytes)
            start += nbytes
        yield bytes(index)
        yield _sum_of(bytes(index))

    def _inner(self, region: Sequence[slice]) -> Iterable[_Inner]:
        """List the chunks of a shard that a region of it touches."""
        bounds = tuple((r.start, r.stop) for r in region)
        chunks: tuple[int, ...] = self.array.chunks
        if math.prod(self.counts) <= _KEPT:
            return _kept_inner(bounds, chunks, self.counts)
        return _inner(bounds, chunks, self.counts)

    def _path(self, parts: tuple[Part, ...]) -> str:
        key = self.array.metadata.encode_chunk_key(tuple(p.at for p in parts))
        return f"{self.folder}/{key}"

    def _read_index(self, file: Any, path: str) -> tuple[bytes, int]:
        """Read where the chunks of a shard are, and how many bytes the file has.

        - raises `ValueError` if it is not what was written.
        """
        nbytes = _ENTRY.size * math.prod(self.counts) + _CHECKSUM
        size = file.seek(0, os.SEEK_END)
        file.seek(0 if self.index_first else max(0, size - nbytes))
        stored: bytes = file.read(nbytes)
        body = stored[:-_CHECKSUM]
        if len(stored) != nbytes or stored[-_CHECKSUM:] != _sum_of(body):
            raise ValueError(f"{path} has no index of a shard that is whole. It is damaged.")
        return body, size


def _inner(
    bounds: Sequence[tuple[int, int]], chunks: tuple[int, ...], counts: tuple[int, ...]
) -> Iterator[_Inner]:
    for parts in parts_of([slice(*b) for b in bounds], chunks):
        number = 0
        for p, n in zip(parts, counts, strict=True):
            number = number * n + p.at
        yield _Inner(number, tuple(p.here for p in parts), tuple(p.there for p in parts))


@lru_cache(maxsize=4)
def _kept_inner(
    bounds: tuple[tuple[int, int], ...], chunks: tuple[int, ...], counts: tuple[int, ...]
) -> list[_Inner]:
    # the shards that a box touches are mostly touched alike, and written alike by all boxes
    return list(_inner(bounds, chunks, counts))


def _sum_of(index: bytes) -> bytes:
    return int(google_crc32c.value(index)).to_bytes(_CHECKSUM, "little")


def _index_location(metadata: Mapping[str, Any]) -> str | None:
    """Read from an array's metadata where the index of a shard is; None if it is not plain."""
    codecs: Any = metadata["codecs"]
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return None
    how = codecs[0]["configuration"]
    names = [codec["name"] for codec in how["index_codecs"]]
    endian = how["index_codecs"][0].get("configuration", {}).get("endian")
    place = str(how["index_location"])
    plain = names == ["bytes", "crc32c"] and endian == "little"
    return place if plain and place in ("start", "end") else None
