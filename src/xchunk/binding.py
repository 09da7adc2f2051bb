"""Binding plans to stores: what is asked is checked, assembled and planned; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import xarray as xr
from zarr.abc.store import Store

from xchunk._typing import EngineName, ZarrFormat
from xchunk.bound import BoundArray, Rechunk
from xchunk.core.cost import Rates
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import Limits, RechunkPlan, plan_array
from xchunk.core.spec import parse_chunks
from xchunk.core.suggest import Suggestion
from xchunk.engine.rechunker import load_engine
from xchunk.engine.run import Engine
from xchunk.errors import EncodingError
from xchunk.jobs import (
    Wishes,
    choose_target,
    chunks_by_variable,
    copy_job,
    may_scratch,
    with_blocks,
)
from xchunk.resume import compare, header_of, refuse_other
from xchunk.storage.assemble import Assembled, assemble
from xchunk.storage.icechunk import is_session, store_of
from xchunk.storage.journal import Journal
from xchunk.storage.layouts import read_layouts
from xchunk.storage.owned import is_safe_path
from xchunk.storage.refs import FileRef, ZarrRef
from xchunk.storage.site import Site, state_of
from xchunk.storage.stores import describe, open_store, reaching, refuse_overlap, same_place
from xchunk.storage.target import TargetArray, TargetMetadata, make_metadata
from xchunk.storage.twins import homes_in_tree
from xchunk.storage.workspace import PREFIX

__all__ = ["Rechunk", "bind", "bind_targets", "source_format"]

#: Names that zarr gives to documents.
_RESERVED = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}


def source_format(groups: Mapping[str, xr.Dataset]) -> ZarrFormat:
    """Return the zarr format of the source, or 3 where it is no zarr."""
    formats = {layout.format for layout in read_layouts(groups)}
    return 2 if "zarr2" in formats and "zarr3" not in formats else 3


def bind(
    groups: Mapping[str, xr.Dataset],
    what: Suggestion | Mapping[Any, Any] | None,
    store: Any,
    *,
    budget: MemoryBudget,
    rates: Rates | None = None,
    limits: Limits | None = None,
    shards: Mapping[Any, Any] | None = None,
    zarr_format: ZarrFormat | None = None,
    overwrite: bool = False,
    unpack: bool = False,
    resume: bool = True,
    allowed: MemoryBudget | None = None,
    storage_options: Mapping[str, Any] | None = None,
    scratch: Any = None,
    engine: EngineName | Engine | None = None,
) -> Rechunk:
    """Plan a rechunk and bind it to its stores; nothing is written.

    Parameters
    ----------
    groups : mapping
        The Dataset of each group's path; ``""`` is the root.
    what : Suggestion or mapping
        A suggestion, or chunks to store: ``{dim: n}`` or ``{variable: {dim: n}}``.
    store : str, path or zarr store
        The target.
    budget : MemoryBudget
        What the tasks of one worker may take.
    rates : Rates, optional
        By which plans are chosen; the defaults otherwise.
    limits : Limits, optional
        The most tasks and objects; the defaults otherwise.
    shards : mapping, optional
        Shards to store, said like chunks; zarr v3 only.
    zarr_format : {2, 3}, optional
        The source's, or 3 where it is no zarr.
    overwrite : bool
        Whether a zarr store that is there is replaced.
    unpack : bool
        Whether packed variables are stored as their decoded values.
    resume : bool
        Whether boxes that an earlier run has written are kept; if not, it starts anew.
    allowed : MemoryBudget, optional
        What the tasks may take, where ``budget`` is that of an earlier run.
    storage_options : mapping, optional
        What fsspec needs to reach a URL.
    scratch : str, path or zarr store, optional
        Where scratch data go; to the target's own store by default.
    engine : {"xchunk", "rechunker"} or Engine, optional
        Whose planner and tasks are used; xchunk's by default.

    Raises
    ------
    InvalidChunksError, EncodingError, MemoryBudgetError, TargetExistsError
        If it cannot be done as it is asked.
    ResumeMismatchError
        If the target is the unfinished one of another source, plan or target.
    """
    transactional = is_session(store_of(store))
    if transactional and zarr_format == 2:
        raise EncodingError("icechunk stores zarr format 3 only. Leave zarr_format out.")
    zarr_format = _check_format(zarr_format or (3 if transactional else source_format(groups)))
    if shards and zarr_format == 2:
        raise EncodingError("zarr format 2 has no shards. Give zarr_format=3, or leave shards out.")
    site = Site(open_store(store, storage_options=storage_options), overwrite=overwrite)
    with reaching(site.store):
        site.check()
    report = read_layouts(groups)
    wishes = Wishes(
        what=what,
        chunks=chunks_by_variable(what, report.layouts),
        shards=parse_chunks(shards or {}, report.layouts, "shards"),
        zarr_format=zarr_format,
    )
    grouped: dict[str, tuple[list[TargetArray], dict[str, Any]]] = {}
    homes = homes_in_tree(groups)
    for path, ds in groups.items():
        assembled, attrs = assemble(
            ds, zarr_format=zarr_format, group=path, unpack=unpack, homes=homes[path]
        )
        targets = [choose_target(one, report[one.path], wishes, budget) for one in assembled]
        targets = [replace(t, assembled=with_blocks(t, budget)) for t in targets]
        grouped[path] = targets, attrs
    return bind_targets(
        [target for targets, _ in grouped.values() for target in targets],
        make_metadata(grouped, zarr_format=zarr_format),
        site,
        budget=budget,
        rates=rates,
        limits=limits,
        resume=resume,
        allowed=allowed,
        scratch=None if scratch is None else open_store(scratch, storage_options=storage_options),
        engine=load_engine(engine) if isinstance(engine, str) else engine,
    )


def bind_targets(
    targets: Sequence[TargetArray],
    metadata: TargetMetadata,
    site: Site,
    *,
    budget: MemoryBudget,
    rates: Rates | None = None,
    limits: Limits | None = None,
    resume: bool = True,
    allowed: MemoryBudget | None = None,
    scratch: Store | None = None,
    engine: Engine | None = None,
) -> Rechunk:
    """Plan how arrays are copied that are assembled already, as `bind` does; nothing is written.

    Parameters
    ----------
    targets : sequence of TargetArray
        The arrays with their chunks.
    metadata : TargetMetadata
        What the target's metadata will be.
    site : Site
        Where the target is made; checked already.
    budget, rates, limits, resume, allowed, scratch, engine
        As in `bind`.
    """
    _refuse_odd_paths([target.assembled.path for target in targets])
    jobs = [
        copy_job(t, site.store, scratch=scratch, made=partial(metadata.array, t.assembled.path))
        for t in targets
    ]
    rates, limits = rates or Rates.usual(near=all(job.near for job in jobs)), limits or Limits()
    copies: list[BoundArray] = []
    changes: list[str] = []
    notes: list[str] = []
    for target, job in zip(targets, jobs, strict=True):
        one = target.assembled
        _refuse_own_source(one, site.store)
        own = limits if may_scratch(one) else replace(limits, scratch=False)
        if engine is not None and engine.takes(job, one.dtype):
            chosen = engine.plan(job, budget, rates=rates, limits=limits)
        else:
            chosen = plan_array(job, budget, rates=rates, limits=own)
        if own is not limits:
            # that no scratch may be used is our doing, and no plan that lost
            chosen = replace(chosen, runner_up="")
        if chosen.excess:
            notes.append(f"{one.path}: {chosen.excess}")
        copies.append(BoundArray(target, chosen))
        changes += [f"{one.path}: {note}" for note in one.notes]
        notes += [f"{one.path}: {remark}" for remark in one.remarks]
    copies.sort(key=lambda c: c.plan.nbytes)
    scratch = _own_scratch(scratch, site, copies)
    header = header_of([(c.target, c.plan) for c in copies], metadata, budget, scratch)
    with reaching(site.store):
        refuse_other(site, header.digest)
        if resume and state_of(site.working) == "unfinished":
            notes += compare(Journal(site.working), header).note()
        notes += site.notes()
    plan = RechunkPlan(
        arrays=tuple(c.plan for c in copies),
        budget=budget,
        rates=rates,
        target=describe(site.store),
        notes=(*changes, *notes),
        changes=tuple(changes),
    )
    return Rechunk(
        plan,
        site,
        tuple(copies),
        metadata,
        header,
        allowed=allowed or budget,
        resume=resume,
        scratch=scratch,
        engine=engine,
    )


def _own_scratch(scratch: Store | None, site: Site, copies: Sequence[BoundArray]) -> Store | None:
    """Return the store for scratch data; None where that is the target's own, or none is needed."""
    needed = any(stage.scratch is not None for c in copies for stage in c.plan.stages)
    if scratch is None or not needed or same_place(scratch, site.store):
        return None
    refuse_overlap(scratch, site.store, "the scratch data")
    for copy in copies:
        _refuse_own_source(copy.assembled, scratch)
    return scratch


def _refuse_odd_paths(paths: Sequence[str]) -> None:
    """Refuse names that would be read as something else in a zarr store, or lead out of it."""
    for path in paths:
        parts = path.split("/")
        if not path and len(paths) == 1:
            continue  # an array that is all of the store
        if not is_safe_path(path) or parts[0] == PREFIX or any(p in _RESERVED for p in parts):
            raise EncodingError(
                f"the name {path!r} cannot be a path in a zarr store. Nothing was written. "
                "Rename the variable or group first."
            )


def _check_format(zarr_format: Any) -> Literal[2, 3]:
    if zarr_format not in (2, 3):
        raise EncodingError(f"zarr_format={zarr_format!r} does not exist. Give 2 or 3.")
    return 2 if zarr_format == 2 else 3


def _refuse_own_source(one: Assembled, target: Store) -> None:
    if isinstance(one.ref, ZarrRef):
        refuse_overlap(one.ref.store, target, one.path)
    elif isinstance(one.ref, FileRef):
        refuse_overlap(one.ref.filename, target, one.path)
