"""What every test starts from: a quiet, repeatable process that leaves nothing behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

# The same examples every time: a red build is the change's fault, not the dice's.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # nothing is judged by the clock
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

#: What the tests of a folder do, all of them.
MARKED_BY_FOLDER = {
    "looked_at": ["subprocess"],
    "memory": ["memory", "subprocess"],
    "remote": ["subprocess"],
}

#: Libraries that bring HDF5 each; two copies in one process can crash each other.
HDF5 = {"netCDF4", "h5py"}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run one test file in this process: workers would take longer to start than it runs."""
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if one_file else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and those that ask for a cluster of the session."""
    for item in items:
        for marker in MARKED_BY_FOLDER.get(item.path.parent.name, []):
            item.add_marker(marker)
        if {"client", "client_in_threads"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("cluster")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, so that nothing is written into the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Run lazy things on two threads, whatever machine this is."""
    with dask.config.set(num_workers=2):
        yield


@pytest.fixture(autouse=True)
def one_hdf5() -> Iterator[None]:
    """Fail the test that brings a second copy of HDF5 into this process."""
    before = set(sys.modules) >= HDF5
    yield
    assert before or not set(sys.modules) >= HDF5, "netCDF4 and h5py are in one process"


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def cluster_of_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two workers of one thread and 400 MB each, for all tests that only need some."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit="400MB",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path_factory.mktemp("workers")),
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster_of_processes: LocalCluster) -> Iterator[Client]:
    """The active client of the session's two worker processes; a test leaves both alive."""
    from distributed import Client

    with Client(cluster_of_processes) as active:
        pids = active.run(os.getpid)
        assert len(pids) == 2
        yield active
        assert active.run(os.getpid) == pids, "a test that ends workers needs a cluster of its own"


@pytest.fixture(scope="session")
def cluster_in_threads() -> Iterator[LocalCluster]:
    """Two workers of one thread in this process, where nothing has to be sent."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client_in_threads(cluster_in_threads: LocalCluster) -> Iterator[Client]:
    """The active client of the session's two workers in this process."""
    from distributed import Client

    with Client(cluster_in_threads) as active:
        yield active
