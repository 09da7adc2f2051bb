"""A rechunk: plans bound to stores, run in stages, and committed last."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import xarray as xr
from zarr.abc.store import Store

from xchunk._typing import ZarrFormat
from xchunk._version import __version__
from xchunk.core.cost import Rates
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import ArrayPlan, Limits, RechunkPlan, plan_array
from xchunk.core.spec import parse_chunks
from xchunk.core.suggest import Suggestion
from xchunk.engine.copy import StageSpec, scratch_dtype
from xchunk.engine.run import Chain, Report, current_client, refuse_blind_workers, run_chains
from xchunk.errors import (
    EncodingError,
    ResumeMismatchError,
    SourceError,
    StageFailedError,
    XchunkWarning,
)
from xchunk.jobs import (
    Wishes,
    choose_target,
    chunks_by_variable,
    copy_job,
    may_scratch,
    with_blocks,
)
from xchunk.resume import Standing, compare, header_of, refuse_other
from xchunk.storage.assemble import Assembled, assemble
from xchunk.storage.journal import Header, Journal
from xchunk.storage.layouts import read_layouts
from xchunk.storage.lease import lease
from xchunk.storage.owned import forget, is_safe_path, sweep_partials
from xchunk.storage.refs import FileRef, ZarrRef
from xchunk.storage.site import Site, state_of
from xchunk.storage.stores import (
    describe,
    is_fault_of_store,
    local_path,
    open_store,
    reaching,
    refuse_overlap,
)
from xchunk.storage.target import (
    TargetArray,
    TargetMetadata,
    commit,
    make_metadata,
    write_arrays,
)
from xchunk.storage.workspace import PREFIX, Workspace

__all__ = ["Rechunk", "bind", "source_format"]

#: Names that zarr gives to documents.
_RESERVED = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}


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
    header: Header
    """What the journal will say of this run."""
    allowed: MemoryBudget
    """What the tasks of one worker may take now; a plan that is resumed may be of another."""
    resume: bool = True
    """Whether boxes that an earlier run has written are kept."""

    def run(self, *, report: Report | None = None) -> Store:
        """Copy everything and commit; return the committed store.

        The target cannot be opened before it is complete. What an earlier run of the same
        source, plan and target has written is not copied again. If a box fails, what is
        written stays for the next run.

        Raises
        ------
        TargetExistsError
            If the target is there and was not to be overwritten, or another run is at work.
        ResumeMismatchError
            If an earlier run left boxes of another source, plan or target.
        StageFailedError
            If a box could not be copied.
        """
        site = self.site
        path = local_path(site.store)
        existed = path is None or path.exists()
        with reaching(site.store):
            home = site.occupy()
        with lease(home) as held:
            began = False
            try:
                store, complete = site.settle(self.header.digest)
                if not complete:
                    chains = self._begin(store)
                    began = True
                    self._copy_boxes(chains, report)
                    held.check()
                    self._commit(store)
                final = site.publish(store)
            except BaseException as error:
                if not began and not self._has_boxes():
                    with suppress(Exception):
                        site.abandon(home, self.header, existed=existed)
                    if is_fault_of_store(error):
                        raise SourceError(f"{_failed(error)} Nothing was copied.") from error
                    raise
                _explain(error, site.store)
                if is_fault_of_store(error):
                    raise StageFailedError(f"{_failed(error)} {_hint(site.store)}") from error
                raise
            try:
                # from here on the journal cannot tell any more whose this is
                Workspace(final).create(target=self.plan.target, committed=self.header.digest)
                Workspace(final).clear()
                held.retire()
                site.leave(home)
            except Exception as error:
                if not is_fault_of_store(error):
                    raise
                warnings.warn(
                    f"{describe(final)} is complete, but scratch data could not be deleted "
                    f"({error}). 'xchunk clean {describe(final)} --delete' tries again.",
                    XchunkWarning,
                    stacklevel=2,
                )
        return final

    def _begin(self, store: Store) -> list[Chain]:
        """Write all that stands before the first box; return what is to be copied."""
        workspace, journal = Workspace(store), Journal(store)
        standing = self._standing(journal)
        if not standing.boxes:
            self._start_anew(store, standing)
        if workspace.read_marker() is None:
            workspace.create(target=self.plan.target)
        for path in standing.changed:
            forget(store, path)
        journal.write(self.header, version=__version__)
        write_arrays(store, self.metadata)
        client = current_client()
        if client is not None:
            refuse_blind_workers(client, store, next(iter(self.metadata.arrays), None))
        finished = standing.finished or {}
        chains = [
            self._chain(c, workspace, journal, finished.get(c.assembled.path, ()))
            for c in self.copies
            if c.plan.stages
        ]
        return [c for c in chains if c.remaining(len(c.stages) - 1)]

    def _standing(self, journal: Journal) -> Standing:
        if not self.resume:
            return Standing()
        return compare(journal, self.header)

    def _start_anew(self, store: Store, standing: Standing) -> None:
        """Delete what earlier runs left of an unfinished target."""
        if Workspace(store).read_marker() is None:
            return
        earlier = standing.earlier or self.header
        if not self.resume:
            with suppress(ResumeMismatchError):
                earlier = Journal(store).read() or self.header
        self.site.discard(store, earlier)
        if earlier is not self.header:
            self.site.discard(store, self.header)

    def _has_boxes(self) -> bool:
        """Tell whether an earlier run's boxes are there, which an error must not take away."""
        try:
            journal = Journal(self.site.working)
            earlier = journal.read()
            return earlier is not None and any(map(journal.has_boxes, earlier.arrays.values()))
        except Exception:  # noqa: BLE001 - where it cannot be told, nothing is deleted
            return True

    def _copy_boxes(self, chains: Sequence[Chain], report: Report | None) -> None:
        if report is not None:
            for chain in chains:
                for stage, done in zip(chain.stages, chain.finished, strict=False):
                    for box in sorted(done):
                        report(stage.label, box, 0)
        run_chains(chains, threads=self.allowed.threads, client=current_client(), report=report)

    def _commit(self, store: Store) -> None:
        sweep_partials(store, [c.assembled.path for c in self.copies], self.metadata.groups)
        commit(store, self.metadata)

    def _chain(
        self,
        copy: _Copy,
        workspace: Workspace,
        journal: Journal,
        finished: tuple[frozenset[int], ...],
    ) -> Chain:
        one, run = copy.assembled, uuid.uuid4().hex[:12]
        final = ZarrRef(workspace.store, one.path, self.metadata.zarr_format)
        facts = self.header.arrays[one.path]
        fitting = self.allowed.max_mem // max(1, copy.plan.projected_mem)
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
                    at_once=stage.buffers.read_unit if number == 0 and _in_parts(one) else None,
                    threads=max(1, min(copy.plan.threads, fitting)),
                    marks=journal.marks(facts, number),
                )
            )
            source = target

        def clean() -> None:
            for scratch in scratches:
                workspace.remove_scratch(scratch)

        blocks = None if one.ref is not None or one.variable is None else one.variable.data
        return Chain(tuple(specs), blocks, clean if scratches else None, finished)


