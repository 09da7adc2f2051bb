"""The workspace of a run: scratch data below one prefix of a store, marked as ours.

It lies in the target's own store unless another is given, so that whoever can write the
target can write it too. Nothing is deleted that does not carry the marker.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from xchunk.core.grid import Grid
from xchunk.core.plan.stages import Scratch
from xchunk.errors import StageFailedError, TargetExistsError
from xchunk.sources.refs import StoredInfo, ZarrRef
from xchunk.stores.adapter import (
    beside,
    delete_keys,
    delete_prefix,
    get_key,
    has_key,
    holds_any,
    is_near,
)
from xchunk.stores.icechunk import is_session
from xchunk.stores.overlay import Unpublished
from xchunk.stores.stores import describe, local_path
from xchunk.targets.fsync import put_durably

#: The prefix below which everything temporary of ours lies.
PREFIX = ".xchunk"
#: The key of what tells that all below the prefix is ours.
MARKER = f"{PREFIX}/marker.json"
#: Where a store is made that is to replace the one in whose place it lies.
NEW = f"{PREFIX}/new"
_MADE_BY = "xchunk"
#: Where runs tell that they are alive.
LEASES = f"{PREFIX}/lease"
#: What a run leaves that dies before it has written the marker, or just after it deleted it.
_MARKS = re.compile(r"marker\.[0-9a-f]{32}\.partial|lease/[0-9a-f]{32}\.json(\.[^/]*)?")
#: What each byte of a piece of scratch that is missing reads as. Data rarely look like it, so
#: that few pieces have to be looked up in the store (`refuse_lost_pieces`).
_LOST = 0xA5


def make_marker(**facts: Any) -> bytes:
    """Return the document that tells that a workspace is ours."""
    return json.dumps({"made_by": _MADE_BY, "format": 1, **facts}, indent=1).encode()


@dataclass(frozen=True)
class Workspace:
    """Scratch data of one run."""

    store: Store
    """The store that holds it."""
    folder: str = ""
    """Where in a store that several runs use for scratch those of this run lie; empty: it is
    this run's alone."""

    def read_marker(self) -> dict[str, Any] | None:
        """Read the marker; None where there is none, or it is not ours."""
        if is_session(self.store):
            # what is not committed is gone, and whatever is ours lies elsewhere
            return None
        root = local_path(self.store)
        if root is not None and (root / PREFIX).is_symlink():
            # it leads to a place that somebody else chose
            return None
        raw = get_key(self.store, MARKER)
        if raw is None:
            return None
        try:
            marker = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        ours = isinstance(marker, dict) and marker.get("made_by") == _MADE_BY
        return marker if ours else None

    @property
    def is_bare(self) -> bool:
        """Whether a local folder holds at most what runs leave that never wrote their marker."""
        root = local_path(self.store)
        if root is None or not root.is_dir() or root.is_symlink():
            return root is not None and not root.exists()
        inside = root / PREFIX
        if any(path != inside for path in root.iterdir()) or inside.is_symlink():
            return False
        return not inside.exists() or (inside.is_dir() and _holds_marks_only(inside))

    def create(self, **facts: Any) -> None:
        """Write the marker, before anything else of the run.

        - raises `TargetExistsError` if something that is not ours lies where the scratch data
          would.
        """
        unknown = self.read_marker() is None and not self.is_bare and self._holds_others()
        # a run that began just now has written its marker before all else
        if unknown and self.read_marker() is None:
            raise TargetExistsError(
                f"{describe(self.store)} holds a folder {PREFIX!r} that xchunk did not make. "
                "Nothing was written. Move it away, or give another target."
            )
        if self.folder and (root := local_path(self.store)) is not None:
            # how many folders, from the store's own upwards, were not there before
            made = itertools.takewhile(lambda path: not path.exists(), (root, *root.parents))
            facts["folders_made"] = len([*made])
        put_durably(self.store, MARKER, make_marker(**facts))

    def _holds_others(self) -> bool:
        """Return whether something lies below the prefix that no run leaves without a marker."""
        root = local_path(self.store)
        if root is None:
            return holds_any(self.store, PREFIX)
        inside = root / PREFIX
        if inside.is_symlink() or not inside.is_dir():
            return os.path.lexists(inside)
        return not _holds_marks_only(inside)

    def scratch_array(
        self,
        name: str,
        stage: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        scratch: Scratch,
    ) -> ZarrRef:
        """Return the scratch array of one stage of one variable; its pieces carry checksums.

        Its document is not written: it travels with the reference.
        """
        path = "/".join(filter(None, [PREFIX, "scratch", self.folder, str(stage), name]))
        compressors: list[Any] = [Crc32cCodec()]
        if scratch.compressor == "lz4":
            compressors.insert(0, BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"))
        documents: dict[str, Any] = {}
        with warnings.catch_warnings():
            # raw bytes of odd widths are not in the v3 standard yet; only we read them back
            warnings.simplefilter("ignore")
            zarr.create_array(
                MemoryStore(documents),
                shape=shape,
                dtype=dtype,
                chunks=scratch.chunks,
                shards=scratch.shards,
                compressors=compressors,
                filters=None,
                fill_value=_lost(dtype),
                zarr_format=3,
            )
        document = {f"{path}/zarr.json": documents["zarr.json"].to_bytes()}
        return ZarrRef(Unpublished(self.store, document), path, 3)

    def remove_scratch(self, ref: ZarrRef) -> None:
        """Delete one scratch array that is not needed any more."""
        if self.read_marker() is not None and ref.path.startswith(f"{PREFIX}/scratch/"):
            delete_prefix(self.store, ref.path)

    def clear(self) -> None:
        """Delete scratch data and journal; does nothing where the marker is not ours."""
        if self.read_marker() is not None:
            delete_prefix(self.store, f"{PREFIX}/scratch", f"{PREFIX}/journal")

    def remove_new(self) -> None:
        """Delete a store that was to replace this one: its journal first, which tells of it."""
        if holds_any(self.store, NEW):
            delete_prefix(self.store, f"{NEW}/{PREFIX}")
            delete_prefix(self.store, NEW)

    def leave(self) -> None:
        """Delete the scratch data of this run from a store that others may use as well.

        The last run to leave also deletes the folders that were made for the store, if they are
        empty.
        """
        marker = self.read_marker() if self.folder else None
        if marker is None:
            return
        delete_prefix(self.store, f"{PREFIX}/scratch/{self.folder}")
        if holds_any(self.store, f"{PREFIX}/scratch"):
            return
        self.remove()
        root = local_path(self.store)
        made = [] if root is None else (root, *root.parents)[: marker.get("folders_made", 0)]
        with suppress(OSError):
            for path in made:
                path.rmdir()

    def remove(self, lease: str = "", *, ours: bool = False) -> None:
        """Delete all that is ours, the marker last; does nothing where the marker is not ours.

        - ``lease``: the key of the caller's own lease. That of another run, which may be about to
          begin, is not touched.
        - ``ours``: whether it is known that the marker is ours, and that nobody else deletes it.
        """
        if not ours and self.read_marker() is None:
            return
        if is_near(self.store):
            self.remove_new()
        with nullcontext() if is_near(self.store) else beside(self.remove_new):
            delete_prefix(self.store, f"{PREFIX}/scratch", f"{PREFIX}/journal")
        if lease:
            # the next run begins when the lease is gone, and nothing else is to be deleted then
            delete_keys(self.store, [lease])
        delete_keys(self.store, [MARKER])
        root = local_path(self.store)
        if root is not None:
            for path in (root / PREFIX).glob("marker.*.partial"):
                path.unlink()
        remove_empty_folders(self.store)


def remove_empty_folders(store: Store) -> None:
    """Delete our folders on a local disk, if nothing is in them: no lease, nothing of others."""
    root = local_path(store)
    if root is not None:
        for folder in (LEASES, PREFIX):
            with suppress(OSError):
                (root / folder).rmdir()


def _holds_marks_only(folder: Path) -> bool:
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return all(_MARKS.fullmatch(path.relative_to(folder).as_posix()) for path in files)


@cache
def can_shard_raw_bytes() -> bool:
    """Return whether this zarr writes raw bytes of odd widths in shards; 3.1 cannot hash a fill."""
    values = np.zeros(2, dtype="V3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            zarr.create_array(
                MemoryStore(), shape=(2,), dtype="V3", chunks=(1,), shards=(2,), zarr_format=3
            )[:] = values
        except TypeError:
            return False
    return True


def delete_spent(ref: ZarrRef, info: StoredInfo, region: Sequence[slice]) -> None:
    """Delete the local pieces of scratch that lie within a region, which no other box reads.

    Until the end scratch and target would lie on the disk as a whole. What cannot be deleted now is
    deleted with the rest.
    """
    base = ref.store.base if isinstance(ref.store, Unpublished) else ref.store
    root, units = local_path(base), info.shards or info.chunks
    if root is None or units is None:
        return
    axes = Grid.of(info.shape, units).axes
    within = [
        [
            i
            for i in axis.touched(r.start, r.stop)
            if r.start <= axis.bounds(i)[0] and axis.bounds(i)[1] <= r.stop
        ]
        for axis, r in zip(axes, region, strict=True)
    ]
    folder = root / ref.path / "c"
    for place in itertools.product(*within):
        with suppress(OSError):
            folder.joinpath(*map(str, place)).unlink()


def _lost(dtype: np.dtype[Any]) -> Any:
    return np.frombuffer(bytes([_LOST]) * dtype.itemsize, dtype=dtype)[0]


def is_lost_mark(bits: bytes) -> bool:
    """Return whether the bits of a value are those that scratch has where a piece is missing."""
    return set(bits) == {_LOST}


def refuse_lost_pieces(
    ref: ZarrRef, info: StoredInfo, region: Sequence[slice], values: NDArray[Any]
) -> None:
    """Refuse values that were read where a piece of scratch is missing.

    zarr reads a missing chunk as the fill value. Every piece of scratch is written, so that one
    which is missing is lost.

    - raises `StageFailedError` if the object of a piece is not in the store.
    """
    units = info.shards or info.chunks
    if units is None or not values.size:
        return
    grid = Grid.of(info.shape, units)
    touched = [a.touched(r.start, r.stop) for a, r in zip(grid.axes, region, strict=True)]
    starts = [
        [max(axis.bounds(i)[0] - r.start, 0) for i in indices]
        for axis, indices, r in zip(grid.axes, touched, region, strict=True)
    ]
    heads = values[np.ix_(*starts)] if starts else values
    for at in np.argwhere(heads == _lost(values.dtype)):
        key = "/".join(["c", *(str(t[i]) for t, i in zip(touched, at, strict=True))])
        if not has_key(ref.store, f"{ref.path}/{key}"):
            raise StageFailedError(
                f"a piece of the scratch data is lost: {ref.path}/{key}. The target was not "
                "committed. Give resume=False (--no-resume) to start anew."
            )
