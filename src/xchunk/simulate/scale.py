"""Sizes of twins for graphs that are too large or too dear, and the way back to the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xchunk._typing import DimChunk
from xchunk.core.axes import dim_roles
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout
from xchunk.core.workload import Prediction, Reads
from xchunk.simulate.predict import predict_walked
from xchunk.simulate.replay import Step
from xchunk.simulate.twins import Shape
from xchunk.simulate.walk import Walked

__all__ = [
    "MANY_BLOCKS",
    "Twin",
    "enlarged",
    "extended",
    "predict_twins",
    "thinned",
    "twin_shapes",
]

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


@dataclass(frozen=True)
class Twin:
    """A smaller likeness of the data, and in what way it is larger than the smallest one."""

    shape: Shape
    """How it differs from the data."""
    by: float = 1.0
    """How many times as large as the smallest it is."""
    to: float = 1.0
    """How many times as large the data are, in the dims in which it is larger."""


def twin_shapes(
    main: ArrayLayout,
    own: Mapping[str, DimChunk],
    blocks: Mapping[str, int],
    thin: Mapping[str, float],
    few: int | None = None,
) -> list[Twin]:
    """Choose a small twin, of few blocks if that is asked for, and larger ones.

    One is larger in space and one in each other dim that was cut, about twice, since what a
    workload takes may grow with one and not with another.
    """
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
    out = [Twin(small)]
    if not keep:
        for d, factor in thin.items():
            large = Shape({}, {**thin, d: min(1.0, 2 * factor)})
            by = large.fraction(main.sizes) / small.fraction(main.sizes)
            if by > 1:
                out.append(Twin(large, by, 1 / Shape({}, {d: factor}).fraction(main.sizes)))
        return out
    flat = [d for d in order if d in keep and roles.get(d) == "H"]
    for group in [flat, *([d] for d in order if d in keep and d not in flat)]:
        if group:
            d = group[0]
            end = axes[d].bounds(min(blocks[d], 2 * counts[d]) - 1)[1]
            to = math.prod(main.sizes[d] / keep[d] for d in group)
            out.append(Twin(replace(small, keep={**keep, d: end}), end / keep[d], to))
    return out


def _plain(chunk: DimChunk, n: int) -> DimChunk:
    return max(1, n) if chunk == -1 else chunk


def extended(found: Sequence[tuple[Twin, Prediction]]) -> Prediction:
    """Draw lines through what twins take, to what the data take.

    What is thinned in all of them is left as it is; see `enlarged`.
    """
    small = found[0][1]
    twins = [twin for twin, _ in found]

    def line(name: str) -> float:
        return _grown(twins, [getattr(p, name) for _, p in found])

    def whole(name: str) -> int:
        return round(line(name))

    def read(name: str, what: str) -> int:
        of = [p.reads for _, p in found]
        return round(_grown(twins, [getattr(r[name], what) if name in r else 0 for r in of]))

    counts = ("requests", "decodes", "nbytes", "distinct")
    reads = {name: Reads(name, *(read(name, c) for c in counts)) for name in small.reads}
    return replace(
        found[-1][1],
        tasks=whole("tasks"),
        reads=reads,
        live=whole("live"),
        heap=whole("heap"),
        touched=whole("touched"),
        worker_heap=whole("worker_heap"),
        moved=whole("moved"),
        gathered=whole("gathered"),
        block=whole("block"),
        seconds=line("seconds"),
        critical=line("critical"),
        scaled=math.prod(twin.to for twin, _ in found[1:]),
    )


def _grown(twins: Sequence[Twin], values: Sequence[float]) -> float:
    """Draw lines through what twins have of something, the smallest first."""
    first, *others = values
    out = first
    for twin, other in zip(twins[1:], others, strict=True):
        if first > 0 and twin.by > 1:
            slope = (other / first - 1) / (twin.by - 1)
            # at the most in proportion: nothing is smaller than nothing where there are no data
            out *= min(twin.to, max(1.0, 1 + slope * (twin.to - 1)))
    return out if first > 0 else max(others, default=0.0)


def _grown_steps(twins: Sequence[Twin], walks: Sequence[Walked]) -> tuple[Step, ...] | None:
    """Draw lines through what each task takes; None where the twins' tasks are not the same."""
    # dask has the inputs of a task in no order
    first, *others = ([(set(s.deps), set(s.views), s.kind, s.kept) for s in w.steps] for w in walks)
    if any(other != first for other in others):
        return None

    def line(values: Sequence[int]) -> int:
        return round(_grown(twins, values))

    out = []
    for same in zip(*(w.steps for w in walks), strict=True):
        own = line([s.own for s in same])
        peak = max(own, line([s.peak for s in same]))
        touched = line([s.peak if s.touched is None else s.touched for s in same])
        size = line([s.size for s in same])
        seconds = _grown(twins, [s.seconds for s in same])
        more = replace(same[0], own=own, peak=peak, size=size, seconds=seconds)
        out.append(replace(more, touched=min(peak, max(own, touched))))
    return tuple(out)


def predict_twins(
    seen: Sequence[tuple[Twin, Walked, int]],
    part: float,
    *,
    threads: int,
    workers: int,
    rates: Rates,
) -> Prediction:
    """Replay what was walked through; from twins, draw straight lines to the whole.

    Parameters
    ----------
    seen : sequence of tuple
        The twins, the smallest first, their graphs, and the bytes that gathering would add.
    part : float
        The part of the data that all of them have of what they do not differ in.
    threads, workers : int
        Tasks that one process runs at once, and workers.
    rates : Rates
        How fast things are.
    """

    def replayed(walked: Walked, gathered: int = 0) -> Prediction:
        return predict_walked(
            walked, threads=threads, workers=workers, rates=rates, gathered=gathered
        )

    found = [(twin, replayed(walked, gathered)) for twin, walked, gathered in seen]
    one = found[0][1]
    if len(found) > 1:
        one = extended(found)
        steps = _grown_steps([t for t, _, _ in seen], [w for _, w, _ in seen])
        if steps is not None:
            # Which tasks make the peak is another matter in thin blocks than in whole ones: each
            # task is made larger before the replay where that can be.
            whole = replayed(replace(seen[0][1], steps=steps))
            kept = ("live", "heap", "worker_heap", "moved", "over_time", "touched")
            one = replace(one, **{name: getattr(whole, name) for name in kept})
    return one if part == 1 else enlarged(one, part)


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
        touched=more(one.touched),
        worker_heap=more(one.worker_heap),
        moved=more(one.moved),
        gathered=more(one.gathered),
        block=more(one.block),
        # what the scheduler takes does not grow with the blocks
        seconds=(one.seconds - one.tasks * Rates().task) / part + one.tasks * Rates().task,
        critical=one.critical / part,
        scaled=one.scaled / part,
    )
