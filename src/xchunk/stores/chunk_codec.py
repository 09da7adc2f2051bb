"""From the bytes of one stored chunk to its values and back, for the codecs that nearly all use.

zarr's codec pipeline handles every chain of codecs. For the plain ones (values as they lie in
memory, one compressor of numcodecs at most, a checksum at most) the way can be shorter:
a chunk is decoded straight into the place of its values, and a checksum is written behind the
bytes rather than appended to a copy of them. Either way reads what the other has written.

Streams of zlib and gzip are decoded by libdeflate where it is installed (extra ``netcdf``), two
to three times as fast as by the standard library.
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray

#: Bytes of a checksum, behind those that it is of.
_CHECKSUM = 4
#: Kinds of dtypes whose values are stored as they lie in memory.
_PLAIN_KINDS = "biufcmMV"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: Bytes of a zstd frame's header, at most.
_ZSTD_HEADER = 18
_BLOSC_HEADER = 16
#: zlib's word for the header and trailer to expect.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS}
#: Bytes of a stream that are given or taken at once.
_AT_ONCE = 256 * 1024
#: Bytes of a chunk that a task may hold besides its buffers, unseen beside its overhead.
_SMALL = 1024**2


@dataclass(frozen=True)
class ChunkBytes:
    """How the chunks of one array are encoded."""

    compressor: Any = None
    """The codec of numcodecs; None: not compressed."""
    checksum: bool = False
    """Whether a crc32c is behind the bytes."""

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> ChunkBytes | None:
        """Return how an array is encoded; None where it is not plain."""
        dtype = np.dtype(array.dtype)
        plain = dtype.kind in _PLAIN_KINDS and dtype.isnative and dtype.names is None
        if not plain or dtype.itemsize == 0 or tuple(array.filters):
            return None
        if array.metadata.zarr_format == 2:
            return _of_v2(array, dtype)
        return _of_v3(array, dtype)

    @property
    def is_raw(self) -> bool:
        """Whether the bytes are those of the values, but for a checksum."""
        return self.compressor is None

    def sum(self, encoded: NDArray[np.uint8], before: int = 0) -> int:
        """Go on with the checksum of what came before; 0 where there is none."""
        return int(google_crc32c.extend(before, encoded)) if self.checksum else 0

    def tail(self, checksum: int) -> bytes:
        """Return what is stored behind the encoded bytes."""
        return checksum.to_bytes(_CHECKSUM, "little") if self.checksum else b""

    @property
    def tail_size(self) -> int:
        """Bytes of what is stored behind the encoded bytes."""
        return _CHECKSUM if self.checksum else 0

    def encode(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Encode the contiguous values of a chunk, without the tail."""
        if self.compressor is None:
            return as_bytes(values)
        if self.compressor.codec_id == "gzip":
            # numcodecs' compressors live until a collection of cycles, each with 256 kB
            wide = 16 + zlib.MAX_WBITS
            stream = zlib.compressobj(self.compressor.level, zlib.DEFLATED, wide)
            encoded = stream.compress(as_bytes(values).data) + stream.flush()
        else:
            encoded = self.compressor.encode(_typed(values))
        return np.frombuffer(encoded, dtype=np.uint8)

    def check(self, checksum: int, tail: bytes | memoryview) -> None:
        """Compare the checksum of a chunk's bytes with what is stored behind them.

        - raises `ValueError` if they do not match.
        """
        if self.tail(checksum) != tail:
            raise ValueError(
                "the stored checksum and that of the bytes do not match: "
                f"{tail.hex()} and {self.tail(checksum).hex()}"
            )

    def decode(self, stored: bytes | memoryview, out: NDArray[np.uint8]) -> None:
        """Decode a chunk, its tail included, into memory of exactly its size.

        - raises `ValueError` if the checksum does not match, or the chunk has another size.
        """
        raw = np.frombuffer(stored, dtype=np.uint8)
        body = raw[: len(raw) - self.tail_size]
        self.check(self.sum(body), stored[len(body) :])
        if self.compressor is None:
            decoded = body
        elif _is_cut(self.compressor.codec_id, stored):
            raise ValueError(f"it ends after {len(body)} bytes, before its own end")
        elif _decoded_size(self.compressor.codec_id, stored) == out.nbytes:
            self.compressor.decode(body, out=out)
            return
        elif _inflated(self.compressor.codec_id, body, out):
            return
        else:
            decoded = np.frombuffer(self.compressor.decode(body), dtype=np.uint8)
        if decoded.nbytes != out.nbytes:
            raise ValueError(f"it holds {decoded.nbytes} bytes where {out.nbytes} are due")
        out[...] = decoded


