"""What observing costs: CPU-seconds with and without it, in turns, on threads.

python benchmarks/observe.py [rounds]
"""

from __future__ import annotations

import statistics
import sys
import time

import dask
import dask.array as da
import numpy as np

import xchunk


def burn(block: np.ndarray) -> np.ndarray:
    for _ in range(12):
        block = np.sqrt(block * block + 1)
    return block


def workloads() -> dict[str, da.Array]:
    return {
        "160 tasks of 10 ms": da.random.random((160, 100_000), chunks=(1, -1))
        .map_blocks(burn)
        .sum(),
        "8,000 tasks of 0.3 ms": (da.ones((4_000,), chunks=1) + 1).sum(),
    }


def seconds(work: da.Array, *, watched: bool) -> float:
    begun = time.process_time()
    if watched:
        with xchunk.observe():
            work.compute()
    else:
        work.compute()
    return time.process_time() - begun


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    with dask.config.set(num_workers=2):
        for name, work in workloads().items():
            seconds(work, watched=True)
            pairs = [
                (seconds(work, watched=False), seconds(work, watched=True)) for _ in range(rounds)
            ]
            plain = statistics.median(a for a, _ in pairs)
            more = statistics.median(b - a for a, b in pairs)
            print(f"{name}: {plain:.2f} CPU-s, observed {more / plain:+.1%}")


if __name__ == "__main__":
    main()
