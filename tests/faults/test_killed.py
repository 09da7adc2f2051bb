"""SIGKILL at any instant, then the same call: nothing is lost, wrong, or done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.shards import CALLS, instants, kill


@pytest.mark.subprocess
@pytest.mark.parametrize("name", ["new", pytest.param("overwrite", marks=pytest.mark.slow)])
def test_a_few_kills(tmp_path: Path, name: str) -> None:
    found = kill(tmp_path, [0.004, [0.2, 0.4, 0.9], 0.98], CALLS[name])
    assert found["kills"] >= 3
    assert found["kept"] > 0


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_one_shard_of_kills(tmp_path: Path, name: str) -> None:
    """``python tests/faults/table.py`` kills 200 times and more, in all shards."""
    found = kill(tmp_path, instants(0, 6), CALLS[name])
    assert found["kills"] >= 10
    assert {"planning", "boxes", "clean-up"} <= set(found["phases"])
    assert found["kept"] >= found["kills"]
