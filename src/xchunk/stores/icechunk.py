"""Icechunk's sessions as stores: told apart, forked for workers, merged, and committed once.

A session is a transaction: no reader sees what is written before the commit, and nothing is left
of it if there is none. So marker, lease and journal are not needed, and do not go into it.
icechunk itself is imported only where a session was given, by whoever gave it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store

from xchunk.errors import SourceError, StageFailedError, TargetExistsError
from xchunk.sources.refs import ZarrRef
from xchunk.stores.adapter import list_prefix
from xchunk.stores.overlay import Unpublished


@dataclass(frozen=True)
class Written:
    """What a task returns that wrote a box in a fork of its own."""

    nbytes: int
    """Bytes of the box."""
    session: Any
    """The fork, which has to be merged."""


def is_session(where: Any) -> bool:
    """Return whether something is the store of an icechunk session."""
    return type(where).__module__.partition(".")[0] == "icechunk" and isinstance(where, Store)


def store_of(where: Any) -> Any:
    """Return the store of an icechunk session; anything else as it is."""
    is_icechunk = type(where).__module__.partition(".")[0] == "icechunk"
    if not is_icechunk or isinstance(where, Store):
        return where
    store = getattr(where, "store", None)
    if isinstance(store, Store):
        return store
    raise SourceError(
        f"an icechunk {type(where).__name__} is no store. Give a session of it: "
        "repo.writable_session('main'), or repo.readonly_session('main') to read."
    )


def session_of(store: Store) -> Any:
    """Return the session of a store, or of the one below what shows more than it holds."""
    below = store.base if isinstance(store, Unpublished) else store
    return below.session  # type: ignore[attr-defined]


def name_of(store: Store) -> str:
    """Name a session's store, without where the repository is."""
    session = session_of(store)
    branch = getattr(session, "branch", None)
    if branch is not None:
        return f"branch {branch!r} of an icechunk repository"
    return f"snapshot {session.snapshot_id} of an icechunk repository"


def refuse_unready(store: Store) -> None:
    """Refuse a session that cannot be committed, or that holds changes of somebody else.

    - raises `SourceError` if it is read-only.
    - raises `TargetExistsError` if it has changes that are not committed.
    """
    session = session_of(store)
    if session.read_only or getattr(session, "branch", None) is None:
        raise SourceError(
            f"{name_of(store)} is read-only. Nothing was written. Give a session that can be "
            "committed: repo.writable_session('main')."
        )
    if session.has_uncommitted_changes:
        raise TargetExistsError(
            f"the session on {name_of(store)} has changes that are not committed, and would be "
            "committed together with what xchunk writes. Nothing was written. Commit them, or "
            "session.discard_changes(), and give a new session."
        )


def fork(store: Store, prepare: Callable[[Store], None], *, replacing: bool) -> Any:
    """Return a fork of a session that travels to workers, with what is written before any chunk.

    ``prepare`` writes that to a store; ``replacing`` says that it deletes what was there.
    """
    session = session_of(store)
    prepare(store)
    try:
        return session.fork()
    except ValueError:
        # before version 2 only sessions without changes could be forked
        session.discard_changes()
    if replacing:
        raise TargetExistsError(
            f"what is in {name_of(store)} cannot be replaced on a cluster with this version of "
            "icechunk. Nothing was written. Use icechunk 2 or later, run it without a cluster, or "
            "commit the deletion first."
        )
    made = session.fork()
    prepare(made.store)
    return made


def readable(store: Store) -> Store:
    """Return a store that travels to workers, and shows what is not committed yet.

    - raises `StageFailedError` if this icechunk has none.
    """
    try:
        return session_of(store).fork().store  # type: ignore[no-any-return]
    except ValueError as error:
        raise StageFailedError(
            "before version 2, icechunk lets no worker read what is not committed. Use icechunk 2 "
            "or later, run it without a cluster, or without verify."
        ) from error


def own_fork(ref: ZarrRef) -> ZarrRef:
    """Return the same array in a fork that nobody else writes to."""
    return ZarrRef(pickle.loads(pickle.dumps(ref.store)), ref.path, ref.zarr_format)  # noqa: S301


def refuse_blind_forks(client: Any, store: Store) -> None:
    """Refuse a repository that the workers of a cluster cannot read.

    - raises `SourceError` if a worker does not find it.
    """
    answers = client.run(_look, store, on_error="return")
    blind = [str(worker) for worker, seen in answers.items() if seen is not True]
    if blind:
        raise SourceError(
            f"{len(blind)} of {len(answers)} workers ({', '.join(blind[:3])}) cannot reach the "
            "icechunk repository (one in memory is another one in each process). Nothing was "
            "written. Give one on a shared file system or an object store, or run without a "
            "cluster."
        )


def _look(store: Store) -> bool:
    list_prefix(store, "", limit=1)
    return True


def commit(store: Store, message: str) -> str:
    """Commit a session; return the id of the snapshot.

    - raises `TargetExistsError` if somebody else has committed to the branch meanwhile.
    - raises `StageFailedError` if it fails otherwise.
    """
    session = session_of(store)
    where = name_of(store)
    try:
        return str(session.commit(message))
    except Exception as error:
        if any(kind.__name__ == "ConflictError" for kind in type(error).__mro__):
            raise TargetExistsError(
                f"{where} has got another commit since the session was opened, so that this one "
                "was refused. No reader sees any of it. Open a new session and call again; or, "
                "if the other commit touched other arrays, keep what is written: "
                "session.rebase(icechunk.ConflictDetector()), then session.commit(message)."
            ) from error
        raise StageFailedError(
            f"the commit to {where} failed: {type(error).__name__}: {error}. No reader sees any "
            "of it. Open a new session and call again."
        ) from error
