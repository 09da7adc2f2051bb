"""Appends that are killed: a process that forks runs, each of which kills itself somewhere.

Started as a script with a job on its standard input. A run counts what it does to the file
system below the target, and sends itself SIGKILL at the event that it was given. After each
kill the store is read as a reader would, every old byte is compared, and the same call is made
again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401  dask would import it in every run
import xarray as xr

import xchunk
import xchunk.display.progress
import xchunk.rechunking.extending
import xchunk.rechunking.run

_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir", "shutil.rmtree"}
REFUSED = 3


def listen(below: Path, fatal: int | None, note: Path) -> None:
    """Die at event number ``fatal``; note how many there were."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _EVENTS or not args or not isinstance(args[0], str | os.PathLike):
            return
        if os.fspath(args[0]).startswith(str(below)):
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            if fatal is None and note.read_text() == "clean-up":
                note.with_name("events").write_text(str(seen))

    sys.addaudithook(hook)


def append(job: dict[str, Any], fatal: int | None) -> int:
    """Append, and note the phase on the way."""
    note = Path(job["note"])
    note.write_text("planning")
    for owner, name, phase in (
        (xchunk.rechunking.extending.BoundExtension, "_begin", "begin"),
        (xchunk.rechunking.extending.BoundExtension, "_copy_boxes", "boxes"),
        (xchunk.rechunking.extending.BoundExtension, "_commit", "commit"),
        (xchunk.rechunking.extending.Workspace, "remove", "clean-up"),
    ):
        real = getattr(owner, name)

        def noted(*args: Any, _real: Any = real, _phase: str = phase, **kwargs: Any) -> Any:
            note.write_text(_phase)
            return _real(*args, **kwargs)

        setattr(owner, name, noted)
    listen(Path(job["target"]), fatal, note)
    with dask.config.set(num_workers=2):
        new = xr.open_zarr(job["new"])
        try:
            new.chunking.append(job["target"], dim="t", max_mem=job["max_mem"], progress=False)
        except xchunk.InvalidChunksError:
            return REFUSED
    return 0


def fork(task: Callable[[], int]) -> int:
    """Run a task in a child; return its exit code, or minus the signal that killed it."""
    pid = os.fork()
    if not pid:
        signal.alarm(120)
        try:
            code = task()
        except BaseException:  # noqa: BLE001 - the parent reads the code, a human the traceback
            traceback.print_exc()
            code = 9
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(root: Path) -> dict[str, bytes]:
    """All files of a store."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def seen(path: Path) -> dict[str, bytes]:
    """What a reader sees: the stored bits of every variable."""
    with xr.open_zarr(path, decode_cf=False, chunks=None, consolidated=True) as ds:
        return {str(n): v.values.tobytes() for n, v in ds.variables.items()}


def expect(condition: bool, said: str, **facts: Any) -> None:
    """Stop with what was found, where it is not what must hold."""
    if not condition:
        sys.stdout.write(json.dumps({"failed": said, **facts}))
        sys.exit(1)


def main(job: dict[str, Any]) -> None:
    """Kill and go on, at each of the instants."""
    old, target = Path(job["old"]), Path(job["target"])

    def restore() -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(old, target)

    restore()
    expect(fork(lambda: append(job, None)) == 0, "a run without a kill")
    events = int(Path(job["note"]).with_name("events").read_text())
    wanted, after, before, untouched = files(target), seen(target), seen(old), files(old)
    # documents of arrays that grow, and units that are half full, are all that changes
    changed = {k for k, v in untouched.items() if wanted.get(k) != v}
    counts: dict[str, Any] = {"kills": 0, "events": events, "changed": sorted(changed)}
    phases: dict[str, int] = {}
    for share in job["instants"]:
        restore()
        fatal = max(1, round(share * events))
        code = fork(lambda n=fatal: append(job, n))
        if code == 0:
            continue
        expect(code == -signal.SIGKILL, "a run that was not killed", at=fatal, code=code)
        counts["kills"] += 1
        phase = Path(job["note"]).read_text()
        phases[phase] = phases.get(phase, 0) + 1
        now, found = seen(target), files(target)
        expect(now in (before, after), "what a reader sees after a kill", at=fatal, phase=phase)
        for key, raw in untouched.items():
            expect(
                key in changed or found.get(key) == raw,
                "an old byte has changed",
                at=fatal,
                phase=phase,
                key=key,
            )
        code = fork(lambda: append(job, None))
        # once all is cleaned up, nothing is known of the call any more: its labels are there
        complete = now == after and ".xchunk/marker.json" not in found
        expect(code == (REFUSED if complete else 0), "the same call", at=fatal, code=code)
        expect(files(target) == wanted, "the store differs", at=fatal, phase=phase)
        if job.get("undo"):
            restore()
            fork(lambda n=fatal: append(job, n))
            if seen(target) == before:
                xchunk.clean(target, dry_run=False)
                expect(seen(target) == before, "what a reader sees after cleaning", at=fatal)
                # nothing is known to be ours where even the marker was not there yet
                left = [k for k in files(target).keys() ^ untouched.keys() if "marker." not in k]
                expect(not left, "something is left behind", at=fatal, left=sorted(left))
    sys.stdout.write(json.dumps({**counts, "phases": phases}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(json.load(sys.stdin))
