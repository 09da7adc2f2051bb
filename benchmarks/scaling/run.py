"""How a rechunk grows with workers: two of them really, thousands by simulation.

    python benchmarks/scaling/run.py            everything; about two minutes on two cores
    python benchmarks/scaling/run.py --quick    fewer boxes, for a look

What is measured: the same rechunk on one worker process and on two; what a box takes; and what
10^5 boxes cost a real scheduler (`submit.py`). From these, larger clusters are simulated: each
worker takes the next box when it is free, and the scheduler hands them out one at a time.
The store's bandwidth is not simulated: this is the limit of the scheduler and of the last wave.
"""

from __future__ import annotations

import heapq
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from distributed import Client, LocalCluster

WORKERS = (1, 2, 10, 100, 1000)
BOXES = 100_000


def make(folder: Path, steps: int) -> Path:
    """Maps that compress as real ones do."""
    rng = np.random.default_rng(1)
    base = rng.normal(280, 10, (1, 360, 720)).astype("f4")
    noise = rng.normal(0, 2, (steps, 360, 720)).astype("f4")
    ds = xr.Dataset({"v": (("t", "y", "x"), np.round((base + noise) * 16) / 16)})
    ds.to_zarr(folder / "maps.zarr", encoding={"v": {"chunks": (1, 360, 720)}})
    return folder / "maps.zarr"


def rechunk(source: Path, target: Path, workers: int, most: str) -> tuple[float, list[float]]:
    """Rechunk on so many worker processes; return the seconds, and those of each box."""
    import xchunk  # noqa: F401  registers the accessor

    ds = xr.open_zarr(source)
    options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": "1GB"}
    with (
        LocalCluster(dashboard_address="127.0.0.1:0", **options) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        # from here on the scheduler takes note of what each task takes
        client.get_task_stream()
        start = time.perf_counter()
        ds.chunking.apply({"t": -1, "y": 10}, store=target, max_mem=most, progress=False)
        seconds = time.perf_counter() - start
        stream = client.get_task_stream(start="1h")
        boxes = [
            part["stop"] - part["start"]
            for task in stream
            for part in task["startstops"]
            if part["action"] == "compute" and "spec" not in str(task["key"])
        ]
    return seconds, boxes


def simulate(workers: int, durations: Sequence[float], each: float, boxes: int) -> float:
    """Seconds for so many boxes, where the scheduler takes ``each`` of its own time for one."""
    dice = random.Random(1)
    free = [0.0] * workers
    clock = end = 0.0
    for _ in range(boxes):
        clock = max(clock + each, heapq.heappop(free))
        done = clock + dice.choice(durations)
        heapq.heappush(free, done)
        end = max(end, done)
    return end


def main() -> None:
    quick = "--quick" in sys.argv
    warnings.simplefilter("ignore")
    boxes = BOXES // 10 if quick else BOXES
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = make(folder, 60 if quick else 240)
        durations: list[float] = []
        for workers in (1, 2):
            seconds, taken = rechunk(
                source, folder / f"{workers}.zarr", workers, "30MB" if quick else "60MB"
            )
            durations = durations or taken
            found[f"{workers} workers"] = f"{seconds:.1f} s for {len(taken)} boxes"
    call = [sys.executable, str(Path(__file__).with_name("submit.py")), str(boxes), "--json"]
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    submitted = json.loads(told.splitlines()[-1])
    found["submitted"] = submitted
    each = submitted["busy"] / boxes
    one = simulate(1, durations, each, boxes)
    for workers in WORKERS:
        seconds = simulate(workers, durations, each, boxes)
        share = one / seconds / workers
        found[f"{workers} workers, simulated"] = f"{seconds:,.0f} s, {share:.0%} of the best"
    for name, value in found.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
