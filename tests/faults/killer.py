"""Rechunks that are killed: a process that forks runs, each of which kills itself somewhere.

Started as a script with a job on its standard input; writes what it found to its standard
output as JSON. It imports and warms up everything once, so that a fork costs milliseconds;
dask's threads start in the forks only, and zarr starts its own anew in each. A run counts what
it does to the file system below the target (Python's audit events), and sends itself SIGKILL
at the event that it was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401  dask would import it in every run
import xarray as xr
import zarr

import xchunk
import xchunk.display.progress
import xchunk.engine.copy
import xchunk.rechunking.run
import xchunk.rechunking.runner
from xchunk.targets import location

EXISTS, FAILED = 3, 4
_EVENTS = {
    "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.scandir",
    "shutil.rmtree",
}  # fmt: skip


class Run:
    """One rechunk that may be killed, in the folders of a job."""

    def __init__(self, job: dict[str, Any]):
        self.source, self.target = job["source"], Path(job["target"])
        self.call = job["call"]
        self.log = self.target.with_name("log.txt")
        self.phase = self.target.with_name("phase.txt")

    def fork(self, task: Callable[[], int]) -> int:
        """Run a task in a child; return its process id."""
        pid = os.fork()
        if pid:
            return pid
        signal.alarm(120)  # a fork that hangs is a failure, and not a long wait
        try:
            code = task()
        except BaseException:  # noqa: BLE001 - the parent reads the code, a human the traceback
            traceback.print_exc()
            code = FAILED
        sys.stderr.flush()
        os._exit(code)

    def rechunk(self, fatal: int | None) -> int:
        """Rechunk; die at event number ``fatal``."""
        self._listen(fatal)
        self._note_phases()
        with dask.config.set(num_workers=2):
            try:
                ds = xr.open_zarr(self.source)
                ds.chunking.apply(store=self.target, progress=False, **self.call)
            except xchunk.TargetExistsError:
                return EXISTS
        self.phase.write_text(f"over {self._seen}")
        return 0

    def _listen(self, fatal: int | None) -> None:
        below = str(self.target.parent)
        names = (self.target.name, f".{self.target.name}.xchunk")
        self._seen = 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in _EVENTS and args and isinstance(args[0], str | os.PathLike):
                path = os.fspath(args[0])
                if path.startswith(below) and any(n in path for n in names):
                    self._seen += 1
                    if self._seen == fatal:
                        os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    def _note_phases(self) -> None:
        self.phase.write_text("planning")

        def note(module: Any, name: str, phase: str) -> None:
            real = getattr(module, name)

            def noted(*args: Any, **kwargs: Any) -> Any:
                self.phase.write_text(phase)
                return real(*args, **kwargs)

            setattr(module, name, noted)

        note(xchunk.rechunking.runner, "write_arrays", "metadata")
        note(xchunk.rechunking.runner, "commit", "commit")
        note(xchunk.rechunking.runner.Site, "publish", "publish")
        note(xchunk.rechunking.runner.Site, "leave", "clean-up")
        real = xchunk.engine.copy._copy

        def copy(spec: Any, i: int) -> int:
            self.phase.write_text(f"boxes of {spec.label.split('-')[1]}")
            with self.log.open("a") as log:
                log.write(f"{spec.marks.digest[:32]}/{spec.marks.stage}/{i}\n")
            return real(spec, i)

        xchunk.engine.copy._copy = copy

    def noted(self) -> set[str]:
        """The boxes that the journal says are written."""
        found = []
        for root in (self.target, location.Beside(self.target).new):
            found += list((root / ".xchunk/journal").glob("*/*/*"))
        return {
            f"{p.parent.parent.name}/{p.parent.name}/{p.name}" for p in found if p.name.isdigit()
        }

    def copied(self) -> list[str]:
        """The boxes that were copied since the log was begun."""
        return self.log.read_text().split() if self.log.exists() else []

    def readable(self) -> int:
        """Open the target as a reader does: 0 it is right, 1 it is another store, 2 it is none."""
        try:
            with xr.open_zarr(self.target, decode_cf=False, chunks=None) as have:
                have.load()
        except (FileNotFoundError, zarr.errors.GroupNotFoundError):
            return 2
        with xr.open_zarr(self.source, decode_cf=False, chunks=None) as wanted:
            same = set(have.variables) == set(wanted.variables) and all(
                have[n].values.tobytes() == v.values.tobytes() for n, v in wanted.variables.items()
            )
        return 0 if same else 1

    def tree(self) -> str:
        """Digest all files of the target, by name and content."""
        state = hashlib.sha256()
        for path in sorted(self.target.rglob("*")):
            if path.is_file():
                state.update(str(path.relative_to(self.target)).encode() + path.read_bytes())
        return state.hexdigest()


def wait(pid: int) -> int:
    """Wait for a child: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def restore(run: Run, old: str | None) -> None:
    """Put the place of the target back as it was before any run."""
    for path in run.target.parent.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if old is not None:
        shutil.copytree(old, run.target)


