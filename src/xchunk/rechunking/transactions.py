"""Rechunks and appends in a session of icechunk: one commit, or nothing at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.core.units import format_count
from xchunk.engine.cluster import current_client
from xchunk.engine.copy import StageKey
from xchunk.engine.graph import Chain, Report, refuse_blind_workers, run_chains
from xchunk.errors import InvalidChunksError, StageFailedError, XchunkError
from xchunk.rechunking.extending import BoundExtension
from xchunk.rechunking.runner import Check, Rechunk
from xchunk.sources.refs import SplicedRef, ZarrRef
from xchunk.stores.adapter import delete_prefix, put_key
from xchunk.stores.icechunk import (
    Written,
    commit,
    fork,
    is_session,
    name_of,
    readable,
    refuse_blind_forks,
    refuse_unready,
    session_of,
)
from xchunk.stores.stores import is_fault_of_store
from xchunk.targets.journal import Journal
from xchunk.targets.metadata import TargetMetadata
from xchunk.targets.scratch import MARKER, Workspace


def in_session(bound: Rechunk, message: str | None, *, commits: bool = True) -> Rechunk:
    """Return what is bound to a session as what commits it; anything else as it is.

    - ``bound``: what was planned.
    - ``message``: what the commit says.
    - ``commits``: whether there is one; else whoever opened the session commits it.
    - raises `InvalidChunksError` if a message is given where there is no commit, or none is wanted
      for a store that has no commits.
    """
    if not commits and (message is not None or not is_session(bound.site.store)):
        raise InvalidChunksError(
            "commit=False leaves the commit of an icechunk session to you. Leave it out for any "
            "other store, and give no message= with it: that is what your own commit says."
        )
    if not is_session(bound.site.store):
        if message is not None:
            raise InvalidChunksError(
                "message= is what a commit says, and only an icechunk session has commits. Leave "
                "it out, or give session.store as the store."
            )
        return bound
    refuse_unready(bound.site.store)
    if bound.engine is not None:
        raise InvalidChunksError("an icechunk session is written by engine='xchunk' only.")
    note = "a run that dies leaves nothing behind, and starts anew when it is called again"
    what = "it is one commit" if commits else "no reader sees it before you commit the session"
    documents = {k: _without_consolidated(v) for k, v in bound.metadata.groups.items()}
    said = (message or _message(bound)) if commits else None
    return replace(
        bound,
        plan=replace(bound.plan, notes=(*bound.plan.notes, f"{what}; {note}")),
        metadata=TargetMetadata(bound.metadata.arrays, documents, bound.metadata.zarr_format),
        transaction=partial(_run, said),
    )


def _message(bound: Rechunk) -> str:
    names = [c.assembled.path for c in reversed(bound.copies)]
    more = f" and {format_count(len(names) - 3)} more" if len(names) > 3 else ""
    verb = "append" if isinstance(bound, BoundExtension) else "rechunk"
    return f"xchunk: {verb} {', '.join(names[:3])}{more}"


def _without_consolidated(document: bytes) -> bytes:
    """Leave out what icechunk does not need, and would not keep up to date."""
    content: Any = json.loads(document)
    content.pop("consolidated_metadata", None)
    return json.dumps(content, indent=2).encode()


def _run(message: str | None, bound: Rechunk, report: Report | None, check: Check | None) -> Store:
    """Write everything into the session and commit it with the message; None: not committed."""
    store = bound.site.store
    refuse_unready(store)
    session, client = session_of(store), current_client()
    try:
        with _scratch(bound) as workspace:
            writing = store
            if client is None:
                _prepare(bound, store)
            else:
                replacing = bound.site.overwrite
                writing = fork(store, lambda s: _prepare(bound, s), replacing=replacing).store
                refuse_blind_forks(client, writing)
                if workspace is not None:
                    refuse_blind_workers(client, workspace.store, MARKER)
            chains = [
                _chain(bound, copy, workspace, writing, forked=client is not None)
                for copy in bound.copies
                if copy.plan.stages
            ]
            merge = _Merge(session, report)
            run_chains(chains, threads=bound.allowed.threads, client=client, report=merge)
            if client is not None:
                merge.finish(session_of(writing))
        if check is not None:
            check(store if client is None else readable(store))
    except BaseException as error:
        with suppress(Exception):
            session.discard_changes()
        said = f"Nothing is left of it in {name_of(store)}: call again to start anew."
        if is_fault_of_store(error):
            raise StageFailedError(
                f"the session could not be written: {type(error).__name__}: {error}. {said}"
            ) from error
        if isinstance(error, XchunkError) and error.args:
            error.args = (f"{error.args[0]} {said}", *error.args[1:])
        raise
    if message is not None:
        commit(store, message)
    return store


class _Merge:
    """Merges the forks in which boxes were written, as they come back."""

    def __init__(self, session: Any, report: Report | None):
        self._session, self._report = session, report

    def __call__(self, stage: StageKey, box: int, value: Any) -> None:
        nbytes = value
        if isinstance(value, Written):
            nbytes = value.nbytes
            self._session.merge(value.session)
        if self._report is not None:
            self._report(stage, box, nbytes)

    def finish(self, template: Any) -> None:
        """Merge what was written before any box, where no box has brought it."""
        if not self._session.has_uncommitted_changes:
            self._session.merge(template)


def _prepare(bound: Rechunk, store: Store) -> None:
    """Write what stands before any chunk; no reader sees it before the commit."""
    if bound.site.overwrite:
        delete_prefix(store, "")
    # icechunk makes no groups by itself, and wants parents before children
    documents = {**bound.metadata.groups, **bound.metadata.arrays}
    for key in sorted(documents, key=lambda k: (k.count("/"), k)):
        put_key(store, key, documents[key])


@contextmanager
def _scratch(bound: Rechunk) -> Iterator[Workspace | None]:
    """Give scratch data a place outside of the repository, for as long as they are needed."""
    if not any(s.scratch is not None for c in bound.copies for s in c.plan.stages):
        yield None
        return
    folder = None
    place = bound.scratch
    if place is None:
        folder = tempfile.mkdtemp(prefix="xchunk-")
        place = LocalStore(Path(folder))
    workspace = Workspace(place, "" if folder else bound.header.digest[:16])
    try:
        if workspace.read_marker() is None:
            workspace.create(target=bound.plan.target)
        yield workspace
    finally:
        with suppress(Exception):
            workspace.leave()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _chain(
    bound: Rechunk, copy: Any, workspace: Workspace | None, store: Store, *, forked: bool
) -> Chain:
    place = workspace or Workspace(store)
    chain = bound._chain(copy, place, Journal(store), ())  # noqa: SLF001 - the same class
    stages = [replace(s, marks=None) for s in chain.stages]
    stages[-1] = replace(stages[-1], forked=forked)
    first = stages[0].source
    if isinstance(first, SplicedRef):
        # the session itself does not travel, but a fork of it does
        old = ZarrRef(store, first.old.path, first.old.zarr_format)
        stages[0] = replace(stages[0], source=replace(first, old=old))
    scratches = [s.target for s in stages[:-1] if s.target is not None]

    def clean() -> None:
        for scratch in scratches:
            place.remove_scratch(scratch)

    return replace(chain, stages=tuple(stages), after=clean if scratches else None)