def as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """View contiguous values as their bytes."""
    return values.reshape(-1).view(np.uint8)


def _of_v2(array: Any, dtype: np.dtype[Any]) -> ChunkBytes | None:
    if array.metadata.order != "C":
        return None
    compressors = tuple(array.compressors)
    if not compressors:
        return ChunkBytes()
    known = type(compressors[0]) in (numcodecs.Zstd, numcodecs.GZip, numcodecs.Zlib)
    if known or (type(compressors[0]) is numcodecs.Blosc and _is_word(dtype)):
        return ChunkBytes(compressors[0])
    return None


def _of_v3(array: Any, dtype: np.dtype[Any]) -> ChunkBytes | None:
    serializer, *others = (c.to_dict() for c in (array.serializer, *array.compressors))
    endian = serializer.get("configuration", {}).get("endian", sys.byteorder)
    if serializer["name"] != "bytes" or endian != sys.byteorder:
        return None
    checksum = bool(others) and others[-1]["name"] == "crc32c"
    if checksum:
        others.pop()
    if len(others) > 1:
        return None
    if not others:
        return ChunkBytes(None, checksum)
    compressor = _compressor(others[0]["name"], others[0].get("configuration", {}), dtype)
    return None if compressor is None else ChunkBytes(compressor, checksum)


def _compressor(name: str, how: dict[str, Any], dtype: np.dtype[Any]) -> Any:
    if name == "zstd":
        return numcodecs.Zstd(level=how["level"], checksum=how.get("checksum", False))
    if name == "gzip":
        return numcodecs.GZip(level=how["level"])
    shuffles = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
    same_width = how.get("typesize") in (None, dtype.itemsize)
    if name == "blosc" and _is_word(dtype) and same_width and how.get("shuffle") in shuffles:
        return numcodecs.Blosc(
            cname=how["cname"],
            clevel=how["clevel"],
            shuffle=shuffles[how["shuffle"]],
            blocksize=how.get("blocksize", 0),
        )
    return None


def _is_word(dtype: np.dtype[Any]) -> bool:
    """Return whether Blosc can be given values of this width, by which it shuffles."""
    return dtype.itemsize in (1, 2, 4, 8)


def _typed(values: NDArray[Any]) -> NDArray[Any]:
    """View values as what a codec takes: not all dtypes have a buffer of their own."""
    width = values.dtype.itemsize
    return values.view(f"u{width}" if width in (1, 2, 4, 8) else np.uint8)


def _inflated(codec: str, stored: NDArray[np.uint8], out: NDArray[np.uint8]) -> bool:
    """Decode one stream of gzip or zlib into memory that it just fills; tell whether it did.

    numcodecs holds such a chunk two or three times. What is not just one stream of the size that
    is due is left to it, so that it says what is wrong. Small chunks are decoded at once, which is
    quicker and holds them twice.
    """
    if codec not in _WINDOW_BITS:
        return False
    if out.nbytes <= _SMALL and has_libdeflate():
        try:
            out[...] = np.frombuffer(inflate(codec, stored, out.nbytes, alone=True), dtype=np.uint8)
        except ValueError:
            return False
        return True
    stream, at = zlib.decompressobj(_WINDOW_BITS[codec]), 0
    for start in range(0, len(stored), _AT_ONCE):
        given: Any = stored[start : start + _AT_ONCE]
        while not stream.eof:
            part = stream.decompress(given, _AT_ONCE)
            if at + len(part) > out.nbytes:
                return False
            out[at : at + len(part)] = np.frombuffer(part, dtype=np.uint8)
            at += len(part)
            given = stream.unconsumed_tail
            if not given and len(part) < _AT_ONCE:
                break
        if stream.eof:
            ends = start + _AT_ONCE >= len(stored) and not stream.unused_data
            return ends and at == out.nbytes
    return False


