"""Rechunk the same data with xchunk, its peers and bare codecs, and print the ratios.

::

    python benchmarks/rechunk/run.py                      # every case: floor, xchunk and dask
    python benchmarks/rechunk/run.py maps-to-series --parts 4,20,100 --peers rechunker,cubed

Whole processes are compared, imports included: CPU-seconds and wall time against those of
`floor.py` in the same run, and the peak of the process tree. The sources, the targets and the
peers' environments go to ``--folder``, which keeps sources and environments for the next run
(up to 15 GB), and what is written until the end, as long as 30 GB are free.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from cases import CASES, Case

HERE = Path(__file__).parent
#: What each peer is installed with; none of them shares an environment with another.
PEERS = {
    "rechunker": [
        "rechunker==0.5.4", "zarr==2.18.*", "xarray==2024.6.0", "dask==2024.6.*",
        "numcodecs<0.16", "numpy<2.3",
    ],
    "cubed": ["cubed==0.28.*", "zarr>=3.1"],
    "rechunkit": ["rechunkit==0.6.*", "zarr>=3.1", "xarray"],
}  # fmt: skip
OWN = ("xchunk", "dask")
#: What `contenders.py` knows beside the peers; a plan is made, and not timed.
OURS = (*OWN, "plan")
#: Bytes that have to be free on the disk for one more run.
ROOM = 30e9
#: Cases that go with a budget of their own, in bytes.
FIXED = {"growth-0.4": 100_000_000, "growth-6": 100_000_000}


@dataclass(frozen=True)
class Run:
    """What one process took."""

    cpu: float
    wall: float
    disk: float
    """Seconds until the target was on the disk, to which xchunk brings it before it commits."""
    peak: int
    grown: int
    failed: str
    facts: dict[str, Any]


def bring_to_disk(folder: Path) -> None:
    """Wait until all files in a folder are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def measure(command: Sequence[str | Path], target: Path, timeout: float) -> Run:
    """Run a command; count CPU-seconds and the peak of all its processes together."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    # as installed packages are, nobody's modules are compiled while it is measured
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.Popen(
        [str(c) for c in command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    peak = 0
    process = psutil.Process(child.pid)
    tree, looked = [process], began
    failed = ""
    while child.poll() is None:
        try:
            # to look for children takes a while, in which what is measured has one core less
            if time.perf_counter() - looked > 1:
                tree, looked = [process, *process.children(recursive=True)], time.perf_counter()
            peak = max(peak, sum(p.memory_info().rss for p in tree))
        except psutil.Error:
            tree = [process]
        if time.perf_counter() - began > timeout:
            failed = f"stopped after {timeout:.0f} s"
            for p in [*process.children(recursive=True), process]:
                p.kill()
        time.sleep(0.02)
    wall = time.perf_counter() - began
    out, err = child.communicate()
    bring_to_disk(target)
    disk = time.perf_counter() - began
    if child.returncode and not failed:
        failed = (err.strip().splitlines() or ["failed"])[-1][:200]
    facts = json.loads(out) if out.startswith("{") else {}
    grown = peak - facts["before"] if facts else 0
    total = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = total.ru_utime + total.ru_stime - spent.ru_utime - spent.ru_stime
    return Run(cpu, wall, disk, peak, grown, failed, facts)


def environment(peer: str, folder: Path) -> Path:
    """Return the Python of a peer's environment, made if it is not there."""
    python = folder / "envs" / peer / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "envs" / peer], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[peer]], check=True)
    return python


def source_of(case: Case, folder: Path, zarr_format: int = 3) -> Path:
    """Return the source of a case, made if it is not there."""
    suffix = ".nc" if case.netcdf else f".v{zarr_format}.zarr"
    path = folder / "sources" / f"{case.name}{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"half-{path.name}")
        shutil.rmtree(half, ignore_errors=True)
        command = [sys.executable, HERE / "cases.py", case.to_json(), half, str(zarr_format)]
        subprocess.run(command, check=True)
        half.rename(path)
    return path