def expect(condition: bool, said: str, **facts: Any) -> None:
    """Stop with what was found, where it is not what must hold."""
    if not condition:
        sys.stdout.write(json.dumps({"failed": said, **facts}))
        sys.exit(1)


def main(job: dict[str, Any]) -> None:
    """Kill and go on, as often as the job says."""
    run = Run(job)
    old = job.get("old")
    restore(run, old)
    with dask.config.set(scheduler="sync"):
        xr.open_zarr(run.source).chunking.plan(store=run.target, **run.call)
    expect(wait(run.fork(lambda: run.rechunk(None))) == 0, "a run without a kill")
    events, wanted = int(run.phase.read_text().split()[1]), run.tree()
    boxes = len(run.copied())
    phases: dict[str, int] = {}
    counts = {"kills": 0, "kept": 0, "copied_after": 0}
    started = time.monotonic()
    for share in job["instants"]:
        restore(run, old)
        at = [max(1, round(s * events)) for s in (share if isinstance(share, list) else [share])]
        before: set[str] = set()
        code = FAILED
        for fatal in at:
            run.log.unlink(missing_ok=True)
            code = wait(run.fork(lambda n=fatal: run.rechunk(n)))
            again = before & set(run.copied())
            expect(not again, "a finished box was copied again", at=at, boxes=sorted(again))
            if code != -signal.SIGKILL:
                expect(code in (0, EXISTS), "a run that was not killed", at=at, code=code)
                break
            counts["kills"] += 1
            phase = (run.phase.read_text() or "unknown").split(" of ")[0]
            phases[phase] = phases.get(phase, 0) + 1
            before = run.noted()
            counts["kept"] += len(before)
            seen = run.readable()
            allowed = (0, 2) if old is None else (0, 1, 2)
            expect(seen in allowed, "what a reader sees after a kill", at=at, seen=seen)
            if old is not None and seen == 2:
                kept = location.Beside(run.target).old
                expect((kept / "zarr.json").exists(), "the old store is gone", at=at)
        if code == -signal.SIGKILL:
            run.log.unlink(missing_ok=True)
            code = wait(run.fork(lambda: run.rechunk(None)))
            expect(code in (0, EXISTS), "the same call after a kill", at=at, code=code)
            again = before & set(run.copied())
            expect(not again, "a finished box was copied again", at=at, boxes=sorted(again))
            counts["copied_after"] += len(run.copied())
        expect(run.tree() == wanted, "the target differs", at=at)
        left = sorted(p.name for p in run.target.parent.iterdir() if p.is_dir())
        expect(left == [run.target.name], "something is left behind", at=at, left=left)
        expect(run.readable() == 0, "the target differs from its source", at=at)
    found = {**counts, "phases": phases, "events": events, "boxes": boxes}
    found["seconds"] = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(json.load(sys.stdin))
