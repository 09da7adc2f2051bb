"""Measuring a store in about a second: a few of its chunks are read, decoded and encoded.

Times are medians of several samples by a monotonic clock. What is read is bounded, in bytes
and in time; nothing is written but to memory.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from xchunk._typing import ByteSize
from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.measured import HELPS, MeasuredRates
from xchunk.core.units import format_bytes, parse_bytes
from xchunk.diagnose.requests import FileRequests, TimedStore, ZarrRequests
from xchunk.errors import InvalidChunksError, SourceError
from xchunk.storage.codecs import target_codecs
from xchunk.storage.refs import FileRef, StoredRef, Traced, ZarrRef
from xchunk.storage.stored import StoredArray, close_files, open_stored
from xchunk.storage.trace import trace

__all__ = ["MAX_BYTES", "probe"]

#: Bytes that are read and written in a probe, decoded, at the most.
MAX_BYTES = 256_000_000

#: Seconds after which no further sample is taken.
SECONDS = 1.0

#: Samples of each kind, at the most.
_SAMPLES = 15

#: Rounds in which one thread is compared with two.
_ROUNDS = 3

#: Bytes of a chunk above which decoding it takes longer than finding it.
_DECODED = 100_000

#: Bytes that are encoded at once: enough to see how fast a codec is.
_ENCODED = 1_000_000

#: Bytes read at once where an array is not chunked.
_RUN = 4_000_000

#: A step through the chunks that comes near all places before it comes twice to any.
_GOLDEN = 0.6180339887


@dataclass
class _Meter:
    """What may still be read, and how long."""

    bytes_left: int
    deadline: float
    nbytes: int = 0
    samples: int = 0

    def take(self, nbytes: int) -> bool:
        """Take note of a sample; False where there is nothing left for it."""
        if nbytes > self.bytes_left or time.perf_counter() > self.deadline:
            return False
        self.bytes_left -= nbytes
        self.nbytes += nbytes
        self.samples += 1
        return True


@dataclass(frozen=True)
class _Subject:
    """The variable that is measured."""

    name: str
    ref: StoredRef
    stored: StoredArray
    unit: tuple[int, ...]
    grid: Grid = field(compare=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.unit) * self.stored.info.dtype.itemsize

    def box(self, i: int) -> tuple[slice, ...]:
        """The region of sample number ``i``: chunks from all over the array."""
        return self.grid.region(int((i * _GOLDEN) % 1.0 * self.grid.count))


def probe(
    groups: Mapping[str, xr.Dataset],
    *,
    variable: str | None = None,
    max_bytes: ByteSize = MAX_BYTES,
    seconds: float = SECONDS,
) -> MeasuredRates:
    """Measure how fast a store, its codec and a target's codec are.

    Parameters
    ----------
    groups : mapping
        The Dataset of each group's path; ``""`` is the root.
    variable : str, optional
        The variable that is read; the largest that is stored by default.
    max_bytes : int or str
        Bytes that are read and written in memory, at the most, decoded.
    seconds : float
        Seconds after which no further sample is taken.

    Raises
    ------
    InvalidChunksError
        If there is no such variable, or none of its chunks may be read.
    SourceError
        If nothing of it is stored, or it cannot be read.
    """
    most = parse_bytes(max_bytes, "max_bytes")
    try:
        subject = _subject(groups, variable, most)
        meter = _Meter(most, time.perf_counter() + seconds)
        return _measure(subject, meter, _raw_nbytes(groups))
    finally:
        # netCDF's library fails where a file is opened again beside a handle that stays open
        close_files()


def _subject(groups: Mapping[str, xr.Dataset], wanted: str | None, most: int) -> _Subject:
    names = {
        (f"{path}/{name}" if path else str(name)): v
        for path, ds in groups.items()
        for name, v in ds.variables.items()
    }
    if wanted is not None and wanted not in names:
        raise InvalidChunksError(
            f"variable={wanted!r} is not there. Variables: {', '.join(list(names)[:12])}."
        )
    if wanted is not None:
        names = {wanted: names[wanted]}
    too_large = None
    for name, v in sorted(names.items(), key=lambda item: -item[1].size):
        traced = trace(v)
        if traced is None or not v.size:
            continue
        found = _subject_of(name, traced)
        if found.stored.info.dtype.hasobject or found.stored.info.dtype.kind == "T":
            continue
        if found.nbytes * 4 <= most:
            return found
        too_large = too_large or found
    if too_large is not None:
        size = format_bytes(too_large.nbytes)
        raise InvalidChunksError(
            f"one chunk of {too_large.name!r} is {size} decoded, of which max_bytes="
            f"{format_bytes(most)} does not allow enough. Give max_bytes={5 * too_large.nbytes}."
        )
    what = "nothing" if wanted is None else f"{wanted!r} is nothing"
    raise SourceError(
        f"{what} that is stored as it is shown: there is no store to measure. Probe the Dataset "
        "as it was opened, before anything is computed from it."
    )


def _subject_of(name: str, traced: Traced) -> _Subject:
    stored = open_stored(traced.ref)
    info = stored.info
    if info.chunks is not None:
        # a shard is read as a whole, in one request; parts of it take several
        grid = Grid.of(info.shape, info.shards or info.chunks)
        unit = tuple(min(c, max(1, n)) for c, n in zip(grid.chunks, info.shape, strict=True))
        return _Subject(name, traced.ref, stored, unit, grid)
    run: list[int] = []
    left = max(1, _RUN // max(1, info.dtype.itemsize))
    for n in reversed(info.shape):
        run.append(max(1, min(n, left)))
        left = max(1, left // max(1, n))
    lengths = tuple(reversed(run))
    return _Subject(name, traced.ref, stored, lengths, Grid.of(info.shape, lengths))


def _raw_nbytes(groups: Mapping[str, xr.Dataset]) -> int:
    """Bytes of all variables as they are stored, before codecs."""
    total = 0
    for ds in groups.values():
        for v in ds.variables.values():
            width = np.dtype(v.encoding.get("dtype") or "f4").itemsize
            total += v.size * max(1, width)
    return total


def _timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _measure(subject: _Subject, meter: _Meter, all_raw: int) -> MeasuredRates:
    info = subject.stored.info
    requests = _requests(subject, all_raw)
    latency = statistics.median(_timed(requests.small) for _ in range(5))
    overhead = _overhead(subject)
    # one that is not counted: caches and connections are as they will be from then on
    if meter.take(subject.nbytes):
        subject.stored.read(subject.box(0))
    totals: list[float] = []
    stores: list[float] = []
    sizes: list[int] = []
    kept: list[NDArray[Any]] = []
    half = meter.deadline - 0.55 * (meter.deadline - time.perf_counter())
    spare = meter.bytes_left // 2
    for i in range(1, _SAMPLES + 1):
        enough = time.perf_counter() > half or meter.bytes_left - subject.nbytes < spare
        if (totals and enough) or not meter.take(subject.nbytes):
            break
        took, store, size, values = requests.read(subject.box(i))
        if sum(v.nbytes for v in kept) < _ENCODED:
            kept.append(values)
        totals.append(took)
        stores.append(store)
        sizes.append(size)
    if not kept:
        raise SourceError(f"{subject.name!r} could not be read within the bounds of a probe.")
    total, size = statistics.median(totals), int(statistics.median(sizes))
    store = min(statistics.median(stores), total)
    nbytes = subject.nbytes
    coded_file = bool(info.codecs) and isinstance(subject.ref, FileRef)
    if coded_file and nbytes > _DECODED and overhead > total / 2:
        # the library keeps no chunks: what was to be one value has decoded all of them
        overhead = 0.0
    overhead = min(overhead, max(0.0, total - store))
    if not info.codecs:
        # what is not decoded is only moved: that is how fast the store is for its readers
        store = total - overhead
    codec = max(total - store - overhead, 0.0)
    values = _together(kept)
    encode = _encode(subject, meter, values)
    speedup = _speedup(subject, meter, total)
    default = Rates()
    # chunks that are missing, and ways of reading that are not seen, say nothing of bytes
    known = size > 0.001 * nbytes
    transfer = max(store - latency, 0.1 * store, 1e-9)
    return MeasuredRates(
        decode=nbytes / max(codec, 1e-6) if codec else default.decode,
        encode=default.encode if encode is None else encode,
        copy=_copy(values),
        latency=latency + overhead,
        bandwidth=size / transfer if known else default.bandwidth,
        compression=min(1.0, size / nbytes) if known else default.compression,
        run=_run(subject, meter, latency) if info.chunks is None else default.run,
        serial_read=info.format.startswith("netcdf") and speedup is not None and speedup < HELPS,
        variable=subject.name,
        chunk=subject.unit,
        chunk_nbytes=nbytes,
        codecs=info.codecs,
        format=info.format,
        samples=meter.samples,
        nbytes=meter.nbytes,
        store_seconds=store,
        codec_seconds=codec,
        overhead_seconds=max(0.0, total - store - codec),
        speedup=speedup,
    )


def _together(samples: list[NDArray[Any]]) -> NDArray[Any]:
    """Put samples together: small ones alone would not keep a codec busy."""
    alike = [v for v in samples if v.shape[1:] == samples[0].shape[1:]]
    return np.concatenate(alike) if samples[0].ndim and len(alike) > 1 else samples[0]


def _requests(subject: _Subject, all_raw: int) -> ZarrRequests | FileRequests:
    ref = subject.ref
    try:
        if isinstance(ref, ZarrRef):
            return ZarrRequests(ref, TimedStore(ref.store), subject.stored.info.dtype)
        if isinstance(ref, FileRef):
            return FileRequests(ref, subject.stored, all_raw)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{subject.name!r} cannot be read ({error}).") from error
    raise SourceError(f"{subject.name!r} is spliced of two stores, of which neither is measured.")


def _overhead(subject: _Subject) -> float:
    """Seconds that libraries take for one chunk, however small it is."""
    if isinstance(subject.ref, FileRef):
        region = tuple(slice(0, 1) for _ in subject.unit)
        subject.stored.read(region)
        return statistics.median(_timed(lambda: subject.stored.read(region)) for _ in range(5))
    array = _in_memory(subject, (1,) * len(subject.unit), np.zeros((1,) * len(subject.unit)))
    return statistics.median(_timed(lambda: array[...]) for _ in range(5))


def _in_memory(subject: _Subject, chunks: tuple[int, ...], values: NDArray[Any]) -> Any:
    """Make an array in memory that is encoded as a target would be, and fill it."""
    info = subject.stored.info
    encoding, _ = target_codecs(info, 3)
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=values.shape,
        chunks=chunks,
        dtype=info.dtype.newbyteorder("="),
        zarr_format=3,
        fill_value=None,
        config={"write_empty_chunks": True},
        **{k: v for k, v in encoding.items() if v is not None},
    )
    array[...] = values.astype(array.dtype, copy=False)
    return array


def _encode(subject: _Subject, meter: _Meter, values: NDArray[Any]) -> float | None:
    """Bytes a second of the codecs that a target would have; None where there was no time."""
    if not values.ndim:
        return None
    row = max(1, values[:1].nbytes)
    values = np.ascontiguousarray(values[: max(1, _ENCODED // row)])
    shape = values.shape
    try:
        array = _in_memory(subject, shape, values)
        tiny = _in_memory(subject, (1,) * len(shape), values[tuple(slice(0, 1) for _ in shape)])
    except (TypeError, ValueError, NotImplementedError):
        # a dtype or codec that zarr 3 does not have: nothing is known of how fast it would be
        return None
    one = values[tuple(slice(0, 1) for _ in shape)]
    fixed = statistics.median(_timed(lambda: tiny.__setitem__(..., one)) for _ in range(3))
    spans = []
    for _ in range(5):
        if not meter.take(values.nbytes):
            break
        spans.append(_timed(lambda: array.__setitem__(..., values)))
    if not spans:
        return None
    return float(values.nbytes / max(statistics.median(spans) - fixed, 1e-6))


def _speedup(subject: _Subject, meter: _Meter, total: float) -> float | None:
    """How much faster two threads read than one, by the quickest of some rounds each."""
    left = max(0.0, meter.deadline - time.perf_counter())
    each = int(min(8, max(1, left / max(total, 1e-6) / 3 / _ROUNDS)))
    if subject.grid.count < 2 or 3 * each * subject.nbytes > meter.bytes_left:
        return None
    alone: list[float] = []
    both: list[float] = []
    number = _SAMPLES + 1
    with ThreadPoolExecutor(2) as pool:
        for _ in range(_ROUNDS):
            if not all(meter.take(subject.nbytes) for _ in range(3 * each)):
                break
            boxes = [subject.box(number + i) for i in range(3 * each)]
            number += 3 * each
            one, two = boxes[:each], (boxes[each : 2 * each], boxes[2 * each :])
            alone.append(_timed(partial(_read_all, subject, one)))
            both.append(_timed(lambda two=two: list(pool.map(partial(_read_all, subject), two))))  # type: ignore[misc]
    # what else the machine does makes reads slower and never quicker
    return 2 * min(alone) / max(min(both), 1e-9) if alone else None


def _read_all(subject: _Subject, boxes: list[tuple[slice, ...]]) -> None:
    for box in boxes:
        subject.stored.read(box)


def _copy(values: NDArray[Any]) -> float:
    """Bytes a second of a copy in memory."""
    source = np.ones(max(1_000_000, min(values.size, 4_000_000)), dtype="f4")
    target = np.empty_like(source)
    np.copyto(target, source)
    return float(
        source.nbytes
        / statistics.median(_timed(lambda: np.copyto(target, source)) for _ in range(5))
    )


def _run(subject: _Subject, meter: _Meter, latency: float) -> float:
    """Seconds of one contiguous run of an array that is not chunked."""
    shape = subject.stored.info.shape
    if len(shape) < 2 or shape[0] < 8 or not meter.take(subject.nbytes):
        return Rates().run
    runs = min(shape[0], 256)
    box = (slice(0, runs), *(slice(0, 1) for _ in shape[1:]))
    took = statistics.median(_timed(lambda: subject.stored.read(box)) for _ in range(3))
    return max(took - latency, 1e-7) / runs
