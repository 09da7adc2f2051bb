"""Ways to have data in other dask chunks, side by side: what each takes, before any is run.

* ``tasks`` and ``p2p`` are dask's own: blocks are read as they are stored, and cut and put
  together again between workers, in memory or over the workers' disks.
* ``lazy`` reads the wanted blocks straight from the store, and decodes what they cut again.
* ``staged`` rewrites the data once, inside the budget, and then reads them as they are wanted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from xchunk.core.chunkspec import sized_chunks
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.choose import forecast
from xchunk.core.shown import Shown, ToDict
from xchunk.core.suggest.access import AccessPattern
from xchunk.core.suggest.lazy_pass import PassModel, item_nbytes

Way: TypeAlias = Literal["lazy", "tasks", "p2p", "staged"]

#: Bytes that a p2p rechunk buffers on each worker before it writes to its disk
#: (``distributed.p2p.storage.buffer``).
P2P_BUFFER = 100 * 2**20

#: Bytes up to which a p2p rechunk puts blocks together before it sends them (``array.chunk-size``).
P2P_BLOCK = 128 * 2**20


@dataclass(frozen=True)
class RechunkWay(ToDict):
    """One way to have a variable in other chunks, and what it takes."""

    name: Way
    """``lazy``, ``tasks``, ``p2p`` or ``staged``."""
    tasks: int
    """Tasks of the graph."""
    decoded: int
    """Bytes that come out of decoding, as stored."""
    moved: int
    """Bytes that are cut and put together again, over all steps."""
    worker_mem: int
    """Bytes by which one worker grows at its peak."""
    worker_disk: int = 0
    """Bytes that each worker's own disk has to hold."""
    store_disk: int = 0
    """Bytes, at most, that are written to a store."""
    seconds: float | None = None
    """Predicted time until the data can be read in the new chunks once; None: not predicted."""
    fits: bool = True
    """Whether one worker's memory holds it."""
    copy_seconds: float | None = None
    """Those of the seconds in which a store is written first, as a plan predicts them."""


