"""Write what is not stored in a process of its own, and say by how much the process grew.

Run as ``python computed_child.py CASE MAX_MEM``; prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Self

warnings.simplefilter("ignore")

import dask  # noqa: E402
import dask.array as da  # noqa: E402
import numpy as np  # noqa: E402
import xarray as xr  # noqa: E402
from child import status  # noqa: E402

import xchunk  # noqa: E402, F401


def case(name: str) -> tuple[xr.Dataset, dict[str, Any]]:
    """Return what is written, and its chunks."""
    if name == "generated index":
        labels = xr.Coordinates.from_xindex(xr.indexes.RangeIndex.arange(5_000_000, dim="x"))
        ds = xr.Dataset({"a": ("x", da.zeros(5_000_000, chunks=500_000, dtype="i1"))})
        return ds.assign_coords(labels), {"x": 500_000}
    if name == "numpy":
        return xr.Dataset({"a": (("y", "x"), np.ones((4000, 4000)))}), {"y": -1, "x": 20}
    if name == "blocks":
        return xr.Dataset({"a": (("y", "x"), da.ones((4000, 4000), chunks=(4000, 50)))}), {
            "y": 50,
            "x": -1,
        }
    if name.startswith("long strings"):
        if name == "long strings":
            return long_strings(), {"x": 5}
        source = Path(tempfile.mkdtemp()) / "source.zarr"
        # made in another process, since a heap that was once full says little of what is added
        subprocess.run([sys.executable, __file__, "make", str(source)], check=True)
        lazy = None if name.endswith("lazy") else {}
        return xr.open_zarr(source, consolidated=False, chunks=lazy), {"x": 5}
    raise LookupError(name)


def long_strings() -> xr.Dataset:
    """Return a hundred texts of a megabyte each."""
    values = np.array([chr(97 + i % 26) * 1_000_000 for i in range(100)], dtype=object)
    return xr.Dataset({"a": ("x", values.astype(np.dtypes.StringDType()))})


class Watch:
    """Notes by how much the process has grown when all is written, and not opened yet."""

    def __enter__(self) -> Self:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is no peak of ours
        self.before = status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.written = status("VmHWM") - self.before

    def update(self, **_: Any) -> None:
        """Take no notice of what is done."""


def main(name: str, max_mem: str) -> None:
    ds, chunks = case(name)
    target = Path(tempfile.mkdtemp()) / "out.zarr"
    with dask.config.set(num_workers=2):
        ds.chunking.plan(chunks, store=target, max_mem=int(max_mem))
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is no peak of ours
        before = status("VmRSS")
        watch = Watch()
        ds.chunking.apply(chunks, store=target, max_mem=int(max_mem), progress=watch)
        grown = status("VmHWM") - before
    sys.stdout.write(json.dumps({"grown": grown, "written": watch.written}))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        long_strings().to_zarr(
            sys.argv[2], zarr_format=3, consolidated=False, encoding={"a": {"chunks": (4,)}}
        )
    else:
        main(*sys.argv[1:])
