"""Opening what a user names: netCDF, HDF5 or zarr, a path or a URL, told by its content."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import xarray as xr
import zarr
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.core.redact import safe_cause
from xchunk.errors import SourceError, XchunkWarning
from xchunk.rechunking.lazy import chunk_lazily
from xchunk.sources.layouts import read_layouts
from xchunk.sources.netcdf3 import expected_size
from xchunk.sources.readers import reader_for
from xchunk.sources.xarray_adapter import is_lazy
from xchunk.stores.adapter import get_key
from xchunk.stores.overlay import Unpublished
from xchunk.stores.stores import above, describe, open_store
from xchunk.targets.location import state_of


def open_nameless(
    src: str, dims: Sequence[str], storage_options: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Open a zarr array, or a group of arrays, whose dims have no names.

    - ``src``: a path or a URL.
    - ``dims``: names of the dims; an array of fewer dims has the last of them.
    - ``storage_options``: options for fsspec, for URLs.
    - raises `SourceError` if it is no zarr, or the names do not fit.
    """
    store = open_store(src, read_only=True, storage_options=storage_options)
    root, arrays = _arrays(store)
    if not arrays:
        raise SourceError(
            f"{describe(store)} is no zarr array and no group of arrays, whose dims --dims names."
        )
    try:
        documents = _documents(root, arrays, list(dims))
        is_third = "zarr.json" in documents
        ds: xr.Dataset = xr.open_zarr(
            Unpublished(root, documents), consolidated=True, mask_and_scale=is_third
        )
    except (ValueError, KeyError) as error:
        raise SourceError(
            f"{describe(store)} cannot be opened with the dims {', '.join(dims)}: {error}. Name as "
            "many dims as there are, or give one of its arrays: PATH/ARRAY."
        ) from safe_cause(error)
    if not is_third:
        # writers who name no dims mean a fill value for what was not written: 0 is a value
        for variable in ds.variables.values():
            variable.attrs.pop("_FillValue", None)
    ds.encoding["source"] = describe(store)
    return ds


def _arrays(store: Store) -> tuple[Store, list[str]]:
    """Return the store of the group that arrays lie in, and their names."""
    raw = get_key(store, "zarr.json")
    is_array = get_key(store, ".zarray") is not None
    is_array |= raw is not None and json.loads(raw).get("node_type") == "array"
    if is_array:
        found = above(store)
        if found is None:
            raise SourceError(f"{describe(store)}: give the array by its path or its URL.")
        return found[0], [found[1]]
    if raw is None and get_key(store, ".zgroup") is None:
        return store, []
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    return store, sorted(group.array_keys())


def _documents(store: Store, arrays: Sequence[str], dims: list[str]) -> dict[str, bytes]:
    """Make the documents that name the dims, with a root that holds them and nothing else."""
    out: dict[str, Any] = {}
    third: dict[str, Any] = {}
    second: dict[str, Any] = {}
    for name in arrays:
        raw = get_key(store, f"{name}/zarr.json")
        if raw is not None:
            document = json.loads(raw)
            if document.get("fill_value") is None and _NUMBER.match(str(document["data_type"])):
                document["fill_value"] = 0  # as those read it who write null: GDAL, zarrita
            if document.get("dimension_names") is None:
                document["dimension_names"] = _of(name, dims, len(document["shape"]))
            third[name] = out[f"{name}/zarr.json"] = document
            continue
        document = json.loads(get_key(store, f"{name}/.zarray") or b"{}")
        attrs = json.loads(get_key(store, f"{name}/.zattrs") or b"{}")
        attrs.setdefault("_ARRAY_DIMENSIONS", _of(name, dims, len(document["shape"])))
        second[f"{name}/.zarray"] = document
        second[f"{name}/.zattrs"] = out[f"{name}/.zattrs"] = attrs
    if third:
        together = {"kind": "inline", "must_understand": False, "metadata": third}
        root = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        out["zarr.json"] = {**root, "consolidated_metadata": together}
    else:
        group = {"zarr_format": 2}
        out[".zgroup"] = group
        together = {".zgroup": group, ".zattrs": {}, **second}
        out[".zmetadata"] = {"zarr_consolidated_format": 1, "metadata": together}
    return {key: json.dumps(document).encode() for key, document in out.items()}


