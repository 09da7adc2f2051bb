"""Which chunks fit a budget and a use: patterns, layouts and a budget in, a `Suggestion` out.

A use is understood as the *full* use of a variable by requests of its shape (see
`xchunk.core.access`). For each variable there is the best lazy pass over it as it is stored
(`xchunk.core.passes`), the best new layout (`xchunk.core.target`) and the better of the two
(`xchunk.core.decide`). Nothing here depends on the number of chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xchunk._typing import Action, Chunks, DimChunk
from xchunk.core.access import AccessPattern, parse_access
from xchunk.core.cost import Rates
from xchunk.core.decide import decide
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.reasons import is_close, runner_up_of, why_of
from xchunk.core.target import request_amplification
from xchunk.core.workload import Outcome, Prediction

__all__ = ["Suggestion", "VariableSuggestion", "suggest_array", "suggest_dataset"]


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
    worker_mem: int = 0
    """Bytes by which one worker grows at its peak, its tasks and finished blocks together."""
    threads: int = 1
    """Threads per worker for which it fits; fewer than there are where those cannot work."""
    request_amplification: float = 1.0
    """Elements decoded / elements needed for a single request, as the variable is stored now."""
    seconds_now: float | None = None
    """Predicted time of one pass as the variable is stored now; None: no lazy pass fits."""
    seconds_after: float | None = None
    """Predicted time of one pass over the new layout; None: there is none to compare."""
    rechunk_seconds: float | None = None
    """Predicted time of rechunking; None: there is nothing to rechunk."""
    break_even_passes: float | None = None
    """Passes after which rechunking has paid off; None: never."""
    binding: str = ""
    """What decided: ``size``, ``storage``, ``memory``, ``threads``, ``requests`` or
    ``amplification``."""
    runner_up: str = ""
    """The next best thing to do, and what it would cost, in words."""
    close_call: bool = False
    """Whether the runner-up is within the error of the prediction, a factor of 2."""
    lazy_chunks: Mapping[str, DimChunk] | None = None
    """dask chunks by dim of the best lazy pass as the variable is stored now; None: none fits."""

    @property
    def name(self) -> str:
        """Name of the variable."""
        return self.layout.name

    def to_dict(self) -> dict[str, Any]:
        """Return the suggestion as JSON types."""
        return {
            "name": self.name,
            "action": self.action,
            "chunks": _plain(self.chunks),
            "target_chunks": list(self.target_chunks),
            "target_shards": None if self.target_shards is None else list(self.target_shards),
            "projected_mem": self.projected_mem,
            "worker_mem": self.worker_mem,
            "threads": self.threads,
            "tasks": self.tasks,
            "read_amplification": self.read_amplification,
            "request_amplification": self.request_amplification,
            "seconds_now": self.seconds_now,
            "seconds_after": self.seconds_after,
            "rechunk_seconds": self.rechunk_seconds,
            "break_even_passes": self.break_even_passes,
            "binding": self.binding,
            "runner_up": self.runner_up,
            "close_call": self.close_call,
            "lazy_chunks": None if self.lazy_chunks is None else _plain(self.lazy_chunks),
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
    prediction: Prediction | None = None
    """What the workload takes with these chunks; None where none was simulated."""
    runner_up: Outcome | None = None
    """The next best chunks for the workload, with what it takes then."""
    outcomes: tuple[Outcome, ...] = ()
    """All chunks for which the workload was simulated."""
    patterns: tuple[AccessPattern, ...] = ()
    """The use, as it was understood."""
    rates: Rates = field(default_factory=Rates)
    """The rates by which times were predicted."""

    @property
    def chunks(self) -> dict[str, dict[str, DimChunk]]:
        """The dask chunks: ``{variable: {dim: n}}``."""
        return {name: dict(v.chunks) for name, v in self.variables.items()}

    @property
    def lazy_chunks(self) -> dict[str, dict[str, DimChunk]]:
        """The dask chunks without a rechunk: ``{variable: {dim: n}}``, where any fit at all."""
        found = {name: v.lazy_chunks for name, v in self.variables.items()}
        return {name: dict(c) for name, c in found.items() if c is not None}

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
    def threads(self) -> int:
        """Threads per worker for which every variable fits."""
        return min((v.threads for v in self.variables.values()), default=self.budget.threads)

    @property
    def encoding(self) -> dict[str, dict[str, Chunks]]:
        """How to store the variables, for ``to_zarr(encoding=...)``; shards where there are any.

        Scalars are left out: they have no chunks to be told.
        """
        out: dict[str, dict[str, Chunks]] = {}
        for name, v in self.variables.items():
            if v.layout.ndim:
                out[name] = {"chunks": v.target_chunks}
                if v.target_shards is not None:
                    out[name]["shards"] = v.target_shards
        return out

    @property
    def why(self) -> str:
        """The reasons for each variable that is not a coordinate, one a line."""
        said = [v for v in self.variables.values() if not v.layout.is_coord]
        if self.prediction is not None:
            said = [v for v in said if v.name in self.prediction.reads] or said
        return "\n".join(f"{v.name}: {v.why}" for v in said or self.variables.values())

    def _by_dim(self) -> dict[str, DimChunk]:
        out: dict[str, DimChunk] = {}
        used = {} if self.prediction is None else self.prediction.reads
        # the last one decides: a variable that a workload reads, and of those the largest
        for v in sorted(self.variables.values(), key=lambda v: (v.name in used, v.layout.nbytes)):
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
            "threads": self.threads,
            "budget": self.budget.to_dict(),
            "projected_mem": self.projected_mem,
            "why": self.why,
            "variables": {name: v.to_dict() for name, v in self.variables.items()},
            "prediction": None if self.prediction is None else self.prediction.to_dict(),
            "outcomes": [o.to_dict() for o in self.outcomes],
        }


def suggest_dataset(
    layouts: Sequence[ArrayLayout],
    access: Any,
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
    passes: float = 1,
    reduce: str | Sequence[str] | Mapping[str, str] = (),
    rolling: Mapping[str, int] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
) -> Suggestion:
    """Suggest chunks for all variables of a Dataset.

    Parameters
    ----------
    layouts : sequence of ArrayLayout
        The variables, coordinates included; presets find their dims in them.
    access : str, mapping, sequence of pairs, AccessPattern or None
        The use, as `xchunk.core.access.parse_access` takes it: a preset stands for the full
        use of the data by requests of its shape.
    budget : MemoryBudget
        What one worker may grow by, and the tasks that it runs at once.
    rates : Rates, optional
        How fast stores, codecs and the scheduler are.
    passes : float
        How many times the data are used like this; what a rechunk costs is weighed with it.
    reduce, rolling, groups
        More about the use, by dim, as `xchunk.core.access.parse_access` takes it.

    Returns
    -------
    Suggestion
        What to do with each variable. Those without the dims of the use are scanned.

    Raises
    ------
    InvalidChunksError
        If the use cannot be understood, or its dims are not there.
    MemoryBudgetError
        If nothing fits.
    """
    patterns = parse_access(
        access, layouts, passes=passes, reduce=reduce, rolling=rolling, groups=groups
    )
    rates = rates or Rates()
    # what is stored alike gets the same advice, which is looked for once
    known: dict[ArrayLayout, VariableSuggestion] = {}
    out = {}
    for v in layouts:
        alike = replace(v, name="", packing=None, fill_value=None)
        if alike not in known:
            known[alike] = suggest_array(v, patterns, budget, rates=rates)
        out[v.name] = replace(known[alike], layout=v)
    return Suggestion(
        out,
        budget,
        _said(patterns),
        patterns=patterns,
        rates=rates,
    )


def suggest_array(
    layout: ArrayLayout,
    pattern: AccessPattern | Sequence[AccessPattern],
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
) -> VariableSuggestion:
    """Suggest chunks for one variable.

    Parameters
    ----------
    layout : ArrayLayout
        How the variable is stored.
    pattern : AccessPattern or sequence of AccessPattern
        The use, or several with weights: the layout to store is then a compromise, and the
        dask chunks are those of the use with the largest weight.
    budget : MemoryBudget
        What one worker may grow by, and the tasks that it runs at once.
    rates : Rates, optional
        How fast stores, codecs and the scheduler are.

    Returns
    -------
    VariableSuggestion
        What to do, and why.

    Raises
    ------
    MemoryBudgetError
        If nothing fits, not even one task at a time.
    """
    patterns = (pattern,) if isinstance(pattern, AccessPattern) else tuple(pattern)
    if layout.size == 0 or layout.ndim == 0:
        return _trivial(layout, budget)
    decision = decide(layout, patterns, budget, rates or Rates())
    chosen = decision.chosen
    own = [p.on(layout) for p in patterns]
    stored = tuple(
        c if isinstance(c, int) else max(c, default=1) for c in layout.chunks or (1,) * layout.ndim
    )
    request = request_amplification(layout, stored, own)
    finite = math.isfinite(decision.break_even)
    return VariableSuggestion(
        layout=layout,
        action=decision.action,
        chunks=chosen.chunks,
        target_chunks=decision.target.chunks,
        target_shards=decision.target.shards,
        projected_mem=chosen.projected_mem,
        tasks=chosen.tasks,
        read_amplification=request if decision.lazy is None else decision.lazy.amplification,
        why=why_of(layout, own, budget, decision, request),
        worker_mem=chosen.worker_mem,
        threads=decision.threads,
        request_amplification=request,
        seconds_now=None if decision.lazy is None else decision.lazy.seconds,
        seconds_after=None if decision.after is None else decision.after.seconds,
        rechunk_seconds=None if decision.after is None else decision.rechunk_seconds,
        break_even_passes=decision.break_even if finite else None,
        binding=decision.binding,
        runner_up=runner_up_of(layout, decision),
        close_call=is_close(own, decision),
        lazy_chunks=None if decision.lazy is None else decision.lazy.chunks,
    )


def _trivial(layout: ArrayLayout, budget: MemoryBudget) -> VariableSuggestion:
    what = "it is a scalar" if layout.ndim == 0 else "it has no elements"
    return VariableSuggestion(
        layout=layout,
        action="load",
        chunks=dict.fromkeys(layout.dims, -1),
        target_chunks=tuple(max(1, n) for n in layout.shape),
        target_shards=None,
        projected_mem=layout.nbytes,
        tasks=min(1, layout.size),
        read_amplification=1.0,
        why=f"{what[0].upper()}{what[1:]}, so that there is nothing to chunk.",
        worker_mem=layout.nbytes,
        threads=budget.threads,
        binding="size",
        lazy_chunks=dict.fromkeys(layout.dims, -1),
    )


def _plain(chunks: Mapping[str, DimChunk]) -> dict[str, int | list[int]]:
    return {d: c if isinstance(c, int) else list(c) for d, c in chunks.items()}


def _said(patterns: Sequence[AccessPattern]) -> str:
    if len(patterns) == 1:
        return patterns[0].describe()
    return ", ".join(f"{p.weight:.0%} {p.describe()}" for p in patterns)
