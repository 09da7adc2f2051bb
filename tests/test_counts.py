"""What plans and advice do for fixed cases changes on purpose, or not at all."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

COUNTS = Path(__file__).parents[1] / "benchmarks/counts.py"


def test_counts_are_those_in_the_repository() -> None:
    script = runpy.run_path(str(COUNTS))
    found = script["difference"](script["text"]())
    assert not found, f"python benchmarks/counts.py --write, if this is meant:\n{found}"


def test_every_family_and_action_is_counted() -> None:
    counts = json.loads(COUNTS.with_suffix(".json").read_text())
    families = {plan["family"] for plan in counts["plans"].values()}
    assert families == {"direct", "staged", "multi-stage"}
    actions = {advice["action"] for advice in counts["advice"].values()}
    assert actions == {"load", "chunk", "stage"}
