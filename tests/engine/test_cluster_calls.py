"""Calls from within a cluster's tasks, from its event loop, and before it has workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster, worker_client

import xchunk
from xchunk.errors import ClusterError, XchunkWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")

SMALL: dict[str, Any] = {
    "threads_per_worker": 1,
    "memory_limit": "1GB",
    "dashboard_address": ":0",
}


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Four stores of some boxes each."""
    out = []
    for i in range(4):
        ds = xr.Dataset({"v": (("t", "y"), np.arange(40 * 60.0).reshape(40, 60) + i)})
        ds.to_zarr(tmp_path / f"{i}.zarr", encoding={"v": {"chunks": (4, 60)}})
        out.append(tmp_path / f"{i}.zarr")
    return out


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Two workers of one thread, in this process."""
    with LocalCluster(n_workers=2, processes=False, **SMALL) as cluster:
        yield cluster


def rechunk_one(path: Path, *, seceded: bool = False) -> float:
    """Rechunk a store within a task; return the sum of what was written."""
    if seceded:
        with worker_client():
            return rechunk_one(path)
    out = xr.open_zarr(path, chunks=None).chunking.apply(
        {"t": -1, "y": 6},
        store=path.with_suffix(".out.zarr"),
        max_mem="20MB",
        progress=False,
        verify=True,
    )
    return float(out.v.sum())


@pytest.mark.parametrize("seceded", [False, True], ids=["plain", "in a worker_client"])
def test_tasks_of_a_cluster_rechunk_on_it(
    cluster: LocalCluster, sources: list[Path], *, seceded: bool
) -> None:
    with Client(cluster) as client:
        futures = client.map(rechunk_one, sources, seceded=seceded)
        sums = client.gather(client.submit(list, futures), errors="raise")
        assert sums == [xr.open_zarr(p, chunks=None).v.sum() for p in sources]


def calls(ds: xr.Dataset, out: Path) -> dict[str, Callable[[], Any]]:
    return {
        "budget": ds.chunking.budget,
        "suggest": lambda: ds.chunking.suggest("timeseries"),
        "plan": lambda: ds.chunking.plan({"t": -1}, store=out),
        "apply": lambda: ds.chunking.apply({"t": -1}, store=out, progress=False),
        "verify": lambda: ds.chunking.verify(out),
        "observe": lambda: xchunk.observe().__enter__(),
    }


def test_in_the_loop_of_an_asynchronous_client_every_call_is_refused(
    sources: list[Path], tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            LocalCluster(n_workers=1, processes=False, asynchronous=True, **SMALL) as cluster,
            Client(cluster, asynchronous=True),
        ):
            ds = xr.open_zarr(sources[0], chunks=None)
            for call in calls(ds, tmp_path / "out.zarr").values():
                with pytest.raises(ClusterError, match=r"asyncio\.to_thread"):
                    call()
            assert not (tmp_path / "out.zarr").exists()
            # what the error says to do
            budget = await asyncio.to_thread(ds.chunking.budget)
            assert (budget.workers, budget.memory) == (1, 10**9)
            await asyncio.to_thread(rechunk_one, sources[0])

    asyncio.run(asyncio.wait_for(run(), 60))
    out = zarr.open_group(sources[0].with_suffix(".out.zarr"), mode="r")
    assert out["v"].chunks == (40, 6)


def test_the_first_worker_is_waited_for(sources: list[Path]) -> None:
    with LocalCluster(n_workers=0, processes=False, **SMALL) as cluster, Client(cluster):
        cluster.adapt(minimum=0, maximum=1)
        with pytest.warns(XchunkWarning, match="waiting up to 60 seconds"):
            budget = xr.open_zarr(sources[0], chunks=None).chunking.budget()
        assert budget.memory == 10**9


def test_a_cluster_that_stays_empty_is_refused(sources: list[Path], tmp_path: Path) -> None:
    ds = xr.open_zarr(sources[0], chunks=None)
    with (
        LocalCluster(n_workers=0, processes=False, **SMALL) as cluster,
        Client(cluster),
        dask.config.set({"xchunk.wait-for-workers": "0.2s"}),
    ):
        for name, call in calls(ds, tmp_path / "out.zarr").items():
            if name in ("verify", "observe"):
                continue
            with (
                pytest.warns(XchunkWarning, match="no worker yet"),
                pytest.raises(ClusterError, match=r"no worker after 0\.2 seconds"),
            ):
                call()
