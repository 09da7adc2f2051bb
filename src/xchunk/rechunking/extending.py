"""An append, or a region, that is bound to its store: run in boxes, and made visible last."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from zarr.abc.store import Store

from xchunk.core import __version__
from xchunk.core.plan.window import Extension
from xchunk.engine.cluster import current_client
from xchunk.engine.graph import Chain, Report, refuse_blind_workers
from xchunk.errors import (
    EncodingError,
    ResumeMismatchError,
    SourceError,
    StageFailedError,
    TargetExistsError,
    XchunkWarning,
)
from xchunk.rechunking.resume import Standing
from xchunk.rechunking.runner import BoundArray, Check, Ready, Rechunk, checked, explain
from xchunk.sources.refs import SplicedRef, ZarrRef
from xchunk.stores.adapter import get_keys, put_key
from xchunk.stores.overlay import Unpublished
from xchunk.stores.stores import describe, is_fault_of_store, reaching
from xchunk.targets.append.existing import Existing, Extending, take_back
from xchunk.targets.encode import Assembled
from xchunk.targets.fsync import flush
from xchunk.targets.journal import Journal
from xchunk.targets.metadata import TargetMetadata
from xchunk.targets.ownership import Lease, lease, sweep_partials
from xchunk.targets.scratch import MARKER, Workspace


@dataclass(frozen=True)
class ExtendedMetadata(TargetMetadata):
    """The documents that say the new lengths; none is written before all chunks are."""

    def unpublished(self, store: Store, path: str) -> ZarrRef:
        """Return where an array is written: it has its new length for those who write it."""
        return ZarrRef(Unpublished(store, self.arrays), path, self.zarr_format)


@dataclass(frozen=True)
class BoundExtension(Rechunk):
    """New data bound to an existing store; made by `xchunk.rechunking.append`, run by `run`."""

    existing: Existing = field(kw_only=True)
    """The store as it is before."""
    extensions: Mapping[str, Extension] = field(kw_only=True)
    """Where the new data go, by path of the array."""
    news: Mapping[str, Assembled] = field(kw_only=True)
    """What is new, by path of the array."""
    within: str = ""
    """Path of the group that was named as the store; empty: the root."""
    complete: bool = False
    """Whether an earlier run of the same call made all of it visible, and only did not clean up."""

    @property
    def store(self) -> Store:
        """The store that is written."""
        return self.site.store

    @property
    def documents(self) -> dict[str, bytes]:
        """The documents that change, in the order of writing."""
        return {**self.metadata.arrays, **self.metadata.groups}

    @property
    def record(self) -> Extending:
        """What the marker says while this runs."""
        new = self.documents
        old = {key: self.existing.documents[key] for key in new}
        return Extending(self.header.digest, old, new)

    def _run(self, report: Report | None, check: Check | None, ready: Ready | None = None) -> Store:
        # until the documents are written, the root's last, everybody reads the store as it was
        store, workspace = self.store, Workspace(self.store)
        with reaching(store):
            if workspace.read_marker() is None:
                workspace.create(target=self.plan.target)
        with lease(store) as held:
            began = False
            try:
                if not self.complete:
                    self._refuse_changed()
                    chains = self._begin(store)
                    began = True
                    self._copy_boxes(store, chains, report)
                began = True
                self._finish(store, held, check)
            except EncodingError as error:
                if self._has_boxes() and not self._grows:
                    error.add_note(self._mixed())
                with suppress(Exception):
                    self._give_up(held.key)
                raise
            except BaseException as error:
                if not began and not self._has_boxes():
                    with suppress(Exception):
                        self._give_up(held.key)
                    if is_fault_of_store(error):
                        raise SourceError(f"{self._failed(error)} Nothing was written.") from error
                    raise
                if is_fault_of_store(error):
                    raise StageFailedError(f"{self._failed(error)} {self._hint()}") from error
                explain(error, self._hint())
                raise
            try:
                flush([store])
                self._workspace(store).leave()
                held.retire()
                workspace.remove(held.key)
                held.gone = True
            except Exception as error:
                if not is_fault_of_store(error):
                    raise
                warnings.warn(
                    f"{describe(store)} is complete, but scratch data could not be deleted "
                    f"({error}). 'xchunk clean {describe(store)} --delete' tries again.",
                    XchunkWarning,
                    stacklevel=2,
                )
        if ready is not None:
            ready(store)
        return store

    def _refuse_changed(self) -> None:
        """Refuse a store that another run has changed since this one was planned."""
        wanted = self.documents
        found = dict(zip(wanted, get_keys(self.store, list(wanted)), strict=True))
        for key, raw in found.items():
            if raw not in (self.existing.documents[key], wanted[key]):
                raise TargetExistsError(
                    f"{describe(self.store)} has changed since this was planned: {key} is not "
                    "what it was. Nothing was written. Call again."
                )

    def _begin(self, store: Store) -> list[Chain]:
        journal, workspace = Journal(store), self._workspace(store)
        standing = self._standing(journal)
        if not standing.boxes:
            take_back(store)
            Workspace(store).clear()
        elif standing.earlier is not None:
            journal.forget_doubtful(standing.earlier)
        self.record.write(store, target=self.plan.target)
        if workspace.read_marker() is None:
            workspace.create(target=self.plan.target)
        journal.write(self.header, version=__version__)
        client = current_client()
        if client is not None:
            for place in filter(None, (store, self.scratch)):
                refuse_blind_workers(client, place, MARKER)
        return self._remaining(workspace, journal, standing)

    def _finish(self, store: Store, held: Lease, check: Check | None) -> None:
        """Check what is written, if asked, and make it visible."""
        if check is not None:
            shown = store if self.complete else Unpublished(store, self.documents)
            checked(check, shown, "" if self.complete else self._hint())
        if not self.complete:
            held.check()
            self._commit(store)

    def _standing(self, journal: Journal) -> Standing:
        if Extending.read(self.store) is None:
            # whatever another kind of run left here is over
            return Standing()
        return super()._standing(journal)

    def _chain(self, copy: BoundArray, *rest: Any) -> Chain:
        chain = super()._chain(copy, *rest)
        stages = list(chain.stages)
        if isinstance(stages[0].source, SplicedRef):
            at_once = max(stages[0].source.at_once, copy.plan.stages[0].buffers.read_unit)
            stages[0] = replace(stages[0], source=replace(stages[0].source, at_once=at_once))
        origin = self.extensions[copy.assembled.path].origin
        stages[-1] = replace(stages[-1], target_origin=origin)
        return replace(chain, stages=tuple(stages))

    def _commit(self, store: Store) -> None:
        sweep_partials(store, [c.assembled.path for c in self.copies], self.metadata.groups)
        flush([store])
        for key, value in self.documents.items():
            put_key(store, key, value)

    def _give_up(self, lease: str) -> None:
        if self.complete:
            return
        take_back(self.store)
        with suppress(ResumeMismatchError):
            self._workspace(self.store).leave()
        Workspace(self.store).remove(lease)

    def _failed(self, error: BaseException) -> str:
        return f"the store could not be written: {type(error).__name__}: {error}."

    def _hint(self) -> str:
        place = describe(self.store)
        if self._grows:
            return (
                f"{place} is read as before. What is written is kept: the same call "
                f"resumes. 'xchunk clean {place} --delete' deletes it."
            )
        return f"{self._mixed()} The same call resumes."

    @property
    def _grows(self) -> bool:
        """Whether anything becomes longer; otherwise a region is written, in place."""
        return any(s.grows for e in self.extensions.values() for s in e.spans)

    def _mixed(self) -> str:
        return f"A part of the region of {describe(self.store)} may hold new values."
