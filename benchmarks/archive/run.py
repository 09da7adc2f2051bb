"""Archives of many netCDF files: rechunked, read lazily and opened, by xchunk and its peers.

::

    python benchmarks/archive/run.py                             # the whole table
    python benchmarks/archive/run.py --only archive,open --repeat 1
    git worktree add /tmp/earlier b2036bb                        # beside an earlier build
    python benchmarks/archive/run.py --earlier /tmp/earlier/src

Whole processes are compared, imports included: seconds on the clock and of the processors, and
the growth of a process at its peak, once its libraries are loaded and the files are open. The
contenders of a case take turns, and what is printed are medians, their ratios, and what is asked
of them. All run with two threads. Targets are compared with the stored integers, means and
series with each other.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

HERE = Path(__file__)
BUDGET = "150MB"
TARGET = {"time": 720, "lat": 20, "lon": 30}
GRID, SMALL_GRID = (300, 600), (60, 120)
#: What is rechunked as one file, of `benchmarks/rechunk/cases.py`, and within how many bytes.
ONE, ONE_BUDGET = "packed-netcdf", 190_000_000
#: Workers of the cluster, and the memory of each.
WORKERS, LIMIT = 2, "700MiB"
_SAME: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}

#: The contenders of each case, the first of which the others are compared with.
CASES: dict[str, tuple[str, ...]] = {
    "archive": ("xchunk", "xchunk-open", "earlier", "dask"),
    "one": ("xchunk", "earlier", "nccopy"),
    "mean": ("xchunk", "netcdf4"),
    "series": ("xchunk", "netcdf4"),
    "open": ("xchunk", "xarray"),
    "cluster": ("xchunk",),
}
#: What each case reads: files, times in each, and its grid.
FILES = {
    "archive": (24, 60, GRID),
    "mean": (24, 60, GRID),
    "series": (24, 60, GRID),
    "open": (1000, 4, SMALL_GRID),
    "cluster": (400, 11, GRID),
}
#: What is asked of medians: of a figure of one contender, as a part of another's (none: as it is).
ASKED: tuple[tuple[str, str, str, str, str, float], ...] = (
    ("archive", "wall", "dask", "xchunk", "≥", 4),
    ("archive", "wall", "dask", "xchunk-open", "≥", 4),
    ("archive", "CPU", "xchunk", "earlier", "≤", 0.35),
    ("archive", "wall", "xchunk", "earlier", "≤", 0.3),
    ("archive", "growth", "xchunk", "", "≤", 150e6),
    ("archive", "growth", "xchunk-open", "", "≤", 150e6),
    ("one", "wall", "xchunk", "earlier", "≤", 0.6),
    ("one", "CPU", "xchunk", "earlier", "≤", 0.8),
    ("mean", "wall", "xchunk", "netcdf4", "≤", 0.55),
    ("series", "wall", "xchunk", "netcdf4", "≤", 0.55),
    ("open", "wall", "xchunk", "xarray", "≤", 0.5),
    ("cluster", "lost", "xchunk", "", "≤", 0),
    ("cluster", "spilled", "xchunk", "", "≤", 0),
    ("cluster", "peak", "xchunk", "", "≤", 0.6),
)


def make(folder: Path, files: int, times: int, grid: tuple[int, int]) -> None:
    """Write files of weather: smooth fields, waves and noise, packed; one time in a chunk."""
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(-1, 1, grid[0]), np.linspace(0, 2 * np.pi, grid[1])
    packed = {
        "dtype": "i2",
        "scale_factor": 0.01,
        "add_offset": 280.0,
        "_FillValue": -32768,
        "zlib": True,
        "complevel": 4,
        "shuffle": True,
        "chunksizes": (1, *grid),
    }
    folder.mkdir(parents=True)
    for number in range(files):
        time_ = np.arange(number * times, (number + 1) * times)
        phase = time_[:, None, None] / 7
        field = 280 + 25 * np.cos(2 * lat)[None, :, None] + 4 * np.sin(lon + phase)
        values = (field + rng.normal(0, 0.3, (times, *grid))).astype("f4")
        ds = xr.Dataset(
            {"t2m": (("time", "lat", "lon"), values, {"units": "K"})},
            coords={"time": time_, "lat": lat, "lon": lon},
        )
        ds.time.attrs["units"] = "days since 2000-01-01"
        ds.to_netcdf(folder / f"t2m_{number:04}.nc", engine="netcdf4", encoding={"t2m": packed})


def source_of(case: str, folder: Path) -> Path:
    """Return what a case reads, made if it is not there."""
    if case == "one":
        sys.path.insert(0, str(HERE.parent.parent / "rechunk"))
        cases = importlib.import_module("cases")
        path = folder / f"{ONE}.nc"
        if not path.exists():
            cases.make(cases.CASES[ONE], path)
        return path
    files, times, grid = FILES[case]
    path = folder / f"{files}x{times}"
    if not path.exists():
        make(path, files, times, grid)
    return path


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


class _Grown:
    """By how much this process grows, at its peak, from now on."""

    def __init__(self) -> None:
        self.before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")

    def __call__(self) -> int:
        return _memory("VmHWM") - self.before


def _with_xarray(files: list[str]) -> xr.Dataset:
    return xr.open_mfdataset(files, engine="netcdf4", chunks={}, join="override", **_SAME)


def measure(case: str, contender: str, source: Path, target: Path) -> dict[str, Any]:
    """Run one contender in this process; report what its parent cannot see."""
    import dask
    import dask.array
    import netCDF4  # noqa: F401 - all libraries are loaded before growth is counted
    import zarr  # noqa: F401

    import xchunk

    dask.config.set(scheduler="threads", num_workers=2)
    if case == "cluster":
        return on_cluster(source, target)
    if case == "one":
        ds = xr.open_dataset(source, engine="netcdf4", chunks={}, decode_cf=False)
        grown = _Grown()
        chunks = {"v": {"time": -1, "lat": 19, "lon": 20}}
        ds.chunking.apply(chunks, store=target, max_mem=ONE_BUDGET, progress=False)
        return {"growth": grown()}
    files = sorted(str(p) for p in source.glob("*.nc"))
    clock = time.perf_counter()
    if case == "archive":
        ours = contender == "xchunk-open"
        ds = xchunk.open_dataset(files, max_mem=BUDGET) if ours else _with_xarray(files)
        grown, opened = _Grown(), time.perf_counter() - clock
        if contender == "dask":
            whole = ds.chunk(TARGET)
            whole.t2m.encoding["chunks"] = tuple(TARGET[str(d)] for d in ds.t2m.dims)
            whole.t2m.encoding.pop("preferred_chunks", None)
            whole.to_zarr(target)
        else:
            ds.chunking.apply(TARGET, store=target, max_mem=BUDGET, progress=False)
        return {"growth": grown(), "opened": opened}
    grown = _Grown()
    ds = xchunk.open_dataset(files) if contender == "xchunk" else _with_xarray(files)
    opened = time.perf_counter() - clock
    if case != "open":
        t2m = ds.t2m.mean("time") if case == "mean" else ds.t2m.isel(lat=100, lon=200)
        np.save(target.with_suffix(".npy"), t2m.values)
    return {"growth": grown(), "opened": opened}


def on_cluster(source: Path, target: Path) -> dict[str, Any]:
    """Rechunk on small workers; count those that are lost, what they spill, and their peak."""
    import dask
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster

    import xchunk

    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, memory_limit=LIMIT,
                     dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        files = sorted(str(p) for p in source.glob("*.nc"))
        before = set(client.scheduler_info(n_workers=-1)["workers"])
        clock = time.perf_counter()
        ds = xchunk.open_dataset(files)
        ds.chunking.apply(TARGET, store=target, progress=False)
        seconds = time.perf_counter() - clock
        after = set(client.scheduler_info(n_workers=-1)["workers"])
        metrics = client.run_on_scheduler(
            lambda dask_scheduler: dict(dask_scheduler.cumulative_worker_metrics)
        )
        spilled = sum(
            n for key, n in metrics.items() if "disk-write" in str(key) and "bytes" in str(key)
        )
        peak = max(client.run(_memory, "VmHWM").values())
    return {
        "seconds": seconds,
        "lost": len(before - after),
        "spilled": spilled,
        "peak": peak / parse_bytes(LIMIT),
        "growth": peak,
    }


def commands(case: str, contender: str, source: Path, target: Path) -> list[str]:
    """Return what is run for a contender."""
    if contender == "nccopy":
        chunks = "time/1460,lat/19,lon/20"
        return ["nccopy", "-c", chunks, "-d", "1", "-s", str(source), str(target)]
    return [sys.executable, str(HERE), "--measure", case, contender, str(source), str(target)]


def run(
    case: str, contender: str, source: Path, target: Path, earlier: Path | None
) -> dict[str, Any] | str:
    """Run a contender in a process of its own; return what it took, or why it failed."""
    # as installed packages are, modules are compiled before
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if contender == "earlier":
        env["PYTHONPATH"] = str(earlier)
    clock = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = commands(case, contender, source, target)
        child = subprocess.Popen(command, stdout=out, stderr=err, env=env)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - clock
        out.seek(0)
        err.seek(0)
        lines = out.read().splitlines()
        if child.returncode:
            return err.read().strip()[-400:]
    facts = {} if contender == "nccopy" else json.loads(lines[-1])
    return {"wall": wall, "CPU": used.ru_utime + used.ru_stime, "growth": 0, **facts}


def same(case: str, source: Path, targets: dict[str, Path]) -> str:
    """Say whether all contenders have made the same, and the right values."""
    import zarr

    if case in ("archive", "cluster"):
        files, rows = sorted(source.glob("*.nc")), TARGET["time"]
        found = {t.name: zarr.open_array(t / "t2m", mode="r") for t in targets.values()}
        held, start = np.empty((0, *GRID), "i2"), 0
        for number, path in enumerate(files):
            with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as ds:
                held = np.concatenate([held, ds.t2m.values])
            while len(held) >= rows or (number == len(files) - 1 and len(held)):
                for name, array in found.items():
                    part = array[start : start + rows]
                    if part.dtype != np.int16 or not np.array_equal(part, held[:rows]):
                        return f"OTHER VALUES in {name}"
                held, start = held[rows:], start + rows
        return "all the same bits"
    if case in ("mean", "series"):
        first, *others = (np.load(t.with_suffix(".npy")) for t in targets.values())
        close = all(np.allclose(first, o, rtol=1e-12, equal_nan=True) for o in others)
        return "all the same values" if close else "OTHER VALUES"
    return ""


def line(contender: str, figures: dict[str, Any], first: dict[str, Any]) -> str:
    """Write what a contender took, with its ratio to the first one."""
    texts = [
        f"wall {figures['wall']:6.1f} s ({figures['wall'] / first['wall']:.2f})",
        f"CPU {figures['CPU']:6.1f} s ({figures['CPU'] / first['CPU']:.2f})",
    ]
    if figures["growth"]:
        texts.append(f"growth {figures['growth'] / 1e6:5.0f} MB")
    if "opened" in figures:
        texts.append(f"opened in {figures['opened']:.2f} s")
    return f"  {contender:12} " + "  ".join(texts)


def compare(case: str, folder: Path, repeat: int, earlier: Path | None) -> None:
    """Run a case and print its part of the table."""
    source = source_of(case, folder)
    skipped = {"earlier"} if earlier is None else set()
    skipped |= set() if shutil.which("nccopy") else {"nccopy"}
    who = [c for c in CASES[case] if c not in skipped]
    runs: dict[str, list[dict[str, Any]]] = {c: [] for c in who}
    targets: dict[str, Path] = {}
    print(f"\n{case}: {source.name}", flush=True)
    for _ in range(repeat):
        for contender in who:
            target = folder / f"out-{case}-{contender}"
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
            found = run(case, contender, source, target, earlier)
            if isinstance(found, str):
                print(f"  {contender} failed: {found}", flush=True)
                continue
            runs[contender].append(found)
            targets[contender] = target
    medians = {
        c: {k: statistics.median(one[k] for one in r) for k in r[0]} for c, r in runs.items() if r
    }
    for contender, figures in medians.items():
        print(line(contender, figures, medians[next(iter(medians))]))
    for contender in sorted(skipped & set(CASES[case])):
        print(f"  {contender} is left out: it is not there")
    print(f"  {same(case, source, targets)}")
    for one, what, who_, by, sign, bound in ASKED:
        if one != case or not {who_, by} <= {*medians, ""}:
            continue
        got = medians[who_][what] / (medians[by][what] if by else 1)
        met = got >= bound if sign == "≥" else got <= bound
        text = f"{what} of {who_}" + (f", by that of {by}" if by else "")
        print(f"  {text}: {got:.3g} (asked {sign} {bound:g}){'' if met else '  NOT MET'}")
    for target in targets.values():
        shutil.rmtree(target, ignore_errors=True)
        for path in (target, target.with_suffix(".npy")):
            path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(CASES), help="cases, with commas between")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--earlier", type=Path, help="the src folder of an earlier build")
    parser.add_argument("--folder", type=Path, help="where sources are kept for the next run")
    parser.add_argument("--measure", nargs=4, metavar=("CASE", "CONTENDER", "SOURCE", "TARGET"))
    args = parser.parse_args()
    if args.measure:
        case, contender, source, target = args.measure
        print(json.dumps(measure(case, contender, Path(source), Path(target))))
        return
    with tempfile.TemporaryDirectory() as there:
        folder = args.folder or Path(there)
        folder.mkdir(parents=True, exist_ok=True)
        for case in args.only.split(","):
            compare(case, folder, args.repeat, args.earlier)


if __name__ == "__main__":
    main()
