"""The place where a target is made: refused, taken, abandoned or published as a whole."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.errors import SourceError, TargetExistsError
from xchunk.storage.stores import describe, is_empty, is_zarr, local_path
from xchunk.storage.workspace import Workspace
from xchunk.storage.zarr_io import delete_prefix

__all__ = ["Site"]


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
        if is_empty(self.store):
            return
        if is_zarr(self.store):
            if not self.overwrite:
                raise TargetExistsError(
                    f"{describe(self.store)} is a zarr store already. Nothing was written. "
                    "Give another target, or overwrite=True (--overwrite) to replace it."
                )
        elif Workspace(self.store).read_marker() is None:
            raise TargetExistsError(
                f"{describe(self.store)} is there and is no zarr store, so it is not replaced. "
                "Nothing was written. Give another target, or move it away."
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
        if not self.overwrite or is_empty(self.store) or not is_zarr(self.store):
            return []
        if local_path(self.store) is not None:
            return [f"{describe(self.store)} is replaced when the new store is complete"]
        return [f"{describe(self.store)} is deleted before the new store is made"]

    @property
    def _beside(self) -> Path | None:
        path = local_path(self.store)
        if path is None or not self.overwrite:
            return None
        return path.with_name(f".{path.name}.xchunk-new")

    def prepare(self) -> Store:
        """Return the empty store in which the target is made.

        What an earlier run of ours left unfinished is deleted; nothing else ever is, but a
        zarr store that is to be overwritten.
        """
        self.check()
        beside = self._beside
        if beside is not None and is_zarr(self.store):
            _remove_ours(beside)
            return LocalStore(beside)
        if not is_empty(self.store):
            delete_prefix(self.store, "")
        return self.store

    def abandon(self) -> None:
        """Delete what was made since `prepare`."""
        beside = self._beside
        if beside is not None and beside.exists():
            _remove_ours(beside)
        elif Workspace(self.store).read_marker() is not None:
            path = local_path(self.store)
            if path is None:
                delete_prefix(self.store, "")
            else:
                shutil.rmtree(path, ignore_errors=True)

    def publish(self) -> Store:
        """Put a complete store in the place of the one that it replaces."""
        beside, path = self._beside, local_path(self.store)
        if beside is None or path is None or not beside.exists():
            return self.store
        old = path.with_name(f".{path.name}.xchunk-old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        beside.rename(path)
        shutil.rmtree(old)
        return self.store


def _remove_ours(path: Path) -> None:
    if not path.exists():
        return
    store = LocalStore(path)
    if not is_empty(store) and Workspace(store).read_marker() is None:
        raise TargetExistsError(
            f"{path} is in the way, and xchunk did not make it. Nothing was written. Move it away."
        )
    shutil.rmtree(path)