def _is_cut(codec: str, stored: bytes | memoryview) -> bool:
    """Return whether a chunk is shorter than its Blosc header says, which Blosc does not check."""
    return codec == "blosc" and (
        len(stored) < _BLOSC_HEADER or int.from_bytes(stored[12:16], "little") > len(stored)
    )


def _decoded_size(codec: str, stored: bytes | memoryview) -> int | None:
    """Read from a chunk how many bytes it has when it is decoded; None where it does not say.

    numcodecs decodes into memory that is too large without a word. The layouts are those of
    RFC 8878, section 3.1.1.1, and of Blosc 1's header.
    """
    if codec == "blosc":
        return int.from_bytes(stored[4:8], "little")
    if codec != "zstd" or len(stored) < _ZSTD_HEADER or stored[:4] != _ZSTD_MAGIC:
        return None
    descriptor = stored[4]
    single, flag = bool(descriptor & 0x20), descriptor >> 6
    size = 0 if flag == 0 and not single else (1, 2, 4, 8)[flag]
    if not size:
        return None
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(stored[start : start + size], "little") + (256 if size == 2 else 0)


#: The largest size that libdeflate's wrapper takes: it has 32 bits for it, and does not look.
_LARGEST = 2**32 - 1


def inflate(kind: str, data: Any, nbytes: int, *, alone: bool = False) -> bytes | bytearray:
    """Decode one stream of a known size.

    - ``kind``: ``zlib`` or ``gzip``.
    - ``data``: the stream.
    - ``nbytes``: bytes that it decodes to.
    - ``alone``: whether nothing may follow its end; else what follows is not looked at.
    - raises `ValueError` if it is damaged, or of another size.
    """
    fast = _libdeflate()
    errors = (zlib.error,) if fast is None else (zlib.error, fast.DeflateError)
    try:
        if fast is not None and 0 < nbytes <= _LARGEST:
            decode = fast.zlib_decompress if kind == "zlib" else fast.gzip_decompress
            out: bytes | bytearray = decode(data, nbytes)
        else:
            # given the size it neither grows its output nor copies it
            out = zlib.decompress(data, _WINDOW_BITS[kind], bufsize=max(1, nbytes))
    except errors as error:
        raise ValueError(f"not a stream of {kind} of {nbytes} bytes: {error}") from error
    if len(out) != nbytes or (alone and not bytes(data[-8:]).endswith(_end(kind, out))):
        raise ValueError(f"not one stream of {kind} of {nbytes} bytes")
    return out


def has_libdeflate() -> bool:
    """Whether libdeflate is installed."""
    return _libdeflate() is not None


def _end(kind: str, out: bytes | bytearray) -> bytes:
    """Return what the stream of some bytes ends with; the decoders do not say where it ends."""
    if kind == "zlib":
        return zlib.adler32(out).to_bytes(4, "big")
    return zlib.crc32(out).to_bytes(4, "little") + (len(out) % 2**32).to_bytes(4, "little")


@cache
def _libdeflate() -> Any:
    try:
        import deflate
    except ImportError:
        return None
    # older versions hold the interpreter's lock, so that threads would wait for each other
    version = tuple(int(n) for n in deflate.__version__.split(".")[:2] if n.isdigit())
    return deflate if version >= (0, 9) else None
