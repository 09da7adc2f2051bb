"""Load, chunk lazily or rechunk first: the decision for one variable, in numbers.

With ``L`` the time of the best lazy pass, ``s`` that of a pass over the best new layout and
``S`` that of the rechunk, rechunking pays off after ``S / (L - s)`` passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xchunk._typing import Action
from xchunk.core.access import AccessPattern
from xchunk.core.cost import Rates, Work
from xchunk.core.grid import Grid, lcm_within
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import CopyBuffers, MemoryBudget
from xchunk.core.passes import LazyPass, PassModel, best_pass, item_nbytes, least_memory
from xchunk.core.target import Target, target_of
from xchunk.core.units import format_bytes
from xchunk.errors import MemoryBudgetError

__all__ = ["Decision", "decide"]

#: Decoded bytes up to which dask costs more than it gives: the variable is loaded.
SMALL = 64_000_000

#: Rechunking has to save a fifth of a pass at least; less is within the error of prediction.
WORTHWHILE = 0.8

#: Times that differ by less than this factor are not told apart by a prediction.
TIE = 2.0


@dataclass(frozen=True)
class Decision:
    """What to do with one variable, with the numbers that decided it."""

    action: Action
    """``load``, ``chunk`` or ``stage``."""
    lazy: LazyPass | None
    """The best pass over the variable as it is stored; None: none fits."""
    after: LazyPass | None
    """The best pass after a rechunk; None: none fits, or there is nothing to gain."""
    target: Target
    """How the variable would be stored."""
    rechunk_seconds: float
    """Predicted time of the rechunk."""
    break_even: float
    """Passes after which the rechunk has paid off; infinite where it never does."""
    threads: int
    """Tasks of one worker at once for which it fits."""
    binding: str
    """What decided, in a word or two."""

    @property
    def chosen(self) -> LazyPass | None:
        """The pass that follows the advice."""
        return self.after if self.action == "stage" else self.lazy


def decide(
    layout: ArrayLayout,
    patterns: Sequence[AccessPattern],
    budget: MemoryBudget,
    rates: Rates,
) -> Decision:
    """Decide for one variable that is not empty.

    Raises
    ------
    MemoryBudgetError
        If neither a lazy pass nor a rechunk fits, even one task at a time.
    """
    own = [p.on(layout) for p in patterns]
    main = max(own, key=lambda p: p.weight)
    small = _load(layout, main, budget, rates)
    if small is not None:
        return Decision(
            "load", small, None, _target(layout, own, None), 0.0, math.inf, budget.threads, "size"
        )
    threads = max(1, budget.threads)
    while threads >= 1:
        found = _with(layout, own, main, budget.with_threads(threads), rates)
        if found is not None:
            if threads < budget.threads:
                return replace(found, binding="threads")
            return found
        threads //= 2
    raise _too_small(layout, own, main, budget, rates)


def _load(
    layout: ArrayLayout, main: AccessPattern, budget: MemoryBudget, rates: Rates
) -> LazyPass | None:
    """The pass that takes a small variable in one piece; None where it is not small."""
    if layout.nbytes > SMALL and not (layout.is_coord and layout.ndim <= 1):
        return None
    return best_pass(layout, replace(main, whole=layout.dims, halo={}, groups={}), budget, rates)


def _with(
    layout: ArrayLayout,
    own: Sequence[AccessPattern],
    main: AccessPattern,
    budget: MemoryBudget,
    rates: Rates,
) -> Decision | None:
    """Decide for this number of threads; None where nothing fits."""
    lazy = best_pass(layout, main, budget, rates)
    limit = _writable(layout, budget)
    target = _target(layout, own, limit)
    passes = sum(p.weight * p.passes for p in own)
    after = None
    if limit is not None:
        stored = replace(
            layout,
            chunks=target.chunks,
            shards=target.shards,
            dask_chunks=None,
            format="zarr3",
            codecs=layout.codecs or ("zstd",),
        )
        after = best_pass(stored, main, budget, rates)
    seconds = _rechunk_seconds(layout, target, budget, rates)
    if after is None:
        if lazy is None:
            return None
        binding = "memory" if lazy.splits else "storage"
        return Decision(
            "chunk", lazy, None, target, seconds, math.inf, budget.threads, binding
        )
    if lazy is None:
        return Decision("stage", None, after, target, seconds, 0.0, budget.threads, "memory")
    now, then = lazy.seconds, after.seconds
    others = [p for p in own if p is not main]
    for p in others:
        a, b = best_pass(layout, p, budget, rates), best_pass(stored, p, budget, rates)
        if a is not None and b is not None:
            now += (a.seconds - now) * p.weight
            then += (b.seconds - then) * p.weight
    even = seconds / (now - then) if now > then else math.inf
    stage = passes > even and then < WORTHWHILE * now
    binding = "amplification" if stage else "memory" if lazy.splits else "storage"
    return Decision(
        "stage" if stage else "chunk", lazy, after, target, seconds, even, budget.threads, binding
    )


def _target(layout: ArrayLayout, own: Sequence[AccessPattern], limit: int | None) -> Target:
    """The target layout; what is stored already where that serves the use."""
    kept = _kept(layout, own)
    return kept if kept is not None else target_of(layout, own, limit=limit)


def _kept(layout: ArrayLayout, own: Sequence[AccessPattern]) -> Target | None:
    if layout.chunks is None or (layout.is_coord and layout.ndim <= 1):
        return None
    chunks = tuple(c for c in layout.chunks if isinstance(c, int))
    if len(chunks) < layout.ndim or not 100_000 <= layout.chunk_nbytes <= 64_000_000:
        return None
    for p in own:
        if any(chunks[layout.dims.index(d)] < layout.sizes[d] for d in p.whole):
            return None
    if len(own) > 1 and not all(p.is_scan for p in own):
        return None
    clamped = tuple(min(c, max(1, n)) for c, n in zip(chunks, layout.shape, strict=True))
    return Target(clamped, layout.shards)


def _read_unit(layout: ArrayLayout) -> int:
    """Bytes, as stored, that a rechunk decodes as a whole."""
    return PassModel(layout, AccessPattern("scan"), MemoryBudget(1), Rates()).chunk_raw_nbytes


def _writable(layout: ArrayLayout, budget: MemoryBudget) -> int | None:
    """Bytes, as stored, of the largest unit that one task can write; None: no task can read."""
    read = _read_unit(layout)
    item = item_nbytes(layout.stored_dtype)
    least = CopyBuffers(item, read, item).projected_mem
    if least > budget.per_task:
        return None
    # box and unit are of one size, and either the chunks read or the units written are in flight
    copies = CopyBuffers(0, 0, 1).write_copies
    return max(
        item,
        min(
            budget.per_task - math.ceil(CopyBuffers(0, 0, 0).read_copies * read),
            int(budget.per_task / (1 + copies)),
        ),
    )


def _rechunk_seconds(
    layout: ArrayLayout, target: Target, budget: MemoryBudget, rates: Rates
) -> float:
    """Estimate the time of a rechunk: straight where both layouts fit a box, else by scratch."""
    item = item_nbytes(layout.stored_dtype)
    raw = layout.size * item
    source = PassModel(layout, AccessPattern("scan"), budget, rates)
    units = target.shards or target.chunks
    box = math.prod(
        lcm_within(a.chunk, u, n)
        for a, u, n in zip(source.axes, units, layout.shape, strict=True)
    )
    unit = math.prod(units)
    buffers = CopyBuffers(box * item, source.chunk_raw_nbytes, unit * item)
    direct = buffers.projected_mem <= budget.per_task
    tasks = max(1, math.ceil(3 * raw / max(1, budget.per_task)), min(budget.slots, 1000))
    decodes = 0 if source.is_free else math.prod(a.count for a in source.axes)
    encodes = Grid.of(layout.shape, units).count
    work = Work(
        tasks=tasks if direct else 2 * tasks,
        decodes=decodes,
        encodes=encodes,
        decoded_bytes=raw,
        encoded_bytes=raw,
        scratch_read_bytes=0 if direct else raw,
        scratch_write_bytes=0 if direct else raw,
        # every box of the first stage writes pieces for those of the second
        requests=decodes + encodes + (0 if direct else 2 * tasks * math.isqrt(tasks)),
    )
    seconds = work.seconds(rates, budget.slots)
    if source.is_serial:
        read = decodes * rates.latency + raw / rates.decode + raw * rates.compression / rates.bandwidth
        seconds = max(seconds, read / max(1, budget.workers))
    return seconds


def _too_small(
    layout: ArrayLayout,
    own: Sequence[AccessPattern],
    main: AccessPattern,
    budget: MemoryBudget,
    rates: Rates,
) -> MemoryBudgetError:
    lazy = least_memory(layout, main, rates)
    read = _read_unit(layout)
    item = item_nbytes(layout.stored_dtype)
    # a rechunk has to read a chunk, and then a block of the new layout has to fit
    single = replace(
        layout, chunks=(1,) * layout.ndim, shards=None, dask_chunks=None, format="zarr3"
    )
    staged = max(CopyBuffers(item, read, item).projected_mem, least_memory(single, main, rates))
    smallest = min(lazy, staged)
    whole = ", ".join(main.whole)
    return MemoryBudgetError(
        f"{layout.name}: no chunks fit a worker that may grow by {format_bytes(budget.max_mem)}. "
        f"One stored chunk is {format_bytes(read)} decoded"
        + (f", and a block needs {whole} whole" if whole else "")
        + f", so that even one task at a time takes {format_bytes(smallest)}. "
        f"Give a worker that much (max_mem={smallest} or more)"
        + (", or ask for less of these dims in one request." if whole else "."),
        needed=smallest,
        allowed=budget.max_mem,
        smallest=smallest,
    )