def _of(name: str, dims: list[str], ndim: int) -> list[str]:
    if ndim > len(dims):
        raise ValueError(f"{name!r} has {ndim} dims, and {len(dims)} are named")
    return dims[len(dims) - ndim :]


_NUMBER = re.compile(r"(u?int|float)\d+$")
_URL = re.compile(r"[a-z][a-z0-9+.-]*(://|::)", re.IGNORECASE)
_LOCAL = ("file://", "local://")
_HDF5, _NETCDF3, _ZIP = b"\x89HDF\r\n\x1a\n", (b"CDF\x01", b"CDF\x02", b"CDF\x05"), b"PK\x03\x04"
_V2_DIMS = "_ARRAY_DIMENSIONS"
_ZARR_GROUP = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")
_WITH_GROUPS = ("h5netcdf", "netcdf4", "zarr")
#: How TIFF and BigTIFF begin, in either order of bytes.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: What files of HDF5 are mostly called.
_HDF5_NAMES = {".nc", ".nc4", ".h5", ".hdf5", ".he5"}
#: The engine that reads files without their library, opened through one of these.
_OURS, _LIBRARIES = "xchunk", ("h5netcdf", "netcdf4", "scipy", "zarr")
#: What it takes as it is; with options of a library's own, that library's engine is used.
_COMMON = {*inspect.signature(xr.open_dataset).parameters, "group"} - {"backend_kwargs", "kwargs"}
_EXTRA = "pip install 'xchunk[netcdf]'"

#: Which packages read each format, the preferred first: xarray's engine, and its modules.
_ENGINES: dict[str, dict[str, tuple[str, ...]]] = {
    "HDF5": {"netcdf4": ("netCDF4",), "h5netcdf": ("h5netcdf", "h5py")},
    "netCDF-3": {"netcdf4": ("netCDF4",), "scipy": ("scipy",)},
    "remote HDF5": {"h5netcdf": ("h5netcdf", "h5py")},
    "remote netCDF-3": {"scipy": ("scipy",)},
    "GRIB": {"cfgrib": ("cfgrib", "eccodes")},
}


@dataclass(frozen=True)
class _Found:
    """What is at the place that the user named."""

    target: Any
    """What xarray is to open."""
    engine: str
    """xarray's name of the backend."""
    storage: Mapping[str, Any] | None = None
    """What fsspec needs for it; None: nothing besides what the user gives."""

    @property
    def is_plain(self) -> bool:
        """Whether xchunk's own engine takes it by its path, where that is a local one."""
        by_path = isinstance(self.target, str) and self.storage is None
        return by_path and self.engine in _LIBRARIES and not _is_odd(self.target, self.engine)


