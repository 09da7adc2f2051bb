"""Stand-ins for stored arrays: they have the shape, tell what is read, and hold noise."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.suggest.lazy_pass import item_nbytes

#: Bytes of the pages that numpy asks the system for, and of the arrays from which on it does.
_PAGE, _PAGED = 2**21, 2**22

_POOL = np.random.default_rng(0).random(1 << 16)


@dataclass
class Reserved:
    """The most that was asked of the system, touched or not, while a task was watched."""

    most: int = 0
    """Bytes, of those that are traced."""

    def note(self, nbytes: int) -> None:
        """Note that as many bytes would be taken besides all that is there."""
        self.most = max(self.most, tracemalloc.get_traced_memory()[0] + nbytes)


#: What stand-ins note: as much of a process as the tracing that it adds to.
RESERVED = Reserved()


@dataclass(frozen=True)
class Asked:
    """One request for a part of a stored array."""

    shape: tuple[int, ...]
    """Elements along each dim that are left."""
    picks: tuple[range | NDArray[np.intp], ...]
    """Stored chunks touched along each dim."""
    counts: tuple[int, ...]
    """Number of them along each dim."""
    decoded: int
    """Elements decoded."""
    elements: int
    """Elements asked for."""
    rows: int = 1
    """Number of chunks along the first dim with more than one element that is asked for."""

    @property
    def chunks(self) -> int:
        """Number of stored chunks that are decoded."""
        return math.prod(self.counts)


@dataclass(eq=False)
class StandIn:
    """A stored array as a graph sees it."""

    layout: ArrayLayout
    """How it is stored, and its dtype after decoding."""
    compression: float = 0.5
    """Stored bytes for each decoded byte."""
    shape: tuple[int, ...] = field(init=False)
    """Elements along each dim."""
    dtype: np.dtype[Any] = field(init=False)
    """The dtype that tasks see."""
    grid: Grid = field(init=False)
    """The stored chunks; one element each where any part can be read by itself."""

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.layout.shape, self.layout.dtype
        chunks = self.layout.chunks or (1,) * self.layout.ndim
        self.grid = Grid.of(self.shape, chunks)

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array, decoded."""
        return math.prod(self.shape) * item_nbytes(self.dtype)

    @property
    def is_chunked(self) -> bool:
        """Whether it is decoded by chunks."""
        return self.layout.chunks is not None

    @property
    def chunk_raw_nbytes(self) -> int:
        """Bytes of one stored chunk after its codecs."""
        return self.grid.box_elements * item_nbytes(self.layout.stored_dtype)

    def ask(self, index: Any) -> Asked:
        """Report what an index would read, without reading."""
        index = index if isinstance(index, tuple) else (index,)
        index = _expanded(index, self.ndim)
        shape: list[int] = []
        picks: list[range | NDArray[np.intp]] = []
        decoded = elements = rows = 1
        for axis, key in zip(self.grid.axes, index, strict=True):
            count, chunks, read = _along(axis, key)
            if count is not None:
                shape.append(count)
            if elements == 1 and count is not None and count > 1:
                rows = len(chunks)
            elements *= 1 if count is None else count
            picks.append(chunks)
            decoded *= read
        counts = tuple(len(p) for p in picks)
        return Asked(tuple(shape), tuple(picks), counts, decoded, elements, rows)

    def temporary(self, asked: Asked) -> int:
        """Bytes held while it is read, besides what is returned."""
        if not self.is_chunked or not asked.chunks:
            return 0
        encoded = self.compression if self.layout.codecs else 0.0
        return int(self._at_once(asked) * self.chunk_raw_nbytes * (1 + encoded))

    def touched(self, asked: Asked, target: int) -> int:
        """Bytes held while it is read that are more than reserved, of what is returned too.

        The system gives a large array its pages when they are written, and when most is in
        flight, the array holds only the chunks that came before. They come in order, and those
        that lie side by side along the first dim share their pages.
        """
        temporary = self.temporary(asked)
        if not temporary:
            return target
        before = asked.chunks - self._at_once(asked)
        # the one that is being written is still in flight
        begun = before // (asked.chunks // asked.rows) + 1
        written = target * begun // asked.rows
        if target >= _PAGED:
            # nor do chunks begin and end where pages do
            written = min(target, (math.ceil(written / _PAGE) + 1) * _PAGE)
        return max(target, temporary + written)

    def _at_once(self, asked: Asked) -> int:
        """Chunks that are in flight at once."""
        return min(asked.chunks, self.layout.decoded_at_once)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        asked = self.ask(index)
        same = self.layout.stored_dtype == self.dtype or self.dtype.kind in "OTUS"
        target = asked.elements * item_nbytes(self.dtype if same else self.layout.stored_dtype)
        # What a store's library holds meanwhile is taken and freed, so that whoever
        # watches the memory of a task sees it at the moment when it would be there.
        RESERVED.note(target + self.temporary(asked))
        in_flight = np.empty(self.touched(asked, target), np.uint8)
        del in_flight
        if same:
            return noise(asked.shape, self.dtype)
        raw = np.empty(asked.shape, self.layout.stored_dtype)
        masked = np.empty(asked.shape, self.dtype)
        block = noise(asked.shape, self.dtype)
        del raw, masked
        return block

    def __setitem__(self, index: Any, value: Any) -> None:
        """Forget what is written: a simulation never writes."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[(slice(None),) * self.ndim], dtype)


class Discard:
    """A target that forgets what is written to it."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype

    def __setitem__(self, index: Any, value: Any) -> None:
        np.asarray(value)


