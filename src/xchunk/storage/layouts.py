"""Layouts read out of Datasets: how each variable is stored, by what its store says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xchunk._secrets import without_secrets
from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout, Packing
from xchunk.core.units import format_bytes
from xchunk.errors import SourceError
from xchunk.storage.refs import AxisPart, FileRef, Traced
from xchunk.storage.stored import StoredInfo, close_files, open_stored
from xchunk.storage.stores import describe
from xchunk.storage.trace import trace
from xchunk.storage.twins import Neighbours, find_namesake, homes_in_tree

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LayoutReport", "read_layout", "read_layouts"]

_AXIS_ATTRS = ("standard_name", "axis", "units", "positive", "long_name", "calendar")


@dataclass(frozen=True)
class LayoutReport:
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

    def __str__(self) -> str:
        return f"{len(self)} variables, {format_bytes(self.nbytes)}, from {self.source}"


def read_layouts(groups: Mapping[str, xr.Dataset]) -> LayoutReport:
    """Read the layouts of some groups' Datasets; ``""`` is the root."""
    data: list[ArrayLayout] = []
    coords: list[ArrayLayout] = []
    source = ""
    try:
        homes = homes_in_tree(groups)
        for path, ds in groups.items():
            source = source or str(ds.encoding.get("source", ""))
            traces = {name: trace(variable) for name, variable in ds.variables.items()}
            neighbours = Neighbours.of(
                ((ds.variables[n], traced) for n, traced in traces.items() if traced is not None),
                homes[path],
            )
            for name, variable in ds.variables.items():
                is_coord = name in ds.coords
                full = f"{path}/{name}" if path else str(name)
                traced = traces[name]
                if traced is None and name in ds.xindexes:
                    # xarray has loaded it; what is stored under its name is what it was
                    traced = find_namesake(str(name), variable, neighbours)
                layout, where = _read(full, variable, is_coord, traced)
                source = source or where
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
) -> tuple[ArrayLayout, str]:
    dims = tuple(str(d) for d in variable.dims)
    attrs = {k: variable.attrs[k] for k in _AXIS_ATTRS if k in variable.attrs}
    for key in ("units", "calendar"):
        if key in variable.encoding:
            attrs.setdefault(key, variable.encoding[key])
    common: dict[str, Any] = {
        "name": name,
        "dims": dims,
        "shape": tuple(variable.shape),
        "dtype": _real_dtype(variable.dtype),
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
        return (
            ArrayLayout(
                **common,
                stored_dtype=_real_dtype(variable.dtype),
                chunks=_compact(variable.chunks) if variable.chunks is not None else None,
                format="dask" if chunked else "memory",
            ),
            "",
        )
    layout = ArrayLayout(
        **common,
        stored_dtype=_real_dtype(info.dtype),
        chunks=None if info.chunks is None else _seen(info.chunks, traced),
        shards=None if info.shards is None else _whole_only(info.shards, traced),
        codecs=info.codecs,
        format=info.format,
        packing=_packing(info),
        fill_value=info.fill_value,
    )
    return layout, _where(traced)


def _where(traced: Traced) -> str:
    ref = traced.ref
    return ref.filename if isinstance(ref, FileRef) else describe(ref.store)


def _real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    # xarray's index variables may have a dtype of pandas
    return np.dtype(dtype)


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
