"""The one copy function: a box is read from one stored array and written to another, or digested.

Every engine and every stage runs it. A task opens its arrays by location, since handles do
not travel, and keeps them for the other boxes of its stage. Boxes are read into buffers that
are handed from task to task, so that the allocator does not grow under our feet.

Two stores of different layouts are compared by digests. To compare them directly, each box of one
would decode many chunks of the other again and again. So each side is read once, in boxes that
suit it, and every box is cut into pieces that both sides have; the digests of the pieces are
compared.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from xchunk.core.grid import Axis, Grid, Vacant, slabs
from xchunk.core.memory import TaskRequests
from xchunk.core.redact import safe_cause
from xchunk.engine.cluster import Needs, leave_thread, worker_threads
from xchunk.engine.heaps import buffers, give_back, heaps
from xchunk.errors import StageFailedError, XchunkError
from xchunk.sources.arrays import begin_reading, close_files, open_stored, reads_ahead
from xchunk.sources.decoding import Decoding, quietly
from xchunk.sources.foreign import holds_objects
from xchunk.sources.refs import StoredArray, StoredRef, ZarrRef
from xchunk.stores import adapter
from xchunk.stores.chunk_objects import ChunkObjects
from xchunk.stores.icechunk import Written, own_fork, session_of
from xchunk.stores.in_flight import Room, Turn
from xchunk.stores.shard_files import ShortWay, files_of
from xchunk.targets.journal import BoxMarks
from xchunk.targets.scratch import delete_spent, refuse_lost_pieces

T = TypeVar("T")

#: Seconds to wait before each further try.
_PAUSES = (0.1, 0.5)
#: What is not better a moment later.
_LASTING = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
    errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip
#: Seconds for which boxes in flight are waited for: a box takes a few.
_LONGEST = 60.0

_changed = threading.Condition()
_running: dict[str, int] = {}
_stopped: deque[str] = deque(maxlen=10_000)


def with_patience(task: Callable[[], T]) -> T:
    """Run a task, once more after each fault of the store that may pass by itself.

    A box that is copied again writes the same bytes under the same keys, so that it does not
    matter how far the first try came.
    """
    for pause in _PAUSES:
        try:
            return task()
        except XchunkError as error:
            if not _may_pass(error.__cause__):
                raise
        time.sleep(pause)
    return task()


def _may_pass(cause: BaseException | None) -> bool:
    if isinstance(cause, FileNotFoundError | PermissionError):  # some stores give no number
        return False
    return isinstance(cause, OSError) and cause.errno not in _LASTING


@contextmanager
def in_flight(run: str) -> Iterator[None]:
    """Count a box as in flight; refuse to start one of a run that was stopped."""
    with _changed:
        if run in _stopped:
            raise StageFailedError("the run was stopped before this box")
        _running[run] = _running.get(run, 0) + 1
    try:
        yield
    finally:
        with _changed:
            _running[run] -= 1
            if not _running[run]:
                del _running[run]
            _changed.notify_all()


def stop(run: str) -> None:
    """Let no box of a run start any more, and wait for those that are in flight."""
    with _changed:
        _stopped.append(run)
        _changed.wait_for(lambda: run not in _running, timeout=_LONGEST)


#: The path of an array, and the number of one of its stages.
StageKey: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class StageSpec:
    """All that a worker needs to copy any box of one stage."""

    run: str
    """Token of the run; what a process keeps open is kept under it."""
    label: str
    """What the tasks are called: ``xchunk-read-t2m``. It is shown, and tells nothing apart."""
    array: str
    """Path of the array in the target."""
    number: int
    """Number of the stage among those of the array; with the path it is its identity."""
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
    spends: bool = False
    """Whether a piece of scratch is deleted once the one box that reads it is written. No task
    may run twice then."""
    threads: int = 1
    """Tasks of this stage that one process may run at once."""
    reads: int = 1
    """Requests of a task to a far store that are on their way at once, reading."""
    writes: int = 1
    """The same, writing."""
    waits: bool = False
    """Whether more tasks run at once than compute, since they wait for far stores."""
    requests: TaskRequests = field(default_factory=TaskRequests)
    """What a task holds besides its box, for chunks in flight."""
    at_once: int | None = None
    """Bytes that are asked of the source at once, where it has no chunks or has shards; None:
    the whole box."""
    unit: tuple[int, ...] = ()
    """Elements along each dim of what is then asked for, at least; none: one element."""
    pieces: Grid | None = None
    """What each box is cut into where it is read to be compared; None: it is copied."""
    decoding: Decoding | None = None
    """How values are decoded before they are compared; None: they are compared as stored."""
    vacant: Vacant | None = None
    """What is missing in the scratch array that is read, since nothing came into it."""
    marks: BoxMarks | None = None
    """Where it is noted that a box is written; None: nowhere."""
    target_origin: tuple[int, ...] | None = None
    """What is added to a box's region to have its region in an existing target already, in
    which empty units are deleted; None: nothing."""
    forked: bool = False
    """Whether each box is written in a fork of the target's session, which its task returns."""
    needs: Needs | None = None
    """What a worker of a cluster must have for the tasks; None: any will do."""

    @property
    def is_far(self) -> bool:
        """Whether tasks mostly wait for a store."""
        return self.waits or max(self.reads, self.writes) > 1

    @property
    def key(self) -> StageKey:
        """What tells the stage from all others of its run."""
        return self.array, self.number