def open_source(
    src: str | os.PathLike[str],
    engine: str | None = None,
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **open_kwargs: Any,
) -> xr.Dataset:
    """Open a dataset lazily, in the chunks in which it is stored.

    The format is told by the content, not by the name; of a URL what its name promises is tried
    first, which saves requests. Times that cannot be decoded stay as they are stored, with a
    warning.

    - ``src``: a netCDF-3, netCDF-4 or HDF5 file, or a zarr v2 or v3 store (a folder or a zip file);
      a local path or any URL that fsspec knows.
    - ``engine``: xarray's name of a backend; found by the content by default.
    - ``group``: group within the source; the root by default.
    - ``storage_options``: options for fsspec, for URLs.
    - ``**open_kwargs``: passed on to `xarray.open_dataset`, over the defaults (``chunks={}``).
    - raises `SourceError` if there is nothing there, if it is empty, truncated or of no known
      format, or if no package that reads it is installed.
    """
    if engine is None and (promised := _promised(os.fspath(src))):
        with suppress(SourceError):
            return open_source(src, promised, group, storage_options, **open_kwargs)
    name, target, kwargs = _prepare(src, engine, storage_options, open_kwargs)
    if group is not None:
        # backends of others need not know groups
        kwargs["group"] = group
    by_message = reader_for(kwargs["engine"]) is not None and kwargs["chunks"] == {}
    ds: xr.Dataset = _open(target, name, {**kwargs, "chunks": None} if by_message else kwargs)
    if by_message:
        # their backends do not tell xarray how they are stored
        ds = _in_stored_blocks(ds)
    _name(ds, name, kwargs)
    if not ds.variables:
        warnings.warn(
            f"{name}: there are no variables at {group or 'its root'}; are they in a group of it?",
            XchunkWarning,
            stacklevel=2,
        )
    return ds


def _name(ds: xr.Dataset, name: str, kwargs: Mapping[str, Any]) -> None:
    """Say where a Dataset comes from, where xarray knows no more than that it has references."""
    references = (kwargs.get("storage_options") or {}).get("fo")
    if isinstance(references, str) or kwargs["engine"] == "kerchunk":
        ds.encoding["source"] = references or name


def _in_stored_blocks(ds: xr.Dataset) -> xr.Dataset:
    """Give each variable its stored chunks as blocks; what is in memory stays there."""
    lazy = [n for n, v in ds.variables.items() if is_lazy(v)]
    layouts = [layout for layout in read_layouts({"": ds}) if layout.name in lazy and layout.chunks]
    blocks = {one.name: dict(zip(one.dims, one.chunks or (), strict=True)) for one in layouts}
    out = chunk_lazily(ds, blocks)
    out.set_close(ds.close)
    return out


def open_groups(
    src: str | os.PathLike[str],
    engine: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **open_kwargs: Any,
) -> dict[str, xr.Dataset]:
    """Open all groups of a source lazily, each as `open_source` opens one.

    - ``src``, ``engine``, ``storage_options``, ``**open_kwargs``: as for `open_source`.
    - returns: the Dataset of each group's path; ``""`` is the root. Only the root where the backend
      knows no groups.
    - raises `SourceError`: as `open_source` does.
    """
    if engine is None and (promised := _promised(os.fspath(src))):
        with suppress(SourceError):
            return open_groups(src, promised, storage_options, **open_kwargs)
    name, target, kwargs = _prepare(src, engine, storage_options, open_kwargs)
    if kwargs.get("library", kwargs["engine"]) not in _WITH_GROUPS:
        return {"": open_source(src, engine, None, storage_options, **open_kwargs)}
    try:
        found: dict[str, xr.Dataset] = _open(target, name, kwargs, xr.open_groups)
    except SourceError as error:
        root = open_source(src, engine, None, storage_options, **open_kwargs)
        warnings.warn(
            f"only the root group is looked at, since not all groups can be opened ({error})",
            XchunkWarning,
            stacklevel=2,
        )
        return {"": root}
    groups = {path.strip("/"): ds for path, ds in found.items()}
    for ds in groups.values():
        _name(ds, name, kwargs)
    if not any(ds.variables for ds in groups.values()):
        warnings.warn(f"{name}: there are no variables in it.", XchunkWarning, stacklevel=2)
    return groups


def _promised(name: str) -> str | None:
    """Return the engine that a URL's name promises, where it can be used."""
    if not _URL.match(name) or name.startswith(_LOCAL) or "::" in name:
        return None
    suffix = PurePosixPath(urlsplit(name).path.rstrip("/")).suffix.lower()
    if suffix == ".zarr":
        return "zarr"
    ((engine, modules),) = _ENGINES["remote HDF5"].items()
    # beside netCDF4 h5py would bring a second copy of HDF5's library, perhaps for nothing
    alone = "netCDF4" not in sys.modules or "h5py" in sys.modules
    usable = alone and all(map(find_spec, modules))
    return engine if usable and suffix in _HDF5_NAMES else None


