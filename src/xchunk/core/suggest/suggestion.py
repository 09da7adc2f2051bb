"""Suggestions: patterns, layouts and a budget in, chunks with their reasons out.

A use means the *full* use of a variable by requests of its shape (see
`xchunk.core.suggest.access`). For each variable there is the best lazy pass over it as it is
stored (`xchunk.core.suggest.lazy_pass`), the best new layout, and the better of the two
(`xchunk.core.suggest.decision`). Nothing here depends on the number of chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import SPILL, MemoryBudget
from xchunk.core.plan.choose import as_given, least_budget
from xchunk.core.reports.workload import Outcome, Prediction
from xchunk.core.shown import Shown
from xchunk.core.suggest.access import HELD_COLUMNS, AccessPattern, parse_access
from xchunk.core.suggest.decision import (
    MANY_OBJECTS,
    TIE,
    WORTHWHILE,
    Decision,
    decide,
    request_amplification,
)
from xchunk.core.suggest.lazy_pass import MANY_COPIES, LazyPass, PassModel, item_nbytes
from xchunk.core.types import Action, Chunks, DimChunk
from xchunk.core.units import format_bytes, format_count, format_seconds

#: Below this, decoding more than is needed is not worth a word.
_NOTABLE = 1.05

#: From this on, decoding again is what a pass spends its time on.
_MUCH = 4


def why_of(
    layout: ArrayLayout,
    patterns: Sequence[AccessPattern],
    budget: MemoryBudget,
    decision: Decision,
    request: float,
) -> str:
    """Say why, in a short paragraph.

    - ``layout``: the variable.
    - ``patterns``: the uses, as they concern the variable.
    - ``budget``: the worker's budget as it was given.
    - ``decision``: what was decided.
    - ``request``: elements decoded / elements needed for one request, as the variable is stored
      now.
    """
    if decision.action == "load":
        return (
            f"It is {format_bytes(layout.nbytes)} in all, which one thread holds easily: "
            "loaded at once it costs less than dask's tasks would."
        )
    said = [_stored(layout) + "; " + _needs(patterns) + "."]
    if request > 2 and not all(p.is_scan for p in patterns):
        said.append(f"A single request decodes {_times(request)} what it needs.")
    said += (
        _staged(layout, decision) if decision.action == "stage" else _lazy(layout, budget, decision)
    )
    if decision.chosen.tasks > decision.chosen.blocks:
        windows = "Windows are built one by one, which takes about"
        said.append(f"{windows} {format_count(decision.chosen.tasks)} tasks a pass.")
    said.append(_memory(budget, decision))
    said += _copies(patterns, budget, decision)
    said += _twice(layout, patterns, budget, decision)
    if decision.fewer is not None:
        fewer = decision.fewer
        said.append(
            f"With {_counted(fewer.threads, 'thread')} for each worker, blocks of "
            f"{_blocks(layout, fewer.chunks)} would fit and decode every chunk "
            f"{_times(fewer.amplification)}, {_seconds(fewer)} a pass."
        )
    said += _threads(layout, budget, decision)
    runner_up = runner_up_of(layout, decision)
    if runner_up:
        said.append(f"Runner-up: {runner_up}.")
    if is_close(patterns, decision):
        said.append("It is a close call: the prediction is not sure to a factor of 2.")
    return " ".join(said)


def runner_up_of(layout: ArrayLayout, decision: Decision) -> str:
    """Say what the next best thing would be, and what it would cost; empty if there is none."""
    lazy, after = decision.lazy, decision.after
    if decision.action == "load" or lazy is None:
        return ""
    if decision.action == "stage":
        return (
            f"lazy blocks of {_blocks(layout, lazy.chunks)}, which decode "
            f"{_times(lazy.amplification)} what is stored, {_seconds(lazy)} a pass"
        )
    if after is None or after.seconds > WORTHWHILE * lazy.seconds:
        return ""
    same = decision.target.chunks == layout.chunks
    what = "a copy to zarr in the same chunks" if same else f"a rechunk to {decision.target.chunks}"
    return (
        f"{what}, about {format_seconds(decision.rechunk_seconds)}, "
        f"after which a pass takes {_seconds(after)}; it pays off after "
        f"{counted_passes(decision.break_even)}"
    )


def is_close(patterns: Sequence[AccessPattern], decision: Decision) -> bool:
    """Whether the times of the two ways, over all passes, differ by less than a factor of 2."""
    lazy, after = decision.lazy, decision.after
    if decision.action == "load" or lazy is None or after is None:
        return False
    if not math.isfinite(decision.break_even) or after.seconds > WORTHWHILE * lazy.seconds:
        return False
    passes = math.fsum(p.weight * p.passes for p in patterns)
    stay = passes * lazy.seconds
    move = decision.rechunk_seconds + passes * after.seconds
    return max(stay, move) < TIE * min(stay, move)


def _stored(layout: ArrayLayout) -> str:
    size = format_bytes(layout.nbytes)
    if layout.reader and layout.format == "memory":
        return f"{size} that {layout.reader} reads, in a way that is not known"
    if layout.format == "memory":
        return f"{size} that are in memory already"
    if layout.format == "dask":
        what = (
            f"blocks that {layout.reader} reads"
            if layout.reader
            else "blocks of a computed dask array"
        )
    elif layout.chunks is None:
        return f"Stored contiguously, {size} in all, so that any part can be read by itself"
    else:
        what = "chunks"
    lengths = tuple(
        c if isinstance(c, int) else max(c, default=0)
        for c in layout.chunks or layout.dask_chunks or ()
    )
    text = (
        f"Stored in {format_count(layout.n_chunks)} {what} of up to {lengths} "
        if any(not isinstance(c, int) for c in layout.chunks or ())
        else f"Stored in {format_count(layout.n_chunks)} {what} of {lengths} "
    )
    text += f"({format_bytes(layout.chunk_nbytes)} each, {size} in all)"
    if layout.shards is not None:
        text += f" in shards of {layout.shards}"
    if layout.dtype != layout.stored_dtype:
        text += f", {layout.stored_dtype} on disk and {layout.dtype} in memory"
    return text


def _needs(patterns: Sequence[AccessPattern]) -> str:
    said = []
    for p in patterns:
        needs = [f"{' and '.join(p.whole)} whole"] if p.whole else []
        needs += [f"{n} of {d}" for d, n in p.extents.items()]
        if needs:
            each = "each sample, at a random place," if p.random else "each request"
            text = f"{each} needs {', '.join(needs)}"
        else:
            text = "the use takes the data in any order"
        for d, n in p.halo.items():
            text += f", with {n} elements of its neighbour along {d}"
        for d, edges in p.groups.items():
            text += f", and {len(edges) + 1} periods along {d}"
        said.append(text if len(patterns) == 1 else f"{text} ({p.weight:.0%})")
    return "; ".join(said)


def _lazy(layout: ArrayLayout, budget: MemoryBudget, decision: Decision) -> list[str]:
    lazy = decision.chosen
    said = _in_blocks(layout, decision)
    if lazy.blocks < budget.slots:
        # of a computed array, its own tasks have work
        said.append(
            f"Only {_counted(lazy.blocks, 'task')} for {format_count(budget.slots)} threads: the "
            "others are idle."
        )
    return said


def _in_blocks(layout: ArrayLayout, decision: Decision) -> list[str]:
    lazy = decision.chosen
    blocks = f"{format_count(lazy.blocks)} blocks of {_blocks(layout, lazy.chunks)}"
    what = "one block of all of it" if lazy.blocks == 1 else blocks
    takes = f"{_seconds(lazy)} a pass."
    if lazy.splits:
        often = f"each chunk is decoded {_times(lazy.amplification)}"
        said = [f"Blocks of whole chunks do not fit: with {what} {often}, {takes}"]
        if lazy.amplification > _MUCH:
            said.append("More memory for each worker would read far less.")
        return said
    if layout.chunks is None and layout.dask_chunks is None:
        return [f"With {what} nothing is read twice, {takes}"]
    if lazy.amplification > _NOTABLE:
        often = f"{lazy.amplification:.2f} times what is stored is decoded"
        return [f"With {what} {often}, {takes}"]
    return [f"With {what} every stored chunk is decoded once, {takes}"]


def _staged(layout: ArrayLayout, decision: Decision) -> list[str]:
    lazy, after, target = decision.lazy, decision.chosen, decision.target
    shards = ""
    if target.shards is not None:
        objects = Grid.of(layout.shape, target.shards).count
        shards = f" in shards of {target.shards}, which are {_counted(objects, 'object')}"
    moved = (
        f"Rechunked once to {target.chunks}{shards}, in about "
        f"{format_seconds(decision.rechunk_seconds)}, it takes {format_count(after.blocks)} blocks "
        f"and {_seconds(after)} a pass"
    )
    if lazy is None:
        return ["No lazy blocks fit a worker.", f"{moved}."]
    if lazy.amplification > _NOTABLE:
        now = f"Lazily, every stored chunk would be decoded {_times(lazy.amplification)}."
    else:
        now = f"Lazily, a pass makes {format_count(layout.n_chunks)} requests, {_seconds(lazy)}."
    return [now, f"{moved}; it has paid off after {counted_passes(decision.break_even)}."]


def _memory(budget: MemoryBudget, decision: Decision) -> str:
    chosen = decision.chosen
    text = (
        f"A task holds {format_bytes(chosen.projected_mem)} at its peak and a worker with "
        f"{_counted(decision.threads, 'thread')} {format_bytes(chosen.worker_mem)}, "
        f"{chosen.worker_mem / budget.max_mem:.0%} of what it may grow by"
    )
    limit = budget.fraction_of_limit(chosen.worker_mem)
    if limit is not None:
        text += f", which takes it to {limit:.0%} of its limit (dask spills at {SPILL:.0%})"
    return text + "."


def _copies(
    patterns: Sequence[AccessPattern], budget: MemoryBudget, decision: Decision
) -> list[str]:
    """Warn of operations that copy much, where it was not said what is done with a block."""
    needed = math.ceil(decision.threads * MANY_COPIES * decision.chosen.block_nbytes)
    if needed <= 1.25 * budget.max_mem or any(p.methods for p in patterns):
        return []
    text = "An operation that copies much, such as std of float32, would take up to "
    text += f"{format_bytes(needed)}: name it, reduce={{dim: 'std'}}, or give it as workload=."
    return [text]


def _twice(
    layout: ArrayLayout,
    patterns: Sequence[AccessPattern],
    budget: MemoryBudget,
    decision: Decision,
) -> list[str]:
    """Warn of operations that need all of a dim before they go over it again."""
    lengths = {
        d: max(c) if isinstance(c, tuple) else min(c, layout.sizes[d])
        for d, c in decision.chosen.chunks.items()
    }
    for p in patterns:
        along = {*p.reduces, *p.groups}
        if p.methods or not any(lengths[d] < n for d, n in layout.sizes.items() if d in along):
            continue
        column = math.prod(n if d in along else lengths[d] for d, n in layout.sizes.items())
        held = max(HELD_COLUMNS.values()) * column * item_nbytes(layout.dtype)
        if held > budget.max_mem * max(1, budget.workers):
            over = next(d for d in layout.sizes if d in along)
            what = f"An operation that goes over {over} twice, such as a correlation or an anomaly"
            text = f"{what}, holds {format_bytes(int(held))} of two variables in between: give it"
            return [f"{text} as workload=, or name a correlation, reduce={{{over!r}: 'corr'}}."]
    return []


def _threads(layout: ArrayLayout, budget: MemoryBudget, decision: Decision) -> list[str]:
    model = PassModel(layout, AccessPattern("scan"), budget, Rates())
    given = decision.all_threads
    if given is not None and decision.action == "chunk":
        needs = f"It needs workers with {_counted(decision.threads, 'thread')}"
        text = f"{needs}, which read less than busier ones would: with {budget.threads} threads, "
        text += f"blocks of {_blocks(layout, given.chunks)} decode every chunk "
        return [text + f"{_times(given.amplification)}, {_seconds(given)} a pass."]
    if decision.threads < budget.threads:
        chunk = format_bytes(model.chunk_raw_nbytes)
        needs = f"It needs workers with {_counted(decision.threads, 'thread')}"
        return [f"{needs}: with {budget.threads} nothing fits, a stored chunk is {chunk} decoded."]
    if decision.action == "chunk" and budget.threads > 1 and model.is_serial:
        lock = "A lock lets one thread of a process read at a time"
        return [f"{lock}: more processes of fewer threads would read faster."]
    return []


def _blocks(layout: ArrayLayout, chunks: Mapping[str, DimChunk]) -> str:
    parts = []
    for d, n in layout.sizes.items():
        c = chunks[d]
        if isinstance(c, tuple):
            parts.append(f"{d} up to {max(c)}")
        else:
            parts.append(f"{d} whole" if c >= n else f"{d} {c}")
    return ", ".join(parts)


def _times(x: float) -> str:
    if x < _NOTABLE:
        return "once"
    return f"{x:.1f} times" if x < 9.95 else f"{format_count(round(x))} times"


def counted_passes(x: float) -> str:
    """Say how many passes, or that it is the first one already."""
    if x <= 1:
        return "the first pass"
    return f"{x:.1f} passes" if x < 9.95 else f"{format_count(math.ceil(x))} passes"


def _seconds(found: LazyPass) -> str:
    return f"about {format_seconds(found.seconds)}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


@dataclass(frozen=True, repr=False)
class VariableSuggestion(Shown, view="variable_suggestion"):
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


@dataclass(frozen=True, repr=False)
class Suggestion(Shown, Mapping[str, DimChunk], view="suggestion"):
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
    notes: tuple[str, ...] = ()
    """What else is to be known, in words."""

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

    def plot(
        self,
        kind: str | None = None,
        *,
        variable: str | None = None,
        access: Any = None,
        ax: Any = None,
    ) -> Any:
        """Plot what the suggestion was chosen from, or what it does.

        Parameters
        ----------
        kind : {"cost", "memory", "amplification", "layout"}, optional
            ``cost``: predicted time of a pass against the size of a block, with the chosen one
            (of a workload: of each candidate that was simulated); ``memory``: predicted memory over
            the time of a workload; ``amplification``: elements decoded for each element that
            one request needs, by access pattern, as stored and as suggested; ``layout``: before and
            after, with the chunks lit up that one request touches. By default ``cost``.
        variable : str, optional
            The variable; the largest one by default.
        access : list, optional
            For ``amplification``, the uses: the presets whose dims are found, by default.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default. For ``layout``, two of them.

        Returns
        -------
        matplotlib.axes.Axes
            For ``layout`` an array of two.

        Raises
        ------
        InvalidChunksError
            If there is no such variable or kind, or ``memory`` is asked for without a workload.
        """
        return self._plot(kind=kind, variable=variable, access=access, ax=ax)

    def details(self) -> str:
        """Return all that is known of each variable, with the reasons, as text."""
        return self._text(details=True)

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
            "notes": list(self.notes),
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
    growing: str | Mapping[str, int] | None = None,
) -> Suggestion:
    """Suggest chunks for all variables of a Dataset.

    - ``layouts``: the variables, coordinates included; presets find their dims in them.
    - ``access``: the use, as `xchunk.core.suggest.access.parse_access` takes it: a preset stands
      for the full use of the data by requests of its shape.
    - ``budget``: what one worker may grow by, and the tasks that it runs at once.
    - ``rates``: how fast stores, codecs and the scheduler are.
    - ``passes``: how many times the data are used like this; what a rechunk costs is weighed with
      it.
    - ``reduce``, ``rolling``, ``groups``, ``growing``: more about the use, by dim, as
      `xchunk.core.suggest.access.parse_access` takes it.
    - returns: what to do with each variable. Those without the dims of the use are scanned.
    - raises `InvalidChunksError` if the use cannot be understood, or its dims are not there.
    - raises `MemoryBudgetError` if nothing fits.
    """
    patterns = parse_access(
        access,
        layouts,
        passes=passes,
        reduce=reduce,
        rolling=rolling,
        groups=groups,
        growing=growing,
    )
    rates = rates or Rates()
    nbytes = max(1, sum(v.nbytes for v in layouts))
    # what is stored alike gets the same advice, which is looked for once
    known: dict[ArrayLayout, VariableSuggestion] = {}
    out = {}
    # the blocks along each dim of those before, lazily and after a rechunk
    lazily: dict[str, DimChunk] = {}
    stored: dict[str, DimChunk] = {}
    for v in _leading_first(layouts):
        alike = replace(v, name="", packing=None, fill_value=None)
        if alike not in known:
            # a store may have so many objects, whatever the number of its variables
            known[alike] = found = suggest_array(
                v,
                patterns,
                budget,
                rates=rates,
                objects=max(10, MANY_OBJECTS * v.nbytes // nbytes),
                like={d: c for d, c in lazily.items() if d in v.dims},
                like_stored={d: c for d, c in stored.items() if d in v.dims},
            )
            if found.action != "load":
                lazily = {**(found.lazy_chunks or {}), **lazily}
                stored = {**found.chunks, **stored}
        out[v.name] = replace(known[alike], layout=v)
    return Suggestion(
        {v.name: out[v.name] for v in layouts},
        budget,
        _said(patterns),
        patterns=patterns,
        rates=rates,
        notes=_growing_notes(patterns, out),
    )


def _leading_first(layouts: Sequence[ArrayLayout]) -> list[ArrayLayout]:
    """Sort variables so that each can have the blocks of those before it along the same dims.

    Of the large ones those with the largest elements come first: what fits them fits all.
    """
    most = max((v.nbytes for v in layouts), default=0)
    return sorted(
        layouts, key=lambda v: (10 * v.nbytes < most, -item_nbytes(v.dtype), -v.nbytes, v.name)
    )


def _growing_notes(
    patterns: Sequence[AccessPattern], found: Mapping[str, VariableSuggestion]
) -> tuple[str, ...]:
    """Say what the chunks mean for appends."""
    notes = []
    for dim, n in (item for p in patterns[:1] for item in p.grows.items()):
        own = [v for v in found.values() if dim in v.layout.dims and not v.layout.is_coord]
        if own:
            main = max(own, key=lambda v: v.layout.nbytes)
            length = main.target_chunks[main.layout.dims.index(dim)]
            notes.append(
                f"{dim} grows by {format_count(n)} at a time, and a stored chunk of {main.name} "
                f"holds {format_count(length)}: an append rewrites at most the last chunks along "
                f"{dim}. Chunks of the whole dim would all be rewritten."
            )
    return tuple(notes)


def objects_notes(suggestion: Suggestion) -> tuple[str, ...]:
    """Say where a rechunk as suggested makes very many objects, and what makes fewer."""
    staged = [v for v in suggestion.variables.values() if v.action == "stage"]
    chunks = sum(Grid.of(v.layout.shape, v.target_chunks).count for v in staged)
    units = [Grid.of(v.layout.shape, v.target_shards or v.target_chunks).count for v in staged]
    if chunks > MANY_OBJECTS and needs_format_3(staged):
        said = (
            f"the source has zarr format 2, which has no shards: {format_count(chunks)} chunks "
            f"would be as many objects (files). In shards they are {format_count(sum(units))}: "
            "give zarr_format=3"
        )
        return (said,)
    if sum(units) <= MANY_OBJECTS:
        return ()
    said = (
        f"the rechunk writes {format_count(sum(units))} objects (files): many file systems are "
        "slow with so many, and each is a request to an object store. shards= of your own, as "
        "large as max_mem= allows, make fewer"
    )
    return (said,)


def more_memory(suggestion: Suggestion) -> str:
    """Say what a rechunk to the chunks takes, where the budget is too small for it; else nothing.

    A pass may fit where a rechunk does not, which holds chunks of both stores.
    """
    budget, least = suggestion.budget, 0
    for v in suggestion.variables.values():
        if v.layout.size:
            chunks, shards = v.target_chunks, v.target_shards
            found = least_budget(v.layout, chunks, shards, budget, suggestion.rates)
            least = max(least, found or 0)
    if not least:
        return ""
    given, remedy = as_given(budget, least)
    return f"To write zarr in chunks for this use does not fit {given}. {remedy}."


def needs_format_3(found: Iterable[VariableSuggestion]) -> bool:
    """Return whether shards are suggested for what would be stored in zarr format 2, as it is."""
    formats = {v.layout.format for v in found if v.target_shards is not None}
    return "zarr2" in formats and "zarr3" not in formats


def suggest_array(
    layout: ArrayLayout,
    pattern: AccessPattern | Sequence[AccessPattern],
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
    objects: int = MANY_OBJECTS,
    like: Mapping[str, DimChunk] = MappingProxyType({}),
    like_stored: Mapping[str, DimChunk] = MappingProxyType({}),
) -> VariableSuggestion:
    """Suggest chunks for one variable.

    - ``layout``: how the variable is stored.
    - ``pattern``: the use, or several with weights: the layout to store is then a compromise, and
      the dask chunks are those of the use with the largest weight.
    - ``budget``: what one worker may grow by, and the tasks that it runs at once.
    - ``rates``: how fast stores, codecs and the scheduler are.
    - ``objects``: how many it may be stored in, before chunks are gathered in shards.
    - ``like``, ``like_stored``: blocks of other variables, as `decide` takes them.
    - returns: what to do, and why.
    - raises `MemoryBudgetError` if nothing fits, not even one task at a time.
    """
    patterns = (pattern,) if isinstance(pattern, AccessPattern) else tuple(pattern)
    if layout.size == 0 or layout.ndim == 0:
        return _trivial(layout, budget)
    decision = decide(
        layout,
        patterns,
        budget,
        rates or Rates(),
        objects=objects,
        like=like,
        like_stored=like_stored,
    )
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
