"""Layouts read out of Datasets: how each variable is stored, by what its store says.

Also what stored arrays take on disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout, Packing, StoredPart
from xchunk.core.redact import without_secrets
from xchunk.core.shown import Shown
from xchunk.errors import SourceError
from xchunk.sources.arrays import close_files, expect, open_stored
from xchunk.sources.decoding import DECODING_KEYS
from xchunk.sources.foreign import numpy_dtype
from xchunk.sources.hdf5_read import open_direct
from xchunk.sources.index_coords import Neighbours, find_namesake, homes_in_tree
from xchunk.sources.joint import coarser, infos_of
from xchunk.sources.provenance import reader_name
from xchunk.sources.refs import (
    AxisPart,
    FileRef,
    OneRef,
    StoredInfo,
    StoredRef,
    Traced,
    ZarrRef,
    ones_of,
)
from xchunk.sources.trace import trace, trace_each
from xchunk.stores.stores import describe

if TYPE_CHECKING:
    import pandas as pd

#: Objects of one array that are counted at most.
_MOST = 1_000_000
#: What lies in an array's folder and is no chunk.
_METADATA = ("zarr.json", ".zarray", ".zattrs")


def parts_of(ref: StoredRef) -> tuple[StoredPart, ...]:
    """Count what a stored array takes, for each file that it is joined of.

    - ``ref``: the array. The indexes of HDF5 files are read, and local folders listed; objects
      behind URLs are not counted.
    """
    return tuple(_part(one) for one in ones_of(ref))


def _part(ref: OneRef) -> StoredPart:
    place = ref.filename if isinstance(ref, FileRef) else describe(ref.store)
    try:
        info = open_stored(ref).info
        nbytes, count = _in_file(ref, info) if isinstance(ref, FileRef) else _in_store(ref)
    except (SourceError, OSError):
        return StoredPart(place)
    return StoredPart(
        place,
        shape=tuple(info.shape),
        dtype=str(info.dtype),
        chunks=info.chunks,
        codecs=info.codecs,
        packing=tuple(
            (key, str(info.attrs[key]))
            for key in (*DECODING_KEYS, "units", "calendar")
            if key in info.attrs
        ),
        nbytes=nbytes,
        n_chunks=count,
    )


def _in_file(ref: FileRef, info: StoredInfo) -> tuple[int | None, int | None]:
    direct = open_direct(ref.filename, ref.group, ref.variable)
    if direct is None:
        return None, None
    dataset = direct.dataset
    if dataset.table is not None:
        return int(dataset.table.sizes.sum()), len(dataset.table)
    is_there = dataset.offset is not None or dataset.raw is not None
    return (math.prod(info.shape) * info.dtype.itemsize if is_there else 0), int(is_there)


def _in_store(ref: ZarrRef) -> tuple[int | None, int | None]:
    if type(ref.store) is not LocalStore:
        return None, None
    nbytes = count = 0
    for size in _sizes(Path(ref.store.root) / ref.path):
        nbytes, count = nbytes + size, count + 1
        if count >= _MOST:
            return None, None
    return nbytes, count


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the bytes of each file of chunks below an array's folder."""
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path))
            elif entry.name not in _METADATA:
                yield entry.stat().st_size


_AXIS_ATTRS = ("standard_name", "axis", "units", "positive", "long_name", "calendar")


