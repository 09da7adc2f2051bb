"""The engine ``xchunk`` of xarray: local files and stores, read in the thread that asks.

One of xarray's other engines opens a file and says what is in it: attributes, encodings and
decoding are its own. Only where the bytes of a variable come from is changed: see
`xchunk.sources.xarray_adapter`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint, list_engines

from xchunk.errors import SourceError
from xchunk.opening.formats import find_file
from xchunk.sources.hdf5_read import Stamp, stamp_of

#: xarray's engines that open files.
_LIBRARIES = ("netcdf4", "h5netcdf", "scipy")


class XchunkBackend(BackendEntrypoint):
    """Open local netCDF, HDF5 and zarr for many threads at once: ``engine="xchunk"``.

    Values are read by plain system calls and decoded in the thread that asks, one chunk at a time.
    What is not stored in a plain way (strings of any length, filters that are not known) is read
    by the library, as by its own engine. A file that changes after it was opened is refused.
    """

    description = "Read local netCDF, HDF5 and zarr on all threads"
    url = "https://xchunk.readthedocs.io"
    supports_groups = True
    open_dataset_parameters = (
        "filename_or_obj",
        "mask_and_scale",
        "decode_times",
        "concat_characters",
        "decode_coords",
        "drop_variables",
        "use_cftime",
        "decode_timedelta",
        "group",
        "library",
    )

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        library: str | None = None,
        **how: Any,
    ) -> xr.Dataset:
        """Open one group.

        Parameters
        ----------
        filename_or_obj : str or path
            A local file, or the folder of a zarr store.
        drop_variables : str or iterable of str, optional
            Variables that are left out.
        library : {"netcdf4", "h5netcdf", "scipy", "zarr"}, optional
            xarray's engine that opens it, and reads what cannot be read without it; the
            first that is installed by default.
        **how
            The group and how values are decoded, as `xarray.open_dataset` takes them.

        Raises
        ------
        SourceError
            If it is none of these.
        """
        path, plugin, stamp = _looked_at(filename_or_obj, library)
        ds: xr.Dataset = plugin.open_dataset(path, drop_variables=drop_variables, **how)
        _read_directly(ds.variables.values(), stamp)
        return ds

    def open_groups_as_dict(
        self, filename_or_obj: Any, *, library: str | None = None, **how: Any
    ) -> dict[str, xr.Dataset]:
        """Open all groups, as `open_dataset` opens one."""
        path, plugin, stamp = _looked_at(filename_or_obj, library, groups=True)
        groups: dict[str, xr.Dataset] = plugin.open_groups_as_dict(path, **how)
        for ds in groups.values():
            _read_directly(ds.variables.values(), stamp)
        return groups

    def open_datatree(
        self, filename_or_obj: Any, *, library: str | None = None, **how: Any
    ) -> xr.DataTree:
        """Open all groups as a tree, as `open_dataset` opens one."""
        path, plugin, stamp = _looked_at(filename_or_obj, library, groups=True)
        tree: xr.DataTree = plugin.open_datatree(path, **how)
        for node in tree.subtree:
            _read_directly(node.variables.values(), stamp)
        return tree

    def guess_can_open(self, filename_or_obj: Any) -> bool:  # noqa: ARG002 - xarray's signature
        """Open nothing but what a user names it for."""
        return False


def _looked_at(
    source: Any, library: str | None, *, groups: bool = False
) -> tuple[str, Any, Stamp | None]:
    """Return the file's path, the engine of xarray's that opens it, and what it is now."""
    if not isinstance(source, str | os.PathLike):
        raise SourceError(
            f"engine='xchunk' reads files by their paths, and {type(source).__name__} is none. "
            "Use another engine for it."
        )
    path, found = find_file(os.fspath(source))
    chosen = library or found
    fitting = (found,) if found == "zarr" else _LIBRARIES
    if chosen not in fitting:
        raise SourceError(
            f"{path}: engine='xchunk' opens it through {' or '.join(fitting)}, not {chosen!r}. "
            f"Use engine={chosen!r}."
        )
    plugin: Any = list_engines().get(chosen)
    if plugin is None:
        raise SourceError(f"{path}: engine {chosen!r} is not installed.")
    if groups and not plugin.supports_groups:
        raise SourceError(f"{path}: engine {chosen!r} knows no groups. Open it as a dataset.")
    # before the library looks at it, so that no later change goes unnoticed
    return path, plugin, stamp_of(path)


def _read_directly(variables: Iterable[xr.Variable], stamp: Stamp | None) -> None:
    """Let variables be read without the library."""
    try:
        from xchunk.sources.xarray_adapter import read_directly
    except ImportError:
        # an xarray of another inside: the library reads
        return
    for variable in variables:
        read_directly(variable, stamp)