def scratch_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype under which bits of any fixed width go through scratch unharmed."""
    width = dtype.itemsize
    return np.dtype(f"u{width}" if width in (1, 2, 4, 8) else f"V{width}")


def copy_box(spec: StageSpec, i: int) -> int | Written:
    """Copy box number ``i`` of a stage; return its bytes, with the fork if it has one."""
    return with_patience(lambda: _copy(spec, i))


def _copy(spec: StageSpec, i: int) -> int | Written:
    region = spec.boxes.region(i)
    with _turn(spec, region) as turn:
        with _box(spec, turn, region) as values:
            done = _write(spec, turn, region, values)
        # the next box can be read while this one is still being sent
        turn.settle()
    _note(spec, i)
    if spec.spends and spec.marks is not None:
        _delete_spent(spec, spec.marks, region)
    return done


def _delete_spent(spec: StageSpec, marks: BoxMarks, region: tuple[slice, ...]) -> None:
    """Delete what was read of scratch, once its box is noted as written."""
    source, _ = _opened(spec)
    if source is not None and isinstance(spec.source, ZarrRef):
        with in_flight(spec.run), suppress(OSError):
            marks.drop()
            delete_spent(spec.source, source.info, region)


def _note(spec: StageSpec, i: int) -> None:
    """Note that a box is written; its memory is given back already, so that the next can begin."""
    if spec.marks is not None:
        with in_flight(spec.run), _told(spec, spec.boxes.region(i)):
            spec.marks.put(i)


def read_box(spec: StageSpec, i: int) -> NDArray[Any]:
    """Read box number ``i`` of a stage into memory of its own."""
    return with_patience(lambda: _read_box(spec, i))


def _read_box(spec: StageSpec, i: int) -> NDArray[Any]:
    region = spec.boxes.region(i)
    shape = tuple(r.stop - r.start for r in region)
    dtype = scratch_dtype(spec.dtype) if spec.from_scratch else spec.dtype
    with _turn(spec, region) as turn, _box(spec, turn, region, np.empty(shape, dtype)) as values:
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
    with _turn(spec, region) as turn, _held(spec, turn):
        done = _write(spec, turn, region, values)
        turn.settle()
    _note(spec, i)
    return done


@contextmanager
def _box(
    spec: StageSpec, turn: Turn, region: tuple[slice, ...], own: NDArray[Any] | None = None
) -> Iterator[NDArray[Any]]:
    """Read a box; hand out its values.

    They lie in a buffer that is reused afterwards, unless memory of their ``own`` is given.
    """
    source, _ = _opened(spec)
    if source is None:
        raise StageFailedError(f"{spec.label} has no stored source to read from")
    shape = tuple(r.stop - r.start for r in region)
    shifted = tuple(
        slice(r.start + o, r.stop + o) for r, o in zip(region, spec.origin, strict=True)
    )
    dtype = scratch_dtype(spec.dtype) if spec.from_scratch else spec.dtype
    ahead = None
    if _reads_ahead(spec):
        ahead = begin_reading(source, shifted, turn)
    with _held(spec, turn):
        give_back()
        with buffers.borrow(shape, dtype) if own is None else nullcontext(own) as buffer:
            if ahead is None:
                with turn.alone() if spec.is_far else nullcontext():
                    values = _read(spec, source, shifted, buffer)
            else:
                ahead(buffer)
                values = buffer
            if isinstance(spec.source, ZarrRef) and not source.info.codecs:
                heaps.trim_own()
            give_back()
            if spec.vacant is not None:
                for part in spec.vacant.within(region):
                    values[part] = np.frombuffer(spec.vacant.fill, dtype=dtype)[0]
            if spec.from_scratch and isinstance(spec.source, ZarrRef):
                refuse_lost_pieces(spec.source, source.info, shifted, values)
            yield values.view(spec.dtype) if spec.from_scratch else values


def _reads_ahead(spec: StageSpec) -> bool:
    """Whether chunks of a box are asked for before its memory is free.

    What is asked for waits until then. Who holds that memory must be able to go on, and so must
    count each of its requests.
    """
    if not spec.is_far or spec.at_once is not None:
        return False
    source, target = _opened(spec)
    dtype = scratch_dtype(spec.dtype) if spec.from_scratch else spec.dtype
    counted = target is None or isinstance(target[1], ChunkObjects)
    return counted and reads_ahead(source, dtype)


def _read(
    spec: StageSpec, source: StoredArray, region: tuple[slice, ...], buffer: NDArray[Any]
) -> NDArray[Any]:
    """Read a region; part by part where the reader would hold all of it besides the buffer."""
    if spec.at_once is None:
        return source.read(region, buffer)
    # not asked of the source: one that is joined would open all of its files for it
    unit = spec.unit or (1,) * len(region)
    for part in slabs(region, unit, max(1, spec.at_once // max(1, spec.dtype.itemsize))):
        local = tuple(
            slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True)
        )
        values = source.read(part, buffer[local])
        if not np.shares_memory(values, buffer):
            buffer[local] = values
    return buffer


def _write(
    spec: StageSpec, turn: Turn, region: tuple[slice, ...], values: NDArray[Any]
) -> int | Written:
    _, opened = _opened(spec)
    own = None
    if spec.forked and spec.target is not None:
        own = own_fork(spec.target)
        opened = _open_target(own)
    if opened is None:
        raise StageFailedError(f"{spec.label} has no target to write to")
    target, files = opened
    counted = isinstance(files, ChunkObjects) or not spec.is_far
    with nullcontext() if counted else turn.alone():
        if spec.to_scratch:
            # a piece of scratch that is missing has to mean that it is lost: none is left out
            bits = np.ascontiguousarray(values).view(scratch_dtype(spec.dtype))
            adapter.write_units(target, region, bits.reshape(values.shape), fill=None, files=files)
        elif spec.target_origin is None:
            adapter.write_units(target, region, values, fill=target.fill_value, files=files)
        else:
            at = tuple(
                slice(r.start + o, r.stop + o)
                for r, o in zip(region, spec.target_origin, strict=True)
            )
            adapter.write_units(
                target, at, values, fill=target.fill_value, delete_empty=True, files=files
            )
    return int(values.nbytes) if own is None else Written(values.nbytes, session_of(own.store))


@contextmanager
def _turn(spec: StageSpec, region: tuple[slice, ...]) -> Iterator[Turn]:
    """Begin a box: what it asks for is counted, and what goes wrong is told."""
    both = min(spec.reads, spec.writes)
    # A heap may keep what a task holds, for the next one in its thread; where a worker has more
    # threads than tasks run at once, nobody knows which of them that is.
    kept = spec.requests.nbytes if worker_threads() <= spec.threads else 0
    apart = spec.is_far or holds_objects(spec.dtype)
    with (
        _told(spec, region),
        _memory.room_of(spec) as room,
        heaps.keep(kept, spec.threads, apart=apart),
        in_flight(spec.run),
        adapter.tuned(both),
        room.turn() as turn,
    ):
        yield turn


@contextmanager
def _held(spec: StageSpec, turn: Turn) -> Iterator[None]:
    """Hold a box, in turn; on a cluster the next task may begin as soon as one does."""
    with turn.box():
        if spec.waits:
            leave_thread()
        with in_flight(spec.run):
            yield


@contextmanager
def _told(spec: StageSpec, region: tuple[slice, ...]) -> Iterator[None]:
    """Say of which box it is what goes wrong."""
    try:
        yield
    except XchunkError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again, without credentials
        where = ", ".join(f"{r.start}:{r.stop}" for r in region)
        raise StageFailedError(
            f"{spec.label} failed at box [{where}]: {type(error).__name__}: "
            f"{str(error).rstrip('.')}."
        ) from safe_cause(error)


class _Memory:
    """What the tasks of this process may hold: each takes its share, or waits for its turn.

    A task of which n may run at once takes an nth, so that tasks of different plans that run
    beside each other keep the budget as well. Tasks on far stores that are alike take all of it
    together, and share it by what each of them holds at the time (`Room`).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = Fraction(0)
        self._queue: deque[object] = deque()
        self._together: tuple[object, Room] | None = None
        self._members = 0

    @contextmanager
    def room_of(self, spec: StageSpec) -> Iterator[Room]:
        if spec.is_far:
            key = (spec.threads, spec.requests, _reads_ahead(spec))
            with self.together(key, lambda: Room(spec.threads, spec.requests)) as room:
                yield room
        else:
            with self.share(spec.threads):
                yield Room(1, spec.requests)

    @contextmanager
    def share(self, threads: int) -> Iterator[None]:
        share = Fraction(1, max(1, threads))
        with self._in_turn(lambda: self._taken + share <= 1):
            self._taken += share
        try:
            yield
        finally:
            with self._changed:
                self._taken -= share
                self._changed.notify_all()

    @contextmanager
    def together(self, key: object, make: Callable[[], Room]) -> Iterator[Room]:
        def is_alike() -> bool:
            return self._together is not None and self._together[0] == key

        with self._in_turn(lambda: is_alike() or not self._taken):
            if self._together is None:
                self._together, self._taken = (key, make()), Fraction(1)
            self._members += 1
            room = self._together[1]
        try:
            yield room
        finally:
            with self._changed:
                self._members -= 1
                if not self._members:
                    self._together, self._taken = None, Fraction(0)
                self._changed.notify_all()

    @contextmanager
    def _in_turn(self, is_free: Callable[[], bool]) -> Iterator[None]:
        """Wait until all who came before have begun, and there is room; then hold the lock."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and is_free())
                yield
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()


_lock = threading.Lock()
# in quotes: zarr 3.1.0 to 3.1.3 have no generic arrays at run time
_Target: TypeAlias = "tuple[zarr.Array[Any], ShortWay | None]"
_Opened: TypeAlias = "tuple[StoredArray | None, _Target | None]"
_open: dict[tuple[str, StageKey], _Opened] = {}
_memory = _Memory()


def _opened(spec: StageSpec) -> _Opened:
    key = (spec.run, spec.key)
    with _lock:
        if key not in _open:
            source = None if spec.source is None else open_stored(spec.source, lazy=True)
            target = None
            if spec.target is not None:
                target = _open_target(spec.target, temporary=spec.to_scratch)
            _open[key] = source, target
        return _open[key]


def _open_target(ref: ZarrRef, *, temporary: bool = False) -> _Target:
    array = adapter.open_array(ref.store, ref.path, ref.zarr_format, mode="r+")
    return array, files_of(array, temporary=temporary)


def release(run: str) -> None:
    """Let go of what this process keeps for a run: open arrays, files and buffers.

    Boxes that are still being copied, after an error or Ctrl-C, are waited for: they must not
    write when the run is said to be over.
    """
    stop(run)
    with _lock:
        for key in [k for k in _open if k[0] == run]:
            del _open[key]
    close_files()
    heaps.trim()


#: Bytes of a digest: two pieces that differ share one with a probability of 2**-128.
_BYTES = 16


def common_pieces(a: Grid, b: Grid) -> Grid:
    """Cut an array along the edges of both grids, so that each piece lies in one box of each."""
    axes = []
    for x, y in zip(a.axes, b.axes, strict=True):
        if x.nests(y) or y.nests(x):
            axes.append(y if x.nests(y) else x)
            continue
        edges = sorted({axis.bounds(i)[0] for axis in (x, y) for i in range(axis.count)} | {x.size})
        axes.append(Axis.of(x.size, [q - p for p, q in itertools.pairwise(edges)]))
    return Grid(tuple(axes))


def pieces_of(pieces: Grid, region: tuple[slice, ...]) -> list[tuple[int, ...]]:
    """List the indices of the pieces that a region is made of, the last dim varying fastest."""
    touched = [a.touched(r.start, r.stop) for a, r in zip(pieces.axes, region, strict=True)]
    shape = tuple(len(t) for t in touched)
    return [
        tuple(t[j] for t, j in zip(touched, index, strict=True)) for index in np.ndindex(*shape)
    ]


@dataclass(frozen=True)
class Unreadable:
    """What is said of a box that cannot be read."""

    why: str
    """The error, in words."""


def digest_box(spec: StageSpec, i: int) -> list[bytes] | Unreadable:
    """Read box number ``i`` and return the digest of each of its pieces.

    A box that cannot be read does not keep the others from being compared.
    """
    try:
        return with_patience(lambda: _digest_stored(spec, i))
    except XchunkError as error:
        return Unreadable(str(error))


def _digest_stored(spec: StageSpec, i: int) -> list[bytes] | Unreadable:
    region = spec.boxes.region(i)
    with _turn(spec, region) as turn, _box(spec, turn, region) as values:
        if spec.decoding is None:
            return _digests(spec, region, values)
        try:
            decoded = spec.decoding(values)
        except (ValueError, TypeError, OverflowError) as error:
            return Unreadable(" ".join(str(error).split()))
        return _digests(spec, region, decoded)


def digest_block(spec: StageSpec, i: int, block: NDArray[Any]) -> list[bytes]:
    """Return the digest of each piece of one computed block, the box number ``i``."""
    return _digests(spec, spec.boxes.region(i), as_stored(np.asarray(block), spec.dtype))


def as_stored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cast computed values to the dtype that they are stored with, if that changes none of them.

    dask only says what dtype its blocks will have. Values that the cast would change are
    returned as they are, and so differ from what is stored.
    """
    if values.dtype == dtype or values.dtype.kind not in "biufcmM" or dtype.kind not in "biufcmM":
        return values
    with quietly():
        cast = values.astype(dtype)
        back = cast.astype(values.dtype)
    same = (back == values) | ((back != back) & (values != values))  # noqa: PLR0124 - NaN and NaT
    return cast if bool(np.all(same)) else values


