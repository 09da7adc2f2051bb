"""Count what plans and advice would do, for fixed cases, without running them.

    python benchmarks/counts.py            compare with counts.json, and show what differs
    python benchmarks/counts.py --write    write counts.json

Counts do not depend on the machine. A change of the planner that changes them shows in the diff
of counts.json, where a reviewer sees it; `tests/test_counts.py` fails until the file is written.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from pathlib import Path
from typing import Any

from xchunk.core.grid import Grid
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.choose import plan_array
from xchunk.core.plan.stages import CopyJob
from xchunk.core.suggest.suggestion import suggest_dataset

HERE = Path(__file__).parent
COUNTS = HERE / "counts.json"
sys.path.insert(0, str(HERE / "advice"))

from score import budget_of, layout_of, scenarios, use_of  # noqa: E402

LOCAL = {"scratch_files": True, "unit_files": True}

#: name: shape, source chunks, target chunks, write units or None, bytes of memory, facts
PLANS: dict[str, tuple[Any, ...]] = {
    "maps to series": ((1460, 361, 720), (1, 361, 720), (1460, 19, 20), None, 379e6, LOCAL),
    "maps to series, 1/100": ((1460, 361, 720), (1, 361, 720), (1460, 19, 20), None, 80e6, LOCAL),
    "maps to series, remote": (
        (1460, 361, 720), (1, 361, 720), (1460, 19, 20), None, 379e6, {"near": False},
    ),
    "maps to sharded series": (
        (1460, 361, 720), (1, 361, 720), (1460, 19, 20), (1460, 38, 40), 379e6, LOCAL,
    ),
    "series to maps": ((8760, 180, 360), (8760, 10, 10), (1, 180, 360), None, 400e6, LOCAL),
    "cubes to other cubes": ((1000, 500, 500), (100, 100, 100), (40, 250, 50), None, 500e6, LOCAL),
    "blocks of dask to series": (
        (1460, 361, 720), (73, 361, 720), (1460, 19, 20), None, 1e9, {"blocks": True, **LOCAL},
    ),
    "contiguous to chunks": (
        (365, 721, 1440), (1, 1, 1440), (365, 10, 10), None, 200e6,
        {"source_chunked": False, "source_compressed": False, **LOCAL},
    ),
    "coprime chunks": ((10**6, 10**3), (1000, 100), (999, 99), None, 300e6, LOCAL),
    "irregular files": (
        (365, 180, 360), ([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], 180, 360),
        (365, 10, 10), None, 200e6, LOCAL,
    ),
    "1 PB": ((240_000_000, 721, 1440), (1, 721, 1440), (8760, 20, 20), None, 512e9, {}),
    "three stages": ((100_000, 100_000), (1, 100_000), (100_000, 1), None, 20e6, LOCAL),
    "four stages": ((100_000, 100_000), (1, 100_000), (100_000, 1), None, 10e6, LOCAL),
}  # fmt: skip


def counted_plan(case: tuple[Any, ...]) -> dict[str, Any]:
    shape, source, target, units, memory, facts = case
    grids = (Grid.of(shape, source), Grid.of(shape, target), Grid.of(shape, units or target))
    budget = MemoryBudget.of_growth(int(memory), threads=2)
    found = plan_array(CopyJob("v", shape, 4, *grids, **facts), budget)
    return {
        "family": found.family,
        "threads": found.threads,
        "stages": [
            {
                "kind": stage.kind,
                "box": [axis.chunk for axis in stage.boxes.axes],
                "piece": None if stage.scratch is None else list(stage.scratch.chunks),
                "memory": stage.projected_mem,
                **{name: n for name, n in stage.work.to_dict().items() if n},
            }
            for stage in found.stages
        ],
    }


def counted_advice(scenario: dict[str, Any]) -> dict[str, Any]:
    layout = layout_of(scenario)
    access, more = use_of(scenario)
    found = suggest_dataset([layout], access, budget_of(scenario), **more).variables[layout.name]
    return {
        "action": found.action,
        "chunks": found.chunks,
        "target_chunks": found.target_chunks,
        "target_shards": found.target_shards,
        "tasks": found.tasks,
        "memory": found.projected_mem,
    }


def counts() -> dict[str, Any]:
    """All counts, as JSON types."""
    return {
        "plans": {name: counted_plan(case) for name, case in PLANS.items()},
        "advice": {s["id"]: counted_advice(s) for s in scenarios()},
    }


def text() -> str:
    """The counts as the file holds them: each list of numbers on a line."""
    return (
        re.sub(r"\[[^][{}]*\]", lambda m: " ".join(m[0].split()), json.dumps(counts(), indent=1))
        + "\n"
    )


def difference(new: str) -> str:
    """What differs between the file and the counts of now, as a diff."""
    old = COUNTS.read_text() if COUNTS.exists() else ""
    lines = (old.splitlines(), new.splitlines())
    return "\n".join(difflib.unified_diff(*lines, "counts.json", "now", lineterm=""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    new = text()
    if parser.parse_args().write:
        COUNTS.write_text(new)
    elif found := difference(new):
        raise SystemExit(found)


if __name__ == "__main__":
    main()
