"""Arrays in netCDF files, read where their bytes are: without a library, and its lock.

Chunks are read with plain system calls and decoded in the thread that asks, straight into their
place in the box. Threads and processes do not wait for each other, no file stays open, and a read
holds one stored and one decoded chunk at a time.

Files of an archive say the same, but for lengths and places. A digest of all that is said tells
whether they do, so that one of them is opened by the library, and the others are compared with it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.errors import SourceError
from xchunk.sources.hdf5_codecs import DamagedChunkError, Pipeline, filter_names
from xchunk.sources.hdf5_file import (
    SHARED,
    UNDEFINED,
    FractalHeap,
    Hdf5File,
    UnknownFormatError,
    V2Tree,
)
from xchunk.sources.hdf5_index import (
    NOT_COORDINATE,
    Hdf5Dataset,
    read_dataset,
    read_shape,
    read_storage,
)
from xchunk.sources.netcdf3 import read_variable
from xchunk.sources.remote_file import RangeReader, RemoteFile
from xchunk.stores.chunk_files import parts_of

#: Bytes that are read at once from an array without chunks, of which only some are wanted.
_SPAN = 1024**2
#: Bytes between two runs that are rather read than passed over.
_GAP = 16 * 1024
#: Bytes of a file that is far that are read at once: a request takes as long as some of them.
_FAR_SPAN = 4 * 1024**2
#: Bytes of the tables of chunks that are kept, and files.
_KEPT_BYTES, _KEPT = 32_000_000, 2_000
#: How much larger than its values a stored chunk may be; no compressor comes near it.
_ROOMY = 1.1

#: What changes when a file is replaced: its device and number, its size, and when it was written.
Identity: TypeAlias = tuple[int, int, int, int]
#: The part of it that is the same on all machines that share the file.
Stamp: TypeAlias = tuple[int, int]
#: A descriptor, or the ranges of a file that is far.
_Opened: TypeAlias = "int | RangeReader"


@dataclass(frozen=True, eq=False)
class DirectArray:
    """An array in a local file whose stored bytes are known."""

    filename: str
    """Path of the file."""
    name: str
    """The variable within it, for messages."""
    identity: Identity
    """What the file was when it was looked at."""
    dataset: Hdf5Dataset
    """How the array is stored."""
    pipeline: Pipeline | None
    """How its chunks are decoded; None: it has none."""
    strides: tuple[int, ...]
    """Bytes from element to element along each axis, where it has no chunks."""
    remote: RemoteFile | None = None
    """The file, where it is read by ranges; None: it is local."""
    shown: tuple[int, ...] | None = None
    """Elements along each axis that are shown, where they are more than are stored."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return self.shown or self.dataset.shape

    def shown_as(self, shape: tuple[int, ...]) -> DirectArray | None:
        """Return it as long as netCDF-4 shows it; None where only the library knows what is there.

        An array is as long as the longest that shares an unlimited dim, and filled up. Where it has
        two such dims, netCDF's library (4.9 and 4.10) leaves memory there as it was.
        """
        stored, fill = self.dataset.shape, self.dataset.fill
        if shape == stored:
            return self
        longer = len(shape) == len(stored) and all(
            n >= m for n, m in zip(shape, stored, strict=True)
        )
        if not longer or self.dataset.table is None or not fill:
            return None
        # without a value of its own, the library fills one such dim with another than HDF5
        if not any(fill) and self.dataset.unlimited < 2:
            return None
        return replace(self, shown=shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of what is read: the stored one, in the machine's byte order."""
        return self.dataset.dtype.newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Elements of a chunk along each axis; None: not chunked."""
        return self.dataset.chunks

    @property
    def table_nbytes(self) -> int:
        """Bytes of the table of its chunks."""
        return 0 if self.dataset.table is None else self.dataset.table.nbytes

    @property
    def is_readable(self) -> bool:
        """Whether all its filters are known here."""
        return self.pipeline is not None or not self.dataset.filters

    @property
    def codecs(self) -> tuple[str, ...]:
        """Names of the filters, in the order of encoding."""
        return filter_names(self.dataset.filters)

    @property
    def stamp(self) -> Stamp:
        """What the file was when it was looked at, on whatever machine."""
        return self.identity[2:]

    def holds(self, region: Sequence[slice]) -> bool:
        """Whether a region ends where the array does or before."""
        return all(r.stop <= n for r, n in zip(region, self.shape, strict=True))

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a region, into ``out`` where it is of the array's dtype; return what was read.

        - raises `SourceError` if the file is not what it was, or a chunk is damaged.
        """
        if out is None or out.dtype != self.dtype:
            out = np.empty([r.stop - r.start for r in region], dtype=self.dtype)
        if not out.size:
            return out
        if self.dataset.raw is not None:
            held = np.frombuffer(self.dataset.raw, self.dataset.dtype).reshape(self.shape)
            out[...] = held[tuple(region)]
            return out
        try:
            with self._opened() as fd:
                if self.chunks is not None:
                    self._read_chunks(fd, *self._stored_part(region, out))
                elif self.dataset.offset is None:
                    out[...] = self._fill
                else:
                    self._read_strided(fd, self.dataset.offset, self.strides, region, out)
        except DamagedChunkError as error:
            raise SourceError(
                f"{self._where} is damaged: {error}. What it should hold cannot be read; "
                "restore the file."
            ) from error
        return out

    def _stored_part(
        self, region: Sequence[slice], out: NDArray[Any]
    ) -> tuple[Sequence[slice], NDArray[Any]]:
        """Fill up what a region shows and is not stored; return the rest of it."""
        stored = self.dataset.shape
        if all(r.stop <= n for r, n in zip(region, stored, strict=True)):
            return region, out
        out[...] = self._fill
        part = [slice(min(r.start, n), min(r.stop, n)) for r, n in zip(region, stored, strict=True)]
        return part, out[tuple(slice(r.stop - r.start) for r in part)]

    @property
    def _fill(self) -> Any:
        return np.frombuffer(self.dataset.fill or b"", self.dataset.dtype)[0]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_Opened]:
        if self.remote is not None:
            yield RangeReader(self.remote, self.stamp)
            if self.remote.identity() != self.stamp:
                raise changed(self.filename, self.name)
            return
        try:
            fd = os.open(self.filename, os.O_RDONLY)
        except OSError as error:
            raise SourceError(f"{self._where} cannot be read: {error}") from error
        try:
            self._refuse_another(fd)
            try:
                yield fd
            finally:
                # what was read while somebody wrote the file may be old or new, or look damaged
                self._refuse_another(fd)
        finally:
            os.close(fd)

    def _refuse_another(self, fd: int) -> None:
        if identity_of(os.fstat(fd)) != self.identity:
            raise changed(self.filename, self.name)

    @property
    def _where(self) -> str:
        return f"{self.name!r} in {self.filename!r}"

    def _read_chunks(self, fd: _Opened, region: Sequence[slice], out: NDArray[Any]) -> None:
        chunks, table = self.dataset.chunks, self.dataset.table
        if chunks is None or table is None:
            raise SourceError(f"{self._where} has no table of chunks")
        if not out.size:
            return
        numbers = np.zeros((), np.int64)
        for r, n, c in zip(region, self.dataset.shape, chunks, strict=True):
            touched = np.arange(r.start // c, -(-r.stop // c))
            numbers = numbers[..., None] * -(-n // c) + touched
        rows = table.find(numbers.reshape(-1))
        # one piece of memory for all of them: the heap would not have the same place for each
        longest = int(np.max(table.sizes[rows[rows >= 0]], initial=0)) if self.pipeline else 0
        if self.pipeline and longest > _ROOMY * self.pipeline.nbytes + _SPAN:
            raise DamagedChunkError(f"a chunk of {longest} stored bytes, which none can have")
        room = np.empty(longest, np.uint8)
        if isinstance(fd, RangeReader):
            # of a chunk without filters a part is read by itself
            fd.expect(
                [
                    (int(table.offsets[row]), int(table.sizes[row]))
                    for parts, row in zip(parts_of(region, chunks), rows.tolist(), strict=True)
                    if row >= 0 and (self.pipeline is not None or _is_whole(parts, chunks))
                ]
            )
        for parts, row in zip(parts_of(region, chunks), rows.tolist(), strict=True):
            values = out[tuple(p.here for p in parts)]
            if row < 0:
                values[...] = self._fill
                continue
            mask = 0 if table.masks is None else int(table.masks[row])
            at, size = int(table.offsets[row]), int(table.sizes[row])
            there = [p.there for p in parts]
            try:
                if self.pipeline is None or self.pipeline.is_skipped(mask):
                    self._read_plain(fd, at, size, there, values)
                else:
                    _fill_up(fd, at, room[:size])
                    self._place(*self.pipeline.decode(room[:size].data, mask), there, values)
            except DamagedChunkError as error:
                which = ", ".join(str(p.at) for p in parts)
                raise DamagedChunkError(
                    f"chunk ({which}), {size} bytes at byte {at} of the file: {error}"
                ) from error

    def _read_plain(
        self, fd: _Opened, at: int, size: int, there: Sequence[slice], values: NDArray[Any]
    ) -> None:
        """Read from a chunk to which no filter was applied."""
        chunks = self.chunks or ()
        if size != math.prod(chunks) * self.dtype.itemsize:
            raise DamagedChunkError("it is of another size")
        strides = _c_strides(chunks, self.dtype.itemsize)
        self._read_strided(fd, at, strides, there, values)

    def _place(
        self, data: Any, shuffled: bool, there: Sequence[slice], values: NDArray[Any]
    ) -> None:
        """Put what is wanted of a decoded chunk into its place in the box."""
        chunks, width = self.chunks or (), self.dtype.itemsize
        if not shuffled:
            values[...] = np.frombuffer(data, self.dataset.dtype).reshape(chunks)[tuple(there)]
            return
        # a shuffled chunk holds all first bytes, then all second bytes, and so on
        planes = np.frombuffer(data, np.uint8).reshape(width, *chunks)
        target = values[..., None].view(np.uint8)
        for k in range(width):
            plane = planes[k if self.dataset.dtype.isnative else width - 1 - k]
            target[..., k] = plane[tuple(there)]

    def _read_strided(
        self,
        fd: _Opened,
        offset: int,
        strides: tuple[int, ...],
        region: Sequence[slice],
        out: NDArray[Any],
    ) -> None:
        """Read a region of values that lie at even distances from each other."""
        start = offset + sum(r.start * s for r, s in zip(region, strides, strict=True))
        counts = out.shape
        if isinstance(fd, RangeReader):
            self._read_span(fd, start, strides, out)
            return
        # the last axes of which the region takes one run of bytes
        first, run = out.ndim, self.dtype.itemsize
        while first and (strides[first - 1] == run or counts[first - 1] == 1):
            first -= 1
            run *= counts[first]
        rows, step = 1, run
        if first and strides[first - 1] - run <= _GAP and strides[first - 1] >= run:
            # of rows that lie close to each other the bytes between are read as well
            first -= 1
            step = strides[first]
            rows = min(counts[first], max(1, _SPAN // step))
        span = np.empty(rows * step if step != run else 0, np.uint8)
        for place in itertools.product(*(range(n) for n in counts[:first])):
            key: tuple[Any, ...] = (*place, ...)
            values = out[key]
            at = start + sum(i * s for i, s in zip(place, strides, strict=False))
            if step == run:
                self._read_run(fd, at, values)
                continue
            for k in range(0, counts[first], rows):
                some = values[k : k + rows]
                data = span[: (len(some) - 1) * step + run]
                _fill_up(fd, at + k * step, data)
                some[...] = np.ndarray(
                    some.shape,
                    self.dataset.dtype,
                    data.data,
                    strides=(step, *_c_strides(some.shape[1:], self.dtype.itemsize)),
                )

    def _read_span(
        self, fd: RangeReader, start: int, strides: tuple[int, ...], out: NDArray[Any]
    ) -> None:
        """Read values of a far file with what lies between them, half by half if that is much."""
        span = self.dtype.itemsize + sum(
            (n - 1) * s for n, s in zip(out.shape, strides, strict=True)
        )
        axis = next((d for d, n in enumerate(out.shape) if n > 1), None)
        if span <= _FAR_SPAN or axis is None:
            data = np.empty(span, np.uint8)
            _fill_up(fd, start, data)
            out[...] = np.ndarray(out.shape, self.dataset.dtype, data.data, strides=strides)
            return
        before: tuple[Any, ...] = (slice(None),) * axis
        half = out.shape[axis] // 2
        self._read_span(fd, start, strides, out[(*before, slice(None, half))])
        middle = start + half * strides[axis]
        self._read_span(fd, middle, strides, out[(*before, slice(half, None))])

    def _read_run(self, fd: _Opened, at: int, values: NDArray[Any]) -> None:
        """Read values that lie one after the other."""
        stored = self.dataset.dtype
        if values.flags.c_contiguous and values.ndim:
            _fill_up(fd, at, values.reshape(-1).view(np.uint8))
            if not stored.isnative:
                values.byteswap(inplace=True)
            return
        raw = np.empty(values.shape, stored)
        _fill_up(fd, at, raw.reshape(-1).view(np.uint8))
        values[...] = raw


def _is_whole(parts: Sequence[Any], chunks: Sequence[int]) -> bool:
    return all(p.there == slice(0, c) for p, c in zip(parts, chunks, strict=True))


def _c_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    out = [itemsize]
    for n in reversed(shape[1:]):
        out.append(out[-1] * n)
    return tuple(reversed(out)) if shape else ()


def _fill_up(fd: _Opened, at: int, memory: NDArray[np.uint8]) -> None:
    """Fill memory with the bytes of a file from some place on; one call may read less."""
    if isinstance(fd, RangeReader):
        if at + len(memory) > fd.size:
            raise DamagedChunkError("the file is cut off")
        fd.fill(at, memory)
        return
    got = 0
    while got < len(memory):
        rest = memory[got:]
        if hasattr(os, "preadv"):
            n = os.preadv(fd, [rest.data], at + got)
        else:  # macOS before 11
            data = os.pread(fd, len(rest), at + got)
            n = len(data)
            rest[:n] = np.frombuffer(data, np.uint8)
        if not n:
            raise DamagedChunkError("the file is cut off")
        got += n


def identity_of(stat: os.stat_result) -> Identity:
    """What tells a file from one that took its place, or was written since."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def stamp_of(filename: str) -> Stamp | None:
    """Return what tells a local file from what it is later; None where there is none."""
    try:
        return identity_of(os.stat(filename))[2:]  # noqa: PTH116 - what is named may be no path
    except (OSError, ValueError):
        return None


def changed(filename: str, name: str) -> SourceError:
    """Return the error that a file is not what it was when it was opened."""
    return SourceError(
        f"{filename!r} was written or replaced since it was opened, so that {name!r} cannot be "
        "read from it any more. Open it again, and run again when nothing writes it."
    )


def open_hdf5(
    filename: str, group: str | None, variable: str, address: int | None = None
) -> DirectArray | None:
    """Look up a variable of a local netCDF-4 or HDF5 file, whose header's place may be known.

    - returns: None where it is not of a plain kind, so that the library has to read it; its
      ``is_readable`` tells whether its filters are known.
    """
    reader = functools.partial(_hdf5_dataset, address=address)
    return _looked_up(filename, group, {variable: reader})[variable]


def open_headers(
    filename: str, group: str | None, addresses: Mapping[str, int]
) -> dict[str, DirectArray | None]:
    """Look up variables of one file, as `open_hdf5`, whose headers' places are known."""
    opened = functools.cache(Hdf5File)
    readers: dict[str, Callable[..., _Found]] = {
        name: functools.partial(_hdf5_dataset, address=at, opened=opened)
        for name, at in addresses.items()
    }
    return _looked_up(filename, group, readers)


def open_direct(
    filename: str, group: str | None, variable: str, remote: RemoteFile | None = None
) -> DirectArray | None:
    """Look up a variable of a file of either format; of HDF5, where it is far."""
    if remote is not None:
        return _looked_up_far(remote, group, variable)
    return _looked_up(filename, group, {variable: _any_dataset})[variable]


_Found: TypeAlias = "tuple[Hdf5Dataset, tuple[int, ...]]"


def _hdf5_dataset(
    fd: _Opened,
    group: str | None,
    variable: str,
    address: int | None = None,
    opened: Callable[[_Opened], Hdf5File] = Hdf5File,
) -> _Found:
    dataset = read_dataset(fd, group, variable, address, opened=opened)
    return dataset, _c_strides(dataset.shape, dataset.dtype.itemsize)


def _netcdf3_dataset(fd: int, group: str | None, variable: str) -> _Found:
    with open(fd, "rb", closefd=False) as file:
        found = None if (group or "").strip("/") else read_variable(file, variable)
    if found is None:
        raise UnknownFormatError("no plain variable of netCDF-3")
    return Hdf5Dataset(found.shape, found.dtype, None, offset=found.offset), found.strides


def _any_dataset(fd: int, group: str | None, variable: str) -> _Found:
    is_netcdf3 = os.pread(fd, 3, 0) == b"CDF"
    return (_netcdf3_dataset if is_netcdf3 else _hdf5_dataset)(fd, group, variable)


class _Kept:
    """Arrays that were looked up last, as many as their tables have room for."""

    def __init__(self) -> None:
        self._arrays: OrderedDict[tuple[Any, ...], DirectArray] = OrderedDict()
        self._nbytes = 0

    def get(self, key: tuple[Any, ...]) -> DirectArray | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: tuple[Any, ...], found: DirectArray) -> None:
        before = self._arrays.pop(key, None)
        self._nbytes -= 0 if before is None else before.table_nbytes
        self._arrays[key] = found
        self._nbytes += found.table_nbytes
        while len(self._arrays) > 1 and (len(self._arrays) > _KEPT or self._nbytes > _KEPT_BYTES):
            self._nbytes -= self._arrays.popitem(last=False)[1].table_nbytes


_kept = _Kept()
_lock = threading.Lock()


def _looked_up(
    filename: str, group: str | None, readers: Mapping[str, Callable[..., _Found]]
) -> dict[str, DirectArray | None]:
    """Look up variables of one file, each by its reader; the file is opened once."""
    out: dict[str, DirectArray | None] = dict.fromkeys(readers)
    try:
        if not Path(filename).is_file():
            return out
        fd = os.open(filename, os.O_RDONLY)
    except (OSError, ValueError):
        # a URL, or what the library will say better
        return out
    try:
        identity = identity_of(os.fstat(fd))
        for variable, reader in readers.items():
            key = (filename, group, variable, identity)
            with _lock:
                known = _kept.get(key)
            with contextlib.suppress(UnknownFormatError):
                out[variable] = known or _made(key, None, reader(fd, group, variable))
        is_same = identity_of(os.fstat(fd)) == identity
    except OSError:
        is_same = False
    finally:
        os.close(fd)
    if not is_same:
        return dict.fromkeys(readers)
    with _lock:
        for variable, found in out.items():
            if found is not None:
                _kept.put((filename, group, variable, identity), found)
    return out


def _looked_up_far(remote: RemoteFile, group: str | None, variable: str) -> DirectArray | None:
    try:
        stamp = remote.known_identity()
        key = (remote, group, variable, (0, 0, *stamp))
        with _lock:
            known = _kept.get(key)
        if known is not None:
            return known
        found = _hdf5_dataset(RangeReader(remote, stamp), group, variable)
    except Exception:  # noqa: BLE001 - every file system has errors of its own: the library says it
        return None
    made = _made(key, remote, found)
    with _lock:
        _kept.put(key, made)
    return made


def _made(key: tuple[Any, ...], remote: RemoteFile | None, found: _Found) -> DirectArray:
    """Describe what was found."""
    filename, group, variable, identity = key
    dataset, strides = found
    name = f"{group}/{variable}".lstrip("/") if group else variable
    pipeline = Pipeline.of(dataset) if dataset.filters else None
    filename = filename if remote is None else remote.url
    return DirectArray(filename, name, identity, dataset, pipeline, strides, remote)


_DATASPACE, _DATATYPE, _OLD_FILL, _FILL, _LAYOUT, _FILTERS = 1, 3, 4, 5, 8, 11
_ATTRIBUTE, _ATTRIBUTES = 12, 21
#: Messages that change nothing: nothing, comments, times, reference counts, groups' own.
_HARMLESS = {0, 2, 6, 10, 13, 14, 17, 18, 22}
_TEXT, _REFERENCE, _VARYING = 3, 7, 9
#: Classes of values that are compared bit by bit: integers, floats, text, bit fields.
_PLAIN = {0, 1, _TEXT, 4}
#: What netCDF-4 calls a dimension that is no variable; its length follows.
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
#: Which variables have a dimension: it tells places in the file only.
_USERS = "REFERENCE_LIST"
#: What a structure that makes no sense ends in.
_UNREADABLE = (struct.error, LookupError, ValueError, OverflowError, RecursionError)
#: Files of which the headers are kept.
_KEPT_HEADERS = 4_000


@dataclass(frozen=True)
class Header:
    """What is said of one variable."""

    shape: tuple[int, ...]
    """Elements along each axis."""
    address: int
    """Where its header is in the file."""
    digest: bytes
    """Of everything else: dims, dtype, attributes, chunks, filters and fill value."""


@dataclass(frozen=True)
class Headers:
    """What is said in one group of a file."""

    identity: Identity
    """What the file was when it was read."""
    variables: Mapping[str, Header]
    """By name; dims without a variable are among them."""
    coordinates: bytes
    """The group's attribute of that name, which xarray decodes."""
    groups: tuple[str, ...]
    """Names of the groups within it."""


_kept_headers: OrderedDict[tuple[str, str], Headers] = OrderedDict()
_headers_lock = threading.Lock()


def read_headers(filename: str, group: str | None) -> Headers | None:
    """Read what a group of a local file says of its variables.

    - returns: None where the file is not of a plain kind, or not as netCDF-4 writes it.
    """
    key = (filename, (group or "").strip("/"))
    try:
        fd = os.open(filename, os.O_RDONLY)
    except (OSError, ValueError):
        return None
    try:
        identity = identity_of(os.fstat(fd))
        with _headers_lock:
            found = _kept_headers.get(key)
        if found is None or found.identity != identity:
            found = _Reader(Hdf5File(fd)).headers(group, identity)
            if identity_of(os.fstat(fd)) != identity:
                return None
    except (OSError, UnknownFormatError, *_UNREADABLE):
        return None
    finally:
        os.close(fd)
    with _headers_lock:
        _kept_headers[key] = found
        _kept_headers.move_to_end(key)
        while len(_kept_headers) > _KEPT_HEADERS:
            _kept_headers.popitem(last=False)
    return found


@dataclass(frozen=True, eq=False)
class _Reader:
    file: Hdf5File
    heaps: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """Objects of the heaps that were read, by the heap's address and their number."""

    def headers(self, group: str | None, identity: Identity) -> Headers:
        place = self.file.group(group)
        members = self.file.links(place)
        names = {address: name for name, address in members.items()}
        variables: dict[str, Header] = {}
        lengths: dict[str, int] = {}
        groups: list[str] = []
        for name, address in members.items():
            found = self._variable(name, address, names)
            if found is None:
                groups.append(name)
                continue
            header, dims = found
            for dim, n in zip(dims, header.shape, strict=True):
                # netCDF-4 shows all variables as long as the longest
                if lengths.setdefault(dim, n) != n:
                    raise UnknownFormatError("variables of several lengths along a dim")
            variables[name] = header
        hidden = [name for name in variables if name.startswith(NOT_COORDINATE)]
        for name in hidden:
            variables[name.removeprefix(NOT_COORDINATE)] = variables.pop(name)
        said = dict(self._attributes(place, names, only="coordinates"))
        return Headers(identity, variables, said.get("coordinates", b""), tuple(sorted(groups)))

    def _variable(
        self, name: str, address: int, names: Mapping[int, str]
    ) -> tuple[Header, tuple[str, ...]] | None:
        """Read a member of a group; None where it is a group."""
        told: dict[int, bytes] = {}
        attributes: dict[str, Any] = {}
        for kind, flags, data in self.file.messages(address):
            if kind in (_ATTRIBUTE, _ATTRIBUTES):
                attributes.update(self._said(kind, flags, data, names))
            elif kind in (_DATASPACE, _DATATYPE, _OLD_FILL, _FILL, _LAYOUT, _FILTERS):
                if flags & SHARED or kind in told:
                    raise UnknownFormatError("a shared or repeated message")
                told[kind] = data
            elif kind not in _HARMLESS:
                raise UnknownFormatError(f"a message of type {kind}")
        if _DATASPACE not in told:
            return None
        shape, most = read_shape(told[_DATASPACE])
        dims: tuple[str, ...] = attributes.get("DIMENSION_LIST", ())
        if not dims and b"DIMENSION_SCALE" in attributes.get("CLASS", b""):
            dims = (name,)
        if len(dims) != len(shape):
            raise UnknownFormatError("dims without names")
        (size,) = struct.unpack_from("<I", told[_DATATYPE], 4)
        facts: list[Any] = [
            told[_DATATYPE], told.get(_FILL), told.get(_OLD_FILL), told.get(_FILTERS),
            read_storage(told[_LAYOUT], size), tuple(n is None for n in most), dims,
            sorted(attributes.items()),
        ]  # fmt: skip
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()
        return Header(shape, address, digest), dims

    def _attributes(
        self, address: int, names: Mapping[int, str], only: str
    ) -> Iterator[tuple[str, Any]]:
        for kind, flags, data in self.file.messages(address):
            if kind in (_ATTRIBUTE, _ATTRIBUTES):
                yield from self._said(kind, flags, data, names, only)

    def _said(
        self, kind: int, flags: int, data: bytes, names: Mapping[int, str], only: str | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Read the attribute of a message, or all those that are kept elsewhere."""
        if flags & SHARED:
            raise UnknownFormatError("a shared attribute")
        if kind == _ATTRIBUTE:
            yield from self._attribute(data, names, only)
            return
        heap, tree = struct.unpack_from("<QQ", data, 4 if data[1] & 1 else 2)
        if heap == UNDEFINED:
            return
        held = FractalHeap(self.file, heap)
        for record in V2Tree(self.file, tree, kinds=(8,)).records():
            if record[8] & SHARED:
                raise UnknownFormatError("a shared attribute")
            yield from self._attribute(held.get(record[:8]), names, only)

    def _attribute(
        self, data: bytes, names: Mapping[int, str], only: str | None
    ) -> Iterator[tuple[str, Any]]:
        version, flags, *sizes = struct.unpack_from("<BBHHH", data)
        if version not in (1, 2, 3) or (flags and version > 1):
            raise UnknownFormatError("an attribute of another version, or of a shared type")
        at, parts = 9 if version == 3 else 8, []
        for size in sizes:
            parts.append(data[at : at + size])
            at += -(-size // 8) * 8 if version == 1 else size
        name = parts[0].rstrip(b"\0").decode()
        if name == _USERS or only not in (None, name):
            return
        kind, space = parts[1:]
        shape = () if space[0] == 2 and space[3] == 2 else read_shape(space)[0]
        count = 0 if space[0] == 2 and space[3] == 2 else math.prod(shape)
        (width,) = struct.unpack_from("<I", kind, 4)
        values = data[at : at + count * width]
        if len(values) != count * width:
            raise UnknownFormatError("an attribute that is cut off")
        if name == "DIMENSION_LIST":
            yield name, self._dims(kind, values, names)
            return
        if kind[0] & 15 == _VARYING:
            yield name, repr((kind, shape, list(self._varying(kind, values)))).encode()
            return
        if kind[0] & 15 not in _PLAIN:
            raise UnknownFormatError("an attribute of another type")
        is_length = name == "NAME" and values.startswith(_NO_VARIABLE)
        yield name, _NO_VARIABLE if is_length else repr((kind, shape, values)).encode()

    def _varying(self, kind: bytes, values: bytes) -> Iterator[bytes]:
        """Read values of any length: text, or sequences of plain ones."""
        base = kind[8:]
        is_text = kind[1] & 15 == 1
        if not is_text and base[0] & 15 not in (*_PLAIN, _REFERENCE):
            raise UnknownFormatError("an attribute of another type")
        width = 1 if is_text else struct.unpack_from("<I", base, 4)[0]
        for at in range(0, len(values), 16):
            length, address, number = struct.unpack_from("<IQI", values, at)
            held = self._heap(address)[number] if length else b""
            if len(held) < length * width:
                raise UnknownFormatError("an attribute that is cut off")
            yield held[: length * width]

    def _dims(self, kind: bytes, values: bytes, names: Mapping[int, str]) -> tuple[str, ...]:
        if kind[0] & 15 != _VARYING or kind[8] & 15 != _REFERENCE:
            raise UnknownFormatError("dims of another type")
        # a dim of several names is refused: it has several addresses
        return tuple(names[struct.unpack("<Q", one)[0]] for one in self._varying(kind, values))

    def _heap(self, address: int) -> dict[int, bytes]:
        if address not in self.heaps:
            size = int.from_bytes(self.file.signed(address, 16, b"GCOL")[8:], "little")
            block, at, held = self.file.read(address, size), 16, {}
            while at + 16 <= len(block):
                number, _, nbytes = struct.unpack_from("<HH4xQ", block, at)
                if not number:
                    break
                held[number] = block[at + 16 : at + 16 + nbytes]
                at += 16 + -(-nbytes // 8) * 8
            self.heaps[address] = held
        return self.heaps[address]
