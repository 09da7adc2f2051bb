"""Stores that fail: a fault that passes is outlived, one that stays is said, and is resumed."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

import xchunk
from faults.data import call, opened
from faults.stores import Fault, FaultyStore


def is_openable(store: MemoryStore) -> bool:
    try:
        zarr.open_group(store, mode="r")
    except FileNotFoundError:
        return False
    return True


def rechunk(source: Path, store: FaultyStore) -> xr.Dataset:
    return opened(source).chunking.apply(store=store, progress=False, **call(source))


def check(source: Path, store: FaultyStore) -> None:
    keys = [k for k in store.inner._store_dict if k.startswith(".xchunk")]
    assert keys == []
    xr.testing.assert_identical(
        xr.open_zarr(store.inner, chunks=None).load(), opened(source).load()
    )


def run_and_resume(source: Path, store: FaultyStore) -> bool:
    """Rechunk into a faulty store, and once more; tell whether the first call went through."""
    went = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xchunk.XchunkWarning)
        try:
            rechunk(source, store)
        except xchunk.XchunkError as error:
            went = "injected" not in str(error)
    store.heal()
    if is_openable(store.inner):
        # it is complete; at most scratch data are left
        xchunk.clean(store, dry_run=False)
    else:
        assert not went
        rechunk(source, store)
    check(source, store)
    return went


def calls_of(source: Path) -> dict[str, int]:
    store = FaultyStore()
    rechunk(source, store)
    return store.calls


@pytest.fixture(scope="module")
def calls(source: Path) -> dict[str, int]:
    return calls_of(source)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize(
    ("operation", "fault"),
    [("get", "raise"), ("set", "raise"), ("set", "write then raise"), ("list", "raise")],
)
def test_one_fault(
    source: Path, calls: dict[str, int], operation: str, fault: Fault, share: float
) -> None:
    store = FaultyStore(operation, max(1, round(share * calls[operation])), fault)
    run_and_resume(source, store)
    assert store.faults == 1


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["get", "set", "delete", "list"])
def test_each_kind_of_call_fails_once(source: Path, calls: dict[str, int], operation: str) -> None:
    total = calls[operation]
    step = max(1, total // 30)
    went = [run_and_resume(source, FaultyStore(operation, n)) for n in range(1, total + 1, step)]
    assert len(went) >= 10 or operation in ("delete", "list")
    # a box that fails once is tried again, so that most runs do not even notice
    if operation == "set":
        assert sum(went) > len(went) / 3


def test_a_fault_that_stays_is_an_error_that_can_be_resumed(
    source: Path, calls: dict[str, int]
) -> None:
    store = FaultyStore("set", calls["set"] // 2, times=10**9)
    with pytest.raises(xchunk.StageFailedError, match=r"injected at set.*same call"):
        rechunk(source, store)
    assert not is_openable(store.inner)
    noted = [k for k in store.inner._store_dict if "/journal/" in k and k[-1].isdigit()]
    assert noted
    store.heal()
    before = store.calls["set"]
    rechunk(source, store)
    assert store.calls["set"] - before < calls["set"]
    check(source, store)


def test_scratch_that_comes_back_short_is_noticed(source: Path) -> None:
    store = FaultyStore("get", 3, "short", times=10**9, only=".xchunk/scratch/0/v/c")
    with pytest.raises(xchunk.StageFailedError):
        rechunk(source, store)
    assert not is_openable(store.inner)
    store.heal()
    rechunk(source, store)
    check(source, store)


def test_a_source_that_comes_back_short_is_noticed(source: Path, tmp_path: Path) -> None:
    inner = MemoryStore()
    with xr.open_zarr(source) as ds:
        rechunk(source, FaultyStore(inner=inner))
    faulty = FaultyStore("get", 2, "short", times=10**9, inner=inner, only="v/c/")
    ds = xr.open_zarr(faulty)
    with pytest.raises(xchunk.StageFailedError):
        ds.chunking.apply({"t": 1}, store=tmp_path / "t.zarr", progress=False)
    assert not (tmp_path / "t.zarr/zarr.json").exists()


def test_a_slow_store_is_waited_for(source: Path) -> None:
    store = FaultyStore("set", 4, "slow", times=8)
    rechunk(source, store)
    assert store.faults == 8
    check(source, store)


def test_a_fault_while_cleaning_up_loses_nothing(source: Path, calls: dict[str, int]) -> None:
    # the last delete is that of the marker
    store = FaultyStore("delete", calls["delete"], times=10**9)
    with pytest.warns(xchunk.XchunkWarning, match="is complete, but"):
        rechunk(source, store)
    assert is_openable(store.inner)
    store.heal()
    # the same call knows its own work, and only cleans up
    before = store.calls["set"]
    rechunk(source, store)
    assert store.calls["set"] - before < 4
    check(source, store)


def test_where_deletes_fail_for_good_the_same_process_goes_on(source: Path) -> None:
    store = FaultyStore("delete", 1, times=10**9)
    for _ in range(2):
        with pytest.warns(xchunk.XchunkWarning, match="is complete, but"):
            rechunk(source, store)
    assert any("/lease/" in k for k in store.inner._store_dict)
    store.heal()
    xchunk.clean(store, dry_run=False)
    check(source, store)


@pytest.mark.parametrize("what", ["supports_deletes", "supports_writes", "supports_listing"])
def test_a_store_that_cannot_do_what_is_needed(source: Path, what: str) -> None:
    store = FaultyStore()
    setattr(store, what, False)
    with pytest.raises(xchunk.SourceError, match=r"another target|on a disk"):
        rechunk(source, store)
    assert store.inner._store_dict == {}
