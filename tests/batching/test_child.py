"""A batch outlives what takes down the process that reads its files."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xchunk
from xchunk.batching.run import BatchReport

#: Stands for a library that is imported in the child too, and that crashes on some files.
CRASHING = """
import os, signal, time
from pathlib import Path
import xchunk.batching.item as one

opens = one._open

def crash(item):
    name = Path(item.sources[0]).stem
    if Path("sound").exists():
        return opens(item)
    if name == "slow":
        Path("begun").touch()
        time.sleep(60)
    if name.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, name))
    return opens(item)

one._open = crash
"""


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the child crash on files that are named like a signal, and wait on one called slow."""
    Path("plugins").mkdir()
    Path("plugins/hdf5plugin.py").write_text(CRASHING)
    monkeypatch.syspath_prepend(str(Path("plugins").absolute()))
    monkeypatch.setitem(sys.modules, "hdf5plugin", os)


def batch(*names: str) -> BatchReport:
    """Rechunk small netCDF-3 files, which are made where they are missing."""
    for i, name in enumerate(names):
        path = Path(f"{name}.nc")
        if not path.exists():
            ds = xr.Dataset({"v": (("t", "y"), np.full((4, 6), i, dtype="f4"))})
            ds.to_netcdf(path, engine="scipy")
    jobs = [{"source": f"{n}.nc", "target": f"{n}.zarr", "chunks": {"t": -1}} for n in names]
    return xchunk.batch(jobs, state="state", progress=False)


def statuses(report: BatchReport) -> dict[str, str]:
    return {Path(r.sources[0]).stem: r.status for r in report.results}


@pytest.mark.slow
def test_what_dies_has_failed_and_the_rest_is_done(crashing: None) -> None:
    report = batch("a", "SIGSEGV", "b", "SIGKILL", "c")
    done = dict.fromkeys("abc", "done")
    assert statuses(report) == {**done, "SIGSEGV": "failed", "SIGKILL": "failed"}
    said = {Path(r.sources[0]).stem: r for r in report.results}
    for name, hint in (("SIGSEGV", "another engine"), ("SIGKILL", "smaller memory")):
        failed = said[name]
        assert failed.error == "StageFailedError"
        assert f"was ended by {name}" in failed.message
        assert hint in failed.message
        assert not Path(f"{name}.zarr/zarr.json").exists()
    records = [json.loads(line) for line in Path("state/state.jsonl").read_text().splitlines()]
    last = {Path(r["key"]).stem: r["status"] for r in records}
    assert last == {name: r.status for name, r in said.items()}
    # the next run does what has failed, and only that
    Path("sound").touch()
    again = statuses(batch("a", "SIGSEGV", "b", "SIGKILL", "c"))
    skipped = dict.fromkeys("abc", "skipped")
    assert again == {**skipped, "SIGSEGV": "done", "SIGKILL": "done"}


@pytest.mark.slow
def test_an_interrupted_child_ends_and_the_next_run_goes_on(crashing: None) -> None:
    def interrupt() -> None:
        while not Path("begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            batch("a", "slow", "b")
    finally:
        waiting.join()
    Path("sound").touch()
    assert statuses(batch("a", "slow", "b")) == {"a": "skipped", "slow": "done", "b": "done"}


@pytest.mark.slow
def test_errors_of_a_child_are_those_of_this_process() -> None:
    Path("broken.nc").write_bytes(b"CDF\x01nonsense")
    report = batch("broken", "b")
    assert statuses(report) == {"broken": "failed", "b": "done"}
    log = Path(report.results[0].log).read_text()
    assert "Traceback" in log
    assert "in _open" in log
