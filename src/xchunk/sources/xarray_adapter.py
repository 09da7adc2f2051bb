"""The one place that knows xarray's lazy wrappers by name.

xarray does not tell through its public API where the values of a variable come from, so this
module reads its private classes. Each is recognised by its exact type, and each function by
identity; whatever is not known raises `UntraceableError`, and an import that fails here turns
tracing off (see `xchunk.sources.trace`), never xchunk.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import zarr
from dask.base import normalize_token, tokenize
from numpy.typing import NDArray
from xarray import Variable
from xarray.backends import BackendArray
from xarray.backends.file_manager import CachingFileManager, PickleableFileManager
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
    DaskIndexingAdapter,
    ExplicitIndexer,
    ExplicitlyIndexed,
    ImplicitToExplicitIndexingAdapter,
    IndexingSupport,
    LazilyIndexedArray,
    LazilyVectorizedIndexedArray,
    MemoryCachedArray,
    OuterIndexer,
    VectorizedIndexer,
    explicit_indexing_adapter,
)

from xchunk.sources.hdf5_read import DirectArray, Stamp, changed, open_direct, stamp_of
from xchunk.sources.joint import JoinedArray
from xchunk.sources.readers import found_by, reader_of
from xchunk.sources.refs import FileRef, OneRef, ZarrRef
from xchunk.sources.remote_file import RemoteFile
from xchunk.sources.slicing import (
    Decoder,
    Leaf,
    Mosaic,
    Part,
    UntraceableError,
    Value,
    broadcast_picks,
    mosaic,
    pick,
)
from xchunk.sources.versions import token_of_values
from xchunk.stores.chunk_files import ChunkFiles
from xchunk.stores.shard_files import ShardFiles, files_of

_TRANSPARENT = (MemoryCachedArray, CopyOnWriteArray, ImplicitToExplicitIndexingAdapter)
_CONVERTERS = (BoolTypeArray, NativeEndiannessArray)
#: What xarray puts around the array of a variable that it has just opened.
_LAYERS = (
    MemoryCachedArray,
    CopyOnWriteArray,
    LazilyIndexedArray,
    _ElementwiseFunctionArray,
    *_CONVERTERS,
)
#: What opens a file by its name, and what was opened from a file object.
_MANAGERS = (CachingFileManager, PickleableFileManager)
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
    if type(wrapper) is FileArray:
        inner, dtype = reference(replace(part, leaf=Leaf(wrapper.array, part.leaf.shape)))
        return replace(inner, unlocked=True) if isinstance(inner, FileRef) else inner, dtype
    if type(wrapper) is StoreArray:
        inner, dtype = reference(replace(part, leaf=Leaf(wrapper.array, part.leaf.shape)))
        return replace(inner, unlocked=True), dtype
    if type(wrapper) in (ZarrArrayWrapper, zarr.Array):
        array = wrapper._array if type(wrapper) is ZarrArrayWrapper else wrapper
        if type(array) is not zarr.Array or tuple(array.shape) != part.leaf.shape:
            raise UntraceableError("an unknown kind of zarr array, or one that was resized")
        return ZarrRef(array.store, array.path, array.metadata.zarr_format), array.dtype
    if type(wrapper) is UnopenedArray:
        return wrapper.ref, wrapper.dtype
    reader = reader_of(wrapper)
    if reader is not None:
        return found_by(reader, wrapper)[:2]
    engine, store_type = _BACKENDS[type(wrapper)]
    store = wrapper.datastore
    manager: Any = getattr(store, "_manager", None)
    if type(store) is not store_type or type(manager) not in _MANAGERS:
        raise UntraceableError("a file that was opened by other means")
    usual = all(
        name in _FREE_OPTIONS or value in _USUAL_OPTIONS.get(name, ())
        for name, value in manager._kwargs.items()
    )
    filename, remote = _place_of(manager)
    if len(manager._args) != 1 or filename is None or manager._mode != "r" or not usual:
        raise UntraceableError("a file that was opened in an unusual way")
    group = None if engine == "scipy" else store._group
    ref = FileRef(filename, engine, group, wrapper.variable_name, store, remote)
    return ref, wrapper.dtype


def _place_of(manager: Any) -> tuple[str | None, RemoteFile | None]:
    """Report which file a manager opens: its name, and where it is if fsspec reads it."""
    opened = next(iter(getattr(manager, "_args", ())), None)
    if type(manager) is CachingFileManager:
        return (opened, None) if type(opened) is str else (None, None)
    remote = RemoteFile.of(opened)
    return (None, None) if remote is None else (remote.url, remote)


def read_directly(variable: Variable, stamp: Stamp | None) -> None:
    """Let a variable that was just opened be read without the library, where that is possible.

    Only the innermost array changes; how it is indexed and decoded is as xarray has made it.
    """
    holder: Any = None
    array: Any = variable._data
    while type(array) not in _BACKENDS and hasattr(array, "array"):
        holder, array = array, array.array
    if holder is None:
        return
    if type(array) is ZarrArrayWrapper:
        holder.array = StoreArray.of(array)
    if type(array) not in _BACKENDS:
        return
    try:
        ref, _ = reference(Part.whole(Leaf(array, tuple(array.shape))))
    except UntraceableError:
        return
    if isinstance(ref, FileRef):
        holder.array = FileArray.of(array, ref, stamp)


def twin_of(
    variable: Variable,
    filename: str,
    stamp: Stamp | None,
    shapes: Mapping[str, tuple[int, ...]],
    reader: Callable[..., Any],
) -> Variable | None:
    """Return a variable of another file, which is stored and decoded as this one is.

    Nothing of the other file is read; ``shapes`` has those of its variables, and ``reader`` is
    asked for what the library has to read. None where this one is not read without the library,
    or is decoded in a way that is not known.
    """
    layers: list[Any] = []
    array: Any = variable._data
    while type(array) is not FileArray:
        whole = type(array) is not LazilyIndexedArray or _is_whole(array.key)
        if type(array) not in _LAYERS or not whole:
            return None
        layers.append(array)
        array = array.array
    try:
        ref, dtype = reference(Part.whole(Leaf(array.array, tuple(array.shape))))
    except UntraceableError:
        return None
    if not isinstance(ref, FileRef) or ref.variable not in shapes:
        return None
    ref = FileRef(filename, ref.engine, ref.group, ref.variable)
    shape = shapes[ref.variable]
    data: Any = FileArray.of(UnopenedArray(ref, shape, dtype, reader), ref, stamp)
    for layer in reversed(layers):
        if type(layer) is LazilyIndexedArray:
            data = LazilyIndexedArray(data)
        else:
            twin = copy.copy(layer)
            twin.array = data
            data = twin
    encoding = {**variable.encoding, "source": filename, "original_shape": shape}
    return Variable(variable.dims, data, variable.attrs, encoding, fastpath=True)


def _is_whole(key: Any) -> bool:
    return type(key) is BasicIndexer and all(k == slice(None) for k in key.tuple)


def through_handle(handle: Any, group: str | None) -> tuple[Any, Callable[[], None]]:
    """Return a group of an open file through xarray's handle of it, and what lets it go again.

    The handle is the user's: it is closed only where the user had closed it before.
    """
    manager, was_open, store = handle._manager, _is_open(handle), handle
    if type(handle) is not ScipyDataStore and (handle._group or "/").strip("/") != (
        group or "/"
    ).strip("/"):
        store = type(handle)(manager, group=group, lock=handle.lock, autoclose=handle.autoclose)
    return store, (_nothing if was_open else manager.close)


def _is_open(handle: Any) -> bool:
    """Whether a file is open; a look at its contents would open it again."""
    manager = handle._manager
    # what was opened from a file object is opened at once, and never again
    return type(manager) is PickleableFileManager or manager._key in manager._cache


def _nothing() -> None:
    """Leave a file open that the user holds open."""


def misread(array: Any) -> str:
    """Say why zarr reads other values than a lazy array was written with; empty: it does not.

    netCDF's library writes the size of an element of its shuffle filter as 0, for that of the
    dtype. numcodecs takes it for nothing to do.
    """
    below = _innermost(array)
    if type(below) is not zarr.Array or np.dtype(below.dtype).itemsize < 2:
        return ""
    for codec in (*below.filters, *below.compressors):
        if getattr(codec, "codec_id", "") == "shuffle" and getattr(codec, "elementsize", 1) == 0:
            return (
                "its shuffle filter has elementsize 0, as netCDF's library writes it for elements "
                f"of {np.dtype(below.dtype).itemsize} bytes, and zarr reads that without putting "
                "the bytes in order"
            )
    return ""


def place_of(array: Any) -> OneRef | np.ndarray[Any, Any] | None:
    """Report what the values of a lazy array are made from, whatever is done with them.

    - returns: where they are stored; or the values themselves, where they are in memory; None where
      it is neither.
    """
    array = _innermost(array)
    if isinstance(array, np.ndarray):
        return array
    if type(array) is zarr.Array:
        return ZarrRef(array.store, array.path, array.metadata.zarr_format)
    if type(array) is UnopenedArray:
        return array.ref
    reader = reader_of(array)
    if reader is not None:
        try:
            return found_by(reader, array)[0]
        except UntraceableError:
            return None
    if type(array) not in _BACKENDS:
        return None
    engine, _ = _BACKENDS[type(array)]
    filename, remote = _place_of(array.datastore._manager)
    if filename is None:
        return None
    return FileRef(filename, engine, None, array.variable_name, remote=remote)


def unknown_backend(array: Any) -> str:
    """Name the engine, or else the package, of a backend's array that cannot be looked into."""
    array = _innermost(array)
    if not isinstance(array, BackendArray):
        return ""
    if place_of(array) is not None:
        return ""
    if type(array) in _BACKENDS:
        return _BACKENDS[type(array)][0]
    path = type(array).__module__.split(".")
    return path[-1].strip("_") if path[0] == "xarray" else path[0]


