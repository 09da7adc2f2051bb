"""Stored arrays: opened by their reference, described and read raw, in whatever process."""

from __future__ import annotations

import atexit
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends.zarr import FillValueCoder

from xchunk.core.grid import slabs
from xchunk.core.redact import safe_cause
from xchunk.errors import SourceError
from xchunk.sources.hdf5_read import DirectArray, open_direct
from xchunk.sources.joint import JoinedStored
from xchunk.sources.readers import reader_for
from xchunk.sources.refs import (
    FileRef,
    JoinedRef,
    SplicedRef,
    StoredArray,
    StoredInfo,
    StoredRef,
    ZarrRef,
)
from xchunk.sources.remote_file import forget_files
from xchunk.stores import adapter
from xchunk.stores.chunk_objects import ChunkObjects
from xchunk.stores.in_flight import Turn
from xchunk.stores.shard_files import files_of
from xchunk.stores.stores import refuse_without_ranges

#: Puts what was asked for ahead into an array.
Reading: TypeAlias = Callable[[NDArray[Any]], None]


def reads_ahead(stored: StoredArray | None, dtype: np.dtype[Any]) -> bool:
    """Return whether an array's chunks are read by requests that can be made ahead."""
    # others are not asked for their dtype: a library would open them for it
    return isinstance(stored, _ZarrStored) and stored.is_in_objects and stored.info.dtype == dtype


def begin_reading(stored: StoredArray, region: Sequence[slice], turn: Turn) -> Reading | None:
    """Begin to read a region; return what puts it into an array of the stored dtype."""
    return stored.ahead(region, turn) if isinstance(stored, _ZarrStored) else None


def open_stored(ref: StoredRef, *, lazy: bool = False) -> StoredArray:
    """Open a stored array by its reference.

    - ``ref``: where it is.
    - ``lazy``: whether its ``info`` is read when it is asked for. A file of which only values are
      wanted is then not opened by a library, if it can be read without.
    - raises `SourceError` if it is not there or cannot be read.
    """
    try:
        if isinstance(ref, ZarrRef):
            return _ZarrStored(ref)
        if isinstance(ref, JoinedRef):
            return JoinedStored(ref, open_stored)
        if isinstance(ref, SplicedRef):
            return _Spliced(ref)
        reader = reader_for(ref.engine)
        return _FileStored(ref, lazy=lazy) if reader is None else reader.open_array(ref)
    except (OSError, KeyError, ValueError, ImportError) as error:
        raise SourceError(
            f"the stored array {_name(ref)} cannot be opened: {error}"
        ) from safe_cause(error)


def expect(refs: Iterable[StoredRef]) -> None:
    """Open arrays of far zarr stores beside each other that will be opened one by one."""
    adapter.open_ahead(
        (ref.store, ref.path, ref.zarr_format) for ref in refs if isinstance(ref, ZarrRef)
    )


def _name(ref: StoredRef) -> str:
    if isinstance(ref, SplicedRef):
        return _name(ref.new)
    if isinstance(ref, JoinedRef):
        return _name(ref.parts[0])
    return repr(ref.path if isinstance(ref, ZarrRef) else f"{ref.filename}:{ref.variable}")


class _ZarrStored:
    def __init__(self, ref: ZarrRef):
        self.array = adapter.open_array(ref.store, ref.path, ref.zarr_format, mode="r")
        if adapter.is_regular(self.array) and self.array.shards is not None:
            refuse_without_ranges(ref.store, f"{ref.path}/zarr.json".lstrip("/"))
        self._files = files_of(self.array)
        self.info = replace(_zarr_info(self.array), by_chunk=self._files is not None)

    @property
    def is_in_objects(self) -> bool:
        """Whether its chunks are read one by one from a far store."""
        return isinstance(self._files, ChunkObjects)

    def ahead(self, region: Sequence[slice], turn: Turn) -> Reading | None:
        """Begin to read a region; return what puts it into an array of the stored dtype."""
        files = self._files
        if not isinstance(files, ChunkObjects):
            return None
        return partial(files.decode_all, files.requests(region, turn))

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        if out is None:
            shape = tuple(r.stop - r.start for r in region)
            out = np.empty(shape, dtype=self.info.dtype)
        if self._files is not None and out.dtype == self.info.dtype:
            self._files.read(region, out)
        else:
            adapter.read_into(self.array, region, out)
        return out


