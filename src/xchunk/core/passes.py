"""One lazy pass over a variable: which dask blocks, what a worker holds, how long it takes.

The search is exact over the candidates of each dim. Dims are merged one after the other;
partial results that agree in everything but the length of their blocks keep the shortest
only, since memory is all that depends on it, and those that cannot fit any more are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk._typing import DimChunk
from xchunk.core.access import AccessPattern
from xchunk.core.blocks import MOST_TASKS, LazyPass, PassModel, item_nbytes
from xchunk.core.candidates import Candidate, DimCandidates, dim_candidates, near_equal
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget

__all__ = ["LazyPass", "PassModel", "best_pass", "item_nbytes", "pass_points"]

#: Combinations that are looked at exactly; beyond them those alike to 5 % count as one.
_MANY_STATES = 40_000


@dataclass(frozen=True)
class _States:
    """Candidates of the dims merged so far; arrays in step with each other."""

    tasks: NDArray[np.float64]
    elements: NDArray[np.float64]
    column: NDArray[np.float64]
    decoded: NDArray[np.float64]
    reads: NDArray[np.float64]
    touched: NDArray[np.float64]
    shard_reads: NDArray[np.float64]
    whole_shards: NDArray[np.float64]
    splits: NDArray[np.float64]
    runs: NDArray[np.float64]
    whole: NDArray[np.float64]
    picks: NDArray[np.int32]

    def take(self, index: NDArray[Any]) -> _States:
        return _States(*(getattr(self, f)[index] for f in self.__dataclass_fields__))


def best_pass(
    layout: ArrayLayout, pattern: AccessPattern, budget: MemoryBudget, rates: Rates
) -> LazyPass | None:
    """Find the blocks with which one pass is quickest and every worker stays inside its budget.

    Stored chunks are split only where no blocks of whole chunks fit.

    Returns
    -------
    LazyPass or None
        None where no blocks fit.
    """
    model = PassModel(layout, pattern.on(layout), budget, rates)
    for split in (False, True):
        if split and model.is_free:
            break
        columns = _columns(model, split)
        states = _merge(model, columns, split)
        if states is None:
            continue
        return _choose(model, columns, states)
    return None


def pass_points(
    layout: ArrayLayout, pattern: AccessPattern, budget: MemoryBudget, rates: Rates
) -> NDArray[np.float64]:
    """List the passes that a search looks at, whether they fit the budget or not.

    Returns
    -------
    array
        A row for each: bytes of its largest block, seconds, and bytes that a worker grows by.
    """
    model = PassModel(layout, pattern.on(layout), replace(budget, max_mem=2**62), rates)
    out = [np.empty((3, 0))]
    for split in (False,) if model.is_free else (False, True):
        s = _merge(model, _columns(model, split), split)
        if s is not None:
            runs = s.runs if model.is_free else np.zeros(1)
            seconds = model.seconds(s.tasks, s.decoded, _requests(model, s), runs)
            task = model.task_mem(s.elements, s.touched, s.splits > 0)
            mem = model.worker_mem(task, s.elements, s.column)
            out.append(np.stack([s.elements * item_nbytes(layout.dtype), seconds, mem]))
    return np.concatenate(out, axis=1).T


def _columns(model: PassModel, split: bool) -> list[DimCandidates]:
    p, v = model.pattern, model.layout
    shards = None if v.shards is None else Grid.of(v.shape, v.shards).axes
    return [
        dim_candidates(
            axis,
            shards=None if shards is None else shards[i],
            whole=dim in p.whole,
            halo=p.halo.get(dim, 0),
            groups=p.groups.get(dim, ()),
            split=split,
        )
        for i, (dim, axis) in enumerate(zip(v.dims, model.axes, strict=True))
    ]


def _merge(model: PassModel, columns: Sequence[DimCandidates], split: bool) -> _States | None:
    """Merge the dims from the last to the first, which is the order of contiguous runs."""
    limit = model.budget.max_mem
    one = np.ones(1)
    states = _States(
        one, one, one, one, one, one, one, one, 0 * one, one, one, np.zeros((1, 0), np.int32)
    )
    rest = [min(c.length for c in d.items) for d in columns]
    fewest = [min(c.blocks for c in d.items) for d in columns]
    for i in reversed(range(len(columns))):
        if len(states.tasks) * len(columns[i].items) > _MANY_STATES:
            states = _thinned(states)
        size = model.layout.shape[i]
        again = model.layout.dims[i] in model.twice
        states = _product(states, columns[i], size if model.is_free else 0, size if again else 0)
        least = math.prod(rest[:i])
        task = model.task_mem(states.elements * least, states.touched, states.splits > 0)
        fits = model.worker_mem(task, states.elements * least, states.column * least) <= limit
        fits &= states.tasks * math.prod(fewest[:i]) <= MOST_TASKS
        if not fits.any():
            return None
        states = states.take(np.flatnonzero(fits))
        states = _shortest(states, touched_matters=split, column_matters=bool(model.twice))
    return states


def _product(states: _States, column: DimCandidates, size: int, again: int) -> _States:
    """Combine each state with each candidate of a dim, whose size is 0 where runs don't matter.

    A dim that is gone over twice has its size a second time; it is part of a column as a whole.
    Runs go on through dims that a block holds whole; the first cut from the back breaks them.
    """
    n, m = len(states.tasks), len(column.items)
    left = np.repeat(np.arange(n), m)
    right = np.tile(np.arange(m), n)
    s = states.take(left)
    runs = np.where(s.whole > 0, column.column("blocks")[right], s.runs * size) if size else s.runs
    blocks = column.column("blocks")[right]
    return _States(
        tasks=s.tasks * blocks,
        elements=s.elements * column.column("length")[right],
        column=s.column * (again or column.column("length")[right]),
        decoded=s.decoded * column.column("decoded")[right],
        reads=s.reads * column.column("reads")[right],
        touched=s.touched * column.column("touched")[right],
        shard_reads=s.shard_reads * column.column("shard_reads")[right],
        whole_shards=s.whole_shards * column.column("whole_shards")[right],
        splits=np.maximum(s.splits, column.column("splits")[right]),
        runs=runs,
        whole=s.whole * (blocks == 1) if size else s.whole,
        picks=np.concatenate([right[:, None].astype(np.int32), s.picks], axis=1),
    )


def _shortest(states: _States, *, touched_matters: bool, column_matters: bool) -> _States:
    """Of states that agree in all that costs time, keep the one with the smallest blocks."""
    memory = (
        (states.touched, states.elements, states.splits) if touched_matters else (states.elements,)
    )
    memory = (states.column, *memory) if column_matters else memory
    agree = (
        states.whole_shards,
        states.runs,
        states.whole,
        states.shard_reads,
        states.reads,
        states.decoded,
        states.tasks,
    )
    order = np.lexsort((*memory, *agree))
    same = np.ones(len(order) - 1, dtype=bool)
    for key in agree:
        same &= key[order][1:] == key[order][:-1]
    for key in memory:
        same &= key[order][1:] >= key[order][:-1]
    return states.take(order[np.concatenate([[True], ~same])])


def _thinned(states: _States) -> _States:
    """Keep one of the states that are alike to about 5 %: the one with the smallest blocks."""
    keys = np.stack(
        [
            np.round(20 * np.log(states.tasks)),
            np.round(20 * np.log(states.decoded)),
            np.round(10 * np.log(states.runs)),
            states.whole,
            states.whole_shards,
            states.splits,
        ]
    )
    order = np.lexsort((states.elements, *keys))
    first = np.concatenate([[True], (keys[:, order][:, 1:] != keys[:, order][:, :-1]).any(axis=0)])
    return states.take(order[first])


def _requests(model: PassModel, s: _States) -> NDArray[np.float64]:
    if model.is_free:
        return s.tasks
    if model.layout.shards is None:
        return s.reads
    # a whole shard is one request, a part of it its index and the ranges, which are coalesced
    return s.shard_reads * np.where(s.whole_shards > 0, 1, 2)


def _choose(model: PassModel, columns: Sequence[DimCandidates], states: _States) -> LazyPass:
    runs = states.runs if model.is_free else np.zeros(1)
    seconds = model.seconds(states.tasks, states.decoded, _requests(model, states), runs)
    rank = model.rank(seconds, states.tasks, states.elements, states.splits > 0)
    # of equals the one with the smallest blocks
    best = int(np.lexsort((states.elements, rank))[0])
    picks = [d.items[j] for d, j in zip(columns, states.picks[best], strict=True)]
    elements = math.prod(c.length for c in picks)
    splits = any(c.splits for c in picks)
    task = float(model.task_mem(float(elements), float(states.touched[best]), splits))
    size = max(1, model.layout.size)
    return LazyPass(
        chunks={
            d: _chunk(a, c) for d, a, c in zip(model.layout.dims, model.axes, picks, strict=True)
        },
        threads=model.budget.threads,
        tasks=math.prod(c.blocks for c in picks),
        block_nbytes=elements * item_nbytes(model.layout.dtype),
        projected_mem=math.ceil(task),
        worker_mem=math.ceil(float(model.worker_mem(task, elements, float(states.column[best])))),
        decodes=0 if model.is_free else math.prod(c.reads for c in picks),
        amplification=math.prod(c.decoded for c in picks) / size,
        seconds=float(np.broadcast_to(seconds, rank.shape)[best]),
        rank=float(rank[best]),
        splits=splits,
    )


def _chunk(axis: Axis, candidate: Candidate) -> DimChunk:
    return near_equal(axis, candidate.base) if candidate.chunk is None else candidate.chunk
