"""Groups: one Dataset each, opened as a tree, with a use for each turned into positions.

`xchunk.core.suggest.access` knows dims and positions only. What needs a Dataset's coordinates is
turned into them here: the periods of ``groupby="time.month"`` and ``resample={"time": "MS"}``,
and the extent of ``{"lat": slice(40, 60)}``.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.types import Access, ByteSize
from xchunk.errors import ExcessiveIOWarning, InvalidChunksError, XchunkWarning
from xchunk.opening.formats import open_groups
from xchunk.rechunking.lazy import agreeing, below, chunk_lazily, threads_note
from xchunk.sources.layouts import read_layouts

if TYPE_CHECKING:
    from xchunk.core.suggest.suggestion import Suggestion, VariableSuggestion


def by_position(access: Any, datasets: Sequence[xr.Dataset]) -> Any:
    """Replace slices of labels within a use by the number of elements that they select.

    - ``access``: as `xchunk.core.suggest.access.parse_access` takes it, but a mapping may also hold
      slices of labels, as ``ds.sel`` takes them.
    - ``datasets``: where the coordinates are found, the first first.
    - raises `InvalidChunksError` if a slice selects nothing, or its dim has no labels.
    """
    if isinstance(access, Mapping):
        return {
            dim: _extent(dim, value, datasets) if isinstance(value, slice) else value
            for dim, value in access.items()
        }
    if isinstance(access, list | tuple):
        return [
            (by_position(item[0], datasets), item[1])
            if isinstance(item, list | tuple) and len(item) == 2
            else item
            for item in access
        ]
    return access


def _extent(dim: Any, labels: slice, datasets: Sequence[xr.Dataset]) -> int:
    said = f"access: {dim!r}: {_shown(labels)}"
    if labels == slice(None):
        return -1
    for ds in datasets:
        if dim not in ds.dims:
            continue
        if dim not in ds.indexes:
            raise InvalidChunksError(
                f"{said} is a slice of labels, but the dim has none. Give the number of elements."
            )
        try:
            n = int(ds[dim].sel({dim: labels}).size)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidChunksError(f"{said} cannot be selected ({error}).") from error
        if n < 1:
            first, last = ds[dim].values[[0, -1]]
            raise InvalidChunksError(
                f"{said} selects nothing; the labels run from {first} to {last}. Where they fall, "
                "give the larger one first."
            )
        return n
    raise InvalidChunksError(f"access: there is no dim {dim!r}.")


def _shown(labels: slice) -> str:
    return f"slice({labels.start!r}, {labels.stop!r})"


def group_edges(
    datasets: Sequence[xr.Dataset],
    *,
    groupby: str | Sequence[str] | None = None,
    resample: Mapping[str, Any] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Sequence[int]]:
    """Find the positions by dim at which groups, or the periods in which they recur, begin.

    - ``datasets``: where the coordinates are found, the first first.
    - ``groupby``: what would be given to ``ds.groupby``: a coordinate of one dim, or a component of
      a time such as ``"time.month"``. Where groups recur, as months do, a whole round of them (a
      year) is a period.
    - ``resample``: what would be given to ``ds.resample``: ``{"time": "MS"}``.
    - ``groups``: positions by dim that are known already; they win.
    - raises `InvalidChunksError` if a coordinate is not there, or cannot be grouped like this.
    """
    out: dict[str, Sequence[int]] = {}
    several = isinstance(groupby, list | tuple)
    names: list[Any] = list(groupby or ()) if several or groupby is None else [groupby]
    for name in names:
        dim, labels = _labels(name, datasets)
        _add(out, dim, _periods(labels), "groupby")
    if resample is not None and not isinstance(resample, Mapping):
        raise InvalidChunksError(
            f"resample={resample!r} is not a mapping by dim. Give for instance {{'time': 'MS'}}."
        )
    for dim, rule in (resample or {}).items():
        _add(out, dim, _bins(dim, rule, datasets), "resample")
    return {**out, **dict(groups or {})}


def _add(out: dict[str, Sequence[int]], dim: str, edges: list[int], what: str) -> None:
    if dim in out:
        raise InvalidChunksError(
            f"{what}: the dim {dim!r} is grouped in two ways. Give one of them; for several uses "
            "ask for each."
        )
    out[dim] = edges


def _labels(name: Any, datasets: Sequence[xr.Dataset]) -> tuple[str, NDArray[Any]]:
    if not isinstance(name, str):
        raise InvalidChunksError(
            f"groupby={name!r} is not a name. Give a coordinate, or a component of a time such as "
            "'time.month'."
        )
    for ds in datasets:
        if name not in ds.variables and name.partition(".")[0] not in ds.variables:
            continue
        try:
            found = ds[name]
        except (KeyError, AttributeError, TypeError) as error:
            raise InvalidChunksError(f"groupby: {name!r} cannot be had: {error}") from error
        if found.ndim != 1:
            raise InvalidChunksError(
                f"groupby: {name!r} has the dims {found.dims}, so that its groups are no runs "
                "along a dim. Say which dims the operation reduces instead: reduce=[…]."
            )
        return str(found.dims[0]), np.asarray(found.values)
    known = [str(n) for ds in datasets[:1] for n in ds.coords]
    raise InvalidChunksError(
        f"groupby: there is no coordinate {name!r}. Coordinates: {', '.join(known) or 'none'}; a "
        "component of a time is said as 'time.month'."
    )


def _periods(labels: NDArray[Any]) -> list[int]:
    """Where groups begin; where they recur, where the first of them begins again."""
    if labels.size == 0:
        return []
    _, numbers = np.unique(labels.astype(str) if labels.dtype == object else labels, False, True)
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    runs = numbers[starts]
    if len(set(runs.tolist())) == len(runs):
        return [int(s) for s in starts[1:]]
    # a round begins wherever the group that comes first begins again
    return [int(s) for s, group in zip(starts, runs, strict=True) if group == runs[0]][1:]


def _bins(dim: Any, rule: Any, datasets: Sequence[xr.Dataset]) -> list[int]:
    for ds in datasets:
        if dim not in ds.dims:
            continue
        if dim not in ds.indexes:
            raise InvalidChunksError(f"resample: {dim!r} has no coordinate, so no times.")
        try:
            bins = ds[dim].resample({dim: rule}).groups
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidChunksError(
                f"resample: {dim!r} cannot be resampled to {rule!r} ({error}). Give a frequency "
                "such as 'MS', 'D' or '6h', for a dim of times."
            ) from error
        starts = {b.start for b in bins.values() if isinstance(b, slice) and b.start is not None}
        return sorted(int(s) for s in starts if 0 < s < ds.sizes[dim])
    raise InvalidChunksError(f"resample: there is no dim {dim!r}.")


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

    - ``groups``: the Dataset of each group's path; ``""`` is the root.
    - ``layouts``: the variables of all groups.
    - ``access``: the use, as a user says it. Groups that do not have its dims are scanned.
    - ``budget``: what one worker may grow by, and the tasks that it runs at once.
    - ``groupby``, ``resample``, ``edges``: groups along dims, as ``ds.chunking.suggest`` takes
      them.
    - ``**pattern``: more about the use, as `xchunk.core.suggest.suggestion.suggest_dataset` takes
      it.
    - raises `InvalidChunksError` if no group has what the use is about.
    """
    from xchunk.core.suggest.suggestion import suggest_dataset

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
    notes = first.notes if groupby is None or _has_flox() else (*first.notes, _NO_FLOX)
    return replace(first, variables={v.name: found[v.name] for v in layouts}, notes=notes)


_NO_FLOX = (
    "flox is not installed: without it, xarray's groupby cuts every block up by groups and keeps "
    "what it makes of each, so that it takes more memory and time than is said here. "
    "pip install flox, or ask for your own computation: suggest(workload=lambda ds: ...)"
)


def _has_flox() -> bool:
    """Return whether xarray's groupby uses flox."""
    options: Any = xr.get_options()  # type: ignore[no-untyped-call]
    return bool(options["use_flox"]) and importlib.util.find_spec("flox") is not None


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

    Examples
    --------
    >>> tree = xchunk.open_datatree("maps.zarr", "map", max_mem="1MB")
    >>> tree["t2m"].chunks is None
    False
    """
    from xchunk.engine.budget import detect_budget
    from xchunk.engine.cluster import current_client

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
    return tree_of(
        {path: agreeing(chunk_lazily(ds, below(path, chunks))) for path, ds in groups.items()}
    )
