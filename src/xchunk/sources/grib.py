"""GRIB files opened through cfgrib: each message is a chunk, found by its place in the file.

cfgrib decodes a message for each time that an index touches it. Here the place of each message
is taken from cfgrib's index, so that a box decodes those that it needs, each once, straight into
their places. Values, missing ones included, are made by cfgrib's and ecCodes' own functions.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.errors import SourceError
from xchunk.sources.hdf5_read import Stamp, changed, stamp_of
from xchunk.sources.refs import FileRef, StoredInfo
from xchunk.sources.slicing import Decoder, UntraceableError

#: xarray's name of the engine, and its class of lazy arrays.
ENGINE = "cfgrib"
ARRAY = ("cfgrib.xarray_plugin", "CfGribArrayWrapper")

#: What is held for each byte of a message's values: itself, ecCodes' float64, a packed copy.
_COPIES = 4.0


@dataclass(frozen=True)
class Messages:
    """Where the messages of a variable are in its file."""

    headers: tuple[int, ...]
    """Lengths of the dims along which messages lie."""
    grid: tuple[int, ...]
    """Lengths of the dims within a message."""
    places: bytes
    """First byte of each message and its number among those that share it, as pairs of int64 in
    C order of the headers; -1 where there is no message."""
    missing: float
    """What cfgrib takes for missing."""
    dtype: str
    """The dtype of the values."""
    stamp: Stamp | None
    """What the file was when it was looked at."""

    @property
    def token(self) -> str:
        """What tells these messages from others of the file."""
        said = f"{self.headers} {self.grid} {self.dtype} {zlib.crc32(self.places)}"
        return f"{zlib.crc32(said.encode()):08x}"

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """The places, with the headers' dims first."""
        return np.frombuffer(self.places, np.int64).reshape(*self.headers, 2)


def reference(array: Any) -> tuple[FileRef, np.dtype[Any], tuple[Decoder, ...]]:
    """Return where cfgrib's lazy array is stored, the dtype, and how it is decoded: not at all.

    - raises `UntraceableError` if it is not made from the messages of a file.
    """
    from cfgrib.dataset import OnDiskArray
    from cfgrib.messages import FileStream

    held = array.array
    stream: Any = getattr(getattr(held, "index", None), "fieldset", None)
    if type(held) is not OnDiskArray or type(stream) is not FileStream:
        raise UntraceableError("fields that are in no file")
    split = len(held.shape) - held.geo_ndim
    headers, grid = tuple(map(int, held.shape[:split])), tuple(map(int, held.shape[split:]))
    places = np.full((*headers, 2), -1, np.int64)
    for at, ids in held.field_id_index.items():
        # of several messages for one place cfgrib takes the first
        places[at] = ids[0] if isinstance(ids[0], tuple) else (ids[0], 0)
    name = next((n for n, v in array.datastore.ds.variables.items() if v.data is held), None)
    if name is None:
        raise UntraceableError("an array of no variable")
    filename = str(stream.path)
    how = Messages(
        headers,
        grid,
        places.tobytes(),
        float(held.missing_value),
        np.dtype(held.dtype).str,
        stamp_of(filename),
    )
    return FileRef(filename, ENGINE, None, str(name), how=how), np.dtype(held.dtype), ()


def open_array(ref: FileRef) -> _GribArray:
    """Open a variable by its messages."""
    if not isinstance(ref.how, Messages):
        raise SourceError(f"{ref.filename}: cfgrib's index of {ref.variable!r} is not known")
    return _GribArray(ref.filename, ref.variable, ref.how)


@dataclass(frozen=True, eq=False)
class _GribArray:
    """The messages of a variable as one stored array."""

    filename: str
    name: str
    messages: Messages

    @cached_property
    def info(self) -> StoredInfo:
        """What is known of it."""
        m = self.messages
        return StoredInfo(
            shape=(*m.headers, *m.grid),
            dtype=np.dtype(m.dtype),
            chunks=(*(1 for _ in m.headers), *m.grid),
            shards=None,
            codecs=self._packing(),
            format="grib",
            fill_value=None,
            attrs={},
            encoding={},
            by_chunk=True,
            serial=True,
            read_copies=_COPIES,
        )

    def _packing(self) -> tuple[str, ...]:
        """Name the packing of the first message."""
        import eccodes

        first = next((p for p in self.messages.table.reshape(-1, 2) if p[0] >= 0), None)
        if first is None:
            return ()
        message = self._message(first)
        try:
            return (str(eccodes.codes_get(message.codes_id, "packingType")),)
        except eccodes.CodesInternalError:
            return ("grid",)

    def _message(self, place: NDArray[np.int64]) -> Any:
        from cfgrib.messages import Message

        with open(self.filename, "rb") as file:  # noqa: PTH123 - as cfgrib names it
            offset, field = int(place[0]), int(place[1])
            return Message.from_file(file, offset=(offset, field) if field else offset)

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a box; each message that it touches is decoded once."""
        from cfgrib.dataset import get_values_in_order
        from cfgrib.xarray_plugin import ECCODES_LOCK

        m = self.messages
        if out is None or out.dtype != self.info.dtype:
            out = np.empty([r.stop - r.start for r in region], dtype=self.info.dtype)
        self._refuse_another()
        split = len(m.headers)
        inner = tuple(region[split:])
        for at in itertools.product(*(range(r.start, r.stop) for r in region[:split])):
            here = out[(*(i - r.start for i, r in zip(at, region, strict=False)), ...)]
            if m.table[at][0] < 0:
                here[...] = np.nan
                continue
            with ECCODES_LOCK:
                message = self._message(m.table[at])
                values = np.asarray(get_values_in_order(message, m.grid))
                del message
            if values.size != math.prod(m.grid):
                raise SourceError(
                    f"{self.name!r} in {self.filename!r}: the message at byte "
                    f"{m.table[at][0]} has {values.size} values, and {math.prod(m.grid)} are due."
                )
            here[...] = values.reshape(m.grid)[inner]
            here[here == m.missing] = np.nan
        self._refuse_another()
        return out

    def _refuse_another(self) -> None:
        if stamp_of(self.filename) != self.messages.stamp:
            raise changed(self.filename, self.name)
