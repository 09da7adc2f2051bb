"""What a task graph holds, in numbers and in sentences; nothing of it has run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from xchunk.core.cost import Rates
from xchunk.core.memory import MemoryBudget
from xchunk.core.reports.workload import Prediction
from xchunk.core.shown import Shown, ToDict
from xchunk.core.units import format_bytes, format_count, format_seconds

#: What a layer does with the blocks before it.
Role: TypeAlias = Literal[
    "read", "create", "map", "aggregate", "widen", "overlap", "rechunk", "write"
]

#: By how much blocks are made larger to show how the number of tasks changes.
FACTORS = (0.5, 1.0, 2.0, 4.0)

#: Differences between numbers of tasks that are none.
_SAME = 0.05

#: Tasks beyond which a scheduler is noticed, and the bytes of a block below which it is in vain.
_MANY, _SMALL_BLOCK = 10_000, 16_000_000


@dataclass(frozen=True)
class Layer(ToDict):
    """One operation of a graph."""

    name: str
    """What dask calls it, without its token."""
    tasks: int
    """Its tasks, before any are fused."""
    before: int
    """Blocks of the largest layer that it takes them from; 0 where there is none."""
    blocks: int
    """Blocks that come out of it; the other tasks make parts of them."""
    role: Role
    """What it does with the blocks before it."""
    fan_in: int | None = None
    """Blocks that one of its tasks takes, at most; None where it was not looked at."""

    @property
    def sentence(self) -> str:
        """Say in words what it does."""
        n = format_count(self.tasks)
        tasks = f"{n} task" + ("" if self.tasks == 1 else "s")
        become = "becomes" if self.before == 1 else "become"
        out, before = _blocks(self.blocks), _blocks(self.before)
        each = self.fan_in or max(1, math.ceil(self.before / max(1, self.blocks)))
        wide = self.blocks / max(1, self.before)
        return {
            "read": f"{tasks} to read what is stored.",
            "create": f"{tasks} to make blocks that are not read from anywhere.",
            "map": f"{tasks}, one for each block before; fused where they can be.",
            "aggregate": f"It aggregates: {before} {become} {out}, up to {format_count(each)} in "
            "one task.",
            "widen": f"It widens: {before} {become} {out}, {wide:.1f} for each.",
            "overlap": f"{tasks} to give {out} the edges of their neighbours.",
            "rechunk": f"It rechunks: {tasks} to cut up {before} and to put them together as {out}"
            "; both are held at once.",
            "write": f"{tasks} to write or hand over a block each.",
        }[self.role]

    def to_dict(self) -> dict[str, Any]:
        """Return the layer as JSON types."""
        return {**super().to_dict(), "sentence": self.sentence}


def _blocks(n: int) -> str:
    return f"{format_count(n)} block" + ("" if n == 1 else "s")


def layer_of(
    name: str, tasks: int, before: int, *, blocks: int | None = None, stored: bool = False
) -> Layer:
    """Describe a layer.

    - ``name``: what dask calls it, without its token.
    - ``tasks``, ``before``: its tasks, and the blocks of the largest layer that it takes them from.
    - ``blocks``: blocks that come out of it; one for each task by default.
    - ``stored``: whether it takes them from a stored array.
    """
    out = tasks if blocks is None else blocks
    return Layer(name, tasks, before, out, role_of(name, out, before, stored=stored))


def role_of(name: str, blocks: int, before: int, *, stored: bool = False) -> Role:
    """Report what a layer does from its name, and from the blocks before and after it."""
    if not before:
        return "read" if stored else "create"
    if name.startswith(("rechunk", "shuffle", "p2p")):
        return "rechunk"
    if name.startswith("overlap"):
        return "overlap"
    if name.startswith("store"):
        return "write"
    if blocks < (1 - _SAME) * before:
        return "aggregate"
    return "widen" if blocks > (1 + _SAME) * before else "map"


@dataclass(frozen=True)
class ChunkSize(ToDict):
    """What becomes of a graph when all blocks are larger or smaller."""

    factor: float
    """Size of a block by the size that it has."""
    block: int
    """Bytes of one block that is read; of one that is made, where none is read."""
    input_tasks: int
    """Tasks that read or make blocks."""
    tasks: int
    """Tasks in all, before any are fused."""
    scheduling: float
    """Seconds that a scheduler takes for those that are left after fusing."""
    exact: bool = False
    """Whether the graph was built with these blocks; else it is an estimate."""


@dataclass(frozen=True, repr=False)
class GraphReport(
    Shown,
    view="graph",
    keys="source tasks run_tasks input_tasks outputs critical nbytes_in nbytes_out peak "
    "part blocks layers sizes prediction budget says notes",
):
    """What a lazy result's graph holds before it runs."""

    layers: tuple[Layer, ...]
    """The operations, inputs first."""
    run_tasks: int
    """Tasks that a scheduler runs, after dask has fused and culled them."""
    outputs: int
    """Blocks of the result."""
    critical: int
    """Tasks of the longest chain, each of which waits for the one before."""
    nbytes_out: int
    """Bytes of the result."""
    blocks: tuple[int, ...] = ()
    """Blocks along each dim of the largest array that is read or made."""
    prediction: Prediction | None = None
    """What running it would take; None where it was not predicted."""
    part: float = 1.0
    """The part of the graph that was looked at task by task."""
    budget: MemoryBudget | None = None
    """What the tasks of one worker may take."""
    sizes: tuple[ChunkSize, ...] = ()
    """What becomes of it with larger and smaller blocks."""
    source: str = ""
    """What it is the graph of, in words."""
    notes: tuple[str, ...] = ()
    """What limits the numbers."""

    @property
    def tasks(self) -> int:
        """Tasks as they were written, before any are fused."""
        return sum(layer.tasks for layer in self.layers)

    @property
    def input_tasks(self) -> int:
        """Tasks that read or make blocks."""
        return sum(layer.tasks for layer in self._of("read", "create"))

    @property
    def rechunks(self) -> tuple[Layer, ...]:
        """The layers that rechunk."""
        return self._of("rechunk")

    def _of(self, *roles: Role) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.role in roles)

    @property
    def nbytes_in(self) -> int | None:
        """Bytes decoded from what is stored; None where it was not predicted."""
        return None if self.prediction is None else self.prediction.nbytes_read

    @property
    def peak(self) -> int | None:
        """Bytes by which a process, or the fullest worker, grows; None: not predicted."""
        return None if self.prediction is None else self.prediction.peak

    @property
    def says(self) -> tuple[str, ...]:
        """Say in sentences what stands out."""
        return tuple(_says(self))


