"""The chunks of a zarr array in local files: read into place, written from where they are.

The short way to shards shares the parts of a region and the files of encoded bytes.

A file gets its name when it is complete, as zarr's own do, and what is not finished is named as
zarr names it, so that it is known and swept like that.

zarr reads and writes every store and every array. This is the short way for those that are most
often rechunked, and for scratch: a `LocalStore` that is nobody's subclass, regular chunks, plain
codecs (`xchunk.stores.chunk_codec`). A chunk that is read whole is decoded straight into the
buffer of its box; one that is written is gathered once, in memory that serves all chunks of its
box. Files and metadata are zarr's, so that either way reads what the other has written.

`xchunk.stores.shard_files` is the same for arrays with shards.
"""

from __future__ import annotations

import io
import math
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.stores.chunk_codec import ChunkBytes, as_bytes
from xchunk.stores.overlay import Unpublished

#: What a store answers with "there is no such object".
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
#: What the codecs of numcodecs say of bytes that are not theirs.
UNDECODABLE = (ValueError, RuntimeError, EOFError, OSError, zlib.error)
#: Bytes that are gathered, summed and written together, or read and summed: they stay in the
#: processor's cache from one of these steps to the next.
_AT_ONCE = 512 * 1024
#: Parts of a region along one dim that are listed once, and not again and again.
_FEW = 10_000


#: Encoded bytes, of a chunk or a part of it.
Encoded: TypeAlias = "NDArray[np.uint8] | bytes"


class Part(NamedTuple):
    """What one chunk and a region share along one dim."""

    at: int
    """Number of the chunk."""
    here: slice
    """Where it is in the region."""
    there: slice
    """Where it is in the chunk."""


def parts_of(region: Sequence[slice], chunks: Sequence[int]) -> Iterator[tuple[Part, ...]]:
    """Yield the chunks that a region touches, in C order.

    Where they are very many along a dim they are not listed: that would take more memory than the
    region, of small chunks.
    """
    if not region:
        yield ()
        return
    own = region[-1], chunks[-1]
    few = [*_along(*own)] if (own[0].stop - own[0].start) // own[1] < _FEW else None
    for outer in parts_of(region[:-1], chunks[:-1]):
        for part in few or _along(*own):
            yield (*outer, part)


