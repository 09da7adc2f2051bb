"""Computed new data with the old values around them, as dask arrays: the window of an extension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from xchunk.core.extension import Extension
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stored import open_stored

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["framed"]


@dataclass(frozen=True, eq=False)
class _Slab:
    """A region of a stored array, which has what dask asks of an array; opened where it is read."""

    ref: ZarrRef
    origin: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        region = [
            slice(o + k.indices(n)[0], o + k.indices(n)[1])
            for o, n, k in zip(self.origin, self.shape, key, strict=True)
        ]
        return open_stored(self.ref).read(region)


def framed(
    extension: Extension, data: Any, old: ZarrRef, dtype: np.dtype[Any], token: str
) -> da.Array:
    """Return the window: the new data, and what there is around them in its units.

    Parameters
    ----------
    extension : Extension
        Where the new data go.
    data : array
        The new data, encoded; dask's or numpy's.
    old : ZarrRef
        The array that is there.
    dtype : numpy.dtype
        Its dtype.
    token : str
        What the old values are told by, so that the same run has the same graph.
    """
    import dask.array as da

    out = data if isinstance(data, da.Array) else da.from_array(np.asarray(data), chunks=-1)
    spans = extension.spans
    for axis, span in enumerate(spans):
        parts = [out]
        for length, start in ((span.lead, span.first), (span.trail, span.stop)):
            if not length:
                continue
            # along the dims before this one there is the whole window already
            origin = tuple(
                start if i == axis else (s.first if i < axis else s.start)
                for i, s in enumerate(spans)
            )
            shape = tuple(
                length if i == axis else (s.length if i < axis else s.count)
                for i, s in enumerate(spans)
            )
            slab = _Slab(old, origin, shape, dtype)
            block = da.from_array(
                slab,
                chunks=tuple(min(n, s.unit) or 1 for n, s in zip(shape, spans, strict=True)),
                name=f"xchunk-old-{tokenize(token, origin, shape, str(dtype))}",
                asarray=False,
                meta=np.empty((0,) * len(shape), dtype=dtype),
            )
            parts = [block, *parts] if start < span.start else [*parts, block]
        if len(parts) > 1:
            out = da.concatenate(parts, axis=axis)
    return out
