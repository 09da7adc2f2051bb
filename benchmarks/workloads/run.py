"""Predictions of workloads against what they really take.

Every cell (workload, chunks) is predicted without running it, and then run in processes of
its own: counting tasks, chunk reads and the heap, for the peak of the process's memory with
malloc trimming (heap2, rss2 and rss3 are repetitions: threads race, and the highest peak
counts), and on a cluster of two workers of one thread (cluster2 and cluster3 are repetitions,
since its scheduler's choices differ from run to run).

    python benchmarks/workloads/run.py [--set maps] [--only mean,std] [--chunks series,maps]
        [--kinds predict,heap,heap2,rss,rss2,rss3,cluster,cluster2] [--out results.json]
        [--pick picks.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KINDS = ("predict", "heap", "rss", "cluster")
THREADS = 2
MB = 1e6
#: Seconds of one cell, after which it is stopped.
PATIENCE = 600


# ----------------------------------------------------------------- one cell, in its process


def cell(kind: str, workload: str, chunks: str, path: str) -> dict[str, Any]:
    """Predict or run one cell."""
    import xarray as xr
    from workloads import SETS

    warnings.simplefilter("ignore")
    data = next(d for d in SETS.values() if workload in d.workloads)
    function = data.workloads[workload]
    blocks = data.chunkings[chunks] if chunks in data.chunkings else json.loads(chunks)
    if kind == "suggest":
        ds = xr.open_zarr(path, chunks=None, consolidated=False)
        return suggest(function, ds, data.allowed)
    if kind.startswith("heap"):
        return run_heap(function, path, blocks)
    if kind.startswith("stage"):
        return run_stage(path, blocks, data.allowed)
    ds = xr.open_zarr(path, chunks=blocks, consolidated=False)
    if kind == "predict":
        return predict_cell(function, ds)
    if kind.startswith("rss"):
        return run_rss(function, ds)
    return run_cluster(function, ds)


def predict_cell(function: Any, ds: Any) -> dict[str, Any]:
    from xchunk.simulate.predict import predict

    start = time.perf_counter()
    lazy = function(ds)
    out = predict(lazy, threads=THREADS).to_dict()
    out["took"] = time.perf_counter() - start
    cluster = predict(lazy, threads=1, workers=2).to_dict()
    out["cluster"] = {k: cluster[k] for k in ("worker_heap", "moved", "seconds")}
    return out


def suggest(function: Any, ds: Any, allowed: int) -> dict[str, Any]:
    import xchunk  # noqa: F401 - it gives Datasets their accessor

    start = time.perf_counter()
    found = ds.chunking.suggest(workload=function, max_mem=allowed)
    took = time.perf_counter() - start
    return {"took": took, **found.to_dict()}


def work(lazy: Any) -> Any:
    """What to compute: a small result as it is, a large one block by block into nothing."""
    import dask.array as da

    from xchunk.core.suggest.decision import SMALL
    from xchunk.simulate.lazy import dask_arrays
    from xchunk.simulate.standin import Discard

    arrays = list(dask_arrays(lazy))
    if sum(a.nbytes for a in arrays) <= SMALL:
        return arrays
    targets = [Discard(a.shape, a.dtype) for a in arrays]
    return da.store(arrays, targets, lock=False, compute=False)


def warm(function: Any, ds: Any) -> None:
    """Import what the workload needs, and let libraries make their pools."""
    import dask

    small = ds.isel(time=slice(0, 100), lat=slice(0, 8), lon=slice(0, 8)).load().chunk()
    dask.compute(work(function(small)), scheduler="threads", num_workers=THREADS)
    dask.compute(ds.t2m[:2, :2, :2].data, scheduler="threads", num_workers=THREADS)


def run_heap(function: Any, path: str, blocks: dict[str, int]) -> dict[str, Any]:
    import dask
    import xarray as xr
    from dask.callbacks import Callback
    from workloads import READS, Counting
    from zarr.storage import LocalStore

    from xchunk.simulate.signature import arrays_in, root_of

    store = Counting(LocalStore(path, read_only=True))
    ds = xr.open_zarr(store, chunks=blocks, consolidated=False)
    lazy = function(ds)
    what = work(lazy)
    warm(function, ds)
    READS.update(n=0)
    live = {"now": 0, "peak": 0, "tasks": 0}

    def count(*seen: Any) -> None:
        state = seen[3]
        live["tasks"] += 1
        roots = {}
        if live["tasks"] % 10 == 0 or len(state["cache"]) < 300:
            for v in state["cache"].values():
                for a in arrays_in(v):
                    roots[id(root_of(a))] = getattr(root_of(a), "nbytes", a.nbytes)
            live["peak"] = max(live["peak"], sum(roots.values()))

    import gc

    gc.collect()
    tracemalloc.start(1)
    base = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    start = time.perf_counter()
    with Callback(posttask=count):
        dask.compute(what, scheduler="threads", num_workers=THREADS)
    return {
        "seconds": time.perf_counter() - start,
        "heap": tracemalloc.get_traced_memory()[1] - base,
        "tasks": live["tasks"],
        "live": live["peak"],
        "decodes": READS["n"],
    }


def run_rss(function: Any, ds: Any) -> dict[str, Any]:
    import dask

    what = work(function(ds))
    warm(function, ds)
    Path("/proc/self/clear_refs").write_text("5")
    base = _status("self", "VmRSS")
    start, work_start = time.perf_counter(), time.process_time()
    dask.compute(what, scheduler="threads", num_workers=THREADS)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - work_start,
        "rss": _status("self", "VmHWM") - base,
    }


def run_stage(path: str, asked: dict[str, Any], allowed: int) -> dict[str, Any]:
    """Rechunk the variables as a suggestion says."""
    import xarray as xr

    import xchunk  # noqa: F401 - it gives Datasets their accessor

    ds = xr.open_zarr(path, chunks=None, consolidated=False)[list(asked["chunks"])]
    start, work_start = time.perf_counter(), time.process_time()
    ds.chunking.apply(asked["chunks"], store=asked["store"], max_mem=allowed, progress=False)
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - work_start}


def run_cluster(function: Any, ds: Any) -> dict[str, Any]:
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.worker.memory.spill": False})
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="4GB", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        what = work(function(ds))
        client.run(warm, function, ds.isel(time=slice(0, 100)))
        base = client.run(_base)
        start = time.perf_counter()
        dask.compute(what)
        seconds = time.perf_counter() - start
        peak = client.run(_status, "self", "VmHWM")
        moved = client.run(_moved)
        return {
            "seconds": seconds,
            "fullest": max(peak[w] - base[w] for w in peak),
            "moved": sum(moved.values()),
        }


def _base() -> int:
    import gc

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("self", "VmRSS")


def _moved(dask_worker: Any) -> int:
    return int(sum(e["total"] for e in dask_worker.transfer_incoming_log))


def _status(pid: str, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


# ------------------------------------------------------------------------------ all cells


def run(kind: str, workload: str, chunks: str, path: Path) -> dict[str, Any]:
    """Run one cell in a process of its own."""
    # The allocator gives memory back at once, so that what is measured is what is used.
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--cell", kind, workload, chunks, "--data", str(path)],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {PATIENCE} s"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:] or ["?"]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(found: dict[str, Any]) -> str:
    """Show predictions beside measurements."""
    head = f"{'workload':12s}{'chunks':8s}{'tasks':>13s}{'decodes':>13s}{'live':>12s}{'heap':>14s}"
    head += f"{'off':>6s}{'rss':>12s}{'off':>6s}{'worker':>13s}{'off':>6s}{'moved':>12s}"
    lines = [head]
    for name, c in found.items():
        if not all(k in c and "error" not in c[k] for k in ("predict", "heap")):
            lines.append(f"{name}: {c}"[:160])
            continue
        p, h, k = c["predict"], c["heap"], c.get("cluster", {})
        workload, chunks = name.split("/")
        worker = p["cluster"]["worker_heap"]
        rss, fullest = highest(c), highest(c, "cluster", "fullest")
        heap = highest(c, "heap", "heap")
        lines.append(
            f"{workload:12s}{chunks:8s}{p['tasks']:6d}/{h['tasks']:6d}"
            f"{p['decodes']:6d}/{h['decodes']:6d}{p['live'] / MB:6.0f}/{h['live'] / MB:5.0f}"
            f"{p['heap'] / MB:7.0f}/{heap / MB:6.0f}{off(p['heap'], heap):>6s}"
            f"{p['rss'][0] / MB:6.0f}/{(rss or 0) / MB:5.0f}{off(p['rss'][0], rss):>6s}"
            f"{worker / MB:6.0f}/{(fullest or 0) / MB:6.0f}{off(worker, fullest):>6s}"
            f"{p['cluster']['moved'] / MB:6.0f}/{k.get('moved', 0) / MB:5.0f}"
        )
    return "\n".join(lines)


def highest(c: dict[str, Any], kind: str = "rss", what: str = "rss") -> int:
    """The highest peak of all repetitions."""
    return max((c[k].get(what, 0) for k in c if k.startswith(kind)), default=0)


def off(predicted: float, measured: float | None) -> str:
    return "" if not measured else f"{predicted / measured - 1:+.0%}"


def summary(found: dict[str, Any]) -> str:
    """The figures that are asked for."""

    def has(c: dict[str, Any], *kinds: str) -> bool:
        return all("error" not in c.get(k, {"error": ""}) for k in kinds)

    good = {n: c for n, c in found.items() if has(c, "predict", "heap", "rss")}
    lines = [f"{len(good)} cells of {len(found)}"]
    same = sum(
        c["predict"]["tasks"] == c["heap"]["tasks"]
        and c["predict"]["decodes"] == c["heap"]["decodes"]
        for c in good.values()
    )
    lines.append(f"tasks and decodes equal in {same} of {len(good)}")

    def within(what: str, pairs: dict[str, tuple[float, float]], limits: tuple[float, ...]) -> None:
        errors = {n: abs(p / m - 1) for n, (p, m) in pairs.items() if m > 0}
        by_workload: dict[str, float] = {}
        for n, e in errors.items():
            by_workload[n.split("/")[0]] = max(by_workload.get(n.split("/")[0], 0), e)
        for limit in limits:
            cells = sum(e <= limit for e in errors.values())
            every = sum(e <= limit for e in by_workload.values())
            lines.append(
                f"{what} within {limit:.0%}: {cells} of {len(errors)} cells; "
                f"in every cell of {every} of {len(by_workload)} workloads"
            )

    heap = {n: (c["predict"]["heap"], highest(c, "heap", "heap")) for n, c in good.items()}
    rss = {n: (c["predict"]["rss"][0], highest(c)) for n, c in good.items()}
    worker = {
        n: (c["predict"]["cluster"]["worker_heap"], highest(c, "cluster", "fullest"))
        for n, c in good.items()
        if has(c, "cluster")
    }
    within("heap", heap, (0.15, 0.30))
    within("rss", rss, (0.15, 0.30))
    within("fullest worker", worker, (0.15, 0.30))
    reads = {n: (c["predict"]["decodes"], c["heap"]["decodes"]) for n, c in good.items()}
    for what, pairs in (("heap", heap), ("rss", rss), ("reads", reads)):
        right = total = 0
        for (a, x), (b, y) in itertools.combinations(pairs.items(), 2):
            if a.split("/")[0] == b.split("/")[0] and abs(x[1] - y[1]) > 0.1 * max(x[1], y[1]):
                total += 1
                right += (x[0] < y[0]) == (x[1] < y[1])
        lines.append(f"which of two has more {what}: right in {right} of {total}")
    return "\n".join(lines)


def pick(workload: str, found: dict[str, Any], path: Path, allowed: int) -> dict[str, Any]:
    """Suggest chunks for a workload, run it with them, and compare the time with the others'."""
    suggestion = run("suggest", workload, "{}", path)
    if "error" in suggestion:
        return suggestion
    chosen = suggestion["variables"]["t2m"]
    chunks = chosen["chunks"]
    staged = {"seconds": 0.0, "cpu": 0.0}
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        read = path
        if chosen["action"] == "stage":
            read = Path(scratch) / "staged.zarr"
            new = {
                n: dict(zip(("time", "lat", "lon"), v["target_chunks"], strict=True))
                for n, v in suggestion["variables"].items()
                if v["action"] == "stage"
            }
            asked = {"chunks": new, "store": str(read)}
            staged = run("stage", workload, json.dumps(asked), path)
            if "error" in staged:
                return staged
        times = [run("rss", workload, json.dumps(chunks), read) for _ in range(2)]
        counted = run("heap", workload, json.dumps(chunks), read)
    cells = {
        name.split("/")[1]: [c[k] for k in c if k.startswith("rss") and "cpu" in c[k]]
        for name, c in found.items()
        if name.startswith(workload + "/")
    }
    others = {
        what: {
            n: min(r[what] for r in runs)
            for n, runs in cells.items()
            if runs and max(r["rss"] for r in runs) <= allowed
        }
        for what in ("seconds", "cpu")
    }
    return {
        "action": chosen["action"],
        "chunks": chunks,
        "staged": staged,
        "took": suggestion["took"],
        "tried": len(suggestion["outcomes"]),
        "predicted": suggestion["prediction"]["rss"][0],
        "told": suggestion["prediction"]["tasks"],
        "tasks": counted.get("tasks", 0),
        "rss": max(t.get("rss", 0) for t in times),
        "seconds": min(t.get("seconds", float("inf")) for t in times),
        "cpu": min(t.get("cpu", float("inf")) for t in times),
        "others": others["seconds"],
        "others_cpu": others["cpu"],
    }


