"""The one place that knows xarray's lazy wrappers by name.

xarray does not tell through its public API where the values of a variable come from, so this
module reads its private classes. Each is recognised by its exact type, and each function by
identity; whatever is not known raises `UntraceableError`, and an import that fails here turns
tracing off (see `xchunk.storage.trace`), never xchunk.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from dask.base import tokenize
from xarray import Variable
from xarray.backends.file_manager import CachingFileManager
from xarray.backends.h5netcdf_ import H5NetCDFArrayWrapper, H5NetCDFStore
from xarray.backends.netCDF4_ import NetCDF4ArrayWrapper, NetCDF4DataStore
from xarray.backends.scipy_ import ScipyArrayWrapper, ScipyDataStore
from xarray.backends.zarr import ZarrArrayWrapper
from xarray.coding.common import _ElementwiseFunctionArray
from xarray.coding.strings import decode_bytes_array
from xarray.coding.times import decode_cf_datetime, decode_cf_timedelta
from xarray.coding.variables import (
    BoolTypeArray,
    NativeEndiannessArray,
    _apply_mask,
    _scale_offset_decoding,
)
from xarray.core.indexing import (
    BasicIndexer,
    CopyOnWriteArray,
    ImplicitToExplicitIndexingAdapter,
    LazilyIndexedArray,
    LazilyVectorizedIndexedArray,
    MemoryCachedArray,
    OuterIndexer,
    VectorizedIndexer,
)

from xchunk.storage._parts import (
    Decoder,
    Leaf,
    Part,
    UntraceableError,
    broadcast_picks,
    pick,
)
from xchunk.storage.refs import FileRef, OneRef, ZarrRef

__all__ = [
    "is_lazy",
    "known_decoder",
    "lazy_part",
    "lazy_part_of",
    "place_of",
    "reference",
    "resize_chunk_cache",
]

_TRANSPARENT = (MemoryCachedArray, CopyOnWriteArray, ImplicitToExplicitIndexingAdapter)
_CONVERTERS = (BoolTypeArray, NativeEndiannessArray)
_BACKENDS: dict[type, tuple[str, Any]] = {
    NetCDF4ArrayWrapper: ("netcdf4", NetCDF4DataStore),
    H5NetCDFArrayWrapper: ("h5netcdf", H5NetCDFStore),
    ScipyArrayWrapper: ("scipy", ScipyDataStore),
}
_DECODERS = (
    _apply_mask,
    _scale_offset_decoding,
    decode_cf_datetime,
    decode_cf_timedelta,
    decode_bytes_array,
    np.asarray,  # _Unsigned
)
# Options that xarray hands to h5netcdf and netCDF4 in any case; any other value of them,
# or any other option, might make the file look different to who opens it without.
_USUAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "clobber": (True,),
    "diskless": (False,),
    "persist": (False,),
    "invalid_netcdf": (None,),
    "decode_vlen_strings": (True,),
    "driver": (None,),
}
_FREE_OPTIONS = ("format", "mmap", "phony_dims", "version")


def reference(part: Part) -> tuple[OneRef, Any]:
    """Where the leaf of a part is stored, and its stored dtype."""
    wrapper = part.leaf.array
    if type(wrapper) in (ZarrArrayWrapper, zarr.Array):
        array = wrapper._array if type(wrapper) is ZarrArrayWrapper else wrapper
        if type(array) is not zarr.Array or tuple(array.shape) != part.leaf.shape:
            raise UntraceableError("an unknown kind of zarr array, or one that was resized")
        return ZarrRef(array.store, array.path, array.metadata.zarr_format), array.dtype
    engine, store_type = _BACKENDS[type(wrapper)]
    store = wrapper.datastore
    if type(store) is not store_type or type(store._manager) is not CachingFileManager:
        raise UntraceableError("a file that was opened by other means")
    manager = store._manager
    usual = all(
        name in _FREE_OPTIONS or value in _USUAL_OPTIONS.get(name, ())
        for name, value in manager._kwargs.items()
    )
    filename = manager._args[0]
    if len(manager._args) != 1 or type(filename) is not str or manager._mode != "r" or not usual:
        raise UntraceableError("a file that was opened in an unusual way")
    group = None if engine == "scipy" else store._group
    return FileRef(filename, engine, group, wrapper.variable_name), wrapper.dtype


def place_of(array: Any) -> OneRef | np.ndarray[Any, Any] | None:
    """Tell what the values of a lazy array are made from, whatever is done with them.

    Returns
    -------
    FileRef, ZarrRef, array or None
        Where they are stored; or the values themselves, where they are in memory; None where
        it is neither.
    """
    if isinstance(array, Variable):
        array = array._data
    while not isinstance(array, np.ndarray) and hasattr(array, "array"):
        array = array.array
    if isinstance(array, np.ndarray):
        return array
    if type(array) is ZarrArrayWrapper:
        array = array._array
    if type(array) is zarr.Array:
        return ZarrRef(array.store, array.path, array.metadata.zarr_format)
    if type(array) not in _BACKENDS:
        return None
    engine, _ = _BACKENDS[type(array)]
    filename = getattr(array.datastore._manager, "_args", (None,))[0]
    if not isinstance(filename, str | os.PathLike):
        return None
    return FileRef(os.fspath(filename), engine, None, array.variable_name)


def is_lazy(variable: Any) -> bool:
    """Whether a variable's values still lie in a backend, and are not read by dask either."""
    return not getattr(variable, "_in_memory", True) and variable.chunks is None


