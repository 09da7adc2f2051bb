"""Deleting what runs that were stopped have left, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from xchunk.core.shown import Shown
from xchunk.errors import ResumeMismatchError, TargetExistsError
from xchunk.stores.stores import describe, is_zarr, local_path, open_store
from xchunk.targets.append.existing import Extending, beyond, half_written, take_back
from xchunk.targets.journal import Header, Journal
from xchunk.targets.location import Beside, Inside, Site, state_of
from xchunk.targets.ownership import delete_owned, holder_of, lease, owned_below, owned_keys
from xchunk.targets.scratch import NEW, PREFIX, Workspace

_NEW, _OLD = "the new store", "the old store"


@dataclass(frozen=True, repr=False)
class Cleaning(Shown, view="cleaning"):
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
    nbytes: int | None = None
    """Bytes of these objects; None: they are not on a local disk."""
    mixed: bool = False
    """Whether a region of the target is half written: it holds old and new values."""

    @property
    def folders(self) -> dict[str, int]:
        """Objects in each folder of the target's store, or in those beside it."""
        counts: dict[str, int] = {}
        for key in self.keys:
            inner = not key.startswith("/")
            folder = key.partition("/")[0] if inner else key.rpartition("/")[0]
            counts[folder] = counts.get(folder, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Return the cleaning as JSON types."""
        return {
            "target": self.target,
            "found": self.found,
            "keys": list(self.keys),
            "repaired": self.repaired,
            "dry_run": self.dry_run,
            "nbytes": self.nbytes,
            "mixed": self.mixed,
        }


def clean(
    target: Any,
    dry_run: bool = True,
    *,
    mixed: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Cleaning:
    """Delete what a rechunk that was stopped has left at its target.

    Only what carries our marker is looked at. Of an unfinished target the chunks and metadata
    of its arrays are deleted, and the scratch data; other files are left alone. A
    complete store stays as well, but for scratch data that were left in it. Where a run was
    stopped while it put the new store in the place of the old one, that is finished.

    A store of which a region is half written holds old and new values side by side, which only
    our mark tells. The call that wrote it finishes it; the mark is not deleted unless ``mixed``
    says so.

    Parameters
    ----------
    target : str, path or zarr store
        What was given as ``store``.
    dry_run : bool
        Whether it is only told what would be deleted.
    mixed : bool
        Whether the mark of a region that is half written is deleted too. Nothing tells then that
        the store holds old and new values.
    storage_options : mapping, optional
        What fsspec needs to reach a URL.

    Returns
    -------
    Cleaning
        What was deleted, or would be.

    Raises
    ------
    TargetExistsError
        If a run that is alive is writing the target, or a region of it is half written.

    Examples
    --------
    >>> xchunk.clean("series.zarr")  # doctest: +SKIP
    >>> xchunk.clean("series.zarr", dry_run=False)  # doctest: +SKIP
    """
    site = Site(open_store(target, storage_options=storage_options))
    beside = site.beside if site.beside is not None and site.beside.is_ours else None
    home = site.store if beside is None else beside.home
    places = [site.store]
    if isinstance(beside, Beside):
        places = [beside.open_new(), home, site.store]
    places = [p for p in places if Workspace(p).read_marker() is not None]
    _refuse_living(site.store, places)
    found, repaired = _words(site, beside), _repaired(beside)
    ours = [(place, _ours(place, beside, keep=bool(repaired))) for place in places]
    keys = [_named(site.store, place, key) for place, keys in ours for key in keys]
    if isinstance(beside, Beside) and beside.old.is_dir() and repaired != _OLD:
        keys.append(str(beside.old))
    nbytes = _nbytes(site.store, keys)
    is_mixed = half_written(site.store)
    if not dry_run:
        if is_mixed and not mixed:
            raise TargetExistsError(
                f"{describe(site.store)} holds old and new values side by side: a region of it is "
                "half written. Nothing was deleted. The call that wrote the region finishes it. "
                "mixed=True (--mixed) deletes the mark that tells of it, and leaves the values."
            )
        _delete(site, beside, ours, home)
    listed = tuple(sorted(keys))
    return Cleaning(describe(site.store), found, listed, repaired, dry_run, nbytes, is_mixed)


def _delete(
    site: Site, beside: Beside | Inside | None, ours: list[tuple[Store, list[str]]], home: Store
) -> None:
    with ExitStack() as stack:
        # a run that begins meanwhile is refused, and not robbed of its lease and its data
        leases = {id(p): stack.enter_context(lease(p)) for p, _ in ours if p in (home, site.store)}
        for place, own in ours:
            header = _header(place)
            take_back(place)
            arrays = {} if header is None else header.arrays
            for facts in arrays.values():
                # a run that goes on must not trust notes of what is deleted
                Journal(place).forget(facts)
            delete_owned(place, [k for k in own if not k.startswith(f"{PREFIX}/")], list(arrays))
            if beside is not None and place is home:
                beside.repair()
                Workspace(site.store).remove()
            Workspace(place).remove(leases[id(place)].key if id(place) in leases else "")
            _remove_empty(place)


def _nbytes(target: Store, keys: list[str]) -> int | None:
    """Sum the bytes of objects on a local disk."""
    root = local_path(target)
    if root is None:
        return None
    paths = [path for key in keys for path in _files(root / key)]
    return sum(path.stat().st_size for path in paths)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (p for p in path.rglob("*") if p.is_file())
    elif path.is_file():
        yield path


def _refuse_living(target: Store, places: list[Store]) -> None:
    for place in places:
        if holder := holder_of(place):
            raise TargetExistsError(
                f"{describe(target)} is being written by {holder}. Nothing was deleted. Stop it "
                "first."
            )


def _repaired(beside: Beside | Inside | None) -> str:
    """Report which store is put in the target's place, where a run was stopped while renaming."""
    if beside is None or not beside.is_interrupted:
        return ""
    return _NEW if beside.has_new and is_zarr(beside.open_new()) else _OLD


def _ours(place: Store, beside: Beside | Inside | None, *, keep: bool) -> list[str]:
    """List what is ours in a store that carries our marker."""
    keys = owned_below(place, PREFIX)
    if keep:
        keys = [k for k in keys if not k.startswith(f"{NEW}/") or k.startswith(f"{NEW}/{PREFIX}/")]
    if (Workspace(place).read_marker() or {}).get("extending"):
        return sorted({*keys, *beyond(place)})
    is_new = isinstance(beside, Beside) and local_path(place) == beside.new
    if state_of(place) == "unfinished" or (is_new and not keep):
        # what belongs to a run whose journal is damaged cannot be told, so that it stays
        header = _header(place)
        if header is not None:
            keys += owned_keys(place, list(header.arrays), header.groups)
    return sorted(set(keys))


def _header(place: Store) -> Header | None:
    with suppress(ResumeMismatchError):
        return Journal(place).read()
    return None


def _named(target: Store, place: Store, key: str) -> str:
    if place is target:
        return key
    return str(local_path(place)) + "/" + key


def _remove_empty(place: Store) -> None:
    path = local_path(place)
    if path is not None and path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def _words(site: Site, beside: Beside | Inside | None) -> str:
    words = {
        "nothing": "nothing is there",
        "unfinished": "an unfinished target",
        "committed": "a complete store, with scratch data left in it",
        "complete": "a complete store",
        "foreign": "nothing of xchunk's",
    }[state_of(site.store)]
    record = Extending.read(site.store)
    if half_written(site.store):
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
    replaced = beside is not None and beside.has_new
    return f"{words}, and beside it what was to replace it" if replaced else words


def _is_damaged(store: Store) -> bool:
    try:
        Journal(store).read()
    except ResumeMismatchError:
        return True
    return False