def _prepare(
    src: str | os.PathLike[str],
    engine: str | None,
    storage_options: Mapping[str, Any] | None,
    open_kwargs: Mapping[str, Any],
) -> tuple[str, Any, dict[str, Any]]:
    """Find what is at a place; return its name, and what xarray is to open, and how."""
    name = os.fspath(src)
    for prefix in _LOCAL:
        name = name.removeprefix(prefix)
    remote = _URL.match(name) is not None
    options = dict(storage_options or {})
    if engine is not None and (remote or Path(name).exists()):
        found = _Found(name, engine)
    else:
        found = _find_remote(name, options) if remote else _find_local(name)
    kwargs: dict[str, Any] = {"chunks": {}, "engine": found.engine, **open_kwargs}
    if found.storage is not None:
        kwargs["storage_options"] = {**options, **found.storage}
    if engine is None and not remote and found.is_plain and _COMMON.issuperset(kwargs):
        kwargs |= _without_library(found.engine)
    reaches = remote and isinstance(found.target, str) and found.engine in ("zarr", "h5netcdf")
    if options and reaches:
        # a local path takes none
        kwargs["storage_options"] = options
    return name, found.target, kwargs


def _without_library(library: str) -> dict[str, str]:
    """Report xarray to read a file without its library; where xchunk is installed as a package."""
    return {"engine": _OURS, "library": library} if _OURS in xr.backends.list_engines() else {}


def find_file(name: str) -> tuple[str, str]:
    """Report where a local dataset is, and which of xarray's engines opens it, by its content.

    - raises `SourceError` if there is nothing that one opens.
    """
    for prefix in _LOCAL:
        name = name.removeprefix(prefix)
    if _URL.match(name):
        raise SourceError(f"{name}: is a URL, and a local file is needed. Use another engine.")
    found = _find_local(name)
    if found.engine == "zarr" and not found.is_plain:
        raise SourceError(
            f"{name}: engine='xchunk' reads zarr stores that are folders, and this is a zip file, "
            "holds references, or has a '#' or '?' in its name. Use xchunk.open_dataset."
        )
    return str(Path(name).expanduser()), found.engine


def _is_odd(target: Any, engine: str) -> bool:
    """Return whether zarr would take a path for a URL, and drop what follows a '#' or a '?'."""
    return isinstance(target, str) and engine == "zarr" and bool(set("#?") & set(target))


def _find_local(name: str) -> _Found:
    path = Path(name).expanduser()
    if not path.exists():
        raise SourceError(f"{name}: no such file or folder. Check the path.")
    if path.is_dir():
        third = _document(path / "zarr.json")
        if (path / ".zarray").is_file() or third.get("node_type") == "array":
            own = third.get("dimension_names") or _document(path / ".zattrs").get(_V2_DIMS)
            dims = ",".join(map(str, own)) if own and all(own) else "y,x"
            raise SourceError(
                f"{name}: is a single zarr array, and xarray opens groups. Name its dims: --dims "
                f"{dims}; or copy it as it is: xchunk.rechunk(zarr.open_array(…), …)."
            )
        how = _parquet_references(str(path), LocalFileSystem())
        if how is not None:
            return _Found("reference://", "zarr", {"fo": str(path), **how})
        if any((path / key).is_file() for key in _ZARR_GROUP):
            return _Found(str(path), "zarr")
        if state_of(LocalStore(path, read_only=True)) == "unfinished":
            raise SourceError(
                f"{name}: is the unfinished target of a rechunk: it cannot be read before it is "
                "complete. The command that began it resumes it; 'xchunk clean "
                f"{name}' shows what is in it."
            )
        raise SourceError(
            f"{name}: is a folder, but not a zarr store (it has no zarr.json, .zgroup or "
            ".zmetadata). If writing it was interrupted, it has no root metadata yet."
        )
    try:
        with path.open("rb") as file:
            heads = [file.read(8)]
            # HDF5 may begin with a block of the user's own, of 512 · 2^n bytes.
            for offset in (512, 1024, 2048, 4096):
                file.seek(offset)
                heads.append(file.read(8))
    except OSError as error:
        raise SourceError(f"{name}: cannot be read ({error.strerror or error}).") from error
    if heads[0][:4] == _ZIP:
        return _Found(_zip_store(path), "zarr")
    with path.open("rb") as file:
        how = _references(file)
    if how is not None:
        return _Found("reference://", "zarr", {"fo": str(path), **how})
    what = _format(name, heads)
    if what == "netCDF-3":
        with path.open("rb") as file:
            _refuse_truncated(name, file, path.stat().st_size)
    return _Found(str(path), _engine(name, what, ""))


