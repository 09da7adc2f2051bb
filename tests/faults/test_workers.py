"""Workers of a cluster that are killed: the run finishes, or fails and is resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

import xchunk
from faults.data import call, maps, opened, same

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    # a worker that is killed leaves its connections open
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def client() -> Iterator[object]:
    settings = {"distributed.scheduler.allowed-failures": 3, "distributed.comm.retry.count": 2}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def kill_workers(client: object, target: Path, how_many: int) -> threading.Thread:
    pids = list(client.run(os.getpid).values())[:how_many]  # type: ignore[attr-defined]

    def kill() -> None:
        while not list(target.glob(".xchunk/journal/*/*/*")):
            time.sleep(0.01)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize("how_many", [1, 2], ids=["one", "all"])
def test_workers_are_killed(client: object, tmp_path: Path, how_many: int) -> None:
    source, target = maps(tmp_path / "maps.zarr"), tmp_path / "t.zarr"
    ds, given = opened(source), call(source)
    killer = kill_workers(client, target, how_many)
    try:
        ds.chunking.apply(store=target, progress=False, **given)
    except xchunk.StageFailedError as error:
        assert "same call resumes" in str(error)
        assert not (target / "zarr.json").exists()
        ds.chunking.apply(store=target, progress=False, **given)
    killer.join()
    assert same(target, source)
    assert not (target / ".xchunk").exists()


def test_a_target_that_workers_cannot_see(
    client: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = maps(tmp_path / "maps.zarr")

    def blind(store: object, key: str) -> None:
        return None

    monkeypatch.setattr("xchunk.engine.graph._answer", blind)
    with pytest.raises(xchunk.SourceError, match="cannot see"):
        opened(source).chunking.apply(store=tmp_path / "t.zarr", progress=False, **call(source))
    assert not (tmp_path / "t.zarr").exists()
