"""Tracing a variable down to the stored array, or arrays, that its values come from.

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
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dask
import dask.base
import numpy as np
from dask.local import get_sync

from xchunk.core.grid import Axis
from xchunk.sources.refs import AxisPart, JoinedRef, OneRef, Traced, ZarrRef, ones_of
from xchunk.sources.versions import stamp_of_part
from xchunk.stores.overlay import file_system_of

if TYPE_CHECKING:
    import xarray as xr

    from xchunk.sources.slicing import Mosaic, Part, Value

_lock = threading.Lock()


def trace(variable: xr.Variable) -> Traced | None:
    """Follow a variable's lazy data down to a stored array, or to several side by side.

    - ``variable``: the variable; its data are neither read nor computed.
    - returns: which elements of which stored array the variable shows; None where it is not certain
      that its values are those of one stored array and nothing else, or of several that are decoded
      alike.
    """
    if not can_trace(variable):
        return None
    return _trace(variable)


def file_systems_of(groups: Mapping[str, xr.Dataset]) -> Iterator[Any]:
    """Look for fsspec's file systems that Datasets are read through, each as often as it comes."""
    for variable in (v for ds in groups.values() for v in ds.variables.values()):
        traced = trace(variable)
        for ref in ones_of(traced.ref) if traced is not None else ():
            yield file_system_behind(ref)


def file_system_behind(ref: OneRef) -> Any:
    """Return fsspec's file system that an array is read through; None where there is none."""
    if isinstance(ref, ZarrRef):
        return file_system_of(ref.store)
    return None if ref.remote is None else ref.remote.fs


def can_trace(variable: xr.Variable) -> bool:
    """Whether tracing works with the xarray, and for dask arrays the dask, that are installed.

    Once in a process, a small store in memory is traced: what has to be answered, and
    what has to be refused. If any of it fails, nothing is traced in this process. dask.array,
    which takes half a second to load, is only looked at once there is such an array.
    """
    with _lock:
        return _self_check(blocks=_blocks_of(variable) is not None)


def _blocks_of(variable: xr.Variable) -> Any:
    """Return the dask array that holds a variable's values, as some engines open it; or None."""
    if variable.chunks is not None:
        return variable.data
    try:
        from xchunk.sources.xarray_adapter import dask_in
    except ImportError:
        return None
    return dask_in(variable)


def part_of(variable: xr.Variable) -> Value:
    """Follow a variable's data down to the stored array, or arrays.

    - raises `Exception`: of any kind, where that is not possible.
    """
    from xchunk.sources.slicing import UntraceableError
    from xchunk.sources.xarray_adapter import lazy_part_of

    blocks = _blocks_of(variable)
    if blocks is None:
        part = lazy_part_of(variable)
    else:
        from xchunk.sources.dask_adapter import part_of_graph

        part = part_of_graph(blocks)
    if part.shape != variable.shape:
        raise UntraceableError("a shape that is not the variable's")
    return part


def _trace(variable: xr.Variable) -> Traced | None:
    try:
        from xchunk.sources.slicing import Mosaic

        value = part_of(variable)
        return _joined(value) if isinstance(value, Mosaic) else _one(value)
    # Private parts of other libraries may fail in any way once they change, and no
    # answer is always a right answer.
    except Exception:
        return None


def trace_each(variable: xr.Variable) -> tuple[tuple[Axis, ...], list[Traced]] | None:
    """Follow a variable down to stored arrays side by side, however each of them is decoded.

    - returns: where the arrays begin along each dim, and what the variable shows of each, the last
      dim varying fastest. None where that is not known, or there are not several.
    """
    if not can_trace(variable):
        return None
    try:
        from xchunk.sources.slicing import Mosaic

        value = part_of(variable)
        if not isinstance(value, Mosaic):
            return None
        each = [_one(part) for part in value.cells]
        edges = tuple(Axis(sum(n), max(n), n) for n in value.lengths)
    # as above: no answer is always a right answer
    except Exception:
        return None
    known = [one for one in each if one is not None]
    return (edges, known) if len(known) == len(each) else None


def _one(part: Part) -> Traced | None:
    from xchunk.sources.slicing import NEW
    from xchunk.sources.xarray_adapter import reference

    if any(stored == NEW for stored, _ in part.axes):
        return None
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


