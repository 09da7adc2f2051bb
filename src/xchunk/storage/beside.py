"""Replacing a local store: the new one is made beside it, and renamed into its place.

A folder beside the target, ``.<name>.xchunk``, carries our marker and holds the new store
while it is made, and the old one for as long as it takes to rename the new one. So it can be
told at any instant what is whose, and a process that is killed between two renames leaves
nothing that the next one, or ``xchunk clean``, could not finish.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.errors import TargetExistsError
from xchunk.storage.stores import is_zarr
from xchunk.storage.workspace import Workspace

__all__ = ["Beside"]


@dataclass(frozen=True)
class Beside:
    """The folder beside a local target."""

    path: Path
    """The target; no symbolic link."""

    @property
    def folder(self) -> Path:
        """The folder, which carries our marker."""
        return self.path.with_name(f".{self.path.name}.xchunk")

    @property
    def new(self) -> Path:
        """Where the new store is made."""
        return self.folder / "new"

    @property
    def old(self) -> Path:
        """Where the old store is while the new one is renamed."""
        return self.folder / "old"

    @property
    def is_ours(self) -> bool:
        """Whether the folder is there and carries our marker."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return False
        return Workspace(LocalStore(self.folder)).read_marker() is not None

    @property
    def has_new(self) -> bool:
        """Whether a new store is there, complete or not."""
        return self.is_ours and _is_real(self.new)

    @property
    def is_interrupted(self) -> bool:
        """Whether a run was stopped between the two renames: nothing is in the target's place."""
        return self.is_ours and _is_real(self.old) and not self.path.exists()

    def make(self) -> Store:
        """Make the folder.

        Raises
        ------
        TargetExistsError
            If something that is not ours lies there.
        """
        if not self.is_ours:
            try:
                self.folder.mkdir()
            except FileExistsError:
                if self.folder.is_symlink() or not Workspace(LocalStore(self.folder)).is_bare:
                    raise TargetExistsError(
                        f"{self.folder} is in the way, and xchunk did not make it. Nothing was "
                        "written. Move it away."
                    ) from None
        return LocalStore(self.folder)

    def open_new(self) -> Store:
        """Return the new store, which need not be there yet."""
        return LocalStore(self.new)

    def remove_new(self) -> None:
        """Delete the new store."""
        if self.has_new:
            shutil.rmtree(self.new)

    def publish(self) -> None:
        """Rename the complete new store into the target's place, and delete the old one."""
        if self.path.exists():
            self.path.rename(self.old)
        self._rename_new()
        self._remove_old()

    def _rename_new(self) -> None:
        self.new.rename(self.path)

    def repair(self) -> None:
        """Finish the renames of a run that was stopped between them."""
        if not self.is_ours or not _is_real(self.old):
            return
        if not self.path.exists():
            has_new = _is_real(self.new) and is_zarr(LocalStore(self.new))
            (self.new if has_new else self.old).rename(self.path)
        self._remove_old()

    def _remove_old(self) -> None:
        if _is_real(self.old):
            shutil.rmtree(self.old)


def _is_real(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
