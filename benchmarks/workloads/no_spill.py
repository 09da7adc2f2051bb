"""Suggested chunks on small workers, against ``chunks={}`` and ``chunks="auto"``.

Two workers of 1 GB and two threads each go through 1.9 GB. Each cell (workload, chunks) runs on
a cluster of its own. What is counted comes from dask itself: bytes that workers wrote to disk
because memory was short (``cumulative_worker_metrics``), how often a worker paused (the
scheduler's events), how many workers were lost, and the highest memory of a worker process.

    python benchmarks/workloads/no_spill.py [--only std,quantile] [--ways stored,auto,workload]
        [--out results.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHAPE = {"time": 3650, "lat": 180, "lon": 360}
STORED = {"time": 365, "lat": 180, "lon": 180}
WORKERS, THREADS, LIMIT = 2, 2, "1GB"
MB = 1e6
#: Seconds of one cell, after which it is stopped.
PATIENCE = 300

#: What runs, and for the plain suggestion how a user would say it in words.
PATTERNS: dict[str, dict[str, Any]] = {
    "mean": {"reduce": {"time": "mean"}},
    "std": {"reduce": {"time": "std"}},
    "quantile": {"access": {"time": -1}, "reduce": {"time": "quantile"}},
    "rolling": {"rolling": {"time": 30}},
    "resample": {"resample": {"time": "MS"}},
    "climatology": {"groupby": "time.month"},
    "anomaly": {"groupby": "time.month"},
    "correlation": {"reduce": {"time": "corr"}},
    "cumsum": {"access": {"time": -1}},
    "map_blocks": {"access": "map"},
}
WAYS = ("stored", "auto", "pattern", "workload")


def cell(workload: str, way: str, path: str) -> dict[str, Any]:
    """Run one workload with one kind of chunks."""
    import dask
    from distributed import Client, LocalCluster
    from run import work
    from workloads import CUBES

    warnings.simplefilter("ignore")
    function = CUBES[workload]
    # a worker that dies again and again is given up at once
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=THREADS,
            memory_limit=LIMIT,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        ds, out = opened(function, workload, way, path)
        lost: list[str] = []
        client.run(_peak)
        start, failure = time.perf_counter(), ""
        try:
            dask.compute(work(function(ds)))
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            failure = type(error).__name__
        out["seconds"] = time.perf_counter() - start
        counted = client.run_on_scheduler(_counted)
        events = [e for _, e in client.get_events("all") or ()]
        lost = [e["worker"] for e in events if e.get("action") == "remove-worker"]
        peaks = client.run(_peak, on_error="ignore")
    return {
        **out,
        "failure": failure,
        "spilled": counted["spilled"],
        "pauses": counted["pauses"],
        "lost": len(lost),
        "highest": max((p for p in peaks.values() if isinstance(p, int)), default=0),
    }


def opened(function: Any, workload: str, way: str, path: str) -> tuple[Any, dict[str, Any]]:
    """The data in the chunks of one way, and what they are."""
    import xarray as xr

    import xchunk  # noqa: F401 - it gives Datasets their accessor

    given: Any = {"stored": {}, "auto": "auto"}.get(way)
    out: dict[str, Any] = {}
    if given is None:
        plain = xr.open_zarr(path, chunks=None, consolidated=False)
        start = time.perf_counter()
        more = {"workload": function} if way == "workload" else PATTERNS[workload]
        suggestion = plain.chunking.suggest(**more)
        out = {
            "took": time.perf_counter() - start,
            "action": suggestion.action,
            "projected": suggestion.variables["t2m"].worker_mem,
            "threads": suggestion.threads,
        }
        if suggestion.action == "stage":
            target = Path(path).with_name(f"staged-{os.getpid()}.zarr")
            begun = time.perf_counter()
            ds = plain.chunking.apply(suggestion, store=str(target))
            out["staging"] = time.perf_counter() - begun
            return ds, {**out, "chunks": dict(ds.t2m.chunksizes)}
        given = dict(suggestion)
    ds = xr.open_zarr(path, chunks=given, consolidated=False)
    longest = {d: max(c) for d, c in ds.t2m.chunksizes.items()}
    return ds, {**out, "chunks": longest}


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def _counted(dask_scheduler: Any) -> dict[str, int]:
    spilled = sum(
        n
        for key, n in dask_scheduler.cumulative_worker_metrics.items()
        if isinstance(key, tuple) and key[-2:] == ("disk-write", "bytes")
    )
    pauses = sum(
        isinstance(e, dict)
        and e.get("action") == "worker-status-change"
        and e.get("status") == "paused"
        for topic in dask_scheduler.get_events().values()
        for _, e in topic
    )
    return {"spilled": int(spilled), "pauses": pauses}


def run(workload: str, way: str, path: Path) -> dict[str, Any]:
    """Run one cell in a process of its own."""
    command = [sys.executable, __file__, "--cell", workload, way, "--data", str(path)]
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {PATIENCE} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def line(workload: str, way: str, c: dict[str, Any]) -> str:
    """Show one cell."""
    head = f"{workload:12s}{way:10s}"
    if "error" in c:
        return f"{head}{c['error'][:100]}"
    chunks = ", ".join(f"{n}" for n in c["chunks"].values())
    said = f", projected {c['projected'] / MB:.0f} MB more" if "projected" in c else ""
    said += f", suggested in {c['took']:.1f} s" if "took" in c else ""
    return (
        f"{head}({chunks}): spilled {c['spilled'] / MB:.0f} MB, {c['pauses']} pauses, "
        f"{c['lost']} lost, highest {c['highest'] / MB:.0f} MB"
        f"{', ' + c['failure'] if c['failure'] else ''}, {c['seconds']:.0f} s{said}"
    )


def is_clean(c: dict[str, Any]) -> bool:
    """Whether nothing was spilled, paused or lost."""
    return "error" not in c and not (c["failure"] or c["spilled"] or c["pauses"] or c["lost"])


def main() -> None:
    from workloads import make

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", nargs=2)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "no_spill.zarr")
    parser.add_argument("--only", default=",".join(PATTERNS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", action="store_true", help="measure what is in --out again")
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(cell(*args.cell, str(args.data))))
        return
    if not args.data.exists():
        make(args.data, SHAPE, STORED)
    found: dict[str, Any] = {}
    if args.out and args.out.exists():
        found = json.loads(args.out.read_text())
    for workload, way in itertools.product(args.only.split(","), args.ways.split(",")):
        name = f"{workload}/{way}"
        if args.again or "error" in found.get(name, {"error": ""}):
            found[name] = run(workload, way, args.data)
        print(line(workload, way, found[name]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1))
    for way in args.ways.split(","):
        cells = [c for name, c in found.items() if name.endswith("/" + way)]
        print(f"{way}: nothing spilled, paused or lost in {sum(map(is_clean, cells))}"
              f" of {len(cells)}")  # fmt: skip


if __name__ == "__main__":
    main()
