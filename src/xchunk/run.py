"""Running a bound rechunk from the face: with progress, verification, and the result opened."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import xarray as xr

from xchunk._typing import ProgressLike
from xchunk.bound import Rechunk
from xchunk.core.stages import RechunkPlan
from xchunk.core.suggest import Suggestion
from xchunk.errors import ExcessiveIOWarning, LayoutChangeWarning, SourceError
from xchunk.extending import BoundExtension
from xchunk.proof import prove
from xchunk.prove_extension import prove_extension
from xchunk.reopen import reopen
from xchunk.storage.chunk_cache import small_chunk_caches
from xchunk.storage.icechunk import is_session
from xchunk.storage.stores import describe, is_fault_of_store

__all__ = ["run_rechunk"]


def run_rechunk(
    rechunk: Rechunk,
    groups: Mapping[str, xr.Dataset],
    what: Any,
    *,
    verify: bool,
    progress: ProgressLike,
) -> dict[str, xr.Dataset]:
    """Run a rechunk, verify it if asked, and open the result group by group."""
    totals = {
        f"xchunk-{s.kind}-{a.name}": (a.name, s.kind, s.boxes.count)
        for a in rechunk.plan.arrays
        for s in a.stages
    }
    done = dict.fromkeys(totals, 0)

    def report(label: str, _box: int, nbytes: int) -> None:
        name, kind, total = totals[label]
        done[label] += 1
        progress.update(name=name, stage=kind, done=done[label], total=total, nbytes=nbytes)

    _warn(rechunk.plan)
    # one that is told what will run can show memory against the budget, and how far all of it is
    begin = getattr(progress, "begin", None)
    if begin is not None:
        begin(rechunk.plan)
    variables = (v for ds in groups.values() for v in ds.variables.values())
    with progress, small_chunk_caches(variables):
        store = rechunk.run(report=report)
    if verify:
        with progress:
            if isinstance(rechunk, BoundExtension):
                prove_extension(rechunk, progress=progress)
            else:
                prove(groups, store, budget=rechunk.plan.budget, progress=progress)
    # what is appended to may have been written by anybody, in a session nothing is consolidated
    consolidated = not is_session(store)
    if isinstance(rechunk, BoundExtension):
        consolidated = rechunk.existing.consolidated
    try:
        return reopen(store, groups, _dask_chunks(rechunk, what), consolidated=consolidated)
    except Exception as error:
        if not is_fault_of_store(error):
            raise
        raise SourceError(
            f"{describe(store)} is written and complete, but cannot be opened: {error}"
        ) from error


def _warn(plan: RechunkPlan) -> None:
    """Say what cannot be kept, and where the source is read many times over."""
    if plan.changes:
        said = "not everything can be kept as it is stored: " + "; ".join(plan.changes)
        warnings.warn(said, LayoutChangeWarning, stacklevel=4)
    for array in plan.arrays:
        if array.excess:
            warnings.warn(f"{array.name}: {array.excess}.", ExcessiveIOWarning, stacklevel=4)


def _dask_chunks(rechunk: Rechunk, what: Any) -> dict[str, dict[str, Any]]:
    stored = {
        c.assembled.path: dict(
            zip(c.assembled.dims, c.target.shards or c.target.chunks, strict=True)
        )
        for c in rechunk.copies
    }
    if not isinstance(what, Suggestion):
        return stored
    return {**stored, **what.chunks}
