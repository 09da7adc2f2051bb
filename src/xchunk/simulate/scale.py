"""Sizes of twins for graphs that are too large or too dear, and the way back to the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from xchunk._typing import DimChunk
from xchunk.core.axes import dim_roles
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout
from xchunk.core.workload import Prediction, Reads
from xchunk.simulate.twins import Shape

__all__ = ["MANY_BLOCKS", "enlarged", "extended", "thinned", "twin_shapes"]

#: Blocks of the largest variable beyond which a graph is not even built, and of its twins.
MANY_BLOCKS, _FEW = 400, 60

#: Bytes of a block beyond which tasks are tried on thinner ones.
_BLOCK = 16_000_000

#: Elements that a block keeps along a dim that is thinned.
_SHORTEST = 16


def thinned(main: ArrayLayout, own: Mapping[str, DimChunk], largest: int = 0) -> dict[str, float]:
    """By how much to thin which dims so that blocks are quick to try; nothing if they are.

    ``largest`` is what a task takes that was found to be too large.
    """
    longest = {d: Axis.of(n, _plain(own[d], n)).chunk for d, n in main.sizes.items()}
    nbytes = max(largest, math.prod(longest.values()) * main.dtype.itemsize)
    if nbytes <= _BLOCK:
        return {}
    roles = dim_roles([main])
    flat = [d for d in main.dims if roles.get(d) == "H"] or [
        d for d in main.dims if roles.get(d) != "T"
    ]
    # One dim if it is long enough: a line through two twins is then right also for what grows
    # with another dim only, or does not grow at all.
    flat = sorted(flat or main.dims[-1:], key=lambda d: -longest[d])
    left, out = _BLOCK / 2 / nbytes, {}
    for d in flat:
        if left < 1:
            out[d] = min(1.0, max(left, _SHORTEST / longest[d]))
            left /= out[d]
    return out


def twin_shapes(
    main: ArrayLayout,
    own: Mapping[str, DimChunk],
    blocks: Mapping[str, int],
    thin: Mapping[str, float],
    few: int | None = None,
) -> list[Shape]:
    """Two twins, one about twice the other, the smaller of few blocks if that is asked for."""
    roles = dim_roles([main])
    axes = {d: Axis.of(n, _plain(own[d], n)) for d, n in main.sizes.items()}
    order = sorted(main.dims, key=lambda d: (roles.get(d) != "H", -blocks[d]))
    counts = dict(blocks)

    def total() -> int:
        return math.prod(counts.values())

    if total() > MANY_BLOCKS or few is not None:
        few = min(_FEW, few or _FEW)
        # horizontal dims first, since time and height have the meaning that uses depend on
        for d in order:
            while total() > few and counts[d] > 3:
                counts[d] = max(3, counts[d] // 2)
    keep = {d: axes[d].bounds(counts[d] - 1)[1] for d in counts if counts[d] < blocks[d]}
    small = Shape(keep, thin)
    if small.keep:
        d = next(d for d in order if d in small.keep)
        more = min(blocks[d], 2 * counts[d])
        large = replace(small, keep={**small.keep, d: axes[d].bounds(more - 1)[1]})
    else:
        d = next(iter(thin), main.dims[-1])
        large = Shape({}, {**thin, d: min(1.0, 2 * thin.get(d, 0.5))})
    return [small, large]


def _plain(chunk: DimChunk, n: int) -> DimChunk:
    return max(1, n) if chunk == -1 else chunk


def extended(found: Sequence[tuple[float, Prediction]]) -> Prediction:
    """Draw a line through what two parts of the data take, to what all of them take."""
    (a, small), (b, large) = found[0], found[-1]

    def line(x: float, y: float) -> float:
        if b <= a:
            return y / b
        slope = max(0.0, (y - x) / (b - a))
        # at the most in proportion: nothing is smaller than nothing where there are no data
        return min(y / b, y + slope * (1 - b))

    def whole(name: str) -> int:
        return round(line(getattr(small, name), getattr(large, name)))

    reads = {}
    for name, more in large.reads.items():
        less = small.reads.get(name, more)
        counts = {
            f: round(line(getattr(less, f), getattr(more, f)))
            for f in ("requests", "decodes", "nbytes", "distinct")
        }
        reads[name] = Reads(name, **counts)
    return replace(
        large,
        tasks=whole("tasks"),
        reads=reads,
        live=whole("live"),
        heap=whole("heap"),
        worker_heap=whole("worker_heap"),
        moved=whole("moved"),
        gathered=whole("gathered"),
        block=whole("block"),
        seconds=line(small.seconds, large.seconds),
        critical=line(small.critical, large.critical),
        scaled=1 / b,
    )


def enlarged(one: Prediction, part: float) -> Prediction:
    """Multiply what thinner blocks take; the tasks are as many as those of the data."""

    def more(n: float) -> int:
        return round(n / part)

    return replace(
        one,
        reads={
            name: replace(r, nbytes=more(r.nbytes), distinct=more(r.distinct))
            for name, r in one.reads.items()
        },
        live=more(one.live),
        heap=more(one.heap),
        worker_heap=more(one.worker_heap),
        moved=more(one.moved),
        gathered=more(one.gathered),
        block=more(one.block),
        # what the scheduler takes does not grow with the blocks
        seconds=(one.seconds - one.tasks * Rates().task) / part + one.tasks * Rates().task,
        critical=one.critical / part,
        scaled=1 / part,
    )
