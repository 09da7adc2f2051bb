"""Better chunks than those that there are, which a check recommends, and how they are spelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xchunk.core.chunkspec import STORED_CHUNK
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.suggest.lazy_pass import GOOD_BLOCK, item_nbytes
from xchunk.core.types import DimChunk


@dataclass(frozen=True)
class Opening:
    """How a Dataset or a tree is opened, as code that runs."""

    names: tuple[str, ...] = ()
    """Path or URL of what was opened, a pattern, or several; empty where nothing names it."""
    is_joined: bool = False
    """Whether these are several files that are joined."""
    along: str = ""
    """The dim along which they are joined as they are listed; empty where labels tell."""
    is_zarr: bool = False
    """Whether they are zarr stores."""
    is_tree: bool = False
    """Whether it is a tree."""

    def call(self, *how: str, group: str = "", tree: bool = False) -> str:
        """Spell how xarray opens it.

        - ``*how``: more arguments.
        - ``group``: the group that is opened of a tree.
        - ``tree``: whether all groups are opened.
        """
        joined = [f"combine='nested', concat_dim={self.along!r}"] if self.along else []
        plain = len(self.names) == 1 and self.names[0].rstrip("/").endswith(".zarr")
        engine = ["engine='zarr'"] if self.is_zarr and (self.is_joined or not plain) else []
        inside = [f"group={group!r}"] if group else []
        if self.is_joined:
            return f"xr.open_mfdataset({', '.join([self._named, *engine, *joined, *inside, *how])})"
        what = "open_datatree" if tree else "open_dataset"
        return f"xr.{what}({', '.join([self._named, *engine, *inside, *how])})"

    def chunked(self, chunks: Mapping[str, int]) -> str:
        """Spell how it is opened in chunks. What has no name was computed, and is chunked."""
        if not self.names or (self.is_joined and self.is_tree):
            return f"ds = ds.chunk({chunks_code(chunks)})  # better where its values are made"
        return f"ds = {self.call(f'chunks={chunks_code(chunks)}', tree=self.is_tree)}"

    @property
    def fitting(self) -> str:
        """Spell how it is opened in chunks that fit. What was computed is loaded."""
        if self.is_joined and (self.is_tree or not self.names):
            return "ds = ds.chunking.apply(access='scan')"
        if not self.names:
            return "ds = ds.load()"
        along = [f"concat_dim={self.along!r}"] if self.along else []
        what = "open_datatree" if self.is_tree else "open_dataset"
        return f"ds = xchunk.{what}({', '.join([self._named, *along])})"

    @property
    def _named(self) -> str:
        return repr(self.names[0] if len(self.names) == 1 else list(self.names))


def has_store(v: ArrayLayout) -> bool:
    """Whether a variable is stored somewhere, as far as it is known."""
    return v.format not in ("memory", "dask")


def chunk_raw(v: ArrayLayout) -> int:
    """Bytes of one full stored chunk, after decoding and before unpacking."""
    return v.read_grid.box_elements * item_nbytes(v.stored_dtype)


def lengths(v: ArrayLayout, grid: Grid | None = None) -> str:
    """The lengths of a full chunk, or of a block of a grid, as they are shown."""
    grid = v.read_grid if grid is None else grid
    up_to = "" if grid.is_regular else "up to "
    return up_to + str(tuple(grid.chunks))


def rechunk_code(v: ArrayLayout, chunks: Sequence[int], store: str = "rechunked.zarr") -> str:
    """Spell a rechunk of one variable as code."""
    spelt = chunks_code(dict(zip(v.dims, chunks, strict=True)))
    return f"ds.chunking.apply({{{v.name!r}: {spelt}}}, store={store!r})"


def chunks_code(chunks: Mapping[str, DimChunk]) -> str:
    """Spell the chunks of some dims as code."""
    return "{" + ", ".join(f"{d!r}: {n}" for d, n in chunks.items()) + "}"


def region_code(region: Mapping[str, slice]) -> str:
    """Spell a region as code."""
    return "{" + ", ".join(f"{d!r}: slice({s.start}, {s.stop})" for d, s in region.items()) + "}"


def grown(v: ArrayLayout) -> tuple[int, ...]:
    """Merge stored chunks, those along the dim with most of them first, to a good size."""
    chunks = list(v.read_grid.chunks)
    item = item_nbytes(v.stored_dtype)
    while math.prod(chunks) * item * 2 <= STORED_CHUNK:
        counts = [-(-n // c) for n, c in zip(v.shape, chunks, strict=True)]
        i = int(np.argmax(counts))
        if counts[i] < 2:
            break
        chunks[i] = min(2 * chunks[i], v.shape[i])
    return tuple(chunks)


def shrunk(v: ArrayLayout, aim: int) -> tuple[int, ...]:
    """Halve a stored chunk along its longest dim until it is small enough."""
    chunks = list(v.read_grid.chunks)
    item = item_nbytes(v.stored_dtype)
    while math.prod(chunks) * item > aim and max(chunks) > 1:
        i = int(np.argmax(chunks))
        chunks[i] = -(-chunks[i] // 2)
    return tuple(chunks)


def aligned(v: ArrayLayout, blocks: Grid) -> dict[str, int]:
    """Blocks of whole stored chunks, about as long as those that there are."""
    out = {}
    for dim, mine, stored in zip(v.dims, blocks.axes, v.read_grid.axes, strict=True):
        n = max(1, round(mine.chunk / stored.chunk)) * stored.chunk
        out[dim] = -1 if n >= mine.size else n
    return out


def _unit(v: ArrayLayout) -> tuple[Axis, ...]:
    if v.chunks is not None and has_store(v):
        return v.read_grid.axes
    return tuple(Axis.regular(n, 1) for n in v.shape)


def divided(v: ArrayLayout, blocks: Grid, aim: float) -> dict[str, int]:
    """Shorten blocks to whole stored chunks, the dim with most of these first."""
    unit = _unit(v)
    lengths = [max(a.chunk, u.chunk) for a, u in zip(blocks.axes, unit, strict=True)]
    item = item_nbytes(v.dtype)
    while math.prod(lengths) * item > aim:
        counts = [-(-n // u.chunk) for n, u in zip(lengths, unit, strict=True)]
        i = int(np.argmax(counts))
        if counts[i] < 2:
            break
        lengths[i] = -(-counts[i] // 2) * unit[i].chunk
    return _as_chunks(v, lengths)


def merged(v: ArrayLayout, blocks: Grid) -> dict[str, int]:
    """Lengthen blocks by whole stored chunks, the dim with most blocks first."""
    unit = _unit(v)
    lengths = [-(-a.chunk // u.chunk) * u.chunk for a, u in zip(blocks.axes, unit, strict=True)]
    item = item_nbytes(v.dtype)
    while math.prod(lengths) * item * 2 <= GOOD_BLOCK:
        counts = [-(-n // c) for n, c in zip(v.shape, lengths, strict=True)]
        i = int(np.argmax(counts))
        if counts[i] < 2:
            break
        lengths[i] *= 2
    return _as_chunks(v, lengths)


def _as_chunks(v: ArrayLayout, lengths: Sequence[int]) -> dict[str, int]:
    return {d: -1 if n >= size else n for d, n, size in zip(v.dims, lengths, v.shape, strict=True)}
