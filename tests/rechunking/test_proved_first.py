"""A target is proved before it replaces anything: what fails is never left openable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore

import xchunk
from xchunk.engine import copy as engine_copy
from xchunk.errors import EncodingError, VerificationError
from xchunk.stores.stores import is_zarr


def data(first: float = 0.0) -> xr.Dataset:
    values = np.arange(first, first + 48.0).reshape(12, 4)
    return xr.Dataset({"a": (("t", "x"), values)}, {"t": np.arange(12), "x": np.arange(4)})


def source(first: float = 0.0, **kwargs: Any) -> xr.Dataset:
    store = MemoryStore()
    data(first).to_zarr(store, encoding={"a": {"chunks": (2, 4)}}, consolidated=False, **kwargs)
    return xr.open_zarr(store, chunks={}, consolidated=False)


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let every box that is written lose its last bits on the way."""
    write = engine_copy.adapter.write_units

    def worse(target: Any, region: Any, values: Any, **kwargs: Any) -> None:
        write(target, region, values * 2 if values.dtype == "f8" else values, **kwargs)

    monkeypatch.setattr(engine_copy.adapter, "write_units", worse)
    return monkeypatch


@pytest.mark.parametrize("kind", ["disk", "memory"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_target_that_fails_is_not_openable_and_can_be_begun_anew(
    kind: str, zarr_format: int, damage: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target: Store = LocalStore(tmp_path / "a.zarr") if kind == "disk" else MemoryStore()
    asked: dict[str, Any] = {"store": target, "max_mem": "20MB", "zarr_format": zarr_format}
    with pytest.raises(VerificationError, match=r"a: (?s:.*)Nothing was committed"):
        source().chunking.apply({"t": 5}, verify=True, **asked)
    assert not is_zarr(target)
    with pytest.raises(VerificationError):  # nothing is copied again, and it fails again
        source().chunking.apply({"t": 5}, verify=True, **asked)
    damage.undo()
    done = source().chunking.apply({"t": 5}, verify=True, resume=False, **asked)
    assert done.equals(data())


def test_the_old_store_stays_where_the_new_one_fails(
    damage: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "a.zarr"
    data(100.0).to_zarr(target)
    asked: dict[str, Any] = {"store": target, "max_mem": "20MB", "overwrite": True}
    with pytest.raises(VerificationError, match="is what it was"):
        source().chunking.apply({"t": 5}, verify=True, **asked)
    assert xr.open_zarr(target, chunks=None).identical(data(100.0))
    damage.undo()
    source().chunking.apply({"t": 5}, verify=True, resume=False, **asked)
    assert xr.open_zarr(target, chunks=None).identical(data())
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_an_append_that_fails_is_not_seen(damage: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    data().to_zarr(target, encoding={"a": {"chunks": (12, 4)}})
    more = data(48.0).assign_coords(t=np.arange(12, 24))
    with pytest.raises(VerificationError, match="is read as before"):
        more.chunking.append(target, dim="t", max_mem="20MB", verify=True)
    assert xr.open_zarr(target, chunks=None).identical(data())
    damage.undo()
    more.chunking.append(target, dim="t", max_mem="20MB", verify=True, resume=False)
    assert xr.open_zarr(target, chunks=None).equals(xr.concat([data(), more], "t"))


def test_a_session_that_fails_is_not_committed(damage: pytest.MonkeyPatch) -> None:
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    before = session.snapshot_id
    with pytest.raises(VerificationError):
        source().chunking.apply({"t": 5}, store=session.store, max_mem="20MB", verify=True)
    assert repo.readonly_session("main").snapshot_id == before
    assert not session.has_uncommitted_changes
    damage.undo()
    source().chunking.apply({"t": 5}, store=session.store, max_mem="20MB", verify=True)
    store = repo.readonly_session("main").store
    assert xr.open_zarr(store, chunks=None, consolidated=False).equals(data())


def test_rechunkers_interface_commits_what_is_proved(damage: pytest.MonkeyPatch) -> None:
    target = MemoryStore()
    plan = xchunk.rechunk(source(), {"a": {"t": 5}}, "20MB", target)
    with pytest.raises(VerificationError, match="Nothing was committed"):
        plan.execute(verify=True)
    assert not is_zarr(target)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("S4", ""), ("S4", "x"), ("S4", None), ("U3", ""), ("U3", "x"), ("U3", None)],
)
def test_strings_of_fixed_length_can_be_opened_again(
    dtype: str, fill: Any, zarr_format: int
) -> None:
    store, target = MemoryStore(), MemoryStore()
    group = zarr.create_group(store, zarr_format=2)
    array = group.create_array("s", shape=(6,), chunks=(2,), dtype=dtype, fill_value=fill)
    array.attrs["_ARRAY_DIMENSIONS"] = ["x"]
    array[:4] = np.array(["a", "bb", "c", "d"], dtype=dtype)
    ds = xr.open_zarr(store, consolidated=False, chunks={})
    asked: dict[str, Any] = {"store": target, "max_mem": "20MB", "zarr_format": zarr_format}
    if zarr_format == 3 and fill is not None:
        with pytest.warns(xchunk.LayoutChangeWarning, match="missing strings are read as"):
            ds.chunking.apply({"x": 3}, verify=True, **asked)
    else:
        ds.chunking.apply({"x": 3}, verify=True, **asked)
        assert xr.open_zarr(target, chunks=None).s.equals(ds.s.compute())
    stored = zarr.open_array(target, path="s", mode="r")
    assert np.array_equal(np.asarray(stored[:]), np.asarray(array[:]))


def test_metadata_that_cannot_be_read_are_refused_before_the_old_store_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = MemoryStore()
    data(100.0).to_zarr(target, consolidated=False)

    def unreadable(*_: Any, **__: Any) -> None:
        raise ValueError("Failed to decode fill_value")

    ds = source()
    with monkeypatch.context() as patched:
        patched.setattr(xr, "open_zarr", unreadable)
        with pytest.raises(EncodingError, match="could not be opened again"):
            ds.chunking.apply({"t": 5}, store=target, max_mem="20MB", overwrite=True)
    assert xr.open_zarr(target, chunks=None, consolidated=False).identical(data(100.0))