def _references(file: BinaryIO) -> dict[str, Any] | None:
    """Report what fsspec needs for references of kerchunk's; None: they are none.

    They are JSON that says which bytes of which file stand for each key.
    """
    if file.read(8).lstrip()[:1] != b"{":
        return None
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        return None
    refs = found.get("refs", found)
    if not isinstance(refs, dict) or set(_ZARR_GROUP).isdisjoint(refs):
        return None
    places = [held[0] for held in refs.values() if isinstance(held, list)]
    return _to_targets([*places, *(found.get("templates") or {}).values()])


def _to_targets(places: Iterable[Any]) -> dict[str, Any]:
    far = any(_URL.match(str(place)) and not str(place).startswith(_LOCAL) for place in places)
    # fsspec makes the filesystem of the targets like that of the references only if it is told so
    return {"remote_options": {"asynchronous": True}} if far else {}


def _parquet_references(folder: str, fs: Any) -> dict[str, Any] | None:
    """Report what fsspec needs for a folder of references in parquet; None: they are none.

    - ``fs``: fsspec's file system of the folder.
    - raises `SourceError` if they cannot be read.
    """
    from fsspec.implementations.reference import LazyReferenceMapper

    path = folder.rstrip("/")
    try:
        about = json.loads(fs.cat_file(f"{path}/.zmetadata"))
    except (OSError, ValueError):
        return None
    if not isinstance(about, dict) or "record_size" not in about:
        return None
    try:
        held = LazyReferenceMapper(path, fs=fs).values()
        first = next((ref[0] for ref in held if isinstance(ref, list) and ref[0]), None)
    except ImportError as error:
        raise SourceError(
            f"{folder}: holds references in parquet, which needs fastparquet ({_one_line(error)}): "
            "pip install fastparquet"
        ) from error
    except Exception as error:  # noqa: BLE001 - packages of parquet raise what they like
        raise SourceError(
            f"{folder}: holds references in parquet that cannot be read ({_one_line(error)}). Make "
            "them anew, with kerchunk.df.refs_to_dataframe."
        ) from safe_cause(error)
    return {} if first is None else _to_targets([first])


