"""Rechunk through a store that takes its time for each request, beside dask.

::

    python benchmarks/rechunk/latency.py --ms 5 50 200

Source, scratch and target lie in files behind a store that waits before each request, as a
store does that is far. Each contender runs in a process of its own, which tells its wall time,
CPU time, growth, and the requests that the store has counted. The least is what 64 requests at
once and all cores, busy all the time, would take for the same requests and CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import dask
import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore
from zarr.testing.store import LatencyStore

import xchunk  # noqa: F401

SHAPE, CHUNKS = (730, 180, 360), (1, 180, 360)
TARGET = {"time": -1, "lat": 30, "lon": 30}
#: Requests that the least has in flight.
AT_ONCE = 64


class Far(LatencyStore):
    """Counts all requests, lets each wait, and can only be asked by an event loop.

    zarr's own test store lets only reads and writes wait.
    """

    _supports_sync_io = False
    seen: ClassVar[Counter[str]] = Counter()
    now: ClassVar[int] = 0
    most: ClassVar[int] = 0

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        with _Flight(f"get {_kind(key)}"):
            return await super().get(key, *args, **kwargs)

    async def set(self, key: str, *args: Any, **kwargs: Any) -> None:
        with _Flight(f"set {_kind(key)}"):
            await super().set(key, *args, **kwargs)

    async def exists(self, key: str) -> bool:
        with _Flight("exists"):
            await asyncio.sleep(self.get_latency)
            return await super().exists(key)

    async def delete(self, key: str) -> None:
        with _Flight("delete"):
            await asyncio.sleep(self.get_latency)
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with _Flight("delete"):
            await asyncio.sleep(self.get_latency)
            await super().delete_dir(prefix)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with _Flight("list"):
            await asyncio.sleep(self.get_latency)
        async for key in super().list_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with _Flight("list"):
            await asyncio.sleep(self.get_latency)
        async for key in super().list_dir(prefix):
            yield key


class _Flight:
    """Counts one request while it is under way; all of them run on zarr's one event loop."""

    def __init__(self, kind: str):
        self.kind = kind

    def __enter__(self) -> None:
        Far.seen[self.kind] += 1
        Far.now += 1
        Far.most = max(Far.most, Far.now)

    def __exit__(self, *_: object) -> None:
        Far.now -= 1


def _kind(key: str) -> str:
    if "journal" in key:
        return "journal"
    if "/c/" not in key:
        return "other"
    return "scratch" if key.startswith(".xchunk/") else "chunks"


def made(path: Path) -> None:
    """Make the source."""
    group = zarr.open_group(path, mode="w")
    values = np.random.default_rng(0).normal(size=SHAPE).astype("f4").round(2)
    array = group.create_array(
        "v", shape=SHAPE, chunks=CHUNKS, dtype="f4", dimension_names=("time", "lat", "lon")
    )
    array[:] = values
    zarr.consolidate_metadata(path)


def far(path: Path, ms: float) -> Far:
    return Far(LocalStore(path), get_latency=ms / 1000, set_latency=ms / 1000)


def status(field: str) -> int:
    """Read a field of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def child(who: str, source: Path, target: Path, *, ms: float, max_mem: str, threads: int) -> None:
    """Rechunk once; print what was measured."""
    warnings.simplefilter("ignore")
    dask.config.set(scheduler="threads", num_workers=threads)
    ds = xr.open_zarr(far(source, ms), chunks={}, decode_cf=False)
    to, told = far(target, ms), {}
    if who == "xchunk":
        plan = ds.chunking.plan(TARGET, store=to, max_mem=max_mem)["v"]
        pieces = sum(s.work.objects for s in plan.stages[:-1])
        told = {
            "plan": f"{plan.family}, boxes {[s.boxes.count for s in plan.stages]}, "
            f"{plan.threads} tasks at once, each with "
            f"{[(s.buffers.reads, s.buffers.writes) for s in plan.stages]} requests",
            "planned": plan.work.requests,
            "least": plan.work.decodes + 2 * pieces + plan.stages[-1].work.objects,
            "predicted": plan.seconds,
        }
    Far.seen.clear()
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, began = status("VmRSS"), time.process_time(), time.perf_counter()
    if who == "xchunk":
        ds.chunking.apply(TARGET, store=to, max_mem=max_mem, progress=False)
    else:
        ds.chunk(TARGET).drop_encoding().to_zarr(to, zarr_format=3)
    measured = {
        "wall": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "grown": status("VmHWM") - before,
        "requests": dict(Far.seen),
        "at_once": Far.most,
        "running": threading.active_count(),
    }
    print(json.dumps(measured | told))


def show(who: str, ms: float, cores: int, m: dict[str, Any]) -> None:
    count = sum(m["requests"].values())
    least = count / AT_ONCE * ms / 1000 + m["cpu"] / cores
    print(f"{who}, {ms:g} ms: {m['wall']:.1f} s = {m['wall'] / least:.2f} x the least, "
          f"{least:.1f} s; CPU {m['cpu']:.1f} s; {count} requests, {m['at_once']} at once at most, "
          f"{count * ms / 1000 / m['wall']:.1f} on average; "
          f"grew by {m['grown'] / 1e6:.0f} MB")  # fmt: skip
    if "plan" in m:
        ours = ("chunks", "scratch")
        counted = sum(v for k, v in m["requests"].items() if k.split()[-1] in ours)
        print(f"  {m['plan']}; requests for chunks: {counted} counted, {m['planned']} planned, "
              f"{m['least']} the least of such a plan; "
              f"{m['predicted']:.1f} s predicted")  # fmt: skip
    print(f"  {m['requests']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ms", type=float, nargs="+", default=[20], help="of each request")
    parser.add_argument("--max-mem", default="60MB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="where the stores are, best in memory (/dev/shm)")
    parser.add_argument("--only", choices=["xchunk", "dask"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, source, target = options.child
        given = {"ms": options.ms[0], "max_mem": options.max_mem, "threads": options.threads}
        child(who, Path(source), Path(target), **given)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder) / "source.zarr"
        made(source)
        for ms in options.ms:
            contenders = [("xchunk", options.threads), ("dask", options.threads), ("dask", 32)]
            for who, threads in contenders:
                if options.only in (None, who):
                    target = Path(folder) / f"{who}-{threads}-{ms}.zarr"
                    given = {"ms": ms, "max_mem": options.max_mem, "threads": threads}
                    measured = run(who, source, target, **given)
                    show(f"{who} with {threads} threads", ms, options.threads, measured)
                    same(source, target)


def run(
    who: str, source: Path, target: Path, *, ms: float, max_mem: str, threads: int
) -> dict[str, Any]:
    call = [sys.executable, __file__, "--child", who, str(source), str(target), "--ms", str(ms)]
    call += ["--max-mem", max_mem, "--threads", str(threads)]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def same(source: Path, target: Path) -> None:
    a, b = (zarr.open_group(path, mode="r")["v"] for path in (source, target))
    assert np.array_equal(a[:], b[:]), f"{target} differs"


if __name__ == "__main__":
    main()
