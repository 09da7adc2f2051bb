"""How one variable is stored: the facts that every decision starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xchunk.core.grid import Axis, Grid
from xchunk.core.shown import Shown
from xchunk.core.types import Access, Chunks

#: Chunks that zarr decodes at once within one task (``async.concurrency``).
_ZARR_CONCURRENCY = 10


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
class StoredPart:
    """What one file, or store, holds of a variable."""

    place: str
    """The file, or the store."""
    shape: tuple[int, ...] = ()
    """Elements along each dim."""
    dtype: str = ""
    """The dtype of the stored bytes."""
    chunks: tuple[int | tuple[int, ...], ...] | None = None
    """Elements of a chunk along each dim; None: not chunked."""
    codecs: tuple[str, ...] = ()
    """Names of the codecs, in the order of encoding."""
    packing: tuple[tuple[str, str], ...] = ()
    """What decides how its numbers are decoded: attributes with their values."""
    nbytes: int | None = None
    """Bytes on disk, codecs applied; None: not counted."""
    n_chunks: int | None = None
    """Chunks that are there (shards, where it has them); None: not counted."""


@dataclass(frozen=True, repr=False)
class ArrayLayout(Shown, view="layout"):
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
    """``zarr2``, ``zarr3``, ``netcdf4``, ``netcdf3``, ``grib``, ``raster``, ``memory`` or
    ``dask``."""
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
    files: int = 1
    """Files, or stores, whose arrays are joined to it."""
    alike: bool = True
    """Whether values are decoded alike in all of them: stored values can then be copied raw."""
    by_chunk: bool = False
    """Whether a rechunk reads it chunk by chunk, without a library and its lock."""
    reader: str = ""
    """The package that reads it, where only that can tell how it is stored; empty: none."""
    unlocked: bool = False
    """Whether its lazy blocks are read so too, since xchunk has opened the file."""
    attrs: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The CF attributes by which axes are recognised (standard_name, axis, units, …)."""
    parts: tuple[StoredPart, ...] = field(default=(), compare=False, repr=False)
    """What each file holds of it, where that was counted."""

    @property
    def decoded_at_once(self) -> int:
        """Stored chunks that a task decodes at once when it reads a lazy block."""
        by_zarr = self.format.startswith("zarr") and not self.unlocked
        return _ZARR_CONCURRENCY if by_zarr else 1

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
    def present_chunks(self) -> int | None:
        """Chunks (shards, where there are any) that are stored; None: not counted."""
        return _sum(part.n_chunks for part in self.parts)

    @property
    def n_chunks(self) -> int:
        """Number of stored chunks; 1 where the array is not chunked."""
        return self.read_grid.count if self.chunks is not None else min(1, self.size)

    def plot(self, *, request: Access | Mapping[str, Any] | None = None, ax: Any = None) -> Any:
        """Draw the stored chunks, shards and dask blocks on the array's true proportions.

        Parameters
        ----------
        request : str or mapping, optional
            One request, whose chunks are lit up: a preset such as ``"timeseries"``, or its dims,
            whole (-1) or so many elements of them: ``{"time": -1, "lat": 1}``. It is placed in
            the middle of the array.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidChunksError
            If the request cannot be understood, or there is nothing to draw.
        """
        return self._plot(request=request, ax=ax)

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
            "present_chunks": self.present_chunks,
            "is_coord": self.is_coord,
            "files": self.files,
            "reader": self.reader,
        }


def _sum(counts: Iterable[int | None]) -> int | None:
    """Sum what was counted; None where anything was not."""
    known = [*counts]
    return None if not known or None in known else sum(n for n in known if n is not None)


def _plain(chunk: int | tuple[int, ...]) -> int | list[int]:
    return chunk if isinstance(chunk, int) else list(chunk)


def _scalar(value: Any) -> Any:
    """Return a fill value as a JSON type; NaN and infinities have none and become strings."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
