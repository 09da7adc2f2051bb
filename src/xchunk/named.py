"""What a user named, opened: one dataset with all its groups, or many files joined to one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import xarray as xr

from xchunk.core.layout import ArrayLayout
from xchunk.errors import SourceError, XchunkWarning
from xchunk.joining import FindChunks, Opened, join_files
from xchunk.naming import spell_out
from xchunk.opening import Wish
from xchunk.sources import open_groups, open_source

__all__ = ["Blocks", "open_named", "open_names"]

#: The dask blocks of files that are joined: the stored chunks, or as many of them as a task of
#: the budget holds.
Blocks = Literal["stored", "fitting"]

#: Bytes of a group that are read to find out whether all files hold the same there.
_COMPARED = 64 << 20


def open_named(
    src: str | Sequence[str],
    group: str | None = None,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    first: bool = False,
    **how: Any,
) -> xr.Dataset | xr.DataTree:
    """Open what a user named: paths, URLs, globs or folders of files.

    Parameters
    ----------
    src : str or sequence of str
        What is more than one file is joined.
    group : str, optional
        The group to open; all of them by default.
    engine : str, optional
        xarray's name of a backend.
    options : mapping, optional
        What fsspec needs to reach URLs.
    first : bool
        Whether only the first of several files is opened, and a note made of it.
    **how
        As `open_names` takes it.

    Returns
    -------
    Dataset or DataTree
        A tree where there are several groups.

    Raises
    ------
    SourceError
        If there is nothing there, it cannot be read, or files do not fit together.
    """
    names = spell_out([src] if isinstance(src, str) else src, options)
    if first and len(names) > 1:
        message = f"only the first of {len(names)} files is looked at: {names[0]}"
        warnings.warn(message, XchunkWarning, stacklevel=2)
        names = names[:1]
    return open_names(names, group, engine, options, **how)


def open_names(
    names: Sequence[str],
    group: str | None = None,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    combine: str | None = None,
    concat_dim: str | Sequence[str] | None = None,
    blocks: Blocks = "stored",
    sizes: Mapping[str, int] | None = None,
    **open_kwargs: Any,
) -> xr.Dataset | xr.DataTree:
    """Open one source, or join several.

    Parameters
    ----------
    names : sequence of str
        Paths and URLs.
    group : str, optional
        The group to open; all of them by default.
    engine : str, optional
        xarray's name of a backend.
    options : mapping, optional
        What fsspec needs to reach URLs.
    combine : {"by_coords", "nested"}, optional
        How files are joined; as they are listed where ``concat_dim`` is given, by their
        coordinates otherwise.
    concat_dim : str or sequence of str, optional
        The dims along which they are put together as they are listed.
    blocks : {"stored", "fitting"}
        The dask blocks of files that are joined.
    sizes : mapping, optional
        ``memory`` or ``max_mem``, for blocks that fit.
    **open_kwargs
        Passed on to `xarray.open_dataset`; not for files that are joined.

    Returns
    -------
    Dataset or DataTree
        A tree where there are several groups.

    Raises
    ------
    SourceError
        If one is not there or cannot be read, or if files do not fit together.
    """
    if len(names) == 1:
        if group is not None:
            return open_source(names[0], engine, group, options, **open_kwargs)
        return _tree(open_groups(names[0], engine, options, **open_kwargs), names[0])
    if group is None:
        opened = [open_groups(name, engine, options, chunks=None) for name in names]
    else:
        opened = [{"": open_source(name, engine, group, options, chunks=None)} for name in names]
    of_task = sizes or {}
    wish = Wish.scan(of_task.get("memory"), of_task.get("max_mem"))
    joining = _Joining(
        tuple(names),
        tuple(opened),
        wish.chunks if blocks == "fitting" else _stored_chunks,
        combine=combine or ("by_coords" if concat_dim is None else "nested"),
        concat_dim=concat_dim,
    )
    joined = joining.all()
    wish.tell()
    return _tree(joined, names[0])


def _tree(groups: dict[str, xr.Dataset], name: str) -> xr.Dataset | xr.DataTree:
    if set(groups) == {""}:
        return groups[""]
    try:
        tree = xr.DataTree.from_dict({f"/{path}": ds for path, ds in groups.items()})
    except ValueError as error:
        said = " ".join(str(error).split())
        paths = ", ".join(path or "/" for path in groups)
        raise SourceError(
            f"{name}: its groups ({paths}) do not fit together as one tree ({said[:200]}). Take "
            "one of them: group (--group)."
        ) from error

    def close() -> None:
        for ds in groups.values():
            ds.close()

    # a tree that is made of Datasets does not close them
    tree.set_close(close)
    return tree


@dataclass(frozen=True)
class _Joining:
    """Files that are joined, group by group."""

    names: tuple[str, ...]
    """Their paths and URLs."""
    opened: tuple[Mapping[str, xr.Dataset], ...]
    """The groups of each of them."""
    find_chunks: FindChunks
    """Finds the dask blocks."""
    combine: str
    """How they are joined."""
    concat_dim: Any
    """The dims along which they are put together as they are listed."""

    def all(self) -> dict[str, xr.Dataset]:
        """Join all groups."""
        first = self.opened[0]
        full = {path for path, ds in first.items() if ds.variables}
        for name, groups in zip(self.names, self.opened, strict=True):
            differ = full ^ {path for path, ds in groups.items() if ds.variables}
            if differ:
                raise SourceError(
                    f"{name} and {self.names[0]} do not hold the same groups: "
                    f"{', '.join(path or '/' for path in sorted(differ))}. Take one that all of "
                    "them hold: group (--group)."
                )
        # a group without variables may still have attributes
        return {
            path: self._join(path) if path in full else xr.Dataset(attrs=ds.attrs)
            for path, ds in first.items()
        }

    def _join(self, path: str) -> xr.Dataset:
        # the order of files may be told by a coordinate that the group inherits
        lent = [_with_inherited(groups, path) for groups in self.opened]
        files = Opened(self.names, tuple(lent))
        if len(self.opened[0]) > 1 and self.combine == "by_coords" and _are_equal(lent):
            # what a tree holds once, such as the coordinates of a grid
            ds = lent[0].copy()
        else:
            ds = join_files(
                files,
                self.find_chunks,
                combine=self.combine,
                concat_dim=self.concat_dim,
                join="exact",
                preprocess=None,
            )
        own = {name for groups in self.opened for name in groups[path].variables}
        ds = ds.drop_vars([name for name in ds.coords if name not in own])
        ds.set_close(files.close)
        ds.encoding["source"] = f"{self.names[0]} … {self.names[-1]} ({len(self.names)} files)"
        return ds


def _are_equal(datasets: Sequence[xr.Dataset]) -> bool:
    """Tell whether files hold the same; what is large is taken to differ, and not read."""
    first, *rest = datasets
    alike = all(
        ds.sizes == first.sizes and set(ds.variables) == set(first.variables) for ds in rest
    )
    if not alike or first.nbytes > _COMPARED:
        return False
    # axes first, which are in memory; parts of variables, so that the others do not stay there
    names = sorted(first.variables, key=lambda name: name not in first.xindexes)
    held: dict[Any, Any] = {name: first.variables[name][...] for name in names}
    return all(held[name].identical(ds.variables[name][...]) for name in names for ds in rest)


def _with_inherited(groups: Mapping[str, xr.Dataset], path: str) -> xr.Dataset:
    """Give a group the coordinates of its dims that are stored in the groups that hold it."""
    ds = out = groups[path]
    above = path
    while above:
        above = above.rpartition("/")[0]
        indexes = groups[above].xindexes if above in groups else {}
        lent = {d: groups[above][d].variable for d in indexes if d in out.dims}
        out = out.assign_coords({d: v for d, v in lent.items() if d not in out.variables})
    if out is not ds:
        out.set_close(ds.close)
    return out


def _stored_chunks(
    _: xr.Dataset, layouts: Sequence[ArrayLayout]
) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Take stored chunks as blocks; what is not chunked is one block for each file."""
    return {
        layout.name: dict(zip(layout.dims, layout.chunks or layout.shape, strict=True))
        for layout in layouts
    }
