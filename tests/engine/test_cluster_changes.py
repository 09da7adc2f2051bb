"""Clusters whose workers come, go, or do not see what the others see."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

import xchunk
from faults.data import call, maps, opened, same

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    # a worker that goes leaves its connections open
    pytest.mark.filterwarnings("default"),
]


@contextmanager
def cluster_of(workers: int) -> Iterator[tuple[LocalCluster, Client]]:
    options: dict[str, Any] = {"n_workers": workers, "threads_per_worker": 1}
    with (
        LocalCluster(memory_limit="400MB", dashboard_address="127.0.0.1:0", **options) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


@contextmanager
def once_begun(target: Path, act: Callable[[], Any]) -> Iterator[None]:
    """Do something in another thread when the first box of a run is noted."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if list(target.glob(".xchunk/journal/*/*/*")):
                act()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_worker_joins(tmp_path: Path) -> None:
    source, target = maps(tmp_path / "maps.zarr"), tmp_path / "t.zarr"
    ds, given = opened(source), call(source)
    with cluster_of(1) as (cluster, _), once_begun(target, lambda: cluster.scale(2)):
        ds.chunking.apply(store=target, progress=False, verify=True, **given)
    assert same(target, source)
    assert not (target / ".xchunk").exists()


def test_an_adaptive_cluster(tmp_path: Path) -> None:
    source, target = maps(tmp_path / "maps.zarr"), tmp_path / "t.zarr"
    ds, given = opened(source), call(source)
    with cluster_of(1) as (cluster, _):
        cluster.adapt(minimum=1, maximum=2, interval="100ms", wait_count=1)
        ds.chunking.apply(store=target, progress=False, verify=True, **given)
    assert same(target, source)


def test_a_worker_that_sees_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative target is another place for a worker that works elsewhere: found out at once."""
    source = maps(tmp_path / "maps.zarr")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    ds, given = opened(source), call(source)
    with cluster_of(2) as (_, client):
        one = sorted(client.scheduler_info(n_workers=-1)["workers"])[0]
        client.run(os.chdir, str(elsewhere), workers=[one])
        with pytest.raises(xchunk.SourceError, match="1 of 2 workers"):
            ds.chunking.apply(store="t.zarr", progress=False, **given)
        assert not (tmp_path / "t.zarr").exists()
        assert list(elsewhere.iterdir()) == []
        # by its whole path every worker finds it
        ds.chunking.apply(store=tmp_path / "t.zarr", progress=False, verify=True, **given)
    assert same(tmp_path / "t.zarr", source)
