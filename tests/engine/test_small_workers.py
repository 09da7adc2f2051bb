"""Workers that are too small for the tasks of a plan, since they joined after it was made."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from dask import delayed
from distributed import Client, LocalCluster

from xchunk.engine.cluster import Needs
from xchunk.errors import StageFailedError, XchunkWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")


NO_PAUSE = dict.fromkeys(
    [f"distributed.worker.memory.{n}" for n in ("target", "spill", "pause", "terminate")], False
)


@pytest.fixture
def client() -> Iterator[Client]:
    """One large worker, in this process; those that join later are small."""
    with (
        dask.config.set(NO_PAUSE),
        LocalCluster(
            n_workers=1,
            processes=False,
            threads_per_worker=1,
            memory_limit="8GB",
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.new_spec["options"]["memory_limit"] = "100MB"
        yield client


class Changing:
    """Progress that changes the cluster, before the first box or after it."""

    def __init__(self, change: Callable[[], None], *, at: str):
        self.change, self.at = change, at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, _plan: object) -> None:
        if self.at == "begin":
            self.change()

    def update(self, **_: object) -> None:
        if self.at == "box":
            self.at = ""
            self.change()


CHANGED, BEGUN = threading.Event(), itertools.count()


def block(number: int) -> np.ndarray:
    """Compute a block; all but the first ones wait for the cluster to be as a test wants it."""
    if next(BEGUN) > 3:
        CHANGED.wait(30)
    return np.full((2, 50_000), number, dtype="f8")


def rechunk(out: Path, change: Callable[[], None], *, at: str) -> None:
    """Write twenty blocks on a cluster that changes meanwhile."""

    global BEGUN  # noqa: PLW0603 - workers are threads of this process

    def changed() -> None:
        change()
        CHANGED.set()

    CHANGED.clear()
    BEGUN = itertools.count()
    parts = [da.from_delayed(delayed(block)(i), (2, 50_000), "f8") for i in range(20)]
    ds = xr.Dataset({"v": (("t", "y"), da.concatenate(parts))})
    progress = Changing(changed, at=at)
    ds.chunking.apply({"t": 2, "y": 50_000}, store=out, progress=progress)


def join(client: Client) -> None:
    client.cluster.scale(2)
    client.wait_for_workers(2, timeout=30)


def replace(client: Client) -> None:
    large = list(client.scheduler_info(n_workers=-1)["workers"])
    join(client)
    client.retire_workers(large)


@pytest.mark.parametrize("at", ["begin", "box"])
def test_boxes_go_to_the_workers_that_they_fit(client: Client, tmp_path: Path, at: str) -> None:
    with pytest.warns(XchunkWarning, match=r"\(100 MB\): too small for the tasks"):
        rechunk(tmp_path / "out.zarr", lambda: join(client), at=at)
    found = zarr.open_group(tmp_path / "out.zarr", mode="r")["v"]
    assert found.chunks == (2, 50_000)
    np.testing.assert_array_equal(found[::2, 0], np.arange(20))


@pytest.mark.parametrize("at", ["begin", "box"])
def test_small_workers_alone_are_refused(client: Client, tmp_path: Path, at: str) -> None:
    with pytest.raises(StageFailedError, match="no worker of the cluster is large enough"):
        rechunk(tmp_path / "out.zarr", lambda: replace(client), at=at)
    assert not (tmp_path / "out.zarr/zarr.json").exists()


NEEDS = Needs(task=100, threads=2, reserved=50, fraction=0.5)


@pytest.mark.parametrize(
    ("limit", "threads", "fits"),
    [
        (500, 2, True),
        (500, 8, True),
        (480, 2, False),
        (300, 1, True),
        (290, 1, False),
        (0, 9, True),
    ],
    ids=["as planned", "more threads than run", "two", "one", "less than one", "no limit"],
)
def test_which_workers_fit(limit: int, threads: int, *, fits: bool) -> None:
    assert NEEDS.fit(limit, threads) is fits
