"""A bound rechunk run for a user: with progress, verification, and the result opened."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from xchunk.core.plan.stages import ArrayPlan, RechunkPlan, Stage
from xchunk.core.suggest.suggestion import Suggestion
from xchunk.core.types import ProgressLike
from xchunk.engine.copy import StageKey
from xchunk.errors import (
    EncodingError,
    ExcessiveIOWarning,
    LayoutChangeWarning,
    SourceError,
    XchunkWarning,
)
from xchunk.rechunking.bind import full_disks
from xchunk.rechunking.extending import BoundExtension
from xchunk.rechunking.lazy import below, chunk_as_suggested, chunk_lazily, tell_threads
from xchunk.rechunking.runner import Rechunk
from xchunk.rechunking.verify import prove, prove_extension
from xchunk.sources.arrays import small_chunk_caches
from xchunk.sources.index_coords import homes_in_tree
from xchunk.sources.provenance import KNOWN_UNITS
from xchunk.stores.adapter import asking_once, is_near, tuned
from xchunk.stores.icechunk import is_session
from xchunk.stores.stores import describe, is_fault_of_store
from xchunk.targets.encode import stored_variables

T = TypeVar("T", xr.Dataset, xr.DataArray, xr.DataTree)
#: What packs values, as attributes of what is not decoded.
_PACKING = ("scale_factor", "add_offset", "_FillValue")
#: Bytes of labels up to which they are loaded to see whether they can be.
_SMALL_INDEX = 1_000_000


def reopen(
    store: Store,
    like: Mapping[str, xr.Dataset],
    chunks: Mapping[str, Mapping[str, Any]],
    *,
    zarr_format: int,
    consolidated: bool = True,
    indexes: bool = True,
    suggestion: Suggestion | None = None,
) -> dict[str, xr.Dataset]:
    """Open each group of a committed store with dask chunks that match what is stored.

    - ``store``: the committed target.
    - ``like``: the source's Datasets by path of their group; they say what is decoded.
    - ``chunks``: dask chunks, ``{path of the variable: {dim: n}}``.
    - ``zarr_format``: the format, so that nothing is asked for that the other one would have.
    - ``consolidated``: whether the root of the store holds all metadata.
    - ``indexes``: whether the coordinates of dims are loaded as indexes, as xarray does.
    - ``suggestion``: where the chunks are from, if they were suggested.
    """
    out = {}
    for path, source in like.items():
        kwargs: dict[str, Any] = {"group": path or None, "chunks": None}
        kwargs["zarr_format"] = zarr_format
        kwargs |= {"consolidated": consolidated, "create_default_indexes": indexes}
        kwargs |= _decoding(source.variables)
        # labels are loaded: of a near store chunk by chunk, which holds the least besides them
        with tuned() if is_near(store) else nullcontext():
            ds = xr.open_zarr(store, **kwargs)
        odd = [n for n, v in source.variables.items() if n in ds.variables and _is_half_decoded(v)]
        if odd:
            undecoded = xr.open_zarr(store, **{**kwargs, "mask_and_scale": False})
            new = {n: _masked_only(str(n), undecoded.variables[n], source[n].attrs) for n in odd}
            ds = ds.assign({n: v for n, v in new.items() if n not in ds.coords})
            ds = ds.assign_coords({n: v for n, v in new.items() if n in ds.coords})
        # xarray makes only some of them coordinates by itself; a grid mapping it does not
        ds = ds.set_coords([n for n in source.coords if n in ds.variables])
        own = below(path, chunks)
        if suggestion is None:
            out[path] = chunk_lazily(ds, own)
        else:
            out[path] = chunk_as_suggested(ds, below(path, suggestion.variables), own)
    return out


def _decoding(variables: Mapping[Any, xr.Variable]) -> dict[str, Any]:
    """Report how each variable of the source was decoded: what that takes away is not in attrs."""
    return {
        "mask_and_scale": {n: not _has_packing(v.attrs) for n, v in variables.items()},
        "decode_times": {n: _time_coder(v) for n, v in variables.items()},
        "decode_timedelta": {n: v.dtype.kind == "m" for n, v in variables.items()},
        "decode_coords": not any("coordinates" in v.attrs for v in variables.values()),
    }


def _has_packing(known: Mapping[Any, Any]) -> bool:
    return any(known.get(key) is not None for key in _PACKING)


def _is_half_decoded(variable: xr.Variable) -> bool:
    """Return whether missing values were decoded, and a scale beside them was left an attribute."""
    return _has_packing(variable.attrs) and _has_packing(variable.encoding)


def _masked_only(name: str, stored: xr.Variable, kept: Mapping[Any, Any]) -> xr.Variable:
    """Decode a variable by what is no attribute of the source's."""
    own = stored.copy(deep=False)
    own.attrs = {k: v for k, v in stored.attrs.items() if k not in kept}
    out = xr.conventions.decode_cf_variable(name, own, decode_times=False, decode_timedelta=False)
    out.attrs = {**out.attrs, **{k: v for k, v in stored.attrs.items() if k in kept}}
    return out


