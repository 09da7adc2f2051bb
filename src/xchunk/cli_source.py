"""The source of a command: one dataset with all its groups, or many files joined to one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import xarray as xr

from xchunk.core.layout import ArrayLayout
from xchunk.errors import SourceError, XchunkWarning
from xchunk.naming import spell_out

__all__ = ["Blocks", "open_named"]

#: The dask blocks of files that are joined: the stored chunks, or as many of them as a task of
#: the budget holds.
Blocks = Literal["stored", "fitting"]


def open_named(
    src: str | Sequence[str],
    group: str | None = None,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    concat_dim: str | None = None,
    blocks: Blocks = "stored",
    sizes: Mapping[str, int] | None = None,
    first: bool = False,
    **open_kwargs: Any,
) -> xr.Dataset | xr.DataTree:
    """Open what a user named on the command line.

    Parameters
    ----------
    src : str or sequence of str
        Paths, URLs, globs or folders of files. What is more than one file is joined.
    group : str, optional
        The group to open; all of them by default.
    engine : str, optional
        xarray's name of a backend.
    options : mapping, optional
        What fsspec needs to reach URLs.
    concat_dim : str, optional
        The dim along which files are put together as they are listed; found by their
        coordinates by default.
    blocks : {"stored", "fitting"}
        The dask blocks of files that are joined.
    sizes : mapping, optional
        ``memory`` or ``max_mem``, for blocks that fit.
    first : bool
        Whether only the first of several files is opened, and a note made of it.
    **open_kwargs
        Passed on to `xarray.open_dataset`; not for files that are joined.

    Returns
    -------
    Dataset or DataTree
        A tree where there are several groups.

    Raises
    ------
    SourceError
        If there is nothing there, it cannot be read, or files do not fit together.
    """
    import xchunk.accessor  # noqa: F401  registers .chunking
    from xchunk.sources import open_groups, open_source

    names = spell_out([src] if isinstance(src, str) else src, options)
    if first and len(names) > 1:
        message = f"only the first of {len(names)} files is looked at: {names[0]}"
        warnings.warn(message, XchunkWarning, stacklevel=2)
        names = names[:1]
    if len(names) == 1:
        if group is not None:
            return open_source(names[0], engine, group, options, **open_kwargs)
        return _tree(open_groups(names[0], engine, options, **open_kwargs), names[0])
    opened_by = {"engine": engine, "storage_options": options}
    joining = _Joining(names, opened_by, concat_dim, blocks, sizes or {})
    if group is not None:
        return joining.join(group)
    groups = open_groups(names[0], engine, options, chunks=None)
    paths = [path for path, ds in groups.items() if ds.variables] or [""]
    for ds in groups.values():
        ds.close()
    return _tree({path: joining.join(path or None) for path in paths}, names[0])


def _tree(groups: dict[str, xr.Dataset], name: str) -> xr.Dataset | xr.DataTree:
    if set(groups) == {""}:
        return groups[""]
    try:
        return xr.DataTree.from_dict({f"/{path}": ds for path, ds in groups.items()})
    except ValueError as error:
        said = " ".join(str(error).split())
        paths = ", ".join(path or "/" for path in groups)
        raise SourceError(
            f"{name}: its groups ({paths}) do not fit together as one tree ({said[:200]}). Give "
            "one of them with --group."
        ) from error


@dataclass(frozen=True)
class _Joining:
    """Files that are joined, group by group."""

    names: list[str]
    opened_by: dict[str, Any]
    concat_dim: str | None
    blocks: Blocks
    sizes: Mapping[str, int]

    def join(self, group: str | None) -> xr.Dataset:
        how: dict[str, Any] = {"combine": "by_coords", "concat_dim": None}
        if self.concat_dim is not None:
            how = {"combine": "nested", "concat_dim": self.concat_dim}
        if self.blocks == "fitting":
            from xchunk.opening import open_dataset

            given: dict[str, Any] = {**self.opened_by, **how, **self.sizes}
            ds = open_dataset(self.names, group=group, **given)
        else:
            from xchunk.joining import Opened, join_files
            from xchunk.sources import open_source

            opened = tuple(
                open_source(name, group=group, chunks=None, **self.opened_by) for name in self.names
            )
            files = Opened(tuple(self.names), opened)
            ds = join_files(files, _stored_chunks, join="exact", preprocess=None, **how)
        ds.encoding["source"] = f"{self.names[0]} … {self.names[-1]} ({len(self.names)} files)"
        return ds


def _stored_chunks(
    _: xr.Dataset, layouts: Sequence[ArrayLayout]
) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Take stored chunks as blocks; what is not chunked is one block for each file."""
    return {
        layout.name: dict(zip(layout.dims, layout.chunks or layout.shape, strict=True))
        for layout in layouts
    }
