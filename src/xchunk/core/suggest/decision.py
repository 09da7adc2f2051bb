"""Load, chunk lazily or rechunk first: the decision for one variable, and its new layout.

A chunk holds the dims that a request needs whole, if they fit; the rest of its size goes to
the other dims, after Rew's balanced shapes: among the shapes of a given size, those for which
a request of the use touches the least data, ``sum of p * prod(extent + c - 1)``, which is the
expected number of chunks ``prod((extent + c - 1) / c)`` times their size.

With ``L`` the time of the best lazy pass, ``s`` that of a pass over the best new layout and
``S`` that of the rechunk, rechunking pays off after ``S / (L - s)`` passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from xchunk.core.chunkspec import is_axis
from xchunk.core.cost import Rates
from xchunk.core.grid import Grid, ceildiv
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import (
    DECODE_COPIES,
    PLAIN_READ_COPIES,
    SHARD_COPIES,
    TASK_OVERHEAD,
    CopyBuffers,
    MemoryBudget,
)
from xchunk.core.plan.choose import forecast
from xchunk.core.suggest.access import AccessPattern
from xchunk.core.suggest.lazy_pass import LazyPass, PassModel, best_pass, item_nbytes
from xchunk.core.types import Action, Chunks, DimChunk
from xchunk.core.units import format_bytes
from xchunk.errors import MemoryBudgetError

#: Decoded bytes of a stored chunk: what is aimed at, and what it may be at most. Smaller
#: ones cost more in requests than in bytes, larger ones make each request decode too much.
AIM, MOST = 4_000_000, 16_000_000

#: Decoded bytes of a chunk from which on it is not made larger than requests ask for.
LEAST = 1_000_000

#: The same where samples are read at random places: what is beside them is decoded in vain, and
#: a chunk of as many bytes takes as long as the request for it.
SAMPLE = 400_000

#: Objects of a store beyond which chunks are gathered in shards, and what a shard may then hold.
MANY_OBJECTS, SHARD = 100_000, 256_000_000


@dataclass(frozen=True)
class Target:
    """How to store a variable."""

    chunks: Chunks
    """Elements of a chunk along each dim."""
    shards: Chunks | None
    """Elements of a shard along each dim; None: no sharding."""


def target_of(
    layout: ArrayLayout,
    patterns: Sequence[AccessPattern],
    *,
    limit: int | None = None,
    objects: int = MANY_OBJECTS,
) -> Target:
    """Choose chunks, and shards where there would be too many objects.

    - ``layout``: the variable as it is stored now.
    - ``patterns``: the uses, as they concern this variable.
    - ``limit``: bytes, as stored, that may be written as a whole; bounds chunks and shards.
    - ``objects``: how many the variable may be stored in.
    """
    shape = tuple(max(1, n) for n in layout.shape)
    size = item_nbytes(layout.dtype)
    stored = item_nbytes(layout.stored_dtype)
    most = MOST if limit is None else max(size, min(MOST, limit * size // stored))
    if is_axis(layout):
        return Target(shape, None)
    if math.prod(shape) * size <= min(AIM, most):
        return Target(shape, None)
    chunks = _chunks(layout, patterns, most // size, min(AIM, most) // size)
    shards = None
    if Grid.of(shape, chunks).count > objects:
        shards = gathered(shape, chunks, stored, limit=limit, objects=objects)
    return Target(chunks, shards)


def request_amplification(
    layout: ArrayLayout, chunks: Chunks, patterns: Sequence[AccessPattern]
) -> float:
    """Elements decoded / elements needed for one request at any place, weighted over uses."""
    total = 0.0
    for p in patterns:
        ratio = 1.0
        for need, c, n in zip(p.request_shape(layout), chunks, layout.shape, strict=True):
            if n:
                ratio *= min(float(n), need + c - 1) / max(1, need)
        total += p.weight * ratio
    return total


def _chunks(layout: ArrayLayout, patterns: Sequence[AccessPattern], most: int, aim: int) -> Chunks:
    """Grow a chunk from what the uses share, one step at a time where it costs them least."""
    shape = tuple(max(1, n) for n in layout.shape)
    least = aim * LEAST // AIM
    requests = [(p.weight, p.request_shape(layout), p.is_scan) for p in patterns]
    needs = [(w, r) for w, r, scan in requests if not scan]
    if len(needs) == 1:
        chunk = list(needs[0][1])
    else:
        # several shapes: what all of them need is the most that costs none of them anything
        chunk = [min((r[i] for _, r in needs), default=1) for i in range(len(shape))]
    _cut(chunk, most)
    if any(p.random for p in patterns):
        least = aim * SAMPLE // AIM
        aim = max(math.prod(chunk), least)
    elif len(needs) == 1 and math.prod(chunk) >= least:
        aim = math.prod(chunk)
    while True:
        now = _touched(needs, chunk)
        grown = []
        for i, n in enumerate(shape):
            longer = _longer(chunk[i], n)
            if longer > chunk[i] and math.prod(chunk) // chunk[i] * longer <= aim:
                then = _touched(needs, [*chunk[:i], longer, *chunk[i + 1 :]])
                slope = (then - now) / math.log(longer / chunk[i])
                grown.append((round(slope, 9), chunk[i], i, longer))
        if not grown:
            break
        *_, i, longer = min(grown)
        chunk[i] = longer
    return tuple(_even(c, n) for c, n in zip(chunk, shape, strict=True))


def _cut(chunk: list[int], most: int) -> None:
    """Shorten a chunk that is too large, its longest dim first, into near-equal parts."""
    parts = [1] * len(chunk)
    full = list(chunk)
    while math.prod(chunk) > most and max(chunk) > 1:
        i = max(range(len(chunk)), key=lambda d: chunk[d])
        # straight to the number of parts that is needed, where this dim alone can give it
        rest = math.prod(chunk) // chunk[i]
        wanted = max(parts[i] + 1, min(ceildiv(full[i], max(1, most // rest)), 2 * parts[i]))
        parts[i] = wanted
        chunk[i] = ceildiv(full[i], wanted)


def _touched(needs: Sequence[tuple[float, Chunks]], chunk: Sequence[int]) -> float:
    """Chunks that a request at any place touches, averaged over the uses."""
    return math.fsum(
        w * math.prod((e + c - 1) / c for e, c in zip(r, chunk, strict=True)) for w, r in needs
    )


def _longer(length: int, size: int) -> int:
    """The next longer length that cuts the dim evenly, at least an eighth longer."""
    parts = ceildiv(size, length)
    return size if parts <= 1 else min(size, ceildiv(size, max(1, min(parts - 1, parts * 8 // 9))))


def _even(length: int, size: int) -> int:
    """The shortest length that makes as many chunks."""
    return ceildiv(size, ceildiv(size, length))


def gathered(
    shape: Chunks, chunks: Chunks, itemsize: int, *, limit: int | None, objects: int = MANY_OBJECTS
) -> Chunks | None:
    """Gather chunks along the dims with most of them until there are few enough objects.

    - ``itemsize``: bytes of an element, as stored.
    - ``limit``: bytes, as stored, that may be written as a whole.
    - ``objects``: how many would be too many.
    - returns: the shards; None where no two chunks may be written as a whole.
    """
    most = (SHARD if limit is None else min(SHARD, limit)) // itemsize
    shard = list(chunks)
    counts = [ceildiv(n, c) for n, c in zip(shape, chunks, strict=True)]
    times = [1] * len(shape)
    while True:
        left = [ceildiv(k, t) for k, t in zip(counts, times, strict=True)]
        if math.prod(left) <= objects // 10:
            break
        room = [
            i
            for i, k in enumerate(left)
            if k > 1 and math.prod(shard) // times[i] * min(2 * times[i], counts[i]) <= most
        ]
        if not room:
            break
        i = min(room, key=lambda d: (shard[d] / shape[d], d))
        times[i] = min(2 * times[i], counts[i])
        shard[i] = chunks[i] * times[i]
    return tuple(shard) if any(t > 1 for t in times) else None


#: Decoded bytes up to which dask costs more than it gives: the variable is loaded.
SMALL = 64_000_000

#: Rechunking has to save a fifth of a pass at least; less is within the error of prediction.
WORTHWHILE = 0.8

#: A lazy pass that decodes so many times what is stored calls for chunks of other shapes.
AGAIN = 1.5

#: Appends in one chunk along a dim that grows: each rewrites the chunk that it goes on with, so
#: that four of them write 2.5 times what they bring.
APPENDS = 4

#: Blocks of no variable, to be followed by none.
_NONE: Mapping[str, DimChunk] = MappingProxyType({})

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
    *,
    objects: int = MANY_OBJECTS,
    like: Mapping[str, DimChunk] = _NONE,
    like_stored: Mapping[str, DimChunk] = _NONE,
) -> Decision:
    """Decide for one variable that is not empty.

    - ``objects``: how many it may be stored in, before chunks are gathered in shards.
    - ``like``, ``like_stored``: blocks by dim that other variables have, lazily and after a
      rechunk. They are followed where nothing more is decoded for it.
    - raises `MemoryBudgetError` if neither a lazy pass nor a rechunk fits, even one task at a time.
    """
    own = [p.on(layout) for p in patterns]
    main = max(own, key=lambda p: p.weight)
    small = _load(layout, main, budget, rates)
    if small is not None:
        target = _target(layout, own, None, objects)
        return Decision("load", small, None, target, 0.0, math.inf, budget.threads, "size")
    limit = writable(layout, budget)
    target = _target(layout, own, limit, objects)
    stored = _stored(layout, target)
    lazy = _with_fewer(layout, main, budget, rates, like)
    fewer = None if lazy is None else _reading_less(lazy, layout, main, budget, rates)
    if lazy is not None and lazy.amplification > AGAIN and any(p.halo for p in own):
        # windows read what is beside their block again, unless it is as long as the dim
        target = _target(layout, [_along_windows(p) for p in own], limit, objects)
        stored = _stored(layout, target)
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
    seconds = math.inf if limit is None or is_stored else _seconds(layout, target, budget, rates)
    after = None if math.isinf(seconds) else _with_fewer(stored, main, budget, rates, like_stored)
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
    # Rewriting data is not done for a gain that the prediction cannot be sure of; nor are cores
    # left idle for one.
    idle = lazy.blocks < budget.slots <= after.blocks
    enough = 1 / WORTHWHILE if idle else WORTHWHILE
    pays = (idle or passes > even) and seconds + passes * then < enough * passes * now
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
    """Report how a variable would be stored for a use.

    - returns: None where no rechunk fits the memory, or where it is stored like that already.
    """
    limit = writable(layout, budget)
    if limit is None:
        return None
    target = _target(layout, [pattern.on(layout)], limit)
    if (target.chunks, target.shards) == (layout.chunks, layout.shards):
        return None
    seconds = _seconds(layout, target, budget, rates)
    if math.isinf(seconds):
        return None
    return Rewritten(target, _stored(layout, target), seconds)


def _seconds(layout: ArrayLayout, target: Target, budget: MemoryBudget, rates: Rates) -> float:
    """Predict the time of the rechunk; infinite where no plan fits."""
    plan = forecast(layout, target.chunks, target.shards, budget, rates)
    return math.inf if plan is None else plan.seconds


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
    if layout.size * item_nbytes(layout.dtype) > SMALL and not is_axis(layout):
        return None
    return best_pass(
        layout, replace(main, whole=layout.dims, halo={}, groups={}, random=False), budget, rates
    )


def _with_fewer(
    layout: ArrayLayout,
    pattern: AccessPattern,
    budget: MemoryBudget,
    rates: Rates,
    like: Mapping[str, DimChunk] = _NONE,
) -> LazyPass | None:
    """Find the best pass with all threads, or with as many as it takes for one to fit."""
    threads = max(1, budget.threads)
    while threads >= 1:
        allowed = budget.with_threads(threads)
        found = best_pass(layout, pattern, allowed, rates)
        if found is not None:
            if any(found.chunks.get(d, c) != c for d, c in like.items()):
                alike = best_pass(layout, pattern, allowed, rates, like=like)
                if alike is not None and alike.amplification <= found.amplification:
                    return alike
            return found
        threads //= 2
    return None


def _target(
    layout: ArrayLayout,
    own: Sequence[AccessPattern],
    limit: int | None,
    objects: int = MANY_OBJECTS,
) -> Target:
    """Choose the target layout; what is stored already where that serves the use."""
    grows = {d: APPENDS * n for p in own for d, n in p.grows.items()}
    if grows and not is_axis(layout):
        # no chunk is longer than a few appends, however long the dim is by now
        shape = tuple(min(n, grows.get(d, n)) for d, n in layout.sizes.items())
        return target_of(replace(layout, shape=shape), own, limit=limit, objects=objects)
    kept = _kept(layout, own)
    return kept or target_of(layout, own, limit=limit, objects=objects)


def _along_windows(pattern: AccessPattern) -> AccessPattern:
    """Return a use of moving windows as one that needs their dims whole."""
    along = (d for d, n in pattern.halo.items() if n)
    return replace(pattern, whole=pattern.whole or tuple(along))


def _stored(layout: ArrayLayout, target: Target) -> ArrayLayout:
    """Return the variable as it would be stored after a rechunk."""
    return replace(
        layout, chunks=target.chunks, shards=target.shards, dask_chunks=None, format="zarr3"
    )


def _kept(layout: ArrayLayout, own: Sequence[AccessPattern]) -> Target | None:
    if layout.chunks is None or is_axis(layout):
        return None
    chunks = tuple(c for c in layout.chunks if isinstance(c, int))
    if len(chunks) < layout.ndim or not 100_000 <= layout.chunk_nbytes <= 64_000_000:
        return None
    for p in own:
        if any(chunks[layout.dims.index(d)] < layout.sizes[d] for d in p.whole):
            return None
    if len(own) > 1 and not all(p.is_scan for p in own):
        return None
    random = [p for p in own if p.random]
    if random and request_amplification(layout, chunks, random) > 2**layout.ndim:
        # chunks of the samples' shape decode less
        return None
    clamped = tuple(min(c, max(1, n)) for c, n in zip(chunks, layout.shape, strict=True))
    return Target(clamped, layout.shards)


def _read_unit(layout: ArrayLayout) -> int:
    """Bytes, as stored, that a rechunk decodes as a whole."""
    return PassModel(layout, AccessPattern("scan"), MemoryBudget(1), Rates()).chunk_raw_nbytes


def writable(layout: ArrayLayout, budget: MemoryBudget) -> int | None:
    """Report how many bytes one task can write as a unit; None where no task can read.

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
        limit = writable(layout, one)
        if limit is None:
            return False
        target = _target(layout, own, limit)
        fitting = best_pass(_stored(layout, target), main, one, rates) is not None
        return fitting and not math.isinf(_seconds(layout, target, one, rates))

    read = _read_unit(layout)
    low, smallest = budget.max_mem, 2 * max(1, budget.max_mem)
    while not fits(smallest):
        low, smallest = smallest, 2 * smallest
    while smallest - low > 1:
        middle = (low + smallest) // 2
        low, smallest = (low, middle) if fits(middle) else (middle, smallest)
    whole = ", ".join(main.whole)
    windows = PassModel(layout, main, budget, rates).run_tasks(1)
    return MemoryBudgetError(
        f"{layout.name}: no chunks fit a worker that may grow by {format_bytes(budget.max_mem)}. "
        f"One stored chunk is {format_bytes(read)} decoded"
        + (f", and a block needs {whole} whole" if whole else "")
        + (f", and a block makes {windows} tasks of moving windows" if windows > 1 else "")
        + f", so that even one task at a time takes {format_bytes(smallest)}. "
        f"Give a worker that much (max_mem={smallest} or more)"
        + (", or ask for less of these dims in one request." if whole else "."),
        needed=smallest,
        allowed=budget.max_mem,
        smallest=smallest,
    )
