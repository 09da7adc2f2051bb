"""A GRIB file rechunked to series, by xchunk and by cfgrib with dask.

::

    pip install ".[grib]"          # in an environment without rasterio
    python benchmarks/archive/grib.py --repeat 3

500 messages on a global grid of one degree, 16 bits a value, are made from ecCodes' own sample.
Whole processes are compared, imports included, with two threads and ecCodes' index made before.
Stored values are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DAYS, STEPS = 125, (0, 6, 12, 18)
LAT, LON = 181, 360
CHUNKS = {"time": -1, "step": -1, "latitude": 20, "longitude": 20}
BUDGET = "60MB"
WHO = ("xchunk", "dask")


def make(path: Path) -> None:
    """Write the messages: smooth fields and noise."""
    import eccodes
    import numpy as np

    sample = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
    for key, value in {
        "Ni": LON, "Nj": LAT, "iDirectionIncrementInDegrees": 1, "jDirectionIncrementInDegrees": 1,
        "latitudeOfFirstGridPointInDegrees": 90, "latitudeOfLastGridPointInDegrees": -90,
        "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 359,
        "level": 500, "shortName": "t", "bitsPerValue": 16,
    }.items():  # fmt: skip
        eccodes.codes_set(sample, key, value)
    rng = np.random.default_rng(0)
    lat = np.linspace(-1, 1, LAT)[:, None]
    days = np.arange("2020-01-01", "2021-01-01", dtype="M8[D]")[:DAYS]
    with path.open("wb") as file:
        for number, day in enumerate(days):
            for step in STEPS:
                message = eccodes.codes_clone(sample)
                eccodes.codes_set(message, "dataDate", int(str(day).replace("-", "")))
                eccodes.codes_set(message, "stepRange", step)
                wave = np.sin(np.linspace(0, 6.28, LON) + number / 7)
                values = 280 + 25 * np.cos(2 * lat) + 4 * wave + rng.normal(0, 0.3, (LAT, LON))
                eccodes.codes_set_values(message, values.ravel())
                eccodes.codes_write(message, file)
                eccodes.codes_release(message)


def measure(who: str, source: str, target: str) -> None:
    """Rechunk in this process, and tell by how much it grew."""
    import cfgrib  # noqa: F401 - all libraries are loaded before growth is counted
    import dask
    import dask.array
    import xarray as xr
    import zarr  # noqa: F401

    import xchunk  # noqa: F401

    dask.config.set(scheduler="threads", num_workers=2)
    ds = xr.open_dataset(source, engine="cfgrib", chunks={})
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if who == "xchunk":
        ds.chunking.apply(CHUNKS, store=target, max_mem=BUDGET, progress=False)
    else:
        whole = ds.chunk(CHUNKS)
        whole.t.encoding["chunks"] = tuple(c[0] for c in whole.t.chunks)
        whole.to_zarr(target)
    print(json.dumps(_memory("VmHWM") - before))


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def run(who: str, source: Path, target: Path) -> dict[str, float]:
    """Run a contender in a process of its own; return what it took."""
    command = [sys.executable, __file__, "--measure", who, str(source), str(target)]
    clock = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = child.stdout.read() if child.stdout else ""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{who} failed")
    wall = time.perf_counter() - clock
    growth = json.loads(said.splitlines()[-1]) / 1e6
    return {"wall": wall, "CPU": used.ru_utime + used.ru_stime, "growth": growth}


def main() -> None:
    """Print what each contender took, medians of all runs, and whether the values are the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a.grib")
        make(source)
        import numpy as np
        import xarray as xr
        import zarr

        xr.open_dataset(source, engine="cfgrib").close()  # cfgrib keeps its index beside the file
        runs: dict[str, list[dict[str, Any]]] = {who: [] for who in WHO}
        found = {}
        for number in range(given.repeat):
            for who in WHO:
                target = Path(folder, f"{who}-{number}.zarr")
                runs[who].append(run(who, source, target))
                found[who] = np.asarray(zarr.open_array(target / "t", mode="r")[...])
        for who, all_runs in runs.items():
            m = {k: statistics.median(r[k] for r in all_runs) for k in all_runs[0]}
            print(f"{who:8} wall {m['wall']:5.1f} s  CPU {m['CPU']:5.1f} s  "
                  f"growth {m['growth']:4.0f} MB")  # fmt: skip
        same = np.array_equal(*found.values(), equal_nan=True)
        print("all the same values" if same else "OTHER VALUES")


if __name__ == "__main__":
    main()
