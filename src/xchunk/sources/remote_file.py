"""A file that fsspec reaches: read by ranges of its bytes, several at once.

A file system's own blocking calls are used, which any thread may make: those of the file systems
that work asynchronously (HTTP, S3, …) run side by side on fsspec's loop.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from fsspec.spec import AbstractBufferedFile
from numpy.typing import NDArray

from xchunk.core.redact import without_secrets
from xchunk.errors import SourceError

#: Bytes of the blocks in which metadata are read, and how many of them a process keeps.
_BLOCK, _MOST_BLOCKS = 2**18, 8
#: What a library's own handle reads at once, as xarray has it.
_LIBRARY_BLOCK = 4 * 2**20
#: What tells one content of an object from another one; the first that is known.
_KEYS = (
    "ETag", "etag", "e_tag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated",
    "mtime", "created", "Content-MD5", "Digest", "Last-Modified",
)  # fmt: skip

_blocks: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
_known: dict[RemoteFile, tuple[int, int]] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class RemoteFile:
    """Where a file is, on whatever file system of fsspec's; it travels with its file system."""

    fs: Any
    """fsspec's file system, with what it needs to reach the file."""
    path: str
    """The file's path on it."""

    def __repr__(self) -> str:
        # dask's logs show what tasks are given
        return f"RemoteFile({without_secrets(self.url)!r})"

    @classmethod
    def of(cls, opened: Any) -> RemoteFile | None:
        """Return where an open file of fsspec's is; None where that is not known for certain."""
        from fsspec.implementations.memory import MemoryFile

        plain = isinstance(opened, AbstractBufferedFile | MemoryFile)
        if not plain or getattr(opened, "mode", "rb") not in ("rb", "r+b", "rb+"):
            return None
        fs, path = getattr(opened, "fs", None), getattr(opened, "path", None)
        return None if fs is None or not isinstance(path, str) else cls(fs, path)

    @property
    def url(self) -> str:
        """Its URL."""
        return str(self.fs.unstrip_protocol(self.path))

    @property
    def is_near(self) -> bool:
        """Whether it lies in this process's memory, so that a request takes no time."""
        return "memory" in (self.fs.protocol, *self.fs.protocol)

    def identity(self) -> tuple[int, int]:
        """Ask for what tells the file from what it is later: its size, and its tag or time."""
        self.fs.invalidate_cache(self.path)
        about = self.fs.info(self.path)
        size = about.get("size")
        if size is None:
            raise SourceError(f"{without_secrets(self.url)}: its server does not tell its size")
        return int(size), int(digest_of({"": about})[:15], 16)

    def known_identity(self) -> tuple[int, int]:
        """Return what it was when it was asked for first since `forget_files`."""
        found = _known.get(self)
        if found is None:
            found = _known[self] = self.identity()
        return found

    def open(self) -> Any:
        """Open it for a library, which reads it block by block."""
        return self.fs.open(self.path, "rb", block_size=_LIBRARY_BLOCK, cache_type="blockcache")


@dataclass(eq=False)
class RangeReader:
    """Ranges of a file's bytes; of those that are announced, some are asked for at once."""

    file: RemoteFile
    """The file."""
    identity: tuple[int, int]
    """What it was when it was looked at."""
    _due: list[tuple[int, int]] = field(default_factory=list)
    """First byte and number of bytes of the ranges that are still to come, in their order."""
    _held: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """What was asked for and not yet taken."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.identity[0]

    def expect(self, places: Sequence[tuple[int, int]]) -> None:
        """Announce which ranges `fill` will be asked for, in their order."""
        self._due = [place for place in places if place[1]]
        self._held.clear()

    def fill(self, at: int, memory: NDArray[np.uint8]) -> None:
        """Fill memory with the bytes from some place on."""
        place = (at, len(memory))
        if place not in self._held:
            batch = [place]
            if place in self._due:
                # as many as the budget counts for a task
                several = max(1, int(zarr.config.get("async.concurrency") or 1))
                rest = self._due[self._due.index(place) :]
                batch, self._due = rest[:several], rest[several:]
            self._held = dict(zip(batch, self._ask(batch), strict=True))
        memory[:] = np.frombuffer(self._held.pop(place), np.uint8)

    def pread(self, nbytes: int, at: int) -> bytes:
        """Read some bytes of the metadata, as `os.pread` does: less at the end of the file."""
        stop = min(at + nbytes, self.size)
        out = bytearray()
        for number in range(at // _BLOCK, -(-stop // _BLOCK)):
            begin = number * _BLOCK
            out += self._block(number)[max(0, at - begin) : max(0, stop - begin)]
        return bytes(out)

    def _block(self, number: int) -> bytes:
        key = (self.file, self.identity, number)
        with _lock:
            found = _blocks.get(key)
            if found is not None:
                _blocks.move_to_end(key)
                return found
        begin = number * _BLOCK
        (found,) = self._ask([(begin, min(_BLOCK, self.size - begin))])
        with _lock:
            _blocks[key] = found
            while len(_blocks) > _MOST_BLOCKS:
                _blocks.popitem(last=False)
        return found

    def _ask(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ask for ranges, all of them at once."""
        fs, path = self.file.fs, self.file.path
        if len(places) == 1:
            ((at, n),) = places
            got = [fs.cat_file(path, start=at, end=at + n)]
        else:
            got = fs.cat_ranges(
                [path] * len(places),
                [at for at, _ in places],
                [at + n for at, n in places],
                on_error="raise",
            )
        if [len(data) for data in got] != [n for _, n in places]:
            raise SourceError(
                f"{without_secrets(self.file.url)}: its server ignores which bytes are asked for, "
                "or the file was cut off. Download it first."
            )
        return list(got)


def forget_files() -> None:
    """Ask anew for what files are, when they are looked at again."""
    _known.clear()
    with _lock:
        _blocks.clear()


def digest_of(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest what is said of some objects: their names, sizes, and tags or times."""
    state = hashlib.sha256()
    for name, about in sorted(found.items()):
        tag = next((about[k] for k in _KEYS if about.get(k)), "")
        state.update(f"{name}\0{about.get('size')}\0{tag}\0".encode(errors="surrogateescape"))
    return state.hexdigest()
