"""What every test starts from: a quiet, repeatable process that leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The same examples every time: a red build is the change's fault, not the dice's.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # nothing is judged by the clock
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, so that nothing is written into the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Run lazy things on two threads, whatever machine this is."""
    with dask.config.set(num_workers=2):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20240229)
