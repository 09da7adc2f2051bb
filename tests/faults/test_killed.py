"""SIGKILL at any instant, then the same call: nothing is lost, wrong, or done twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from faults.data import call as call_for
from faults.data import maps

KILLER = Path(__file__).with_name("killer.py")


def kill(tmp_path: Path, instants: list[Any], **call: Any) -> dict[str, Any]:
    (tmp_path / "work").mkdir()
    source = maps(tmp_path / "source.zarr")
    job: dict[str, Any] = {
        "source": str(source),
        "target": str(tmp_path / "work/t.zarr"),
        "call": {**call_for(source), **call},
        "instants": instants,
    }
    if call.get("overwrite"):
        old = xr.Dataset({"m": (("y", "x"), [[1, 2], [3, 4]])})
        old.to_zarr(tmp_path / "old.zarr")
        job["old"] = str(tmp_path / "old.zarr")
    done = subprocess.run(
        [sys.executable, str(KILLER)],
        input=json.dumps(job),
        text=True,
        capture_output=True,
        check=False,
    )
    found = json.loads(done.stdout or "{}")
    assert done.returncode == 0, f"{found} {done.stderr[-2000:]}"
    print(found)  # noqa: T201 - the counts, for who runs it with -s
    return dict(found)


def spread(rng: random.Random, count: int) -> list[float]:
    """Instants as shares of a run's events: half anywhere, the rest at its start and its end."""
    ends = [(0.0, 1.0), (0.0, 1.0), (0.0, 0.1), (0.85, 1.0)]
    return [rng.uniform(*ends[i % len(ends)]) for i in range(count)]


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_a_few_kills(tmp_path: Path, overwrite: bool) -> None:
    instants = [0.004, [0.2, 0.4, 0.9], 0.98]
    found = kill(tmp_path, instants, overwrite=overwrite)
    assert found["kills"] >= 3
    assert found["kept"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        {},
        {"overwrite": True},
        {"zarr_format": 2},
        {"shards": {"t": -1, "y": 20, "x": -1}},
    ],
    ids=["new", "overwrite", "format 2", "shards"],
)
def test_fifty_kills(tmp_path: Path, call: dict[str, Any]) -> None:
    rng = random.Random(f"kill {sorted(call)}")
    # the clean-up is the last few events of hundreds: chance alone may miss it
    chains: list[Any] = [*(spread(rng, 1 + i % 4) for i in range(24)), 0.985, 0.99, 0.994, 0.998]
    rng.shuffle(chains)
    found = kill(tmp_path, chains, **call)
    assert found["kills"] >= 45
    assert {"planning", "boxes", "clean-up"} <= set(found["phases"])
    assert found["kept"] >= found["kills"]
