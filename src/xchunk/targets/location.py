"""The place of a target: refused, taken, abandoned, published as a whole.

A store that replaces another one is made beside it, and verified and opened there. So the old one
stays until the new one is proved.

* On a local disk (`Beside`) a folder beside the target, ``.<name>.xchunk``, carries our marker and
  holds the new store while it is made, and the old one for as long as it takes to rename the new.
* Where nothing can be renamed (`Inside`), the new store is made below ``.xchunk/new`` in the old
  one, whoever that belongs to: there is no need to know or to reach what lies beside it. Then the
  marker says that it is put in place; the metadata of the old store are deleted, so that nobody
  opens it any more, and its chunks; the chunks of the new one are copied, and its metadata, the
  root's last.

So it can be told at any instant what is whose, and a process that is killed leaves nothing that
the next one, or ``xchunk clean``, could not finish.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.errors import EncodingError, SourceError, TargetExistsError
from xchunk.stores.adapter import ask_ahead, delete_keys, delete_prefix, holds_any, list_prefix
from xchunk.stores.icechunk import is_session
from xchunk.stores.parts import is_document, part_of, put_in_place
from xchunk.stores.stores import ROOT_KEYS, describe, is_empty, is_zarr, local_path
from xchunk.targets.fsync import flush
from xchunk.targets.journal import HEADER, Header, committed_digest
from xchunk.targets.ownership import delete_owned, holder_of, owned_keys
from xchunk.targets.scratch import MARKER, NEW, PREFIX, Workspace


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

    @property
    def home(self) -> Store:
        """The store that holds marker and lease."""
        return LocalStore(self.folder)

    def make(self) -> Store:
        """Make the folder; return the store that holds marker and lease.

        - raises `TargetExistsError` if something that is not ours lies there.
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
        return self.home

    def open_new(self) -> Store:
        """Return the new store, which need not be there yet."""
        return LocalStore(self.new)

    def remove_new(self) -> None:
        """Delete the new store: its journal first, which tells of it."""
        if self.has_new:
            Workspace(self.open_new()).remove()
            shutil.rmtree(self.new)

    def begin(self) -> None:
        """Say that a new store is made: nothing is done, the folder says it."""

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


@dataclass(frozen=True)
class Inside:
    """The place within a store where nothing can be renamed."""

    store: Store
    """The target."""

    @property
    def is_ours(self) -> bool:
        """Whether the store carries our marker."""
        return Workspace(self.store).read_marker() is not None

    @property
    def has_new(self) -> bool:
        """Whether a new store is there, complete or not."""
        return self.is_ours and holds_any(self.store, NEW)

    @property
    def is_interrupted(self) -> bool:
        """Whether a run was stopped while it put the new store in place."""
        marker = Workspace(self.store).read_marker()
        return _is_put(marker) and (bool(marker.get("clearing")) or not is_zarr(self.store))

    @property
    def home(self) -> Store:
        """The store that holds marker and lease."""
        return self.store

    def make(self) -> Store:
        """Return the store that holds marker and lease."""
        return self.store

    def open_new(self) -> Store:
        """Return the new store, which need not be there yet."""
        return part_of(self.store, NEW)

    def remove_new(self) -> None:
        """Delete the new store."""
        Workspace(self.store).remove_new()

    def begin(self) -> None:
        """Say that a new store is made, and that none has been put in place."""
        marker = Workspace(self.store).read_marker() or {}
        Workspace(self.store).create(target=marker.get("target"))

    def publish(self) -> None:
        """Put the complete new store in the place of the old one."""
        self._note(clearing=True, committed=committed_digest(self.open_new()))
        self.repair()

    def repair(self) -> None:
        """Go on with what `publish` does, from where a run was stopped."""
        marker = Workspace(self.store).read_marker()
        if not _is_put(marker):
            return
        if self.is_interrupted:
            self._put(marker)
        self.remove_new()

    def _put(self, marker: Mapping[str, Any]) -> None:
        done = marker.get("done", 0)
        if marker.get("clearing"):
            self._clear()
            done = 0
            self._note(clearing=False, done=done)
        for copied in put_in_place(self.store, NEW, PREFIX, done):
            flush([self.store])
            if not is_zarr(self.store):
                self._note(done=copied)

    def _clear(self) -> None:
        """Delete the old store: first what makes it, and anything in it, openable."""
        # an attribute or the consolidated metadata alone would be missed by nobody
        delete_keys(self.store, _OPENERS)
        keys = [k for k in list_prefix(self.store, "") if not k.startswith(f"{PREFIX}/")]
        delete_keys(self.store, [k for k in keys if k.rpartition("/")[2] in _OPENERS])
        delete_keys(self.store, [k for k in keys if is_document(k)])
        for top in sorted({key.partition("/")[0] for key in keys if "/" in key}):
            delete_prefix(self.store, top)
        delete_keys(self.store, [k for k in keys if "/" not in k])

    def _note(self, **facts: Any) -> None:
        workspace = Workspace(self.store)
        workspace.create(**{**(workspace.read_marker() or {}), **facts})