def _document(path: Path) -> dict[str, Any]:
    """Read an object of JSON; it is empty where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_truncated(name: str, file: BinaryIO, size: int) -> None:
    """Refuse a netCDF-3 file that is cut off: what is missing would be read as zeros."""
    try:
        needed = expected_size(file)
    except EOFError as error:
        raise SourceError(f"{name}: is truncated: it ends within its header.") from error
    except (KeyError, IndexError) as error:
        raise SourceError(f"{name}: is damaged: its netCDF-3 header makes no sense.") from error
    if size < needed:
        raise SourceError(
            f"{name}: is truncated: it has {size} bytes, but its header promises {needed}."
        )


def _find_remote(name: str, options: dict[str, Any]) -> _Found:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(name, **options)
        head = _head(fs, path)
        # the keys of references begin with no slash
        keys = (f"{path.rstrip('/')}/{key}" if path else key for key in _ZARR_GROUP)
        key = None if _is_file(head) else next(filter(fs.exists, keys), None)
        how = _parquet_references(path, fs) if key and key.endswith(".zmetadata") else None
        if how is not None:
            return _Found("reference://", "zarr", {"fo": name, **how})
        if key is not None:
            return _Found(name, "zarr")
        if not head:
            _refuse_none(name, fs, path)
        if head[:4] in _NETCDF3:
            with fs.open(path, "rb") as file:
                _refuse_truncated(name, file, fs.size(path) or 0)
        how = _far_references(fs, path, head)
        if how is not None:
            return _Found("reference://", "zarr", {"fo": name, **how})
    except SourceError:
        raise
    except ImportError as error:
        raise SourceError(
            f"{name}: {_one_line(error)} (pip install 'xchunk[remote]')"
        ) from safe_cause(error)
    except Exception as error:  # noqa: BLE001  every filesystem has errors of its own
        raise SourceError(f"{name}: cannot be read ({_one_line(error)}).") from safe_cause(error)
    if head[:4] == _ZIP:
        raise SourceError(f"{name}: a zip file is read from a local path only. Download it first.")
    engine = _engine(name, _format(name, [head]), "remote ")
    if engine == "scipy":
        return _Found(fs.open(path, "rb"), engine)
    return _Found(name, engine)


def _far_references(fs: Any, path: str, head: bytes) -> dict[str, Any] | None:
    if head.lstrip()[:1] != b"{":
        return None
    with fs.open(path, "rb") as file:
        return _references(file)


def _head(fs: Any, path: str) -> bytes:
    """Read the first bytes of a file, and no more; none of what is no file."""
    # servers that list no folders forbid them, in errors of their own
    with suppress(Exception):
        return bytes(fs.cat_file(path, start=0, end=8))[:8]
    return b""


def _is_file(head: bytes) -> bool:
    """Return whether bytes begin a file of data; servers may answer a page for a folder."""
    return head == _HDF5 or head[:4] in (*_NETCDF3, *_TIFF, b"GRIB", _ZIP)


def _refuse_none(name: str, fs: Any, path: str) -> None:
    if not fs.exists(path):
        raise SourceError(f"{name}: nothing is there, or it may not be read.")
    if fs.isdir(path):
        raise SourceError(f"{name}: is a folder, but not a zarr store.")


def _format(name: str, heads: list[bytes]) -> str:
    first = heads[0]
    if not first:
        raise SourceError(f"{name}: is empty (0 bytes).")
    if _HDF5 in heads:
        return "HDF5"
    if first[:4] in _NETCDF3:
        return "netCDF-3"
    if first[:4] == b"GRIB":
        return "GRIB"
    if first.lstrip()[:1] == b"{":
        raise SourceError(
            f"{name}: is JSON, but no references of kerchunk's or VirtualiZarr's, which have a "
            f"key {' or '.join(_ZARR_GROUP[:2])}."
        )
    if first[:4] in _TIFF:
        installed = "" if find_spec("rioxarray") else ", after pip install rioxarray"
        raise SourceError(
            f"{name}: is TIFF, which rioxarray reads: give the engine 'rasterio' "
            f"(--engine rasterio){installed}."
        )
    raise SourceError(
        f"{name}: is not netCDF, HDF5 or zarr (it begins with {first!r}). If xarray has an engine "
        "for it, name it: engine (--engine)."
    )


def _engine(name: str, what: str, where: str) -> str:
    choices = _ENGINES.get(where + what)
    if choices is None:
        raise SourceError(f"{name}: is {what}, which is read from a disk only. Download it first.")
    for engine, modules in choices.items():
        if all(find_spec(module) is not None for module in modules):
            return engine
    packages = " or ".join(" and ".join(modules) for modules in choices.values())
    extra = "pip install 'xchunk[grib]'" if what == "GRIB" else _EXTRA
    raise SourceError(f"{name}: is {where}{what}, which needs {packages}: {extra}")


def _zip_store(path: Path) -> Any:
    import zipfile

    from zarr.storage import ZipStore

    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path}: is a truncated or damaged zip file ({error}).") from error
    if not names & set(_ZARR_GROUP):
        raise SourceError(f"{path}: is a zip file, but holds no zarr store at its root.")
    return ZipStore(path, mode="r")


def _open(
    target: Any, name: str, kwargs: dict[str, Any], opener: Callable[..., Any] = xr.open_dataset
) -> Any:
    if _is_odd(target, kwargs["engine"]):
        from xchunk.stores.stores import local_path, open_store

        if local_path(target) is not None:
            target = open_store(target, read_only=True)
    try:
        with _quiet():
            return opener(target, **kwargs)
    except Exception as error:  # noqa: BLE001  backends raise what they like; all of it is shown
        failed: Exception = error
    # A missing calendar package and unreadable units both end in errors of many kinds.
    may_be_times = kwargs.get("decode_times") is None and kwargs.get("decode_cf") is not False
    if may_be_times and not isinstance(failed, OSError):
        try:
            with _quiet():
                opened = opener(target, **{**kwargs, "decode_times": False})
        except Exception as error:  # noqa: BLE001  the first error is the one that tells
            raise _readable(name, kwargs, failed) from safe_cause(error)
        warnings.warn(
            f"{name}: times are shown as they are stored, since they could not be decoded "
            f"({_one_line(failed)})",
            XchunkWarning,
            stacklevel=3,
        )
        return opened
    raise _readable(name, kwargs, failed) from safe_cause(failed)


def _readable(name: str, kwargs: Mapping[str, Any], error: Exception) -> SourceError:
    """Say in one line why a source could not be opened."""
    engine, group = kwargs.get("library", kwargs["engine"]), kwargs.get("group")
    said = _one_line(error)
    if isinstance(error, ImportError):
        return SourceError(f"{name}: engine {engine!r} is not installed ({said}). {_EXTRA}")
    if isinstance(error, ValueError) and "unrecognized engine" in said:
        return SourceError(f"{name}: there is no engine {engine!r} here ({said}).")
    if group is not None and isinstance(error, KeyError | OSError | FileNotFoundError):
        return SourceError(f"{name}: there is no group {group!r} in it ({said}).")
    if engine == "zarr" and ("dimension_names" in said or "_ARRAY_DIMENSIONS" in said):
        return SourceError(
            f"{name}: the dims of its zarr arrays have no names, as xarray needs them. Name them "
            "(--dims y,x), or copy arrays as they are: xchunk.rechunk(zarr.open_array(…), …)."
        )
    if engine == "zarr" and "conflicting sizes" in said:
        return SourceError(
            f"{name}: its arrays have dims of the same names and other sizes, as an image in "
            f"several resolutions ({said}). Open one of them: {name}/ARRAY --dims y,x."
        )
    if engine == "zarr" and isinstance(error, TypeError) and "None" in said:
        return SourceError(
            f"{name}: cannot be opened as a zarr group ({said}). Where a fill value is null, as "
            "GDAL 3.12 and zarrita.js 0.7 write it, name the dims: --dims y,x takes 0 for it."
        )
    if engine == "zarr":
        return SourceError(f"{name}: cannot be opened as a zarr group ({said}).")
    return SourceError(f"{name}: is truncated, damaged or not what it seems ({said}).")


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what a user cannot act on: missing consolidated metadata, drafts of zarr specs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*consolidated metadata.*")
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated.*", category=UserWarning)
        yield


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = text or type(error).__name__
    return text if len(text) <= 160 else text[:159] + "…"
