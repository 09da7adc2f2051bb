"""Ask everything of a file, in a process of its own; print how often it was opened."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr
from xarray.backends.file_manager import FILE_CACHE, CachingFileManager

import xchunk  # noqa: F401 - the accessor
from xchunk.sources import arrays

engine, folder = sys.argv[1], Path(sys.argv[2])
file = folder / "file.nc"
opened: set[object] = set()
init = CachingFileManager.__init__


def counting(self: CachingFileManager, opener: object, *args: object, **options: object) -> None:
    init(self, opener, *args, **options)
    # dask copies them to hash them: copies share one handle
    opened.add(self._key)


values = np.arange(1200, dtype="f4").reshape(40, 30)
made = xr.Dataset({"v": (("t", "y"), values), "name": ("t", [f"x{i}" for i in range(40)])})
if engine == "scipy":
    made.drop_vars("name").to_netcdf(file, engine=engine)
else:
    made.to_netcdf(file, engine=engine, encoding={"v": {"zlib": True, "chunksizes": (4, 30)}})
    made.to_netcdf(file, engine=engine, group="deep/er", mode="a")
CachingFileManager.__init__ = counting  # type: ignore[method-assign]


def ask(ds: xr.Dataset, name: str) -> None:
    out = folder / f"{name}.zarr"
    chunks = {"t": -1, "y": 5}
    how = {"max_mem": "60MB", "progress": False, "verify": True}
    for call in (
        ds.chunking.layout,
        lambda: ds.chunking.suggest("timeseries"),
        ds.chunking.check,
        lambda: ds.chunking.probe(seconds=0.2),
        lambda: ds.chunking.plan(chunks, store=out),
        lambda: ds.chunking.apply(chunks, store=out, **how),
        lambda: ds.chunking.verify(out),
        lambda: ds.chunking.append(out, dim="t", progress=False, check_labels=False),
    ):
        call()
        assert not arrays._files, "a call leaves files open"
    found = xr.open_zarr(out, chunks=None).v
    np.testing.assert_array_equal(found, np.concatenate([values, values]))


with xr.open_dataset(file, engine=engine, cache=False) as ds:
    ask(ds, "open")
    ask(ds.chunk(t=8), "blocks")
    # the user's handle is as it was
    assert len(FILE_CACHE) == 1
    np.testing.assert_array_equal(ds.v, values)
ask(ds[["v"]], "closed")
if engine != "scipy":
    assert len(FILE_CACHE) == 0, "what was closed is closed again"
    with xr.open_datatree(file, engine=engine, cache=False) as tree:
        ask(tree["deep/er"].to_dataset(), "group")
sys.stdout.write(f"{len(opened)}\n")
