"""The adapter to rechunker: its planner, its ``CopySpec`` and its dask executor, on zarr 3.

rechunker 0.5 asks for zarr 2, with which today's xarray does not work, and its ``rechunk()``
uses names that zarr 3 does not have. But what it plans with and what it copies with are
independent of both. So these are driven here: ``rechunking_plan`` chooses the boxes, and its
executor runs ``CopySpec``s whose arrays are views of ours. They read and write stored bytes by
location, note each box in the journal, and pass over those that an earlier run has written.
The target's metadata, its commit, resuming and verifying stay xchunk's.
"""

from __future__ import annotations

import importlib
import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.callbacks import Callback
from numpy.typing import NDArray

from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.memory import PROCESS_OVERHEAD, TASK_OVERHEAD, MemoryBudget
from xchunk.core.plan.model import Facts, Geometry
from xchunk.core.plan.stages import ArrayPlan, CopyJob, Limits
from xchunk.core.units import format_bytes
from xchunk.engine.copy import StageSpec, read_box, write_block
from xchunk.engine.graph import Chain, Engine, Report, release_run
from xchunk.errors import InvalidChunksError, MemoryBudgetError, StageFailedError, XchunkError

if TYPE_CHECKING:
    from distributed import Client

_INSTALL = "pip install --no-deps rechunker mypy_extensions"
_RETRIES = 2


def load_engine(name: Any, executor: Any = None) -> Engine | None:
    """Return an engine by its name; None for xchunk's own.

    - ``name`` ({None, "xchunk", "rechunker"}): Whose planner and tasks are used.
    - ``executor``: rechunker's executor; its dask executor by default.
    - raises `InvalidChunksError` if there is no such engine, or it is not installed.
    """
    if name in (None, "xchunk"):
        return None
    if name != "rechunker":
        raise InvalidChunksError(f"engine={name!r} does not exist. Give 'xchunk' or 'rechunker'.")
    try:
        for part in ("algorithm", "executors.dask", "pipeline", "types"):
            _part(part)
    except ImportError as error:
        raise InvalidChunksError(
            f"engine='rechunker' needs the package rechunker, which is not installed ({error}). "
            f"Nothing was written. Install it without its pin of zarr 2: {_INSTALL}"
        ) from error
    return RechunkerEngine(executor)


def _part(name: str) -> Any:
    """Import one of rechunker's modules, which carry no types."""
    return importlib.import_module(f"rechunker.{name}")


