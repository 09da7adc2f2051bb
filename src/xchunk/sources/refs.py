"""Where a stored array is, in a form that travels to a worker: handles do not."""

from __future__ import annotations

import functools
import itertools
import pickle
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.core.grid import Axis
from xchunk.core.plan.window import Extension
from xchunk.core.redact import without_credentials, without_secrets

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from xchunk.sources.remote_file import RemoteFile


@dataclass(frozen=True)
class StoredInfo:
    """What a store says of one array."""

    shape: tuple[int, ...]
    """Elements along each axis."""
    dtype: np.dtype[Any]
    """The dtype of the stored values."""
    chunks: tuple[int | tuple[int, ...], ...] | None
    """Elements of a chunk along each axis; None: not chunked."""
    shards: tuple[int, ...] | None
    """Elements of a shard along each axis; None: no shards."""
    codecs: tuple[str, ...]
    """Names of the codecs, in the order of encoding."""
    format: str
    """``zarr2``, ``zarr3``, ``netcdf4``, ``netcdf3``, or that of another reader."""
    fill_value: Any
    """What a missing chunk reads as."""
    attrs: Mapping[str, Any]
    """The attributes as stored, those that steer decoding included."""
    encoding: Mapping[str, Any]
    """What keeps the codecs when the array is written to zarr of the same format."""
    regular: bool = True
    """Whether all chunks (shards, where there are) have one length along each axis."""
    chunk_keys: Mapping[str, Any] | None = None
    """How zarr names the chunks: ``{"name": "v2", "separator": "/"}``; None: no zarr."""
    by_chunk: bool = False
    """Whether a read holds one chunk at a time, also of a shard."""
    arrays: int = 1
    """Stored arrays that it is joined from."""
    serial: bool = False
    """Whether a lock lets one thread of a process decode at a time, although ``by_chunk``."""
    note: str = ""
    """What xarray decodes differently in a copy than the reader does, in words; empty: nothing."""
    read_copies: float | None = None
    """What a read holds for each byte of a chunk; None: as its codecs tell."""


class StoredArray(Protocol):
    """A stored array that can be read raw: no unpacking, masking or decoding."""

    @property
    def info(self) -> StoredInfo:
        """What the store says of it."""
        ...

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a region, into ``out`` where that saves memory; return what was read."""
        ...


@dataclass(frozen=True)
class ZarrRef:
    """An array in a zarr store."""

    store: Store
    """The store; zarr's stores pickle, but for those in memory."""
    path: str
    """Path of the array within the store, without a leading slash."""
    zarr_format: int
    """2 or 3."""
    unlocked: bool = field(default=False, compare=False)
    """Whether the variable that was traced reads it chunk by chunk, in the thread that asks."""

    def __repr__(self) -> str:
        # dask's logs show what tasks are given
        return f"ZarrRef({without_credentials(str(self.store))}, {self.path!r}, {self.zarr_format})"


@dataclass(frozen=True)
class FileRef:
    """A variable in a file that one of xarray's backends reads."""

    filename: str
    """Path or URL, as the backend was given it."""
    engine: str
    """xarray's name of the backend: ``netcdf4``, ``h5netcdf``, ``scipy`` or a reader's."""
    group: str | None
    """Group within the file; None: the root."""
    variable: str
    """Name of the variable in the file, which may differ from the name in the Dataset."""
    handle: Any = field(default=None, compare=False)
    """xarray's own store of the open file, which is read through: netCDF's library can end the
    process when a file is opened a second time. None: the file is opened by its name."""
    remote: RemoteFile | None = None
    """Where it is on a file system of fsspec's, which reads it by ranges; None: by its name."""
    how: Any = None
    """What a reader of another package needs besides (`xchunk.sources.readers`), with a ``token``
    that tells it from others of the file; None: the name is enough."""

    unlocked: bool = field(default=False, compare=False)
    """Whether the variable that was traced reads it without the library, and its lock."""

    @property
    def is_far(self) -> bool:
        """Whether each request for its bytes takes a while."""
        return self.remote is not None and not self.remote.is_near

    def __reduce__(self) -> tuple[Any, ...]:
        # a far file's handle would open it anew in each process, for what need not be asked
        handle = self.handle if self.remote is None else None
        named = (self.filename, self.engine, self.group, self.variable)
        return FileRef, (*named, handle, self.remote, self.how, self.unlocked)

    def __repr__(self) -> str:
        place = without_secrets(self.filename)
        return f"FileRef({place!r}, {self.engine!r}, {self.group!r}, {self.variable!r})"


#: One array that is stored, as it is.
OneRef: TypeAlias = ZarrRef | FileRef


