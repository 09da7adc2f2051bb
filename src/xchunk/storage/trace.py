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

import dask
import numpy as np
from dask.local import get_sync

from xchunk.storage.refs import AxisPart, Traced

if TYPE_CHECKING:
    import xarray as xr

    from xchunk.storage._parts import Part

__all__ = ["can_trace", "part_of", "trace"]

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
    if not can_trace(variable):
        return None
    return _trace(variable)


def can_trace(variable: xr.Variable) -> bool:
    """Whether tracing works with the xarray, and for dask arrays the dask, that are installed.

    Once in a process, a small store in memory is traced: what has to be answered, and
    what has to be refused. If any of it fails, nothing is traced in this process. dask.array,
    which takes half a second to load, is only looked at once there is such an array.
    """
    with _lock:
        return _self_check(blocks=variable.chunks is not None)


def part_of(variable: xr.Variable) -> Part:
    """Follow a variable's data down to the stored array.

    Raises
    ------
    Exception
        Of any kind, where that is not possible.
    """
    from xchunk.storage._parts import UntraceableError
    from xchunk.storage._wrappers import lazy_part_of

    if variable.chunks is None:
        part = lazy_part_of(variable)
    else:
        from xchunk.storage._tasks import part_of_graph

        part = part_of_graph(variable.data)
    if part.shape != variable.shape:
        raise UntraceableError("a shape that is not the variable's")
    return part


def _trace(variable: xr.Variable) -> Traced | None:
    try:
        from xchunk.storage._wrappers import reference

        part = part_of(variable)
        ref, dtype = reference(part)
        return Traced(
            ref=ref,
            stored_shape=part.leaf.shape,
            axes=tuple(AxisPart(stored, r.start, r.step, len(r)) for stored, r in part.axes),
            fixed=tuple(sorted(part.fixed)),
            decoders=tuple(decoder.name for decoder in part.decoders),
            stored_dtype=dtype,
            decoding=tuple(decoder.text for decoder in part.decoders),
        )
    # Private parts of other libraries may fail in any way once they change, and no
    # answer is always a right answer.
    except Exception:
        return None


@functools.cache
def _self_check(*, blocks: bool) -> bool:
    try:
        # to choose a method, dask loads distributed; and a cluster might change the answer
        with dask.config.set({"array.rechunk.method": "tasks"}):
            return _check_blocks() if blocks else _check_lazy()
    except Exception:
        return False


def _check_lazy() -> bool:
    """Trace what has to be answered and what has to be refused on a small store."""
    store, stored = _small_store()
    lazy, raw = _opened(store, chunks=None), _opened(store, chunks=None, mask_and_scale=False)
    edited = lazy[:]
    edited[0, 0] = lazy[1, 1]
    shown = [lazy, *_indexed(lazy)]
    refused = [lazy[[0, 3, 4]], edited, lazy[:].load()]
    return _shows(raw, stored, 0) and _as_it_has_to(shown, refused, stored)


def _check_blocks() -> bool:
    """Do the same with dask arrays."""
    import dask.array as da
    import xarray as xr

    store, stored = _small_store()
    blocks, raw = _opened(store, chunks={}), _opened(store, chunks={}, mask_and_scale=False)
    shown = [blocks, *_indexed(blocks)]
    for variable in (_opened(store, chunks=None), blocks):
        shown += [
            variable.chunk(t=4),
            variable.chunk(t=4).chunk(t=3)[:, 1],
            variable.chunk(t=4)[[5, 4, 3, 2, 1, 0]],
            variable.chunk(t=2)[[1, 3, 5]],
        ]
    edited = blocks.copy()
    edited[0, 0] = 7.0
    dims, data = blocks.dims, blocks.data
    refused = [
        blocks * 2,
        blocks.astype("f4"),
        blocks.where(blocks > 3),
        blocks.fillna(0),
        blocks.roll(t=1),
        blocks.shift(t=1),
        blocks[[0, 3, 4]],
        xr.Variable(dims, da.concatenate([data[3:], data[:3]])),
        xr.Variable(dims, data.map_blocks(np.negative)),
        xr.Variable(dims, stored),
        edited,
    ]
    return _shows(raw, stored, 0) and _as_it_has_to(shown, refused, stored)


def _small_store() -> tuple[Any, np.ndarray[Any, Any]]:
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    stored = np.arange(6 * 4, dtype="i2").reshape(6, 4)
    array = zarr.create_group(store).create_array(
        "a", shape=(6, 4), chunks=(2, 4), dtype="i2", dimension_names=("t", "x")
    )
    array[...] = stored
    array.attrs.update({"scale_factor": 0.5, "_FillValue": -1})
    return store, stored


def _opened(store: Any, **options: Any) -> Any:
    import warnings

    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_zarr(store, consolidated=False, **options).a.variable


def _indexed(variable: Any) -> list[xr.Variable]:
    turned = variable.transpose("x", "t")
    return [variable[5:0:-2, 1:3], variable[3].copy(), turned, turned[1:, ::-1]]


def _as_it_has_to(
    shown: list[xr.Variable], refused: list[xr.Variable], stored: np.ndarray[Any, Any]
) -> bool:
    return all(_shows(each, stored, 2) for each in shown) and all(
        _trace(each) is None for each in refused
    )


def _shows(variable: xr.Variable, stored: np.ndarray[Any, Any], steps: int) -> bool:
    """Whether the trace of a variable of the small store leads to the variable's values."""
    traced = _trace(variable)
    if traced is None or len(traced.decoders) != steps or len(traced.decoding) != steps:
        return False
    at: list[Any] = [None] * stored.ndim
    for axis, position in traced.fixed:
        at[axis] = np.array([position])
    for part in traced.axes:
        at[part.stored_axis] = part.start + part.step * np.arange(part.count)
    found = stored[np.ix_(*at)]
    order = [part.stored_axis for part in traced.axes]
    values = found.transpose(order + [axis for axis, _ in traced.fixed]).reshape(variable.shape)
    shown = variable.copy(deep=False)
    # given by its name, dask would look for a client first, and load distributed
    shown = shown.compute(scheduler=get_sync) if shown.chunks else shown.compute()
    return bool(np.array_equal(shown.values, values * 0.5 if steps else values))
