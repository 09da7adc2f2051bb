"""Real files, found through the packages that carry them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.register_assert_rewrite("real.compare")


def data_folder(package: str, folder: str) -> Path:
    """The folder of a package's data, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed (it is in the extra 'test')")
    return Path(spec.submodule_search_locations[0]) / folder


@pytest.fixture(scope="session")
def iris() -> Path:
    """The netCDF files of iris-sample-data."""
    return data_folder("iris_sample_data", "sample_data")


@pytest.fixture(scope="session")
def hv() -> Path:
    """The netCDF files of hvsampledata."""
    return data_folder("hvsampledata", "_data")
