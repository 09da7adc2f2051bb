"""The source of the tests that break things."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.data import maps


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps that the tests only read."""
    return maps(tmp_path_factory.mktemp("source") / "maps.zarr")