def _joined(value: Mosaic) -> Traced | None:
    """Join boxes of stored arrays that are decoded alike; None for everything else."""
    from xchunk.sources.slicing import NEW
    from xchunk.sources.xarray_adapter import reference

    first = value.cells[0]
    own = tuple(stored for stored, _ in first.axes)
    fixed = sorted(axis for axis, _ in first.fixed)
    decoding = tuple(decoder.text for decoder in first.decoders)
    refs, origins, stamps, dtypes = [], [], [], set()
    for part in value.cells:
        alike = (
            tuple(stored for stored, _ in part.axes) == own
            and sorted(axis for axis, _ in part.fixed) == fixed
            and tuple(decoder.text for decoder in part.decoders) == decoding
        )
        if not alike or any(r.step != 1 for _, r in part.axes):
            return None
        ref, dtype = reference(part)
        starts = {**dict(part.fixed), **{stored: r.start for stored, r in part.axes}}
        refs.append(ref)
        dtypes.add(np.dtype(dtype))
        origins.append(tuple(starts[axis] for axis in range(len(part.leaf.shape))))
        stamps.append(stamp_of_part(ref, part.leaf.shape))
    if len(dtypes) != 1:
        return None
    # The joint dims stand as the stored arrays have theirs, and new ones where they are shown.
    order = [axis for axis in own if axis != NEW]
    new = [place for place, axis in enumerate(own) if axis == NEW]
    dims = sorted([*order, *fixed])
    if new:
        if order != dims or fixed:
            return None
        lengths = value.lengths
        places = tuple(range(len(own)))
    else:
        along = dict(zip(own, value.lengths, strict=True))
        lengths = tuple(along.get(axis, (1,)) for axis in dims)
        places = own
        refs, origins, stamps = (_reordered(value, each) for each in (refs, origins, stamps))
    joined = JoinedRef(tuple(refs), lengths, tuple(origins), tuple(stamps), tuple(new))
    shape = joined.shape
    return Traced(
        ref=joined,
        stored_shape=shape,
        axes=tuple(AxisPart(axis, 0, 1, shape[axis]) for axis in places),
        fixed=tuple((axis, 0) for axis in fixed),
        decoders=tuple(decoder.name for decoder in first.decoders),
        stored_dtype=dtypes.pop(),
        decoding=decoding,
    )


def _reordered(value: Mosaic, items: list[Any]) -> list[Any]:
    """Put what belongs to the cells into the order of the stored axes."""
    own = [stored for stored, _ in value.cells[0].axes]
    grid = np.arange(len(items)).reshape([len(n) for n in value.lengths])
    return [items[i] for i in grid.transpose(np.argsort(own)).flat]


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
    return _show([raw], stored, 0) and _as_it_has_to(shown, refused, stored)


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
    alike = _show([raw], stored, 0) and _as_it_has_to(shown, refused, stored)
    return alike and _check_joined(blocks)


def _check_joined(blocks: xr.Variable) -> bool:
    """Trace variables of two stores side by side."""
    import xarray as xr

    join: Any = xr.Variable.concat
    # opened in blocks, stores in memory may have arrays of one name, which dask takes for one
    other = _opened(_small_store()[0], chunks=None).chunk(t=2)
    edited = other.copy()
    edited[5, 3] = 7.0
    whole = join([blocks, other[1:]], "t")
    for variable, lengths, origins in (
        (whole, (6, 5), ((0, 0), (1, 0))),
        (whole[4:8].chunk(t=3), (2, 2), ((4, 0), (1, 0))),
        (whole[:7].transpose("x", "t"), (6, 1), ((0, 0), (1, 0))),
    ):
        traced = _trace(variable)
        if traced is None or not isinstance(traced.ref, JoinedRef):
            return False
        if (traced.ref.lengths, traced.ref.origins) != ((lengths, (4,)), origins):
            return False
    one = _trace(whole[:6])
    refused = [whole[::-1], whole * 2, join([blocks, edited], "t")]
    alone = one is not None and not isinstance(one.ref, JoinedRef)
    return alone and all(_trace(each) is None for each in refused)


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
    return _show(shown, stored, 2) and all(_trace(each) is None for each in refused)


def _show(variables: list[xr.Variable], stored: np.ndarray[Any, Any], steps: int) -> bool:
    """Whether the traces of variables of the small store lead to the variables' values."""
    due = [_traced_values(each, stored, steps) for each in variables]
    shown = [each.copy(deep=False) for each in variables]
    # In one go, which reads each chunk once. Given by its name, dask would look for a client first,
    # and load distributed.
    lazy = (v.data if v.chunks else v.values for v in shown)
    found = dask.base.compute(*lazy, scheduler=get_sync)
    return all(
        values is not None and np.array_equal(each, values * 0.5 if steps else values)
        for each, values in zip(found, due, strict=True)
    )


def _traced_values(variable: xr.Variable, stored: np.ndarray[Any, Any], steps: int) -> Any:
    """Return the stored values to which a trace leads; None where it is not what it has to be."""
    traced = _trace(variable)
    if traced is None or len(traced.decoders) != steps or len(traced.decoding) != steps:
        return None
    at: list[Any] = [None] * stored.ndim
    for axis, position in traced.fixed:
        at[axis] = np.array([position])
    for part in traced.axes:
        at[part.stored_axis] = part.start + part.step * np.arange(part.count)
    found = stored[np.ix_(*at)]
    order = [part.stored_axis for part in traced.axes]
    return found.transpose(order + [axis for axis, _ in traced.fixed]).reshape(variable.shape)