@dataclass(frozen=True)
class JoinedRef:
    """Boxes of many stored arrays side by side, in a grid: an archive of files as one array.

    It travels compressed, and a process that gets it more than once keeps one.
    """

    parts: tuple[OneRef, ...]
    """The stored array of each cell of the grid, the last dim varying fastest."""
    lengths: tuple[tuple[int, ...], ...]
    """Elements of the cells along each dim."""
    origins: tuple[tuple[int, ...], ...]
    """First element of the box that each stored array gives, along each of its own dims."""
    stamps: tuple[int, ...]
    """What tells each stored array from one that took its place; see `xchunk.sources.joint`."""
    new: tuple[int, ...] = ()
    """Dims that joining has made, which the stored arrays lack."""

    def __repr__(self) -> str:
        # dask's logs show what tasks are given
        return f"JoinedRef({len(self.parts)} arrays, {self.parts[0]!r}, …)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self._packed,)

    @functools.cached_property
    def _packed(self) -> bytes:
        parts: Any = self.parts
        if all(type(part) is FileRef for part in parts):
            # names are much alike: column by column they take a tenth
            columns = (
                (p.filename, p.engine, p.group, p.variable, None, p.remote, p.how) for p in parts
            )
            parts = tuple(zip(*columns, strict=True))
        rest = (self.lengths, self.origins, self.stamps, self.new)
        return zlib.compress(pickle.dumps((parts, *rest), protocol=5))

    @functools.cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The dims, cut where one stored array ends and the next begins."""
        return tuple(Axis.of(sum(n), n) for n in self.lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dim."""
        return tuple(axis.size for axis in self.axes)

    def number(self, index: Sequence[int]) -> int:
        """Return the number of a cell among the parts."""
        number = 0
        for i, n in zip(index, self.lengths, strict=True):
            number = number * len(n) + i
        return number


@functools.lru_cache(maxsize=64)
def _unpacked(packed: bytes) -> JoinedRef:
    parts, *rest = pickle.loads(zlib.decompress(packed))  # noqa: S301 - part of a pickle
    if type(parts[0]) is tuple:
        parts = tuple(itertools.starmap(FileRef, zip(*parts, strict=True)))
    return JoinedRef(parts, *rest)


def ones_of(ref: StoredRef | None) -> tuple[OneRef, ...]:
    """Return the stored arrays whose values are read through a reference."""
    if isinstance(ref, SplicedRef):
        return ones_of(ref.new)
    if isinstance(ref, JoinedRef):
        return ref.parts
    return () if ref is None else (ref,)


@dataclass(frozen=True)
class SplicedRef:
    """New data in an existing array, with the old values that are written with them."""

    extension: Extension
    """Where the new data go."""
    old: ZarrRef
    """The existing array."""
    new: OneRef | JoinedRef
    """What the new data are read from."""
    origin: tuple[int, ...]
    """First element of the new data along each axis of what they are read from."""
    at_once: int
    """Bytes that are asked at once of a reader that does not fill buffers."""


StoredRef: TypeAlias = OneRef | JoinedRef | SplicedRef


@dataclass(frozen=True)
class AxisPart:
    """Which elements of a stored axis one axis of a variable shows."""

    stored_axis: int
    """Number of the stored axis."""
    start: int
    """First element."""
    step: int
    """Distance between elements; may be negative."""
    count: int
    """Number of elements."""


@dataclass(frozen=True)
class Traced:
    """A variable that was followed down to a stored array through known wrappers only.

    The variable's values are those of the stored array at ``axes``, passed through
    ``decoders``; nothing else happened to them. The decoders are those that the values
    pass in fact, which the variable's encoding need not name: copy raw values only where the
    target, once opened, has an equal ``decoding``.
    """

    ref: OneRef | JoinedRef
    """The stored array, or the arrays that are joined."""
    stored_shape: tuple[int, ...]
    """Elements of the stored array along each of its axes."""
    axes: tuple[AxisPart, ...]
    """One part for each axis of the variable, in its order."""
    fixed: tuple[tuple[int, int], ...] = ()
    """(stored axis, element) for axes that were indexed away by an integer."""
    decoders: tuple[str, ...] = ()
    """Names of the decoding steps, innermost first; none: the values are as stored."""
    stored_dtype: Any = None
    """dtype of the stored array, so that who opens it can tell whether it is the same."""
    decoding: tuple[str, ...] = ()
    """Each decoding step with its parameters, innermost first; equal texts decode equally."""

    @property
    def is_box(self) -> bool:
        """Whether it shows a contiguous box of the stored array, with axes in stored order."""
        in_order = all(p.stored_axis == i and p.step == 1 for i, p in enumerate(self.axes))
        return not self.fixed and in_order and len(self.axes) == len(self.stored_shape)
