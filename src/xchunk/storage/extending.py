"""What an append leaves while it is on its way: the marker's record of it, and taking it back.

The marker of a store that is being extended holds the documents as they were and as they will
be. As long as the store does not hold the new ones, everything beyond the old end can be
deleted, and the old units, which may hold new values beyond that end, be written as they were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.store import Store

from xchunk.core.grid import Grid, ceildiv
from xchunk.storage.owned import delete_owned, owned_keys, sweep_partials
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stored import open_stored
from xchunk.storage.unpublished import Unpublished
from xchunk.storage.workspace import Workspace
from xchunk.storage.zarr_io import get_key, has_key, open_array, put_key, write_units

__all__ = ["Extending", "beyond", "take_back"]

_ARRAYS = ("zarr.json", ".zarray")


@dataclass(frozen=True)
class Extending:
    """The record of a store that is being extended."""

    digest: str
    """What the run would commit, as a digest."""
    old: Mapping[str, bytes]
    """The documents that change, as they were."""
    new: Mapping[str, bytes]
    """The documents that change, as they will be, in the order of writing."""

    @classmethod
    def read(cls, store: Store) -> Extending | None:
        """Read the record of an append that was stopped; None where there is none."""
        found: Any = (Workspace(store).read_marker() or {}).get("extending")
        try:
            old, new = (
                {str(k): str(v).encode() for k, v in found[part].items()} for part in ("old", "new")
            )
            return cls(str(found["digest"]), old, new)
        except (TypeError, KeyError, AttributeError):
            return None

    def write(self, store: Store, *, target: str) -> None:
        """Write the record into the marker."""
        documents = {
            part: {k: v.decode() for k, v in which.items()}
            for part, which in (("old", self.old), ("new", self.new))
        }
        record = {"digest": self.digest, **documents}
        Workspace(store).create(target=target, extending=record)

    @property
    def grows(self) -> bool:
        """Whether anything becomes longer; otherwise a region was being written, in place."""
        return any(True for _ in _grown(self))

    def is_committed(self, store: Store) -> bool:
        """Tell whether everybody sees the new length already."""
        changed = {k: v for k, v in self.new.items() if v != self.old.get(k)}
        return bool(changed) and all(get_key(store, k) == v for k, v in changed.items())


def take_back(store: Store) -> None:
    """Delete what a stopped append has written; the store is as it was before, and not longer."""
    record = Extending.read(store)
    if record is None or record.is_committed(store):
        return
    for key, value in reversed(list(record.old.items())):
        if get_key(store, key) != value:
            put_key(store, key, value)
    delete_owned(store, beyond(store))
    arrays = {key.rpartition("/")[0] for key in record.old if key.rpartition("/")[2] in _ARRAYS}
    sweep_partials(store, sorted(arrays - {""}), record.old)
    for path, zarr_format, old, _, axis in _grown(record):
        array = open_array(store, path, zarr_format, mode="r+")
        unit = tuple(array.shards or array.chunks)
        if old[axis] % unit[axis]:
            _write_edge(array, ZarrRef(store, path, zarr_format), old, unit, axis)


def beyond(store: Store) -> list[str]:
    """List the chunks that a stopped append has written beyond the end of what there was."""
    record = Extending.read(store)
    if record is None or record.is_committed(store):
        return []
    out = []
    for path, zarr_format, old, _, axis in _grown(record):
        array = open_array(store, path, zarr_format, mode="r")
        first = ceildiv(old[axis], (array.shards or array.chunks)[axis])
        for key in owned_keys(store, [path]):
            index = _index(array, path, key)
            if index is not None and index[axis] >= first:
                out.append(key)
    return out


def _grown(
    record: Extending,
) -> Iterator[tuple[str, int, tuple[int, ...], tuple[int, ...], int]]:
    """Yield path, format, old and new shape, and the axis that grows, of each array that does."""
    for key, raw in record.old.items():
        path, _, name = key.rpartition("/")
        if name not in _ARRAYS or not path or key not in record.new:
            continue
        documents = [json.loads(document) for document in (raw, record.new[key])]
        if any("shape" not in document for document in documents):
            continue
        old, new = (tuple(document["shape"]) for document in documents)
        axes = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        if axes:
            yield path, 3 if name == "zarr.json" else 2, old, new, axes[0]


def _write_edge(
    array: Any, ref: ZarrRef, shape: tuple[int, ...], unit: tuple[int, ...], axis: int
) -> None:
    """Write the old values of the last, half-full units again, and nothing beyond them."""
    stored, grid = open_stored(ref), Grid.of(shape, unit)
    last = grid.counts[axis] - 1
    # as long as the array, so that what lies beyond its end is fill
    padded = tuple(
        ceildiv(n, u) * u if i == axis else n
        for i, (n, u) in enumerate(zip(shape, unit, strict=True))
    )
    key = f"{ref.path}/{'zarr.json' if ref.zarr_format == 3 else '.zarray'}"
    document = json.loads(get_key(ref.store, key) or b"{}")
    document["shape"] = list(padded)
    shown = Unpublished(ref.store, {key: json.dumps(document).encode()})
    whole = open_array(shown, ref.path, ref.zarr_format, mode="r+")
    others = (*grid.counts[:axis], 1, *grid.counts[axis + 1 :])
    for number in range(math.prod(others)):
        index = [int(i) for i in np.unravel_index(number, others)]
        index[axis] = last
        if not has_key(ref.store, f"{ref.path}/{array.metadata.encode_chunk_key(tuple(index))}"):
            continue
        region = [slice(*a.bounds(i)) for a, i in zip(grid.axes, index, strict=True)]
        values = stored.read(region)
        full = [slice(r.start, r.stop) for r in region]
        full[axis] = slice(region[axis].start, padded[axis])
        fill = array.fill_value if array.fill_value is not None else np.zeros((), values.dtype)[()]
        out = np.full([r.stop - r.start for r in full], fill, dtype=values.dtype)
        out[tuple(slice(0, n) for n in values.shape)] = values
        write_units(whole, full, out, fill=array.fill_value, delete_empty=True)


def _index(array: Any, path: str, key: str) -> tuple[int, ...] | None:
    """Return the index of the unit that a key holds; None where it holds none."""
    name = key.removeprefix(f"{path}/")
    digits = [p for p in name.replace(".", "/").split("/") if p.isdigit()]
    index = tuple(map(int, digits))
    if len(index) != array.ndim or array.metadata.encode_chunk_key(index) != name:
        return None
    return index
