"""Lazy chunking: dask chunks for each variable, without ``ds.chunks``, which may raise."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xchunk.core.grid import Grid
from xchunk.core.plan.stages import EXCESS, EXCESS_BYTES
from xchunk.core.units import format_bytes
from xchunk.errors import ExcessiveIOWarning, XchunkWarning
from xchunk.sources.foreign import refuse_in_blocks

if TYPE_CHECKING:
    from xchunk.core.layout import ArrayLayout
    from xchunk.core.suggest.suggestion import Suggestion, VariableSuggestion


def chunk_lazily(ds: xr.Dataset, chunks: Mapping[str, Mapping[str, Any]]) -> xr.Dataset:
    """Give each variable its own dask chunks.

    - ``ds``: variables may disagree on a dim's chunks, before and after.
    - ``chunks``: ``{variable: {dim: n}}``; variables that are not named, indexes, and values of
      pandas' types, which dask has no arrays of, stay as they are.
    - returns: a new Dataset; nothing is computed.
    """
    changed: dict[str, Any] = {}
    for name, own in chunks.items():
        if not own or name not in ds.variables or name in ds.xindexes:
            continue
        variable = ds.variables[name]
        refuse_in_blocks(str(name), variable)
        if not isinstance(variable.dtype, np.dtype):
            continue
        blocks = {d: n for d, n in own.items() if d in variable.dims}
        if blocks:
            changed[name] = variable.chunk(blocks)
    coords = {n: v for n, v in changed.items() if n in ds.coords}
    data = {n: v for n, v in changed.items() if n not in ds.coords}
    out = ds.assign(data) if data else ds.copy()
    return out.assign_coords(coords) if coords else out


def below(path: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the variables of one group, and those in it, by their names there."""
    prefix = f"{path}/" if path else ""
    return {name.removeprefix(prefix): v for name, v in known.items() if name.startswith(prefix)}


def chunk_as_suggested(
    ds: xr.Dataset,
    suggested: Mapping[str, VariableSuggestion],
    chunks: Mapping[str, Mapping[str, Any]],
) -> xr.Dataset:
    """Give each variable its own dask chunks, so that ``ds.chunks`` works.

    - ``suggested``: what was suggested for each variable. Small ones that are to be loaded stay
      without dask beside others.
    - ``chunks``: as for `chunk_lazily`.
    - returns: a new Dataset; nothing is computed.
    """
    known = {n: v for n, v in suggested.items() if n in ds.variables and n not in ds.xindexes}
    small = {n for n, v in known.items() if v.action == "load" and ds.variables[n].chunks is None}
    if any(chunks.get(name) and name not in small for name in known):
        chunks = {name: own for name, own in chunks.items() if name not in small}
    return agreeing(chunk_lazily(ds, chunks))


def agreeing(ds: xr.Dataset) -> xr.Dataset:
    """Cut blocks where those of other variables end, so that ``ds.chunks`` works.

    What is read at once stays so, and is cut afterwards.
    """
    try:
        ds.chunks  # noqa: B018 - raises where variables disagree
    except ValueError:
        pass
    else:
        return ds
    out = ds.unify_chunks()
    for name, variable in out.variables.items():
        if variable.chunks != ds.variables[name].chunks:
            # to_zarr would refuse the stored chunks for blocks that cut them
            variable.encoding = {k: v for k, v in variable.encoding.items() if k not in _STORED}
    out.set_close(ds.close)
    return out


#: What encodings say of stored chunks.
_STORED = ("chunks", "preferred_chunks", "shards", "chunksizes", "contiguous")


def warn_of_reading(
    layouts: Iterable[ArrayLayout], chunks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Warn where reading all blocks once decodes stored chunks many times over."""
    for layout in layouts:
        own = chunks.get(layout.name)
        # what is in dask's blocks already is read block by block, and then shuffled
        if not own or layout.chunks is None or layout.dask_chunks is not None:
            continue
        stored = Grid.of(layout.shape, layout.chunks)
        blocks = Grid.of(layout.shape, [own.get(dim, -1) for dim in layout.dims])
        decodes = blocks.pairs(stored) / max(1, stored.count)
        nbytes = stored.count * stored.box_elements * layout.stored_dtype.itemsize
        if decodes < EXCESS or (decodes - 1) * nbytes < EXCESS_BYTES:
            continue
        warnings.warn(
            f"{layout.name}: to read all of these blocks once decodes each stored chunk "
            f"{decodes:.1f} times on average, {format_bytes(decodes * nbytes)} in all. Give "
            "store='somewhere.zarr' to have it stored in chunks like that.",
            ExcessiveIOWarning,
            stacklevel=4,
        )


def tell_threads(suggestion: Suggestion) -> None:
    """Warn where the suggested chunks fit only workers with fewer threads than they have."""
    said = threads_note(suggestion)
    if said:
        warnings.warn(said, XchunkWarning, stacklevel=4)


def threads_note(suggestion: Suggestion) -> str:
    """Say that fewer threads are needed, and how to have them; empty where all can work."""
    budget = suggestion.budget
    if suggestion.threads >= budget.threads:
        return ""
    worst = min(suggestion.variables.values(), key=lambda v: v.threads)
    return (
        f"the chunks fit workers that run {suggestion.threads} of their {budget.threads} threads: "
        f"a task on {worst.name!r} takes {format_bytes(worst.projected_mem)}, and a worker may "
        f"grow by {format_bytes(budget.max_mem)}. Start the cluster with "
        f"threads_per_worker={suggestion.threads}, or without one use "
        f"dask.config.set(num_workers={suggestion.threads})."
    )
