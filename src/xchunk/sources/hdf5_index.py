"""How a dataset of a local HDF5 file is stored, read without HDF5's library.

HDF5's library has one lock for a process. Two copies of it in one process, as the wheels of
netCDF4 and h5py bring them, have crashed each other on several platforms, and netCDF's may not
open a file twice. So the library is not asked. Only plain datasets are read here, of which nearly
all netCDF-4 files consist: numbers that numpy has to the bit, compact, contiguous or chunked. All
else raises `UnknownFormatError`, and the library reads it as before.

HDF5 1.10 and later can also be asked for the places. Version 2.0 answers with wrong ones for an
extensible array whose unlimited dimension is not the first, so that the index itself is read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xchunk.sources.hdf5_file import SHARED, UNDEFINED, Hdf5File, UnknownFormatError, V2Tree
from xchunk.sources.remote_file import RangeReader

#: Kinds of chunk index, by their number in the layout message; 0 is the only one of version 3.
_TREE1, _SINGLE, _IMPLICIT, _FIXED, _EXTENSIBLE, _TREE2 = range(6)
#: Bytes of an index's own parameters in the layout message.
_PARAMS = {_IMPLICIT: 0, _FIXED: 1, _EXTENSIBLE: 5, _TREE2: 6}


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """Where a dataset's chunks are, sorted by their number in C order."""

    numbers: NDArray[np.int64]
    """Number of each chunk that is there."""
    offsets: NDArray[np.int64]
    """Its first byte in the file."""
    sizes: NDArray[np.int64]
    """Its stored bytes."""
    masks: NDArray[np.uint32] | None
    """A bit for each filter that was not applied; None: all were, to all chunks."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        masks = 0 if self.masks is None else self.masks.nbytes
        return self.numbers.nbytes + self.offsets.nbytes + self.sizes.nbytes + masks

    def find(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of some chunks; -1 where a chunk is missing."""
        if not len(self):
            return np.full(wanted.shape, -1)
        rows = np.minimum(np.searchsorted(self.numbers, wanted), len(self) - 1)
        return np.where(self.numbers[rows] == wanted, rows, -1)


class ChunkedLayout(NamedTuple):
    """What the layout message says of chunked storage."""

    chunks: tuple[int, ...]
    """Elements of a chunk along each axis."""
    kind: int
    """Which kind of index there is."""
    address: int
    """Where it is."""
    info: bytes
    """Its own parameters."""

    @classmethod
    def of(cls, version: int, body: bytes, itemsize: int) -> ChunkedLayout:
        """Read the message's body; elements are to have so many bytes."""
        if version == 3:
            rank, address = struct.unpack_from("<BQ", body)
            *chunks, size = struct.unpack_from(f"<{rank}I", body, 9)
            kind, info = _TREE1, b""
        else:
            flags, rank, width = body[:3]
            if flags & 1:
                raise UnknownFormatError("chunks at the edges without filters")
            *chunks, size = (
                int.from_bytes(body[3 + width * k : 3 + width * (k + 1)], "little")
                for k in range(rank)
            )
            at = 3 + width * rank
            kind = body[at]
            length = (12 if flags & 2 else 0) if kind == _SINGLE else _PARAMS[kind]
            info = body[at + 1 : at + 1 + length]
            (address,) = struct.unpack_from("<Q", body, at + 1 + length)
        if size != itemsize:
            raise UnknownFormatError("chunks of elements of another size")
        return cls(tuple(chunks), kind, address, info)


