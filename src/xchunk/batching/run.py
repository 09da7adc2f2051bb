"""A batch, run item by item: each skipped, resumed or begun, and what became of it."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from xchunk.batching.item import Child, Made, can_die, masked, plan_item, run_item, verify_item
from xchunk.batching.schema import (
    Item,
    expand,
    parse_jobs,
    parse_shard,
    pick,
    read_job_file,
    take_shard,
)
from xchunk.batching.state import (
    Record,
    ShownStatus,
    State,
    Verdict,
    decide,
    is_ours,
    sources_stamp,
    target_stamp,
)
from xchunk.core.redact import without_secrets
from xchunk.core.shown import Shown, ToDict
from xchunk.core.types import ProgressLike
from xchunk.core.units import format_bytes, format_seconds
from xchunk.engine.cluster import current_client
from xchunk.errors import InvalidJobError, ResumeMismatchError, SourceError, XchunkError

#: ``done``: written by this run; ``skipped``: done by an earlier one, and still right;
#: ``planned``: what a dry run would do; ``failed``; ``interrupted``: begun, and goes on with the
#: next run; ``waiting``: not begun.
Status = Literal["done", "skipped", "planned", "failed", "interrupted", "waiting"]

#: In the order in which they are counted.
STATUSES: tuple[Status, ...] = (
    "done", "skipped", "planned", "failed", "interrupted", "waiting",
)  # fmt: skip


@dataclass(frozen=True)
class JobResult(ToDict):
    """What became of one target."""

    name: str
    """Name of the job, and of the source where a job has several."""
    job: str
    """Name of the job."""
    sources: tuple[str, ...]
    """Paths or URLs, without credentials."""
    target: str
    """Path or URL, without credentials."""
    status: Status
    """What became of it."""
    verified: bool = False
    """Whether the target was read back and compared with its source."""
    seconds: float = 0.0
    """How long it took; predicted where it is only planned."""
    nbytes: int = 0
    """Bytes of its variables, as stored before codecs."""
    message: str = ""
    """Why it failed, was done again or was left as it is, in words."""
    error: str = ""
    """Name of the error's class, where it failed."""
    notes: tuple[str, ...] = ()
    """What was noted while it ran, in words."""
    log: str = ""
    """Path of its log; empty where there is none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {**super().to_dict(), "error": self.error or None, "log": self.log or None}


@dataclass(frozen=True, repr=False)
class BatchReport(Shown, Sequence[JobResult], view="batch"):
    """What became of a batch, in the order of its jobs; a sequence of results."""

    results: tuple[JobResult, ...]
    """What became of each target."""
    source: str = ""
    """The job file; empty where the jobs were given in Python."""
    shard: tuple[int, int] | None = None
    """Which of how many shards it is; None: all jobs."""
    seconds: float = 0.0
    """How long the whole batch took."""
    interrupted: bool = False
    """Whether it was stopped before its end."""
    state: str = ""
    """The folder of state and logs; empty where none is kept."""

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[JobResult]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            found = [r for r in self.results if r.name == index]
            if not found:
                raise KeyError(index)
            return found[0]
        return self.results[index]

    @property
    def counts(self) -> dict[Status, int]:
        """Number of results of each status."""
        return {s: sum(r.status == s for r in self.results) for s in STATUSES}

    @property
    def failed(self) -> tuple[JobResult, ...]:
        """The results that failed."""
        return tuple(r for r in self.results if r.status == "failed")

    @property
    def nbytes(self) -> int:
        """Bytes that were written, as stored before codecs."""
        return sum(r.nbytes for r in self.results if r.status == "done")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "source": self.source or None,
            "shard": None if self.shard is None else list(self.shard),
            "counts": dict(self.counts),
            "verified": sum(r.verified for r in self.results),
            "nbytes": self.nbytes,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "state": self.state or None,
            "jobs": [r.to_dict() for r in self.results],
        }


#: Items after which memory is looked through: graphs and arrays refer to each other, and stay
#: until Python finds the time.
_COLLECT = 10


class Watcher(Protocol):
    """Who is told how far a batch is."""

    def begin(self, number: int, total: int, name: str, why: str) -> None:
        """Take note that an item begins."""
        ...

    def end(self, number: int, total: int, result: JobResult) -> None:
        """Take note of what became of an item."""
        ...

    def progress(self, name: str) -> ProgressLike:
        """Return what is told of the boxes of an item."""
        ...


class _StoppedError(Exception):
    """Nothing more can be run."""


@dataclass(frozen=True)
class _Standing:
    """What is known of an item before it is run."""

    earlier: Record | None
    job: str
    source: str
    target: str | None
    verdict: Verdict
    why: str

    @property
    def is_ours(self) -> bool:
        """Whether the existing store is one that the batch made."""
        return is_ours(self.earlier, self.target)

    @property
    def is_changed(self) -> bool:
        """Whether what an earlier run began is of another source or job."""
        e = self.earlier
        return e is not None and (e.job, e.source) != (self.job, self.source)


def run_items(
    items: Sequence[Item],
    state: State,
    *,
    watcher: Watcher,
    resume: bool = True,
    keep_going: bool = True,
    dry_run: bool = False,
    source: str = "",
    shard: tuple[int, int] | None = None,
) -> BatchReport:
    """Run items one after the other.

    - ``items``: what is to be done.
    - ``state``: what earlier runs did; takes note of what this one does.
    - ``watcher``: who is told how far it is.
    - ``resume``: whether finished items are skipped, and unfinished ones resumed.
    - ``keep_going``: whether the rest is run after one that failed.
    - ``dry_run``: whether items are planned only; nothing is written.
    - ``source``, ``shard``: for the report.
    - returns: also where it was interrupted (Ctrl-C): what was begun goes on with the next run.
    """
    start = time.perf_counter()
    batch = _Batch(state, watcher, resume=resume, dry_run=dry_run)
    state.read()
    try:
        with nullcontext() if dry_run else state.writing():
            results, interrupted = batch.run(items, keep_going=keep_going)
    finally:
        batch.child.close()
    return BatchReport(
        results=results,
        source=source,
        shard=shard,
        seconds=time.perf_counter() - start,
        interrupted=interrupted,
        state="" if state.folder is None else str(state.folder),
    )


class _Batch:
    """What the items of one run share."""

    def __init__(self, state: State, watcher: Watcher, **how: bool):
        self.state, self.watcher = state, watcher
        self.resume, self.dry_run = how["resume"], how["dry_run"]
        self.client = current_client()
        self.child = Child()

    def run(self, items: Sequence[Item], *, keep_going: bool) -> tuple[tuple[JobResult, ...], bool]:
        results: list[JobResult] = []
        interrupted = False
        for number, item in enumerate(items, start=1):
            try:
                result = self.one(number, len(items), item)
            except _StoppedError as stop:
                results.append(_result(item, "waiting", message=str(stop)))
                interrupted = True
                break
            results.append(result)
            if number % _COLLECT == 0:
                gc.collect()
            self.watcher.end(number, len(items), result)
            if result.status == "interrupted":
                interrupted = True
                break
            if result.status == "failed" and not keep_going:
                break
        results += [_result(item, "waiting") for item in items[len(results) :]]
        return tuple(results), interrupted

    def one(self, number: int, total: int, item: Item) -> JobResult:
        """Do what is to be done with one item; whatever goes wrong becomes its result."""
        if self.client is not None and self.client.status != "running":
            raise _StoppedError("the cluster is gone; nothing more was run")
        log = _Log(self.state.logs, item, enabled=not self.dry_run)
        start, made = time.perf_counter(), Made()
        standing: _Standing | None = None
        facts: dict[str, Any] = {}
        try:
            if item.fault:
                raise SourceError(item.fault)
            standing = self.look(item)
            if standing.verdict == "skip":
                return self.skipped(item, standing)
            self.watcher.begin(number, total, item.name, standing.why)
            if self.dry_run:
                return self.planned(item, standing)
            self.do(item, standing, made, log)
            facts["status"], facts["message"] = "done", standing.why
            facts["verified"] = item.options.verify or standing.verdict == "verify"
        except KeyboardInterrupt:
            facts["status"] = "interrupted"
            facts["message"] = "what is written is kept, and the next run resumes"
            log.say("interrupted")
        except Exception as error:  # noqa: BLE001 - one broken job does not stop the rest
            facts = {"status": "failed", "error": type(error).__name__}
            facts["message"] = masked(_one_line(error), item)
            log.say(f"failed: {facts['message']}")
            log.trace(error)
        facts["seconds"] = time.perf_counter() - start
        if standing is not None and not self.dry_run:
            self.note(item, standing, nbytes=made.nbytes, **facts)
        notes = tuple(dict.fromkeys(masked(n, item) for n in made.notes))
        log.close(made, notes, facts)
        return _result(item, **facts, nbytes=made.nbytes, notes=notes, log=log.path)

    def look(self, item: Item) -> _Standing:
        """Find out how an item stands."""
        options = item.options
        earlier = self.state.get(item.key)
        job = hashlib.sha256(
            "\0".join((options.digest, *map(without_secrets, item.sources))).encode()
        ).hexdigest()[:32]
        source = sources_stamp(item.sources, options.source_options or {})
        target = target_stamp(item.target, options.for_target)
        verdict, why = decide(earlier, job=job, source=source, target=target, verify=options.verify)
        if not self.resume and verdict != "run":
            verdict, why = "run", "done again, as asked"
        return _Standing(earlier, job, source, target, verdict, why)

    def skipped(self, item: Item, standing: _Standing) -> JobResult:
        """Report what an earlier run did."""
        earlier = standing.earlier
        if earlier is None:
            raise TypeError("nothing is skipped that was not done")
        return _result(
            item,
            "skipped",
            verified=earlier.verified,
            nbytes=earlier.nbytes,
            message=standing.why,
        )

    def planned(self, item: Item, standing: _Standing) -> JobResult:
        """Report what would be done."""
        if standing.verdict == "verify":
            return _result(item, "planned", message=f"only verified: {standing.why}")
        overwrite = item.options.overwrite or standing.is_ours
        made = Made()
        if self.is_apart(item):
            self.child.do("plan", item, made, overwrite=overwrite)
        else:
            made = plan_item(item, overwrite=overwrite)
        return _result(
            item,
            "planned",
            seconds=made.seconds,
            nbytes=made.nbytes,
            message=standing.why,
            notes=tuple(masked(n, item) for n in made.notes),
        )

    def do(self, item: Item, standing: _Standing, made: Made, log: _Log) -> None:
        """Write, or verify, an item."""
        log.say(f"begins: {', '.join(map(without_secrets, item.sources))} → {item.key}")
        if standing.why:
            log.say(standing.why)
        if standing.verdict == "verify":
            if self.is_apart(item):
                self.child.do("verify", item, made)
            else:
                verify_item(item, made)
            return
        self.note(item, standing, "running")
        # what the batch made itself, and is still as it was, may be made anew
        overwrite = item.options.overwrite or standing.is_ours
        progress = self.watcher.progress(item.name)
        resume = self.resume and not standing.is_changed
        try:
            self.write(item, made, progress, overwrite=overwrite, resume=resume)
        except ResumeMismatchError as error:
            if standing.earlier is None or not resume:
                raise
            # the batch itself began it, by another plan
            log.say(f"begun anew: {masked(_one_line(error), item)}")
            made.notes.append("begun anew, since an earlier run had another plan")
            self.write(item, made, progress, overwrite=overwrite, resume=False)

    def is_apart(self, item: Item) -> bool:
        """Whether an item runs in a process of its own; a cluster has processes enough."""
        return self.client is None and can_die(item)

    def write(self, item: Item, made: Made, progress: ProgressLike, **how: bool) -> None:
        """Write an item, here or in the child."""
        if self.is_apart(item):
            self.child.do("run", item, made, progress, **how)
        else:
            run_item(item, made, progress=progress, **how)

    def note(
        self,
        item: Item,
        standing: _Standing,
        status: ShownStatus,
        *,
        seconds: float = 0.0,
        nbytes: int = 0,
        verified: bool = False,
        message: str = "",
        error: str = "",
    ) -> None:
        """Note in the state what became of an item."""
        earlier, before, ours = standing.earlier, standing.target, standing.is_ours
        now = None
        if status != "running":
            with suppress(Exception):
                now = target_stamp(item.target, item.options.for_target)
        if error == "VerificationError":
            # it is the batch's own, and to be done again
            before, ours = now, standing.verdict == "run" or ours
        elif status in ("failed", "interrupted"):
            if earlier is not None and earlier.status == "done" and ours and now == before:
                # what was done before is still as it was
                self.state.note(replace(earlier, time=_now()))
                return
            if standing.verdict == "verify" and earlier is not None:
                before, ours = earlier.before, earlier.ours
        self.state.note(
            Record(
                key=item.key,
                name=item.name,
                status=status,
                job=standing.job,
                source=standing.source,
                target=now if status == "done" else None,
                before=before,
                ours=ours,
                verified=verified,
                seconds=round(seconds, 3),
                nbytes=nbytes,
                message=f"{error}: {message}" if error else message,
                time=_now(),
            )
        )


class _Log:
    """The log of one item; nothing where there is no folder for it."""

    def __init__(self, folder: Path | None, item: Item, *, enabled: bool):
        self.item = item
        self._lines: list[str] = []
        self._path: Path | None = None
        if folder is not None and enabled:
            slug = re.sub(r"[^A-Za-z0-9._-]+", "-", item.name)[:80]
            digest = hashlib.sha256(item.key.encode()).hexdigest()[:8]
            self._path = folder / f"{slug}-{digest}.log"

    @property
    def path(self) -> str:
        return str(self._path) if self._path is not None and self._path.exists() else ""

    def say(self, text: str) -> None:
        self._put(f"{_now()} {text}\n")

    def trace(self, error: BaseException) -> None:
        self._put(masked("".join(traceback.format_exception(error)), self.item))

    def close(self, made: Made, notes: Sequence[str], facts: Mapping[str, Any]) -> None:
        if made.plan is not None:
            self._put(f"{made.plan!r}\n")
        for note in notes:
            self.say(f"note: {note}")
        said = f"{facts['status']}: {format_bytes(made.nbytes)} in "
        said += format_seconds(facts["seconds"])
        self.say(said + (", verified" if facts.get("verified") else ""))

    def _put(self, text: str) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)


def _result(item: Item, status: Any, **facts: Any) -> JobResult:
    return JobResult(
        name=item.name,
        job=item.job,
        sources=tuple(without_secrets(s) for s in item.sources),
        target=item.key,
        status=status,
        **facts,
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, XchunkError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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
