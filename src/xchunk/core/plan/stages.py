"""What a rechunk will do: stages of boxes, each copied by one independent task.

    source --read box--> [scratch pieces] --write box--> target

*Direct*: one stage; boxes are multiples of the target's write unit, and each reads its part
of the source. *Staged*: the first stage reads boxes of whole source chunks and writes them as
pieces to a scratch array; the second reads whole pieces and writes whole write units.

These are the nouns of a plan, made of numbers only. `xchunk.core.plan.choose` chooses them, and
`xchunk.rechunking.bind` binds them to stores, and `xchunk.rechunking.runner` runs them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from xchunk.core.cost import Rates, Work
from xchunk.core.grid import Grid
from xchunk.core.memory import PROCESS_OVERHEAD, CopyBuffers, MemoryBudget
from xchunk.core.shown import Shown
from xchunk.core.types import Chunks
from xchunk.core.units import format_bytes
from xchunk.errors import InvalidChunksError

#: Reading is excessive where stored chunks are decoded so often on average, and that makes so
#: many bytes more than decoding each once.
EXCESS, EXCESS_BYTES = 3.0, 1_000_000_000


@dataclass(frozen=True)
class CopyJob:
    """One array to be copied from one layout to another; the planner's input."""

    name: str
    """Name of the variable."""
    shape: tuple[int, ...]
    """Elements along each dim."""
    itemsize: int
    """Bytes of one stored element; for strings of any length an estimate."""
    source: Grid
    """The stored chunks of the source, as the copied part sees them; may be irregular."""
    target: Grid
    """The chunks of the target."""
    units: Grid
    """The write units of the target: its shards, or its chunks where there are none."""
    source_chunked: bool = True
    """Whether source chunks are decoded as a whole; if not, reading costs just what is asked."""
    source_sharded: bool = False
    """Whether source chunks lie in shards, of which all that one read asks for is held at once."""
    source_compressed: bool = True
    """Whether source chunks have to be decoded; if not, they are only read."""
    serial: bool | None = None
    """Whether a lock lets one thread of a process read the source at a time (HDF5's); None: as
    the rates say."""
    blocks: bool = False
    """Whether the source is computed block by block (dask): each block can be had once only."""
    fused: bool = True
    """Whether zarr runs codecs without a queue; where it has one, it holds two more chunks."""
    shardable: bool = True
    """Whether zarr can write several scratch pieces of such elements as one object."""
    scratch_files: bool = False
    """Whether pieces of scratch are read and written in files of this machine, one at a time also
    where they lie in shards; if not, by zarr, which holds what is asked of a shard."""
    unit_files: bool = False
    """Whether chunks of the target's shards are written to a file of this machine one by one; if
    not, by zarr, which holds a shard."""
    raw_files: bool = False
    """Whether source, scratch and target are files of this machine without codecs, which are read
    and written without zarr."""
    near: bool = True
    """Whether both stores answer without waiting; if not, several chunks are in flight at once."""
    streamed: bool = False
    """Whether chunks of far stores are fetched, decoded and put without zarr, one being decoded or
    encoded while others are on their way."""
    clients: int = 0
    """Bytes that a process takes for the clients of far stores, whatever its tasks."""
    sent_copies: float = 0.0
    """Bytes held for each byte of an object on its way to a far store; 0: as many as while it is
    encoded."""
    read_copies: float | None = None
    """Bytes held for each byte of a source chunk in flight; None: the most that is usual. Of a
    computed block: bytes held besides it while it is computed; None: not known, so not counted."""
    write_copies: float | None = None
    """Bytes held for each byte of a target chunk in flight; None: the most that is usual."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array before codecs."""
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class Limits:
    """What a plan may not exceed besides memory."""

    tasks: int = 20_000
    """The most tasks of one stage."""
    objects: int = 2_000_000
    """The most scratch objects of one array."""
    scratch: bool = True
    """Whether a scratch array may be used at all."""
    box: int | None = None
    """The most bytes of a box; None: what the memory allows."""