@dataclass(frozen=True, repr=False)
class RechunkComparison(Shown, view="comparison", keys="variable nbytes before after budget"):
    """The ways to have one variable in other chunks."""

    variable: str
    """Name of the variable."""
    nbytes: int
    """Bytes of it, decoded."""
    before: tuple[int, ...]
    """Elements of the longest block along each dim that is read first."""
    after: tuple[int, ...]
    """Elements of the longest block along each dim that is wanted."""
    ways: tuple[RechunkWay, ...]
    """What each way takes; a way that there is no plan for is left out."""
    budget: MemoryBudget = field(repr=False, compare=False)
    """What a worker may take."""

    def __getitem__(self, name: str) -> RechunkWay:
        for way in self.ways:
            if way.name == name:
                return way
        raise KeyError(name)

    @property
    def best(self) -> RechunkWay | None:
        """The quickest of those that fit; None where none does."""
        fitting = [w for w in self.ways if w.fits]
        return min(fitting, key=lambda w: (w.seconds is None, w.seconds or 0.0), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        return {
            **super().to_dict(),
            "best": None if self.best is None else self.best.name,
            "ways": {w.name: w.to_dict() for w in self.ways},
        }


def tasks_of_rechunk(before: Grid, after: Grid) -> int:
    """Count the tasks by which dask rechunks in one step.

    One for each piece that is cut out of a block (a block that is needed as a whole is
    handed on as it is), and one for each new block, which puts its pieces together.
    """
    pieces = after.pairs(before)
    whole = math.prod(_within(a, b) for a, b in zip(before.axes, after.axes, strict=True))
    return pieces - whole + after.count


def _within(parts: Axis, other: Axis) -> int:
    """How many parts lie within one part of the other."""
    if other.nests(parts):
        return parts.count
    return sum(len(other.touched(*parts.bounds(i))) == 1 for i in range(parts.count))


def compare_ways(
    layout: ArrayLayout,
    after: Grid,
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
    steps: Sequence[Grid] = (),
) -> RechunkComparison:
    """Compare the ways to have a variable in other dask chunks.

    ``steps`` are those in between by which dask would go; none: it goes in one step.
    """
    rates = rates or Rates()
    chunks = layout.dask_chunks or layout.chunks
    before = after if chunks is None else Grid.of(layout.shape, chunks)
    ways = [_lazy(layout, after, budget, rates)]
    if layout.format == "dask":
        # nothing is stored that could be read in other blocks
        ways = []
    ways += [
        _by_tasks(layout, before, after, budget, rates, steps=steps),
        _by_p2p(layout, before, after, budget, rates),
    ]
    staged = _staged(layout, after, budget, rates)
    if staged is not None:
        ways.append(staged)
    return RechunkComparison(
        layout.name,
        layout.size * item_nbytes(layout.dtype),
        before.chunks,
        after.chunks,
        tuple(ways),
        budget,
    )


def _model(layout: ArrayLayout, budget: MemoryBudget, rates: Rates) -> PassModel:
    return PassModel(layout, AccessPattern("scan"), budget, rates)


def _reading(
    layout: ArrayLayout, blocks: Grid, budget: MemoryBudget, rates: Rates
) -> tuple[int, int, float]:
    """What reading in some blocks takes: bytes decoded, memory of a worker, and seconds."""
    model = _model(layout, budget, rates)
    stored = Grid(model.axes)
    pairs = blocks.pairs(stored)
    free = model.is_free
    times = 1.0 if free else pairs / max(1, stored.count)
    touched = math.prod(a.most_touched(b) for a, b in zip(blocks.axes, stored.axes, strict=True))
    splits = not free and not blocks.nests(stored)
    elements = blocks.box_elements
    task = float(model.task_mem(float(elements), float(1 if free else touched), splits))
    at_once = min(max(1, budget.threads), max(1, blocks.count))
    requests = blocks.count if free else pairs
    seconds = float(model.seconds(blocks.count, times * layout.size, requests, 0))
    decoded = int(times * layout.size * item_nbytes(layout.stored_dtype))
    return decoded, int(task * at_once), seconds


def _lazy(layout: ArrayLayout, after: Grid, budget: MemoryBudget, rates: Rates) -> RechunkWay:
    decoded, mem, seconds = _reading(layout, after, budget, rates)
    return RechunkWay(
        "lazy", after.count, decoded, 0, mem, seconds=seconds, fits=mem <= budget.max_mem
    )


def _by_tasks(
    layout: ArrayLayout,
    before: Grid,
    after: Grid,
    budget: MemoryBudget,
    rates: Rates,
    *,
    steps: Sequence[Grid],
) -> RechunkWay:
    item = item_nbytes(layout.dtype)
    decoded, reading, seconds = _reading(layout, before, budget, rates)
    tasks, moved = before.count, 0
    grids = [before, *steps, after]
    for a, b in itertools.pairwise(grids):
        if a.chunks == b.chunks and a == b:
            continue
        tasks += tasks_of_rechunk(a, b)
        moved += layout.size * item
    # A new block needs all the blocks that it overlaps, these are shared with other new blocks,
    # and so on: what hangs together is in memory together, spread over the workers.
    together = math.prod(max(s, default=1) for s in _segments(before, after)) * item
    largest = max(g.box_elements for g in grids) * item
    at_once = max(1, budget.threads)
    held = together / max(1, budget.workers) + 2 * largest * min(at_once, after.count)
    mem = int(max(held, reading)) if moved else reading
    seconds += 2 * moved / rates.copy / budget.slots + (tasks - before.count) * rates.task
    return RechunkWay(
        "tasks", tasks, decoded, moved, mem, seconds=seconds, fits=mem <= budget.max_mem
    )


def _segments(before: Grid, after: Grid) -> list[list[int]]:
    """Lengths along each dim between the edges that both grids have.

    Products of them are the parts that are rechunked on their own: no block of one part
    has anything to do with another.
    """
    out = []
    for a, b in zip(before.axes, after.axes, strict=True):
        coarse, fine = (a, b) if a.count <= b.count else (b, a)
        edges = [0, *(coarse.bounds(i)[1] for i in range(coarse.count))]
        common = [e for e in edges if fine.has_edge(e)]
        out.append([q - p for p, q in itertools.pairwise(common)])
    return out


def _by_p2p(
    layout: ArrayLayout, before: Grid, after: Grid, budget: MemoryBudget, rates: Rates
) -> RechunkWay:
    item = item_nbytes(layout.dtype)
    nbytes = layout.size * item
    decoded, reading, seconds = _reading(layout, before, budget, rates)
    parts = max(1, math.prod(len(s) for s in _segments(before, after)))
    each = -(-before.count // parts)
    # blocks are put together before they are sent, as many as make a block of dask's own size
    sent = min(each, max(1, -(-nbytes // parts // P2P_BLOCK)))
    merged = sent if sent < each else 0
    tasks = before.count + parts * (merged + sent + 1) + after.count
    transfer = max(before.box_elements * item, nbytes // parts // sent)
    held = 2 * max(transfer, after.box_elements * item) * max(1, budget.threads)
    mem = int(max(reading, held)) + P2P_BUFFER
    workers = max(1, budget.workers)
    disk = nbytes / (rates.scratch_write * workers) + nbytes / (rates.scratch_read * workers)
    seconds += disk + (tasks - before.count) * rates.task
    return RechunkWay(
        "p2p",
        tasks,
        decoded,
        nbytes,
        mem,
        worker_disk=-(-nbytes // workers),
        seconds=seconds,
        fits=mem <= budget.max_mem,
    )


def _staged(
    layout: ArrayLayout, after: Grid, budget: MemoryBudget, rates: Rates
) -> RechunkWay | None:
    chunks = sized_chunks(after.chunks, item_nbytes(layout.stored_dtype), {})
    plan = forecast(layout, chunks, None, budget, rates)
    if plan is None:
        return None
    work = plan.work
    _, reading, seconds = _reading(_rewritten(layout, chunks), after, budget, rates)
    mem = max(plan.projected_mem, reading)
    return RechunkWay(
        "staged",
        work.tasks + after.count,
        work.decoded_bytes,
        work.scratch_write_bytes,
        mem,
        store_disk=plan.nbytes + plan.scratch_nbytes,
        seconds=plan.seconds + seconds,
        fits=mem <= budget.max_mem,
        copy_seconds=plan.seconds,
    )


def _rewritten(layout: ArrayLayout, chunks: tuple[int, ...]) -> ArrayLayout:
    return replace(layout, chunks=chunks, shards=None, dask_chunks=None, format="zarr3")
