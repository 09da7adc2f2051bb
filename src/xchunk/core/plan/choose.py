"""Choosing how an array is copied: the cheapest stages that stay within the memory.

Three families compete (see `xchunk.core.plan.stages`): direct, staged through one scratch array,
and multi-stage through two or three, for shapes so extreme that one scratch array would
split into very many tiny chunks. Each is tried with every number of tasks at once that the
worker's threads allow, since fewer tasks have more memory each; the predicted time decides.

Advice, comparisons and plans share one model of time. In a forecast the layout stands for what
`xchunk.rechunking.bind` learns from stores: pieces of scratch and chunks of the target are
taken to be files of this machine, with codecs as the source's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from xchunk.core.cost import Rates
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import DECODE_COPIES, IN_FLIGHT, MemoryBudget, codec_copies
from xchunk.core.plan.planner import Option, Planner, least_with_scratch
from xchunk.core.plan.stages import ArrayPlan, CopyJob, Limits
from xchunk.core.suggest.access import AccessPattern
from xchunk.core.suggest.lazy_pass import PassModel, item_nbytes
from xchunk.core.types import Chunks
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.errors import InvalidChunksError, MemoryBudgetError


def plan_array(
    job: CopyJob,
    budget: MemoryBudget,
    *,
    rates: Rates | None = None,
    limits: Limits | None = None,
    concurrency: int | None = None,
) -> ArrayPlan:
    """Choose the cheapest way to copy one array within a budget.

    No stage of the plan holds more than ``budget.max_mem`` divided by the tasks at once,
    ``ArrayPlan.threads``, which are fewer than ``budget.threads`` where that is faster or
    where nothing else fits.

    Parameters
    ----------
    job : CopyJob
        The array, its source's chunks and its target's.
    budget : MemoryBudget
        What one worker may grow by, and the tasks that it runs at once.
    rates : Rates, optional
        What work costs; decides between plans that fit. By default those of a local disk, or of
        an object store where one of the stores is far.
    limits : Limits, optional
        The most tasks and scratch objects, and whether there may be a scratch array at all.
    concurrency : int, optional
        Whether requests of a task are on their way beside each other: 1 for not. By default one,
        or `IN_FLIGHT` where a store is far.

    Returns
    -------
    ArrayPlan
        The plan with its predictions, and the runner-up with the reason why it lost.

    Raises
    ------
    MemoryBudgetError
        If nothing fits the memory, the tasks and the objects together; with the smallest
        budget for which there is a plan.
    InvalidChunksError
        If the job itself makes no sense, or no budget would help.

    Notes
    -----
    The search covers boxes and pieces that cut each dim regularly. Direct plans are the
    best of all where the dim has at most 96 write units; staged ones where it has at most
    16 elements. Longer dims are searched in a geometric choice of lengths. Where many dims
    leave more than a few thousand undominated combinations, the search keeps the best of each
    size only (`xchunk.core.plan.planner`).
    """
    rates, limits = rates or Rates.usual(near=job.near), limits or Limits()
    if concurrency is None:
        concurrency = 1 if job.near else IN_FLIGHT
    _check_job(job, concurrency)
    if math.prod(job.shape) == 0:
        return ArrayPlan(job, (), "empty", 0.0, budget.threads)
    planner = Planner(job, budget, rates=rates, limits=limits, concurrency=concurrency)
    options = planner.options()
    if not options:
        raise _no_plan(planner)
    plan = replace(options[0].plan(planner.order), runner_up=_runner_up(planner, options))
    plan.check_exclusive()
    return plan


def _check_job(job: CopyJob, concurrency: int) -> None:
    grids = {"source": job.source, "target": job.target, "units": job.units}
    for what, grid in grids.items():
        if grid.shape != job.shape:
            raise InvalidChunksError(
                f"{job.name}: the {what} chunks are for an array of {grid.shape}, "
                f"but the array to copy has {job.shape}."
            )
    if not (job.target.is_regular and job.units.is_regular):
        raise InvalidChunksError(
            f"{job.name}: the target's chunks must all have one length along each dim. "
            "Give one length for each dim instead of a list of lengths."
        )
    if job.blocks and not job.source.is_regular:
        raise InvalidChunksError(
            f"{job.name}: blocks that are computed once must all have one length along each dim. "
            "Rechunk the variable to regular blocks first."
        )
    if concurrency < 1:
        raise InvalidChunksError(f"concurrency={concurrency} must be at least 1.")


def as_given(budget: MemoryBudget, smallest: int) -> tuple[str, str]:
    """Say what the budget is, and how a larger one is given, in the words of who gave it."""
    size = format_bytes(budget.max_mem)
    if budget.memory is None:
        return (
            f"max_mem={size}",
            f"Give max_mem={_rounded_up(smallest)} ({smallest} bytes) or more",
        )
    needed = _rounded_up(int((smallest + budget.reserved) / budget.fraction))
    given = (
        f"the {size} that a worker may grow by ({budget.fraction:.0%} of its "
        f"{format_bytes(budget.memory)}, less the {format_bytes(budget.reserved)} that it holds)"
    )
    remedy = (
        f"Give each worker {needed} of memory or more (memory=; --memory-limit for those that the "
        "command line starts)"
    )
    return given, remedy


def _no_plan(planner: Planner) -> MemoryBudgetError | InvalidChunksError:
    """Say that nothing fits, and what would."""
    job, budget, limits = planner.order.given, planner.budget, planner.limits
    smallest = planner.smallest()
    if smallest is None and limits.scratch:
        return InvalidChunksError(
            f"{job.name}: blocks of {job.source.chunks} are not whole units of {job.units.chunks}, "
            f"and each of the {format_count(job.source.count)} would be a scratch object at "
            f"least, of which {format_count(limits.objects)} are allowed, or take more than "
            f"{format_count(limits.tasks)} tasks. Chunk the data in larger blocks, or in "
            "multiples of the units."
        )
    if smallest is None:
        return InvalidChunksError(
            f"{job.name}: no budget lets blocks of {job.source.chunks} be written in units of "
            f"{job.units.chunks} without a scratch array. Allow one, or chunk the data in "
            "multiples of the units."
        )
    endless = replace(limits, tasks=2**62, objects=2**62)
    free = Planner(
        job, budget, rates=planner.rates, limits=endless, concurrency=planner.concurrency
    )
    given, remedy = as_given(budget, smallest)
    if free.feasible(budget.max_mem):
        reason = (
            f"with {given} it would take more than {format_count(limits.tasks)} tasks "
            f"in one stage, or more than {format_count(limits.objects)} scratch objects"
        )
    else:
        reason = (
            f"one {'block' if job.blocks else 'stored chunk'} of {_size(job.source, job)} and one "
            f"write unit of {_size(job.units, job)}, with the codecs' copies of them, do not fit "
            f"{given}, even one task at a time"
        )
    return MemoryBudgetError(
        f"{job.name}: {reason}. Nothing was written. {remedy}, or smaller target chunks.",
        needed=smallest,
        allowed=budget.max_mem,
        smallest=smallest,
    )


def _rounded_up(nbytes: int) -> str:
    """Show a size in three digits that are not less than it is."""
    digit = 10 ** max(0, len(str(nbytes)) - 3)
    return format_bytes(-(-nbytes // digit) * digit)


def _size(grid: Grid, job: CopyJob) -> str:
    return format_bytes(grid.box_elements * job.itemsize)


def _runner_up(planner: Planner, options: list[Option]) -> str:
    """Say what came second, and why it lost."""
    best = options[0]
    if len(options) > 1:
        other = options[1]
        return (
            f"{other.family}: {format_seconds(other.seconds)} against "
            f"{format_seconds(best.seconds)}, since it {_differences(other, best)}"
        )
    if best.family != "direct":
        if not planner.can_be_direct:
            return "direct: blocks do not hold whole write units of the target"
        return "direct: its boxes of whole write units do not fit the memory and the limits"
    if not planner.limits.scratch:
        return "staged: no scratch array is allowed"
    least = least_with_scratch(best.facts, 1)
    if least >= best.seconds:
        return (
            f"staged: at least {format_seconds(least)} against {format_seconds(best.seconds)}, "
            "since everything would go through a scratch array"
        )
    return f"staged: nothing that fits takes less than {format_seconds(best.seconds)}"


def _differences(other: Option, best: Option) -> str:
    """What the loser does more of, in words."""
    theirs, ours = _totals(other), _totals(best)
    said = [
        f"{verb} {show(a)} {what} instead of {show(b)}"
        for (verb, show, what), a, b in zip(_WORDS, theirs, ours, strict=True)
        if a > b
    ]
    return " and ".join(said) or "keeps fewer threads busy"


_WORDS = (
    ("decodes", format_count, "stored chunks"),
    ("moves", format_bytes, "through scratch"),
    ("writes", format_count, "objects"),
    ("runs", format_count, "tasks"),
)


def _totals(option: Option) -> tuple[int, int, int, int]:
    works = [s.work for s in option.stages]
    return (
        sum(w.decodes for w in works),
        sum(w.scratch_write_bytes for w in works),
        sum(w.objects for w in works),
        sum(w.tasks for w in works),
    )


def forecast(
    layout: ArrayLayout,
    chunks: Chunks,
    shards: Chunks | None,
    budget: MemoryBudget,
    rates: Rates,
) -> ArrayPlan | None:
    """Plan the rechunk of a variable to other chunks.

    - returns: None where no plan fits the budget.
    """
    plan = _planned(_job(layout, chunks, shards, rates), budget, rates)
    return None if plan is None else replace(plan, job=replace(plan.job, name=layout.name))


def least_budget(
    layout: ArrayLayout,
    chunks: Chunks,
    shards: Chunks | None,
    budget: MemoryBudget,
    rates: Rates,
) -> int | None:
    """Report the bytes that a rechunk takes at least, where they are more than the budget's."""
    if forecast(layout, chunks, shards, budget, rates) is not None:
        return None
    try:
        plan_array(_job(layout, chunks, shards, rates), budget, rates=rates)
    except MemoryBudgetError as error:
        return error.smallest
    except InvalidChunksError:
        # no budget would help
        pass
    return None