def _is_put(marker: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a marker says that a complete new store is put in place, or was."""
    return marker is not None and "clearing" in marker


def _is_real(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


#: Keys of a store that are listed to see whether it holds anything but a lease and a marker.
FEW = 10

State = Literal["nothing", "unfinished", "committed", "complete", "foreign"]

#: Names that promise another format to those who find them.
_OTHERS = {".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".he5", ".grib", ".grib2", ".tif", ".tiff"}
#: Documents without which zarr opens no group or array.
_OPENERS = ("zarr.json", ".zgroup", ".zarray")


def is_named_otherwise(path: Path) -> bool:
    """Return whether a place where nothing is has a name that promises another format."""
    return not path.exists() and path.suffix.lower() in _OTHERS


def state_of(store: Store) -> State:
    """Report what is in a store.

    - returns: ``committed`` is a complete zarr store that still has our workspace, since the run
      that made it was killed while it cleaned up; ``complete`` is any other zarr store.
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

    A store that is to be replaced stays readable until the new one, made beside it or within it,
    is complete and proved.
    """

    store: Store
    """The target."""
    overwrite: bool = False
    """Whether an existing zarr store is replaced."""

    @property
    def beside(self) -> Beside | Inside | None:
        """The place for a store that replaces the target; None where commits do that."""
        if is_session(self.store):
            return None
        path = local_path(self.store)
        if path is None or path.is_mount():
            return Inside(self.store)
        path = path.resolve()
        if not path.name or (path.exists() and not os.access(path.parent, os.W_OK | os.X_OK)):
            return Inside(self.store)
        return Beside(path)

    @property
    def replacing(self) -> Beside | Inside | None:
        """The place for the new store, where this run replaces one."""
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
        if beside is None or (beside.is_interrupted and not beside.has_new):
            return self.store
        return beside.open_new()

    def expect(self) -> None:
        """Ask a far store beside each other what it is asked to know whether anything is there."""
        # a session knows nothing but keys of zarr's, and answers from memory
        if not is_session(self.store):
            ask_ahead(self.store, [MARKER, *ROOT_KEYS], folders=[""])

    def check(self) -> None:
        """Refuse an existing target, or that is not ours to write to; write nothing.

        - raises `TargetExistsError` if there is a store and ``overwrite`` was not asked for, or if
          what is there is no zarr store.
        - raises `SourceError` if the place cannot be written to.
        """
        path = local_path(self.store)
        if path is not None:
            self._check_path(path)
        self.expect()
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
        # a run that began just now has written its marker before all else
        if state == "foreign" and state_of(self.store) == "foreign":
            raise TargetExistsError(
                f"{describe(self.store)} is there and is no zarr store, so it is not replaced. "
                "Nothing was written. Give another target, or move it away."
            )
        beside, place = self.beside, describe(self.store)
        if beside is not None and beside.is_interrupted and not self.overwrite:
            raise TargetExistsError(
                f"an earlier run was stopped while it put a new store in the place of {place}. "
                f"Nothing was written. 'xchunk clean {place} --delete' puts it there."
            )

    def exists(self) -> TargetExistsError:
        """Return the error for an existing store and is not to be replaced."""
        return TargetExistsError(
            f"{describe(self.store)} is a zarr store already. Nothing was written. "
            "Give another target, or overwrite=True (--overwrite) to replace it. Whether it holds "
            "the same data already, ds.chunking.verify (xchunk verify) tells."
        )

    def _check_path(self, path: Path) -> None:
        if is_named_otherwise(path):
            raise EncodingError(
                f"{path} is named like a file of another format, and xchunk writes zarr stores, "
                f"which are folders. Nothing was written. Name it {path.with_suffix('.zarr')}."
            )
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
        """Say before it starts what will happen to an existing store."""
        if not self.overwrite or state_of(self.store) not in ("complete", "committed"):
            return []
        if self.beside is None:
            return []
        said = f"{describe(self.store)} is replaced when the new store is complete"
        if isinstance(self.beside, Inside):
            said += (
                ", object by object, since nothing can be renamed there: nobody can open either "
                "of them meanwhile"
            )
        return [said]

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

        - ``digest``: what this run would commit, by which a complete target of an earlier one is
          known.
        - returns: the store to work in, and whether it is complete already.
        - raises `TargetExistsError` if a complete store of another run is there, and is not to be
          replaced.
        """
        ask_ahead(self.store, [MARKER, *ROOT_KEYS, HEADER], few=FEW)
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
        if beside is not None:
            beside.begin()
            return beside.open_new(), False
        if is_zarr(self.store):
            raise self.exists()
        return self.store, False

    def discard(self, store: Store, header: Header) -> None:
        """Delete an unfinished target: its notes first, then what is ours of its data."""
        Workspace(store).clear()
        arrays = list(header.arrays)
        delete_owned(store, owned_keys(store, arrays, header.groups), arrays)

    def publish(self, store: Store) -> Store:
        """Put a complete store in the place of the one that it replaces."""
        beside = self.beside
        if beside is not None and store is not self.store:
            beside.publish()
        return self.store

    def leave(self, home: Store, lease: str = "") -> None:
        """Take the marks of this run away, its lease with them, and the folder beside."""
        if home is not self.store:
            Workspace(home).remove(lease)
            _remove_empty(home)
        # whoever holds the lease has seen the marker, or written it
        Workspace(self.store).remove(lease, ours=home is self.store)

    def abandon(self, home: Store, header: Header, lease: str = "", *, existed: bool) -> None:
        """Delete what was made since `occupy`, before any box was written."""
        store = self.working
        if not is_zarr(store):
            self.discard(store, header)
        for place in (store, home):
            Workspace(place).remove(lease)
            if not (existed and place is self.store):
                _remove_empty(place)


def _remove_empty(store: Store) -> None:
    path = local_path(store)
    if path is not None:
        with suppress(OSError):
            path.rmdir()