def _zarr_info(array: Any) -> StoredInfo:
    attrs = dict(array.attrs)
    attrs.pop("_ARRAY_DIMENSIONS", None)
    encoding: dict[str, Any] = {
        "compressors": tuple(array.compressors),
        "filters": tuple(array.filters) or None,
    }
    zarr_format = array.metadata.zarr_format
    if zarr_format == 3:
        encoding["serializer"] = array.serializer
        encoding["fill_value"] = array.fill_value
        if "_FillValue" in attrs:
            attrs["_FillValue"] = _decoded_fill(attrs["_FillValue"], np.dtype(array.dtype))
    elif array.fill_value is not None:
        # zarr 2 has one fill value, which xarray masks with: it is the CF attribute too
        attrs["_FillValue"] = array.fill_value
    return StoredInfo(
        shape=tuple(array.shape),
        dtype=np.dtype(array.dtype),
        chunks=_zarr_chunks(array),
        shards=tuple(array.shards)
        if adapter.is_regular(array) and array.shards is not None
        else None,
        regular=adapter.is_regular(array),
        codecs=_codec_names(array),
        format=f"zarr{zarr_format}",
        fill_value=array.fill_value,
        attrs=attrs,
        encoding=encoding,
        chunk_keys=_chunk_keys(array.metadata),
    )


def _chunk_keys(metadata: Any) -> dict[str, Any] | None:
    if metadata.zarr_format == 2:
        return {"name": "v2", "separator": metadata.dimension_separator}
    encoding = metadata.chunk_key_encoding.to_dict()
    separator = (encoding.get("configuration") or {}).get("separator")
    return None if separator is None else {"name": encoding["name"], "separator": separator}


def _decoded_fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Undo how xarray writes a fill value into JSON: floats as base64 of their bytes."""
    try:
        return FillValueCoder.decode(value, dtype)
    except (ValueError, TypeError, struct.error):
        # not written by xarray: it is what it is
        return value


def _zarr_chunks(array: Any) -> tuple[int | tuple[int, ...], ...]:
    try:
        return tuple(array.chunks)
    except NotImplementedError:
        # a rectilinear grid has no one chunk; zarr >= 3.4 gives the lengths along each dim
        return tuple(tuple(int(n) for n in sizes) for sizes in array.read_chunk_sizes)


def _codec_names(array: Any) -> tuple[str, ...]:
    """Name the codecs of a zarr array, in the order of encoding, without the plain ``bytes``."""
    names = []
    serializer = getattr(array, "serializer", None) if array.metadata.zarr_format == 3 else None
    for codec in (*array.filters, *([serializer] if serializer else []), *array.compressors):
        config = codec.to_dict() if hasattr(codec, "to_dict") else codec.get_config()
        name = str(config.get("name") or config.get("id")).removeprefix("numcodecs.")
        detail = config.get("configuration", config)
        if name == "blosc":
            name = f"blosc-{detail.get('cname')}"
        if name != "bytes":
            names.append(str(name))
    return tuple(names)


class _FileStored:
    """A variable in a file, read where its bytes are, or else through xarray's backend."""

    def __init__(self, ref: FileRef, *, lazy: bool):
        self._ref = ref
        self._direct = _direct(ref)
        if self._direct is None or not self._direct.is_readable or not lazy:
            self.info  # noqa: B018 - what cannot be opened is to be found here

    @cached_property
    def _variable(self) -> xr.Variable:
        return _open_file(self._ref).variables[self._ref.variable]

    @cached_property
    def info(self) -> StoredInfo:
        """What the file says of it, in the words of xarray's backend."""
        variable, direct = self._variable, self._direct
        encoding = variable.encoding
        chunks = encoding.get("chunksizes")
        # h5netcdf, which reads HDF5 only, does not tell in older versions of xarray
        is_netcdf3 = self._ref.engine != "h5netcdf" and "contiguous" not in encoding
        if direct is not None:
            # netCDF-4 shows a variable as long as the longest that shares an unlimited dim with it
            same = direct.dtype == variable.dtype
            self._direct = shown = direct.shown_as(tuple(variable.shape)) if same else None
        else:
            shown = None
        return StoredInfo(
            shape=variable.shape,
            dtype=variable.dtype,
            chunks=None if not chunks or encoding.get("contiguous") else tuple(chunks),
            shards=None,
            codecs=_hdf5_codecs(encoding) if direct is None else direct.codecs,
            format="netcdf3" if is_netcdf3 and variable.ndim else "netcdf4",
            fill_value=variable.attrs.get("_FillValue"),
            attrs=dict(variable.attrs),
            encoding={},
            by_chunk=shown is not None and shown.is_readable,
        )

    @property
    def layout(self) -> StoredInfo:
        """What is known of it without a library, where that is enough to read it."""
        direct = self._direct
        if direct is None or not direct.is_readable or "info" in self.__dict__:
            return self.info
        return StoredInfo(
            shape=direct.shape,
            dtype=direct.dtype,
            chunks=direct.chunks,
            shards=None,
            codecs=direct.codecs,
            format="netcdf4",
            fill_value=None,
            attrs={},
            encoding={},
            by_chunk=True,
        )

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        if self._direct is not None and not self._direct.holds(region):
            self.info  # noqa: B018 - which finds out whether it is shown longer than it is stored
        direct = self._direct
        fits = direct is not None and (out is None or out.dtype == direct.dtype)
        if direct is None or not (fits and direct.is_readable and direct.holds(region)):
            return np.asarray(self._variable[tuple(region)].values)
        return direct.read(region, out)


