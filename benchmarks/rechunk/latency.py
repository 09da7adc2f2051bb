"""Rechunk through a store that takes its time: 20 ms for each request.

::

    python benchmarks/rechunk/latency.py

Source, scratch and target lie in memory behind zarr's own store for tests that adds latency.
Requests for chunks are counted and compared with the plan, with the least that any plan of its
kind can do (each stored chunk and each piece read once, each piece and each target chunk
written once), and with dask's ``.chunk().to_zarr()``. How well they overlap is told by the wait
of all requests together, divided by the time that the run took.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from typing import Any, ClassVar

import dask
import numpy as np
import xarray as xr
import zarr
from zarr.storage import MemoryStore
from zarr.testing.store import LatencyStore

import xchunk  # noqa: F401

SHAPE, CHUNKS = (200, 180, 360), (1, 180, 360)
TARGET = {"time": -1, "lat": 30, "lon": 30}


class Counted(MemoryStore):
    """Counts requests for chunks; read-only views of it count with it."""

    counters: ClassVar[dict[int, Counter[str]]] = {}

    @property
    def seen(self) -> Counter[str]:
        return self.counters.setdefault(id(self._store_dict), Counter())

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.seen[f"get {_kind(key)}"] += 1
        return await super().get(key, *args, **kwargs)

    async def set(self, key: str, *args: Any, **kwargs: Any) -> None:
        self.seen[f"set {_kind(key)}"] += 1
        await super().set(key, *args, **kwargs)


def _kind(key: str) -> str:
    if "/c/" not in key:
        return "other"
    return "scratch" if key.startswith(".xchunk/") else "chunks"


class Slow(LatencyStore):
    """Can only be asked by an event loop, as remote stores are: zarr would not wait otherwise."""

    _supports_sync_io = False


def slow(inner: Counted, latency: float) -> Slow:
    return Slow(inner, get_latency=latency, set_latency=latency)


def made() -> tuple[Counted, Any]:
    """Make the source, and return it with its values."""
    inner = Counted()
    group = zarr.open_group(inner, mode="w")
    values = np.random.default_rng(0).normal(size=SHAPE).astype("f4").round(2)
    array = group.create_array(
        "v", shape=SHAPE, chunks=CHUNKS, dtype="f4", dimension_names=("time", "lat", "lon")
    )
    array[:] = values
    zarr.consolidate_metadata(inner)
    inner.seen.clear()
    return inner, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.02, help="seconds")
    parser.add_argument("--max-mem", default="30MB")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    dask.config.set(scheduler="threads", num_workers=options.threads)

    source, values = made()
    target = Counted()
    to = slow(target, options.latency)
    ds = xr.open_zarr(slow(source, options.latency), chunks={}, decode_cf=False)
    plan = ds.chunking.plan(TARGET, store=to, max_mem=options.max_mem)["v"]
    source.seen.clear()
    target.seen.clear()
    began = time.perf_counter()
    ds.chunking.apply(TARGET, store=to, max_mem=options.max_mem, progress=False)
    wall = time.perf_counter() - began
    report("xchunk", source, target, wall, options.latency)
    pieces = sum(s.work.objects for s in plan.stages[:-1])
    least = plan.work.decodes + 2 * pieces + plan.stages[-1].work.objects
    kinds = ("get chunks", "set chunks", "get scratch", "set scratch")
    counted = sum((source.seen + target.seen)[k] for k in kinds)
    print(f"  {plan.family}, {[s.boxes.count for s in plan.stages]} boxes; requests for chunks: "
          f"{counted} counted, {plan.work.requests} planned, {least} the least of such a plan "
          f"= {counted / least:.3f}")  # fmt: skip

    assert np.array_equal(zarr.open_group(target, mode="r")["v"][:], values)

    source, _ = made()
    target = Counted()
    ds = xr.open_zarr(slow(source, options.latency), chunks={}, decode_cf=False)
    source.seen.clear()
    began = time.perf_counter()
    ds.chunk(TARGET).drop_encoding().to_zarr(slow(target, options.latency), zarr_format=3)
    report("dask", source, target, time.perf_counter() - began, options.latency)


def report(who: str, source: Counted, target: Counted, wall: float, latency: float) -> None:
    requests = sum(source.seen.values()) + sum(target.seen.values())
    waited = requests * latency
    print(f"{who}: {wall:.1f} s, {requests} requests = {waited:.1f} s of waiting, "
          f"{waited / wall:.1f} at once")  # fmt: skip
    print(f"  source {dict(source.seen)}; target {dict(target.seen)}")


if __name__ == "__main__":
    main()
