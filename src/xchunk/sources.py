"""Opening what a user names: netCDF, HDF5 or zarr, a path or a URL, told by its content."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import xarray as xr

from xchunk._secrets import safe_cause
from xchunk.errors import SourceError, XchunkWarning
from xchunk.storage.netcdf3 import expected_size

__all__ = ["open_groups", "open_source"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*(://|::)", re.IGNORECASE)
_LOCAL = ("file://", "local://")
_HDF5, _NETCDF3, _ZIP = b"\x89HDF\r\n\x1a\n", (b"CDF\x01", b"CDF\x02", b"CDF\x05"), b"PK\x03\x04"
_ZARR_GROUP = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")
_WITH_GROUPS = ("h5netcdf", "netcdf4", "zarr")
_EXTRA = "pip install 'xchunk[netcdf]'"

#: Which packages read each format, the preferred first: xarray's engine, and its modules.
_ENGINES: dict[str, dict[str, tuple[str, ...]]] = {
    "HDF5": {"netcdf4": ("netCDF4",), "h5netcdf": ("h5netcdf", "h5py")},
    "netCDF-3": {"netcdf4": ("netCDF4",), "scipy": ("scipy",)},
    "remote HDF5": {"h5netcdf": ("h5netcdf", "h5py")},
    "remote netCDF-3": {"scipy": ("scipy",)},
}


@dataclass(frozen=True)
class _Found:
    """What is at the place that the user named."""

    target: Any
    """What xarray is to open."""
    engine: str
    """xarray's name of the backend."""


def open_source(
    src: str | os.PathLike[str],
    engine: str | None = None,
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **open_kwargs: Any,
) -> xr.Dataset:
    """Open a dataset lazily, in the chunks in which it is stored.

    The format is told by the content, not by the name. Times that cannot be decoded stay
    as they are stored, with a warning.

    Parameters
    ----------
    src : str or path
        A netCDF-3, netCDF-4 or HDF5 file, or a zarr v2 or v3 store (a folder or a zip file);
        a local path or any URL that fsspec knows.
    engine : str, optional
        xarray's name of a backend; found by the content by default.
    group : str, optional
        Group within the source; the root by default.
    storage_options : mapping, optional
        Options for fsspec, for URLs.
    **open_kwargs
        Passed on to `xarray.open_dataset`, over the defaults (``chunks={}``).

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    SourceError
        If there is nothing there, if it is empty, truncated or of no known format, or if no
        package that reads it is installed.
    """
    name, target, kwargs = _prepare(src, engine, storage_options, open_kwargs)
    if group is not None:
        # backends of others need not know groups
        kwargs["group"] = group
    ds: xr.Dataset = _open(target, name, kwargs)
    if not ds.variables:
        warnings.warn(
            f"{name}: there are no variables at {group or 'its root'}; are they in a group of it?",
            XchunkWarning,
            stacklevel=2,
        )
    return ds


def open_groups(
    src: str | os.PathLike[str],
    engine: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **open_kwargs: Any,
) -> dict[str, xr.Dataset]:
    """Open all groups of a source lazily, each as `open_source` opens one.

    Parameters
    ----------
    src, engine, storage_options, **open_kwargs
        As for `open_source`.

    Returns
    -------
    dict
        The Dataset of each group's path; ``""`` is the root. Only the root where the backend
        knows no groups.

    Raises
    ------
    SourceError
        As `open_source` does.
    """
    name, target, kwargs = _prepare(src, engine, storage_options, open_kwargs)
    if kwargs["engine"] not in _WITH_GROUPS:
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
    if not any(ds.variables for ds in groups.values()):
        warnings.warn(f"{name}: there are no variables in it.", XchunkWarning, stacklevel=2)
    return groups


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
    reaches = remote and isinstance(found.target, str) and found.engine in ("zarr", "h5netcdf")
    if options and reaches:
        # a local path takes none
        kwargs["storage_options"] = options
    return name, found.target, kwargs


