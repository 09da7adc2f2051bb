"""The objects of an HDF5 file: its groups, headers and trees, read without HDF5's library.

Names follow the HDF5 File Format Specification, version 3.0. Every signature and checksum on the
way is checked, and whatever is not known for certain raises `UnknownFormatError`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from numcodecs.checksum32 import JenkinsLookup3

from xchunk.sources.remote_file import RangeReader

#: The address of what is not there.
UNDEFINED = 2**64 - 1
#: The flag of a message whose content is somewhere else.
SHARED = 0x02
_LINK_INFO, _LINK, _SHARED_MESSAGES, _CONTINUATION, _SYMBOL_TABLE, _DRIVER = 2, 6, 15, 16, 17, 20
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Levels of a tree, and blocks of a header: more of them is a circle.
_DEEP, _MANY = 32, 10_000
#: Bytes of a structure, at most; a damaged file may ask for any number.
_LARGEST = 2**28
#: Bytes of a local file that are read at once, where less is asked for.
_WINDOW = 16 * 1024
_HASH = JenkinsLookup3()


class UnknownFormatError(Exception):
    """The library has to read it: it is not of a plain kind, or it is damaged."""


class Message(NamedTuple):
    """One message of an object's header."""

    kind: int
    """Its type."""
    flags: int
    """Its flags."""
    data: bytes
    """Its content."""


class Window:
    """The bytes of a local file around what was read last: structures lie close to each other."""

    def __init__(self, fd: int):
        self._fd, self._start, self._held = fd, 0, b""

    def pread(self, nbytes: int, at: int) -> bytes:
        """Read as `os.pread` does, with a descriptor's place left as it is."""
        begin = at - self._start
        if begin < 0 or begin + nbytes > len(self._held):
            if nbytes > _WINDOW:
                return os.pread(self._fd, nbytes, at)
            self._start, self._held, begin = at, os.pread(self._fd, _WINDOW, at), 0
        return self._held[begin : begin + nbytes]


