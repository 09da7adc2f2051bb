"""How one variable is stored: the facts that every decision starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xchunk._typing import Chunks
from xchunk.core.grid import Axis, Grid

__all__ = ["ArrayLayout", "Packing"]


@dataclass(frozen=True)
class Packing:
    """Linear packing after the CF conventions: ``decoded = stored * scale_factor + add_offset``."""

    scale_factor: float = 1.0
    """Factor, in decoded units."""
    add_offset: float = 0.0
    """Offset, in decoded units."""
    dtype: str = "float64"
    """The dtype of the two attributes, which decides the decoded dtype."""


@dataclass(frozen=True)
class ArrayLayout:
    """The layout of one variable, on disk and in dask."""

    name: str
    """Name of the variable; with its group's path in a tree."""
    dims: tuple[str, ...]
    """Names of the dims, in stored order."""
    shape: tuple[int, ...]
    """Elements along each dim."""
    dtype: np.dtype[Any]
    """The dtype that a user sees: after unpacking, masking and decoding of times."""
    stored_dtype: np.dtype[Any]
    """The dtype of the stored bytes."""
    chunks: tuple[int | tuple[int, ...], ...] | None = None
    """Elements of a chunk along each dim (all lengths where irregular); None: not chunked."""
    shards: Chunks | None = None
    """Elements of a shard along each dim (zarr v3); None: every chunk is an object of its own."""
    codecs: tuple[str, ...] = ()
    """Names of the codecs and filters, in the order of encoding; none: uncompressed."""
    format: str = "memory"
    """``zarr2``, ``zarr3``, ``netcdf4``, ``netcdf3``, ``grib``, ``memory`` or ``dask``."""
    packing: Packing | None = None
    """How stored integers become numbers; None: not packed."""
    fill_value: Any = None
    """What a missing chunk reads as; None: unknown or none."""
    dask_chunks: tuple[tuple[int, ...], ...] | None = None
    """Lengths of the dask blocks along each dim; None: not a dask array."""
    stored_nbytes: int | None = None
    """Bytes on disk, codecs applied; None: not known without counting."""
    is_coord: bool = False
    """Whether the variable is a coordinate."""
    attrs: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The CF attributes by which axes are recognised (standard_name, axis, units, …)."""

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole variable in memory, decoded."""
        return self.size * self.dtype.itemsize

    @property
    def raw_nbytes(self) -> int:
        """Bytes of the whole variable as stored, before codecs."""
        return self.size * self.stored_dtype.itemsize

    @property
    def sizes(self) -> dict[str, int]:
        """Elements along each dim, by name."""
        return dict(zip(self.dims, self.shape, strict=True))

    @property
    def is_chunked(self) -> bool:
        """Whether the store keeps the variable in chunks; contiguous arrays read by runs."""
        return self.chunks is not None

    @property
    def read_grid(self) -> Grid:
        """The stored chunks: what is decoded as a whole.

        An array that is not chunked can be read row by row without waste, so its unit is
        one element along each dim but the last, which is a contiguous run.
        """
        if self.chunks is not None:
            return Grid.of(self.shape, self.chunks)
        rows = tuple(Axis.regular(n, 1) for n in self.shape[:-1])
        return Grid((*rows, *(Axis.regular(n, -1) for n in self.shape[-1:])))

    @property
    def write_grid(self) -> Grid:
        """What is written as a whole: the shards, or the chunks where there are none."""
        return Grid.of(self.shape, self.shards) if self.shards is not None else self.read_grid

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of one full stored chunk in memory, decoded; the whole array if not chunked."""
        elements = self.size if self.chunks is None else self.read_grid.box_elements
        return elements * self.dtype.itemsize

    @property
    def n_chunks(self) -> int:
        """Number of stored chunks; 1 where the array is not chunked."""
        return self.read_grid.count if self.chunks is not None else min(1, self.size)

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON types."""
        return {
            "name": self.name,
            "dims": list(self.dims),
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "stored_dtype": str(self.stored_dtype),
            "chunks": None if self.chunks is None else [_plain(c) for c in self.chunks],
            "shards": None if self.shards is None else list(self.shards),
            "codecs": list(self.codecs),
            "format": self.format,
            "packing": None
            if self.packing is None
            else {
                "scale_factor": self.packing.scale_factor,
                "add_offset": self.packing.add_offset,
                "dtype": self.packing.dtype,
            },
            "fill_value": _scalar(self.fill_value),
            "dask_chunks": None
            if self.dask_chunks is None
            else [list(c) for c in self.dask_chunks],
            "nbytes": self.nbytes,
            "stored_nbytes": self.stored_nbytes,
            "chunk_nbytes": self.chunk_nbytes,
            "n_chunks": self.n_chunks,
            "is_coord": self.is_coord,
        }


def _plain(chunk: int | tuple[int, ...]) -> int | list[int]:
    return chunk if isinstance(chunk, int) else list(chunk)


def _scalar(value: Any) -> Any:
    """Return a fill value as a JSON type; NaN and infinities have none and become strings."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
