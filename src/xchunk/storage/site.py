"""The place where a target is made: refused, taken, abandoned or published as a whole."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.errors import SourceError, TargetExistsError
from xchunk.storage.beside import Beside
from xchunk.storage.journal import Header, committed_digest
from xchunk.storage.lease import holder_of
from xchunk.storage.owned import delete_owned, owned_keys
from xchunk.storage.stores import describe, is_empty, is_zarr, local_path
from xchunk.storage.workspace import PREFIX, Workspace
from xchunk.storage.zarr_io import delete_keys, delete_prefix, list_prefix

__all__ = ["Site", "State", "state_of"]

State = Literal["nothing", "unfinished", "committed", "complete", "foreign"]

_ROOT_DOCUMENTS = ("zarr.json", ".zmetadata", ".zgroup", ".zarray", ".zattrs")


def state_of(store: Store) -> State:
    """Tell what is in a store.

    Returns
    -------
    {"nothing", "unfinished", "committed", "complete", "foreign"}
        ``committed`` is a complete zarr store that still has our workspace, since the run that
        made it was killed while it cleaned up; ``complete`` is any other zarr store.
    """
    marker = Workspace(store).read_marker()
    if marker is not None and (marker.get("clearing") or not is_zarr(store)):
        return "unfinished"
    if marker is not None:
        return "committed"
    if is_empty(store) or Workspace(store).is_bare:
        return "nothing"
    return "complete" if is_zarr(store) else "foreign"


@dataclass(frozen=True)
class Site:
    """A target's place.

    On a local file system, a store that is to be replaced stays readable until the new one,
    made beside it, is complete. Elsewhere it has to be deleted first.
    """

    store: Store
    """The target."""
    overwrite: bool = False
    """Whether a zarr store that is there is replaced."""

    @property
    def beside(self) -> Beside | None:
        """The place for a store that replaces a local one; None where there can be none."""
        path = local_path(self.store)
        if path is None or path.is_mount():
            return None
        path = path.resolve()
        if not path.name or (path.exists() and not os.access(path.parent, os.W_OK | os.X_OK)):
            return None
        return Beside(path)

    @property
    def replacing(self) -> Beside | None:
        """The place beside, where this run makes the new store there."""
        beside = self.beside
        if beside is None or not self.overwrite:
            return None
        if beside.is_interrupted or beside.has_new:
            return beside
        return beside if state_of(self.store) in ("complete", "committed") else None

    @property
    def working(self) -> Store:
        """The store in which the target is made."""
        beside = self.replacing
        if beside is None or beside.is_interrupted:
            return self.store
        return LocalStore(beside.new)

    def check(self) -> None:
        """Refuse a target that is there, or that is not ours to write to; write nothing.

        Raises
        ------
        TargetExistsError
            If there is a store and ``overwrite`` was not asked for, or if what is there is
            no zarr store.
        SourceError
            If the place cannot be written to.
        """
        path = local_path(self.store)
        if path is not None:
            self._check_path(path)
        if self.store.read_only or not (self.store.supports_writes and self.store.supports_listing):
            raise SourceError(
                f"{describe(self.store)} cannot be written to, or cannot list what it holds. "
                "Nothing was written. Give another target."
            )
        if not self.store.supports_deletes:
            raise SourceError(
                f"{describe(self.store)} cannot delete what is temporary. Nothing was written. "
                "Give a target on a disk or an object store, and copy it from there."
            )
        state = state_of(self.store)
        if state == "complete" and not self.overwrite:
            raise self.exists()
        if state == "foreign":
            raise TargetExistsError(
                f"{describe(self.store)} is there and is no zarr store, so it is not replaced. "
                "Nothing was written. Give another target, or move it away."
            )
        beside = self.beside
        if beside is not None and beside.is_interrupted and not self.overwrite:
            raise TargetExistsError(
                f"an earlier run was stopped while it put a new store in the place of {path}. "
                f"Nothing was written. 'xchunk clean {path} --delete' puts it there."
            )

    def exists(self) -> TargetExistsError:
        """Return the error for a store that is there and is not to be replaced."""
        return TargetExistsError(
            f"{describe(self.store)} is a zarr store already. Nothing was written. "
            "Give another target, or overwrite=True (--overwrite) to replace it."
        )

    def _check_path(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise TargetExistsError(
                f"{path} is a file. Nothing was written. Give the name of a new folder."
            )
        parent = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise SourceError(
                f"{path} cannot be made: {parent} cannot be written to. Give another target."
            )

    def notes(self) -> list[str]:
        """Say before it starts what will happen to a store that is there."""
        if not self.overwrite or state_of(self.store) not in ("complete", "committed"):
            return []
        if self.beside is not None:
            return [f"{describe(self.store)} is replaced when the new store is complete"]
        return [f"{describe(self.store)} is deleted before the new store is made"]

    def occupy(self) -> Store:
        """Mark the place as ours; return the store that holds marker and lease."""
        self.check()
        beside = self.replacing
        if beside is None:
            home = self.store
        else:
            if holder := holder_of(self.store):
                raise TargetExistsError(
                    f"{describe(self.store)} is being written by {holder}. Nothing was written. "
                    "Wait until it is done, or stop it."
                )
            home = beside.make()
        workspace = Workspace(home)
        if workspace.read_marker() is None:
            workspace.create(target=describe(self.store))
        return home

    def settle(self, digest: str) -> tuple[Store, bool]:
        """Finish what an earlier run left half done; the lease has to be held.

        Parameters
        ----------
        digest : str
            What this run would commit, by which a complete target of an earlier one is known.

        Returns
        -------
        tuple
            The store to work in, and whether it is complete already.

        Raises
        ------
        TargetExistsError
            If a complete store of another run is there, and is not to be replaced.
        """
        beside = self.replacing
        if beside is not None:
            beside.repair()
            if beside.has_new:
                new = beside.open_new()
                if not is_zarr(new):
                    return new, False
                if committed_digest(new) == digest:
                    return new, True
                beside.remove_new()
            if committed_digest(self.store) == digest:
                return self.store, True
            return beside.open_new(), False
        if committed_digest(self.store) == digest:
            return self.store, True
        marker = Workspace(self.store).read_marker() or {}
        if is_zarr(self.store) and not marker.get("clearing"):
            if not self.overwrite:
                raise self.exists()
            # from here on it has to be known that what is left of the old store may go
            Workspace(self.store).create(**{**marker, "clearing": True})
        if is_zarr(self.store) or marker.get("clearing"):
            self._clear(marker)
        return self.store, False

    def _clear(self, marker: dict[str, object]) -> None:
        delete_keys(self.store, _ROOT_DOCUMENTS)
        tops = {key.partition("/")[0] for key in list_prefix(self.store, "")}
        for top in sorted(tops - {PREFIX}):
            keys = list_prefix(self.store, f"{top}/")
            delete_prefix(self.store, top) if keys else delete_keys(self.store, [top])
        Workspace(self.store).create(**{**marker, "clearing": False, "committed": None})

    def discard(self, store: Store, header: Header) -> None:
        """Delete an unfinished target: its notes first, then what is ours of its data."""
        Workspace(store).clear()
        arrays = list(header.arrays)
        delete_owned(store, owned_keys(store, arrays, header.groups), arrays)

    def publish(self, store: Store) -> Store:
        """Put a complete store in the place of the one that it replaces."""
        beside = self.beside
        if beside is not None and beside.is_ours and local_path(store) == beside.new:
            beside.publish()
        return self.store

    def leave(self, home: Store) -> None:
        """Take the marks of this run away, and the folder beside."""
        if home is not self.store:
            Workspace(home).remove()
            _remove_empty(home)
        Workspace(self.store).remove()

    def abandon(self, home: Store, header: Header, *, existed: bool) -> None:
        """Delete what was made since `occupy`, before any box was written."""
        beside = self.replacing
        store = self.store if home is self.store or beside is None else beside.open_new()
        if not is_zarr(store):
            self.discard(store, header)
        for place in (store, home):
            Workspace(place).remove()
            if not (existed and place is self.store):
                _remove_empty(place)


def _remove_empty(store: Store) -> None:
    path = local_path(store)
    if path is not None:
        with suppress(OSError):
            path.rmdir()
