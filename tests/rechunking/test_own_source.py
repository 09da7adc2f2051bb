"""Data that are made from what they would be written to: refused, on every kind of store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore, LoggingStore, MemoryStore, ObjectStore

import xchunk  # noqa: F401 - registers the accessor
from xchunk.errors import TargetExistsError

pytest.importorskip("obstore")

SHIFTED: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "raw": lambda ds: ds,
    "computed": lambda ds: ds + 1,
    "shifted": lambda ds: ds.shift(t=3),
    "rolled": lambda ds: ds.roll(t=3),
    "reversed": lambda ds: ds.isel(t=slice(None, None, -1)),
    "sorted": lambda ds: ds.isel(t=np.random.default_rng(0).permutation(12)),
    "mapped": lambda ds: ds.map(lambda v: v.copy(data=v.data.map_blocks(np.negative))),
    "by-xarray": lambda ds: ds.map_blocks(lambda d: d * 2, template=ds * 2),
    "joined": lambda ds: xr.concat([ds.isel(t=slice(6, 12)), ds.isel(t=slice(0, 6)) * 2], "t"),
}


PIECES: Any = {name: {"chunks": (2, 4)} for name in "ab"}


def data() -> xr.Dataset:
    return xr.Dataset(
        {"a": (("t", "x"), np.arange(48.0).reshape(12, 4)), "b": (("t", "x"), np.ones((12, 4)))}
    )


def _memory(_: Path) -> tuple[Any, Any]:
    store = MemoryStore()
    return store, store


def _viewed(_: Path) -> tuple[Any, Any]:
    store = MemoryStore()
    return store, store.with_read_only(read_only=False)


def _wrapped(_: Path) -> tuple[Any, Any]:
    store = MemoryStore()
    return LoggingStore(store), store


def _obstore(_: Path) -> tuple[Any, Any]:
    from obstore.store import MemoryStore as InMemory

    store = InMemory()
    return ObjectStore(store), store


def _obstore_on_disk(root: Path) -> tuple[Any, Any]:
    from obstore.store import LocalStore as OnDisk

    (root / "o.zarr").mkdir()
    return str(root / "o.zarr"), OnDisk(str(root / "o.zarr"))


def _link(root: Path) -> tuple[Any, Any]:
    (root / "link.zarr").symlink_to(root / "real.zarr")
    return str(root / "real.zarr"), str(root / "link.zarr")


PLACES: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "path": lambda root: (str(root / "a.zarr"), root / "a.zarr"),
    "other-spelling": lambda root: (str(root / "a.zarr"), f"file://{root}/../{root.name}/./a.zarr"),
    "link": _link,
    "local-store": lambda root: (LocalStore(root / "a.zarr"), str(root / "a.zarr")),
    "memory-url": lambda root: (f"memory:/{root}/a.zarr", f"memory:/{root}/a.zarr"),
    "memory-store": _memory,
    "memory-store-seen-otherwise": _viewed,
    "wrapped": _wrapped,
    "obstore": _obstore,
    "obstore-on-disk": _obstore_on_disk,
}


def rechunk(ds: xr.Dataset, store: Any, chunks: Any = None, **asked: Any) -> None:
    if "region" in asked:
        ds.chunking.write_region(store, max_mem="20MB", **asked)
    elif "dim" in asked:
        ds.chunking.append(store, max_mem="20MB", **asked)
    else:
        ds.chunking.apply(chunks, store=store, max_mem="20MB", **asked)


def opened(place: Any, chunks: Any) -> xr.Dataset:
    return xr.open_zarr(place, chunks=chunks, consolidated=False)


@pytest.mark.parametrize("change", SHIFTED)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.filterwarnings("ignore:Consolidated metadata:zarr.errors.ZarrUserWarning")
def test_no_store_is_written_that_is_read(place: str, change: str, tmp_path: Path) -> None:
    source, target = PLACES[place](tmp_path)
    data().to_zarr(source, encoding=PIECES, consolidated=False)
    made = SHIFTED[change](opened(source, {"t": 2}))
    for asked in (
        {"chunks": {"t": 3}, "overwrite": True},
        {"region": {"t": slice(0, 12)}},
        {"dim": "t"},
    ):
        with pytest.raises(TargetExistsError, match=r"'[ab]'.*Write to another"):
            rechunk(made, target, **asked)
    assert opened(source, None).identical(data())


def test_lazy_data_without_blocks_are_refused_or_read_before() -> None:
    store = MemoryStore()
    data().to_zarr(store, encoding=PIECES, consolidated=False)
    with pytest.raises(TargetExistsError, match="would destroy what is being read"):
        rechunk(opened(store, None), store, {"t": 3}, overwrite=True)
    assert opened(store, None).identical(data())
    rechunk(SHIFTED["sorted"](opened(store, None)), store, {"t": 3}, overwrite=True)
    assert opened(store, None).equals(SHIFTED["sorted"](data()))


def test_a_group_inside_of_the_store_is_seen(tmp_path: Path) -> None:
    data().to_zarr(tmp_path / "a.zarr", group="in/side")
    made = xr.open_zarr(tmp_path / "a.zarr", group="in/side", chunks={}) * 2
    for target in ("a.zarr", "a.zarr/in", "a.zarr/in/side", "a.zarr/in/side/a"):
        with pytest.raises(TargetExistsError):
            made.chunking.apply({"t": 3}, store=tmp_path / target, max_mem="20MB", overwrite=True)


def test_one_array_may_be_made_from_another_in_the_store() -> None:
    store = MemoryStore()
    data().to_zarr(store, encoding=PIECES, consolidated=False)
    ds = opened(store, {"t": 4})
    made = ds[["b"]].assign(b=ds.a.shift(t=3) * 2)
    made.chunking.write_region(store, region={"t": slice(0, 12)}, max_mem="20MB")
    expected = data()
    assert opened(store, None).a.identical(expected.a)
    assert opened(store, None).b.equals(expected.a.shift(t=3) * 2)


def test_equal_stores_are_not_one_store() -> None:
    one, other = MemoryStore(), MemoryStore()
    for store in (one, other):
        data().to_zarr(store, encoding=PIECES, consolidated=False)
    made = opened(one, {}) * 2
    made.chunking.apply({"t": 3}, store=other, max_mem="20MB", overwrite=True)
    assert opened(other, None).equals(data() * 2)
    assert opened(one, None).identical(data())


def test_what_is_loaded_may_replace_its_source() -> None:
    store = MemoryStore()
    data().to_zarr(store, encoding=PIECES, consolidated=False)
    made = (opened(store, {}) * 2).load()
    made.chunking.apply({"t": 3}, store=store, max_mem="20MB", overwrite=True)
    assert opened(store, None).equals(data() * 2)


def test_a_session_is_not_computed_from_itself() -> None:
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    data().to_zarr(session.store, encoding=PIECES, consolidated=False)
    session.commit("data")
    session = repo.writable_session("main")
    for change in ("raw", "shifted"):
        made = SHIFTED[change](opened(session.store, {"t": 2}))
        for asked in ({"chunks": {"t": 3}, "overwrite": True}, {"region": {"t": slice(0, 12)}}):
            with pytest.raises(TargetExistsError, match="Write to another"):
                rechunk(made, session.store, **asked)
    # another session reads what was committed, whatever is written here
    made = opened(repo.readonly_session("main").store, {"t": 2}).shift(t=3)
    made.chunking.write_region(session.store, region={"t": slice(0, 12)}, max_mem="20MB")
    found = opened(repo.readonly_session("main").store, None)
    assert found.equals(data().shift(t=3))


def test_arrays_of_zarr_are_seen() -> None:
    store = MemoryStore()
    array = zarr.create_array(store, name="a", shape=(8, 4), chunks=(2, 4), dtype="f8")
    array[...] = 1.0
    import dask.array as da

    ds = xr.Dataset({"a": (("t", "x"), da.from_zarr(array) + 1)})
    with pytest.raises(TargetExistsError, match="are computed from"):
        ds.chunking.apply({"t": 4}, store=store, max_mem="20MB", overwrite=True)
