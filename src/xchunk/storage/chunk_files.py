"""The chunks of a zarr array on a local disk, read into place and written from where they are.

zarr reads and writes every store and every array. This is the short way for those that are most
often rechunked, and for scratch: a `LocalStore` that is nobody's subclass, regular chunks, plain
codecs (`xchunk.storage.chunk_bytes`). A chunk that is read whole is decoded straight into the
buffer of its box; one that is written is gathered once, in memory that serves all chunks of its
box. Files and metadata are zarr's, so that either way reads what the other has written.

`xchunk.storage.shard_files` is the same for arrays with shards.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zarr
from numpy.typing import NDArray

from xchunk.storage.chunk_bytes import ChunkBytes
from xchunk.storage.local_files import (
    MISSING,
    Part,
    Spare,
    fill_of,
    folder_of,
    parts_of,
    put_file,
    read_chunk,
    unfinished,
)

__all__ = ["ChunkFiles"]


@dataclass(frozen=True, eq=False)
class ChunkFiles:
    """The files of one array."""

    folder: str
    """The array's own folder; paths are put together as text, of which there are many."""
    array: zarr.Array[Any]
    """The array, for its metadata."""
    how: ChunkBytes
    """How a chunk is encoded."""
    fill: Any
    """What a missing chunk holds."""
    temporary: bool = False
    """Whether what is written will be deleted soon."""

    @classmethod
    def of(cls, array: zarr.Array[Any], *, temporary: bool = False) -> ChunkFiles | None:
        """Return the files of an array; None where zarr is to read and write them."""
        folder, how = folder_of(array), cls.how_of(array)
        if folder is None or how is None:
            return None
        return cls(folder, array, how, fill_of(array), temporary)

    @staticmethod
    def how_of(array: zarr.Array[Any]) -> ChunkBytes | None:
        """Return how the chunks of an array are encoded, if that is all there is to them."""
        if not array.ndim or fill_of(array) is None:
            return None
        try:
            if array.shards is not None or not all(array.chunks):
                return None
        except NotImplementedError:
            # rectilinear chunks
            return None
        return ChunkBytes.of(array)

    def read(self, region: Sequence[slice], out: NDArray[Any]) -> None:
        """Read a region into an array of its shape and of the stored dtype."""
        spare = Spare(self.how, self.array.chunks, self.fill)
        for parts in parts_of(region, self.array.chunks):
            values = out[tuple(p.here for p in parts)]
            if values.shape == self.array.chunks and values.flags.c_contiguous:
                if not self._read_chunk(parts, values):
                    values[...] = self.fill
                continue
            whole = spare.values(out.dtype)
            there = self._read_chunk(parts, whole)
            values[...] = whole[tuple(p.there for p in parts)] if there else self.fill

    def takes(self, region: Sequence[slice]) -> bool:
        """Tell whether a region is one of whole chunks, so that it can be written."""
        return not self.array.store.read_only and all(
            r.start % c == 0 and (r.stop % c == 0 or r.stop == n)
            for r, c, n in zip(region, self.array.chunks, self.array.shape, strict=True)
        )

    def write(self, region: Sequence[slice], values: NDArray[Any]) -> None:
        """Write a region of whole chunks, from values of the stored dtype."""
        spare, behind = Spare(self.how, self.array.chunks, self.fill), unfinished()
        for parts in parts_of(region, self.array.chunks):
            chunk = values[tuple(p.here for p in parts)]
            there = tuple(p.there for p in parts)
            encoded = spare.encoded(chunk, there)
            put_file(self._path(parts), encoded, behind, temporary=self.temporary)

    def _path(self, parts: tuple[Part, ...]) -> str:
        key = self.array.metadata.encode_chunk_key(tuple(p.at for p in parts))
        return f"{self.folder}/{key}"

    def _read_chunk(self, parts: tuple[Part, ...], out: NDArray[Any]) -> bool:
        """Read one chunk into contiguous memory; return whether it is there."""
        path = self._path(parts)
        try:
            file = io.FileIO(path)
        except MISSING:
            return False
        with file:
            read_chunk(self.how, file, out, path)
        return True
