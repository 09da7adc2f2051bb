"""The rules of a check: layouts, facts and a budget in, findings out.

Each rule looks at one thing, and says what it costs and what to do about it. Thresholds
follow what stores and schedulers take: a request to an object store is as dear as reading
some megabytes, and a task costs the scheduler about a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xchunk.core.axes import dim_roles
from xchunk.core.blocks import BLOCK_COPIES, item_nbytes
from xchunk.core.cost import Rates
from xchunk.core.findings import SEVERITIES, CheckReport, DatasetFacts, Finding, VariableFacts
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget, codec_copies
from xchunk.core.remedies import (
    aligned,
    by_dim,
    chunk_raw,
    divided,
    grown,
    has_store,
    lengths,
    merged,
    opened,
    shrunk,
)
from xchunk.core.spec import STORED_CHUNK
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.core.writes import write_rules

__all__ = ["check_layouts"]

#: Seconds of one request to an object store, for what would happen there.
REMOTE = 0.05

#: Bytes of a stored chunk below which requests and not bytes are what one waits for, and from
#: which on a reader that needs little decodes much.
TINY_CHUNK, SMALL_CHUNK, LARGE_CHUNK = 256_000, 1_000_000, 256_000_000

#: Stored chunks from which on their smallness shows.
SOME, FEW, MANY = 10, 100, 1_000

#: Bytes of a dask block below which the scheduler's cost exceeds the work.
TINY_BLOCK = 1_000_000

#: Tasks of a graph from which on one waits for the scheduler, and from which on it fails.
MANY_TASKS, TOO_MANY_TASKS = 100_000, 1_000_000

#: Decoding more often than this is worth a word, and from the second on a warning.
SPLITS_A_BIT, SPLITS_MUCH = 1.02, 1.5


@dataclass(frozen=True)
class _Case:
    """One variable, with all that a rule may need."""

    layout: ArrayLayout
    facts: VariableFacts
    budget: MemoryBudget
    rates: Rates
    source: str

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def blocks(self) -> Grid | None:
        v = self.layout
        return None if v.dask_chunks is None else Grid.of(v.shape, v.dask_chunks)

    @property
    def is_index(self) -> bool:
        return self.layout.is_coord and self.layout.ndim == 1


def check_layouts(
    layouts: Sequence[ArrayLayout],
    budget: MemoryBudget,
    facts: DatasetFacts | None = None,
    *,
    rates: Rates | None = None,
) -> CheckReport:
    """Check how variables are stored, chunked and about to be written.

    Parameters
    ----------
    layouts : sequence of ArrayLayout
        The variables, coordinates included.
    budget : MemoryBudget
        What one worker may grow by, and the tasks that it runs at once.
    facts : DatasetFacts, optional
        What else is known: encodings, graphs, regions.
    rates : Rates, optional
        How fast things are; the defaults otherwise.

    Returns
    -------
    CheckReport
        The findings, the worst first, then those of the largest variables.
    """
    facts, rates = facts or DatasetFacts(), rates or Rates()
    found: list[Finding] = []
    for v in layouts:
        case = _Case(v, facts.variables.get(v.name, VariableFacts()), budget, rates, facts.source)
        if v.size and v.ndim:
            for rule in _RULES:
                found += rule(case)
            found += write_rules(v, case.facts)
    found += _graph(facts)
    found += _series(layouts)
    found += _mixed(layouts, facts)
    sizes = {v.name: v.nbytes for v in layouts}
    found.sort(key=lambda f: (-SEVERITIES.index(f.severity), -sizes.get(f.variable, math.inf)))
    return CheckReport(tuple(found), facts.source, len(layouts))


# ---- how it is stored ---------------------------------------------------------------------


def _stored_too_small(case: _Case) -> Iterator[Finding]:
    v = case.layout
    if v.chunks is None or case.is_index or not has_store(v):
        return
    chunk = chunk_raw(v)
    requests = Grid.of(v.shape, v.shards).count if v.shards is not None else v.n_chunks
    if requests < FEW or chunk >= SMALL_CHUNK:
        return
    bad = chunk < TINY_CHUNK and requests >= MANY
    better = grown(v)
    yield Finding(
        "stored-chunks-too-small",
        "warning" if bad else "info",
        v.name,
        f"stored in {format_count(v.n_chunks)} chunks of {lengths(v)}, {format_bytes(chunk)} each",
        f"reading all {format_bytes(v.nbytes)} takes {format_count(requests)} requests: "
        f"{format_seconds(requests * case.rates.latency)} of waiting on a disk, "
        f"{format_seconds(requests * REMOTE)} one after the other on an object store",
        f"ds.chunking.apply({{{v.name!r}: {by_dim(v, better)}}}, store='rechunked.zarr')",
    )


def _stored_too_large(case: _Case) -> Iterator[Finding]:
    v, budget = case.layout, case.budget
    if v.chunks is None or not has_store(v):
        return
    chunk = chunk_raw(v)
    decoded = chunk // max(1, item_nbytes(v.stored_dtype)) * item_nbytes(v.dtype)
    needed = int(chunk * codec_copies(v.codecs)[0] + decoded)
    fits = needed <= budget.per_task
    if fits and chunk < LARGE_CHUNK:
        return
    better = shrunk(v, min(STORED_CHUNK, max(1, budget.per_task // 8)))
    remedy = f"ds.chunking.apply({{{v.name!r}: {by_dim(v, better)}}}, store='rechunked.zarr')"
    if fits:
        consequence = "whatever is read of it, one value even, decodes that much"
    elif needed <= budget.max_mem:
        most = max(1, budget.max_mem // needed)
        consequence = (
            f"a task that reads it takes {format_bytes(needed)}: only {most} of the "
            f"{budget.threads} tasks at once fit the {format_bytes(budget.max_mem)} that a worker "
            "may grow by"
        )
        remedy += f"  # or workers with threads_per_worker={most}"
    else:
        consequence = (
            f"a task that reads it takes {format_bytes(needed)}, more than the "
            f"{format_bytes(budget.max_mem)} that a worker may grow by: it is killed"
        )
        remedy = f"ds.chunking.suggest(max_mem={needed})  # workers that may grow by as much"
    yield Finding(
        "stored-chunks-too-large",
        "warning" if fits else "error",
        v.name,
        f"one stored chunk of {lengths(v)} is {format_bytes(chunk)} decoded",
        consequence,
        remedy,
    )


def _split_coordinate(case: _Case) -> Iterator[Finding]:
    v = case.layout
    if not case.is_index or not has_store(v) or v.chunks is None or v.n_chunks < SOME:
        return
    requests = v.n_chunks
    yield Finding(
        "split-coordinate",
        "warning" if requests >= FEW else "info",
        v.name,
        f"the coordinate's {v.shape[0]} values are stored in {format_count(requests)} chunks",
        f"every time that the dataset is opened, {format_count(requests)} requests are made for "
        f"{format_bytes(v.nbytes)}: {format_seconds(requests * REMOTE)} one after the other on an "
        "object store",
        f"ds.chunking.apply({{{v.name!r}: {{{v.dims[0]!r}: -1}}}}, store='rechunked.zarr')",
    )


def _series(layouts: Sequence[ArrayLayout]) -> Iterator[Finding]:
    """Find chunks of one time step, with which each series reads everything."""
    times = {d for d, role in dim_roles(layouts).items() if role == "T"}
    for v in layouts:
        if v.is_coord or v.chunks is None or not has_store(v) or not v.size:
            continue
        for dim, n, chunk in zip(v.dims, v.shape, v.chunks, strict=True):
            others = v.size // max(1, n)
            if dim not in times or chunk != 1 or n < FEW or others < 2 or v.nbytes < SMALL_CHUNK:
                continue
            inner = math.prod(v.read_grid.chunks)
            yield Finding(
                "time-chunk-of-one",
                "info",
                v.name,
                f"stored in chunks of one step along {dim!r}",
                f"a series at one place needs {format_count(n)} values and decodes "
                f"{format_bytes(n * inner * item_nbytes(v.stored_dtype))} in {format_count(n)} "
                "requests",
                "ds.chunking.suggest('timeseries', passes=10)",
            )


# ---- how it is chunked by dask ------------------------------------------------------------


def _split_chunks(case: _Case) -> Iterator[Finding]:
    v, blocks = case.layout, case.blocks
    if blocks is None or v.chunks is None or not has_store(v):
        return
    read = v.read_grid
    times = blocks.pairs(read) / max(1, read.count)
    if times <= SPLITS_A_BIT:
        return
    if case.facts.rechunk_tasks:
        tasks = case.facts.rechunk_tasks
        yield Finding(
            "rechunked-lazily",
            "warning" if tasks > MANY_TASKS // 10 or v.nbytes > case.budget.max_mem else "info",
            v.name,
            f"dask rechunks it after reading, in {format_count(tasks)} tasks",
            f"{format_bytes(v.nbytes)} move between tasks, and are held in memory until the blocks "
            "that need them are put together",
            f"ds = {opened(case.source)}  # or apply(…, store=…) for what is used often",
        )
        return
    yield Finding(
        "split-stored-chunks",
        "warning" if times >= SPLITS_MUCH else "info",
        v.name,
        f"dask blocks of {lengths(v, blocks)} cut stored chunks of {lengths(v)}",
        f"each stored chunk is decoded {times:.3g} times: "
        f"{format_bytes(times * v.raw_nbytes)} for {format_bytes(v.raw_nbytes)}",
        f"ds = {opened(case.source, aligned(v, blocks))}",
    )


def _split_shards(case: _Case) -> Iterator[Finding]:
    v, blocks = case.layout, case.blocks
    if blocks is None or v.shards is None or case.facts.rechunk_tasks:
        return
    shards = v.write_grid
    if blocks.nests(shards):
        return
    times = blocks.pairs(shards) / max(1, shards.count)
    whole = dict(zip(v.dims, v.shards, strict=True))
    yield Finding(
        "blocks-cut-shards",
        "info" if shards.nests(blocks) else "warning",
        v.name,
        f"dask blocks of {lengths(v, blocks)} cut shards of {tuple(v.shards)}",
        f"each shard is opened {times:.3g} times, for its index and for ranges of it, and blocks "
        "like these cannot be written to shards like these",
        f"ds = {opened(case.source, whole)}  # one block a shard, or several",
    )


def _blocks_too_large(case: _Case) -> Iterator[Finding]:
    v, blocks, budget = case.layout, case.blocks, case.budget
    if blocks is None:
        return
    block = blocks.box_elements * item_nbytes(v.dtype)
    at_once = min(max(1, budget.threads), max(1, blocks.count))
    needed = int(BLOCK_COPIES * block * at_once)
    if needed <= budget.max_mem:
        return
    part = budget.fraction_of_limit(needed)
    limit = "" if part is None else f", {part:.0%} of its limit"
    smaller = divided(v, blocks, budget.per_task / BLOCK_COPIES / 2)
    yield Finding(
        "blocks-too-large",
        "error",
        v.name,
        f"dask blocks of {lengths(v, blocks)} are {format_bytes(block)} each",
        f"{at_once} {'task' if at_once == 1 else 'tasks'} at once take {format_bytes(needed)} of "
        f"the {format_bytes(budget.max_mem)} that a worker may grow by{limit}: it spills, pauses "
        "and is killed",
        f"ds = {opened(case.source, smaller)}",
    )


def _blocks_too_small(case: _Case) -> Iterator[Finding]:
    v, blocks = case.layout, case.blocks
    if blocks is None or blocks.count < MANY:
        return
    block = blocks.box_elements * item_nbytes(v.dtype)
    if block >= TINY_BLOCK:
        return
    larger = merged(v, blocks)
    yield Finding(
        "blocks-too-small",
        "warning",
        v.name,
        f"{format_count(blocks.count)} dask blocks of {lengths(v, blocks)}, "
        f"{format_bytes(block)} each",
        "each is a task, for which the scheduler takes about as long as the work: "
        f"{format_seconds(blocks.count * case.rates.task)} for each operation",
        f"ds = {opened(case.source, larger)}",
    )


def _graph(facts: DatasetFacts) -> Iterator[Finding]:
    if facts.tasks < MANY_TASKS:
        return
    yield Finding(
        "too-many-tasks",
        "error" if facts.tasks >= TOO_MANY_TASKS else "warning",
        "",
        f"the graphs of all variables together have {format_count(facts.tasks)} tasks",
        f"the scheduler takes about {format_seconds(facts.tasks * Rates().task)} for them and "
        f"{format_bytes(facts.tasks * 2_000)} or more of its memory, before any work is done",
        f"ds = {opened(facts.source)}  # larger blocks, in one task each",
    )


def _mixed(layouts: Sequence[ArrayLayout], facts: DatasetFacts) -> Iterator[Finding]:
    """Find variables of the same dims that are stored, or chunked by dask, in different ways."""
    groups: dict[Any, list[ArrayLayout]] = {}
    for v in layouts:
        if not v.is_coord and v.ndim and v.size and v.chunks is not None and has_store(v):
            groups.setdefault((v.dims, v.shape), []).append(v)
    for members in groups.values():
        by_chunks: dict[Any, str] = {}
        for v in members:
            by_chunks.setdefault(v.chunks, v.name)
        if len(by_chunks) < 2:
            continue
        first, second = [members[0], next(v for v in members if v.chunks != members[0].chunks)]
        yield Finding(
            "mixed-layouts",
            "info",
            "",
            f"variables of the same dims are stored in {len(by_chunks)} ways: {first.name!r} in "
            f"{lengths(first)}, {second.name!r} in {lengths(second)}",
            "no one chunks={…} fits them all, and where they are combined one of them is rechunked",
            f"ds = {opened(facts.source)}  # chunks of its own for each variable",
        )
    yield from _disagreeing(layouts)


def _disagreeing(layouts: Iterable[ArrayLayout]) -> Iterator[Finding]:
    seen: dict[str, tuple[str, tuple[int, ...]]] = {}
    told: set[str] = set()
    for v in layouts:
        for dim, parts in zip(v.dims, v.dask_chunks or (), strict=False):
            other, theirs = seen.setdefault(dim, (v.name, parts))
            if parts == theirs or dim in told or sum(parts) != sum(theirs):
                continue
            told.add(dim)
            yield Finding(
                "blocks-disagree",
                "info",
                "",
                f"{other!r} and {v.name!r} have different dask chunks along {dim!r}",
                "ds.chunks raises ValueError, and where the two are combined dask rechunks one",
                "ds = ds.unify_chunks()  # where they are combined; else nothing",
            )


_RULES: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
    _stored_too_small,
    _stored_too_large,
    _split_coordinate,
    _split_chunks,
    _split_shards,
    _blocks_too_large,
    _blocks_too_small,
)