def scaled_tasks(layers: Sequence[Layer], blocks: Sequence[int], factor: float) -> tuple[int, int]:
    """Estimate the tasks with blocks that are larger by a factor, and those that are inputs.

    The dim with the most blocks is cut less, or more. What a layer has for the other dims
    stays, so that aggregations do not shrink as inputs do.
    """
    counts = [max(1, n) for n in blocks] or [1]
    others = math.prod(counts) // max(counts)
    before, left = math.prod(counts), factor
    while left > 1 and max(counts) > 1:
        i = counts.index(max(counts))
        step = min(2.0, left)
        counts[i] = max(1, math.ceil(counts[i] / step))
        left /= step
    if factor < 1:
        counts[counts.index(max(counts))] = math.ceil(max(counts) / factor)
    ratio = math.prod(counts) / before
    tasks = inputs = 0
    for layer in layers:
        stays = 0 if layer.role in ("read", "create") else min(layer.tasks, others)
        own = max(1, stays, round(layer.tasks * ratio)) if ratio < 1 else layer.tasks
        if ratio > 1 and layer.tasks > stays:
            own = round(layer.tasks * ratio)
        tasks += own
        inputs += own if layer.role in ("read", "create") else 0
    return tasks, inputs


def sizes_of(
    layers: Sequence[Layer],
    blocks: Sequence[int],
    block: int,
    rates: Rates,
    *,
    fused: float = 1.0,
) -> tuple[ChunkSize, ...]:
    """Estimate what becomes of a graph with larger and smaller blocks.

    - ``layers``: the operations.
    - ``blocks``: blocks along each dim of what is read.
    - ``block``: bytes of one of these.
    - ``rates``: how long a scheduler takes for a task.
    - ``fused``: tasks that are left after fusing, by those that are written.
    """
    rows = []
    for factor in FACTORS:
        tasks, inputs = scaled_tasks(layers, blocks, factor)
        seconds = tasks * fused * rates.task
        rows.append(ChunkSize(factor, round(block * factor), inputs, tasks, seconds))
    return tuple(rows)


