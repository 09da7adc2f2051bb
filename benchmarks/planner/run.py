"""How near plans come to the cheapest there is, and how long planning takes.

    python benchmarks/planner/run.py [--cases N]

Every random case (shape, chunks, units, memory, latency, codec and sharding of scratch) is
searched as the planner does, and exhaustively (tests/core/oracle.py): every box and every piece
that writes whole pieces and whole units. Ratios are predicted seconds, found by cheapest.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402

from core.oracle import random_cases  # noqa: E402
from xchunk.core.grid import Grid  # noqa: E402
from xchunk.core.memory import MemoryBudget  # noqa: E402
from xchunk.core.plan.choose import plan_array  # noqa: E402
from xchunk.core.plan.stages import CopyJob, Limits  # noqa: E402

#: stages, dims, sizes of a dim (the upper end excluded), share of the cases asked for
SPACES = [
    (1, 1, (1, 97), 1.0),
    (1, 2, (1, 97), 1.0),
    (1, 3, (1, 30), 0.2),
    (2, 1, (1, 17), 1.0),
    (2, 2, (1, 17), 0.2),
    (2, 1, (17, 120), 1.0),
    (2, 2, (17, 40), 0.1),
    (3, 1, (1, 9), 1.0),
    (3, 2, (1, 7), 0.2),
    (3, 1, (9, 24), 0.4),
    (3, 2, (4, 9), 0.06),
    (4, 1, (1, 7), 0.2),
]


def ratios(cases: int) -> None:
    print("| stages | dims | sizes | cases | exact | median | 90 % | 99 % | worst |")
    print("|---|---|---|---|---|---|---|---|---|")
    for stages, dims, sizes, share in SPACES:
        count = max(5, round(cases * share))
        found = np.array(
            [c.ratio for c in itertools.islice(random_cases(11, stages, dims, sizes), count)]
        )
        if found.min() < 1 - 1e-9:
            raise SystemExit("a plan is cheaper than the cheapest: the oracle is wrong")
        quantiles = " | ".join(f"{q:.3f}" for q in np.quantile(found, [0.5, 0.9, 0.99, 1]))
        exact = np.mean(found < 1 + 1e-9)
        said = f"| {stages} | {dims} | {sizes[0]}–{sizes[1] - 1} | {count} | {exact:.0%} |"
        print(f"{said} {quantiles} |", flush=True)


LARGE = {
    "10^9 chunks, maps to series": ((10**9, 100, 100), (1, 100, 100), (10**6, 10, 10)),
    "10^9 chunks of a cube, to other cubes": ((10**5,) * 3, (100,) * 3, (250, 40, 1000)),
    "1 PB, maps to series": ((240_000_000, 721, 1440), (1, 721, 1440), (8760, 20, 20)),
    "10^6 x 10^6, rows to columns": ((10**6, 10**6), (1, 10**6), (10**6, 1)),
    "5 dims, 10^9 chunks": ((1000, 50, 100, 721, 1440), (1, 1, 20, 7, 1440), (1000, 1, 1, 20, 20)),
    "coprime 1000 to 999": ((10**6, 10**6), (1000, 1000), (999, 999)),
}


def large() -> None:
    print("\n| array | stored chunks | size | CPU | family | tasks of a stage | objects |")
    print("|---|---|---|---|---|---|---|")
    limits = Limits()
    for name, (shape, source, target) in LARGE.items():
        grids = (Grid.of(shape, source), Grid.of(shape, target), Grid.of(shape, target))
        one = CopyJob("v", shape, 4, *grids)
        budget = MemoryBudget.of_growth(512 * 10**9, threads=16, workers=64)
        start = time.process_time()
        plan = plan_array(one, budget, limits=limits)
        seconds = time.process_time() - start
        tasks = max(s.boxes.count for s in plan.stages)
        objects = max((s.work.objects for s in plan.stages[:-1]), default=0)
        if tasks > limits.tasks or objects > limits.objects:
            raise SystemExit(f"{name}: beyond the limits")
        plan.check_exclusive()
        size = math.prod(shape) * 4 / 1e12
        print(
            f"| {name} | {one.source.count:.1e} | {size:,.0f} TB | {seconds:.2f} s | "
            f"{plan.family} | {tasks:,} | {objects:,} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    asked = parser.parse_args()
    large()
    print()
    ratios(asked.cases)


if __name__ == "__main__":
    main()