def _innermost(array: Any) -> Any:
    """Return what lies below all wrappers that show what they wrap."""
    if isinstance(array, Variable):
        array = array._data
    while not isinstance(array, np.ndarray) and hasattr(array, "array") and not reader_of(array):
        array = array.array
    return array._array if type(array) is ZarrArrayWrapper else array


def is_lazy(variable: Any) -> bool:
    """Whether a variable's values still lie in a backend, and are not read by dask either."""
    return not getattr(variable, "_in_memory", True) and variable.chunks is None


def has_units(variable: Any) -> bool:
    """Whether a variable holds quantities of pint; what lies in a backend is not loaded."""
    data = getattr(variable, "_data", None)
    # blocks of dask hold what its meta is
    kinds = type(data), type(getattr(data, "_meta", None))
    return any(hasattr(kind, "magnitude") and hasattr(kind, "units") for kind in kinds)


def without_units(variable: Variable) -> Variable:
    """Return a variable with the values beneath quantities of pint, if it holds some."""
    data = variable._data
    if not has_units(variable) or not hasattr(data, "magnitude"):
        return variable
    return Variable(variable.dims, data.magnitude, variable.attrs, variable.encoding)


def given_array(variable: Any) -> Any:
    """Return the array that a user has put into a variable; None where xarray reads it."""
    data = variable._data
    return None if isinstance(data, ExplicitlyIndexed) else data


