"""What a check knows of a Dataset, and what it finds: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from xchunk._typing import Chunks
from xchunk.core.layout import Packing

__all__ = [
    "SEVERITIES",
    "CheckReport",
    "DatasetFacts",
    "Finding",
    "RegionWrite",
    "Severity",
    "VariableFacts",
]

#: ``info``: it could be better; ``warning``: it costs time, memory or requests that are not
#: needed; ``error``: it fails, kills workers or stores wrong values.
Severity: TypeAlias = Literal["info", "warning", "error"]

#: From the mildest to the worst.
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    code: str
    """Name of the rule, such as ``split-stored-chunks``; it stays the same between versions."""
    severity: Severity
    """How bad it is."""
    variable: str
    """Name of the variable; empty where it concerns the Dataset."""
    message: str
    """What was found."""
    consequence: str
    """What it leads to, in numbers."""
    remedy: str
    """What to do, as code."""

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON types."""
        return {
            "code": self.code,
            "severity": self.severity,
            "variable": self.variable,
            "message": self.message,
            "consequence": self.consequence,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class CheckReport(Sequence[Finding]):
    """What a check found, the worst first; a sequence of findings."""

    findings: tuple[Finding, ...]
    """The findings."""
    source: str = ""
    """What was checked, in words."""
    checked: int = 0
    """Number of variables that were looked at."""

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]

    @property
    def counts(self) -> dict[Severity, int]:
        """Number of findings of each severity, the worst first."""
        return {s: sum(f.severity == s for f in self.findings) for s in reversed(SEVERITIES)}

    @property
    def worst(self) -> Severity | None:
        """The worst severity; None where nothing was found."""
        return max((f.severity for f in self.findings), key=SEVERITIES.index, default=None)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of this severity and worse."""
        least = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= least)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "source": self.source,
            "checked": self.checked,
            "counts": dict(self.counts),
            "findings": [f.to_dict() for f in self.findings],
        }


@dataclass(frozen=True)
class RegionWrite:
    """A region of a stored array that is to be written."""

    shape: tuple[int, ...]
    """Elements of the stored array along each dim."""
    units: Chunks
    """What is written as a whole: shards, or chunks where there are none."""
    start: tuple[int, ...]
    """First element of the region along each dim."""
    stop: tuple[int, ...]
    """Element after the last along each dim."""


@dataclass(frozen=True)
class VariableFacts:
    """What is known of one variable besides its layout."""

    encoding_chunks: Chunks | None = None
    """The chunks that ``to_zarr`` would take from the encoding; None: none, or of other dims."""
    encoding_shards: Chunks | None = None
    """The same for shards."""
    encoding_dtype: np.dtype[Any] | None = None
    """The dtype that values are converted to when they are written; None: their own."""
    packing: Packing | None = None
    """The packing that the encoding asks for."""
    has_fill: bool = False
    """Whether the encoding or the attributes name a fill value."""
    codecs_for: int | None = None
    """The zarr format that the encoding's codecs are made for; None: it names none."""
    lowest: float | None = None
    """The smallest value, where the values are in memory."""
    highest: float | None = None
    """The largest value, where the values are in memory."""
    has_missing: bool | None = None
    """Whether values are missing; None: not known."""
    is_exact: bool | None = None
    """Whether every value is one that the packing can hold; None: not known."""
    rechunk_tasks: int = 0
    """Tasks of dask's own rechunk in the variable's graph."""
    region: RegionWrite | None = None
    """Where it is to be written to, if that was said."""


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a Dataset besides its layouts."""

    variables: Mapping[str, VariableFacts] = field(default_factory=dict)
    """The facts by name of the variable."""
    tasks: int = 0
    """Tasks of the graphs of all variables together."""
    source: str = ""
    """Path or URL of what was opened; empty where there is none."""
