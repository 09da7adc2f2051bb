"""Go over suggested blocks of a zarr store in a process of its own, and say by how much it grew.

Run as ``python lazy_child.py STORE ACCESS MAX_MEM``; prints the bytes. ``python lazy_child.py make
STORE SHARDS`` makes the store.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import dask  # noqa: E402
import numpy as np  # noqa: E402
import zarr  # noqa: E402
from child import status  # noqa: E402

import xchunk  # noqa: E402


def make(name: str, shards: list[int] | None) -> None:
    values = np.random.default_rng(0).normal(size=(120, 366, 720)).astype("f4")
    group = zarr.create_group(name)
    array = group.create_array(
        "t", shape=values.shape, dtype="f4", chunks=(4, 61, 180),
        shards=None if shards is None else tuple(shards), dimension_names=("time", "y", "x"),
    )  # fmt: skip
    array[...] = values
    zarr.consolidate_metadata(name)


def main() -> None:
    if sys.argv[1] == "make":
        make(sys.argv[2], json.loads(sys.argv[3]))
        return
    store, access, max_mem = sys.argv[1:]
    ds = xchunk.open_dataset(store, json.loads(access), max_mem=int(max_mem))
    # what is loaded for the first block of all stays
    ds.t[:1, :1, :1].max().compute(scheduler="synchronous")
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    with dask.config.set(scheduler="threads", num_workers=2):
        ds.t.max("time").compute()
    sys.stdout.write(str(status("VmHWM") - before))


main()
