"""Which chunks fit a budget and a use: patterns, layouts and a budget in, a `Suggestion` out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xchunk._typing import Action, Chunks, DimChunk
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget

__all__ = ["Suggestion", "VariableSuggestion"]


@dataclass(frozen=True)
class VariableSuggestion:
    """What to do with one variable, and why."""

    layout: ArrayLayout
    """How the variable is stored."""
    action: Action
    """``load`` into memory, ``chunk`` lazily, or ``stage``: rechunk to zarr first."""
    chunks: Mapping[str, DimChunk]
    """dask chunks by dim, for this use; after the rechunk where the action is ``stage``."""
    target_chunks: Chunks
    """Chunks to store in dim order, if the variable is written to zarr."""
    target_shards: Chunks | None
    """Shards to store in dim order; None: no sharding."""
    projected_mem: int
    """Bytes that one task holds at its peak with these dask chunks."""
    tasks: int
    """Tasks of one pass over the variable."""
    read_amplification: float
    """Elements decoded / elements needed in one pass, as the variable is stored now."""
    why: str
    """The reasons, as a colleague would put them."""

    @property
    def name(self) -> str:
        """Name of the variable."""
        return self.layout.name

    def to_dict(self) -> dict[str, Any]:
        """Return the suggestion as JSON types."""
        return {
            "name": self.name,
            "action": self.action,
            "chunks": {d: c if isinstance(c, int) else list(c) for d, c in self.chunks.items()},
            "target_chunks": list(self.target_chunks),
            "target_shards": None if self.target_shards is None else list(self.target_shards),
            "projected_mem": self.projected_mem,
            "tasks": self.tasks,
            "read_amplification": self.read_amplification,
            "why": self.why,
        }


@dataclass(frozen=True)
class Suggestion(Mapping[str, DimChunk]):
    """What to do with a Dataset for one use, variable by variable.

    As a mapping it holds one dask chunk for each dim, the largest variable's where
    variables disagree, so that it goes into ``ds.chunk(...)`` as it is; ``chunks`` has
    each variable's own.
    """

    variables: Mapping[str, VariableSuggestion]
    """The suggestions by name of the variable."""
    budget: MemoryBudget
    """The budget that they fit."""
    access: str
    """The use that they are for, in words."""

    @property
    def chunks(self) -> dict[str, dict[str, DimChunk]]:
        """The dask chunks: ``{variable: {dim: n}}``."""
        return {name: dict(v.chunks) for name, v in self.variables.items()}

    @property
    def action(self) -> Action:
        """What the Dataset as a whole calls for: the strongest action of its variables."""
        actions = {v.action for v in self.variables.values()}
        if "stage" in actions:
            return "stage"
        return "chunk" if "chunk" in actions else "load"

    @property
    def projected_mem(self) -> int:
        """Bytes that one task holds at its peak, the largest variable's."""
        return max((v.projected_mem for v in self.variables.values()), default=0)

    @property
    def why(self) -> str:
        """The reasons for each variable that is not a coordinate, one a line."""
        said = [v for v in self.variables.values() if not v.layout.is_coord]
        return "\n".join(f"{v.name}: {v.why}" for v in said or self.variables.values())

    def _by_dim(self) -> dict[str, DimChunk]:
        out: dict[str, DimChunk] = {}
        for v in sorted(self.variables.values(), key=lambda v: v.layout.nbytes):
            out.update(v.chunks)
        return out

    def __getitem__(self, dim: str) -> DimChunk:
        return self._by_dim()[dim]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_dim())

    def __len__(self) -> int:
        return len(self._by_dim())

    def to_dict(self) -> dict[str, Any]:
        """Return the suggestion as JSON types."""
        return {
            "access": self.access,
            "action": self.action,
            "budget": self.budget.to_dict(),
            "projected_mem": self.projected_mem,
            "why": self.why,
            "variables": {name: v.to_dict() for name, v in self.variables.items()},
        }