def noise(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make an array of random values that owns its memory."""
    dtype = np.dtype(dtype)
    if dtype.kind in "OTUSV":
        return np.zeros(shape, dtype)
    out = np.empty(shape, dtype)
    flat = out.reshape(-1)
    if not flat.size:
        return out
    if dtype.kind == "b":
        first = _POOL > 0.5
    elif dtype.kind in "iumM":
        first = (_POOL * 100).astype("i8").astype("u1").astype(_plain(dtype)).view(dtype)
    else:
        first = _POOL.astype(dtype)
    n = min(flat.size, first.size)
    flat[:n] = first[:n]
    while n < flat.size:
        more = min(n, flat.size - n)
        flat[n : n + more] = flat[:more]
        n += more
    return out


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype("i8") if dtype.kind in "mM" else dtype


def _expanded(index: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    if any(k is Ellipsis for k in index):
        i = next(n for n, k in enumerate(index) if k is Ellipsis)
        middle = (slice(None),) * (ndim - len(index) + 1)
        return (*index[:i], *middle, *index[i + 1 :])
    return (*index, *(slice(None),) * (ndim - len(index)))


def _along(axis: Axis, key: Any) -> tuple[int | None, range | NDArray[np.intp], int]:
    """Elements that are left along a dim, the chunks touched, and the elements decoded."""
    if isinstance(key, slice):
        picked = range(axis.size)[key]
        if picked.step == 1 or len(picked) == 0:
            first = picked.start
            touched = axis.touched(first, first + len(picked))
            return len(picked), touched, _extent(axis, touched)
        positions = np.asarray(picked)
        count: int | None = len(picked)
    elif np.ndim(key) == 0:
        position = int(key) % max(1, axis.size)
        touched = axis.touched(position, position + 1)
        return None, touched, _extent(axis, touched)
    else:
        positions = np.asarray(key)
        positions = np.flatnonzero(positions) if positions.dtype == bool else positions
        count = positions.size
    if axis.parts is None:
        chunks = np.unique(positions % axis.size // axis.chunk)
    else:
        chunks = np.unique(np.searchsorted(axis.edges, positions % axis.size, "right") - 1)
    return count, chunks, sum(b - a for a, b in (axis.bounds(int(c)) for c in chunks))


def _extent(axis: Axis, touched: range) -> int:
    if not touched:
        return 0
    return axis.bounds(touched[-1])[1] - axis.bounds(touched[0])[0]