@dataclass(frozen=True, repr=False)
class LayoutReport(Shown, view="layouts"):
    """How every variable of a Dataset (or of a tree) is stored."""

    layouts: tuple[ArrayLayout, ...]
    """One for each variable, coordinates last."""
    source: str = ""
    """Where the Dataset comes from, in words."""

    def __iter__(self) -> Iterator[ArrayLayout]:
        return iter(self.layouts)

    def __len__(self) -> int:
        return len(self.layouts)

    def __getitem__(self, name: str) -> ArrayLayout:
        for layout in self.layouts:
            if layout.name == name:
                return layout
        raise KeyError(name)

    @property
    def nbytes(self) -> int:
        """Bytes of all variables in memory, decoded."""
        return sum(layout.nbytes for layout in self.layouts)

    def plot(
        self,
        kind: str = "layout",
        *,
        variable: str | None = None,
        access: Any = None,
        ax: Any = None,
    ) -> Any:
        """Plot how a variable is stored, or what that costs by access pattern.

        Parameters
        ----------
        kind : {"layout", "amplification"}
            The layout as it is drawn by `ArrayLayout.plot`; or, for each access pattern, the
            elements decoded for each element that one request needs.
        variable : str, optional
            The variable; the largest one by default.
        access : str, mapping or list, optional
            For a layout, one request that is lit up; for amplification, a list of uses: the
            presets whose dims are found, by default.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidChunksError
            If there is no such variable or kind.
        """
        return self._plot(kind=kind, variable=variable, access=access, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "source": self.source,
            "nbytes": self.nbytes,
            "variables": {layout.name: layout.to_dict() for layout in self.layouts},
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row for each variable, indexed by its name."""
        import pandas as pd

        rows = [layout.to_dict() for layout in self.layouts]
        columns = list(rows[0]) if rows else ["name"]
        return pd.DataFrame(rows, columns=columns).set_index("name")


def expect_all(groups: Mapping[str, xr.Dataset]) -> None:
    """Open arrays of far stores beside each other, whose layouts will be read."""
    from xchunk.sources.xarray_adapter import without_units

    found = (trace(without_units(v)) for ds in groups.values() for v in ds.variables.values())
    expect(traced.ref for traced in found if traced is not None)


def read_layouts(groups: Mapping[str, xr.Dataset], *, count: bool = False) -> LayoutReport:
    """Read the layouts of some groups' Datasets.

    - ``groups``: the Datasets by the paths of their groups; ``""`` is the root.
    - ``count``: whether it is counted what is on disk, for which files' indexes are read and
      folders listed.
    """
    from xchunk.sources.xarray_adapter import without_units

    data: list[ArrayLayout] = []
    coords: list[ArrayLayout] = []
    source = ""
    try:
        homes = homes_in_tree(groups)
        for path, ds in groups.items():
            source = source or str(ds.encoding.get("source", ""))
            variables = {name: without_units(v) for name, v in ds.variables.items()}
            traces = {name: trace(variable) for name, variable in variables.items()}
            expect(traced.ref for traced in traces.values() if traced is not None)
            neighbours = Neighbours.of(
                ((variables[n], traced) for n, traced in traces.items() if traced is not None),
                homes[path],
            )
            for name, variable in variables.items():
                is_coord = name in ds.coords
                full = f"{path}/{name}" if path else str(name)
                traced = traces[name]
                if traced is None and name in ds.xindexes:
                    # xarray has loaded it; what is stored under its name is what it was
                    traced = find_namesake(str(name), variable, neighbours)
                layout, each = _read(full, variable, is_coord, traced)
                if count and each:
                    parts = tuple(part for one in each for part in parts_of(one.ref))
                    known = [part.nbytes for part in parts]
                    total = None if None in known else sum(n or 0 for n in known)
                    layout = replace(layout, parts=parts, stored_nbytes=total)
                source = source or (_where(each) if each else "")
                (coords if is_coord else data).append(layout)
    finally:
        # netCDF's library fails where a file is opened again beside a handle that stays open
        close_files()
    return LayoutReport((*data, *coords), without_secrets(source) or "memory")


def read_layout(name: str, variable: xr.Variable, *, is_coord: bool = False) -> ArrayLayout:
    """Read how one variable is stored.

    The facts come from the stored array where the variable can be traced to one, and
    otherwise from its dask chunks; the encoding alone is no evidence.
    """
    return _read(name, variable, is_coord, trace(variable))[0]


def _read(
    name: str, variable: xr.Variable, is_coord: bool, traced: Traced | None
) -> tuple[ArrayLayout, Sequence[Traced]]:
    """Read how a variable is stored; also tell where, one by one where it is stored unlike."""
    dims = tuple(str(d) for d in variable.dims)
    attrs = {k: variable.attrs[k] for k in _AXIS_ATTRS if k in variable.attrs}
    for key in ("units", "calendar"):
        if key in variable.encoding:
            attrs.setdefault(key, variable.encoding[key])
    common: dict[str, Any] = {
        "name": name,
        "dims": dims,
        "shape": tuple(variable.shape),
        "dtype": numpy_dtype(variable.dtype),
        "dask_chunks": variable.chunks,
        "is_coord": is_coord,
        "attrs": attrs,
    }
    info = None
    if traced is not None:
        try:
            info = open_stored(traced.ref).info
        except SourceError:
            info = None
    if traced is None or info is None or len(info.shape) != len(traced.stored_shape):
        chunked = variable.chunks is not None
        computed = ArrayLayout(
            **common,
            stored_dtype=numpy_dtype(variable.dtype),
            chunks=_compact(variable.chunks) if variable.chunks is not None else None,
            format="dask" if chunked else "memory",
            reader=reader_name(variable),
        )
        found = _read_each(computed, variable) if chunked else None
        return found or (computed, () if traced is None else [traced])
    return _as_stored(common, info, traced), [traced]


def _read_each(
    computed: ArrayLayout, variable: xr.Variable
) -> tuple[ArrayLayout, Sequence[Traced]] | None:
    """Read how the arrays are stored that a variable joins, although they are not decoded alike."""
    found = trace_each(variable)
    if found is None:
        return None
    edges, each = found
    refs = [ref for one in each for ref in ones_of(one.ref)]
    try:
        infos = infos_of(refs, lambda number: open_stored(refs[number]))
    except SourceError:
        return None
    layouts = np.empty([axis.count for axis in edges], dtype=object)
    for index, one, info in zip(np.ndindex(layouts.shape), each, infos, strict=True):
        if len(info.shape) != len(one.stored_shape):
            return None
        own = {
            "name": computed.name,
            "dims": computed.dims,
            "shape": tuple(p.count for p in one.axes),
            "dtype": computed.dtype,
        }
        layouts[index] = _as_stored(own, info, one)
    # a rechunk has dask decode them, each in its way
    return replace(join_layouts(computed, edges, layouts), alike=False, by_chunk=False), each


def _as_stored(common: Mapping[str, Any], info: StoredInfo, traced: Traced) -> ArrayLayout:
    return ArrayLayout(
        **common,
        stored_dtype=numpy_dtype(info.dtype),
        chunks=None if info.chunks is None else _seen(info.chunks, traced),
        shards=None if info.shards is None else _whole_only(info.shards, traced),
        codecs=info.codecs,
        format=info.format,
        packing=_packing(info),
        fill_value=info.fill_value,
        files=info.arrays,
        by_chunk=info.by_chunk and not info.serial,
        unlocked=info.by_chunk and all(r.unlocked for r in ones_of(traced.ref)),
    )


def join_layouts(whole: ArrayLayout, edges: Sequence[Axis], each: NDArray[Any]) -> ArrayLayout:
    """Describe arrays side by side as if they were one.

    - ``whole``: the variable that shows all of them.
    - ``edges``: where the arrays begin along each dim.
    - ``each``: their layouts, an array of objects with the variable's dims.
    """
    first: ArrayLayout = each.flat[0]
    free = all(v.chunks is None for v in each.flat)
    axes = [_joined_axis(edge, each, i) for i, edge in enumerate(edges)]
    return replace(
        whole,
        stored_dtype=max((v.stored_dtype for v in each.flat), key=lambda t: t.itemsize),
        chunks=None if free else tuple(a.chunk if a.is_regular else a.parts or () for a in axes),
        codecs=next((v.codecs for v in each.flat if v.codecs), ()),
        format=first.format,
        packing=first.packing if all(v.packing == first.packing for v in each.flat) else None,
        fill_value=first.fill_value,
        files=each.size,
        by_chunk=all(v.by_chunk for v in each.flat),
        unlocked=all(v.unlocked for v in each.flat),
    )


def _joined_axis(edges: Axis, layouts: NDArray[Any], dim: int) -> Axis:
    """The stored chunks along one dim: file after file, where they differ in common multiples."""
    parts: list[int] = []
    for i in range(layouts.shape[dim]):
        start, stop = edges.bounds(i)
        length = stop - start
        common: Axis | None = None
        for layout in layouts[(*(slice(None),) * dim, slice(i, i + 1))].flat:
            chunk = 1 if layout.chunks is None else layout.chunks[dim]
            one = Axis.regular(length, chunk) if isinstance(chunk, int) else Axis.of(length, chunk)
            common = one if common is None else coarser(common, one)
        if common is not None and length:
            parts += [b - a for a, b in map(common.bounds, range(common.count))]
    return Axis.of(edges.size, parts)


def _where(each: Sequence[Traced]) -> str:
    ref, *others = [ref for one in each for ref in ones_of(one.ref)]
    if others:
        last = others[-1]
        names = [r.filename if isinstance(r, FileRef) else describe(r.store) for r in (ref, last)]
        return f"{1 + len(others)} files, {names[0]} … {names[1].rpartition('/')[2]}"
    return ref.filename if isinstance(ref, FileRef) else describe(ref.store)


def _compact(chunks: tuple[tuple[int, ...], ...]) -> tuple[int | tuple[int, ...], ...]:
    axes = [Axis.of(sum(c), c) for c in chunks]
    return tuple(a.chunk if a.parts is None else a.parts for a in axes)


def _seen(
    chunks: tuple[int | tuple[int, ...], ...], traced: Traced
) -> tuple[int | tuple[int, ...], ...]:
    """Return the stored chunks as the variable's own axes see them."""
    out: list[int | tuple[int, ...]] = []
    for part in traced.axes:
        stored = Axis.of(traced.stored_shape[part.stored_axis], chunks[part.stored_axis])
        axis = _axis_of_part(stored, part)
        out.append(axis.chunk if axis.parts is None else axis.parts)
    return tuple(out)


def _axis_of_part(stored: Axis, part: AxisPart) -> Axis:
    if (part.start, part.step, part.count) == (0, 1, stored.size) or part.count == 0:
        return stored if part.count else Axis.regular(0, stored.chunk)
    if part.step == 1 and stored.is_regular and part.start % stored.chunk == 0:
        return Axis.regular(part.count, stored.chunk)
    sizes: dict[int, int] = {}
    if abs(part.step) >= stored.chunk and stored.is_regular:
        return Axis.regular(part.count, 1)
    for i in range(part.count):
        chunk = stored.touched(part.start + i * part.step, part.start + i * part.step + 1)[0]
        sizes[chunk] = sizes.get(chunk, 0) + 1
    return Axis.of(part.count, tuple(sizes.values()))


def _whole_only(shards: tuple[int, ...], traced: Traced) -> tuple[int, ...] | None:
    """Return the shards where every axis shows them as they are, else None."""
    plain = all(p.start == 0 and p.step == 1 and not traced.fixed for p in traced.axes)
    return tuple(shards[p.stored_axis] for p in traced.axes) if plain else None


def _packing(info: StoredInfo) -> Packing | None:
    scale, offset = (info.attrs.get(k) for k in ("scale_factor", "add_offset"))
    if scale is None and offset is None:
        return None
    try:
        dtype = np.result_type(*(np.asarray(v) for v in (scale, offset) if v is not None))
        return Packing(
            float(np.asarray(1.0 if scale is None else scale).reshape(-1)[0]),
            float(np.asarray(0.0 if offset is None else offset).reshape(-1)[0]),
            str(dtype),
        )
    except (TypeError, ValueError, IndexError):
        return None
