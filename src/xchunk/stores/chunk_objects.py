"""The chunks of a zarr array in a far store: many requests on their way, one chunk decoded.

zarr decodes chunks in threads of its own while others are fetched, so that a task would hold
several of them besides its box. Here requests run on zarr's event loop, as many at once as tasks
may hold (`xchunk.stores.in_flight`), and what they bring is decoded by the task's own thread into
its box, while the others are on their way. What is written is encoded by that thread as well, and
sent meanwhile. See `xchunk.stores.chunk_files` for the same in files of this machine.

What is written in a task is sent when the task has settled (`Turn.settle`), and its box can be used
again before that.

``zarr.core.sync.sync`` runs a coroutine on that loop; zarr has not made it public. Remote stores
bind their sessions to it, so that another would not do. Without it, a coroutine is run on a loop
of our own, which local and memory stores accept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.buffer.cpu import buffer_prototype

from xchunk.stores.chunk_codec import ChunkBytes, as_bytes
from xchunk.stores.chunk_files import (
    UNDECODABLE,
    ChunkFiles,
    Part,
    Spare,
    fill_of,
    is_in_files,
    parts_of,
)
from xchunk.stores.in_flight import Call, Requests, Turn, this_turn
from xchunk.stores.object_stores import all_of

#: What a request brings: which parts of a region lie in a chunk, and its object if there is one.
Stored: TypeAlias = tuple[tuple[Part, ...], Buffer | None]

T = TypeVar("T")


class _Inline(ThreadPoolExecutor):
    """An executor without threads: what is submitted is done at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            future.set_exception(error)
        return future


def is_free() -> bool:
    """Return whether no event loop runs in this thread, as one does in a notebook's main thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and what it gives to threads, in this thread, which must be free."""
    loop = asyncio.new_event_loop()
    executor = _Inline(max_workers=1)
    try:
        loop.set_default_executor(executor)
        return loop.run_until_complete(coroutine)
    finally:
        _cancel_rest(loop)
        loop.close()
        executor.shutdown()


def _cancel_rest(loop: asyncio.AbstractEventLoop) -> None:
    """End what a coroutine that failed has left running beside it."""
    rest = asyncio.all_tasks(loop)
    for task in rest:
        task.cancel()
    if rest:
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))


@dataclass(frozen=True, eq=False)
class ChunkObjects:
    """The objects of one array without shards."""

    array: zarr.Array[Any]
    """The array."""
    how: ChunkBytes
    """How a chunk is encoded."""
    fill: Any
    """What a missing chunk holds."""

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> ChunkObjects | None:
        """Return the objects of an array; None where zarr is to read and write them."""
        how = None if is_in_files(array.store) else ChunkFiles.how_of(array)
        return None if how is None else cls(array, how, fill_of(array))

    def read(self, region: Sequence[slice], out: NDArray[Any]) -> None:
        """Read a region into an array of its shape and of the stored dtype."""
        with this_turn() as turn:
            self.decode_all(self.requests(region, turn), out)

    def requests(self, region: Sequence[slice], turn: Turn) -> Requests[Stored]:
        """Begin to read a region; what it brings is decoded by `decode_all`."""
        return turn.requests(partial(self._get, p) for p in parts_of(region, self.array.chunks))

    def decode_all(self, found: Iterable[Stored], out: NDArray[Any]) -> None:
        """Decode what was asked for into an array of the region's shape and the stored dtype."""
        spare = Spare(self.how, self.array.chunks, self.fill)
        for parts, stored in found:
            values = out[tuple(p.here for p in parts)]
            if stored is None:
                values[...] = self.fill
            elif values.shape == self.array.chunks and values.flags.c_contiguous:
                self._decode(parts, stored, values)
            else:
                whole = spare.values(out.dtype)
                self._decode(parts, stored, whole)
                values[...] = whole[tuple(p.there for p in parts)]

    def takes(self, region: Sequence[slice]) -> bool:
        """Return whether a region is one of whole chunks, so that it can be written."""
        return not self.array.store.read_only and all(
            r.start % c == 0 and (r.stop % c == 0 or r.stop == n)
            for r, c, n in zip(region, self.array.chunks, self.array.shape, strict=True)
        )

    def write(self, region: Sequence[slice], values: NDArray[Any]) -> None:
        """Write a region of whole chunks, from values of the stored dtype."""
        self.write_all([(region, values)])

    def write_all(self, units: Iterable[tuple[Sequence[slice], NDArray[Any]]]) -> None:
        """Write several regions of whole chunks, each with its values."""
        with this_turn() as turn:
            for region, values in units:
                for parts in parts_of(region, self.array.chunks):
                    turn.send(partial(self._put, parts, values[tuple(p.here for p in parts)]))

    def _key(self, parts: tuple[Part, ...]) -> str:
        key = self.array.metadata.encode_chunk_key(tuple(p.at for p in parts))
        return f"{self.array.path}/{key}".lstrip("/")

    async def _get(self, parts: tuple[Part, ...]) -> Stored:
        store = self.array.store
        return parts, await store.get(self._key(parts), buffer_prototype, all_of(store))

    def _put(self, parts: tuple[Part, ...], chunk: NDArray[Any]) -> tuple[Call[None], int]:
        """Encode a chunk, in this thread; return what sends it, and its bytes."""
        if chunk.shape != self.array.chunks:
            # beyond the array's end a chunk holds the fill value
            whole = np.full(self.array.chunks, self.fill, dtype=chunk.dtype)
            whole[tuple(p.there for p in parts)] = chunk
        elif self.how.is_raw:
            # a store may keep what it is given, and the box's memory is used again
            whole = np.array(chunk, order="C", copy=True)
        else:
            whole = np.ascontiguousarray(chunk)
        encoded = self.how.encode(whole)
        if self.how.tail_size:
            tail = np.frombuffer(self.how.tail(self.how.sum(encoded)), dtype=np.uint8)
            encoded = np.concatenate([encoded, tail])
        sent = buffer_prototype.buffer.from_array_like(encoded)
        return partial(self.array.store.set, self._key(parts), sent), encoded.nbytes

    def _decode(self, parts: tuple[Part, ...], stored: Buffer, out: NDArray[Any]) -> None:
        try:
            self.how.decode(stored.as_numpy_array().data, as_bytes(out))
        except UNDECODABLE as error:
            raise ValueError(
                f"{self._key(parts)} cannot be decompressed: {error}. It is damaged."
            ) from error
