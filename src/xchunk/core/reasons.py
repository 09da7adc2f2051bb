"""The reasons for a suggestion, as a colleague would write them down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from xchunk._typing import DimChunk
from xchunk.core.access import HELD_COLUMNS, AccessPattern
from xchunk.core.blocks import MANY_COPIES, LazyPass, PassModel, item_nbytes
from xchunk.core.cost import Rates
from xchunk.core.decide import TIE, WORTHWHILE, Decision
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import SPILL, MemoryBudget
from xchunk.core.units import format_bytes, format_count, format_seconds

__all__ = ["is_close", "runner_up_of", "why_of"]

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

    Parameters
    ----------
    layout : ArrayLayout
        The variable.
    patterns : sequence of AccessPattern
        The uses, as they concern the variable.
    budget : MemoryBudget
        The worker's budget as it was given.
    decision : Decision
        What was decided.
    request : float
        Elements decoded / elements needed for one request, as the variable is stored now.
    """
    if decision.action == "load":
        return (
            f"It is {format_bytes(layout.nbytes)} in all, which one thread holds easily: "
            "loaded at once it costs less than dask's tasks would."
        )
    said = [_stored(layout) + "; " + _needs(patterns) + "."]
    if request > 2 and not all(p.is_scan for p in patterns):
        said.append(f"A single request decodes {_times(request)} what it needs.")
    said += _staged(layout, decision) if decision.action == "stage" else _lazy(layout, decision)
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
        f"{_passes(decision.break_even)}"
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
    if layout.format == "memory":
        return f"{size} that are in memory already"
    if layout.format == "dask":
        what = "blocks of a computed dask array"
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
            text = f"each request needs {', '.join(needs)}"
        else:
            text = "the use takes the data in any order"
        for d, n in p.halo.items():
            text += f", with {n} elements of its neighbour along {d}"
        for d, edges in p.groups.items():
            text += f", and {len(edges) + 1} groups along {d}"
        said.append(text if len(patterns) == 1 else f"{text} ({p.weight:.0%})")
    return "; ".join(said)


def _lazy(layout: ArrayLayout, decision: Decision) -> list[str]:
    lazy = decision.chosen
    blocks = f"{format_count(lazy.tasks)} blocks of {_blocks(layout, lazy.chunks)}"
    what = "one block of all of it" if lazy.tasks == 1 else blocks
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
        often = f"{lazy.amplification:.2f} times what is stored is decoded, the halo included"
        return [f"With {what} {often}, {takes}"]
    return [f"With {what} every stored chunk is decoded once, {takes}"]


def _staged(layout: ArrayLayout, decision: Decision) -> list[str]:
    lazy, after, target = decision.lazy, decision.chosen, decision.target
    shards = "" if target.shards is None else f" in shards of {target.shards}"
    moved = (
        f"Rechunked once to {target.chunks}{shards}, in about "
        f"{format_seconds(decision.rechunk_seconds)}, it takes {format_count(after.tasks)} blocks "
        f"and {_seconds(after)} a pass"
    )
    if lazy is None:
        return ["No lazy blocks fit a worker.", f"{moved}."]
    if lazy.amplification > _NOTABLE:
        now = f"Lazily, every stored chunk would be decoded {_times(lazy.amplification)}."
    else:
        now = f"Lazily, a pass makes {format_count(layout.n_chunks)} requests, {_seconds(lazy)}."
    return [now, f"{moved}; it has paid off after {_passes(decision.break_even)}."]


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


def _passes(x: float) -> str:
    if x <= 1:
        return "the first pass"
    return f"{x:.1f} passes" if x < 9.95 else f"{format_count(math.ceil(x))} passes"


def _seconds(found: LazyPass) -> str:
    return f"about {format_seconds(found.seconds)}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
