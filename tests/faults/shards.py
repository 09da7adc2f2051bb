"""Kills by seed: what one shard kills, so that many shards make many, and never the same ones."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from faults.data import call as call_for
from faults.data import maps

KILLER = Path(__file__).with_name("killer.py")

#: What is called, over `maps` to series.
CALLS: dict[str, dict[str, Any]] = {
    "new": {},
    "overwrite": {"overwrite": True},
    "format 2": {"zarr_format": 2},
    "shards": {"shards": {"t": -1, "y": 20, "x": -1}},
}


def instants(seed: int, chains: int) -> list[Any]:
    """Chains of one to four kills as shares of a run's events; the last ends in the clean-up."""
    rng = random.Random(f"kill {seed}")
    made: list[Any] = [spread(rng, 1 + i % 4) for i in range(chains)]
    # the clean-up is the last few events of hundreds: chance alone may miss it
    return [*made, [rng.uniform(0.98, 0.999)]]


def spread(rng: random.Random, count: int) -> list[float]:
    """Instants as shares of a run's events: half anywhere, the rest at its start and its end."""
    ends = [(0.0, 1.0), (0.0, 1.0), (0.0, 0.1), (0.85, 1.0)]
    return [rng.uniform(*ends[i % len(ends)]) for i in range(count)]


def kill(folder: Path, at: list[Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """Kill and go on as the instants say; return the counts, or raise with what did not hold."""
    (folder / "work").mkdir()
    source = maps(folder / "source.zarr")
    job: dict[str, Any] = {
        "source": str(source),
        "target": str(folder / "work/t.zarr"),
        "call": {**call_for(source), **call},
        "instants": at,
    }
    if call.get("overwrite"):
        old = xr.Dataset({"m": (("y", "x"), [[1, 2], [3, 4]])})
        old.to_zarr(folder / "old.zarr")
        job["old"] = str(folder / "old.zarr")
    done = subprocess.run(
        [sys.executable, str(KILLER)],
        input=json.dumps(job),
        text=True,
        capture_output=True,
        check=False,
    )
    found = json.loads(done.stdout or "{}")
    if done.returncode:
        raise AssertionError(f"{found} {done.stderr[-2000:]}")
    return dict(found)
