"""A batch of made and real files on two workers, three of them broken, killed and resumed.

200 datasets (netCDF-4, netCDF-3, zarr 2 and 3, packed, sharded) and every real file that the
packages iris-sample-data and hvsampledata carry are rechunked and verified by `xchunk.batch` on a
`LocalCluster` of two processes. When half of them are done, the batch and its workers are
killed (SIGKILL); the same call then does the rest. Counted: what is done, reported and done
twice, and the memory of the process after each job.

    python benchmarks/batch/run.py [--files 200] [--keep FOLDER] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from batching.archive import job_file, make_archive, real_files


def child(jobs: str) -> None:
    """Run the batch, as a user's script would."""
    from distributed import Client, LocalCluster

    import xchunk

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit="1GiB", dashboard_address="127.0.0.1:0"
    )
    with cluster, Client(cluster):
        report = xchunk.batch(jobs)
    report.save(Path(jobs).with_name("report.json"))


def start(jobs: Path) -> subprocess.Popen[bytes]:
    """Start the batch in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, "--child", str(jobs)],
        stdout=subprocess.DEVNULL,
        stderr=jobs.with_suffix(".log").open("ab"),
        start_new_session=True,
    )


def records(jobs: Path) -> list[dict[str, Any]]:
    """What the state says, line by line."""
    path = jobs.with_name("jobs.xchunk-batch") / "state.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def times_done(jobs: Path) -> Counter[str]:
    """How often each target was written, by the logs."""
    found: Counter[str] = Counter()
    for log in jobs.with_name("jobs.xchunk-batch").glob("logs/*.log"):
        found[log.name] = sum(" done: " in line for line in log.read_text().splitlines())
    return found


def kill_half_way(jobs: Path, total: int) -> int:
    """Run until half is done, and kill all of it; return how many were done."""
    process = start(jobs)
    while sum(r["status"] == "done" for r in records(jobs)) < total // 2:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return sum(r["status"] == "done" for r in records(jobs))


def to_the_end(jobs: Path) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Run to the end; return the report, and the memory of the process by jobs done."""
    process = start(jobs)
    seen, memory = -1, []
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        done = sum(r["status"] in ("done", "failed") for r in records(jobs))
        if done != seen:
            seen = done
            memory.append((done, watched.memory_info().rss))
        time.sleep(0.05)
    assert process.returncode == 0, "the batch itself failed"
    return json.loads(jobs.with_name("report.json").read_text()), memory


def is_same(source: Path, target: Path) -> bool:
    """Compare stored values with xarray alone."""
    how: dict[str, Any] = {"decode_cf": False, "chunks": None}
    engine = "zarr" if source.suffix == ".zarr" else "netcdf4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with xr.open_dataset(source, engine=engine, **how) as a, xr.open_zarr(target, **how) as b:
            return set(a.variables) == set(b.variables) and all(
                np.array_equal(v.values, b[n].values, equal_nan=v.dtype.kind == "f")
                for n, v in a.variables.items()
            )


def main(files: int, folder: Path) -> dict[str, Any]:
    sound, broken = make_archive(folder / "made", files)
    real = real_files()
    jobs = job_file(folder / "jobs.toml", [*sound, *broken, *real])
    total = files + len(real)
    print(f"{files} made and {len(real)} real datasets, {len(broken)} of them broken")
    began = time.perf_counter()
    before = kill_half_way(jobs, total)
    print(f"killed after {before} were done")
    report, memory = to_the_end(jobs)
    took = time.perf_counter() - began
    again, _ = to_the_end(jobs)
    counts = times_done(jobs)
    half = [rss for _, rss in memory[len(memory) // 2 :]]
    result = {
        "datasets": total,
        "done_before_the_kill": before,
        "skipped_by_the_second_run": report["counts"]["skipped"],
        "done_by_the_second_run": report["counts"]["done"],
        "done_twice": sum(n > 1 for n in counts.values()),
        "verified": report["verified"],
        "failed": {Path(j["target"]).name: j["message"] for j in report["jobs"] if j["error"]},
        "equal_by_xarray": sum(
            is_same(s, folder / "out" / f"{s.name}.zarr") for s in [*sound, *real]
        ),
        "skipped_by_a_third_run": again["counts"]["skipped"],
        "seconds": round(took, 1),
        "seconds_of_the_third_run": round(again["seconds"], 2),
        "rss_mb": [(n, round(rss / 1e6, 1)) for n, rss in memory[:: max(1, len(memory) // 12)]],
        "rss_grown_in_the_last_half_mb": round((half[-1] - half[0]) / 1e6, 1),
    }
    assert result["verified"] == total - len(broken)
    assert len(result["failed"]) == len(broken)
    assert result["done_twice"] == 0
    assert before == result["skipped_by_the_second_run"]
    return result


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(sys.argv[-1])
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="a new folder for the data; kept")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = main(given.files, given.keep or Path(scratch) / "batch")
    print(json.dumps(found, indent=2))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
