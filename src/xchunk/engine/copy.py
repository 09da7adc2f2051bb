"""The one copy function: a box is read from one stored array and written to another.

Every engine and every stage runs it. A task opens its arrays by location, since handles do
not travel, and keeps them for the other boxes of its stage. Boxes are read into buffers that
are handed from task to task, so that the allocator does not grow under our feet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray

from xchunk._secrets import safe_cause
from xchunk.core.grid import Grid, slabs
from xchunk.core.vacancy import Vacant
from xchunk.engine.allocator import give_back, new_buffer, steady
from xchunk.engine.inflight import in_flight, stop, with_patience
from xchunk.errors import StageFailedError, XchunkError
from xchunk.storage import zarr_io
from xchunk.storage.chunk_files import ChunkFiles
from xchunk.storage.icechunk import Written, own_fork, session_of
from xchunk.storage.journal import BoxMarks
from xchunk.storage.refs import StoredRef, ZarrRef
from xchunk.storage.shard_files import ShardFiles, files_of
from xchunk.storage.stored import StoredArray, close_files, open_stored
from xchunk.storage.workspace import refuse_lost_pieces

__all__ = [
    "StageSpec",
    "copy_box",
    "read_box",
    "reading",
    "release",
    "scratch_dtype",
    "write_block",
]


@dataclass(frozen=True)
class StageSpec:
    """All that a worker needs to copy any box of one stage."""

    run: str
    """Token of the run; what a process keeps open is kept under it."""
    label: str
    """What the tasks are called: ``xchunk-read-t2m``."""
    source: StoredRef | None
    """Where boxes are read; None: the values come as blocks from dask."""
    target: ZarrRef | None
    """Where boxes are written; None: they are only read."""
    origin: tuple[int, ...]
    """What is added to a box's region to have its region in the source."""
    boxes: Grid
    """The boxes of the stage."""
    dtype: np.dtype[Any]
    """The dtype of the stored values."""
    from_scratch: bool = False
    """Whether the source is a scratch array, which holds bits and not values."""
    to_scratch: bool = False
    """Whether the target is a scratch array."""
    threads: int = 1
    """Tasks of this stage that one process may run at once."""
    concurrency: int = 1
    """Chunks in flight at once within a task."""
    in_flight: int = 0
    """Bytes that a task holds besides its box, for the chunks in flight."""
    at_once: int | None = None
    """Bytes that are asked of the source at once, where it has no chunks or has shards; None:
    the whole box."""
    pieces: Grid | None = None
    """What each box is cut into where it is read to be compared; None: it is copied."""
    vacant: Vacant | None = None
    """What is missing in the scratch array that is read, since nothing came into it."""
    marks: BoxMarks | None = None
    """Where it is noted that a box is written; None: nowhere."""
    target_origin: tuple[int, ...] | None = None
    """What is added to a box's region to have its region in a target that is there already, in
    which empty units are deleted; None: nothing."""
    forked: bool = False
    """Whether each box is written in a fork of the target's session, which its task returns."""


