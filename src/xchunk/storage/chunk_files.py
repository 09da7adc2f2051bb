"""The chunks of a zarr array on a local disk, read into place and written from where they are.

zarr reads and writes every store and every array. This is the short way for those that are most
often rechunked, and for scratch: a `LocalStore` that is nobody's subclass, regular chunks, no
shards, plain codecs (`xchunk.storage.chunk_bytes`). A chunk that is read whole is decoded
straight into the buffer of its box; one that is written is gathered once, in memory that serves
all chunks of its box, and gets its name when it is complete, as zarr's own do. Files and
metadata are zarr's, so that either way reads what the other has written.
"""

from __future__ import annotations

import io
import itertools
import math
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from xchunk.storage.chunk_bytes import ChunkBytes, as_bytes
from xchunk.storage.unpublished import Unpublished

__all__ = ["ChunkFiles"]

#: What a store answers with "there is no such object".
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
#: What the codecs of numcodecs say of bytes that are not theirs.
_UNDECODABLE = (ValueError, RuntimeError, EOFError, OSError, zlib.error)
#: Bytes that are gathered, summed and written together, or read and summed: they stay in the
#: processor's cache from one of these steps to the next.
_AT_ONCE = 512 * 1024


@dataclass(frozen=True)
class _Part:
    """What one chunk and a region share along one dim."""

    index: int
    """Number of the chunk."""
    here: slice
    """Where it is in the region."""
    there: slice
    """Where it is in the chunk."""


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

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> ChunkFiles | None:
        """Return the files of an array; None where zarr is to read and write them."""
        store = array.store
        base = store.base if type(store) is Unpublished else store
        dtype, fill = np.dtype(array.dtype), array.fill_value
        if fill is None and dtype.kind in "biufc":
            # format 2 allows for none, and zarr reads zeros
            fill = dtype.type(0)
        if type(base) is not LocalStore or not array.ndim or fill is None:
            return None
        try:
            if array.shards is not None or not all(array.chunks):
                return None
        except NotImplementedError:
            # rectilinear chunks
            return None
        how = ChunkBytes.of(array)
        folder = str(Path(base.root) / array.path)
        return None if how is None else cls(folder, array, how, fill)

    def read(self, region: Sequence[slice], out: NDArray[Any]) -> None:
        """Read a region into an array of its shape and of the stored dtype."""
        spare: NDArray[Any] | None = None
        for parts in self._parts(region):
            values = out[tuple(p.here for p in parts)]
            if values.shape == self.array.chunks and values.flags.c_contiguous:
                if not self._read_chunk(parts, values):
                    values[...] = self.fill
                continue
            if spare is None:
                spare = np.empty(self.array.chunks, dtype=out.dtype)
            there = self._read_chunk(parts, spare)
            values[...] = spare[tuple(p.there for p in parts)] if there else self.fill

    def takes(self, region: Sequence[slice]) -> bool:
        """Tell whether a region is one of whole chunks, so that it can be written."""
        return not self.array.store.read_only and all(
            r.start % c == 0 and (r.stop % c == 0 or r.stop == n)
            for r, c, n in zip(region, self.array.chunks, self.array.shape, strict=True)
        )

    def write(self, region: Sequence[slice], values: NDArray[Any]) -> None:
        """Write a region of whole chunks, from values of the stored dtype."""
        spare: NDArray[Any] | None = None
        # what is not finished is named as zarr names it, so that it is known and swept like that
        unfinished = f".{uuid.uuid4().hex}.partial"
        for parts in self._parts(region):
            chunk = values[tuple(p.here for p in parts)]
            if chunk.shape != self.array.chunks or not chunk.flags.c_contiguous:
                if spare is None:
                    spare = np.empty(self.array.chunks, dtype=values.dtype)
                if chunk.shape != spare.shape:
                    # beyond the array's end a chunk holds the fill value
                    spare[...] = self.fill
                elif self.how.is_raw:
                    self._put(self._path(parts), _gathered(chunk, spare), unfinished)
                    continue
                spare[tuple(p.there for p in parts)] = chunk
                chunk = spare
            self._put(self._path(parts), [self.how.encode(chunk)], unfinished)

    def _parts(self, region: Sequence[slice]) -> Iterator[tuple[_Part, ...]]:
        """List the chunks that a region touches, in C order."""
        along = []
        for r, c in zip(region, self.array.chunks, strict=True):
            found = []
            for index in range(r.start // c, math.ceil(r.stop / c)):
                start, stop = max(r.start, index * c), min(r.stop, (index + 1) * c)
                if start >= stop:
                    continue
                here = slice(start - r.start, stop - r.start)
                found.append(_Part(index, here, slice(start - index * c, stop - index * c)))
            along.append(found)
        return itertools.product(*along)

    def _path(self, parts: tuple[_Part, ...]) -> str:
        key = self.array.metadata.encode_chunk_key(tuple(p.index for p in parts))
        return f"{self.folder}/{key}"

    def _read_chunk(self, parts: tuple[_Part, ...], out: NDArray[Any]) -> bool:
        """Read one chunk into contiguous memory; return whether it is there."""
        memory, path = as_bytes(out), self._path(parts)
        try:
            with io.FileIO(path) as file:
                if not self.how.is_raw:
                    stored = file.readall()
                else:
                    got, checksum = self._fill(file, memory)
                    tail = file.readall()
        except _MISSING:
            return False
        if not self.how.is_raw:
            try:
                self.how.decode(stored, memory)
            except _UNDECODABLE as error:
                raise ValueError(
                    f"{path} cannot be decompressed: {error}. It is damaged."
                ) from error
            return True
        if got != memory.nbytes or len(tail) != self.how.tail_size:
            raise ValueError(
                f"{path} has {got + len(tail)} bytes where "
                f"{memory.nbytes + self.how.tail_size} are due. It is damaged."
            )
        self.how.check(checksum, tail)
        return True

    def _fill(self, file: Any, memory: NDArray[np.uint8]) -> tuple[int, int]:
        """Read until memory is full or the file ends; return the bytes read, and their sum."""
        got = checksum = 0
        while got < memory.nbytes:
            n = file.readinto(memory[got : got + _AT_ONCE])
            if not n:
                break
            checksum = self.how.sum(memory[got : got + n], checksum)
            got += n
        return got, checksum

    def _put(self, path: str, encoded: Iterable[NDArray[np.uint8]], unfinished: str) -> None:
        """Write one chunk, given piece by piece, and what goes behind it."""
        partial = path + unfinished
        try:
            try:
                file = io.FileIO(partial, "xb")
            except FileNotFoundError:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                file = io.FileIO(partial, "xb")
            with file:
                checksum = 0
                for data in encoded:
                    checksum = self.how.sum(data, checksum)
                    _write_all(file, data)
                _write_all(file, np.frombuffer(self.how.tail(checksum), dtype=np.uint8))
            Path(partial).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(partial).unlink(missing_ok=True)
            raise


def _gathered(values: NDArray[Any], spare: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """Make values contiguous, some rows at a time, in the same piece of spare memory."""
    rows = max(1, _AT_ONCE * len(values) // max(1, values.nbytes))
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        memory = spare[: len(part)]
        memory[...] = part
        yield as_bytes(memory)


def _write_all(file: Any, data: NDArray[np.uint8]) -> None:
    """Write all of it; one call may write less."""
    done = 0
    while done < data.nbytes:
        done += file.write(data[done:])