def _says(r: GraphReport) -> list[str]:
    out = [_general(r)]
    slots = 1 if r.budget is None else r.budget.slots
    p = r.prediction
    block = r.sizes[_at_one(r)].block if r.sizes else (p.block if p else 0)
    if r.tasks > _MANY and 0 < block < _SMALL_BLOCK:
        out.append(
            f"There are {format_count(r.tasks)} tasks for blocks of {format_bytes(block)}: the "
            "scheduler may take as long as the work. Larger blocks make fewer tasks."
        )
    if 0 < r.input_tasks < slots:
        out.append(
            f"Only {r.input_tasks} of {slots} threads find something to read: smaller blocks "
            "would let all of them work."
        )
    if r.rechunks:
        names = ", ".join(dict.fromkeys(layer.name for layer in r.rechunks))
        share = sum(layer.tasks for layer in r.rechunks) / max(1, r.tasks)
        out.append(
            f"{len(r.rechunks)} of the layers rechunk ({names}; {share:.0%} of the tasks). Where "
            "that is not wanted, open the data in the blocks that are needed; for archives that "
            "are read often, ds.chunking.compare_rechunk() tells what each way takes."
        )
    if p is not None and p.amplification > 1.2:
        out.append(
            f"Stored chunks are decoded {p.amplification:.1f} times on average: blocks that "
            "follow the stored chunks would decode each once."
        )
    if p is not None and r.budget is not None:
        out.append(_memory(p, r.budget) + _sampled(r, p))
    if r.sizes and len(r.sizes) > 2:
        out.append(_not_linear(r))
    return out


def _at_one(r: GraphReport) -> int:
    return next((i for i, s in enumerate(r.sizes) if s.factor == 1), 0)


def _general(r: GraphReport) -> str:
    p = r.prediction
    noun = "task" if r.input_tasks == 1 else "tasks"
    text = (
        f"{format_count(r.input_tasks)} input {noun} grow to {format_count(r.tasks)} in "
        f"{len(r.layers)} {'layer' if len(r.layers) == 1 else 'layers'} and end in "
        f"{_blocks(r.outputs)}; fused, {format_count(r.run_tasks)} run. The longest chain has "
        f"{format_count(r.critical)}"
    )
    if p is not None and p.critical > 0:
        text += f", about {format_seconds(p.critical)} that no number of workers makes shorter"
    return text + "."


def _memory(p: Prediction, budget: MemoryBudget) -> str:
    part = p.peak / max(1, budget.max_mem)
    who = "The fullest worker" if p.workers > 1 else "The process"
    share = f"{part:.0%}" if part >= 0.01 else "less than 1%"
    text = (
        f"{who} is predicted to grow by {format_bytes(p.peak)}, {share} of what it may "
        f"({format_bytes(budget.max_mem)})"
    )
    text += ": it does not fit. Take smaller blocks or fewer threads." if part > 1 else "."
    if p.gathered:
        text += " Where the result is gathered in memory, as .compute() does, that adds "
        text += f"{format_bytes(p.gathered)}: its blocks, and the array they are put together in."
    return text


def _sampled(r: GraphReport, p: Prediction) -> str:
    """Say what a prediction of memory rests on, where it is not the whole graph."""
    out = ""
    if r.part < 1:
        out += (
            f" Memory and reads were found on {100 * r.part:.2g} % of the graph; what combines "
            "the parts adds a little."
        )
    if p.assumed:
        out += (
            f" {p.assumed} kinds of tasks were not tried: it is a guess. suggest(workload=...) "
            "tries them on thinner blocks."
        )
    return out


def _not_linear(r: GraphReport) -> str:
    one, last = r.sizes[_at_one(r)], r.sizes[-1]
    fewer = one.tasks / max(1, last.tasks)
    about = "" if last.exact else "about "
    text = (
        f"With blocks {last.factor:g} times as large there are {about}{format_count(last.tasks)} "
        f"tasks, {fewer:.1f} times fewer"
    )
    if not last.exact and r.rechunks:
        return (
            f"{text}, if what the data are rechunked to grows as well; with the computation as a "
            "function, ds.chunking.graph(workload=...) counts them."
        )
    if fewer < 0.9 * last.factor:
        text += ": not in proportion, since what combines blocks does not shrink as they do"
    return text + "."