def scratch_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype under which bits of any fixed width go through scratch unharmed."""
    width = dtype.itemsize
    return np.dtype(f"u{width}" if width in (1, 2, 4, 8) else f"V{width}")


def copy_box(spec: StageSpec, i: int) -> int | Written:
    """Copy box number ``i`` of a stage; return its bytes, with the fork if it has one."""
    return with_patience(lambda: _copy(spec, i))


def _copy(spec: StageSpec, i: int) -> int | Written:
    with reading(spec, i) as (region, values):
        return _write(spec, i, region, values)


def read_box(spec: StageSpec, i: int) -> NDArray[Any]:
    """Read box number ``i`` of a stage into memory of its own."""
    return with_patience(lambda: _read_box(spec, i))


def _read_box(spec: StageSpec, i: int) -> NDArray[Any]:
    shape = tuple(r.stop - r.start for r in spec.boxes.region(i))
    dtype = scratch_dtype(spec.dtype) if spec.from_scratch else spec.dtype
    with reading(spec, i, np.empty(shape, dtype=dtype)) as (_, values):
        return values


def write_block(spec: StageSpec, i: int, block: NDArray[Any]) -> int | Written:
    """Write one computed block, the box number ``i`` of a stage; return its bytes."""
    values = np.asarray(block)
    if values.dtype != spec.dtype:
        # dask only says what dtype its blocks will have
        values = values.astype(spec.dtype)
    return with_patience(lambda: _write_values(spec, i, values))


def _write_values(spec: StageSpec, i: int, values: NDArray[Any]) -> int | Written:
    region = spec.boxes.region(i)
    with _context(spec, region):
        return _write(spec, i, region, values)


@contextmanager
def reading(
    spec: StageSpec, i: int, own: NDArray[Any] | None = None
) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """Read box number ``i``; hand out its region and its values.

    They lie in a buffer that is reused afterwards, unless memory of their ``own`` is given.
    """
    region = spec.boxes.region(i)
    with _context(spec, region):
        source, _ = _opened(spec)
        if source is None:
            raise StageFailedError(f"{spec.label} has no stored source to read from")
        shape = tuple(r.stop - r.start for r in region)
        shifted = tuple(
            slice(r.start + o, r.stop + o) for r, o in zip(region, spec.origin, strict=True)
        )
        dtype = scratch_dtype(spec.dtype) if spec.from_scratch else spec.dtype
        give_back()
        with _buffers.borrow(shape, dtype) if own is None else nullcontext(own) as buffer:
            values = _read(spec, source, shifted, buffer)
            give_back()
            if spec.vacant is not None:
                for part in spec.vacant.within(region):
                    values[part] = np.frombuffer(spec.vacant.fill, dtype=dtype)[0]
            if spec.from_scratch and isinstance(spec.source, ZarrRef):
                refuse_lost_pieces(spec.source, source.info, shifted, values)
            yield region, values.view(spec.dtype) if spec.from_scratch else values


def _read(
    spec: StageSpec, source: StoredArray, region: tuple[slice, ...], buffer: NDArray[Any]
) -> NDArray[Any]:
    """Read a region; part by part where the reader would hold all of it besides the buffer."""
    if spec.at_once is None:
        return source.read(region, buffer)
    info = source.info
    unit = tuple(c if isinstance(c, int) else 1 for c in info.chunks or (1,) * len(region))
    for part in slabs(region, unit, max(1, spec.at_once // max(1, info.dtype.itemsize))):
        local = tuple(
            slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True)
        )
        values = source.read(part, buffer[local])
        if not np.shares_memory(values, buffer):
            buffer[local] = values
    return buffer


def _write(
    spec: StageSpec, i: int, region: tuple[slice, ...], values: NDArray[Any]
) -> int | Written:
    _, opened = _opened(spec)
    own = None
    if spec.forked and spec.target is not None:
        own = own_fork(spec.target)
        opened = _open_target(own)
    if opened is None:
        raise StageFailedError(f"{spec.label} has no target to write to")
    target, files = opened
    if spec.to_scratch:
        # a piece of scratch that is missing has to mean that it is lost: none is left out
        bits = np.ascontiguousarray(values).view(scratch_dtype(spec.dtype))
        zarr_io.write_units(target, region, bits.reshape(values.shape), fill=None, files=files)
    elif spec.target_origin is None:
        zarr_io.write_units(target, region, values, fill=target.fill_value, files=files)
    else:
        at = tuple(
            slice(r.start + o, r.stop + o) for r, o in zip(region, spec.target_origin, strict=True)
        )
        zarr_io.write_units(
            target, at, values, fill=target.fill_value, delete_empty=True, files=files
        )
    if spec.marks is not None:
        spec.marks.put(i)
    return int(values.nbytes) if own is None else Written(values.nbytes, session_of(own.store))


@contextmanager
def _context(spec: StageSpec, region: tuple[slice, ...]) -> Iterator[None]:
    steady(spec.in_flight // spec.concurrency)
    with _slot(spec), in_flight(spec.run), zarr_io.tuned(spec.concurrency):
        try:
            yield
        except XchunkError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again, without credentials
            where = ", ".join(f"{r.start}:{r.stop}" for r in region)
            raise StageFailedError(
                f"{spec.label} failed at box [{where}]: {type(error).__name__}: {error}"
            ) from safe_cause(error)


#: How many times larger than a box its buffer may be.
_ROOMY = 1.25


class _Buffers:
    """Buffers that tasks of this process take and give back; as many as tasks at once."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        if dtype.hasobject or dtype.kind == "T":
            yield np.empty(shape, dtype=dtype)
            return
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self._lock:
            raw = self._take(nbytes)
        # Not given back after an error: requests that ran beside the one that failed may still
        # be under way on zarr's event loop, and read from the buffer or write into it.
        yield raw[:nbytes].view(dtype).reshape(shape)
        with self._lock:
            self._free.append(raw)

    def _take(self, nbytes: int) -> NDArray[np.uint8]:
        fitting = [b for b in self._free if nbytes <= b.nbytes <= _ROOMY * nbytes]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self._free = [b for b in self._free if b is not best]
            return best
        # idle ones of another stage, smaller or larger, only take room
        self._free.clear()
        return new_buffer(nbytes)

    def clear(self) -> None:
        with self._lock:
            self._free.clear()


_buffers = _Buffers()
_lock = threading.Lock()
# in quotes: zarr 3.1.0 to 3.1.3 have no generic arrays at run time
_Target: TypeAlias = "tuple[zarr.Array[Any], ChunkFiles | ShardFiles | None]"
_Opened: TypeAlias = "tuple[StoredArray | None, _Target | None]"
_open: dict[tuple[str, str], _Opened] = {}
_slots: dict[tuple[str, str], threading.BoundedSemaphore] = {}


def _opened(spec: StageSpec) -> _Opened:
    key = (spec.run, spec.label)
    with _lock:
        if key not in _open:
            source = None if spec.source is None else open_stored(spec.source)
            target = None
            if spec.target is not None:
                target = _open_target(spec.target, temporary=spec.to_scratch)
            _open[key] = source, target
        return _open[key]


def _open_target(ref: ZarrRef, *, temporary: bool = False) -> _Target:
    array = zarr_io.open_array(ref.store, ref.path, ref.zarr_format, mode="r+")
    return array, files_of(array, temporary=temporary)


def _slot(spec: StageSpec) -> threading.BoundedSemaphore:
    with _lock:
        key = (spec.run, spec.label)
        if key not in _slots:
            _slots[key] = threading.BoundedSemaphore(max(1, spec.threads))
        return _slots[key]


def release(run: str) -> None:
    """Let go of what this process keeps for a run: open arrays, files and buffers.

    Boxes that are still being copied, after an error or Ctrl-C, are waited for: they must not
    write when the run is said to be over.
    """
    stop(run)
    with _lock:
        for cache in (_open, _slots):
            for key in [k for k in cache if k[0] == run]:
                del cache[key]
    _buffers.clear()
    close_files()
