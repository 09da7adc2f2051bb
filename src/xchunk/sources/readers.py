"""Readers of other packages that can be looked into: from their lazy array to a stored one.

xarray's own are known to `xchunk.sources.xarray_adapter`. A reader of another package is a module
that tells where such an array is stored, and opens it anew in whatever process. What no reader is
known for is read through its package, one block at a time.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol, TypeAlias

import numpy as np

from xchunk.sources import grib, raster
from xchunk.sources.refs import FileRef, StoredArray
from xchunk.sources.slicing import Decoder, UntraceableError

Found: TypeAlias = "tuple[FileRef, np.dtype[Any], tuple[Decoder, ...]]"

#: What was found out of arrays that are still in use: looking may open their files.
_found: weakref.WeakKeyDictionary[Any, Found] = weakref.WeakKeyDictionary()


class Reader(Protocol):
    """One package's lazy arrays: a module with these names."""

    ENGINE: str
    """xarray's name of its engine, by which a reference finds it."""
    ARRAY: tuple[str, str]
    """Module and name of the class of its lazy arrays."""

    def reference(self, array: Any) -> Found:
        """Return where such an array is stored, the dtype, and how its values are made of that.

        The steps are innermost first. Where it is unknown, `UntraceableError` is raised.
        """
        ...

    def open_array(self, ref: FileRef) -> StoredArray:
        """Open what is stored there."""
        ...


READERS: tuple[Reader, ...] = (grib, raster)


def reader_of(array: Any) -> Reader | None:
    """Return the reader of a lazy array; None where it is not one of theirs."""
    kind = type(array)
    name = (kind.__module__, kind.__qualname__)
    return next((reader for reader in READERS if name == reader.ARRAY), None)


def reader_for(engine: str | None) -> Reader | None:
    """Return the reader of an engine of xarray's; None where it is not one of theirs."""
    return next((reader for reader in READERS if engine == reader.ENGINE), None)


def found_by(reader: Reader, array: Any) -> Found:
    """Return what a reader says of an array, once for each array."""
    found = _found.get(array)
    if found is None:
        try:
            found = _found[array] = reader.reference(array)
        # private parts of the package may fail in any way once they change
        except Exception as error:
            raise UntraceableError(f"an array of {reader.ENGINE}: {error}") from error
    return found