def _along(r: slice, c: int) -> Iterator[Part]:
    for index in range(r.start // c, math.ceil(r.stop / c)):
        start, stop = max(r.start, index * c), min(r.stop, (index + 1) * c)
        if start < stop:
            here = slice(start - r.start, stop - r.start)
            yield Part(index, here, slice(start - index * c, stop - index * c))


def is_in_files(store: Store) -> bool:
    """Return whether the objects of a store are files of this machine, and nothing between."""
    return type(store.base if type(store) is Unpublished else store) is LocalStore


def folder_of(array: zarr.Array[Any]) -> str | None:
    """Return the folder of an array in a plain local store; None for any other."""
    base: Any = array.store.base if type(array.store) is Unpublished else array.store
    return str(Path(base.root) / array.path) if is_in_files(base) else None


def fill_of(array: zarr.Array[Any]) -> Any:
    """Return what a missing chunk holds; None where that is not known."""
    dtype = np.dtype(array.dtype)
    if array.fill_value is None and dtype.kind in "biufc":
        # format 2 allows for none, and zarr reads zeros
        return dtype.type(0)
    return array.fill_value


class Spare:
    """Memory of one chunk, in which those that do not lie as they are stored are put together."""

    def __init__(self, how: ChunkBytes, chunks: tuple[int, ...], fill: Any):
        self.how, self.chunks, self.fill = how, chunks, fill
        self._values: NDArray[Any] | None = None

    def values(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the memory, whatever it holds."""
        if self._values is None:
            self._values = np.empty(self.chunks, dtype=dtype)
        return self._values

    def encoded(self, chunk: NDArray[Any], there: tuple[slice, ...]) -> Iterator[Encoded]:
        """Encode what a chunk holds at ``there``, piece by piece, and what goes behind it."""
        checksum = 0
        for data in self._pieces(chunk, there):
            checksum = self.how.sum(data, checksum)
            yield data
        if self.how.tail_size:
            yield self.how.tail(checksum)

    def _pieces(self, chunk: NDArray[Any], there: tuple[slice, ...]) -> Iterable[NDArray[np.uint8]]:
        if chunk.shape != self.chunks or not chunk.flags.c_contiguous:
            spare = self.values(chunk.dtype)
            if chunk.shape != spare.shape:
                # beyond the array's end a chunk holds the fill value
                spare[...] = self.fill
            elif self.how.is_raw and chunk.nbytes > _AT_ONCE:
                return _gathered(chunk, spare)
            spare[there] = chunk
            chunk = spare
        return [self.how.encode(chunk)]


def _gathered(values: NDArray[Any], spare: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """Make values contiguous, some rows at a time, in the same piece of spare memory."""
    rows = max(1, _AT_ONCE * len(values) // max(1, values.nbytes))
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        memory = spare[: len(part)]
        memory[...] = part
        yield as_bytes(memory)


def read_chunk(
    how: ChunkBytes, file: Any, out: NDArray[Any], path: str, nbytes: int | None = None
) -> None:
    """Read one chunk into contiguous memory of its shape, from where an open file stands.

    - ``how``: how it is encoded.
    - ``out``: what it is read into.
    - ``path``: what the chunk is called where it is damaged.
    - ``nbytes``: its encoded bytes; by default all up to the file's end.
    - raises `ValueError` if it is not what the array's metadata say.
    """
    memory = as_bytes(out)
    due = memory.nbytes + how.tail_size
    if not how.is_raw:
        stored = file.readall() if nbytes is None else _some(file, nbytes)
        try:
            how.decode(stored, memory)
        except UNDECODABLE as error:
            raise ValueError(f"{path} cannot be decompressed: {error}. It is damaged.") from error
        return
    got = checksum = 0
    while got < memory.nbytes and nbytes in (None, due):
        n = file.readinto(memory[got : got + _AT_ONCE])
        if not n:
            break
        checksum = how.sum(memory[got : got + n], checksum)
        got += n
    tail = file.readall() if nbytes is None else file.read(how.tail_size)
    if got != memory.nbytes or len(tail) != how.tail_size:
        found = got + len(tail) if nbytes in (None, due) else nbytes
        raise ValueError(f"{path} has {found} bytes where {due} are due. It is damaged.")
    how.check(checksum, tail)


def _some(file: Any, nbytes: int) -> bytes:
    """Read so many bytes, or up to the end; the kernel gives 2 GB at once at most."""
    stored: bytes = file.read(nbytes)
    while len(stored) < nbytes:
        more = file.read(nbytes - len(stored))
        if not more:
            break
        stored += more
    return stored


def unfinished() -> str:
    """Return what is behind the name of a file that is not complete, in one call's hands only."""
    return f".{uuid.uuid4().hex}.partial"


def put_file(
    path: str,
    encoded: Iterable[Encoded],
    behind: str,
    *,
    buffered: bool = False,
    temporary: bool = False,
) -> None:
    """Write one file, given piece by piece.

    - ``path``: what it is called when it is complete.
    - ``encoded``: what is in it.
    - ``behind``: what is behind its name until then.
    - ``buffered``: whether small pieces are written together.
    - ``temporary``: whether the file will be deleted soon; any other is on its way to the disk from
      now on, so that a commit, which waits until it is there, finds little left to wait for.
    """
    partial = path + behind
    try:
        try:
            raw = io.FileIO(partial, "xb")
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            raw = io.FileIO(partial, "xb")
        with io.BufferedWriter(raw, _AT_ONCE) if buffered else raw as file:
            for data in encoded:
                _write_all(file, data)
            if not temporary:
                _send_to_disk(file)
        # Python 3.12 never frees the text of a pathlib path, and the name is another each time
        os.replace(partial, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)  # noqa: PTH108
        raise


def _send_to_disk(file: Any) -> None:
    # small files are better written together, later
    if file.tell() < _AT_ONCE or not hasattr(os, "posix_fadvise"):
        return
    file.flush()
    # Told that a file's pages are not needed, Linux begins to write those that are not on the disk
    # yet, and keeps them; only pages that are there already would be dropped.
    with suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write_all(file: Any, data: Encoded) -> None:
    """Write all of it; one call may write less."""
    done = file.write(data)
    while done < len(data):
        done += file.write(data[done:])


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
        """Return whether a region is one of whole chunks, so that it can be written."""
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