@lru_cache(maxsize=256)
def _planned(job: CopyJob, budget: MemoryBudget, rates: Rates) -> ArrayPlan | None:
    try:
        return plan_array(job, budget, rates=rates)
    except (MemoryBudgetError, InvalidChunksError):
        return None


def _job(layout: ArrayLayout, chunks: Chunks, shards: Chunks | None, rates: Rates) -> CopyJob:
    target = Grid.of(layout.shape, chunks)
    read_copies, write_copies = codec_copies(layout.codecs)
    if layout.by_chunk:
        read_copies = min(read_copies, DECODE_COPIES)
    source = PassModel(layout, AccessPattern("scan"), MemoryBudget(1), rates)
    return CopyJob(
        name="",
        shape=layout.shape,
        itemsize=item_nbytes(layout.stored_dtype),
        source=layout.read_grid,
        target=target,
        units=target if shards is None else Grid.of(layout.shape, shards),
        source_chunked=layout.is_chunked,
        source_sharded=layout.shards is not None and not layout.by_chunk,
        source_compressed=bool(layout.codecs),
        serial=source.is_serial and not layout.by_chunk,
        blocks=layout.format == "dask",
        scratch_files=True,
        unit_files=True,
        read_copies=read_copies,
        write_copies=write_copies,
    )
