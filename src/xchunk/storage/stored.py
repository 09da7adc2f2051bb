"""Stored arrays: opened by their reference, described and read raw, in whatever process."""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends.zarr import FillValueCoder

from xchunk._secrets import safe_cause
from xchunk.core.grid import slabs
from xchunk.errors import SourceError
from xchunk.storage import zarr_io
from xchunk.storage.chunk_cache import small_default_cache
from xchunk.storage.ranges import refuse_without_ranges
from xchunk.storage.refs import FileRef, SplicedRef, StoredRef, ZarrRef
from xchunk.storage.shard_files import files_of

__all__ = ["StoredArray", "StoredInfo", "close_files", "open_stored"]


@dataclass(frozen=True)
class StoredInfo:
    """What a store says of one array."""

    shape: tuple[int, ...]
    """Elements along each axis."""
    dtype: np.dtype[Any]
    """The dtype of the stored values."""
    chunks: tuple[int | tuple[int, ...], ...] | None
    """Elements of a chunk along each axis; None: not chunked."""
    shards: tuple[int, ...] | None
    """Elements of a shard along each axis; None: no shards."""
    codecs: tuple[str, ...]
    """Names of the codecs, in the order of encoding."""
    format: str
    """``zarr2``, ``zarr3``, ``netcdf4`` or ``netcdf3``."""
    fill_value: Any
    """What a missing chunk reads as."""
    attrs: Mapping[str, Any]
    """The attributes as stored, those that steer decoding included."""
    encoding: Mapping[str, Any]
    """What keeps the codecs when the array is written to zarr of the same format."""
    by_chunk: bool = False
    """Whether a read holds one chunk at a time, also of a shard."""


class StoredArray(Protocol):
    """A stored array that can be read raw: no unpacking, masking or decoding."""

    info: StoredInfo

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a region, into ``out`` where that saves memory; return what was read."""
        ...


def open_stored(ref: StoredRef) -> StoredArray:
    """Open a stored array by its reference.

    Raises
    ------
    SourceError
        If it is not there or cannot be read.
    """
    try:
        if isinstance(ref, ZarrRef):
            return _ZarrStored(ref)
        return _Spliced(ref) if isinstance(ref, SplicedRef) else _FileStored(ref)
    except (OSError, KeyError, ValueError, ImportError) as error:
        raise SourceError(
            f"the stored array {_name(ref)} cannot be opened: {error}"
        ) from safe_cause(error)


def _name(ref: StoredRef) -> str:
    if isinstance(ref, SplicedRef):
        return _name(ref.new)
    return repr(ref.path if isinstance(ref, ZarrRef) else f"{ref.filename}:{ref.variable}")


class _ZarrStored:
    def __init__(self, ref: ZarrRef):
        self.array = zarr_io.open_array(ref.store, ref.path, ref.zarr_format, mode="r")
        if self.array.shards is not None:
            refuse_without_ranges(ref.store, f"{ref.path}/zarr.json".lstrip("/"))
        self._files = files_of(self.array)
        self.info = replace(_zarr_info(self.array), by_chunk=self._files is not None)

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        if out is None:
            shape = tuple(r.stop - r.start for r in region)
            out = np.empty(shape, dtype=self.info.dtype)
        if self._files is not None and out.dtype == self.info.dtype:
            self._files.read(region, out)
        else:
            zarr_io.read_into(self.array, region, out)
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
        shards=None if array.shards is None else tuple(array.shards),
        codecs=_codec_names(array),
        format=f"zarr{zarr_format}",
        fill_value=array.fill_value,
        attrs=attrs,
        encoding=encoding,
    )


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
    def __init__(self, ref: FileRef):
        self._variable = _open_file(ref).variables[ref.variable]
        encoding = self._variable.encoding
        chunks = encoding.get("chunksizes")
        is_netcdf3 = ref.engine == "scipy" or "contiguous" not in encoding
        self.info = StoredInfo(
            shape=self._variable.shape,
            dtype=self._variable.dtype,
            chunks=None if not chunks or encoding.get("contiguous") else tuple(chunks),
            shards=None,
            codecs=_hdf5_codecs(encoding),
            format="netcdf3" if is_netcdf3 and self._variable.ndim else "netcdf4",
            fill_value=self._variable.attrs.get("_FillValue"),
            attrs=dict(self._variable.attrs),
            encoding={},
        )

    def read(
        self,
        region: Sequence[slice],
        out: NDArray[Any] | None = None,  # noqa: ARG002 - what backends return is new anyway
    ) -> NDArray[Any]:
        return np.asarray(self._variable[tuple(region)].values)


class _Spliced:
    """Old and new values as one array, the window of an extension."""

    def __init__(self, ref: SplicedRef):
        self._ref = ref
        self._old, self._new = open_stored(ref.old), open_stored(ref.new)
        self.info = replace(self._new.info, shape=ref.extension.shape, chunks=None, shards=None)

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        if out is None:
            out = np.empty([r.stop - r.start for r in region], dtype=self.info.dtype)
        old, new = self._ref.extension.split(region)
        if old is not None:
            there, here = old
            self._old.read(there, out[here])
        if new is not None:
            there, here = new
            self._read_new(there, out[here])
        return out

    def _read_new(self, region: Sequence[slice], out: NDArray[Any]) -> None:
        info, origin = self._new.info, self._ref.origin
        shifted = [slice(r.start + o, r.stop + o) for r, o in zip(region, origin, strict=True)]
        fills = info.format.startswith("zarr") and not info.shards
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


_files: dict[tuple[str, str], dict[str, xr.Dataset]] = {}
_files_lock = threading.Lock()


def _open_file(ref: FileRef) -> xr.Dataset:
    """Open a file undecoded, once a process; xarray's own cache bounds the open handles.

    All groups share one handle: netCDF's library fails where a file that is open several times
    is closed in another order.
    """
    key, group = (ref.filename, ref.engine), f"/{(ref.group or '').strip('/')}"
    with _files_lock:
        groups = _files.get(key)
        if groups is None:
            if len(_files) >= 128:
                _close(_files.pop(next(iter(_files))))
            with small_default_cache(ref.engine):
                groups = _files[key] = _open_groups(ref)
        if group not in groups:
            groups[group] = _open_group(ref)
        return groups[group]


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
        found = xr.open_groups(ref.filename, engine=ref.engine, cache=False, **_UNDECODED)
    except (OSError, ImportError):
        raise
    except Exception:  # noqa: BLE001 - a group that is not asked for may be what xarray cannot read
        return {}
    return {str(name): ds for name, ds in found.items()}


def _open_group(ref: FileRef) -> xr.Dataset:
    return xr.open_dataset(
        ref.filename, engine=ref.engine, group=ref.group, decode_cf=False, cache=False
    )


def _close(groups: dict[str, xr.Dataset]) -> None:
    for ds in groups.values():
        ds.close()


def close_files() -> None:
    """Close what `open_stored` keeps open, so that the next run sees the files as they are."""
    with _files_lock:
        while _files:
            _close(_files.popitem()[1])