def token_of(variable: Any) -> str:
    """Return a token of a variable's data, the same in every run of the same call."""
    return token_of_values(variable._data)


def is_generated(variable: Any) -> bool:
    """Whether an index makes a variable's values as they are asked for."""
    array = variable._data
    while hasattr(array, "array"):
        array = array.array
    return type(array).__name__ == "CoordinateTransformIndexingAdapter"


def open_caches(value: Value) -> list[NetCDF4ArrayWrapper]:
    """Return the netCDF-4 variables beneath a value whose chunk caches may hold something.

    Of many files xarray closes those that it opened first: those stay closed.
    """
    cells = value.cells if isinstance(value, Mosaic) else (value,)
    leaves = (part.leaf.array for part in cells)
    wrappers = (leaf.array if type(leaf) is FileArray else leaf for leaf in leaves)
    return [w for w in wrappers if type(w) is NetCDF4ArrayWrapper and _is_open(w.datastore)]


def resize_chunk_cache(
    wrapper: NetCDF4ArrayWrapper, cache: tuple[int, int, float]
) -> tuple[int, int, float] | None:
    """Set the chunk cache of a netCDF-4 variable; return what it was, None where it has none."""
    with wrapper.datastore.lock:
        variable = wrapper.get_array(needs_lock=False)  # type: ignore[no-untyped-call]
        if variable.chunking() in (None, "contiguous"):
            return None
        before: tuple[int, int, float] = variable.get_var_chunk_cache()
        variable.set_var_chunk_cache(*cache)
    return before


def lazy_part_of(variable: Any) -> Value:
    """Read what a variable holds that is no dask array, without loading it."""
    return lazy_part(variable._data)


