"""What became of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["STATUSES", "BatchReport", "JobResult", "Status"]

#: ``done``: written by this run; ``skipped``: done by an earlier one, and still right;
#: ``planned``: what a dry run would do; ``failed``; ``interrupted``: begun, and goes on with the
#: next run; ``waiting``: not begun.
Status = Literal["done", "skipped", "planned", "failed", "interrupted", "waiting"]

#: In the order in which they are counted.
STATUSES: tuple[Status, ...] = (
    "done", "skipped", "planned", "failed", "interrupted", "waiting",
)  # fmt: skip


@dataclass(frozen=True)
class JobResult:
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
        return {
            "name": self.name,
            "job": self.job,
            "sources": list(self.sources),
            "target": self.target,
            "status": self.status,
            "verified": self.verified,
            "seconds": self.seconds,
            "nbytes": self.nbytes,
            "message": self.message,
            "error": self.error or None,
            "notes": list(self.notes),
            "log": self.log or None,
        }


@dataclass(frozen=True)
class BatchReport(Sequence[JobResult]):
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
