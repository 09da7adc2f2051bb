"""What was found of a computation that was watched: symptoms, and what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["Diagnosis", "Symptom", "SymptomName"]

SymptomName: TypeAlias = Literal[
    "workers-lost", "spilling", "memory", "one-chunk", "too-few-tasks", "too-many-tasks",
    "unbalanced", "transfer-bound", "lock-bound", "gil-bound", "overhead-bound",
    "io-bound", "codec-bound",
    "idle", "healthy", "nothing",
]  # fmt: skip


@dataclass(frozen=True)
class Symptom:
    """One thing that a computation suffers from."""

    name: SymptomName
    """What it is called."""
    share: float
    """Part of the threads' time that it takes."""
    what: str
    """What was seen."""
    means: str
    """What that means."""
    remedy: str
    """What to change."""
    code: str
    """The change as code."""

    def to_dict(self) -> dict[str, Any]:
        """Return the symptom as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Diagnosis:
    """What was found, the gravest first."""

    symptoms: tuple[Symptom, ...]
    """At least one: where nothing is wrong, it is ``healthy``."""
    notes: tuple[str, ...] = ()
    """What else is to be known."""
    is_crowded: bool = False
    """Whether other processes had the processors for much of the time."""

    @property
    def verdict(self) -> SymptomName:
        """The name of the gravest symptom."""
        return self.symptoms[0].name

    @property
    def title(self) -> str:
        """The verdict in words."""
        return f"{self.verdict}, on a busy machine" if self.is_crowded else self.verdict

    def __str__(self) -> str:
        said = [f"{s.name}: {s.what} {s.means} {s.remedy}" for s in self.symptoms]
        code = ["    " + s.code.replace("\n", "\n    ") for s in self.symptoms]
        pairs = [f"{a}\n\n{b}" for a, b in zip(said, code, strict=True)]
        return "\n\n".join([*pairs, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON types."""
        return {
            "verdict": self.verdict,
            "is_crowded": self.is_crowded,
            "symptoms": [s.to_dict() for s in self.symptoms],
            "notes": list(self.notes),
        }