def check(case: Case, source: Path, target: Path) -> None:
    """Compare some target chunks, at the corners and inside, with the source."""
    import itertools

    import numpy as np
    import xarray as xr
    import zarr

    new = zarr.open_array(target, path="v", mode="r") if (target / "v").exists() else None
    new = zarr.open_array(target, mode="r") if new is None else new
    engine = "netcdf4" if case.netcdf else "zarr"
    old = xr.open_dataset(source, engine=engine, decode_cf=False, chunks=None)["v"].variable
    places = [
        sorted({0, (n // 2 // t) * t, n - 1}) for n, t in zip(case.shape, case.target, strict=True)
    ]
    for corner in itertools.islice(itertools.product(*places), 0, None, 4):
        region = tuple(slice(c, min(c + 2, n)) for c, n in zip(corner, case.shape, strict=True))
        assert np.array_equal(new[region], old[region].values), f"{target} differs at {region}"


def new_place(out: Path) -> Path:
    """Make a folder for one run.

    What earlier runs wrote stays as long as there is room: ext4 passes over the inodes of files
    that were deleted in the last minutes one by one, whenever a file is made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if out.exists() and free < ROOM:
        shutil.rmtree(out)
    place = out / str(sum(1 for _ in out.iterdir()) if out.exists() else 0)
    place.mkdir(parents=True)
    return place


def run_one(who: str, case: Case, budget: int, options: argparse.Namespace) -> Run:
    """Run one contender, or the floor, once."""
    folder, threads, timeout = options.folder, options.threads, options.timeout
    place = new_place(folder / "out")
    target, scratch = place / "target", place / "scratch"
    # nobody pays for what the one before has not yet brought to the disk
    os.sync()
    source = source_of(case, folder, 2 if who == "rechunker" else 3)
    if who == "floor":
        script, sample = HERE / "floor.py", folder / "sources" / f"{case.name}.chunks.npy"
        if not sample.exists():
            subprocess.run([sys.executable, script, case.to_json(), source, sample], check=True)
        return measure(
            [sys.executable, script, case.to_json(), source, target, str(threads), sample],
            target,
            timeout,
        )
    python = Path(sys.executable) if who in OURS else environment(who, folder)
    script = HERE / "contenders.py"
    run = measure(
        [python, script, who, case.to_json(), source, target, str(budget), str(threads), scratch],
        target,
        timeout,
    )
    if who != "plan" and not run.failed:
        check(case, source, target)
    return run


def middle(runs: Sequence[Run]) -> Run:
    """Return the medians of several runs; their peak is the highest."""
    good = [r for r in runs if not r.failed]
    if not good:
        return runs[0]
    return Run(
        statistics.median(r.cpu for r in good),
        statistics.median(r.wall for r in good),
        statistics.median(r.disk for r in good),
        max(r.peak for r in good),
        max(r.grown for r in good),
        "",
        good[0].facts,
    )


def row(who: str, run: Run, floor: Run, budget: int) -> str:
    """Write one line of the table."""
    if run.failed:
        return f"| {who} | {run.failed} | | | | |"
    part = "" if who == "floor" else f"{run.grown / budget:.2f}"
    timed = ((run.cpu, floor.cpu), (run.wall, floor.wall), (run.disk, floor.disk))
    cells = [f"{own:.1f} s = {own / least:.2f}" for own, least in timed]
    return f"| {who} | {' | '.join(cells)} | {run.peak / 1e6:.0f} MB | {part} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--parts", default="4", help="budgets, as parts of the data: 4,20,100")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}, or all")
    parser.add_argument("--skip", default="", help="contenders to leave out: dask")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--folder", type=Path, default=Path("bench-rechunk"))
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    unknown = [c for c in options.cases if c not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    folder = options.folder = options.folder.resolve()
    peers = list(PEERS) if options.peers == "all" else options.peers.split(",")
    wanted = ["floor", *OWN, *filter(None, peers)]
    wanted = [who for who in wanted if who not in options.skip.split(",")]
    figures: list[dict[str, Any]] = []
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.threads} threads")
    for name in options.cases or CASES:
        case = CASES[name]
        for part in options.parts.split(","):
            budget = FIXED.get(name, case.nbytes // int(part))
            given = (
                f"{budget / 1e6:.0f} MB" if name in FIXED else f"1/{part} = {budget / 1e6:.0f} MB"
            )
            print(f"\n{case.title}: {case.nbytes / 1e9:.2f} GB {case.shape}, budget {given}\n")
            made = run_one("plan", case, budget, options).facts
            print(f"planned: {made['family']}, boxes of {made['boxes']}\n")
            print(
                "| who | CPU ÷ floor | wall ÷ floor | … on disk | peak of all | growth ÷ budget |"
            )
            print("|---|---|---|---|---|---|", flush=True)
            who_runs: dict[str, list[Run]] = {who: [] for who in wanted}
            for _ in range(options.repeat):
                for who, runs in who_runs.items():
                    foreign = who == "rechunker" and (case.netcdf or case.shards)
                    if foreign or (runs and runs[-1].failed):
                        continue
                    runs.append(run_one(who, case, budget, options))
            medians = {who: middle(runs) for who, runs in who_runs.items() if runs}
            for who, run in medians.items():
                print(row(who, run, medians["floor"], budget), flush=True)
                figures.append({"case": name, "budget": budget, "who": who, **asdict(run)})
            figures.append({"case": name, "budget": budget, "who": "plan", "facts": made})
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    shutil.rmtree(folder / "out", ignore_errors=True)


if __name__ == "__main__":
    main()
