"""A store that is replaced where nothing can be renamed: killed at each change, and resumed."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore

import xchunk
from faults.stores import DyingStore
from xchunk.stores import parts
from xchunk.stores.adapter import list_prefix, put_key
from xchunk.targets import location
from xchunk.targets.location import Inside, Site
from xchunk.targets.ownership import holder_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Object at .xchunk"),  # what zarr says of our folder
    pytest.mark.filterwarnings("ignore:.*could not be deleted:xchunk.XchunkWarning"),
]


def new_data() -> xr.Dataset:
    values = np.arange(24.0).reshape(6, 4)
    return xr.Dataset({"v": (("t", "x"), values)}, {"t": np.arange(6)}, {"made": "anew"})


def old_data() -> xr.Dataset:
    """Other values under the very same keys, and some that the new store does not have."""
    values = np.arange(100.0, 148.0).reshape(12, 4)
    return xr.Dataset({"v": (("t", "x"), values), "gone": ("t", np.ones(12))}, attrs={"old": 1})


def with_old(store: Store, zarr_format: int = 3) -> Store:
    encoding = {"v": {"chunks": (6, 2)}}
    old_data().to_zarr(store, encoding=encoding, zarr_format=zarr_format)  # type: ignore[call-overload]
    return store


def replace(store: Any, **asked: Any) -> xr.Dataset:
    """Rechunk as a user does, in boxes of one chunk."""
    source = MemoryStore()
    new_data().to_zarr(source, encoding={"v": {"chunks": (1, 4)}})
    ds = xr.open_zarr(source)
    asked = {"max_mem": "20MB", "overwrite": True, "progress": False, **asked}
    return ds.chunking.apply({"t": -1, "x": 2}, store=store, **asked)


def seen(store: Store) -> str:
    """Return what a reader finds, by any group or array that can be opened."""
    try:
        found = xr.open_zarr(store, chunks=None).load()
    except (FileNotFoundError, KeyError):
        # what can be opened by its path is whole all the same
        for name in ("v", "t", "gone"):
            with suppress(FileNotFoundError, KeyError):
                values = zarr.open_array(store, path=name, mode="r")[...]
                known = [ds[name] for ds in (old_data(), new_data()) if name in ds]
                assert any(np.array_equal(values, k) for k in known)
        return "nothing"
    if found.identical(new_data()):
        return "new"
    assert found.identical(old_data())
    return "old"


def die(inner: MemoryStore, at: int, **asked: Any) -> DyingStore:
    """Replace what is in a store, and be killed at a change; leases of the dead do not count."""
    store = DyingStore(at, inner=inner)
    try:
        replace(store, **asked)
    except xchunk.XchunkError:
        assert 0 < at <= store.changes
    except OSError as error:
        assert "dead at" in str(error)
    for key in [k for k in inner._store_dict if k.startswith(".xchunk/lease/")]:
        del inner._store_dict[key]
    return store


@pytest.mark.slow
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_killed_at_each_change(zarr_format: int) -> None:
    inner = MemoryStore()
    with_old(inner, zarr_format)
    changes = die(MemoryStore(dict(inner._store_dict)), 0).changes
    assert changes > 25
    found, resumed = [], 0
    for at in range(1, changes + 1):
        store = MemoryStore(dict(inner._store_dict))
        die(store, at)
        found.append(seen(store))
        marker = location.Workspace(store).read_marker() or {}
        put = bool(marker.get("committed")) and found[-1] == "nothing"
        # where it is put in place already, the same call copies no box again
        again = die(store, 0)
        resumed += put
        assert not put or not any("/journal/" in k for k in again.calls)
        assert seen(store) == "new"
        assert not [k for k in store._store_dict if "gone" in k or k.startswith(".xchunk")]
        assert len([k for k in store._store_dict if re.match(r"v/(c/)?\d", k)]) == 2
    # the old one stays while the new one is made; nothing is seen while it is put in place
    order = [now for now, before in zip(found, ["", *found], strict=False) if now != before]
    assert order == ["old", "nothing", "new"]
    assert resumed > 5


def test_killed_again_and_again() -> None:
    store = MemoryStore()
    with_old(store)
    for _ in range(40):
        if die(store, 20).changes < 20:
            break
        assert seen(store) in ("old", "nothing", "new")
    assert seen(store) == "new"
    assert not [k for k in store._store_dict if k.startswith(".xchunk")]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["another call", "clean", "without overwrite"])
def test_what_else_goes_on_with_it(what: str) -> None:
    inner = MemoryStore()
    with_old(inner)
    changes = die(MemoryStore(dict(inner._store_dict)), 0).changes
    for at in range(1, changes + 1, 2):
        store = MemoryStore(dict(inner._store_dict))
        die(store, at)
        before = seen(store)
        if what == "clean":
            told = xchunk.clean(store)
            xchunk.clean(store, dry_run=False)
            # the old one may still be whole when the marker says that it goes
            assert told.repaired in ("", "the new store")
            assert told.repaired or before != "nothing"
            assert seen(store) == ("new" if told.repaired else before)
            assert not [k for k in store._store_dict if k.startswith(".xchunk")]
        elif what == "another call":
            replace(store, zarr_format=2, resume=False)
            assert seen(store) == "new"
            assert not [k for k in store._store_dict if k.startswith(".xchunk") or "zarr.json" in k]
        elif before != "new":
            kept = dict(store._store_dict)
            with pytest.raises(xchunk.TargetExistsError, match=r"overwrite=True|xchunk clean"):
                replace(store, overwrite=False)
            assert store._store_dict == kept


@pytest.mark.parametrize("where", ["memory", "fsspec", "mount", "obstore"])
def test_where_nothing_is_renamed(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = tmp_path / "t.zarr"
    if where == "memory":
        place = MemoryStore()
    elif where == "fsspec":
        place = f"memory://{tmp_path.name}/t.zarr"
    elif where == "obstore":
        place = pytest.importorskip("obstore").store.MemoryStore()
    else:
        monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "t.zarr")
    store = xchunk.stores.stores.open_store(place)
    with_old(store)
    assert isinstance(Site(store).beside, Inside)
    noted = []

    def note(at: str) -> None:
        noted.append((at, seen(store), holder_of(store) is not None))

    publish = Site.publish
    monkeypatch.setattr(Site, "publish", lambda *a: (note("proved"), publish(*a))[1])
    put = location.put_in_place
    monkeypatch.setattr(location, "put_in_place", lambda *a: (note("cleared"), put(*a))[1])
    replace(place, verify=True)
    assert noted == [("proved", "old", True), ("cleared", "nothing", True)]
    assert seen(store) == "new"
    assert not [k for k in list_prefix(store, "") if "gone" in k or k.startswith(".xchunk")]
    assert isinstance(store, LocalStore | MemoryStore | FsspecStore) or where == "obstore"


def test_a_store_in_memory_holds_no_chunk_twice() -> None:
    store = MemoryStore()
    for key in ("c/0", "c/1", "zarr.json"):
        put_key(store, f".xchunk/new/{key}", key.encode())
    put_key(store, ".xchunk/new/.xchunk/marker.json", b"{}")
    list(parts.put_in_place(store, ".xchunk/new", ".xchunk"))
    assert sorted(store._store_dict) == [
        ".xchunk/new/.xchunk/marker.json", "c/0", "c/1", "zarr.json",
    ]  # fmt: skip


def test_what_makes_a_store_openable_is_last() -> None:
    keys = [
        "zarr.json", "a/zarr.json", "a/b/zarr.json", "a/b/c/0", "z/c/0", "z/zarr.json",
        ".zgroup", ".zmetadata", ".zattrs", "a/.zarray",
    ]  # fmt: skip
    assert parts.documents_last(keys) == [
        "a/b/c/0", "z/c/0", "a/b/zarr.json", "a/.zarray", "a/zarr.json", "z/zarr.json",
        ".zattrs", ".zmetadata", ".zgroup", "zarr.json",
    ]  # fmt: skip


@pytest.mark.parametrize("fails", ["none", "some", "all"])
def test_what_a_store_does_not_copy_goes_through_the_client(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstore = pytest.importorskip("obstore")
    asked = []

    def copier(store: Any) -> Any:
        async def copy(old: str, new: str) -> None:
            asked.append(new)
            if fails == "all" or (fails == "some" and new.endswith("/1")):
                raise PermissionError(new)
            await obstore.copy_async(store.store, old, new)

        return copy

    monkeypatch.setattr(parts, "_copier", copier)
    monkeypatch.setattr(parts, "_BATCH", 1)
    place = obstore.store.MemoryStore()
    store = xchunk.stores.stores.open_store(place)
    with_old(store)
    replace(place)
    assert seen(store) == "new"
    assert len(asked) == (1 if fails == "all" else 3)
