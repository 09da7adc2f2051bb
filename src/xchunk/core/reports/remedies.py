"""Better chunks than those that there are, which a check recommends, and how they are spelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from xchunk.core.chunkspec import STORED_CHUNK
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.suggest.lazy_pass import GOOD_BLOCK, item_nbytes
from xchunk.core.types import DimChunk


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
