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
from xchunk.core.memory import (
    DECODE_COPIES,
    PLAIN_READ_COPIES,
    SHARD_COPIES,
    TASK_OVERHEAD,
    CopyBuffers,
    MemoryBudget,
)
from xchunk.core.passes import LazyPass, PassModel, best_pass, item_nbytes
from xchunk.core.target import Target, target_of
from xchunk.core.units import format_bytes
from xchunk.errors import MemoryBudgetError

__all__ = ["Decision", "Rewritten", "decide", "rewritten"]

#: Decoded bytes up to which dask costs more than it gives: the variable is loaded.
SMALL = 64_000_000

#: Bytes below which a rechunk's boxes are not cut to keep more threads busy.
SMALL_BOX = 8_000_000

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
    fewer: LazyPass | None = None
    """A lazy pass that decodes less with fewer threads per worker, where chunks are split."""
    all_threads: LazyPass | None = None
    """The best pass with all threads, where one with fewer was chosen because it is quicker."""

    @property
    def chosen(self) -> LazyPass:
        """The pass that follows the advice."""
        found = self.after if self.action == "stage" else self.lazy
        if found is None:
            raise RuntimeError(f"a decision to {self.action} without a pass")
        return found


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
        target = _target(layout, own, None)
        return Decision("load", small, None, target, 0.0, math.inf, budget.threads, "size")
    limit = _writable(layout, budget)
    target = _target(layout, own, limit)
    stored = _stored(layout, target)
    lazy = _with_fewer(layout, main, budget, rates)
    fewer = None if lazy is None else _reading_less(lazy, layout, main, budget, rates)
    given = None
    if (
        lazy is not None
        and fewer is not None
        and not budget.running
        and fewer.seconds < WORTHWHILE * lazy.seconds
    ):
        # Workers that are still to be started may have as many threads as serve the use.
        lazy, fewer, given = fewer, None, lazy
    is_stored = layout.format.startswith("zarr") and (target.chunks, target.shards) == (
        layout.chunks,
        layout.shards,
    )
    after = None if limit is None or is_stored else _with_fewer(stored, main, budget, rates)
    seconds = math.inf if limit is None else _rechunk_seconds(layout, target, budget, rates)
    if lazy is None:
        if after is None:
            raise _too_small(layout, own, main, budget, rates)
        return Decision("stage", None, after, target, seconds, 0.0, after.threads, "memory")
    stays = "memory" if lazy.splits else "storage"
    if lazy.threads < budget.threads:
        stays = "threads"
    if after is None:
        return Decision(
            "chunk", lazy, None, target, seconds, math.inf, lazy.threads, stays, fewer, given
        )
    now, then = lazy.seconds, after.seconds
    for p in own:
        if p is not main:
            a, b = best_pass(layout, p, budget, rates), best_pass(stored, p, budget, rates)
            if a is not None and b is not None:
                now += (a.seconds - lazy.seconds) * p.weight
                then += (b.seconds - after.seconds) * p.weight
    passes = math.fsum(p.weight * p.passes for p in own)
    even = seconds / (now - then) if now > then else math.inf
    # Rewriting data is not done for a gain that the prediction cannot be sure of.
    pays = passes > even and seconds + passes * then < WORTHWHILE * passes * now
    if pays and then < WORTHWHILE * now:
        reason = "amplification" if lazy.amplification > 1 else "requests"
        return Decision("stage", lazy, after, target, seconds, even, after.threads, reason)
    return Decision("chunk", lazy, after, target, seconds, even, lazy.threads, stays, fewer, given)


@dataclass(frozen=True)
class Rewritten:
    """One variable as a rechunk would store it."""

    target: Target
    """Its chunks and shards."""
    layout: ArrayLayout
    """How it would be stored."""
    seconds: float
    """Predicted time of the rechunk."""


def rewritten(
    layout: ArrayLayout, pattern: AccessPattern, budget: MemoryBudget, rates: Rates
) -> Rewritten | None:
    """Tell how a variable would be stored for a use.

    Returns
    -------
    Rewritten or None
        None where no task can read the variable, or where it is stored like that already.
    """
    limit = _writable(layout, budget)
    if limit is None:
        return None
    target = _target(layout, [pattern.on(layout)], limit)
    if (target.chunks, target.shards) == (layout.chunks, layout.shards):
        return None
    seconds = _rechunk_seconds(layout, target, budget, rates)
    return Rewritten(target, _stored(layout, target), seconds)


def _reading_less(
    lazy: LazyPass,
    layout: ArrayLayout,
    pattern: AccessPattern,
    budget: MemoryBudget,
    rates: Rates,
) -> LazyPass | None:
    """Find a pass with fewer threads that decodes half as much and is not clearly slower."""
    threads = lazy.threads // 2 if lazy.splits else 0
    best = None
    while threads >= 1:
        found = best_pass(layout, pattern, budget.with_threads(threads), rates)
        most = (best or lazy).amplification / (1 if best else 2)
        if found is not None and found.amplification <= most and found.seconds < TIE * lazy.seconds:
            best = found
        threads //= 2
    return best