def lazy_part(array: Any) -> Value:
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
    if kind in (ZarrArrayWrapper, zarr.Array, *_OURS) or kind in _BACKENDS:
        return Part.whole(Leaf(array, tuple(array.shape)))
    reader = reader_of(array)
    if reader is not None:
        steps = found_by(reader, array)[2]
        return replace(Part.whole(Leaf(array, tuple(array.shape))), decoders=steps)
    if kind is JoinedArray:
        return _joined(array)
    raise UntraceableError(f"a wrapper of type {kind.__name__}")


def dask_within(array: Any) -> Any:
    """Return the dask array that a lazy array only wraps; None where it wraps something else."""
    while type(array) in _TRANSPARENT:
        array = array.array
    return array.array if type(array) is DaskIndexingAdapter else None


def dask_in(variable: Variable) -> Any:
    """Return the dask array that a variable's lazy values only wrap; None: they wrap none."""
    return dask_within(variable._data)


def _joined(array: JoinedArray) -> Value:
    cells: dict[tuple[int, ...], Part] = {}
    for index, variable in np.ndenumerate(array.variables):
        part = lazy_part_of(variable)
        # Another dtype is converted to that of all.
        if type(part) is not Part or variable.dtype != array.dtype:
            raise UntraceableError("a file whose values are converted")
        cells[index] = part
    value = mosaic(cells, array.variables.shape)
    if value.shape != array.shape:
        raise UntraceableError("files that are not as long as their array says")
    return value


def _indexed(part: Value, key: Any) -> Value:
    if type(key) not in (BasicIndexer, OuterIndexer) or len(key.tuple) != len(part.axes):
        raise UntraceableError("an index of another kind")
    return part.select([pick(k, n) for k, n in zip(key.tuple, part.shape, strict=True)])


def _pointwise(part: Value, key: Any) -> Value:
    arrays = key.tuple
    known = type(key) is VectorizedIndexer and all(type(k) is np.ndarray for k in arrays)
    if not known or len(arrays) != len(part.axes):
        raise UntraceableError("an index of another kind")
    picks, order = broadcast_picks(arrays, part.shape)
    return part.select(picks).transpose(order)


def known_decoder(func: Callable[..., Any]) -> Decoder:
    """Return the decoding step that a function of xarray does; raise where it is unknown."""
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


#: Bytes that are read at once from an array without chunks, of which only some are wanted.
_SPAN = 1024**2

_Positions: TypeAlias = "range | NDArray[Any]"


@dataclass(frozen=True, eq=False)
class FileArray(BackendArray):
    """A variable of a local file, read where its bytes are, or else through xarray's array.

    It travels by its place: the library opens the file again only for what it has to read.
    """

    array: Any
    """xarray's own array of the variable."""
    filename: str
    """Path of the file."""
    group: str | None
    """Group within the file; None: the root."""
    name: str
    """The variable within it."""
    stamp: Stamp | None
    """What `stamp_of` said of the file when it was opened."""

    @classmethod
    def of(cls, array: Any, ref: FileRef, stamp: Stamp | None) -> FileArray:
        """Take the place of an array of xarray's, whose values are stored at ``ref``."""
        return cls(array, ref.filename, ref.group, ref.variable, stamp)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that the library gives it."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        direct = self.direct
        if direct is None:
            return self.array[key]
        read = functools.partial(self._read, direct)
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, read)

    @property
    def direct(self) -> DirectArray | None:
        """Where its bytes are; None where the library has to read it.

        - raises `SourceError` if the file is not what it was when it was opened.
        """
        stamp = stamp_of(self.filename)
        if stamp is None:
            return None
        # the file may have been written before, between, or while it is looked up
        found = open_direct(self.filename, self.group, self.name)
        if stamp != self.stamp or (found is not None and found.stamp != self.stamp):
            raise changed(self.filename, f"{self.group or ''}/{self.name}".lstrip("/"))
        # the library makes strings of other kinds of what is longer than a character
        is_string = self.dtype.kind == "S" and self.dtype.itemsize > 1
        if found is None or not found.is_readable or is_string:
            return None
        alike = self.dtype.newbyteorder("=") == found.dtype
        return found.shown_as(self.shape) if alike else None

    def _read(self, direct: DirectArray, key: tuple[Any, ...]) -> NDArray[Any]:
        return _outer(direct, key).astype(self.dtype, copy=False)


