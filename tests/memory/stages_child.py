"""Rechunk a store in a process of its own, and say by how much the process that copies grew.

Run as ``python stages_child.py SOURCE TARGET MAX_MEM THREADS WHERE [CHUNKS]``; prints a line of
JSON. WHERE is ``threads`` or ``workers``, CHUNKS is JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext

warnings.simplefilter("ignore")

import dask  # noqa: E402
import xarray as xr  # noqa: E402
from joined_child import held, libraries, on_workers, peak  # noqa: E402

import xchunk  # noqa: E402, F401

SERIES = {"t": -1, "y": 100, "x": 100}


def main(source: str, target: str, max_mem: str, threads: str, *options: str) -> None:
    """Rechunk, and measure."""
    where, *own = options
    remote, chunks = where == "workers", json.loads(own[0]) if own else SERIES
    with (
        on_workers(int(threads)) if remote else nullcontext() as client,
        dask.config.set(num_workers=int(threads)),
    ):
        ds = xr.open_zarr(source, consolidated=False)
        job = ds.chunking.plan(chunks, store=target, max_mem=int(max_mem))
        if client is not None:
            client.run(libraries)
        before = [held()] if client is None else list(client.run(held).values())
        job.run(progress=False)
        after = [peak()] if client is None else list(client.run(peak).values())
    sys.stdout.write(
        json.dumps(
            {
                "grown": max(b - a for a, b in zip(before, after, strict=True)),
                "projected": job.projected_mem,
                "stages": [len(one.stages) for one in job.plan.arrays],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
