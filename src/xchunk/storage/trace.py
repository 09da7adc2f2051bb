"""Tracing a variable down to the stored array that its values come from.

The encoding of a variable is no evidence of where its values come from: after
``ds.a.data = ds.a.data * 2`` it still names the old file. So the lazy data themselves are
read, by symbolic execution: each known wrapper and each known task maps a part of a stored
array to a part of it, and whatever is not known ends the trace without an answer. Who gets
no answer reads the values through the variable, which is slower and always right.

A trace holds for the moment when it is made. ``ds.chunk()`` shares its lazy data with
``ds``, so that a later edit in place reaches it: trace when executing, not when planning.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

from xchunk.storage.refs import AxisPart, Traced

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["can_trace", "trace"]

_lock = threading.Lock()


def trace(variable: xr.Variable) -> Traced | None:
    """Follow a variable's lazy data down to a stored array.

    Parameters
    ----------
    variable : xarray.Variable
        The variable; its data are neither read nor computed.

    Returns
    -------
    Traced or None
        Which elements of which stored array the variable shows; None where it is not
        certain that its values are those of one stored array and nothing else.
    """
    if not can_trace():
        return None
    return _trace(variable)


def can_trace() -> bool:
    """Whether tracing works with the xarray and dask that are installed.

    Once in a process, a small store in memory is traced: what has to be answered, and
    what has to be refused. If any of it fails, nothing is traced in this process.
    """
    with _lock:
        return _self_check()


def _trace(variable: xr.Variable) -> Traced | None:
    try:
        from xchunk.storage import _internals

        part = _internals.part_of(variable)
        ref, dtype = _internals.reference(part)
        return Traced(
            ref=ref,
            stored_shape=part.leaf.shape,
            axes=tuple(
                AxisPart(stored, r.start, r.step, len(r)) for stored, r in part.axes
            ),
            fixed=tuple(sorted(part.fixed)),
            decoders=tuple(decoder.name for decoder in part.decoders),
            stored_dtype=dtype,
            decoding=tuple(_fingerprint(decoder) for decoder in part.decoders),
        )
    # Private parts of other libraries may fail in any way once they change, and no
    # answer is always a right answer.
    except Exception:
        return None


def _fingerprint(decoder: Any) -> str:
    from dask.base import tokenize

    return f"{decoder.name}-{tokenize(decoder.func, decoder.dtype)}"


@functools.cache
def _self_check() -> bool:
    try:
        return _check()
    except Exception:
        return False


def _check() -> bool:
    """Trace what has to be answered and what has to be refused on a small store."""
    import warnings

    import numpy as np
    import xarray as xr
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    stored = np.arange(6 * 4, dtype="i2").reshape(6, 4)
    group = zarr.create_group(store)
    array = group.create_array(
        "a", shape=(6, 4), chunks=(2, 4), dtype="i2", dimension_names=("t", "x")
    )
    array[...] = stored
    array.attrs.update({"scale_factor": 0.5, "_FillValue": -1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = xr.open_zarr(store, chunks=None, consolidated=False).a.variable
        dask = xr.open_zarr(store, consolidated=False).a.variable
        raw = xr.open_zarr(store, consolidated=False, mask_and_scale=False).a.variable
        values = stored * 0.5
        t, x = slice(5, 0, -2), slice(1, 3)
        for var in (lazy, dask):
            parts = [
                (var, (AxisPart(0, 0, 1, 6), AxisPart(1, 0, 1, 4)), ()),
                (var[t, x], (AxisPart(0, 5, -2, 3), AxisPart(1, 1, 1, 2)), ()),
                (var[3].copy(), (AxisPart(1, 0, 1, 4),), ((0, 3),)),
                (var.transpose("x", "t"), (AxisPart(1, 0, 1, 4), AxisPart(0, 0, 1, 6)), ()),
            ]
            for shown, axes, fixed in parts:
                got = _trace(shown)
                known = got is not None and (got.axes, got.fixed) == (axes, fixed)
                if got is None or not known or len(got.decoders) != 2 or got.decoding == ():
                    return False
            same = np.array_equal(dask[t, x].data.compute(scheduler="sync"), values[t, x])
            if not same or not np.array_equal(lazy[t, x].values, values[t, x]):
                return False
        merged = _trace(dask.chunk(t=3))
        plain = _trace(raw)
        if merged is None or not merged.is_whole or plain is None or plain.decoders:
            return False
        edited, edited_lazy = dask.copy(), lazy[:]
        edited[0, 0] = 7.0
        edited_lazy[0, 0] = 7.0
        loaded = lazy[:].load()
        refused = [
            dask * 2,
            dask.astype("f4"),
            dask.where(dask > 3),
            dask.fillna(0),
            dask.roll(t=1),
            dask.shift(t=1),
            xr.Variable.concat([dask[3:], dask[:3]], "t"),
            xr.Variable(("t", "x"), dask.data.map_blocks(np.negative)),
            xr.Variable(("t", "x"), values),
            edited,
            edited_lazy,
            loaded,
        ]
        return all(_trace(variable) is None for variable in refused)
