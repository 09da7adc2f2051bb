"""Datasets that look like a user's, with stand-ins for what is stored; also smaller ones.

A twin is shorter along some dims. *Fewer* blocks: it ends earlier, and the graph is smaller.
*Thinner* blocks: every edge, of blocks and of stored chunks, moves towards the start by the
same factor, so that the graph is the same and its tasks are quick to try.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xchunk._typing import DimChunk
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout
from xchunk.simulate.lazy import compression_of
from xchunk.simulate.standin import StandIn

__all__ = ["Shape", "Source", "blocks_of"]


@dataclass(frozen=True)
class Shape:
    """How a twin differs from the data in size."""

    keep: Mapping[str, int] = field(default_factory=dict)
    """Elements that are kept of a dim, from its start."""
    thin: Mapping[str, float] = field(default_factory=dict)
    """Factor below 1 by which a dim is thinned."""

    def fraction(self, sizes: Mapping[str, int]) -> float:
        """The part of the data that is left."""
        part = 1.0
        for d, n in self.keep.items():
            part *= n / sizes[d] if d in sizes else 1
        for d, f in self.thin.items():
            part *= _scaled(sizes[d], f) / sizes[d]
        return part


@dataclass(frozen=True)
class Source:
    """A user's Datasets, with what is known of their variables."""

    groups: Mapping[str, xr.Dataset]
    """The Datasets by path; ``""`` is the root."""
    layouts: Mapping[str, ArrayLayout]
    """The layouts by the variables' full names."""
    rates: Rates
    """How fast things are."""

    @property
    def movable(self) -> dict[str, ArrayLayout]:
        """The variables whose blocks can be chosen: stored or lazy, and no index."""
        out = {}
        for path, ds in self.groups.items():
            for name in ds.variables:
                full = f"{path}/{name}" if path else str(name)
                v = self.layouts[full]
                if name not in ds.xindexes and v.format != "memory" and v.size and v.ndim:
                    out[full] = v
        return out

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each dim that a movable variable has."""
        return {d: n for v in self.movable.values() for d, n in v.sizes.items()}

    def twin(
        self, chunks: Mapping[str, Mapping[str, DimChunk]], shape: Shape | None = None
    ) -> dict[str, xr.Dataset]:
        """Make Datasets of stand-ins with some chunks; dims that are not named stay whole."""
        shape = shape or Shape()
        movable = self.movable
        out = {}
        for path, ds in self.groups.items():
            small = ds.isel(_positions(ds, shape), missing_dims="ignore")
            changed = {}
            for name, variable in ds.variables.items():
                full = f"{path}/{name}" if path else str(name)
                if full in movable:
                    own = chunks.get(full, {})
                    changed[name] = self._stand_in(movable[full], variable, own, shape)
            # the sizes of all variables change together, so they are put together anew
            bare = small.drop_vars(list(changed))
            data = {n: changed.get(n, small.variables[n]) for n in ds.data_vars}
            twin = xr.Dataset(data, bare.coords, ds.attrs)
            out[path] = twin.assign_coords({n: changed[n] for n in ds.coords if n in changed})
        return out

    def _stand_in(
        self,
        layout: ArrayLayout,
        variable: xr.Variable,
        own: Mapping[str, DimChunk],
        shape: Shape,
    ) -> xr.Variable:
        blocks = tuple(
            _cut(Axis.of(n, _whole(own.get(d, -1), n)), d, shape)
            for d, n in zip(layout.dims, layout.shape, strict=True)
        )
        if layout.format == "dask":
            # a computed array brings its own graph along
            index = _positions_of(variable.sizes, shape)
            return variable.isel(index).chunk(dict(zip(layout.dims, blocks, strict=True)))
        stand_in = StandIn(_smaller(layout, shape), compression_of(layout, self.rates))
        data = da.from_array(
            stand_in,
            chunks=blocks,
            name=f"stored-{layout.name}-{id(stand_in):032x}",
            lock=False,
            meta=np.empty((0,) * layout.ndim, layout.dtype),
        )
        return xr.Variable(variable.dims, data, variable.attrs, variable.encoding)


def blocks_of(
    layout: ArrayLayout, own: Mapping[str, DimChunk], shape: Shape | None = None
) -> dict[str, int]:
    """Number of blocks along each dim, of the data or of a twin."""
    axes = {d: Axis.of(n, _whole(own.get(d, -1), n)) for d, n in layout.sizes.items()}
    return {d: a.count if shape is None else len(_cut(a, d, shape)) for d, a in axes.items()}


def _whole(chunk: DimChunk, n: int) -> DimChunk:
    return max(n, 1) if chunk == -1 else chunk


def _scaled(position: int, factor: float) -> int:
    """Where an edge goes; different edges stay different as long as parts are long enough."""
    return max(1 if position else 0, round(position * factor))


def _cut(axis: Axis, dim: str, shape: Shape) -> tuple[int, ...]:
    """Lengths of an axis's parts in a twin."""
    edges = [axis.bounds(i)[1] for i in range(axis.count)]
    size = axis.size
    if dim in shape.keep:
        size = min(size, shape.keep[dim])
        edges = [e for e in edges if e < size] + [size]
    if dim in shape.thin:
        edges = [_scaled(e, shape.thin[dim]) for e in edges]
    lengths = np.diff([0, *edges])
    return tuple(int(n) for n in lengths if n > 0) or (size,)


def _smaller(layout: ArrayLayout, shape: Shape) -> ArrayLayout:
    """The layout of a stored array in a twin."""
    if not any(d in shape.keep or d in shape.thin for d in layout.dims):
        return layout
    cut = [
        _cut(Axis.of(n, c), d, shape)
        for d, n, c in zip(
            layout.dims, layout.shape, layout.chunks or (1,) * layout.ndim, strict=True
        )
    ]
    return replace(
        layout,
        shape=tuple(sum(c) for c in cut),
        chunks=None if layout.chunks is None else tuple(cut),
        shards=None,
        dask_chunks=None,
    )


def _positions_of(sizes: Mapping[Any, int], shape: Shape) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for d, n in shape.keep.items():
        if d in sizes:
            out[d] = slice(0, n)
    for d, f in shape.thin.items():
        if d in sizes:
            size = shape.keep.get(d, sizes[d])
            # evenly from all of the dim, so that coordinates keep their range
            out[d] = np.linspace(0, size - 1, _scaled(size, f)).round().astype(int)
    return out


def _positions(ds: xr.Dataset, shape: Shape) -> dict[str, Any]:
    return _positions_of(dict(ds.sizes), shape)
