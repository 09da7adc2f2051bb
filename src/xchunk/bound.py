"""A rechunk that is bound to its stores: run in stages, resumed, and committed last."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store

from xchunk._secrets import safe_cause
from xchunk._version import __version__
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import ArrayPlan, RechunkPlan
from xchunk.core.vacancy import Vacant
from xchunk.engine.copy import StageSpec, scratch_dtype
from xchunk.engine.run import (
    Chain,
    Engine,
    Report,
    current_client,
    refuse_blind_workers,
    run_chains,
)
from xchunk.errors import ResumeMismatchError, SourceError, StageFailedError, XchunkWarning
from xchunk.resume import Standing, compare
from xchunk.storage.assemble import Assembled
from xchunk.storage.durable import Confirming, flush
from xchunk.storage.journal import Header, Journal
from xchunk.storage.lease import lease
from xchunk.storage.owned import forget, sweep_partials
from xchunk.storage.present import find_vacant
from xchunk.storage.refs import ZarrRef
from xchunk.storage.site import Site
from xchunk.storage.stores import describe, is_fault_of_store, local_path, reaching
from xchunk.storage.target import TargetArray, TargetMetadata, commit, write_arrays
from xchunk.storage.workspace import MARKER, Workspace

__all__ = ["BoundArray", "Rechunk"]


@dataclass(frozen=True)
class BoundArray:
    """One array of a rechunk: what is copied, where to, and how."""

    target: TargetArray
    """What is written, with its chunks."""
    plan: ArrayPlan
    """The stages by which it is copied."""

    @property
    def assembled(self) -> Assembled:
        """What is written."""
        return self.target.assembled


@dataclass(frozen=True)
class Rechunk:
    """A plan bound to its source and target; made by `xchunk.binding`, run by `run`."""

    plan: RechunkPlan
    """What will happen."""
    site: Site
    """Where the target is made."""
    copies: tuple[BoundArray, ...]
    """The arrays, in the order in which they run."""
    metadata: TargetMetadata
    """The target's metadata documents."""
    header: Header
    """What the journal will say of this run."""
    allowed: MemoryBudget
    """What the tasks of one worker may take now; a plan that is resumed may be of another."""
    resume: bool = True
    """Whether boxes that an earlier run has written are kept."""
    scratch: Store | None = None
    """Where scratch data go; None: to the target's own store."""
    engine: Engine | None = None
    """What plans and copies instead of xchunk's own planner and tasks."""

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
                    self._copy_boxes(store, chains, report)
                    held.check()
                    self._commit(store)
                final = site.publish(store)
            except BaseException as error:
                if not began and not self._has_boxes():
                    with suppress(Exception):
                        site.abandon(home, self.header, existed=existed)
                    if is_fault_of_store(error):
                        raise SourceError(f"{_failed(error)} Nothing was copied.") from safe_cause(
                            error
                        )
                    raise
                _explain(error, site.store)
                if is_fault_of_store(error):
                    raise StageFailedError(f"{_failed(error)} {_hint(site.store)}") from safe_cause(
                        error
                    )
                raise
            try:
                flush([final])
                # from here on the journal cannot tell any more whose this is
                Workspace(final).create(target=self.plan.target, committed=self.header.digest)
                Workspace(final).clear()
                self._workspace(final).leave()
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
        journal, workspace = Journal(store), self._workspace(store)
        standing = self._standing(journal)
        if not standing.boxes:
            self._start_anew(store, standing)
        for place in (Workspace(store), workspace):
            if place.read_marker() is None:
                place.create(target=self.plan.target)
        for path in standing.changed:
            forget(store, path)
        if standing.earlier is not None:
            journal.forget_doubtful(standing.earlier)
        journal.write(self.header, version=__version__)
        write_arrays(store, self.metadata)
        client = current_client()
        if client is not None:
            refuse_blind_workers(client, store, next(iter(self.metadata.arrays), MARKER))
            if self.scratch is not None:
                refuse_blind_workers(client, self.scratch, MARKER)
        finished = standing.finished or {}
        chains = [
            self._chain(c, workspace, journal, finished.get(c.assembled.path, ()))
            for c in self.copies
            if c.plan.stages
        ]
        return [c for c in chains if c.remaining(len(c.stages) - 1)]

    def _workspace(self, store: Store) -> Workspace:
        """Return where scratch data go: to a store of their own, other runs may go as well."""
        if self.scratch is None:
            return Workspace(store)
        return Workspace(self.scratch, self.header.digest[:16])

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

    def _copy_boxes(self, store: Store, chains: Sequence[Chain], report: Report | None) -> None:
        if report is not None:
            for chain in chains:
                for stage, done in zip(chain.stages, chain.finished, strict=False):
                    for box in sorted(done):
                        report(stage.label, box, 0)
        run = run_chains if self.engine is None else self.engine.run
        journal, stores = Journal(store), (store, self.scratch)
        with Confirming(lambda: journal.confirm([self.scratch]), stores):
            run(chains, threads=self.allowed.threads, client=current_client(), report=report)

    def _commit(self, store: Store) -> None:
        sweep_partials(store, [c.assembled.path for c in self.copies], self.metadata.groups)
        flush([store])
        commit(store, self.metadata)

    def _chain(
        self,
        copy: BoundArray,
        workspace: Workspace,
        journal: Journal,
        finished: tuple[frozenset[int], ...],
    ) -> Chain:
        one, run = copy.assembled, uuid.uuid4().hex[:12]
        final = self.metadata.unpublished(journal.store, one.path)
        facts = self.header.arrays[one.path]
        fitting = self.allowed.max_mem // max(1, copy.plan.projected_mem)
        specs: list[StageSpec] = []
        scratches: list[ZarrRef] = []
        source: Any = one.ref
        grids = [stage.boxes for stage in copy.plan.stages]
        vacant: tuple[frozenset[int], ...] = ()
        fill = b""
        if isinstance(one.ref, ZarrRef) and self.engine is None:
            vacant, fill = find_vacant(one.ref, final, one.origin, grids)
        for number, stage in enumerate(copy.plan.stages):
            target = final
            if stage.scratch is not None:
                target = workspace.scratch_array(
                    copy.plan.name, number, one.shape, scratch_dtype(one.dtype), stage.scratch
                )
                scratches.append(target)
            specs.append(
                StageSpec(
                    run=run,
                    label=f"xchunk-{stage.kind}-{copy.plan.name}",
                    source=source,
                    target=target,
                    origin=one.origin if number == 0 and one.origin else (0,) * len(one.shape),
                    boxes=stage.boxes,
                    dtype=one.dtype,
                    from_scratch=number > 0,
                    to_scratch=stage.scratch is not None,
                    concurrency=copy.plan.concurrency,
                    in_flight=int(stage.buffers.in_flight),
                    at_once=stage.buffers.read_unit if number == 0 and _in_parts(one) else None,
                    threads=max(1, min(copy.plan.threads, fitting)),
                    vacant=Vacant(grids[number - 1], vacant[number - 1], fill)
                    if number and vacant and vacant[number - 1]
                    else None,
                    marks=journal.marks(facts, number),
                )
            )
            source = target

        def clean() -> None:
            journal.drop_scratch(facts)
            for scratch in scratches:
                workspace.remove_scratch(scratch)

        blocks = None if one.ref is not None or one.variable is None else one.variable.data
        if vacant:
            done = finished or (frozenset(),) * len(vacant)
            finished = tuple(a | b for a, b in zip(done, vacant, strict=True))
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
        f"'xchunk clean {describe(store)} --delete' deletes it."
    )


def _failed(error: BaseException) -> str:
    return f"the target could not be written: {type(error).__name__}: {error}."


def _in_parts(one: Assembled) -> bool:
    """Whether a box is read part by part: the reader would hold all of it besides the box."""
    plain = not one.dtype.hasobject and one.dtype.kind != "T" and bool(one.shape)
    if not plain or one.info is None:
        return False
    return one.info.chunks is None or (one.info.shards is not None and not one.info.by_chunk)