def _explain(error: BaseException, store: Store) -> None:
    """Add to an error how the run is resumed, and how it is cleaned up."""
    if isinstance(error, StageFailedError) and error.args:
        error.args = (f"{error.args[0]} {_hint(store)}", *error.args[1:])
    else:
        error.add_note(_hint(store))


def _hint(store: Store) -> str:
    return (
        "What is written is kept: the same call goes on where it was. "
        f"'xchunk clean {describe(store)}' deletes it."
    )


def _failed(error: BaseException) -> str:
    return f"the target could not be written: {type(error).__name__}: {error}."


def _in_parts(one: Assembled) -> bool:
    """Whether a box is read part by part: the reader would hold all of it besides the box."""
    plain = not one.dtype.hasobject and one.dtype.kind != "T" and bool(one.shape)
    return plain and one.info is not None and (one.info.chunks is None or bool(one.info.shards))


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
    resume: bool = True,
    allowed: MemoryBudget | None = None,
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
    resume : bool
        Whether boxes that an earlier run has written are kept; if not, it starts anew.
    allowed : MemoryBudget, optional
        What the tasks may take, where ``budget`` is that of an earlier run.
    storage_options : mapping, optional
        What fsspec needs to reach a URL.

    Raises
    ------
    InvalidChunksError, EncodingError, MemoryBudgetError, TargetExistsError
        If it cannot be done as it is asked.
    ResumeMismatchError
        If the target is the unfinished one of another source, plan or target.
    """
    zarr_format = _check_format(zarr_format or source_format(groups))
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
            chosen = plan_array(job, budget, rates=rates, limits=own)
            if own is not limits:
                # that no scratch may be used is our doing, and no plan that lost
                chosen = replace(chosen, runner_up="")
            copies.append(_Copy(target, chosen))
            grouped[path][0].append(target)
            notes += [f"{one.path}: {note}" for note in one.notes]
    metadata = make_metadata(grouped, zarr_format=zarr_format)
    copies.sort(key=lambda c: c.plan.nbytes)
    _refuse_odd_paths(copies)
    header = header_of([(c.target, c.plan) for c in copies], metadata, budget)
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
        notes=tuple(notes),
    )
    return Rechunk(plan, site, tuple(copies), metadata, header, allowed or budget, resume)


def _refuse_odd_paths(copies: Sequence[_Copy]) -> None:
    """Refuse names that would be read as something else in a zarr store, or lead out of it."""
    for copy in copies:
        path = copy.assembled.path
        parts = path.split("/")
        if not is_safe_path(path) or parts[0] == PREFIX or any(p in _RESERVED for p in parts):
            raise EncodingError(
                f"the name {path!r} cannot be a path in a zarr store. Nothing was written. "
                "Rename the variable or group first."
            )


def _check_format(zarr_format: Any) -> Literal[2, 3]:
    if zarr_format not in (2, 3):
        raise EncodingError(f"zarr_format={zarr_format!r} does not exist. Give 2 or 3.")
    return 2 if zarr_format == 2 else 3


def _refuse_own_source(one: Assembled, site: Site) -> None:
    if isinstance(one.ref, ZarrRef):
        refuse_overlap(one.ref.store, site.store, one.path)
    elif isinstance(one.ref, FileRef):
        refuse_overlap(one.ref.filename, site.store, one.path)
