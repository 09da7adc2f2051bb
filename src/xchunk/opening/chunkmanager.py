"""xarray's plugin door: ``chunks="auto"`` in whole stored chunks that fit a worker.

``xr.open_zarr(path, chunks="auto", chunked_array_type="xchunk")`` asks this chunk manager for
the chunks, and gets dask arrays. It claims no arrays of its own: all that is done with them
later is xarray's manager for dask, to which everything but "auto" is left here as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import numpy as np


def _dask_manager() -> Any:
    """The class of xarray's manager for dask, through the entry point that names it."""
    (found,) = entry_points(group="xarray.chunkmanagers", name="dask")
    return found.load()


_DaskManager: Any = _dask_manager()


class XchunkManager(_DaskManager):  # type: ignore[misc]
    """dask arrays whose automatic chunks are stored chunks, as many as fit a task."""

    def is_chunked_array(self, data: Any) -> bool:  # noqa: ARG002 - xarray's signature
        """Leave every array to dask's own manager: it must be the only one to claim it."""
        return False

    def from_array(self, data: Any, chunks: Any, **kwargs: Any) -> Any:
        """Make a dask array, or rechunk one."""
        if super().is_chunked_array(data) and hasattr(data, "dask"):
            return self.rechunk(data, chunks)
        return super().from_array(data, chunks, **kwargs)

    def normalize_chunks(
        self,
        chunks: Any,
        shape: tuple[int, ...] | None = None,
        limit: int | None = None,
        dtype: Any = None,
        previous_chunks: Any = None,
    ) -> Any:
        """Return the lengths of all blocks by dim; dims that are "auto" get what fits.

        Parameters
        ----------
        chunks : int, str, tuple or mapping
            As dask takes them.
        shape : tuple of int, optional
            Elements along each dim.
        limit : int, optional
            Bytes of a block, at most; the active Client's or this process's memory decides
            where it is not given.
        dtype : dtype, optional
            Of the values.
        previous_chunks : tuple, optional
            The stored chunks.
        """
        if shape is not None and dtype is not None and limit is None:
            found = _automatic(chunks, tuple(shape), np.dtype(dtype), previous_chunks)
            if found is not None:
                chunks = found
        return super().normalize_chunks(
            chunks, shape=shape, limit=limit, dtype=dtype, previous_chunks=previous_chunks
        )


def _automatic(
    chunks: Any, shape: tuple[int, ...], dtype: np.dtype[Any], stored: Any
) -> tuple[Any, ...] | None:
    """Replace "auto" by lengths; None where it is left to dask."""
    asked = _by_dim(chunks, len(shape))
    if asked is None or "auto" not in [c for c in asked if isinstance(c, str)]:
        return None
    automatic = [i for i, c in enumerate(asked) if isinstance(c, str)]
    if any(asked[i] != "auto" for i in automatic) or not math.prod(shape):
        return None
    from xchunk.core.cost import Rates
    from xchunk.core.layout import ArrayLayout
    from xchunk.core.suggest.access import AccessPattern
    from xchunk.core.suggest.lazy_pass import best_pass, item_nbytes
    from xchunk.engine.budget import detect_budget
    from xchunk.engine.cluster import current_client
    from xchunk.errors import XchunkError

    # What is fixed makes each element of the others larger: only these are to be found.
    fixed = math.prod(_longest(asked[i], shape[i]) for i in range(len(shape)) if i not in automatic)
    itemsize = item_nbytes(dtype) * fixed
    if itemsize > 2**30:
        return None
    item = np.dtype(f"V{itemsize}")
    inner = _stored(stored, shape, automatic, itemsize)
    layout = ArrayLayout(
        name="data",
        dims=tuple(f"dim{i}" for i in automatic),
        shape=tuple(shape[i] for i in automatic),
        dtype=item,
        stored_dtype=item,
        chunks=inner,
        codecs=("unknown",),
        format="zarr3",
    )
    try:
        budget = detect_budget(client=current_client())
    except XchunkError:
        return None
    found, threads = None, max(1, budget.threads)
    while found is None and threads:
        found = best_pass(layout, AccessPattern("scan"), budget.with_threads(threads), Rates())
        threads //= 2
    if found is None:
        return None
    out = list(asked)
    for i in automatic:
        out[i] = found.chunks[f"dim{i}"]
    return tuple(out)


def _by_dim(chunks: Any, ndim: int) -> list[Any] | None:
    """Spread what was asked over the dims; None where it is nothing that we know."""
    if isinstance(chunks, str):
        return [chunks] * ndim
    if isinstance(chunks, dict):
        return [chunks.get(i) for i in range(ndim)]
    if isinstance(chunks, tuple | list) and len(chunks) == ndim:
        return list(chunks)
    return None


def _longest(chunk: Any, size: int) -> int:
    if chunk is None or (isinstance(chunk, int | np.integer) and chunk < 0):
        return max(1, size)
    if isinstance(chunk, Sequence):
        return max((int(c) for c in chunk), default=1)
    return max(1, min(int(chunk), size))


def _stored(
    stored: Any, shape: tuple[int, ...], dims: list[int], itemsize: int
) -> tuple[int | tuple[int, ...], ...] | None:
    """The stored chunks along some dims; None where the array may be cut anywhere.

    xarray says the whole shape where it knows of no chunks. A large array is then taken to
    be contiguous, and a small one is one block in any case.
    """
    from xchunk.core.suggest.lazy_pass import LARGE_BLOCK

    sizes = tuple(shape[i] for i in dims)
    if stored is None or len(stored) != len(shape):
        return None
    out: list[int | tuple[int, ...]] = []
    for i in dims:
        c = stored[i]
        if isinstance(c, tuple | list):
            out.append(tuple(int(n) for n in c))
        else:
            out.append(max(1, min(int(c), shape[i])) if c else max(1, shape[i]))
    unknown = all(c == n for c, n in zip(out, sizes, strict=True))
    return None if unknown and math.prod(sizes) * itemsize > LARGE_BLOCK else tuple(out)
