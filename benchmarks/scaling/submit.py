"""How long 10^5 boxes take to reach a real scheduler, and what it grows by.

The scheduler is a process of its own without workers, so that nothing is computed: what is
measured is building the graph, sending it, and what the scheduler holds of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
from distributed import Client
from zarr.storage import LocalStore

from xchunk.core.grid import Grid
from xchunk.engine.copy import StageSpec
from xchunk.engine.graph import Chain, run_chains
from xchunk.sources.refs import ZarrRef

SCHEDULER = """
import asyncio
from distributed import Scheduler

async def main():
    async with Scheduler(port=0, host="127.0.0.1", dashboard=False, dashboard_address=None) as s:
        print(s.address, flush=True)
        await s.finished()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Submitted:
    """What was measured."""

    boxes: int
    """Boxes of all stages."""
    seconds: float
    """From the call until the scheduler knows all tasks."""
    busy: float
    """Seconds of CPU that the scheduler and this process took together."""
    grown: int
    """Bytes by which the scheduler grew."""
    client: int
    """Bytes by which this process grew."""


def chain_of(boxes: int, stages: int = 1) -> Chain:
    """An array that is copied in so many boxes. A stage is a graph of its own."""
    each = boxes // stages
    grid = Grid.of((each, 8), (1, 8))
    here = ZarrRef(LocalStore("never-opened"), "v", 3)
    return Chain(
        tuple(
            StageSpec(
                run="bench",
                label=f"xchunk-{('read', 'write')[k]}-v",
                array="v",
                number=k,
                source=here,
                target=here,
                origin=(0, 0),
                boxes=grid,
                dtype=np.dtype("f4"),
            )
            for k in range(stages)
        )
    )


def submit(boxes: int) -> Submitted:
    """Submit a chain to a scheduler of its own, and take it down again."""
    process = subprocess.Popen([sys.executable, "-c", SCHEDULER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        watched, own = psutil.Process(process.pid), psutil.Process(os.getpid())
        with Client(address) as client:
            before, mine = watched.memory_info().rss, own.memory_info().rss
            start, spent = time.perf_counter(), _spent(watched, own)
            run = threading.Thread(
                target=_quietly, args=(chain_of(boxes), client), name="run", daemon=True
            )
            run.start()
            while client.run_on_scheduler(_known) < boxes:
                time.sleep(0.1)
                assert run.is_alive()
            seconds = time.perf_counter() - start
            busy = _spent(watched, own) - spent
            # what is still in flight settles
            time.sleep(2)
            grown = watched.memory_info().rss - before
            used = own.memory_info().rss - mine
        return Submitted(boxes, seconds, busy, grown, used)
    finally:
        process.kill()
        process.wait()


def _spent(*processes: psutil.Process) -> float:
    times = [p.cpu_times() for p in processes]
    return sum(t.user + t.system for t in times)


def _quietly(chain: Chain, client: Client) -> None:
    try:
        run_chains([chain], threads=1, client=client)
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the scheduler is taken away
        return


def _known(dask_scheduler: Any = None) -> int:
    return len(dask_scheduler.tasks)


if __name__ == "__main__":
    result = submit(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    print(json.dumps(asdict(result)) if "--json" in sys.argv else result, flush=True)
    # the thread that waits for boxes would wait for ever
    os._exit(0)
