"""Rechunk one array in a process of its own, and say by how much the process grew.

Run as ``python child.py SOURCE TARGET MAX_MEM THREADS SHARDS``; prints one line of JSON. For
SHARDS ``far`` both stores answer late.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import dask  # noqa: E402
import xarray as xr  # noqa: E402
from zarr.storage import LocalStore  # noqa: E402

import xchunk  # noqa: E402, F401


def status(field: str) -> int:
    """Read a field of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def main(source: str, target: str, max_mem: str, threads: str, shards: str) -> None:
    """Rechunk maps to series, and measure."""
    engine = "netcdf4" if source.endswith(".nc") else "zarr"
    where: tuple[Any, Any] = (source, target)
    if shards == "far":
        from zarr.testing.store import LatencyStore

        where = tuple(
            LatencyStore(LocalStore(path), get_latency=0.02, set_latency=0.02) for path in where
        )
    ds = xr.open_dataset(where[0], chunks={}, engine=engine)
    what = {"t": -1, "y": 19, "x": 20}
    options = {"shards": {"t": -1, "y": 38, "x": 40}} if shards == "sharded" else {}
    with dask.config.set(num_workers=int(threads)):
        plan = ds.chunking.plan(what, store=where[1], max_mem=int(max_mem), **options)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is no peak of ours
        before = status("VmRSS")
        ds.chunking.apply(what, store=where[1], max_mem=int(max_mem), progress=False, **options)
        grown = status("VmHWM") - before
    one = plan["v"]
    sys.stdout.write(
        json.dumps(
            {
                "grown": grown,
                "projected": plan.projected_mem,
                "family": one.family,
                "decodes": one.work.decodes,
                "at_once": one.threads * max(s.buffers.reads for s in one.stages),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
