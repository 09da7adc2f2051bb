"""Rechunks through stores that answer late: many requests on their way, and nothing lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client
from zarr.storage import LocalStore
from zarr.testing.store import LatencyStore

import xchunk
import xchunk.rechunking.bind
from faults.data import same
from faults.stores import FaultyStore
from shared.stores import maps

WHAT = {"t": -1, "y": 10, "x": 20}


class Late(FaultyStore):
    """A store in memory that is asked for several objects at once, and answers late."""

    seconds = 0.0

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.flying = {"now": 0, "most": 0}

    async def _meet(self, operation: str, key: str) -> bool:
        if "/c/" in key:
            self.flying["now"] += 1
            self.flying["most"] = max(self.flying["most"], self.flying["now"])
        try:
            await asyncio.sleep(self.seconds if "/c/" in key else 0)
            return await super()._meet(operation, key)
        finally:
            if "/c/" in key:
                self.flying["now"] -= 1


class Rounds(Late):
    """Counts how often it is waited for in turn, for anything but boxes, leases and deleting."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = {"now": 0, "all": 0}

    async def _meet(self, operation: str, key: str) -> bool:
        number = key.rpartition("/")[2].isdigit()
        if number or "/lease" in key or operation == "delete":
            return await super()._meet(operation, key)
        self.rounds["all"] += not self.rounds["now"]
        self.rounds["now"] += 1
        await asyncio.sleep(0.03)
        self.rounds["now"] -= 1
        return await super()._meet(operation, key)

    async def exists(self, key: str) -> bool:
        await self._meet("exists", key)
        return await super().exists(key)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maps(tmp_path_factory.mktemp("far") / "maps.zarr", (150, 100, 200))


def rechunk(source: Path, store: Any, **more: Any) -> xr.Dataset:
    ds = xr.open_zarr(source)
    return ds.chunking.apply(WHAT, store=store, max_mem="16MB", progress=False, **more)


def is_same(store: FaultyStore, source: Path) -> bool:
    a, b = (zarr.open_group(s, mode="r")["v"][:] for s in (store.inner, source))
    left = [key for key in store.inner._store_dict if key.startswith(".xchunk")]
    return left == [] and bool(np.array_equal(a, b))


def test_many_requests_are_on_their_way_with_two_cores(source: Path) -> None:
    store = Late()
    store.seconds = 0.1  # so that nothing else takes as long, on a busy machine either
    with dask.config.set(num_workers=2):
        plan = xr.open_zarr(source).chunking.plan(WHAT, store=store, max_mem="16MB")
        store.calls.clear()
        rechunk(source, store)
    assert is_same(store, source)
    stages = plan["v"].stages
    allowed = plan["v"].threads * max(max(s.buffers.reads, 64) for s in stages)
    assert 6 < store.flying["most"] <= allowed
    assert store.flying["now"] == 0


def test_no_more_requests_are_made_than_planned(source: Path, tmp_path: Path) -> None:
    store = Late()
    plan = xr.open_zarr(source).chunking.plan(WHAT, store=store, max_mem="16MB")
    seen: list[str] = []
    real = store.inner.set

    async def noted(key: str, value: Any) -> None:
        seen.append(key)
        await real(key, value)

    store.inner.set = noted  # type: ignore[method-assign]
    rechunk(source, store)
    written = [key for key in seen if "/c/" in key]
    assert len(written) == len(set(written)) == plan.work.objects
    notes = [key for key in seen if "/journal/" in key and key.rpartition("/")[2].isdigit()]
    assert len(notes) == plan.tasks


def test_what_is_asked_besides_is_asked_beside_each_other(source: Path) -> None:
    """Whether anything is there, how far it is, marker, header, documents; commit, open."""
    store = Rounds()
    plan = xr.open_zarr(source).chunking.plan(WHAT, store=store, max_mem="16MB")
    assert store.rounds["all"] == 2
    assert plan["v"].family == "staged"
    plan.run(progress=False)
    assert is_same(store, source)
    # two prefixes are listed to be deleted, one of them several times on a slow machine
    assert store.rounds["all"] <= 2 + 8


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "share"), [("get", 0.7), ("set", 0.4)])
def test_a_store_that_fails_for_long_is_resumed_with_the_same_boxes(
    source: Path, monkeypatch: pytest.MonkeyPatch, operation: str, share: float
) -> None:
    """Also where it answers at another speed by then: the plan is that of the first run."""
    whole = Late(only="/c/")
    rechunk(source, whole)
    store = Late(operation, int(share * whole.calls[operation]), "raise", times=10**6, only="/c/")
    with pytest.raises(xchunk.StageFailedError, match="injected"):
        rechunk(source, store)
    assert store.flying["now"] == 0
    store.heal()
    noted = {key for key in store.inner._store_dict if "/journal/" in key}
    assert any(key.rpartition("/")[2].isdigit() for key in noted)
    monkeypatch.setattr(xchunk.rechunking.bind, "latency_of", lambda *_: 0.4)
    rechunk(source, store)
    assert is_same(store, source)


@pytest.mark.parametrize(
    ("measured", "tasks"),
    [pytest.param(0.0, False, id="a disk"), pytest.param(0.1, True, id="a mount")],
)
def test_how_far_a_folder_is_is_measured(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: float, tasks: bool
) -> None:
    monkeypatch.setattr(xchunk.rechunking.bind, "latency_of", lambda *_: measured)
    with dask.config.set(num_workers=2):
        plan = xr.open_zarr(source).chunking.plan(WHAT, store=tmp_path / "t.zarr", max_mem="400MB")
        assert (plan["v"].threads > 2) is tasks
        assert ("a request" in repr(plan)) is tasks
        rechunk(source, tmp_path / "t.zarr")
    assert same(tmp_path / "t.zarr", source)


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
def test_a_worker_runs_more_tasks_than_it_has_threads(
    client: Client, source: Path, tmp_path: Path
) -> None:
    far = LatencyStore(LocalStore(tmp_path / "t.zarr"), get_latency=0.02, set_latency=0.02)
    plan = xr.open_zarr(source).chunking.plan(WHAT, store=far, max_mem="60MB")
    assert plan.budget.threads == 1
    rechunk(source, far)
    assert same(tmp_path / "t.zarr", source)
