"""Rechunk all that a job file names on a dask cluster.

    python dask_cluster.py jobs.toml                              # workers on this machine
    python dask_cluster.py jobs.toml --scheduler tcp://host:8786  # a cluster that runs

Any other cluster of dask's will do: make its ``Client``, and `xchunk.batch` runs on it. Sources
and targets have to be where the workers reach them.
"""

from __future__ import annotations

import argparse
import sys

from distributed import Client, LocalCluster

import xchunk


def run(jobs: str, shard: str | None) -> int:
    """Run a batch on the active client; return an exit code."""
    report = xchunk.batch(jobs, shard=shard)
    report.save("report.html")
    print(report)
    return 12 if report.failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs")
    parser.add_argument("--scheduler", help="address of a cluster that runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-limit", default="4GiB", help="of each worker")
    parser.add_argument("--shard", help="K/N: the K-th of N parts")
    given = parser.parse_args()
    if given.scheduler:
        with Client(given.scheduler):
            return run(given.jobs, given.shard)
    # The memory of a worker decides what a task may take: fewer threads, larger boxes.
    with (
        LocalCluster(
            n_workers=given.workers,
            threads_per_worker=2,
            memory_limit=given.memory_limit,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster),
    ):
        return run(given.jobs, given.shard)


# Workers are processes, which import this file: without this line each would start a cluster.
if __name__ == "__main__":
    sys.exit(main())