def picks(found: dict[str, Any]) -> str:
    """Show what was picked, and its time beside those of other chunks."""
    lines = []
    for workload, p in found.items():
        if "error" in p:
            lines.append(f"{workload:12s} {p['error']}")
            continue
        best = min([p["seconds"], *p["others"].values()])
        least = min([p["cpu"], *p["others_cpu"].values()])
        times = ", ".join(f"{n} {t:.2f}" for n, t in p["others"].items())
        lines.append(
            f"{workload:16s} {p['chunks']!s:44s} {p['seconds']:6.2f} s ({times}): "
            f"{p['seconds'] / best:.2f} x the fastest, {p['cpu'] / least:.2f} x the least CPU "
            f"({p['cpu']:.2f} s); peak {p['predicted'] / MB:.0f}/{p['rss'] / MB:.0f} MB "
            f"{off(p['predicted'], p['rss'])}; tasks {p['told']}/{p['tasks']}; {p['action']}, "
            f"{p['tried']} tried in {p['took']:.0f} s"
            + (f"; rechunked in {p['staged']['seconds']:.2f} s" if p["action"] == "stage" else "")
        )
    return "\n".join(lines)


def main() -> None:
    from workloads import SETS, make

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", nargs=3)
    parser.add_argument("--set", choices=SETS, default="cubes")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--chunks")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pick", type=Path, help="suggest chunks, run with them, note it here")
    parser.add_argument("--again", action="store_true", help="measure what is in --out again")
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(cell(*args.cell, str(args.data))))
        return
    data = SETS[args.set]
    args.data = args.data or Path(tempfile.gettempdir()) / f"workloads-{args.set}.zarr"
    args.only = args.only or ",".join(data.workloads)
    args.chunks = args.chunks or ",".join(data.chunkings)
    if not args.data.exists():
        make(args.data, data.shape, data.stored)
    found: dict[str, Any] = {}
    if args.out and args.out.exists():
        found = json.loads(args.out.read_text())
    if args.pick:
        picked = json.loads(args.pick.read_text()) if args.pick.exists() else {}
        for workload in args.only.split(","):
            picked[workload] = pick(workload, found, args.data, data.allowed)
            print(picks({workload: picked[workload]}), flush=True)
            args.pick.write_text(json.dumps(picked, indent=1))
        print(picks(picked))
        return
    for workload, chunks in itertools.product(args.only.split(","), args.chunks.split(",")):
        one = found.setdefault(f"{workload}/{chunks}", {})
        for kind in args.kinds.split(","):
            if args.again or kind not in one or "error" in one[kind]:
                one[kind] = run(kind, workload, chunks, args.data)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1))
        print(table({f"{workload}/{chunks}": one}).splitlines()[-1], flush=True)
    print(table(found))
    print(summary(found))


if __name__ == "__main__":
    main()
