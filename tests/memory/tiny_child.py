"""Rechunk one series in a process of its own, and say by how much the process grew.

Run as ``python tiny_child.py SOURCE TARGET MAX_MEM LENGTH``; prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import dask  # noqa: E402
import dask.array  # noqa: E402
import xarray as xr  # noqa: E402
from child import status  # noqa: E402

import xchunk  # noqa: E402, F401


def main(source: str, target: str, max_mem: str, length: str) -> None:
    """Rechunk it, and measure."""
    ds = xr.open_zarr(source, chunks=None, consolidated=False)
    with dask.config.set(num_workers=2):
        job = ds.chunking.plan({"t": int(length)}, store=target, max_mem=int(max_mem))
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        job.run(progress=False)
        grown = status("VmHWM") - before
    sys.stdout.write(json.dumps({"grown": grown}))


if __name__ == "__main__":
    main(*sys.argv[1:])