def _time_coder(variable: xr.Variable) -> Any:
    """Return what decodes times to the kind and unit that the source shows."""
    if variable.dtype.kind == "M":
        unit: Any = np.datetime_data(variable.dtype)[0]
        return xr.coders.CFDatetimeCoder(time_unit=unit if unit in KNOWN_UNITS else "s")
    if variable.dtype.kind != "O" or not _is_calendar(variable):
        return False
    return xr.coders.CFDatetimeCoder(use_cftime=True)


def _is_calendar(variable: xr.Variable) -> bool:
    """Return whether objects are dates of cftime, without computing what is lazy."""
    if "calendar" in variable.encoding or " since " in str(variable.encoding.get("units", "")):
        return True
    if variable.chunks is not None:
        return True
    return variable.size > 0 and hasattr(np.asarray(variable.data).flat[0], "calendar")


@dataclass(frozen=True, repr=False, eq=False)
class RechunkJob(Generic[T]):
    """A rechunk, append or region write that is planned and bound to its stores.

    It shows itself as its plan, and has the plan's attributes and methods (`RechunkPlan`).
    `run` runs that very plan.
    """

    plan: RechunkPlan
    """The stages, boxes, tasks, bytes, objects and peak memory of each variable."""
    bound: Rechunk
    """The plan with its stores."""
    groups: Mapping[str, xr.Dataset]
    """The source's Datasets by path of their group."""
    back: Callable[[dict[str, xr.Dataset]], T]
    """Makes of the groups that were written what the user has."""
    show: Callable[[bool | ProgressLike], ProgressLike]
    """Makes what shows the progress of what a user gives for ``progress``."""
    chunks: Any = None
    """The suggestion or the chunks that were asked for."""

    def run(self, *, verify: bool = False, progress: bool | ProgressLike = True) -> T:
        """Copy everything within the memory budget, make it visible, and open it.

        Parameters
        ----------
        verify : bool
            Whether the target is read back and compared with the source bit by bit.
        progress : bool or object
            Whether a progress bar is shown; or an object that is called for each box instead, a
            context manager with a method ``update(*, name, stage, done, total, nbytes)``.

        Returns
        -------
        Dataset, DataArray or DataTree
            Like the source, or all of the store that was appended to, with dask chunks that
            match.

        Raises
        ------
        SourceError
            If the data were changed in place since they were planned.
        TargetExistsError, ResumeMismatchError, StageFailedError, VerificationError
            As ``ds.chunking.apply``.
        """
        with asking_once():
            self._refuse_edited()
        return start(self, verify=verify, progress=progress)

    def _refuse_edited(self) -> None:
        """Refuse data that show other stored arrays than when they were planned.

        An edit in place reaches every object that shares the lazy array, without a word.
        """
        news = self.bound.news.values() if isinstance(self.bound, BoundExtension) else ()
        raw = [one for one in news or [c.assembled for c in self.bound.copies] if one.ref]
        groups = _in_target(self.bound, self.groups)
        zarr_format, homes = self.bound.metadata.zarr_format, homes_in_tree(groups)
        now = {
            path: stored_variables(ds, zarr_format=zarr_format, group=path, homes=homes[path])
            for path, ds in groups.items()
            if any(one.group == path for one in raw)
        }
        for one in raw:
            if isinstance(groups[one.group].variables[one.name], xr.IndexVariable):
                continue  # an index cannot be edited
            found = now[one.group].get(one.name)
            # stores need not know that they are equal, but say where they are
            if (
                found is None
                or found.origin != one.origin
                or not (found.ref == one.ref or repr(found.ref) == repr(one.ref))
            ):
                raise SourceError(
                    f"{one.path} has changed since this was planned: its values are no longer "
                    "those of the stored array that would be copied. Nothing was written. Plan "
                    "again."
                )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.plan, name)

    def __getitem__(self, name: str) -> ArrayPlan:
        return self.plan[name]

    def __repr__(self) -> str:
        return repr(self.plan)

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()


def start(job: RechunkJob[T], *, verify: bool, progress: bool | ProgressLike) -> T:
    """Run what was planned by the same call: the source cannot have been edited since."""
    if isinstance(job.chunks, Suggestion):
        tell_threads(job.chunks)
    shown = job.show(progress)
    return job.back(run_rechunk(job.bound, job.groups, job.chunks, verify=verify, progress=shown))