@dataclass(frozen=True)
class RechunkerEngine:
    """rechunker's planner and executor in the place of xchunk's."""

    executor: Any = None
    """rechunker's executor; None: its dask executor."""

    def takes(self, job: CopyJob, dtype: np.dtype[Any]) -> bool:
        """Return whether rechunker copies an array.

        Objects, scalars and arrays without elements it cannot; and where the blocks of what is
        computed are whole write units, there is nothing to rechunk.
        """
        whole = job.blocks and job.source.nests(job.units)
        return bool(job.shape) and math.prod(job.shape) > 0 and dtype.kind not in "OT" and not whole

    def plan(
        self, job: CopyJob, budget: MemoryBudget, *, rates: Rates, limits: Limits
    ) -> ArrayPlan:
        """Let rechunker choose the boxes of one array.

        What rechunker calls ``max_mem`` is the largest box. It is given what is left of the
        memory of one task when the chunks in flight are taken off, so that the budget holds.

        - raises `MemoryBudgetError` if a chunk of the source or a write unit of the target does not
          fit.
        """
        threads = max(1, budget.threads)
        while True:
            facts = _facts(job, budget, threads, rates, limits)
            room, needed = _room(facts), _largest(job)
            if room >= needed:
                return _plan(facts, room, threads)
            if threads == 1:
                raise _does_not_fit(facts, budget)
            threads //= 2

    def run(
        self,
        chains: Sequence[Chain],
        *,
        threads: int,
        client: Client | None = None,
        report: Report | None = None,
    ) -> None:
        """Run the stages of several arrays one after the other, by rechunker's executor."""
        try:
            for chain in chains:
                self._run_one(chain, threads, client, report)
                if chain.after is not None:
                    chain.after()
        except (XchunkError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise StageFailedError(
                f"the rechunk stopped: {type(error).__name__}: {error}. The target was not "
                "committed."
            ) from error
        finally:
            for run in {s.run for c in chains for s in c.stages}:
                release_run(run, client)

    def _run_one(
        self, chain: Chain, threads: int, client: Client | None, report: Report | None
    ) -> None:
        executor = self.executor or _dask_executor()
        plan = executor.prepare_plan([_copy_spec(chain)])
        own: dict[str, Any] = {}
        if self.executor is None:
            own = {"retries": _RETRIES} if client else {"scheduler": "threads"}
            own |= {} if client else {"num_workers": min(threads, chain.stages[0].threads)}
        with client.as_current() if client is not None else nullcontext(), _watched(chain, report):
            executor.execute_plan(plan, **own)


def _dask_executor() -> Any:
    dask = _part("executors.dask").DaskPipelineExecutor
    specs = _part("pipeline").CopySpecToPipelinesMixin
    # put together as rechunker itself does it
    return type("DaskCopySpecExecutor", (dask, specs), {})()


@contextmanager
def _watched(chain: Chain, report: Report | None) -> Iterator[None]:
    """Report boxes: as they are done where dask runs them here, and all at the end elsewhere."""
    if report is None:
        yield
        return
    left = {(n, box) for n in range(len(chain.stages)) for box in chain.remaining(n)}

    def tell(number: int, box: int) -> None:
        stage = chain.stages[number]
        left.discard((number, box))
        report(stage.key, box, stage.boxes.box_elements * stage.dtype.itemsize)

    def finished(key: Any, *_: Any) -> None:
        name, box = key if isinstance(key, tuple) and len(key) == 2 else ("", -1)
        number = len(chain.stages) - 1 if "to_write" in str(name) else 0
        if str(name).startswith("copy_") and (number, box) in left:
            tell(number, box)

    with Callback(posttask=finished):
        yield
    for number, box in sorted(left):
        tell(number, box)


def _facts(job: CopyJob, budget: MemoryBudget, threads: int, rates: Rates, limits: Limits) -> Facts:
    workers = max(1, budget.workers)
    per_task = (budget.max_mem - PROCESS_OVERHEAD) // threads
    return Facts(job, rates, limits, per_task, threads * workers, workers)


def _largest(job: CopyJob) -> int:
    """Bytes of what a box has to hold at least: a chunk of the source, a unit of the target."""
    source = job.source.box_elements if job.source_chunked or job.blocks else 1
    return max(source, job.units.box_elements) * job.itemsize


def _room(facts: Facts) -> int:
    """Bytes that a box may have: what a task may hold, without its chunks in flight."""
    unit, copies = facts.source_buffers
    if facts.job.blocks:
        # what is computed is held besides the box that is cut out of it
        unit, copies = facts.source_unit, 1.0
    scratch_read, scratch_write = facts.scratch_copies
    room = float(facts.per_task - TASK_OVERHEAD)
    # a box is scratch's piece at most, which is read and written whole
    written, written_copies = facts.target_buffers
    held = 1 + max(facts.queued(last=False))
    flight = max(copies * unit, written_copies * written) * held
    worst = max(scratch_read, scratch_write) * held
    most = float("inf") if facts.limits.box is None else facts.limits.box
    return int(min(room - flight, room / (1 + worst) if facts.limits.scratch else room, most))


def _does_not_fit(facts: Facts, budget: MemoryBudget) -> MemoryBudgetError:
    job, needed = facts.job, _largest(facts.job)
    low, high = budget.max_mem, 2 * max(budget.max_mem, PROCESS_OVERHEAD + needed)

    def fits(max_mem: int) -> bool:
        return _room(replace(facts, per_task=max_mem - PROCESS_OVERHEAD)) >= needed

    while not fits(high):
        low, high = high, 2 * high
    while high - low > max(64, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return MemoryBudgetError(
        f"{job.name}: a chunk of the source or of the target has {format_bytes(needed)}, which "
        "with the codecs' copies and the box that rechunker holds does not fit "
        f"max_mem={format_bytes(budget.max_mem)}, even one task at a time. Nothing was written. "
        f"Give max_mem={format_bytes(high)} ({high} bytes) or more, or smaller target chunks.",
        needed=high,
        allowed=budget.max_mem,
        smallest=high,
    )


def _plan(facts: Facts, room: int, threads: int) -> ArrayPlan:
    job = facts.job
    # a chunk may be longer than its dim in zarr, not in rechunker
    source, units = (
        tuple(min(c, n) for c, n in zip(grid.chunks, job.shape, strict=True))
        for grid in (job.source, job.units)
    )
    read, between, write = (
        tuple(int(n) for n in chunks)
        for chunks in _part("algorithm").rechunking_plan(
            job.shape, source, units, job.itemsize, room, consolidate_reads=not job.blocks
        )
    )
    # as rechunker decides whether it goes through scratch
    if read in (write, between):
        geometry = Geometry((write,), ())
    else:
        geometry = Geometry((between, write), (between,))
    if job.blocks:
        # each box computes the blocks that it touches: they are chunks that are read
        facts = replace(facts, job=replace(job, blocks=False, source_compressed=False))
    stages = geometry.stages(facts)
    plan = ArrayPlan(
        job,
        stages,
        "staged" if len(stages) > 1 else "direct",
        sum(s.seconds for s in stages),
        threads,
        "rechunker's planner was asked, and xchunk's own was not",
    )
    plan.check_exclusive()
    return plan


@dataclass(frozen=True, eq=False)
class _Side:
    """One array of a ``CopySpec``: what is read of it, and what is written to it."""

    shape: tuple[int, ...]
    """Elements along each dim."""
    reads: StageSpec | None = None
    """The stage that reads it."""
    writes: StageSpec | None = None
    """The stage that writes it."""
    blocks: Any = None
    """The dask array that is read, where nothing is stored."""
    read_already: frozenset[int] = frozenset()
    """Boxes that need not be read: what is done with them is done."""
    written_already: frozenset[int] = frozenset()
    """Boxes that need not be written."""

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.shape)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return type(self).__name__, uuid.uuid4().hex

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        stage = self.reads
        if stage is None:
            raise StageFailedError("this array is written only")
        box = _number(stage.boxes, key)
        if box in self.read_already:
            return np.empty(0, dtype=stage.dtype)
        if self.blocks is None:
            return read_box(stage, box)
        values = np.asarray(self.blocks[key].compute(scheduler="single-threaded"))
        return values.astype(stage.dtype, copy=False)

    def __setitem__(self, key: tuple[slice, ...], values: NDArray[Any]) -> None:
        stage = self.writes
        if stage is None:
            raise StageFailedError("this array is read only")
        box = _number(stage.boxes, key)
        if box not in self.written_already:
            write_block(stage, box, values)


def _number(boxes: Grid, key: tuple[slice, ...]) -> int:
    """Return the number of the box that begins where a key begins."""
    at = [axis.touched(k.start, k.stop)[0] for axis, k in zip(boxes.axes, key, strict=True)]
    return int(np.ravel_multi_index(at, [axis.count for axis in boxes.axes]))


def _copy_spec(chain: Chain) -> Any:
    """Put a chain as rechunker's ``CopySpec``; the executor needs the chunks of each step only."""
    types = _part("types")
    first, last = chain.stages[0], chain.stages[-1]
    shape = first.boxes.shape
    done = [frozenset(d) for d in chain.finished] or [frozenset()] * len(chain.stages)
    source = _Side(shape, reads=first, blocks=chain.blocks, read_already=done[0])
    target = _Side(shape, writes=last, written_already=done[-1])
    between = None
    if len(chain.stages) > 1:
        between = _Side(
            shape,
            reads=last,
            writes=first,
            read_already=done[-1],
            written_already=done[0],
        )
    return types.CopySpec(
        read=types.ArrayProxy(source, first.boxes.chunks),
        intermediate=types.ArrayProxy(between, first.boxes.chunks),
        write=types.ArrayProxy(target, last.boxes.chunks),
    )
