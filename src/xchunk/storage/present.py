"""Which chunks of a zarr array are there: those that are missing need not be read."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore

from xchunk.core.grid import Grid
from xchunk.core.vacancy import vacant_boxes
from xchunk.storage.refs import ZarrRef
from xchunk.storage.workspace import is_lost_mark
from xchunk.storage.zarr_io import has_key, list_prefix, open_array

__all__ = ["find_vacant", "present_chunks"]

#: Keys that are looked for before all are listed: where they are all there, so are most others.
_TRIED = 6
#: The most keys that are listed; an array of more is taken for complete.
_MOST = 500_000
#: fsspec's names of stores that list what they hold.
_LISTING = {"file", "local", "memory", "s3", "s3a", "gs", "gcs", "abfs", "az", "adl"}


def find_vacant(
    source: ZarrRef, target: ZarrRef, origin: Sequence[int], stages: Sequence[Grid]
) -> tuple[tuple[frozenset[int], ...], bytes]:
    """Find the boxes of each stage of a copy that nothing is stored in.

    Parameters
    ----------
    source, target : ZarrRef
        What is copied, and where to; both arrays are there.
    origin : sequence of int
        First element of what is copied, along each dim of the source; empty: the first.
    stages : sequence of Grid
        The boxes of each stage.

    Returns
    -------
    vacant : tuple of frozenset of int
        The numbers of the vacant boxes, one set for each stage; empty where all boxes are to
        be copied.
    fill : bytes
        The bits of each value in them.
    """
    old = open_array(source.store, source.path, source.zarr_format, mode="r")
    new = open_array(target.store, target.path, target.zarr_format, mode="r")
    fill = _fill_bits(old)
    if fill is None or fill != _fill_bits(new) or is_lost_mark(fill):
        return (), b""
    found = present_chunks(source)
    if found is None:
        return (), b""
    return vacant_boxes(*found, origin or (0,) * len(old.shape), stages), fill


def _fill_bits(array: Any) -> bytes | None:
    dtype = np.dtype(array.dtype)
    if array.fill_value is None or dtype.hasobject or dtype.kind == "T":
        return None
    return np.asarray(array.fill_value, dtype=dtype).tobytes()


def present_chunks(ref: ZarrRef) -> tuple[Grid, NDArray[np.int64]] | None:
    """List the objects that an array is stored in, where some are missing.

    Parameters
    ----------
    ref : ZarrRef
        The array.

    Returns
    -------
    tuple of Grid and array, or None
        The grid of its chunks (shards, where it has them), and the indices of those that are
        there, of shape ``(n, dims)``; None where a few of them tell that the array is
        complete, where there are too many to list, or where the store cannot tell.
    """
    if not _lists_all(ref.store):
        return None
    array = open_array(ref.store, ref.path, ref.zarr_format, mode="r")
    grid = _grid(array)
    if grid is None or grid.count < 2:
        return None
    dice = random.Random(0)  # noqa: S311 - a choice of samples
    tried = {dice.randrange(grid.count) for _ in range(_TRIED)}
    prefix = f"{ref.path}/" if ref.path else ""
    keys = [prefix + array.metadata.encode_chunk_key(grid.index(i)) for i in sorted(tried)]
    there = [key for key in keys if has_key(ref.store, key)]
    if len(there) == len(keys):
        return None
    found = list_prefix(ref.store, prefix, limit=min(_MOST, grid.count + _TRIED) + 100)
    document = f"{prefix}{'zarr.json' if ref.zarr_format == 3 else '.zarray'}"
    if len(found) >= _MOST or not {document, *there} <= set(found):
        # a list that misses what is there would lose data
        return None
    indices = [at for key in found if (at := _index(key.removeprefix(prefix), grid)) is not None]
    return grid, np.array(indices, dtype=np.int64).reshape(len(indices), len(grid.axes))


def _lists_all(store: Store) -> bool:
    """Whether a store is one that lists all of its keys: servers of HTTP, for one, do not."""
    if isinstance(store, LocalStore | MemoryStore):
        return True
    protocols = getattr(getattr(store, "fs", None), "protocol", ())
    names = {protocols} if isinstance(protocols, str) else set(protocols)
    if type(store).__name__ == "ObjectStore":
        return type(getattr(store, "store", None)).__name__ != "HTTPStore"
    return bool(names & _LISTING)


def _grid(array: Any) -> Grid | None:
    try:
        units = array.shards or array.chunks
    except NotImplementedError:
        # a rectilinear grid: its chunks have no one length
        return None
    return Grid.of(array.shape, units) if array.ndim and all(array.shape) else None


def _index(key: str, grid: Grid) -> tuple[int, ...] | None:
    """Read the index of a chunk from its key: ``c/0/1``, ``c.0.1``, ``0/1`` or ``0.1``."""
    parts = re.split(r"[/.]", key)
    if parts[0] == "c":
        parts = parts[1:]
    if len(parts) != len(grid.axes) or not all(p.isdecimal() for p in parts):
        return None
    at = tuple(map(int, parts))
    return at if all(i < n for i, n in zip(at, grid.counts, strict=True)) else None
