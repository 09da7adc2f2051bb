"""A rechunk: plans bound to stores, run in stages, and committed last."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import xarray as xr
from zarr.abc.store import Store

from xchunk._typing import ZarrFormat
from xchunk.core.cost import Rates
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import ArrayPlan, Limits, RechunkPlan, plan_array
from xchunk.core.spec import parse_chunks
from xchunk.core.suggest import Suggestion
from xchunk.engine.copy import StageSpec, scratch_dtype
from xchunk.engine.run import Chain, Report, current_client, run_chains
from xchunk.errors import EncodingError
from xchunk.jobs import (
    Wishes,
    choose_target,
    chunks_by_variable,
    copy_job,
    may_scratch,
    with_blocks,
)
from xchunk.storage.assemble import Assembled, assemble
from xchunk.storage.layouts import read_layouts
from xchunk.storage.refs import FileRef, ZarrRef
from xchunk.storage.site import Site
from xchunk.storage.stores import describe, open_store, refuse_overlap
from xchunk.storage.target import (
    TargetArray,
    TargetMetadata,
    commit,
    make_metadata,
    write_arrays,
)
from xchunk.storage.workspace import Workspace

__all__ = ["Rechunk", "bind", "source_format"]


@dataclass(frozen=True)
class _Copy:
    """One array of a rechunk: what is copied, where to, and how."""

    target: TargetArray
    plan: ArrayPlan

    @property
    def assembled(self) -> Assembled:
        return self.target.assembled


@dataclass(frozen=True)
class Rechunk:
    """A plan bound to its source and target; made by `bind`, run by `run`."""

    plan: RechunkPlan
    """What will happen."""
    site: Site
    """Where the target is made."""
    copies: tuple[_Copy, ...]
    """The arrays, in the order in which they run."""
    metadata: TargetMetadata
    """The target's metadata documents."""

    def run(self, *, report: Report | None = None) -> Store:
        """Copy everything and commit; return the committed store.

        The target cannot be opened before it is complete. If anything fails, what was
        written is deleted and the error goes on.

        Raises
        ------
        TargetExistsError
            If the target is there and was not to be overwritten.
        StageFailedError
            If a box could not be copied.
        """
        store = self.site.prepare()
        workspace = Workspace(store)
        try:
            workspace.create(target=self.plan.target)
            write_arrays(store, self.metadata)
            run_chains(
                [self._chain(c, workspace) for c in self.copies if c.plan.stages],
                threads=self.plan.budget.threads,
                client=current_client(),
                report=report,
            )
            commit(store, self.metadata)
        except BaseException:
            self.site.abandon()
            raise
        workspace.remove()
        return self.site.publish()

    def _chain(self, copy: _Copy, workspace: Workspace) -> Chain:
        one, run = copy.assembled, uuid.uuid4().hex[:12]
        final = ZarrRef(workspace.store, one.path, self.metadata.zarr_format)
        specs: list[StageSpec] = []
        scratches: list[ZarrRef] = []
        source: Any = one.ref
        for number, stage in enumerate(copy.plan.stages):
            target = final
            if stage.scratch is not None:
                target = workspace.scratch_array(
                    one.path, number, one.shape, scratch_dtype(one.dtype), stage.scratch
                )
                scratches.append(target)
            specs.append(
                StageSpec(
                    run=run,
                    label=f"xchunk-{stage.kind}-{one.path}",
                    source=source,
                    target=target,
                    origin=one.origin if number == 0 and one.origin else (0,) * len(one.shape),
                    boxes=stage.boxes,
                    dtype=one.dtype,
                    from_scratch=number > 0,
                    to_scratch=stage.scratch is not None,
                    threads=copy.plan.threads,
                )
            )
            source = target

        def clean() -> None:
            for scratch in scratches:
                workspace.remove_scratch(scratch)

        blocks = None if one.ref is not None or one.variable is None else one.variable.data
        return Chain(tuple(specs), blocks, clean if scratches else None)


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
    storage_options: Mapping[str, Any] | None = None,
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
    storage_options : mapping, optional
        What fsspec needs to reach a URL.

    Raises
    ------
    InvalidChunksError, EncodingError, MemoryBudgetError, TargetExistsError
        If it cannot be done as it is asked.
    """
    zarr_format = _check_format(zarr_format or source_format(groups))
    if shards and zarr_format == 2:
        raise EncodingError("zarr format 2 has no shards. Give zarr_format=3, or leave shards out.")
    site = Site(open_store(store, storage_options=storage_options), overwrite=overwrite)
    site.check()
    report = read_layouts(groups)
    wishes = Wishes(
        what=what,
        chunks=chunks_by_variable(what, report.layouts),
        shards=parse_chunks(shards or {}, report.layouts, "shards"),
        zarr_format=zarr_format,
    )
    rates, limits = rates or Rates(), limits or Limits()
    copies: list[_Copy] = []
    grouped: dict[str, tuple[list[TargetArray], dict[str, Any]]] = {}
    notes: list[str] = []
    for path, ds in groups.items():
        assembled, attrs = assemble(ds, zarr_format=zarr_format, group=path)
        grouped[path] = ([], attrs)
        for one in assembled:
            _refuse_own_source(one, site)
            target = choose_target(one, report[one.path], wishes, budget)
            target = replace(target, assembled=with_blocks(target, budget))
            job = copy_job(target)
            own = limits if may_scratch(one) else replace(limits, scratch=False)
            copies.append(_Copy(target, plan_array(job, budget, rates=rates, limits=own)))
            grouped[path][0].append(target)
            notes += [f"{one.path}: {note}" for note in one.notes]
    metadata = make_metadata(grouped, zarr_format=zarr_format)
    copies.sort(key=lambda c: c.plan.nbytes)
    plan = RechunkPlan(
        arrays=tuple(c.plan for c in copies),
        budget=budget,
        rates=rates,
        target=describe(site.store),
        notes=(*notes, *site.notes()),
    )
    return Rechunk(plan, site, tuple(copies), metadata)


def _check_format(zarr_format: Any) -> Literal[2, 3]:
    if zarr_format not in (2, 3):
        raise EncodingError(f"zarr_format={zarr_format!r} does not exist. Give 2 or 3.")
    return 2 if zarr_format == 2 else 3


def _refuse_own_source(one: Assembled, site: Site) -> None:
    if isinstance(one.ref, ZarrRef):
        refuse_overlap(one.ref.store, site.store, one.path)
    elif isinstance(one.ref, FileRef):
        refuse_overlap(one.ref.filename, site.store, one.path)
