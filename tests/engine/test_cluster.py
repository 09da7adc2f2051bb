"""Rechunking on a cluster of processes with little memory."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from dask.base import tokenize
from distributed import Client

import xchunk
from shared.stores import maps
from xchunk.engine.cluster import current_client
from xchunk.engine.graph import _Graph


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 MB of maps."""
    return maps(tmp_path / "maps.zarr", (150, 200, 500))


@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
def test_the_active_client_runs_the_stages(client: Client, source: Path, tmp_path: Path) -> None:
    ds = xr.open_zarr(source)
    assert current_client() is not None
    budget = ds.chunking.budget()
    assert (budget.workers, budget.threads, budget.memory) == (2, 1, 400_000_000)
    seen: list[str] = []
    plan = ds.chunking.plan({"t": -1, "y": 10}, store=tmp_path / "s.zarr", max_mem="40MB")
    assert plan["v"].family == "staged"
    out = ds.chunking.apply(
        {"t": -1, "y": 10}, store=tmp_path / "s.zarr", max_mem="40MB", progress=False, verify=True
    )
    stored = zarr.open_group(tmp_path / "s.zarr", mode="r")["v"]
    assert stored.chunks == (150, 10, 500)
    np.testing.assert_array_equal(stored[:], zarr.open_group(source, mode="r")["v"][:])
    assert out.v.chunks is not None
    assert not seen
    # what workers keep for a run is let go of
    held = client.run(lambda: len(__import__("xchunk.engine.copy", fromlist=["x"])._open))
    assert set(held.values()) == {0}


@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
def test_no_worker_passes_the_target_fraction_of_its_limit(
    client: Client, source: Path, tmp_path: Path
) -> None:
    ds = xr.open_zarr(source)
    ds.chunking.apply({"t": -1, "y": 10}, store=tmp_path / "s.zarr", progress=False)

    def peak() -> int:  # in here, so that it is sent: workers cannot import a test's module
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    peaks = client.run(peak)
    assert max(peaks.values()) <= 0.6 * 400_000_000
    info = client.scheduler_info(n_workers=-1)["workers"]
    assert len(info) == 2


@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
def test_a_store_in_memory_is_refused_on_a_cluster(client: Client, source: Path) -> None:
    """Workers are other processes: what they would write to memory, nobody else could see."""
    assert client is not None
    store = zarr.storage.MemoryStore()
    with pytest.raises(xchunk.XchunkError, match="memory"):
        xr.open_zarr(source).chunking.apply({"t": -1, "y": 10}, store=store, progress=False)


def test_a_graph_is_sent_without_hashing_its_tasks() -> None:
    class Opaque:
        def __dask_tokenize__(self) -> str:
            pytest.fail("a task was looked at")

    graph = _Graph()
    graph["box"] = Opaque()
    assert tokenize(graph) != tokenize(graph)
    # who unpickles it need not have the class
    assert type(pickle.loads(pickle.dumps(_Graph()))) is dict