def _direct(ref: FileRef) -> DirectArray | None:
    """Look up where a variable's bytes are; None where only the library can tell."""
    found = open_direct(ref.filename, ref.group, ref.variable, ref.remote)
    if found is None or found.dtype.kind != "S" or found.dtype.itemsize == 1:
        return found
    # the libraries make strings of other kinds of what is longer than a character
    return None


class _Spliced:
    """Old and new values as one array, the window of an extension."""

    def __init__(self, ref: SplicedRef):
        self._ref = ref
        self._old, self._new = open_stored(ref.old), open_stored(ref.new)

    @cached_property
    def info(self) -> StoredInfo:
        shape = self._ref.extension.shape
        return replace(self._new.info, shape=shape, chunks=None, shards=None)

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        if out is None:
            out = np.empty([r.stop - r.start for r in region], dtype=self._old.info.dtype)
        old, new = self._ref.extension.split(region)
        if old is not None:
            there, here = old
            self._old.read(there, out[here])
        if new is not None:
            there, here = new
            self._read_new(there, out[here])
        return out

    def _read_new(self, region: Sequence[slice], out: NDArray[Any]) -> None:
        origin = self._ref.origin
        shifted = [slice(r.start + o, r.stop + o) for r, o in zip(region, origin, strict=True)]
        if isinstance(self._ref.new, JoinedRef):  # which opens no more than it reads
            self._new.read(shifted, out)
            return
        info = self._new.info
        fills = info.by_chunk or (info.format.startswith("zarr") and not info.shards)
        most = out.size if fills else max(1, self._ref.at_once // max(1, info.dtype.itemsize))
        unit = [c if isinstance(c, int) else 1 for c in info.chunks or (1,) * len(shifted)]
        for part in slabs(shifted, unit, most):
            local = tuple(
                slice(p.start - s.start, p.stop - s.start)
                for p, s in zip(part, shifted, strict=True)
            )
            values = self._new.read(part, out[local])
            if not np.shares_memory(values, out):
                out[local] = values


_HDF5_CODECS = ("shuffle", "zlib", "szip", "zstd", "bzip2", "blosc", "fletcher32")


def _hdf5_codecs(encoding: Mapping[str, Any]) -> tuple[str, ...]:
    named = [c for c in _HDF5_CODECS if encoding.get(c)]
    if encoding.get("compression") and encoding["compression"] not in named:
        named.append(str(encoding["compression"]))
    return tuple(named)


@dataclass(frozen=True)
class _Open:
    """A file that is open in this process."""

    groups: dict[str, xr.Dataset]
    """Its groups, undecoded, by their paths."""
    closers: list[Callable[[], None]]
    """What closes it, or lets go of the handle that it is read through."""

    def close(self) -> None:
        """Close what was opened; the user's own handle stays as it was."""
        for close in self.closers:
            close()


_files: dict[tuple[str, str], _Open] = {}
_files_lock = threading.Lock()
#: Files that are open at once; each takes memory for its handles and its metadata.
_MOST_FILES = 16


def _open_file(ref: FileRef) -> xr.Dataset:
    """Open a file undecoded, once a process: through the user's handle where there is one.

    Else all groups share one handle, and xarray's own cache bounds how many are open. netCDF's
    library fails, up to ending the process, where a file that is open several times is closed in
    another order.
    """
    key, group = (ref.filename, ref.engine), f"/{(ref.group or '').strip('/')}"
    with _files_lock:
        file = _files.get(key)
        if file is None:
            if len(_files) >= _MOST_FILES:
                _files.pop(next(iter(_files))).close()
            file = _Open({}, [])
            if ref.handle is None:
                with small_default_cache(ref.engine):
                    file.groups.update(_open_groups(ref))
                file.closers.extend(ds.close for ds in file.groups.values())
            _files[key] = file
        else:
            # the one that was not asked for the longest is closed first
            _files[key] = _files.pop(key)
        if group not in file.groups:
            file.groups[group], close = _open_group(ref)
            file.closers.append(close)
        return file.groups[group]


def read_by_library(ref: FileRef, key: tuple[Any, ...]) -> NDArray[Any]:
    """Read part of a variable undecoded, through xarray's backend; each axis by itself."""
    return np.asarray(_open_file(ref).variables[ref.variable][key].values)


#: What ``decode_cf=False`` means, which `xarray.open_groups` does not take as `open_dataset` does.
_UNDECODED: dict[str, Any] = {
    "decode_cf": False,
    "mask_and_scale": False,
    "decode_times": False,
    "decode_timedelta": False,
    "concat_characters": False,
    "decode_coords": False,
}


def _open_groups(ref: FileRef) -> dict[str, xr.Dataset]:
    if ref.engine == "scipy":
        return {}
    try:
        found = xr.open_groups(_named(ref), engine=ref.engine, cache=False, **_UNDECODED)
    except (OSError, ImportError):
        raise
    except Exception:  # noqa: BLE001 - a group that is not asked for may be what xarray cannot read
        return {}
    return {str(name): ds for name, ds in found.items()}


def _named(ref: FileRef) -> Any:
    """Return what xarray opens."""
    return ref.filename if ref.remote is None else ref.remote.open()


def _open_group(ref: FileRef) -> tuple[xr.Dataset, Callable[[], None]]:
    if ref.handle is not None:
        from xchunk.sources.xarray_adapter import through_handle

        store, let_go = through_handle(ref.handle, ref.group)
        with small_default_cache(ref.engine):
            return _undecoded(store, ref.variable), let_go
    try:
        ds = xr.open_dataset(
            _named(ref), engine=ref.engine, group=ref.group, decode_cf=False, cache=False
        )
    except ValueError:
        if ref.engine != "h5netcdf":
            raise
        store = xr.backends.H5NetCDFStore.open(_named(ref), group=ref.group)
        return _undecoded(store, ref.variable), store.close
    return ds, ds.close


def _undecoded(store: Any, wanted: str) -> xr.Dataset:
    """Open what xarray's store of a file holds, but for variables that xarray cannot open.

    Users drop those, such as ragged ones, and we open the file anew.
    """
    # without a name xarray would load the engines of all packages to ask them
    opened = partial(xr.open_dataset, store, engine="store", decode_cf=False, cache=False)
    try:
        return opened()
    except ValueError:
        names = set(store.load()[0])

        def fails(name: str) -> bool:
            try:
                opened(drop_variables=names - {name})
            except ValueError:
                return True
            return False

        odd = [name for name in names if fails(name)]
        if wanted in odd:
            raise
        return opened(drop_variables=odd)


def close_files() -> None:
    """Close what `open_stored` keeps open, so that the next run sees the files as they are."""
    with _files_lock:
        while _files:
            _files.popitem()[1].close()
    forget_files()


# Libraries that are unloaded while files are open can end the process with an error.
atexit.register(close_files)


# netCDF-4's library keeps up to 64 MB of decoded chunks for each variable of an open file. We read
# each chunk once, so that they would only take room from the budget. A file that is open twice in
# a process shares its cache between both, and the first one decides: so the user's own handles
# are asked as well, and have back what they had when the run is over.

#: Bytes, slots and preemption of the cache while we read: of an archive, many files are open.
_SMALL = (1024, 11, 0.75)


@contextmanager
def small_default_cache(engine: str) -> Iterator[None]:
    """Open netCDF-4 files with a small cache; the process's default is put back."""
    if engine != "netcdf4":
        yield
        return
    import netCDF4

    before = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(*_SMALL)
    try:
        yield
    finally:
        netCDF4.set_chunk_cache(*before)


@contextmanager
def small_chunk_caches(variables: Iterable[xr.Variable]) -> Iterator[None]:
    """Make the caches of the netCDF-4 variables that are open in this process small for a while."""
    before = [
        (wrapper, size)
        for variable in variables
        for wrapper in _open_caches(variable)
        if (size := _resize(wrapper, _SMALL)) is not None
    ]
    try:
        yield
    finally:
        for wrapper, size in before:
            _resize(wrapper, size)


def _open_caches(variable: xr.Variable) -> list[Any]:
    """Return what has a cache beneath a variable; nothing where it cannot be traced."""
    from xchunk.sources.trace import can_trace, part_of

    if not can_trace(variable):
        return []
    try:
        from xchunk.sources.xarray_adapter import open_caches

        return list(open_caches(part_of(variable)))
    except Exception:  # noqa: BLE001 - it only saves memory: the variable is read all the same
        return []


def _resize(wrapper: Any, cache: tuple[int, int, float]) -> Any:
    """Set one variable's cache; None where it has none, or is closed by now."""
    try:
        from xchunk.sources.xarray_adapter import resize_chunk_cache

        return resize_chunk_cache(wrapper, cache)
    except Exception:  # noqa: BLE001 - it only saves memory: the variable is read all the same
        return None