class Hdf5File:
    """An open HDF5 file: a descriptor, or the ranges of one that is far."""

    def __init__(self, source: int | RangeReader):
        self._pread: Callable[[int, int], bytes]
        if isinstance(source, int):
            self.size, self._pread = os.fstat(source).st_size, Window(source).pread
        else:
            self.size, self._pread = source.size, source.pread
        self.base = 0
        self.root = self._superblock()

    def read(self, address: int, nbytes: int) -> bytes:
        """Read some bytes; an address counts from the end of the user block."""
        if not 0 <= address <= self.size or nbytes > min(self.size, _LARGEST):
            raise UnknownFormatError("an address beyond the end of the file")
        data = self._pread(nbytes, self.base + address)
        if len(data) < nbytes:
            raise UnknownFormatError("the file is cut off")
        return data

    def signed(self, address: int, nbytes: int, signature: bytes) -> bytes:
        """Read a structure that begins with a signature."""
        data = self.read(address, nbytes)
        if data[:4] != signature:
            raise UnknownFormatError(f"{signature!r} is due and not there")
        return data

    def summed(self, address: int, nbytes: int, signature: bytes = b"") -> bytes:
        """Read a structure that ends with its checksum."""
        data = self.read(address, nbytes)
        if not data.startswith(signature) or bytes(_HASH.encode(data[:-4]))[-4:] != data[-4:]:
            raise UnknownFormatError("a checksum that does not match")
        return data

    def find(self, group: str | None, name: str) -> int:
        """Return the address of a group's member; the root is the default."""
        return self.links(self.group(group))[name]

    def group(self, path: str | None) -> int:
        """Return the address of a group."""
        address = self.root
        for name in (path or "").split("/"):
            if name:
                address = self.links(address)[name]
        return address

    def _superblock(self) -> int:
        """Find where the file begins, behind a user block; return the root group's address."""
        base = 0
        while self._pread(8, base) != _SIGNATURE:
            base = 2 * base if base else 512
            if base + 8 > self.size:
                raise UnknownFormatError("no HDF5 file")
        self.base = base
        head = self.read(0, 48)
        version = head[8]
        if version < 2:
            widths, at = head[13:15], 24 if version == 0 else 28
            block = self.read(0, at + 32 + 40)
            start, _, end, driver = struct.unpack_from("<QQQQ", block, at)
            (root,) = struct.unpack_from("<Q", block, at + 40)
            extension = UNDEFINED
        elif version <= 3:
            widths = head[9:11]
            start, extension, end, root = struct.unpack_from("<QQQQ", self.summed(0, 48), 12)
            # somebody writes the file, or died while writing it
            driver = 0 if version == 3 and head[11] & 5 else UNDEFINED
        else:
            raise UnknownFormatError(f"a superblock of version {version}")
        if widths != b"\x08\x08" or start != base or driver != UNDEFINED or end > self.size:
            raise UnknownFormatError("addresses that are no offsets, or a file that is cut or open")
        if extension != UNDEFINED:
            kinds = {message.kind for message in self.messages(extension)}
            if kinds & {_DRIVER, _SHARED_MESSAGES}:
                raise UnknownFormatError("a file of several parts, or with shared messages")
        return int(root)

    def messages(self, address: int) -> Iterator[Message]:
        """List the messages of an object's header: type, flags and content."""
        first = self.read(address, 16)
        blocks: list[bytes] = []
        if first[:4] == b"OHDR":
            flags = first[5]
            at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(self.read(address + at, width), "little")
            whole = self.summed(address, at + width + size + 4)
            if first[4] != 2:
                raise UnknownFormatError("an object header of another version")
            blocks.append(whole[at + width : -4])
            head = 6 if flags & 4 else 4
        elif first[0] == 1:
            blocks.append(self.read(address + 16, int.from_bytes(first[8:12], "little")))
            head = 8
        else:
            raise UnknownFormatError("no object header")
        seen = 0
        while blocks:
            seen += 1
            if seen > _MANY:
                raise UnknownFormatError("an object header without an end")
            block, at = blocks.pop(0), 0
            while at + head <= len(block):
                if head == 8:
                    kind, size, flags = struct.unpack_from("<HHB", block, at)
                else:
                    kind, size, flags = struct.unpack_from("<BHB", block, at)
                data = block[at + head : at + head + size]
                if len(data) < size:
                    raise UnknownFormatError("a message that is cut off")
                at += head + size
                if kind == _CONTINUATION:
                    start, length = struct.unpack_from("<QQ", data)
                    if head == 8:
                        blocks.append(self.read(start, length))
                    else:
                        blocks.append(self.summed(start, length, b"OCHK")[4:-4])
                else:
                    yield Message(kind, flags, data)

    def links(self, address: int) -> dict[str, int]:
        """Read a group's hard links: the addresses of its members by their names."""
        out: dict[str, int] = {}
        for kind, flags, data in self.messages(address):
            if kind in (_LINK, _LINK_INFO, _SYMBOL_TABLE) and flags & SHARED:
                raise UnknownFormatError("a shared link")
            if kind == _SYMBOL_TABLE:
                tree, heap = struct.unpack_from("<QQ", data)
                out.update(self._symbols(tree, heap))
            elif kind == _LINK:
                out.update(_link(data))
            elif kind == _LINK_INFO:
                at = 10 if data[1] & 1 else 2
                heap, tree = struct.unpack_from("<QQ", data, at)
                if heap != UNDEFINED:
                    held = FractalHeap(self, heap)
                    for record in V2Tree(self, tree, kinds=(5,)).records():
                        out.update(_link(held.get(record[4:])))
        return out

    def _symbols(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """List the members of a group of the old kind: a tree, its nodes, and a heap of names."""
        header = self.signed(heap, 32, b"HEAP")
        size, _, start = struct.unpack_from("<QQQ", header, 8)
        names = self.read(start, size)
        for node in self._symbol_nodes(tree, depth=0):
            count = int.from_bytes(self.signed(node, 8, b"SNOD")[6:8], "little")
            entries = self.read(node + 8, 40 * count)
            for k in range(count):
                name_at, address, cached = struct.unpack_from("<QQI", entries, 40 * k)
                if cached != 2:
                    name = names[name_at : names.index(b"\0", name_at)]
                    yield name.decode(), address

    def _symbol_nodes(self, address: int, depth: int) -> Iterator[int]:
        head = self.signed(address, 24, b"TREE")
        kind, level, count = struct.unpack_from("<BBH", head, 4)
        if kind != 0 or depth > _DEEP:
            raise UnknownFormatError("a tree that is no group's")
        body = self.read(address + 24, 16 * count + 8)
        for k in range(count):
            (child,) = struct.unpack_from("<Q", body, 16 * k + 8)
            if level:
                yield from self._symbol_nodes(child, depth + 1)
            else:
                yield child


def _link(data: bytes) -> dict[str, int]:
    """Read one link; links that are not hard have no address here."""
    version, flags = data[0], data[1]
    at = 2
    kind = 0
    if flags & 8:
        kind, at = data[at], at + 1
    at += 8 if flags & 4 else 0
    at += 1 if flags & 16 else 0
    width = 1 << (flags & 3)
    size = int.from_bytes(data[at : at + width], "little")
    at += width
    name = data[at : at + size].decode()
    if version != 1 or kind != 0:
        return {}
    return {name: struct.unpack_from("<Q", data, at + size)[0]}


class FractalHeap:
    """The heap in which a group of many members keeps its links, and an object its attributes."""

    def __init__(self, file: Hdf5File, address: int):
        self._file = file
        head = file.summed(address, 146, b"FRHP")
        _, _, filters, _, largest = struct.unpack_from("<BHHBI", head, 4)
        if filters:
            raise UnknownFormatError("a heap with filters")
        (self.width,) = struct.unpack_from("<H", head, 110)
        self.start, self.direct, self.bits = struct.unpack_from("<QQH", head, 112)
        self.root, self.rows = struct.unpack_from("<QH", head, 132)
        self.offset_size = -(-self.bits // 8)
        self.length_size = min(-(-(self.direct.bit_length() - 1) // 8), _bytes_for(largest))
        self.direct_rows = self.direct.bit_length() - self.start.bit_length() + 2

    def get(self, heap_id: bytes) -> bytes:
        """Return one of the objects."""
        if heap_id[0] & 0xF0:
            raise UnknownFormatError("a link that is not in its heap's blocks")
        offset = int.from_bytes(heap_id[1 : 1 + self.offset_size], "little")
        rest = heap_id[1 + self.offset_size :][: self.length_size]
        return self._find(offset, int.from_bytes(rest, "little"), self.root, self.rows, 0)

    def _find(self, offset: int, length: int, block: int, rows: int, begin: int) -> bytes:
        if not rows:
            self._file.signed(block, 4, b"FHDB")
            return self._file.read(block + offset - begin, length)
        direct = min(rows, self.direct_rows)
        count = self.width * rows
        prefix = 13 + self.offset_size
        body = self._file.summed(block, prefix + 8 * count + 4, b"FHIB")
        for row in range(rows):
            size = self.start << max(0, row - 1)
            if offset < begin + self.width * size:
                nth = (offset - begin) // size
                (child,) = struct.unpack_from("<Q", body, prefix + 8 * (row * self.width + nth))
                below = 0
                if row >= direct:
                    below = size.bit_length() - (self.start * self.width).bit_length() + 1
                return self._find(offset, length, child, below, begin + nth * size)
            begin += self.width * size
        raise UnknownFormatError("a link beyond its heap")


class V2Tree:
    """A B-tree of the second version: its records, in order."""

    def __init__(self, file: Hdf5File, address: int, kinds: tuple[int, ...]):
        head = file.summed(address, 38, b"BTHD")
        version, self.kind, self.node, self.record, self.depth = struct.unpack_from(
            "<BBIHH", head, 4
        )
        self.root, self.count, self.total = struct.unpack_from("<QHQ", head, 16)
        if version or self.kind not in kinds or self.depth > _DEEP or not self.record:
            raise UnknownFormatError("a tree of another kind")
        self._file = file
        # how many records a node and all below it may have decides how wide its counts are
        most = (self.node - 10) // self.record
        self._width, self._below = _bytes_for(most), [0]
        for _ in range(self.depth):
            pointer = 8 + self._width + self._below[-1]
            here = (self.node - 10 - pointer) // (self.record + pointer)
            most = (here + 1) * most + here
            self._below.append(_bytes_for(most))

    def records(self) -> Iterator[bytes]:
        """List the records."""
        found = 0
        if self.root != UNDEFINED:
            for record in self._node(self.root, self.count, self.depth):
                found += 1
                yield record
        if found != self.total:
            raise UnknownFormatError("a tree with another number of records")

    def _node(self, address: int, count: int, depth: int) -> Iterator[bytes]:
        width = self._width + self._below[depth - 1] if depth else 0
        size = 6 + count * self.record + ((count + 1) * (8 + width) if depth else 0) + 4
        body = self._file.summed(address, size, b"BTIN" if depth else b"BTLF")
        at = 6 + count * self.record
        for k in range(count + 1):
            if depth:
                child = body[at + k * (8 + width) :][: 8 + width]
                below = int.from_bytes(child[8 : 8 + self._width], "little")
                yield from self._node(int.from_bytes(child[:8], "little"), below, depth - 1)
            if k < count:
                yield body[6 + k * self.record : 6 + (k + 1) * self.record]


def _bytes_for(number: int) -> int:
    """Return how many bytes a count up to a number takes."""
    return (max(1, number).bit_length() - 1) // 8 + 1
