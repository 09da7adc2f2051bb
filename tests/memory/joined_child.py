"""Rechunk files that are joined in a process of its own, and say by how much it grew.

Run as ``python joined_child.py FOLDER TARGET MAX_MEM THREADS WHERE``; prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import dask  # noqa: E402
from child import status  # noqa: E402

import xchunk  # noqa: E402


def held() -> int:
    """Forget the peak so far; return what this process holds."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    """Return the most that this process held."""
    return status("VmHWM")


def libraries() -> None:
    """Load what a task needs, pipelines of other packages included, which zarr loads unasked."""
    import deflate  # noqa: F401
    import zarr.registry

    import xchunk.engine.graph  # noqa: F401

    zarr.registry.get_pipeline_class()


def on_workers(threads: int) -> Any:
    """Start two workers."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=threads, memory_limit=0, dashboard_address=None
    )
    return Client(cluster)


def main(folder: str, target: str, max_mem: str, threads: str, where: str) -> None:
    """Rechunk maps to series, and measure."""
    names = sorted(str(p) for p in Path(folder).glob("*.nc"))
    what = {"t": -1, "y": 19, "x": 20}
    remote = where == "workers"
    with (
        on_workers(int(threads)) if remote else nullcontext() as client,
        dask.config.set(num_workers=int(threads)),
    ):
        ds = xchunk.open_dataset(names, max_mem=int(max_mem))
        plan = ds.chunking.plan(what, store=target, max_mem=int(max_mem))
        if remote:
            client.run(libraries)
        before = client.run(held) if remote else {"": held()}
        plan.run(progress=False)
        after = client.run(peak) if remote else {"": peak()}
        if remote:
            client.cluster.close()
    grown = max(after[name] - before[name] for name in before)
    sys.stdout.write(
        json.dumps({"grown": grown, "projected": plan.projected_mem, "family": plan["v"].family})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
