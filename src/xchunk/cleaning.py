"""Deleting what runs that were stopped have left, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore

from xchunk.core.units import format_count
from xchunk.errors import ResumeMismatchError, TargetExistsError
from xchunk.storage.beside import Beside
from xchunk.storage.extending import Extending, beyond, take_back
from xchunk.storage.journal import Journal
from xchunk.storage.lease import holder_of
from xchunk.storage.owned import delete_owned, owned_below, owned_keys
from xchunk.storage.site import Site, state_of
from xchunk.storage.stores import describe, is_zarr, local_path, open_store
from xchunk.storage.workspace import PREFIX, Workspace

__all__ = ["Cleaning", "clean_target"]

_NEW, _OLD = "the new store", "the old store"


@dataclass(frozen=True)
class Cleaning:
    """What was deleted, or would be."""

    target: str
    """The target, in words."""
    found: str
    """What is there, in words."""
    keys: tuple[str, ...] = ()
    """Objects that are ours: keys of the target's store, or paths beside it."""
    repaired: str = ""
    """What is put in its place instead of being deleted, in words."""
    dry_run: bool = True
    """Whether nothing was done."""

    def __str__(self) -> str:
        idle = "" if self.keys or self.repaired else "; there is nothing to delete"
        lines = [f"{self.target}: {self.found}{idle}"]
        would = "would be " if self.dry_run else ""
        if self.repaired:
            lines.append(f"{self.repaired} {would}put in its place")
        if self.keys:
            lines.append(f"{format_count(len(self.keys))} objects {would}deleted:")
            lines += [f"  {key}" for key in self.keys]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the cleaning as JSON types."""
        return {
            "target": self.target,
            "found": self.found,
            "keys": list(self.keys),
            "repaired": self.repaired,
            "dry_run": self.dry_run,
        }


def clean_target(
    target: Any, *, dry_run: bool, storage_options: Mapping[str, Any] | None = None
) -> Cleaning:
    """Delete what a rechunk that was stopped has left; see `xchunk.clean`."""
    site = Site(open_store(target, storage_options=storage_options))
    beside = site.beside if site.beside is not None and site.beside.is_ours else None
    places = [site.store]
    if beside is not None:
        places = [beside.open_new(), LocalStore(beside.folder), site.store]
    places = [p for p in places if Workspace(p).read_marker() is not None]
    _refuse_living(site.store, places)
    found, repaired = _words(site, beside), _repaired(beside)
    ours = [(place, _ours(place, beside, keep=bool(repaired))) for place in places]
    keys = [_named(site.store, place, key) for place, keys in ours for key in keys]
    if beside is not None and beside.old.is_dir() and repaired != _OLD:
        keys.append(str(beside.old))
    if not dry_run:
        for place, own in ours:
            arrays = _arrays(place)
            take_back(place)
            delete_owned(place, [k for k in own if not k.startswith(f"{PREFIX}/")], arrays)
            if beside is not None and local_path(place) == beside.folder:
                beside.repair()
                Workspace(site.store).remove()
            Workspace(place).remove()
            _remove_empty(place)
    return Cleaning(describe(site.store), found, tuple(sorted(keys)), repaired, dry_run)


def _refuse_living(target: Store, places: list[Store]) -> None:
    for place in places:
        if holder := holder_of(place):
            raise TargetExistsError(
                f"{describe(target)} is being written by {holder}. Nothing was deleted. Stop it "
                "first."
            )


def _repaired(beside: Beside | None) -> str:
    """Tell which store is put in the target's place, where a run was stopped while renaming."""
    if beside is None or not beside.is_interrupted:
        return ""
    return _NEW if beside.has_new and is_zarr(beside.open_new()) else _OLD


def _ours(place: Store, beside: Beside | None, *, keep: bool) -> list[str]:
    """List what is ours in a store that carries our marker."""
    marker = Workspace(place).read_marker() or {}
    if marker.get("clearing"):
        # an old store that was to be replaced, and is deleted in part already
        return owned_below(place, "")
    keys = owned_below(place, PREFIX)
    if marker.get("extending"):
        return sorted({*keys, *beyond(place)})
    is_new = beside is not None and local_path(place) == beside.new
    if state_of(place) == "unfinished" or (is_new and not keep):
        # what belongs to a run whose journal is damaged cannot be told, so that it stays
        with suppress(ResumeMismatchError):
            header = Journal(place).read()
            if header is not None:
                keys += owned_keys(place, list(header.arrays), header.groups)
    return sorted(set(keys))


def _arrays(place: Store) -> list[str]:
    with suppress(ResumeMismatchError):
        header = Journal(place).read()
        return [] if header is None else list(header.arrays)
    return []


def _named(target: Store, place: Store, key: str) -> str:
    if place is target:
        return key
    return str(local_path(place)) + "/" + key


def _remove_empty(place: Store) -> None:
    path = local_path(place)
    if path is not None and path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def _words(site: Site, beside: Beside | None) -> str:
    words = {
        "nothing": "nothing is there",
        "unfinished": "an unfinished target",
        "committed": "a complete store, with scratch data left in it",
        "complete": "a complete store",
        "foreign": "nothing of xchunk's",
    }[state_of(site.store)]
    record = Extending.read(site.store)
    if record is not None and not record.grows:
        return (
            "a store of which a region was being written, in place: it may hold old and new "
            "values side by side, until the same call has finished it"
        )
    if record is not None:
        return "a store to which something was being written; it holds what it held before"
    if state_of(site.store) == "unfinished" and _is_damaged(site.store):
        return (
            f"{words}, whose journal is damaged: only its scratch data are known to be ours; "
            "delete the rest yourself"
        )
    if beside is not None and beside.is_interrupted:
        return "a store that was about to be replaced"
    return words if beside is None else f"{words}, and beside it what was to replace it"


def _is_damaged(store: Store) -> bool:
    try:
        Journal(store).read()
    except ResumeMismatchError:
        return True
    return False
