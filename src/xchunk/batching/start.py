"""Starting a batch: jobs read from a file or given, expanded, picked, and run with their state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xchunk.batching.expand import expand, parse_shard, pick, read_job_file, take_shard
from xchunk.batching.report import BatchReport
from xchunk.batching.run import Watcher, run_items
from xchunk.batching.spec import parse_jobs
from xchunk.batching.state import State
from xchunk.errors import InvalidJobError

__all__ = ["start_batch"]


def start_batch(
    jobs: Any,
    *,
    watcher: Watcher,
    defaults: Mapping[str, Any] | None = None,
    only: str | Sequence[str] = (),
    shard: str | Sequence[int] | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: bool = True,
    keep_going: bool = True,
    dry_run: bool = False,
) -> BatchReport:
    """Run a batch; see `xchunk.batch`. Where it is interrupted, its report says so."""
    part = None if shard is None else parse_shard(shard)
    source, base = "", Path.cwd()
    folder = None if state is None else Path(state).expanduser().absolute()
    if isinstance(jobs, str | os.PathLike):
        path = Path(jobs).expanduser()
        source, base = os.fspath(jobs), path.absolute().parent
        said: Any = read_job_file(path)
        folder = folder or base / f"{path.stem}.xchunk-batch"
    elif isinstance(jobs, Mapping | Sequence):
        said = jobs
    else:
        raise InvalidJobError(
            f"a {type(jobs).__name__} is no list of jobs; give the path of a job file, or a list "
            "of mappings with source, target, and chunks or access."
        )
    parsed = parse_jobs(said, source or "the jobs", defaults)
    items = pick(expand(parsed, base), [only] if isinstance(only, str) else only)
    return run_items(
        take_shard(items, part),
        State(folder, part),
        watcher=watcher,
        resume=resume,
        keep_going=keep_going,
        dry_run=dry_run,
        source=source,
        shard=part,
    )