def _find_local(name: str) -> _Found:
    path = Path(name).expanduser()
    if not path.exists():
        raise SourceError(f"{name}: no such file or folder. Check the path.")
    if path.is_dir():
        if (path / ".zarray").is_file() or _is_array(path / "zarr.json"):
            raise SourceError(f"{name}: is a single zarr array; give the group that holds it.")
        if any((path / key).is_file() for key in _ZARR_GROUP):
            return _Found(str(path), "zarr")
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
    what = _format(name, heads)
    if what == "netCDF-3":
        with path.open("rb") as file:
            _refuse_truncated(name, file, path.stat().st_size)
    return _Found(str(path), _engine(name, what, ""))


def _is_array(document: Path) -> bool:
    try:
        return bool(json.loads(document.read_bytes())["node_type"] == "array")
    except (OSError, ValueError, KeyError, TypeError):
        return False


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
        for key in _ZARR_GROUP:
            if fs.exists(f"{path.rstrip('/')}/{key}"):
                return _Found(name, "zarr")
        if not fs.exists(path):
            raise SourceError(f"{name}: nothing is there, or it may not be read.")
        if fs.isdir(path):
            raise SourceError(f"{name}: is a folder, but not a zarr store.")
        with fs.open(path, "rb") as file:
            heads = [file.read(8)]
            if heads[0][:4] in _NETCDF3:
                file.seek(0)
                _refuse_truncated(name, file, fs.size(path) or 0)
    except SourceError:
        raise
    except ImportError as error:
        raise SourceError(
            f"{name}: {_one_line(error)} (pip install 'xchunk[remote]')"
        ) from safe_cause(error)
    except Exception as error:  # noqa: BLE001  every filesystem has errors of its own
        raise SourceError(f"{name}: cannot be read ({_one_line(error)}).") from safe_cause(error)
    if heads[0][:4] == _ZIP:
        raise SourceError(f"{name}: a zip file is read from a local path only. Download it first.")
    engine = _engine(name, _format(name, heads), "remote ")
    if engine == "scipy":
        return _Found(fs.open(path, "rb"), engine)
    return _Found(name, engine)


def _format(name: str, heads: list[bytes]) -> str:
    first = heads[0]
    if not first:
        raise SourceError(f"{name}: is empty (0 bytes).")
    if _HDF5 in heads:
        return "HDF5"
    if first[:4] in _NETCDF3:
        return "netCDF-3"
    if first[:4] == b"GRIB":
        raise SourceError(
            f"{name}: is GRIB. Open it with engine='cfgrib', which the packages cfgrib and "
            "eccodes provide."
        )
    hint = ""
    if first.lstrip()[:1] == b"{":
        hint = " References of kerchunk or VirtualiZarr are opened with engine='kerchunk'."
    raise SourceError(f"{name}: is not netCDF, HDF5 or zarr (it begins with {first!r}).{hint}")


def _engine(name: str, what: str, where: str) -> str:
    choices = _ENGINES[where + what]
    for engine, modules in choices.items():
        if all(find_spec(module) is not None for module in modules):
            return engine
    packages = " or ".join(" and ".join(modules) for modules in choices.values())
    raise SourceError(f"{name}: is {where}{what}, which needs {packages}: {_EXTRA}")


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
    engine, group, said = kwargs["engine"], kwargs.get("group"), _one_line(error)
    if isinstance(error, ImportError):
        return SourceError(f"{name}: engine {engine!r} is not installed ({said}). {_EXTRA}")
    if isinstance(error, ValueError) and "unrecognized engine" in said:
        return SourceError(f"{name}: there is no engine {engine!r} here ({said}).")
    if group is not None and isinstance(error, KeyError | OSError | FileNotFoundError):
        return SourceError(f"{name}: there is no group {group!r} in it ({said}).")
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
