"""Trees of groups: one Dataset for each group, suggestions group by group, and opening them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from xchunk._typing import Access, ByteSize
from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest import Suggestion, VariableSuggestion, suggest_dataset
from xchunk.engine.budget import detect_budget
from xchunk.engine.run import current_client
from xchunk.errors import ExcessiveIOWarning, InvalidChunksError, XchunkWarning
from xchunk.lazy import chunk_lazily, threads_note
from xchunk.sources import open_groups
from xchunk.storage.layouts import read_layouts
from xchunk.uses import by_position, group_edges

__all__ = ["groups_of", "open_datatree", "suggest_groups", "tree_of"]


def groups_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return the Dataset of each group by its path below a node; the node's own is empty.

    Coordinates stay where they are stored: what groups inherit is the node's, of which what it
    inherits itself is a part.
    """
    return {
        "" if node is tree else path.strip("/"): node.to_dataset(inherit=node is tree)
        for path, node in tree.subtree_with_keys
    }


def tree_of(groups: Mapping[str, xr.Dataset], name: str | None = None) -> xr.DataTree:
    """Put a tree together; groups inherit coordinates again."""
    return xr.DataTree.from_dict({f"/{path}": ds for path, ds in groups.items()}, name=name)


def suggest_groups(
    groups: Mapping[str, xr.Dataset],
    layouts: Sequence[ArrayLayout],
    access: Any,
    budget: MemoryBudget,
    *,
    groupby: str | Sequence[str] | None = None,
    resample: Mapping[str, Any] | None = None,
    edges: Mapping[str, Sequence[int]] | None = None,
    **pattern: Any,
) -> Suggestion:
    """Suggest chunks for each group by itself: a dim of one name may differ between groups.

    Parameters
    ----------
    groups : mapping
        The Dataset of each group's path; ``""`` is the root.
    layouts : sequence of ArrayLayout
        The variables of all groups.
    access : str, mapping, sequence or None
        The use, as a user says it. Groups that do not have its dims are scanned.
    budget : MemoryBudget
        What one worker may grow by, and the tasks that it runs at once.
    groupby, resample, edges
        Groups along dims, as ``ds.chunking.suggest`` takes them.
    **pattern
        More about the use, as `xchunk.core.suggest.suggest_dataset` takes it.

    Raises
    ------
    InvalidChunksError
        If no group has what the use is about.
    """
    found: dict[str, VariableSuggestion] = {}
    first: Suggestion | None = None
    failed: InvalidChunksError | None = None
    for path, ds in groups.items():
        # names in a Dataset by itself may hold what parts groups elsewhere
        alone = len(groups) == 1
        own = [v for v in layouts if alone or v.name.rpartition("/")[0] == path]
        seen = own + _inherited(path, layouts, {v.name.rpartition("/")[2] for v in own})
        datasets = [ds, *(groups[above] for above in _above(path) if above in groups)]
        if not own:
            continue
        try:
            made = suggest_dataset(
                seen,
                "scan" if access is None else by_position(access, datasets),
                budget,
                groups=group_edges(datasets, groupby=groupby, resample=resample, groups=edges),
                **pattern,
            )
        except InvalidChunksError as error:
            if alone:
                raise
            failed = failed or error
            scan = {k: pattern[k] for k in ("rates", "passes") if k in pattern}
            made = suggest_dataset(seen, "scan", budget, **scan)
        else:
            first = first or made
        found.update((v.name, made.variables[v.name]) for v in own)
    if first is None:
        if failed is not None:
            raise failed
        first = suggest_dataset([], "scan", budget)
    return replace(first, variables={v.name: found[v.name] for v in layouts})


def _above(path: str) -> list[str]:
    """List the paths of the groups that a group lies in, the closest first."""
    parts = path.split("/") if path else []
    return ["/".join(parts[:i]) for i in reversed(range(len(parts)))]


def _inherited(path: str, layouts: Sequence[ArrayLayout], taken: set[str]) -> list[ArrayLayout]:
    """List the coordinates that a group inherits: they tell which of its dims is time."""
    out = []
    for above in _above(path):
        for v in layouts:
            group, _, name = v.name.rpartition("/")
            if group == above and v.is_coord and v.dims == (name,) and name not in taken:
                taken.add(name)
                out.append(v)
    return out


def open_datatree(
    src: str | os.PathLike[str],
    access: Access | None = None,
    *,
    memory: ByteSize | None = None,
    max_mem: ByteSize | None = None,
    rates: Rates | None = None,
    reduce: str | Sequence[str] | Mapping[str, str] = (),
    rolling: Mapping[str, int] | None = None,
    groupby: str | Sequence[str] | None = None,
    resample: Mapping[str, Any] | None = None,
    engine: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **open_kwargs: Any,
) -> xr.DataTree:
    """Open all groups of a source, each variable in chunks that fit the memory and the use.

    Parameters
    ----------
    src : str or path
        A netCDF-4, HDF5 or zarr hierarchy, a path or a URL.
    access, memory, max_mem, rates, reduce, rolling, groupby, resample
        As `xchunk.open_dataset` takes them. Groups without the dims of the use are scanned.
    engine : str, optional
        xarray's name of a backend; found by the content by default.
    storage_options : mapping, optional
        Options for fsspec, for URLs.
    **open_kwargs
        Passed on to xarray.

    Returns
    -------
    xarray.DataTree
        Each variable with its own dask chunks; nothing but metadata and indexes is read.

    Raises
    ------
    SourceError
        If there is nothing there, or it cannot be read.
    InvalidChunksError
        If the use cannot be understood, or no group has what it is about.
    MemoryBudgetError
        If nothing fits.
    """
    if "chunks" in open_kwargs:
        raise InvalidChunksError(
            "open_datatree finds the chunks itself. To give them, use "
            f"xr.open_datatree(…, chunks={open_kwargs['chunks']!r})."
        )
    opened = open_groups(src, engine, storage_options=storage_options, chunks=None, **open_kwargs)
    # through a tree, so that groups do not repeat what they inherit
    groups = groups_of(tree_of({path.strip("/"): ds for path, ds in opened.items()}))
    suggestion = suggest_groups(
        groups,
        read_layouts(groups).layouts,
        access,
        detect_budget(memory, max_mem, client=current_client()),
        groupby=groupby,
        resample=resample,
        rates=rates,
        reduce=reduce,
        rolling=rolling,
    )
    if said := threads_note(suggestion):
        warnings.warn(said, XchunkWarning, stacklevel=2)
    staged = [v.name for v in suggestion.variables.values() if v.action == "stage"]
    if staged:
        warnings.warn(
            f"{', '.join(map(repr, staged))}: not stored for {suggestion.access}. Rechunked once "
            "they would be read as they are needed: "
            "tree.chunking.apply(tree.chunking.suggest(…), store='….zarr').",
            ExcessiveIOWarning,
            stacklevel=2,
        )
    chunks = {
        name: dict(v.lazy_chunks or {})
        for name, v in suggestion.variables.items()
        if v.action != "load"
    }
    return tree_of({path: chunk_lazily(ds, _below(path, chunks)) for path, ds in groups.items()})


def _below(path: str, chunks: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return what is said of the variables of one group, by their names in it."""
    split = ((*name.rpartition("/")[::2], own) for name, own in chunks.items())
    return {name: own for group, name, own in split if group == path}
