"""A batch on a cluster, killed half-way with its workers, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batching.archive import job_file, make_archive, real_files

CHILD = """
import sys
from distributed import Client, LocalCluster
import xchunk

if __name__ == "__main__":
    options = dict(threads_per_worker=1, memory_limit="1GiB", dashboard_address="127.0.0.1:0")
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster):
        report = xchunk.batch("jobs.toml")
    report.save("report.json")
"""


def records() -> list[dict[str, Any]]:
    path = Path("jobs.xchunk-batch/state.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def start() -> subprocess.Popen[bytes]:
    Path("child.py").write_text(CHILD)
    with Path("stderr.txt").open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "child.py"], stdout=err, stderr=err, start_new_session=True
        )


@pytest.mark.cluster
@pytest.mark.subprocess
@pytest.mark.slow
def test_an_archive_with_broken_files_is_killed_and_gone_on_with() -> None:
    base = Path().absolute()
    sound, broken = make_archive(base / "made", 16)
    real = real_files()[:6]
    job_file(base / "jobs.toml", [*sound, *broken, *real])
    first = start()
    try:
        while sum(r["status"] == "done" for r in records()) < 9:
            assert first.poll() is None, Path("stderr.txt").read_text()
            time.sleep(0.02)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = {r["key"] for r in records() if r["status"] == "done"}
    second = start()
    assert second.wait(timeout=280) == 0, Path("stderr.txt").read_text()
    told = json.loads(Path("report.json").read_text())
    by_status: dict[str, set[str]] = {}
    for job in told["jobs"]:
        by_status.setdefault(job["status"], set()).add(job["target"])
    assert len(told["jobs"]) == 16 + len(real)
    # what was finished is not done again, and all that is sound is verified
    assert by_status["skipped"] == before
    assert told["verified"] == len(sound) + len(real)
    assert {Path(t).name.removesuffix(".zarr") for t in by_status["failed"]} == {
        p.name for p in broken
    }
    reasons = " ".join(j["message"] for j in told["jobs"] if j["status"] == "failed")
    for reason in ("is truncated", "begins with", "decompress"):
        assert reason in reasons
    finished: Counter[str] = Counter()
    for log in Path("jobs.xchunk-batch/logs").iterdir():
        finished[log.name] = sum(" done: " in line for line in log.read_text().splitlines())
    assert max(finished.values()) == 1
    # the kill may come between a record and the line of its log
    assert len(sound) + len(real) - sum(finished.values()) in (0, 1)
