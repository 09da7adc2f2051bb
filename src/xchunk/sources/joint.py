"""Many stored arrays side by side, read as one: a block may span files in a single task.

What they have in common is gathered once, where a variable is assembled; a worker opens those
only that a box touches, and a few at a time. Each is then compared with what was traced: a file
that was replaced since is refused.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xchunk.core.grid import Axis, lcm_within, slabs
from xchunk.errors import SourceError
from xchunk.sources.hdf5_read import Header, read_headers
from xchunk.sources.refs import FileRef, JoinedRef, OneRef, StoredArray, StoredInfo
from xchunk.sources.versions import place_of_part, stamp_of_part

#: What files' encodings have to agree on to hold for all of them; codecs may differ.
_ALIKE = (
    "dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units",
    "calendar",
)  # fmt: skip

#: What is of one file, and not of all of them together.
_LAYOUT_KEYS = ("chunks", "shards", "preferred_chunks", "chunksizes", "original_shape", "source")


@dataclass(frozen=True, eq=False)
class JoinedArray:
    """Variables of several files as one array; what a slice of it needs is read, and no more.

    It has what dask asks of an array: a shape, a dtype and slices. It travels to workers as
    well as the variables do.
    """

    variables: NDArray[Any]
    """The lazy variables, one for each file, as an array of objects with the array's dims."""
    edges: tuple[Axis, ...]
    """Where files begin along each dim."""
    dtype: np.dtype[Any]
    """The dtype of the values; what files store differently is converted to it."""

    @classmethod
    def of(cls, parts: NDArray[Any]) -> JoinedArray:
        """Join variables, of which those in a row have the same length along the other dims."""
        edges = []
        for axis in range(parts.ndim):
            row = parts[tuple(slice(None) if i == axis else 0 for i in range(parts.ndim))]
            lengths = tuple(int(v.shape[axis]) for v in row)
            edges.append(Axis(sum(lengths), max(lengths, default=1), lengths))
        dtype = np.result_type(*{v.dtype for v in parts.flat})
        return cls(parts, tuple(edges), dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dim."""
        return tuple(a.size for a in self.edges)

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.edges)

    @cached_property
    def is_stored_alike(self) -> bool:
        """Whether one encoding holds for all files: dtype, packing, fill value, units."""
        first, *rest = (v.encoding for v in self.variables.flat)
        for key in _ALIKE:
            one = first.get(key)
            # of very many files, most share what they say
            others = [e.get(key) for e in rest if e.get(key) is not one]
            if any(str(other) != str(one) for other in others):
                return False
        return True

    @property
    def encoding(self) -> dict[Any, Any]:
        """What the files' encodings agree on; their chunks are those of files, not of the whole."""
        first: Mapping[Any, Any] = self.variables.flat[0].encoding
        kept = {k: v for k, v in first.items() if k not in _LAYOUT_KEYS}
        if not self.is_stored_alike:
            # packed with the first file's scale, or in its units, the others' values might not fit
            kept = {k: v for k, v in kept.items() if k not in (*_ALIKE, "filters", "serializer")}
        return kept

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a selection, each dim indexed by itself: slices, integers, arrays of integers."""
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in [k for k in keys if not isinstance(k, np.ndarray)]:
            raise IndexError("a joined array is indexed without an ellipsis")
        keys = (*keys, *(slice(None),) * (self.ndim - len(keys)))
        spans = [_span(k, a.size) for k, a in zip(keys, self.edges, strict=True)]
        values = self._box([(start, stop) for start, stop, _ in spans])
        # from the last dim on, so that those that an integer takes away do not shift the others
        for axis in reversed(range(self.ndim)):
            rest = spans[axis][2]
            if rest is not None:
                values = values[(*(slice(None),) * axis, rest)]
        return values

    def _box(self, bounds: Sequence[tuple[int, int]]) -> NDArray[Any]:
        shape = tuple(max(0, stop - start) for start, stop in bounds)
        touched = [
            a.touched(start, stop) for a, (start, stop) in zip(self.edges, bounds, strict=True)
        ]
        indices = list(itertools.product(*touched))
        if len(indices) == 1:
            source, _ = self._part(indices[0], bounds)
            values = self.variables[indices[0]][source].values
            return np.asarray(values, dtype=self.dtype)
        out = np.empty(shape, dtype=self.dtype)
        for index in indices:
            source, target = self._part(index, bounds)
            out[target] = self.variables[index][source].values
        return out

    def _part(
        self, index: Sequence[int], bounds: Sequence[tuple[int, int]]
    ) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """What one file gives of a slice: where it lies in the file, and in the result."""
        source, target = [], []
        for axis, i, (start, stop) in zip(self.edges, index, bounds, strict=True):
            first, last = axis.bounds(i)
            a, b = max(start, first), min(stop, last)
            source.append(slice(a - first, b - first))
            target.append(slice(a - start, b - start))
        return tuple(source), tuple(target)


def _span(key: Any, size: int) -> tuple[int, int, Any]:
    """The elements that a key lies within, and what is to be taken of them; None: all."""
    if isinstance(key, slice):
        start, stop, step = key.indices(size)
        if step == 1:
            return start, max(start, stop), None
        picked = range(start, stop, step)
        if not picked:
            return 0, 0, None
        low = min(picked[0], picked[-1])
        return low, max(picked[0], picked[-1]) + 1, slice(None, None, step)
    index = np.asarray(key)
    if index.dtype == bool:
        index = np.flatnonzero(index)
    if index.dtype.kind not in "iu" or (
        index.size and not -size <= index.min() <= index.max() < size
    ):
        raise IndexError(f"{key!r} is no index of a dim of {size} elements")
    index = np.where(index < 0, index + size, index)
    if not index.size:
        return 0, 0, index.astype(int)
    low = int(index.min())
    return low, int(index.max()) + 1, index - low if index.ndim else int(index) - low


class Pieces:
    """A variable of which dask reads one block at a time, and copies no more than that."""

    def __init__(self, variable: xr.Variable):
        self.variable = variable
        self.shape, self.ndim = variable.shape, variable.ndim
        self.dtype = np.dtype(variable.dtype)

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        return np.asarray(self.variable[key].values)


#: Stored arrays that a process keeps open for one joined array: each holds handles and an index.
MOST_OPEN = 16
#: Bytes that are asked at once of a reader that does not fill buffers, where chunks are smaller.
AT_ONCE = 500_000
#: Attributes by which values are decoded: raw values mean the same only where these are the same.
_MEANING = (
    "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "calendar",
    "dtype", "flag_values", "flag_masks", "flag_meanings",
)  # fmt: skip


class Opener(Protocol):
    """Opens a stored array; only as far as reading takes it, if that is enough."""

    def __call__(self, ref: OneRef, *, lazy: bool) -> StoredArray:
        """Open it."""
        ...


class UnlikeError(SourceError):
    """Stored arrays that cannot be read raw as one."""


class JoinedStored:
    """Boxes of stored arrays as one array; it opens a few of them at a time."""

    def __init__(self, ref: JoinedRef, opener: Opener):
        self._ref = ref
        self._opener = opener
        self._open: OrderedDict[int, StoredArray] = OrderedDict()
        self._lock = threading.Lock()
        self._new = set(ref.new)

    @functools.cached_property
    def info(self) -> StoredInfo:
        """What all of them have in common; those that say the same are opened once."""
        return _gathered(self._ref, self._part)

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a region, each stored array's part in its place."""
        axes = self._ref.axes
        touched = [a.touched(r.start, r.stop) for a, r in zip(axes, region, strict=True)]
        for index in itertools.product(*touched):
            number = self._ref.number(index)
            there, here = [], []
            for axis, i, r in zip(axes, index, region, strict=True):
                first, last = axis.bounds(i)
                start, stop = max(r.start, first), min(r.stop, last)
                there.append(slice(start - first, stop - first))
                here.append(slice(start - r.start, stop - r.start))
            part = self._part(number)
            if out is None:
                out = np.empty([r.stop - r.start for r in region], dtype=_layout(part).dtype)
            own = [r for dim, r in enumerate(there) if dim not in self._new]
            origin = self._ref.origins[number]
            shifted = [slice(r.start + o, r.stop + o) for r, o in zip(own, origin, strict=True)]
            place: list[Any] = [r.start if dim in self._new else r for dim, r in enumerate(here)]
            # with an ellipsis, also what has no dims is a view
            _read_into(part, shifted, out[(*place, ...)])
        if out is None:
            out = np.empty([r.stop - r.start for r in region], dtype=self.info.dtype)
        return out

    def _part(self, number: int) -> StoredArray:
        """Open one of the stored arrays, or take it from those that are open."""
        with self._lock:
            found = self._open.get(number)
            if found is not None:
                self._open.move_to_end(number)
                return found
        found = _checked(self._ref, number, self._opener)
        with self._lock:
            self._open[number] = found
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return found


def _checked(ref: JoinedRef, number: int, opener: Opener) -> StoredArray:
    part = ref.parts[number]
    stored = opener(part, lazy=True)
    stamp = ref.stamps[number]
    try:
        # a library may show an array longer than it is stored
        same = stamp == stamp_of_part(part, _layout(stored).shape)
        same = same or stamp == stamp_of_part(part, stored.info.shape)
    except OSError:
        same = False
    if not same:
        raise SourceError(
            f"{place_of_part(part)} is not the file that was opened: it was changed or replaced "
            "since. Its part was not read. Open the data again, and start again."
        )
    return stored


def _layout(stored: Any) -> StoredInfo:
    """What has to be known of a stored array to read it; its attributes may take a library."""
    layout: StoredInfo | None = getattr(stored, "layout", None)
    if layout is None:
        layout = stored.info
    return layout


def _read_into(part: StoredArray, region: Sequence[slice], out: NDArray[Any]) -> None:
    """Read a region of one stored array; chunk by chunk where it hands out new memory."""
    info = _layout(part)
    fills = info.by_chunk or info.format.startswith("zarr")
    unit = [c if isinstance(c, int) else 1 for c in info.chunks or (1,) * len(region)]
    most = out.size if fills else max(math.prod(unit), AT_ONCE // max(1, info.dtype.itemsize))
    for piece in slabs(region, unit, max(1, most)):
        local = tuple(
            slice(p.start - r.start, p.stop - r.start) for p, r in zip(piece, region, strict=True)
        )
        place: tuple[Any, ...] = (*local, ...)
        here = out[place]
        values = part.read(piece, here)
        if not np.shares_memory(values, here):
            here[...] = values


def _gathered(ref: JoinedRef, part: Callable[[int], StoredArray]) -> StoredInfo:
    """Describe all stored arrays as one."""
    key = (ref.parts, ref.stamps, ref.lengths, ref.origins)
    with _known_lock:
        for known, info in _known:
            if known == key:
                return info
    info = _described(ref, infos_of(ref.parts, part))
    with _known_lock:
        _known.append((key, info))
        del _known[:-_MOST_KNOWN]
    return info


def infos_of(parts: Sequence[OneRef], opened: Callable[[int], StoredArray]) -> list[StoredInfo]:
    """Describe stored arrays. ``opened`` is called once for those that say the same."""
    known: dict[Any, StoredInfo] = {}
    infos = []
    for number, header in enumerate(map(_header_of, parts)):
        # what says the same as another file need not be opened by a library to say it
        alike = None if header is None else known.get(header.digest)
        if header is not None and alike is not None:
            infos.append(replace(alike, shape=header.shape))
            continue
        infos.append(opened(number).info)
        # a library may show an array longer than it is stored
        if header is not None and header.shape == infos[-1].shape:
            known[header.digest] = infos[-1]
    return infos


def _header_of(ref: OneRef) -> Header | None:
    """Return what a file says of a variable; None where only a library can tell."""
    if not isinstance(ref, FileRef):
        return None
    found = read_headers(ref.filename, ref.group)
    return None if found is None else found.variables.get(ref.variable)


#: What was gathered last: a plan asks for the same several times.
_known: list[tuple[Any, StoredInfo]] = []
_known_lock = threading.Lock()
_MOST_KNOWN = 64


def _described(ref: JoinedRef, infos: Sequence[StoredInfo]) -> StoredInfo:
    first = infos[0]
    for number, info in enumerate(infos):
        said = "" if info.attrs is first.attrs else _unlike(first, info)
        if said:
            raise UnlikeError(
                f"{said} in {place_of_part(ref.parts[number])}, unlike in "
                f"{place_of_part(ref.parts[0])}"
            )
    others = [i.attrs for i in infos if i.attrs is not first.attrs]
    attrs = {k: v for k, v in first.attrs.items() if all(_same(v, a.get(k)) for a in others)}
    chunks = None
    if first.chunks is not None:
        grid = [_axis(ref, infos, dim) for dim in range(len(ref.lengths))]
        chunks = tuple(a.chunk if a.parts is None else a.parts for a in grid)
    shards = first.shards if all(i.shards == first.shards for i in infos) else None
    if shards is not None:
        shards = _with_new(ref, shards)
    fills = all(
        i.fill_value is first.fill_value or _same(i.fill_value, first.fill_value) for i in infos
    )
    return replace(
        first,
        shape=ref.shape,
        chunks=chunks,
        shards=shards,
        fill_value=first.fill_value if fills else None,
        attrs=attrs,
        by_chunk=all(i.by_chunk for i in infos),
        arrays=len(infos),
    )


def _unlike(first: StoredInfo, other: StoredInfo) -> str:
    """Say what makes raw values of one array mean something else in another; empty: nothing."""
    if other.dtype != first.dtype:
        return f"the dtype is {other.dtype}, not {first.dtype},"
    for key in _MEANING:
        mine, theirs = first.attrs.get(key), other.attrs.get(key)
        if not _same(mine, theirs):
            return f"{key} is {theirs!r}, not {mine!r},"
    if (first.chunks is None) != (other.chunks is None):
        return "values lie in chunks or not"
    return ""


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None or isinstance(a, str | bytes) or isinstance(b, str | bytes):
        return type(a) is type(b) and bool(a == b)
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return bool(x.tobytes() == y.tobytes()) if not x.dtype.hasobject else bool((x == y).all())


def _with_new(ref: JoinedRef, lengths: Sequence[Any]) -> tuple[Any, ...]:
    """Put one element for each new dim among what is said of an array's own dims."""
    own = iter(lengths)
    return tuple(1 if dim in ref.new else next(own) for dim in range(len(ref.lengths)))


def _axis(ref: JoinedRef, infos: Sequence[StoredInfo], dim: int) -> Axis:
    """The stored chunks along one dim: file after file, where they differ in common multiples."""
    counts = [len(n) for n in ref.lengths]
    if dim in ref.new:
        return Axis.regular(counts[dim], 1)
    cuts: list[dict[tuple[Any, ...], Axis]] = [{} for _ in range(counts[dim])]
    own = sum(1 for d in range(dim) if d not in ref.new)
    for number, index in enumerate(itertools.product(*map(range, counts))):
        info, start, count = infos[number], ref.origins[number][own], ref.lengths[dim][index[dim]]
        chunks = (info.chunks or ())[own]
        key = (info.shape[own], chunks, start)
        if key not in cuts[index[dim]]:
            cuts[index[dim]][key] = Axis.of(info.shape[own], chunks).within(start, count)
    parts: list[int] = []
    for found in cuts:
        common = functools.reduce(coarser, found.values())
        if counts[dim] == 1:
            return common
        parts += [common.bounds(j)[1] - common.bounds(j)[0] for j in range(common.count)]
    return Axis.of(ref.axes[dim].size, parts)


def coarser(a: Axis, b: Axis) -> Axis:
    """Return the finest cut at which both are cut."""
    if a == b:
        return a
    if a.is_regular and b.is_regular:
        return Axis.regular(a.size, lcm_within(a.chunk, b.chunk, a.size))
    edges = [e for e in (a.bounds(i)[1] for i in range(a.count)) if b.has_edge(e)]
    return Axis.of(a.size, [q - p for p, q in itertools.pairwise([0, *edges])])