@dataclass(frozen=True)
class Scratch:
    """The scratch array between two stages."""

    chunks: Chunks
    """Elements of a piece along each dim."""
    shards: Chunks | None = None
    """Elements of a shard where a box is written as one object, else None."""
    compressor: Literal["none", "lz4"] = "none"
    """Codec of the pieces."""


@dataclass(frozen=True)
class Stage:
    """A grid of boxes; every box is copied by one task that depends on no other of its stage."""

    kind: Literal["direct", "read", "write", "move"]
    """``direct`` source to target, ``read`` source to scratch, ``write`` scratch to target,
    ``move`` scratch to scratch."""
    boxes: Grid
    """The boxes; each is a union of whole write units of what the stage writes."""
    scratch: Scratch | None
    """The scratch array that the stage writes; None where it writes the target."""
    work: Work
    """What the stage does, counted."""
    buffers: CopyBuffers
    """What one task holds."""
    seconds: float = 0.0
    """Predicted time on the clock."""

    @property
    def projected_mem(self) -> int:
        """Bytes by which the process grows at the peak of one task."""
        return self.buffers.projected_mem

    def written(self, job: CopyJob) -> Grid:
        """The storage keys that the stage writes, as the parts of the array that they hold."""
        if self.scratch is None:
            return job.units
        return Grid.of(job.shape, self.scratch.shards or self.scratch.chunks)

    def to_dict(self) -> dict[str, Any]:
        """Return the stage as JSON types."""
        return {
            "kind": self.kind,
            "box": list(self.boxes.chunks),
            "boxes": self.boxes.count,
            "scratch": None
            if self.scratch is None
            else {
                "chunks": list(self.scratch.chunks),
                "shards": None if self.scratch.shards is None else list(self.scratch.shards),
                "compressor": self.scratch.compressor,
            },
            "work": self.work.to_dict(),
            "projected_mem": self.projected_mem,
        }


