"""Stages one situation on a cluster of two processes, and prints what was seen as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from diagnose.staged import CLUSTER


def main() -> None:
    """Stage it."""
    import dask
    from distributed import Client, LocalCluster

    name = sys.argv[1]
    limit = "500MB" if name == "spilling" else "2GB"
    # spilling begins early, so that little has to be held
    target = 0.1 if name == "spilling" else 0.6
    os.chdir(tempfile.mkdtemp())
    with (
        dask.config.set({"distributed.worker.memory.target": target}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=limit,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            local_directory=tempfile.mkdtemp(),
        ) as cluster,
        Client(cluster) as client,
    ):
        seen = CLUSTER[name][0]()
        left = client.run(leftovers)
        sys.stdout.write(
            json.dumps(
                {
                    **seen.explain().to_dict(),
                    "facts": seen.facts.to_dict(),
                    "scheduler": seen.record.scheduler,
                    "workers": len(seen.record.workers),
                    "samples": len(seen.record.memory),
                    "own": seen.record.own / max(seen.record.cpu, 1e-9),
                    "leftovers": sum(left.values()),
                }
            )
        )


def leftovers() -> int:
    """Threads of ours that still run."""
    import threading

    return sum(t.name == "xchunk-observe" for t in threading.enumerate())


if __name__ == "__main__":
    main()