def resize_chunk_cache(part: Part, cache: tuple[int, int, float]) -> tuple[int, int, float] | None:
    """Set the chunk cache of an open netCDF-4 variable; return what it was, None for others."""
    wrapper = part.leaf.array
    if type(wrapper) is not NetCDF4ArrayWrapper:
        return None
    with wrapper.datastore.lock:
        variable = wrapper.get_array(needs_lock=False)  # type: ignore[no-untyped-call]
        if variable.chunking() in (None, "contiguous"):
            return None
        before: tuple[int, int, float] = variable.get_var_chunk_cache()
        variable.set_var_chunk_cache(*cache)
    return before


def lazy_part_of(variable: Any) -> Part:
    """Read what a variable holds that is no dask array, without loading it."""
    return lazy_part(variable._data)


def lazy_part(array: Any) -> Part:
    """Read one of xarray's lazy wrappers, and what is beneath it."""
    kind = type(array)
    if kind in _TRANSPARENT:
        return lazy_part(array.array)
    if kind is LazilyIndexedArray:
        return _indexed(lazy_part(array.array), array.key)
    if kind is LazilyVectorizedIndexedArray:
        return _pointwise(lazy_part(array.array), array.key)
    if kind in _CONVERTERS:
        text = f"{kind.__name__}(dtype={array.dtype.str})"
        return lazy_part(array.array).decode(Decoder(kind.__name__, None, text))
    if kind is _ElementwiseFunctionArray:
        return lazy_part(array.array).decode(known_decoder(array.func))
    if kind in (ZarrArrayWrapper, zarr.Array) or kind in _BACKENDS:
        return Part.whole(Leaf(array, tuple(array.shape)))
    raise UntraceableError(f"a wrapper of type {kind.__name__}")


def _indexed(part: Part, key: Any) -> Part:
    if type(key) not in (BasicIndexer, OuterIndexer) or len(key.tuple) != len(part.axes):
        raise UntraceableError("an index of another kind")
    return part.select([pick(k, n) for k, n in zip(key.tuple, part.shape, strict=True)])


def _pointwise(part: Part, key: Any) -> Part:
    arrays = key.tuple
    known = type(key) is VectorizedIndexer and all(type(k) is np.ndarray for k in arrays)
    if not known or len(arrays) != len(part.axes):
        raise UntraceableError("an index of another kind")
    picks, order = broadcast_picks(arrays, part.shape)
    return part.select(picks).transpose(order)


def known_decoder(func: Callable[..., Any]) -> Decoder:
    # Only with parameters by name does a partial say what the coder meant by it.
    if type(func) is functools.partial and not func.args and func.func in _DECODERS:
        name = func.func.__name__
        given = func.keywords
        parameters = (
            f"{k}={_spell(given[k], func.func, given.get('dtype'))}" for k in sorted(given)
        )
        return Decoder(name, func, f"{name}({', '.join(parameters)})")
    raise UntraceableError("an unknown function")


def _spell(value: Any, func: Callable[..., Any], dtype: Any) -> str:
    """Write a parameter so that equal texts stand for equal effects."""
    if value is None or type(value) in (str, bool, int):
        return repr(value)
    if isinstance(value, np.integer):  # compared with the data by its value alone
        return repr(int(value))
    if isinstance(value, (float, np.floating)):
        return _spell_float(value, func, dtype)
    if isinstance(value, (np.dtype, type)):
        return np.dtype(value).str
    if type(value) in (set, list, tuple):
        return f"[{', '.join(sorted(_spell(v, func, dtype) for v in value))}]"
    return tokenize(value)


def _spell_float(value: float | np.floating[Any], func: Callable[..., Any], dtype: Any) -> str:
    """Write a float without its type where its type makes no difference.

    Elsewhere it does: in float32 a plain float is rounded first, a numpy scalar is not.
    """
    if np.isnan(value):
        return "nan"
    decoded = None if dtype is None else np.dtype(dtype)
    if func is _scale_offset_decoding:
        alike = decoded == np.float64
    else:
        short = abs(float(value)) < np.finfo("f4").max and float(np.float32(value)) == float(value)
        alike = func is _apply_mask and decoded in (np.float32, np.float64) and short
    return repr(float(value)) if alike else f"{type(value).__name__}({float(value)!r})"