@dataclass(frozen=True, eq=False)
class StoreArray(BackendArray):
    """An array of a local zarr store, read chunk by chunk in the thread that asks.

    zarr decodes ten chunks at once in threads of its own, whose heaps keep what they held.
    """

    array: Any
    """xarray's own array of the variable."""
    way: ChunkFiles | ShardFiles
    """How its chunks are read."""

    @classmethod
    def of(cls, array: Any) -> Any:
        """Take the place of an array of xarray's; return that one where only zarr can read it."""
        way = files_of(array._array) if type(array._array) is zarr.Array else None
        return cls(array, way) if isinstance(way, ChunkFiles | ShardFiles) else array

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreArray.of, (self.array,)

    def __dask_tokenize__(self) -> Any:
        return normalize_token(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that zarr gives it."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """Elements of a chunk along each axis."""
        chunks: tuple[int, ...] = self.way.array.chunks
        return chunks

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        if isinstance(key, VectorizedIndexer):
            # points lie anywhere, and zarr reads only the chunks that hold some
            return self.array[key]
        read = functools.partial(_outer, self)
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, read)

    async def async_getitem(self, key: ExplicitIndexer) -> Any:
        """Read beside other reads, as zarr does."""
        return await self.array.async_getitem(key)

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a region, into ``out`` if it is given."""
        if out is None:
            out = np.empty([r.stop - r.start for r in region], self.dtype)
        self.way.read(region, out)
        return out


@dataclass(frozen=True, eq=False)
class UnopenedArray(BackendArray):
    """The library's array of a variable in a file that the library has not opened yet."""

    ref: FileRef
    """Where it is."""
    shape: tuple[int, ...]
    """Elements along each axis."""
    dtype: np.dtype[Any]
    """The dtype that the library gives it."""
    reader: Callable[[FileRef, tuple[Any, ...]], NDArray[Any]]
    """Opens the file and reads part of the variable, each axis by itself."""

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        read = functools.partial(self.reader, self.ref)
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, read)


#: Lazy arrays of xchunk's own.
_OURS = (FileArray, StoreArray, UnopenedArray)


def _outer(stored: DirectArray | StoreArray, key: tuple[Any, ...]) -> NDArray[Any]:
    """Read a basic or outer index, whose slices go forwards and whose arrays are sorted."""
    axes = [_positions(k, n) for k, n in zip(key, stored.shape, strict=True)]
    out = np.empty([len(axis) for axis in axes], stored.dtype)
    if out.size:
        if all(map(_is_run, axes)):
            stored.read([_span(axis) for axis in axes], out)
        else:
            _read_some(stored, axes, out)
    # an integer takes the axis away
    kept = tuple(slice(None) if isinstance(k, slice) or np.ndim(k) else 0 for k in key)
    return np.asarray(out[kept])


def _positions(key: Any, size: int) -> _Positions:
    """List the elements that an index takes along an axis."""
    if isinstance(key, slice):
        return range(size)[key]
    positions: NDArray[Any] = np.where(np.asarray(key) < 0, np.add(key, size), key)
    return positions if positions.ndim else range(int(positions), int(positions) + 1)


def _is_run(axis: _Positions) -> bool:
    return isinstance(axis, range) and (axis.step == 1 or len(axis) == 1)


def _span(axis: _Positions) -> slice:
    return slice(int(axis[0]), int(axis[-1]) + 1)


def _read_some(
    direct: DirectArray | StoreArray, axes: Sequence[_Positions], out: NDArray[Any]
) -> None:
    """Read scattered elements, chunk by chunk: no chunk twice, and none that is not touched."""
    pieces = [
        _pieces(np.asarray(axis), cell) for axis, cell in zip(axes, _cells(direct), strict=True)
    ]
    for piece in itertools.product(*pieces):
        box = direct.read([_span(positions) for _, positions in piece])
        picked = np.ix_(*(positions - positions[0] for _, positions in piece))
        out[tuple(here for here, _ in piece)] = box[picked]


def _cells(direct: DirectArray | StoreArray) -> Sequence[int]:
    """Return how far elements of an axis may lie apart that are read at once."""
    if direct.chunks is not None:
        return direct.chunks
    return [max(1, _SPAN // max(1, step)) for step in direct.strides]


def _pieces(positions: NDArray[Any], cell: int) -> list[tuple[slice, NDArray[Any]]]:
    """Cut sorted positions where a cell ends; each piece with its place among them."""
    edges = [0, *(np.flatnonzero(np.diff(positions // cell)) + 1).tolist(), len(positions)]
    return [(slice(a, b), positions[a:b]) for a, b in itertools.pairwise(edges)]