def _in_target(rechunk: Rechunk, groups: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Return the groups by their paths in the target, which may lie deeper than the source's."""
    within = rechunk.within if isinstance(rechunk, BoundExtension) else ""
    return {f"{within}/{path}".strip("/") if within else path: ds for path, ds in groups.items()}


def run_rechunk(
    rechunk: Rechunk,
    groups: Mapping[str, xr.Dataset],
    chunks: Any,
    *,
    verify: bool,
    progress: ProgressLike,
) -> dict[str, xr.Dataset]:
    """Run a rechunk, verify it if asked, and open the result group by group."""
    totals = {
        (a.name, number): (_shown_stage(a.stages, number), s.boxes.count)
        for a in rechunk.plan.arrays
        for number, s in enumerate(a.stages)
    }
    done = dict.fromkeys(totals, 0)

    def report(key: StageKey, _box: int, nbytes: int) -> None:
        stage, total = totals[key]
        done[key] += 1
        progress.update(name=key[0], stage=stage, done=done[key], total=total, nbytes=nbytes)

    _warn(rechunk.plan)
    site = rechunk.site
    for said in full_disks(rechunk.copies, site.store, rechunk.scratch):
        warnings.warn(f"{said}.", XchunkWarning, stacklevel=3)
    # one that is told what will run can show memory against the budget, and how far all of it is
    begin = getattr(progress, "begin", None)
    if begin is not None:
        begin(rechunk.plan)
    variables = (v for ds in groups.values() for v in ds.variables.values())
    # what is appended to may have been written by anybody, in a session nothing is consolidated
    consolidated = not is_session(rechunk.site.store)
    if isinstance(rechunk, BoundExtension):
        consolidated = rechunk.existing.consolidated
    inside, zarr_format = _in_target(rechunk, groups), rechunk.metadata.zarr_format

    def check(shown: Store) -> None:
        if verify:
            _prove(rechunk, groups, shown, progress)
        _refuse_unreadable(shown, inside, zarr_format, consolidated)

    opened: Future[dict[str, xr.Dataset]] = Future()

    def ready(shown: Store) -> None:
        how: dict[str, Any] = {"zarr_format": zarr_format, "consolidated": consolidated}
        how["suggestion"] = chunks if isinstance(chunks, Suggestion) else None
        try:
            found = reopen(shown, inside, _dask_chunks(rechunk, chunks), **how)
            opened.set_result(dict(zip(groups, found.values(), strict=True)))
        except Exception as error:  # noqa: BLE001 - raised below, when the run is over
            opened.set_exception(error)

    with progress, small_chunk_caches(variables):
        store = rechunk.run(report=report, check=check, ready=ready)
    if not opened.done():
        ready(store)
    try:
        return opened.result()
    except Exception as error:
        if not is_fault_of_store(error):
            raise
        raise SourceError(
            f"{describe(store)} is written and complete, but cannot be opened: {error}"
        ) from error


def _prove(rechunk: Rechunk, groups: Mapping[str, xr.Dataset], shown: Store, progress: Any) -> None:
    """Compare what is about to be visible to all with the source."""
    if isinstance(rechunk, BoundExtension):
        prove_extension(rechunk, shown, progress=progress)
    else:
        prove(groups, shown, budget=rechunk.plan.budget, progress=progress)


def _shown_stage(stages: Sequence[Stage], number: int) -> str:
    """Name one stage of an array: by its kind, and a number where there are several of a kind."""
    kind = stages[number].kind
    if sum(s.kind == kind for s in stages) == 1:
        return kind
    return f"{kind} {1 + sum(s.kind == kind for s in stages[:number])}"


def _refuse_unreadable(
    store: Store, groups: Mapping[str, xr.Dataset], zarr_format: int, consolidated: bool
) -> None:
    """Refuse a finished store that cannot be opened, before it replaces anything."""
    try:
        with warnings.catch_warnings():
            # what is to be warned of is when it is opened again; our workspace is still there now
            warnings.simplefilter("ignore")
            how: dict[str, Any] = {"zarr_format": zarr_format, "consolidated": consolidated}
            found = reopen(store, groups, {}, **how, indexes=False)
            for ds in found.values():
                for name in set(ds.coords) & set(ds.dims):
                    # a large one would be held twice, in a process that has a budget to keep
                    if ds.variables[name].nbytes <= _SMALL_INDEX:
                        ds.variables[name].to_index()
    except OSError:
        # it cannot be reached: the same call tries again
        raise
    except Exception as error:
        raise EncodingError(
            f"xarray cannot open what was written to {describe(store)}: {type(error).__name__}: "
            f"{error}. It was not committed. Choose another encoding for the variable that is "
            "named, and give resume=False (--no-resume) with it."
        ) from error


def _warn(plan: RechunkPlan) -> None:
    """Say what cannot be kept, and where the source is read many times over."""
    if plan.changes:
        said = "not everything can be kept as it is stored: " + "; ".join(plan.changes)
        warnings.warn(said, LayoutChangeWarning, stacklevel=4)
    for array in plan.arrays:
        if array.excess:
            warnings.warn(f"{array.name}: {array.excess}.", ExcessiveIOWarning, stacklevel=4)


def _dask_chunks(rechunk: Rechunk, chunks: Any) -> dict[str, dict[str, Any]]:
    stored = {
        c.assembled.path: dict(
            zip(c.assembled.dims, c.target.shards or c.target.chunks, strict=True)
        )
        for c in rechunk.copies
    }
    if not isinstance(chunks, Suggestion):
        return stored
    return {**stored, **chunks.chunks}