def _digests(spec: StageSpec, region: tuple[slice, ...], values: NDArray[Any]) -> list[bytes]:
    pieces = spec.pieces if spec.pieces is not None else spec.boxes
    out = []
    for index in pieces_of(pieces, region):
        bounds = (a.bounds(j) for a, j in zip(pieces.axes, index, strict=True))
        local = [
            slice(start - r.start, stop - r.start)
            for (start, stop), r in zip(bounds, region, strict=True)
        ]
        # the dots keep what has no dims an array
        at: tuple[Any, ...] = (*local, ...)
        out.append(_digest(values[at]))
    return out


def _digest(values: NDArray[Any]) -> bytes:
    """Digest the bits of values, whatever their byte order in memory."""
    state = hashlib.blake2b(digest_size=_BYTES)
    if values.dtype.hasobject or values.dtype.kind in "TU":  # the same text may be either
        for item in values.flat:
            raw = bytes_of(item)
            state.update(len(raw).to_bytes(8, "little") + raw)
    elif values.dtype.names is not None:
        # what lies between the fields of a structure is no value
        for name in values.dtype.names:
            state.update(_digest(values[name]))
    else:
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        state.update(np.ascontiguousarray(little).view(np.uint8).reshape(-1).data)
    return state.digest()


def bytes_of(item: Any) -> bytes:
    """Return bytes that stand for one object, in which what is missing is no empty text."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if _is_missing(item):
        return b"\0missing"
    if isinstance(item, np.ndarray):
        return str(item.tolist()).encode()
    return f"{item} {getattr(item, 'calendar', '')}".encode()


def _is_missing(item: Any) -> bool:
    if item is None or (isinstance(item, float | np.floating) and np.isnan(item)):
        return True
    return type(item).__name__ in ("NAType", "NaTType")