class ChunkTables:
    """Reads the chunk indexes of HDF5: a tree, and those that came with HDF5 1.10."""

    def __init__(
        self,
        file: Hdf5File,
        shape: tuple[int, ...],
        most: tuple[int | None, ...],
        layout: ChunkedLayout,
        *,
        itemsize: int,
        filtered: bool,
    ):
        chunks = layout.chunks
        if len(chunks) != len(shape) or not all(chunks):
            raise UnknownFormatError("chunks of another rank")
        self.file, self.layout, self.filtered = file, layout, filtered
        self.nbytes = math.prod(chunks) * itemsize
        self.grid = tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
        self.most = tuple(
            None if n is None else -(-n // c) for n, c in zip(most, chunks, strict=True)
        )
        self.rank = len(chunks)

    def read(self) -> ChunkTable:
        """Read the index, whatever its kind."""
        if self.layout.address == UNDEFINED or not math.prod(self.grid):
            return self._table(np.empty((0, self.rank), np.int64), _records(0))
        readers = {
            _TREE1: self._tree1,
            _SINGLE: self._single,
            _IMPLICIT: self._implicit,
            _FIXED: self._fixed,
            _EXTENSIBLE: self._extensible,
            _TREE2: self._tree2,
        }
        return readers[self.layout.kind]()

    def _table(self, places: NDArray[np.int64], records: NDArray[Any]) -> ChunkTable:
        """Make the table of chunks at some places of the grid, a row for each."""
        inside = ((places >= 0) & (places < self.grid)).all(axis=1)
        inside &= records["address"] != UNDEFINED
        places, records = places[inside], records[inside]
        numbers = np.zeros(len(places), np.int64)
        for axis, count in enumerate(self.grid):
            numbers = numbers * count + places[:, axis]
        order = np.argsort(numbers, kind="stable")
        numbers, records = numbers[order], records[order]
        if (numbers[1:] == numbers[:-1]).any():
            raise UnknownFormatError("a chunk that is stored twice")
        offsets = records["address"].astype(np.int64) + self.file.base
        sizes = records["size"].astype(np.int64)
        if (offsets < 0).any() or (not self.filtered and (sizes != self.nbytes).any()):
            raise UnknownFormatError("chunks of another size")
        masks = records["mask"].astype(np.uint32)
        return ChunkTable(numbers, offsets, sizes, masks if masks.any() else None)

    def _tree1(self) -> ChunkTable:
        key = np.dtype(
            [("size", "<u4"), ("mask", "<u4"), ("at", "<u8", (self.rank + 1,)), ("address", "<u8")]
        )
        nodes = [self._tree1_nodes(self.layout.address, key, None)]
        found = np.concatenate([n for leaves in nodes for n in leaves])
        at = found["at"].astype(np.int64)
        if (at[:, :-1] % self.layout.chunks).any() or at[:, -1].any():
            raise UnknownFormatError("a chunk that is not where chunks are")
        return self._table(at[:, :-1] // self.layout.chunks, found)

    def _tree1_nodes(
        self, address: int, key: np.dtype[Any], level: int | None
    ) -> list[NDArray[Any]]:
        head = self.file.signed(address, 24, b"TREE")
        kind, here, count = struct.unpack_from("<BBH", head, 4)
        if kind != 1 or here > 32 or level not in (None, here):
            raise UnknownFormatError("a tree that is none of chunks")
        node = np.frombuffer(self.file.read(address + 24, key.itemsize * count), dtype=key)
        if not here:
            return [node]
        return [
            leaf
            for child in node["address"].tolist()
            for leaf in self._tree1_nodes(child, key, here - 1)
        ]

    def _single(self) -> ChunkTable:
        records = _records(1)
        size, mask = (
            struct.unpack("<QI", self.layout.info) if self.layout.info else (self.nbytes, 0)
        )
        records[0] = (self.layout.address, size, mask)
        return self._table(np.zeros((1, self.rank), np.int64), records)

    def _implicit(self) -> ChunkTable:
        places = self._places(math.prod(self._limits()))
        records = _records(len(places))
        records["address"] = self.layout.address + self.nbytes * np.arange(len(places))
        records["size"] = self.nbytes
        return self._table(places, records)

    def _limits(self) -> tuple[int, ...]:
        """Return how many chunks there may be along each axis, all of which are limited."""
        limits = [n for n in self.most if n is not None]
        if len(limits) < self.rank:
            raise UnknownFormatError("an index that has no room to grow")
        return tuple(limits)

    def _places(self, count: int) -> NDArray[np.int64]:
        """Return the places of the first chunks in the order of the array's full extent."""
        limits = self._limits()
        if count > math.prod(limits):
            raise UnknownFormatError("an index of more chunks than there may be")
        return np.stack(np.unravel_index(np.arange(count), limits), axis=1).astype(np.int64)

    def _elements(self, data: bytes, width: int) -> NDArray[Any]:
        """Read the elements of an array index: addresses, and sizes and masks with filters."""
        if not self.filtered:
            if width != 8:
                raise UnknownFormatError("an index of other elements")
            records = _records(len(data) // 8)
            records["address"] = np.frombuffer(data, "<u8")
            records["size"] = self.nbytes
            return records
        raw = np.frombuffer(data, np.uint8).reshape(-1, width)
        return _split(raw, width - 12)

    def _fixed(self) -> ChunkTable:
        head = self.file.summed(self.layout.address, 28, b"FAHD")
        _, client, width, bits, count, block = struct.unpack_from("<BBBBQQ", head, 4)
        if client != self.filtered:
            raise UnknownFormatError("an index of other elements")
        places = self._places(count)
        if block == UNDEFINED:
            return self._table(places[:0], _records(0))
        data = self.array_block(
            block, b"FADB", prefix=14, count=count, width=width, bits=bits, pages=None
        )
        return self._table(places, self._elements(data, width))

    def array_block(
        self,
        address: int,
        signature: bytes,
        *,
        prefix: int,
        count: int,
        width: int,
        bits: int,
        pages: bytes | None,
    ) -> bytes:
        """Read the elements of a data block, whose pages, if it has any, may be missing.

        ``pages`` has a bit for each page that is there; None: it is in the block.
        """
        page = 1 << bits
        if count <= page:
            return self.file.summed(address, prefix + width * count + 4, signature)[prefix:-4]
        number = -(-count // page)
        if pages is None:
            size = -(-number // 8)
            pages = self.file.summed(address, prefix + size + 4, signature)[prefix:-4]
            prefix += size
        out, at = [], address + prefix + 4
        for k in range(number):
            held = min(page, count - k * page)
            if pages[k // 8] & (0x80 >> k % 8):
                out.append(self.file.summed(at, held * width + 4)[:-4])
            else:
                out.append(b"\xff" * (held * width))
            at += page * width + 4
        return b"".join(out)

    def _extensible(self) -> ChunkTable:
        head = self.file.summed(self.layout.address, 72, b"EAHD")
        version, client, width, *_ = head[4:]
        array = _Extensible(head[6:12], *struct.unpack_from("<Q8xQ", head, 44))
        if version or client != self.filtered:
            raise UnknownFormatError("an index of other elements")
        if array.index == UNDEFINED:
            return self._table(np.empty((0, self.rank), np.int64), _records(0))
        records = self._elements(array.read(self), width)
        unlimited = [k for k, n in enumerate(self.most) if n is None]
        if len(unlimited) != 1:
            raise UnknownFormatError("an index for one unlimited dimension")
        # the unlimited dim is the slowest in the order of the elements
        axes = unlimited + [k for k in range(self.rank) if k != unlimited[0]]
        others = [n for n in self.most if n is not None]
        limits = (-(-len(records) // max(1, math.prod(others))), *others)
        swapped = np.stack(np.unravel_index(np.arange(len(records)), limits), axis=1)
        places = np.empty_like(swapped, dtype=np.int64)
        places[:, axes] = swapped
        return self._table(places, records)

    def _tree2(self) -> ChunkTable:
        tree = V2Tree(self.file, self.layout.address, kinds=(11,) if self.filtered else (10,))
        raw = np.frombuffer(b"".join(tree.records()), np.uint8).reshape(-1, tree.record)
        width = tree.record - 8 - 8 * self.rank
        if self.filtered:
            records = _split(raw[:, : 8 + width], width - 4)
        else:
            records = _records(len(raw))
            records["address"] = np.ascontiguousarray(raw[:, :8]).view("<u8")[:, 0]
            records["size"] = self.nbytes
        scaled = np.ascontiguousarray(raw[:, 8 + width :]).view("<u8").astype(np.int64)
        return self._table(scaled.reshape(-1, self.rank), records)


def _records(count: int) -> NDArray[Any]:
    return np.zeros(count, dtype=[("address", "u8"), ("size", "u8"), ("mask", "u4")])


def _split(raw: NDArray[np.uint8], width: int) -> NDArray[Any]:
    """Take elements apart: an address, a size of so many bytes, and a mask of filters."""
    if not 1 <= width <= 8:
        raise UnknownFormatError("an index of other elements")
    records = _records(len(raw))
    records["address"] = np.ascontiguousarray(raw[:, :8]).view("<u8")[:, 0]
    for k in range(width):
        records["size"] |= raw[:, 8 + k].astype("u8") << np.uint64(8 * k)
    records["mask"] = np.ascontiguousarray(raw[:, 8 + width :]).view("<u4")[:, 0]
    return records


class _Extensible:
    """The places of an extensible array's elements: in its index block, and in blocks below."""

    def __init__(self, params: bytes, count: int, index: int):
        width, most, self.first, self.least, pointers, self.bits = params
        self.width, self.count, self.index = width, count, index
        self.offset_size = -(-most // 8)
        self.blocks = 2 * (pointers - 1)
        self.supers = 1 + most - (self.least.bit_length() - 1)
        self.direct = 2 * (pointers.bit_length() - 1)

    def read(self, tables: ChunkTables) -> bytes:
        """Read the elements up to the last that was ever set."""
        file, width = tables.file, self.width
        prefix, below = 14, max(0, self.supers - self.direct)
        size = prefix + self.first * width + 8 * (self.blocks + below) + 4
        body = file.summed(self.index, size, b"EAIB")
        out = [body[prefix : prefix + self.first * width]]
        held = self.first
        pointers = struct.unpack_from(f"<{self.blocks + below}Q", body, prefix + self.first * width)
        direct = iter(pointers[: self.blocks])
        for k in range(self.supers):
            if held >= self.count:
                break
            number, each = 1 << (k // 2), (1 << ((k + 1) // 2)) * self.least
            bitmap = None
            if k < self.direct:
                addresses: Sequence[int] = [next(direct) for _ in range(number)]
            else:
                addresses, bitmap = self._super(
                    file, pointers[self.blocks + k - self.direct], number, each
                )
            for nth, address in enumerate(addresses):
                if held >= self.count:
                    break
                out.append(self._block(tables, address, each, bitmap, nth))
                held += each
        return b"".join(out)[: self.count * width]

    def _super(
        self, file: Hdf5File, address: int, number: int, each: int
    ) -> tuple[Sequence[int], bytes | None]:
        if address == UNDEFINED:
            return [UNDEFINED] * number, None
        prefix = 14 + self.offset_size
        pages = -(-each >> self.bits) if each > 1 << self.bits else 0
        size = number * -(-pages // 8)
        body = file.summed(address, prefix + size + 8 * number + 4, b"EASB")
        bitmap = body[prefix : prefix + size] if pages else None
        return struct.unpack_from(f"<{number}Q", body, prefix + size), bitmap

    def _block(
        self, tables: ChunkTables, address: int, each: int, bitmap: bytes | None, nth: int
    ) -> bytes:
        if address == UNDEFINED:
            return b"\xff" * (each * self.width)
        pages = None
        if bitmap is not None:
            size = -(-(each >> self.bits) // 8)
            pages = bitmap[nth * size : (nth + 1) * size]
        prefix = 14 + self.offset_size
        return tables.array_block(
            address,
            b"EADB",
            prefix=prefix,
            count=each,
            width=self.width,
            bits=self.bits,
            pages=pages,
        )


#: Message types of a dataset's header that say how it is stored.
_DATASPACE, _DATATYPE, _OLD_FILL, _FILL, _LAYOUT, _FILTERS = 1, 3, 4, 5, 8, 11
_TELLING = {_DATASPACE, _DATATYPE, _OLD_FILL, _FILL, _LAYOUT, _FILTERS}
#: Those that change nothing about it: nothing, attributes, comments, times, references.
_HARMLESS = {0, 12, 13, 14, 18, 21, 22}
_UNLIMITED = 2**64 - 1
_COMPACT, _CONTIGUOUS, _CHUNKED = range(3)
#: Bit offset, precision, places and sizes of exponent and mantissa, bias, place of the sign.
_IEEE = {
    2: (0, 16, 10, 5, 0, 10, 15, 15),
    4: (0, 32, 23, 8, 0, 23, 127, 31),
    8: (0, 64, 52, 11, 0, 52, 1023, 63),
}
#: How netCDF-4 stores a variable that has the name of a dimension and is not its coordinate.
NOT_COORDINATE = "_nc4_non_coord_"


class Hdf5Filter(NamedTuple):
    """One filter of a dataset's pipeline."""

    id: int
    """Its registered number."""
    params: tuple[int, ...]
    """The values that it was given for this dataset."""


@dataclass(frozen=True, eq=False)
class Hdf5Dataset:
    """How one dataset is stored."""

    shape: tuple[int, ...]
    """Elements along each axis."""
    dtype: np.dtype[Any]
    """The dtype of the stored values, in their byte order."""
    fill: bytes | None
    """One element of what missing chunks read as; None: not defined."""
    filters: tuple[Hdf5Filter, ...] = ()
    """The filters, in the order of encoding."""
    chunks: tuple[int, ...] | None = None
    """Elements of a chunk along each axis; None: not chunked."""
    table: ChunkTable | None = None
    """Where the chunks are; None: not chunked."""
    offset: int | None = None
    """First byte of values that are not chunked; None: there are none, or they are in ``raw``."""
    raw: bytes | None = None
    """The values, where they are in the dataset's header."""
    unlimited: int = 0
    """Axes along which it may grow without end."""


def read_dataset(
    fd: int | RangeReader,
    group: str | None,
    variable: str,
    address: int | None = None,
    *,
    opened: Callable[[int | RangeReader], Hdf5File] = Hdf5File,
) -> Hdf5Dataset:
    """Find a variable in an open file, and where its bytes are.

    - ``fd``: descriptor of the file, or its ranges.
    - ``group``: its group; the root by default.
    - ``variable``: its name, as netCDF-4 has it.
    - ``address``: where its header is, if that is known.
    - ``opened``: makes the file of ``fd``, once for several variables.
    - raises `UnknownFormatError` if the file, the dataset or the way to it is not of a plain kind,
      or damaged.
    """
    try:
        file = opened(fd)
        if address is not None:
            return _described(file, address)
        members = file.links(file.group(group))
        hidden = NOT_COORDINATE + variable
        return _described(file, members[hidden if hidden in members else variable])
    except (struct.error, LookupError, ValueError, OverflowError, RecursionError) as error:
        raise UnknownFormatError(f"a structure that cannot be read: {error}") from error


def _described(file: Hdf5File, address: int) -> Hdf5Dataset:
    found: dict[int, bytes] = {}
    for kind, flags, data in file.messages(address):
        if kind in _TELLING:
            if flags & SHARED or kind in found:
                raise UnknownFormatError(f"a shared or repeated message {kind}")
            found[kind] = data
        elif kind not in _HARMLESS:
            raise UnknownFormatError(f"a message of type {kind}")
    shape, most = read_shape(found[_DATASPACE])
    dtype = _datatype(found[_DATATYPE])
    fill, fills = _fill(found.get(_FILL), found.get(_OLD_FILL), dtype.itemsize)
    filters = _filters(found[_FILTERS]) if _FILTERS in found else ()
    (version, storage), body = found[_LAYOUT][:2], found[_LAYOUT][2:]
    if version not in (3, 4, 5):
        raise UnknownFormatError(f"a layout of version {version}")
    plain = Hdf5Dataset(shape, dtype, fill, filters, unlimited=most.count(None))
    if storage == _CHUNKED:
        layout = ChunkedLayout.of(version, body, dtype.itemsize)
        table = ChunkTables(
            file, shape, most, layout, itemsize=dtype.itemsize, filtered=bool(filters)
        ).read()
        made = replace(plain, chunks=layout.chunks, table=table)
        missing = len(table) < math.prod(
            -(-n // c) for n, c in zip(shape, layout.chunks, strict=True)
        )
    else:
        made = _in_one_piece(file, plain, storage, body)
        missing = made.offset is None and made.raw is None and math.prod(shape) > 0
    if missing and not (fills and fill is not None):
        raise UnknownFormatError("missing values of which nobody says what they are")
    return made


def read_storage(data: bytes, itemsize: int) -> tuple[int, tuple[int, ...] | None]:
    """Read from a layout message how values are stored, and in which chunks if they are."""
    version, storage = data[:2]
    if version not in (3, 4, 5):
        raise UnknownFormatError(f"a layout of version {version}")
    chunked = storage == _CHUNKED
    return storage, ChunkedLayout.of(version, data[2:], itemsize).chunks if chunked else None


def _in_one_piece(file: Hdf5File, plain: Hdf5Dataset, storage: int, body: bytes) -> Hdf5Dataset:
    nbytes = math.prod(plain.shape) * plain.dtype.itemsize
    if plain.filters or storage not in (_COMPACT, _CONTIGUOUS):
        raise UnknownFormatError(f"storage of kind {storage}")
    if storage == _COMPACT:
        size, raw = int.from_bytes(body[:2], "little"), body[2:]
        if size != nbytes or len(raw) < size:
            raise UnknownFormatError("compact storage of another size")
        return replace(plain, raw=raw[:size])
    start, size = struct.unpack_from("<QQ", body)
    if start == UNDEFINED:
        return plain
    if size < nbytes:
        raise UnknownFormatError("contiguous storage of another size")
    return replace(plain, offset=start + file.base)


def read_shape(data: bytes) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """Read the shape, and what it may grow to (None: whatever)."""
    version, rank, flags = data[:3]
    if version not in (1, 2) or (version == 2 and data[3] == 2):
        raise UnknownFormatError("a dataspace without a shape")
    at = 8 if version == 1 else 4
    shape = struct.unpack_from(f"<{rank}Q", data, at)
    if not flags & 1:
        return shape, shape
    most = struct.unpack_from(f"<{rank}Q", data, at + 8 * rank)
    return shape, tuple(None if n == _UNLIMITED else n for n in most)


def _datatype(data: bytes) -> np.dtype[Any]:
    """Read a datatype that numpy has to the bit; there is no conversion for any other."""
    kind, low, high = data[0] & 15, data[1], data[2]
    (size,) = struct.unpack_from("<I", data, 4)
    order = ">" if low & 1 else "<"
    if kind == 0 and size in (1, 2, 4, 8) and struct.unpack_from("<HH", data, 8) == (0, 8 * size):
        return np.dtype(f"{order}{'i' if low & 8 else 'u'}{size}")
    if kind == 1 and size in _IEEE:
        layout = (*struct.unpack_from("<HHBBBBI", data, 8), high)
        # the mantissa's first bit is implied, and the byte order is one of the two plain ones
        if layout == _IEEE[size] and (low >> 4) & 3 == 2 and not low & 0x40:
            return np.dtype(f"{order}f{size}")
    if kind == 3 and ((size == 1 and low & 15 < 2) or low & 15 == 1):
        return np.dtype(f"S{size}")
    raise UnknownFormatError(f"a datatype of class {kind} and {size} bytes")


def _fill(new: bytes | None, old: bytes | None, itemsize: int) -> tuple[bytes | None, bool]:
    """Read the fill value (None: undefined), and whether missing values are filled with it."""
    value, fills = b"", True
    if new is not None:
        version, flags = new[0], new[1]
        if version in (1, 2):
            fills = new[2] != 1
            if not new[3]:
                return None, fills
            at = 4
        elif version == 3:
            fills = (flags >> 2) & 3 != 1
            if flags & 0x10:
                return None, fills
            at = 2 if flags & 0x20 else 0
        else:
            raise UnknownFormatError("a fill value of another version")
        if at:
            (size,) = struct.unpack_from("<i", new, at)
            value = new[at + 4 : at + 4 + size] if size > 0 else b""
    elif old is not None:
        (size,) = struct.unpack_from("<I", old)
        value = old[4 : 4 + size]
    if value and len(value) != itemsize:
        raise UnknownFormatError("a fill value of another size")
    return value or bytes(itemsize), fills


def _filters(data: bytes) -> tuple[Hdf5Filter, ...]:
    version, count = data[0], data[1]
    if version not in (1, 2):
        raise UnknownFormatError("a filter pipeline of another version")
    at, out = 8 if version == 1 else 2, []
    for _ in range(count):
        (number,) = struct.unpack_from("<H", data, at)
        at += 2
        name = 0
        if version == 1 or number >= 256:
            (name,) = struct.unpack_from("<H", data, at)
            at += 2
        _, n = struct.unpack_from("<HH", data, at)
        at += 4 + (-(-name // 8) * 8 if version == 1 else name)
        out.append(Hdf5Filter(number, struct.unpack_from(f"<{n}I", data, at)))
        at += 4 * (n + n % 2 if version == 1 else n)
    return tuple(out)
