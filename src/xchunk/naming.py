"""What a user names as a source: one dataset, or the files that are joined to one.

A list, a glob and a folder of netCDF files are spelled out here, for paths and URLs alike.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xchunk.errors import SourceError

__all__ = ["spell_out"]

_MAGIC = ("*", "?", "[")
_ZARR = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs", ".zarray")
#: How the names of files end that a folder is looked through for.
_FILES = (".nc", ".nc3", ".nc4", ".cdf", ".netcdf", ".h5", ".he5", ".hdf5")


def spell_out(
    src: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    storage_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Spell out what the user named: one source, or several that are to be joined.

    Parameters
    ----------
    src : str, path, or sequence of them
        A dataset; a glob such as ``"era5_*.nc"``; a folder that is no zarr store, for the
        netCDF and HDF5 files in it; or several of these.
    storage_options : mapping, optional
        What fsspec needs to reach URLs.

    Returns
    -------
    list of str
        Paths and URLs; those of a glob and of a folder are in the order of their names.

    Raises
    ------
    SourceError
        If nothing matches.
    """
    if isinstance(src, str | os.PathLike):
        return _of_one(os.fspath(src), dict(storage_options or {}))
    if not isinstance(src, Sequence):
        raise SourceError(
            f"{type(src).__name__} is not something to open; give a path, a URL, a glob or a list."
        )
    if not src:
        raise SourceError("there are no files to open: the list is empty.")
    options = dict(storage_options or {})
    names = [name for one in src for name in _of_one(os.fspath(one), options)]
    return list(dict.fromkeys(names))


def _of_one(name: str, options: dict[str, Any]) -> list[str]:
    if "://" in name or "::" in name:
        return _remote(name, options)
    path = Path(name).expanduser()
    if path.exists():
        return _files_of(path) or [name]
    if not any(m in name for m in _MAGIC):
        return [name]
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute ones too
    if not found:
        raise SourceError(f"{name}: no file has such a name. Check the pattern.")
    return found


def _files_of(path: Path) -> list[str]:
    """List the files of a folder that is to be joined; nothing for any other folder."""
    if not path.is_dir() or any((path / key).exists() for key in _ZARR):
        return []
    return sorted(str(p) for p in path.iterdir() if p.suffix.lower() in _FILES and p.is_file())


def _remote(name: str, options: dict[str, Any]) -> list[str]:
    magic = any(m in name.partition("://")[2] for m in _MAGIC)
    if not magic and not name.endswith("/"):
        return [name]
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(name, **options)
        if not magic:
            if any(fs.exists(f"{path.rstrip('/')}/{key}") for key in _ZARR):
                return [name]
            entries = fs.ls(path, detail=False)
            found = [p for p in entries if os.path.splitext(p)[1].lower() in _FILES]  # noqa: PTH122
            return sorted(fs.unstrip_protocol(p) for p in found) or [name]
        found = sorted(fs.unstrip_protocol(p) for p in fs.glob(path))
    except Exception as error:  # every filesystem has errors of its own
        said = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{name}: cannot be listed ({said}).") from error
    if not found:
        # A ? may begin a URL's query, and is no pattern then.
        if "?" in name and not any(m in name for m in ("*", "[")):
            return [name]
        raise SourceError(f"{name}: nothing there has such a name. Check the pattern.")
    return found
