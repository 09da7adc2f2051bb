"""How to store a variable for a use: the shape of its chunks, and shards where they are many.

A chunk holds the dims that a request needs whole, if they fit; the rest of its size goes to
the other dims, after Rew's balanced shapes: among the shapes of a given size, those for which
a request of the use touches the least data, ``sum of p * prod(extent + c - 1)``, which is the
expected number of chunks ``prod((extent + c - 1) / c)`` times their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xchunk._typing import Chunks
from xchunk.core.access import AccessPattern
from xchunk.core.blocks import item_nbytes
from xchunk.core.grid import Grid, ceildiv
from xchunk.core.layout import ArrayLayout

__all__ = ["Target", "request_amplification", "target_of"]

#: Decoded bytes of a stored chunk: what is aimed at, and what it may be at the most. Smaller
#: ones cost more in requests than in bytes, larger ones make each request decode too much.
AIM, MOST = 4_000_000, 16_000_000

#: Decoded bytes of a chunk from which on it is not made larger than requests ask for.
LEAST = 1_000_000

#: A one-dimensional coordinate is read whole by every opening of the Dataset, so that it is
#: one chunk up to this size in bytes.
COORDINATE = 128_000_000

#: Stored chunks beyond which they are gathered in shards, and what a shard may then hold.
MANY_OBJECTS, SHARD = 100_000, 256_000_000


@dataclass(frozen=True)
class Target:
    """How to store a variable."""

    chunks: Chunks
    """Elements of a chunk along each dim."""
    shards: Chunks | None
    """Elements of a shard along each dim; None: no sharding."""


def target_of(
    layout: ArrayLayout, patterns: Sequence[AccessPattern], *, limit: int | None = None
) -> Target:
    """Choose chunks, and shards where there would be too many objects.

    Parameters
    ----------
    layout : ArrayLayout
        The variable as it is stored now.
    patterns : sequence of AccessPattern
        The uses, as they concern this variable.
    limit : int, optional
        Bytes, as stored, that may be written as a whole; bounds chunks and shards.
    """
    shape = tuple(max(1, n) for n in layout.shape)
    size = item_nbytes(layout.dtype)
    stored = item_nbytes(layout.stored_dtype)
    most = MOST if limit is None else max(size, min(MOST, limit * size // stored))
    if layout.is_coord and layout.ndim <= 1 and layout.nbytes <= COORDINATE:
        return Target(shape, None)
    if math.prod(shape) * size <= min(AIM, most):
        return Target(shape, None)
    chunks = _chunks(layout, patterns, most // size, min(AIM, most) // size)
    shards = None
    if Grid.of(shape, chunks).count > MANY_OBJECTS:
        allowed = SHARD if limit is None else min(SHARD, limit)
        shards = _shards(shape, chunks, allowed // stored)
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
    if len(needs) == 1 and math.prod(chunk) >= least:
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


def _shards(shape: Chunks, chunks: Chunks, most: int) -> Chunks | None:
    """Gather chunks along the dims with most of them until there are few enough objects."""
    shard = list(chunks)
    counts = [ceildiv(n, c) for n, c in zip(shape, chunks, strict=True)]
    times = [1] * len(shape)
    while True:
        objects = [ceildiv(k, t) for k, t in zip(counts, times, strict=True)]
        if math.prod(objects) <= MANY_OBJECTS // 10:
            break
        room = [
            i
            for i, k in enumerate(objects)
            if k > 1 and math.prod(shard) // times[i] * min(2 * times[i], counts[i]) <= most
        ]
        if not room:
            break
        i = min(room, key=lambda d: (shard[d] / shape[d], d))
        times[i] = min(2 * times[i], counts[i])
        shard[i] = chunks[i] * times[i]
    return tuple(shard) if any(t > 1 for t in times) else None