def _load(
    layout: ArrayLayout, main: AccessPattern, budget: MemoryBudget, rates: Rates
) -> LazyPass | None:
    """Find the pass that takes a small variable in one piece; None where it is not small."""
    if layout.size * item_nbytes(layout.dtype) > SMALL and not (
        layout.is_coord and layout.ndim <= 1
    ):
        return None
    return best_pass(layout, replace(main, whole=layout.dims, halo={}, groups={}), budget, rates)


def _with_fewer(
    layout: ArrayLayout, pattern: AccessPattern, budget: MemoryBudget, rates: Rates
) -> LazyPass | None:
    """Find the best pass with all threads, or with as many as it takes for one to fit."""
    threads = max(1, budget.threads)
    while threads >= 1:
        found = best_pass(layout, pattern, budget.with_threads(threads), rates)
        if found is not None:
            return found
        threads //= 2
    return None


def _target(layout: ArrayLayout, own: Sequence[AccessPattern], limit: int | None) -> Target:
    """Choose the target layout; what is stored already where that serves the use."""
    kept = _kept(layout, own)
    return kept if kept is not None else target_of(layout, own, limit=limit)


def _stored(layout: ArrayLayout, target: Target) -> ArrayLayout:
    """Return the variable as it would be stored after a rechunk."""
    return replace(
        layout, chunks=target.chunks, shards=target.shards, dask_chunks=None, format="zarr3"
    )


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
    """Tell how many bytes one task can write as a unit; None where no task can read.

    A rechunk takes as few tasks at once as it needs for its chunks to fit.
    """
    for threads in range(max(1, budget.threads), 0, -1):
        room = budget.max_mem // threads - _copying(layout)
        if room > 0:
            # a box of one unit, its copy, its encoded chunks and the object that they make
            return max(item_nbytes(layout.stored_dtype), int(room / (1 + SHARD_COPIES)))
    return None


def _copying(layout: ArrayLayout) -> int:
    """Bytes that a task of a rechunk takes besides its box."""
    read = _read_unit(layout)
    item = item_nbytes(layout.stored_dtype)
    copies = DECODE_COPIES if layout.codecs else PLAIN_READ_COPIES
    return CopyBuffers(item, read, item, read_copies=copies, overhead=TASK_OVERHEAD).projected_mem


def _rechunk_seconds(
    layout: ArrayLayout, target: Target, budget: MemoryBudget, rates: Rates
) -> float:
    """Estimate the time of a rechunk, with the number of tasks at once that is quickest.

    It goes straight where a box of whole units of both layouts fits, else through scratch.
    Where not even a stored chunk fits a task's box, chunks are decoded for several boxes.
    """
    source = PassModel(layout, AccessPattern("scan"), budget, rates)
    item = item_nbytes(layout.stored_dtype)
    raw = layout.size * item
    units = target.shards or target.chunks
    straight = item * math.prod(
        lcm_within(a.chunk, u, n) for a, u, n in zip(source.axes, units, layout.shape, strict=True)
    )
    chunks = 0 if source.is_free else math.prod(a.count for a in source.axes)
    written = Grid.of(layout.shape, units).count
    rates = replace(
        rates, serial_read=source.is_serial, decode=rates.decode if source.is_coded else rates.copy
    )
    best = math.inf
    for threads in range(max(1, budget.threads), 0, -1):
        room = budget.max_mem // threads - _copying(layout)
        if room <= 0:
            continue
        again = max(1, math.ceil(source.chunk_raw_nbytes / room))
        direct = again > 1 or straight <= room
        slots = threads * max(1, budget.workers)
        tasks = max(1, math.ceil(raw / room), min(slots, raw // SMALL_BOX))
        work = Work(
            tasks=tasks if direct else 2 * tasks,
            decodes=again * chunks,
            encodes=written,
            decoded_bytes=again * raw,
            encoded_bytes=raw,
            scratch_read_bytes=0 if direct else raw,
            scratch_write_bytes=0 if direct else raw,
            # a box of the first stage leaves a piece for each box of the second that it meets
            requests=again * chunks + written + (0 if direct else 2 * tasks * math.isqrt(tasks)),
        )
        best = min(best, work.seconds(rates, slots, workers=budget.workers))
    return best


def _too_small(
    layout: ArrayLayout,
    own: Sequence[AccessPattern],
    main: AccessPattern,
    budget: MemoryBudget,
    rates: Rates,
) -> MemoryBudgetError:
    def fits(max_mem: int) -> bool:
        one = MemoryBudget.of_growth(max_mem, workers=budget.workers)
        if best_pass(layout, main, one, rates) is not None:
            return True
        limit = _writable(layout, one)
        if limit is None:
            return False
        stored = _stored(layout, _target(layout, own, limit))
        return best_pass(stored, main, one, rates) is not None

    read = _read_unit(layout)
    low, smallest = budget.max_mem, 2 * max(1, budget.max_mem)
    while not fits(smallest):
        low, smallest = smallest, 2 * smallest
    while smallest - low > 1:
        middle = (low + smallest) // 2
        low, smallest = (low, middle) if fits(middle) else (middle, smallest)
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
