"""An append, or a region, that is bound to its store: run in boxes, and made visible last."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from zarr.abc.store import Store

from xchunk._version import __version__
from xchunk.bound import BoundArray, Rechunk
from xchunk.core.extension import Extension
from xchunk.engine.run import Chain, Report, current_client, refuse_blind_workers
from xchunk.errors import (
    EncodingError,
    ResumeMismatchError,
    SourceError,
    StageFailedError,
    TargetExistsError,
    XchunkWarning,
)
from xchunk.resume import Standing
from xchunk.storage.assemble import Assembled
from xchunk.storage.durable import flush
from xchunk.storage.existing import Existing
from xchunk.storage.extending import Extending, take_back
from xchunk.storage.journal import Journal
from xchunk.storage.lease import lease
from xchunk.storage.owned import sweep_partials
from xchunk.storage.refs import SplicedRef, ZarrRef
from xchunk.storage.stores import describe, is_fault_of_store, reaching
from xchunk.storage.target import TargetMetadata
from xchunk.storage.unpublished import Unpublished
from xchunk.storage.workspace import MARKER, Workspace
from xchunk.storage.zarr_io import get_keys, put_key

__all__ = ["BoundExtension", "ExtendedMetadata"]


@dataclass(frozen=True)
class ExtendedMetadata(TargetMetadata):
    """The documents that say the new lengths; none is written before all chunks are."""

    def unpublished(self, store: Store, path: str) -> ZarrRef:
        """Return where an array is written: it has its new length for those who write it."""
        return ZarrRef(Unpublished(store, self.arrays), path, self.zarr_format)


@dataclass(frozen=True)
class BoundExtension(Rechunk):
    """New data bound to a store that is there; made by `xchunk.extend`, run by `run`."""

    existing: Existing = field(kw_only=True)
    """The store as it is before."""
    extensions: Mapping[str, Extension] = field(kw_only=True)
    """Where the new data go, by path of the array."""
    news: Mapping[str, Assembled] = field(kw_only=True)
    """What is new, by path of the array."""
    complete: bool = False
    """Whether an earlier run of the same call made all of it visible, and only did not clean up."""

    @property
    def store(self) -> Store:
        """The store that is written."""
        return self.site.store

    def readable(self) -> Store:
        """Return the store as workers can read it, after it is written."""
        return self.store

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

    def run(self, *, report: Report | None = None) -> Store:
        """Write all new values, and make them visible; return the store.

        Until the documents are written, the root's last, everybody reads the store as it was.
        What an earlier run of the same call has written is not written again.

        Raises
        ------
        TargetExistsError
            If another run is at work, or the store has changed since this was planned.
        ResumeMismatchError
            If another append was stopped half way.
        EncodingError
            If the store cannot hold a value exactly; what was appended is taken back.
        StageFailedError
            If a box could not be written.
        """
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
                    held.check()
                    self._commit(store)
            except EncodingError as error:
                if self._has_boxes() and not self._grows:
                    error.add_note(self._mixed())
                with suppress(Exception):
                    self._give_up()
                raise
            except BaseException as error:
                if not began and not self._has_boxes():
                    with suppress(Exception):
                        self._give_up()
                    if is_fault_of_store(error):
                        raise SourceError(f"{self._failed(error)} Nothing was written.") from error
                    raise
                if is_fault_of_store(error):
                    raise StageFailedError(f"{self._failed(error)} {self._hint()}") from error
                if isinstance(error, StageFailedError) and error.args:
                    error.args = (f"{error.args[0]} {self._hint()}", *error.args[1:])
                else:
                    error.add_note(self._hint())
                raise
            try:
                flush([store])
                self._workspace(store).leave()
                held.retire()
                workspace.remove()
            except Exception as error:
                if not is_fault_of_store(error):
                    raise
                warnings.warn(
                    f"{describe(store)} is complete, but scratch data could not be deleted "
                    f"({error}). 'xchunk clean {describe(store)} --delete' tries again.",
                    XchunkWarning,
                    stacklevel=2,
                )
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
        finished = standing.finished or {}
        chains = [
            self._chain(c, workspace, journal, finished.get(c.assembled.path, ()))
            for c in self.copies
            if c.plan.stages
        ]
        return [c for c in chains if c.remaining(len(c.stages) - 1)]

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

    def _give_up(self) -> None:
        take_back(self.store)
        with suppress(ResumeMismatchError):
            self._workspace(self.store).leave()
        Workspace(self.store).remove()

    def _failed(self, error: BaseException) -> str:
        return f"the store could not be written: {type(error).__name__}: {error}."

    def _hint(self) -> str:
        place = describe(self.store)
        if self._grows:
            return (
                f"{place} is read as before. What is written is kept: the same call goes on "
                f"where it was. 'xchunk clean {place} --delete' deletes it."
            )
        return f"{self._mixed()} The same call goes on where it was."

    @property
    def _grows(self) -> bool:
        """Whether anything becomes longer; otherwise a region is written, in place."""
        return any(s.grows for e in self.extensions.values() for s in e.spans)

    def _mixed(self) -> str:
        return f"A part of the region of {describe(self.store)} may hold new values."
