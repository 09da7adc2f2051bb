"""HDF5's filters, undone in the thread that asks.

The decoders are those of numcodecs and of the standard library, which zarr's chunks go through
as well; streams of zlib go to libdeflate where it is installed (`xchunk.stores.chunk_codec`).
"""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numcodecs
import numpy as np
from numcodecs.fletcher32 import Fletcher32
from numcodecs.shuffle import Shuffle

from xchunk.sources.hdf5_index import Hdf5Dataset, Hdf5Filter
from xchunk.stores.chunk_codec import inflate

_DEFLATE, _SHUFFLE, _FLETCHER, _BZIP2, _BLOSC, _LZ4, _ZSTD = 1, 2, 3, 307, 32001, 32004, 32015
#: What the registered filters are called; those that xarray names have its names.
_NAMES = {
    _DEFLATE: "zlib",
    _SHUFFLE: "shuffle",
    _FLETCHER: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    _BZIP2: "bzip2",
    32000: "lzf",
    _BLOSC: "blosc",
    _LZ4: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    _ZSTD: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
    32029: "htj2k",
}
_BLOSC_HEADER = 16
#: Bytes of a checksum, behind those that it is of.
_CHECKSUM = 4
_UNDECODABLE = (ValueError, RuntimeError, EOFError, OSError, zlib.error, struct.error)

#: Bytes of a chunk, on their way.
_Data: TypeAlias = "bytes | bytearray | memoryview"


class DamagedChunkError(Exception):
    """A chunk is not what its dataset says."""


def filter_names(filters: tuple[Hdf5Filter, ...]) -> tuple[str, ...]:
    """Name filters, in the order of encoding."""
    return tuple(_NAMES.get(f.id, f"hdf5-{f.id}") for f in filters)


@dataclass(frozen=True)
class Pipeline:
    """How the chunks of one dataset are decoded."""

    filters: tuple[Hdf5Filter, ...]
    """The filters, in the order of encoding."""
    itemsize: int
    """Bytes of an element."""
    nbytes: int
    """Bytes of a decoded chunk."""

    @classmethod
    def of(cls, dataset: Hdf5Dataset) -> Pipeline | None:
        """Return how a dataset's chunks are decoded; None where a filter is not known here."""
        compressors = [f for f in dataset.filters if f.id in _COMPRESSORS]
        known = all(f.id in (_SHUFFLE, _FLETCHER, *_COMPRESSORS) for f in dataset.filters)
        if not known or len(compressors) > 1 or len(dataset.filters) > 32:
            return None
        itemsize, chunks = dataset.dtype.itemsize, dataset.chunks or ()
        return cls(dataset.filters, itemsize, itemsize * int(np.prod(chunks, dtype=np.int64)))

    def is_skipped(self, mask: int) -> bool:
        """Whether no filter was applied to a chunk of this mask."""
        return all(mask >> k & 1 for k in range(len(self.filters)))

    def decode(self, data: _Data, mask: int) -> tuple[_Data, bool]:
        """Decode a chunk; return its bytes, and whether their order is still that of a shuffle.

        - ``data``: the stored bytes.
        - ``mask``: a bit for each filter that was not applied.
        - raises `DamagedChunkError` if they are not those of a chunk of this dataset.
        """
        applied = [f for k, f in enumerate(self.filters) if not mask >> k & 1]
        # the first filter's shuffle is undone by whoever puts the values into their place
        shuffled = bool(applied) and applied[0].id == _SHUFFLE and self.itemsize > 1
        shuffled = shuffled and applied[0].params[:1] == (self.itemsize,)
        try:
            for k in range(len(applied) - 1, shuffled - 1, -1):
                before = sum(f.id == _FLETCHER for f in applied[:k])
                data = _undone(applied[k], data, self.nbytes + _CHECKSUM * before)
        except _UNDECODABLE as error:
            raise DamagedChunkError(f"it cannot be decoded: {error}") from error
        if len(data) != self.nbytes:
            raise DamagedChunkError(f"it holds {len(data)} bytes where {self.nbytes} are due")
        return data, shuffled


def _undone(how: Hdf5Filter, data: _Data, nbytes: int) -> _Data:
    """Undo one filter; ``nbytes`` are due of a compressor."""
    if how.id == _SHUFFLE:
        return _unshuffled(data, how.params[0] if how.params else 1)
    if how.id == _FLETCHER:
        return _checked(data)
    return _COMPRESSORS[how.id](data, nbytes)


def _unshuffled(data: _Data, width: int) -> _Data:
    # what is left behind the last whole element stays where it is
    whole = len(data) // width * width if width else 0
    if width < 2 or not whole:
        return data
    out = np.frombuffer(bytearray(len(data)), np.uint8)
    raw = np.frombuffer(data, np.uint8)
    Shuffle(width).decode(raw[:whole], out=out[:whole])
    out[whole:] = raw[whole:]
    return out.data


def _checked(data: _Data) -> _Data:
    body = memoryview(data)[:-_CHECKSUM]
    if len(data) < _CHECKSUM:
        raise ValueError("it has no room for its checksum")
    if body:
        try:
            Fletcher32().decode(data)
        except RuntimeError as error:
            # the sum is of two numbers modulo 65535, where nought has two forms, and old versions
            # of HDF5 wrote the bytes of each the other way round
            have = np.frombuffer(bytes(Fletcher32().encode(body))[-_CHECKSUM:], "<u2") % 65535
            stored = bytes(data[-_CHECKSUM:])
            if not any((np.frombuffer(stored, o) % 65535 == have).all() for o in ("<u2", ">u2")):
                raise ValueError("its checksum does not match") from error
    return body


def _inflated(data: _Data, nbytes: int) -> _Data:
    return inflate("zlib", data, nbytes)


def _bunzipped(data: _Data, _: int) -> _Data:
    return bz2.decompress(data)


def _from_zstd(data: _Data, _: int) -> _Data:
    return memoryview(numcodecs.Zstd().decode(data)).cast("B")


def _from_blosc(data: _Data, nbytes: int) -> _Data:
    # Blosc reads beyond the end of a chunk that is cut
    if len(data) < _BLOSC_HEADER or int.from_bytes(data[12:16], "little") > len(data):
        raise ValueError("it ends before its own end")
    if int.from_bytes(data[4:8], "little") != nbytes:
        raise ValueError("it is of another size")
    return memoryview(numcodecs.Blosc().decode(data)).cast("B")


def _from_lz4(data: _Data, nbytes: int) -> _Data:
    """Decode LZ4 as HDF5 frames it: the size, that of a block, and blocks with their sizes."""
    size, block = struct.unpack_from(">QI", data)
    if size != nbytes or not block:
        raise ValueError("it is of another size")
    out, at, given = bytearray(nbytes), 12, memoryview(data)
    for start in range(0, nbytes, block):
        due = min(block, nbytes - start)
        (stored,) = struct.unpack_from(">I", data, at)
        part = given[at + 4 : at + 4 + stored]
        at += 4 + stored
        if len(part) < stored:
            raise ValueError("it is cut off")
        if stored == due:
            out[start : start + due] = part
            continue
        plain = numcodecs.LZ4().decode(struct.pack("<i", due) + bytes(part))
        if len(plain) != due:
            raise ValueError("a block of another size")
        out[start : start + due] = plain
    return out


_COMPRESSORS: dict[int, Callable[[Any, int], _Data]] = {
    _DEFLATE: _inflated,
    _BZIP2: _bunzipped,
    _BLOSC: _from_blosc,
    _LZ4: _from_lz4,
    _ZSTD: _from_zstd,
}
