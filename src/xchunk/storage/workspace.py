"""The workspace of a run: scratch data below one prefix of a store, marked as ours.

It lies in the target's own store unless another is given, so that whoever can write the
target can write it too. Nothing is deleted that does not carry the marker.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from xchunk.core.plan import Scratch
from xchunk.errors import TargetExistsError
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stores import describe
from xchunk.storage.zarr_io import delete_prefix, get_key, list_prefix, put_key

__all__ = ["PREFIX", "Workspace"]

#: The prefix below which everything temporary of ours lies.
PREFIX = ".xchunk"
_MARKER = f"{PREFIX}/marker.json"
_MADE_BY = "xchunk"


@dataclass(frozen=True)
class Workspace:
    """Scratch data of one run."""

    store: Store
    """The store that holds it."""

    def read_marker(self) -> dict[str, Any] | None:
        """Read the marker; None where there is none, or it is not ours."""
        raw = get_key(self.store, _MARKER)
        if raw is None:
            return None
        try:
            marker = json.loads(raw)
        except ValueError:
            return None
        ours = isinstance(marker, dict) and marker.get("made_by") == _MADE_BY
        return marker if ours else None

    def create(self, **facts: Any) -> None:
        """Write the marker, before anything else of the run.

        Raises
        ------
        TargetExistsError
            If something that is not ours lies where the scratch data would.
        """
        if self.read_marker() is None and list_prefix(self.store, f"{PREFIX}/", limit=1):
            raise TargetExistsError(
                f"{describe(self.store)} holds a folder {PREFIX!r} that xchunk did not make. "
                "Nothing was written. Move it away, or give another scratch store."
            )
        marker = {"made_by": _MADE_BY, "format": 1, **facts}
        put_key(self.store, _MARKER, json.dumps(marker, indent=1).encode())

    def scratch_array(
        self,
        name: str,
        stage: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        scratch: Scratch,
    ) -> ZarrRef:
        """Make the scratch array of one stage of one variable."""
        path = f"{PREFIX}/scratch/{stage}/{name}"
        compressors: Any = None
        if scratch.compressor == "lz4":
            compressors = BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle")
        documents: dict[str, Any] = {}
        # Made in the store itself, it would get parent groups, and the target's root is one:
        # the target could be opened before it is complete.
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
                zarr_format=3,
            )
        put_key(self.store, f"{path}/zarr.json", documents["zarr.json"].to_bytes())
        return ZarrRef(self.store, path, 3)

    def remove_scratch(self, ref: ZarrRef) -> None:
        """Delete one scratch array that is not needed any more."""
        if self.read_marker() is not None and ref.path.startswith(f"{PREFIX}/scratch/"):
            delete_prefix(ref.store, ref.path)

    def remove(self) -> None:
        """Delete the scratch data, the marker last; does nothing where the marker is not ours."""
        if self.read_marker() is None:
            return
        delete_prefix(self.store, f"{PREFIX}/scratch")
        delete_prefix(self.store, PREFIX)