@dataclass(frozen=True, repr=False)
class ArrayPlan(Shown, view="array_plan"):
    """The stages by which one array is copied, and what they are predicted to cost."""

    job: CopyJob
    """What is copied."""
    stages: tuple[Stage, ...]
    """The stages in order; none for an array without elements."""
    family: Literal["direct", "staged", "multi-stage", "empty"]
    """How the array is copied."""
    seconds: float
    """Predicted time on the clock."""
    threads: int
    """Tasks of one worker at once, for which the peak holds."""
    runner_up: str = ""
    """The best plan of another family, and why it lost, in words."""

    @property
    def name(self) -> str:
        """Name of the variable."""
        return self.job.name

    @property
    def nbytes(self) -> int:
        """Bytes of the array, decoded."""
        return self.job.nbytes

    @property
    def work(self) -> Work:
        """The work of all stages together."""
        return sum((s.work for s in self.stages), Work())

    @property
    def projected_mem(self) -> int:
        """Bytes by which one task grows the process at its peak, the largest stage's."""
        return max((s.projected_mem for s in self.stages), default=0)

    @property
    def worker_mem(self) -> int:
        """Bytes by which one worker grows at its peak, all its tasks together."""
        if not self.stages:
            return 0
        return PROCESS_OVERHEAD + self.job.clients + self.projected_mem * self.threads

    @property
    def amplification(self) -> float:
        """How often a stored chunk is decoded on average; 1 where the source has no chunks."""
        chunks = self.job.source.count
        return self.work.decodes / chunks if self.work.decodes and chunks else 1.0

    @property
    def excess(self) -> str:
        """What is said of reading the source many times over, in words; empty where it is not."""
        more = self.work.decoded_bytes * (1 - 1 / self.amplification)
        if self.amplification < EXCESS or more < EXCESS_BYTES:
            return ""
        return (
            f"each stored chunk is decoded {self.amplification:.1f} times on average, "
            f"{format_bytes(self.work.decoded_bytes)} in all, since no more of them fit the memory "
            "at once and nothing goes through a scratch array. Give more memory (max_mem=), or "
            "allow a scratch array"
        )

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of scratch data that exist at once at most, before a codec."""
        written = [s.work.scratch_write_bytes for s in self.stages]
        return max((a + b for a, b in zip([0, *written], written, strict=False)), default=0)

    def check_exclusive(self) -> None:
        """Prove that no storage key is written by two tasks of a stage.

        It is so where every key's part of the array lies within one box.

        Raises
        ------
        InvalidChunksError
            If a part of what a stage writes is shared by two of its boxes.
        """
        for i, stage in enumerate(self.stages):
            keys = stage.written(self.job)
            if not stage.boxes.nests(keys):
                raise InvalidChunksError(
                    f"{self.name}: stage {i + 1} cuts the array into boxes of "
                    f"{stage.boxes.chunks}, which share parts of what is written, of "
                    f"{keys.chunks}: two tasks would write one storage key and lose data. "
                    "Boxes must be multiples of what they write."
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return {
            "name": self.name,
            "shape": list(self.job.shape),
            "nbytes": self.nbytes,
            "source_chunks": list(self.job.source.chunks),
            "target_chunks": list(self.job.target.chunks),
            "target_units": list(self.job.units.chunks),
            "family": self.family,
            "stages": [s.to_dict() for s in self.stages],
            "projected_mem": self.projected_mem,
            "worker_mem": self.worker_mem,
            "seconds": self.seconds,
            "runner_up": self.runner_up,
        }


@dataclass(frozen=True, repr=False)
class RechunkPlan(Shown, view="plan"):
    """The plans of all variables of a Dataset (or of a tree), in the order in which they run."""

    arrays: tuple[ArrayPlan, ...]
    """One plan for each variable that is written."""
    budget: MemoryBudget
    """The budget within which every stage stays."""
    rates: Rates
    """The rates by which the plans were chosen."""
    target: str = ""
    """Where the result goes, in words."""
    notes: tuple[str, ...] = ()
    """What cannot be kept as it is stored, and which variables go which way, in words."""
    changes: tuple[str, ...] = ()
    """Those of the notes that say what cannot be kept."""

    @property
    def work(self) -> Work:
        """The work of all arrays together."""
        return sum((a.work for a in self.arrays), Work())

    @property
    def tasks(self) -> int:
        """Tasks of all stages of all arrays."""
        return self.work.tasks

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, decoded."""
        return sum(a.nbytes for a in self.arrays)

    @property
    def projected_mem(self) -> int:
        """Bytes by which one worker grows at its peak, all its tasks together."""
        return max((a.worker_mem for a in self.arrays), default=0)

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of scratch data, if all arrays' scratch existed at once."""
        return sum(a.scratch_nbytes for a in self.arrays)

    @property
    def seconds(self) -> float:
        """Predicted time on the clock."""
        return sum(a.seconds for a in self.arrays)

    @property
    def verify_seconds(self) -> float:
        """Predicted time of a verification afterwards, which reads the source and the target."""
        out = 0.0
        for a in self.arrays:
            chunks, last = a.job.source.count + a.job.target.count, a.stages[-1:]
            work = Work(
                tasks=2 * sum(stage.boxes.count for stage in last),
                decodes=chunks,
                decoded_bytes=2 * a.nbytes,
                requests=a.job.source.count + a.job.units.count,
            )
            out += work.seconds(self.rates, self.budget.slots, workers=self.budget.workers)
        return out

    def __getitem__(self, name: str) -> ArrayPlan:
        for array in self.arrays:
            if array.name == name:
                return array
        raise KeyError(name)

    def plot(self, *, ax: Any = None) -> Any:
        """Plot the predicted memory of each stage over the predicted time, against the budget.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
        """
        return self._plot(ax=ax)

    def details(self) -> str:
        """Return the stages of each variable, as text."""
        return self._text(details=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return {
            "target": self.target,
            "budget": self.budget.to_dict(),
            "tasks": self.tasks,
            "nbytes": self.nbytes,
            "projected_mem": self.projected_mem,
            "scratch_nbytes": self.scratch_nbytes,
            "seconds": self.seconds,
            "work": self.work.to_dict(),
            "notes": list(self.notes),
            "arrays": [a.to_dict() for a in self.arrays],
        }
