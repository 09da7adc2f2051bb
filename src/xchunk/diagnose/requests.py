"""What a store alone takes of the time of a read, for zarr stores and for files."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import WrapperStore

from xchunk.storage import zarr_io
from xchunk.storage.refs import FileRef, ZarrRef
from xchunk.storage.stored import StoredArray

__all__ = ["FileRequests", "TimedStore", "ZarrRequests"]

#: Bytes of a request that is as good as none.
_SMALL = 4096

Read = tuple[float, float, int, NDArray[Any]]


class TimedStore(WrapperStore[Store]):
    """A store that takes note of how long each of its reads takes, and of its bytes."""

    def __init__(self, store: Store):
        super().__init__(store)
        self.seconds = 0.0
        self.nbytes = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Read an object or a part of it."""
        start = time.perf_counter()
        found = await self._store.get(key, prototype, byte_range)
        self.seconds += time.perf_counter() - start
        self.nbytes += 0 if found is None else len(found)
        return found

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        """Read several parts."""
        start = time.perf_counter()
        found = await self._store.get_partial_values(prototype, key_ranges)
        self.seconds += time.perf_counter() - start
        self.nbytes += sum(len(b) for b in found if b is not None)
        return found

    def _with_store(self, store: Store) -> TimedStore:
        return TimedStore(store)


class ZarrRequests:
    """Reads of a zarr array, with the part of the store in them."""

    def __init__(self, ref: ZarrRef, store: TimedStore, dtype: np.dtype[Any]):
        self._ref = ref
        self._store = store
        self._dtype = dtype
        name = "zarr.json" if ref.zarr_format == 3 else ".zarray"
        self._small = f"{ref.path}/{name}".lstrip("/")
        self._array = zarr_io.open_array(store, ref.path, ref.zarr_format, mode="r")
        # opening for reading may wrap the store once more: this is the one that is read from
        self._timed: Any = getattr(self._array, "store", store)

    def small(self) -> None:
        """Make a request for next to nothing."""
        zarr_io.get_key(self._ref.store, self._small)

    def read(self, region: tuple[slice, ...]) -> Read:
        """Read a region: seconds, those of the store in them, bytes of the store, values."""
        seconds, nbytes = self._timed.seconds, self._timed.nbytes
        out = np.empty(tuple(r.stop - r.start for r in region), dtype=self._dtype)
        start = time.perf_counter()
        zarr_io.read_into(self._array, region, out)
        took = time.perf_counter() - start
        return took, self._timed.seconds - seconds, self._timed.nbytes - nbytes, out


class FileRequests:
    """Reads of a variable in a file; what the file alone takes is measured beside them."""

    def __init__(self, ref: FileRef, stored: StoredArray, all_raw: int):
        self._stored = stored
        self._get, self._size = _ranges(ref.filename)
        info = stored.info
        # the file's own compression stands for the variable's, which its library does not tell
        self._ratio = min(1.0, self._size / max(1, all_raw)) if info.codecs else 1.0
        self._number = 0

    def small(self) -> None:
        """Make a request for next to nothing."""
        self._get(self._place(_SMALL), min(_SMALL, self._size))

    def read(self, region: tuple[slice, ...]) -> Read:
        """Read a region: seconds, those of the file in them, bytes of the file, values."""
        start = time.perf_counter()
        values = self._stored.read(region)
        took = time.perf_counter() - start
        nbytes = max(1, min(self._size, int(values.nbytes * self._ratio)))
        spans = []
        for _ in range(3):
            start = time.perf_counter()
            self._get(self._place(nbytes), nbytes)
            spans.append(time.perf_counter() - start)
        return took, min(took, statistics.median(spans)), nbytes, values

    def _place(self, nbytes: int) -> int:
        """Where to read: another place each time."""
        self._number += 1
        return int((self._number * 0.6180339887) % 1.0 * max(0, self._size - nbytes))


def _ranges(filename: str) -> tuple[Callable[[int, int], bytes], int]:
    """A function that reads a range of a file, and the file's size."""
    if "://" not in filename and "::" not in filename:
        path = Path(filename)

        def local(start: int, nbytes: int) -> bytes:
            with path.open("rb", buffering=0) as file:
                file.seek(start, os.SEEK_SET)
                return file.read(nbytes) or b""

        return local, path.stat().st_size
    import fsspec

    fs, inner = fsspec.core.url_to_fs(filename)

    def remote(start: int, nbytes: int) -> bytes:
        return bytes(fs.cat_file(inner, start=start, end=start + nbytes))

    return remote, int(fs.size(inner) or 0)
