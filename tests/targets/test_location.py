"""The place of a target: refused, taken, abandoned, published as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore, MemoryStore

from xchunk.errors import SourceError, TargetExistsError
from xchunk.stores.adapter import list_prefix, put_key
from xchunk.stores.parts import part_of
from xchunk.stores.stores import is_zarr
from xchunk.targets.journal import Header, Journal
from xchunk.targets.location import Beside, Site, state_of
from xchunk.targets.scratch import Workspace

HEADER = Header({"v": {"plan": {"stages": []}}}, ("zarr.json",), "d" * 64)


def a_zarr(path: Path, value: int = 1) -> Path:
    xr.Dataset({"v": ("x", np.full(4, value))}).to_zarr(path, mode="a")
    return path


def value_of(path: Path) -> int:
    with xr.open_zarr(path, chunks=None) as ds:
        return int(ds.v[0])


def marked(path: Path, **facts: object) -> LocalStore:
    store = LocalStore(path)
    Workspace(store).create(**facts)
    return store


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda p: None, "nothing"),
        (lambda p: p.mkdir(), "nothing"),
        (lambda p: (p / ".xchunk").mkdir(parents=True), "nothing"),
        (a_zarr, "complete"),
        (lambda p: (p.mkdir(), (p / "a.txt").write_text("mine")), "foreign"),
        (lambda p: ((p / ".xchunk").mkdir(parents=True), (p / ".xchunk/a").touch()), "foreign"),
        (marked, "unfinished"),
        (lambda p: (a_zarr(p), marked(p)), "committed"),
        (lambda p: (a_zarr(p), marked(p, clearing=True)), "unfinished"),
        (lambda p: (marked(p), (p / ".xchunk/marker.json").write_text("{}")), "foreign"),
    ],
    ids=[
        "absent", "empty", "empty folder of ours", "zarr", "file in it", "theirs in our folder",
        "marked", "marked zarr", "old one being cleared", "marker of somebody else",
    ],
)  # fmt: skip
def test_what_is_in_a_store(tmp_path: Path, make: Callable[[Path], object], state: str) -> None:
    make(tmp_path / "t")
    assert state_of(LocalStore(tmp_path / "t")) == state


@pytest.mark.filterwarnings("ignore:Object at .xchunk")  # what zarr says of our folder
def test_what_is_in_a_store_that_is_not_local() -> None:
    store = MemoryStore()
    assert state_of(store) == "nothing"
    Workspace(store).create()
    assert state_of(store) == "unfinished"
    xr.Dataset({"v": ("x", [1])}).to_zarr(store, mode="a")
    assert state_of(store) == "committed"
    Workspace(store).remove()
    assert state_of(store) == "complete"


def test_a_zarr_store_is_refused_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    store = LocalStore(a_zarr(tmp_path / "t.zarr"))
    with pytest.raises(TargetExistsError, match="overwrite=True"):
        Site(store).check()
    site = Site(store, overwrite=True)
    site.check()
    assert site.notes() == [f"{tmp_path / 't.zarr'} is replaced when the new store is complete"]
    assert Site(MemoryStore(), overwrite=True).notes() == []


def test_what_is_no_zarr_store_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(TargetExistsError, match="is no zarr store"):
            Site(LocalStore(tmp_path / "letters"), overwrite).check()
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetExistsError, match="is a file"):
        Site(LocalStore(tmp_path / "file"), overwrite=True).check()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="cannot be made"):
        Site(LocalStore(tmp_path / "file/t.zarr")).check()
    with pytest.raises(SourceError, match="cannot be written to"):
        Site(MemoryStore(read_only=True)).check()


@pytest.mark.filterwarnings("ignore:Object at .xchunk")  # what zarr says of our folder
def test_a_new_target_is_made_in_its_place(tmp_path: Path) -> None:
    site = Site(LocalStore(tmp_path / "t.zarr"))
    home = site.occupy()
    assert home is site.store is site.working
    assert state_of(site.store) == "unfinished"
    assert site.settle("digest") == (site.store, False)
    a_zarr(tmp_path / "t.zarr")
    assert site.publish(site.store) is site.store
    site.leave(home)
    assert state_of(site.store) == "complete"
    assert not (tmp_path / "t.zarr/.xchunk").exists()


def test_an_abandoned_target_leaves_nothing(tmp_path: Path) -> None:
    site = Site(LocalStore(tmp_path / "t.zarr"))
    home = site.occupy()
    put_key(site.store, "v/zarr.json", b"{}")
    site.abandon(home, HEADER, existed=False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_of_the_users_stays(tmp_path: Path) -> None:
    (tmp_path / "t.zarr").mkdir()
    site = Site(LocalStore(tmp_path / "t.zarr"))
    site.abandon(site.occupy(), HEADER, existed=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "t.zarr"]


def test_what_others_put_into_an_abandoned_target_stays(tmp_path: Path) -> None:
    site = Site(LocalStore(tmp_path / "t.zarr"))
    home = site.occupy()
    put_key(site.store, "v/c/0", b"data")
    put_key(site.store, "v/notes.txt", b"mine")
    site.abandon(home, HEADER, existed=False)
    assert list_prefix(site.store, "") == ["v/notes.txt"]


def test_the_old_store_is_readable_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = a_zarr(tmp_path / "t.zarr", 1)
    site = Site(LocalStore(path), overwrite=True)
    home = site.occupy()
    store, complete = site.settle("digest")
    assert not complete
    assert value_of(path) == 1
    new = Beside(path).new
    assert LocalStore(new) == store == site.working
    a_zarr(new, 2)
    assert value_of(path) == 1
    assert site.publish(store) is site.store
    assert value_of(path) == 2
    site.leave(home)
    assert [p.name for p in tmp_path.iterdir()] == ["t.zarr"]


def test_an_abandoned_replacement_leaves_the_old_store(tmp_path: Path) -> None:
    path = a_zarr(tmp_path / "t.zarr", 1)
    site = Site(LocalStore(path), overwrite=True)
    home = site.occupy()
    store, _ = site.settle("digest")
    put_key(store, "v/zarr.json", b"{}")
    site.abandon(home, HEADER, existed=True)
    assert value_of(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.zarr"]


@pytest.mark.parametrize("new_is_complete", [False, True])
def test_a_run_that_was_stopped_between_the_two_renames(
    tmp_path: Path, new_is_complete: bool
) -> None:
    path = a_zarr(tmp_path / "t.zarr", 1)
    beside = Beside(path)
    marked(beside.folder)
    if new_is_complete:
        a_zarr(beside.new, 2)
    path.rename(beside.old)
    assert beside.is_interrupted
    with pytest.raises(TargetExistsError, match="xchunk clean"):
        Site(LocalStore(path)).check()
    site = Site(LocalStore(path), overwrite=True)
    home = site.occupy()
    store, complete = site.settle("digest")
    assert value_of(path) == (2 if new_is_complete else 1)
    assert not complete
    assert not beside.is_interrupted
    site.abandon(home, HEADER, existed=True)
    assert is_zarr(LocalStore(path))
    assert store is not None


def test_a_folder_beside_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = a_zarr(tmp_path / "t.zarr")
    Beside(path).folder.mkdir()
    (Beside(path).folder / "precious").touch()
    with pytest.raises(TargetExistsError, match="is in the way"):
        Site(LocalStore(path), overwrite=True).occupy()
    assert (Beside(path).folder / "precious").exists()
    # a link is not followed, wherever it leads to
    Beside(path).folder.rename(tmp_path / "elsewhere")
    Beside(path).folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetExistsError, match="is in the way"):
        Site(LocalStore(path), overwrite=True).occupy()


@pytest.mark.filterwarnings("ignore:Object at .xchunk")  # what zarr says of our folder
def test_where_nothing_can_be_renamed_the_new_store_is_made_within_the_old_one() -> None:
    store = MemoryStore()
    xr.Dataset({"v": ("x", [1, 2])}).to_zarr(store)
    site = Site(store, overwrite=True)
    assert "is replaced when the new store is complete, object by object" in site.notes()[0]
    home = site.occupy()
    assert home is store
    new, complete = site.settle("digest")
    assert not complete
    assert new == site.working == part_of(store, ".xchunk/new")
    xr.Dataset({"w": ("x", [3])}).to_zarr(new)
    Workspace(new).create(committed="digest")
    assert xr.open_zarr(store).v.values.tolist() == [1, 2]
    assert site.settle("digest") == (new, True)
    assert site.publish(new) is store
    site.leave(home)
    assert xr.open_zarr(store).w.values.tolist() == [3]
    assert not [k for k in list_prefix(store, "") if k.startswith((".xchunk", "v/"))]


@pytest.mark.parametrize("by", ["marker", "journal"])
def test_a_complete_target_of_the_same_run_is_known(tmp_path: Path, by: str) -> None:
    path = a_zarr(tmp_path / "t.zarr")
    store = LocalStore(path)
    if by == "marker":
        Workspace(store).create(committed=HEADER.digest)
    else:
        Workspace(store).create()
        Journal(store).write(HEADER, version="1")
    assert Site(store).settle(HEADER.digest) == (store, True)
    with pytest.raises(TargetExistsError, match="is a zarr store already"):
        Site(store).settle("another")
