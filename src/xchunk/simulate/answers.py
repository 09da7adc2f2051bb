"""What was found for a workload, put as a suggestion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest import Suggestion, suggest_dataset
from xchunk.core.units import format_bytes
from xchunk.core.workload import Outcome, reasons
from xchunk.errors import MemoryBudgetError
from xchunk.simulate.staging import Weighed
from xchunk.simulate.twins import blocks_of

__all__ = ["beside", "staged", "suggestion", "too_large"]


def suggestion(
    layouts: Sequence[ArrayLayout],
    best: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    budget: MemoryBudget,
    *,
    rates: Rates,
    left: int = 0,
) -> Suggestion:
    """The suggestion for a plain scan, with what the simulation found put in."""
    chosen, others = best[0], best[1:]
    p = chosen.prediction
    if p is None:
        raise RuntimeError("a candidate was chosen that cannot be run")
    tried = sum(o.prediction is not None for o in outcomes)
    why, runner_up, close = reasons(chosen, others, budget, tried)
    if left:
        why += f" {left} more were left out for lack of time: seconds= gives more."
    base = suggest_dataset(layouts, "scan", budget, rates=rates)
    variables = dict(base.variables)
    for name, own in chosen.chunks.items():
        reads = p.reads.get(name)
        whole = set(blocks_of(variables[name].layout, own).values()) == {1}
        small = variables[name].action == "load" and whole
        variables[name] = replace(
            variables[name],
            action="load" if small else "chunk",
            chunks=dict(own),
            projected_mem=math.ceil(p.peak / max(1, p.threads)),
            worker_mem=p.peak,
            threads=p.threads,
            tasks=chosen.blocks.get(name, 1),
            read_amplification=1.0 if reads is None else reads.amplification,
            seconds_now=p.seconds,
            seconds_after=None,
            rechunk_seconds=None,
            break_even_passes=None,
            binding="threads" if p.threads < budget.threads else "workload",
            runner_up=runner_up,
            close_call=close,
            why=why,
        )
    return replace(
        base,
        variables=variables,
        access="workload",
        prediction=p,
        runner_up=others[0] if others else None,
        outcomes=tuple(outcomes),
    )


def beside(found: Suggestion, weighed: Weighed) -> Suggestion:
    """Tell of the rechunk that does not pay for so few runs."""
    p = found.prediction
    told = weighed.said(p)
    variables = dict(found.variables)
    for name in weighed.staging.variables:
        v = variables[name]
        finite = math.isfinite(weighed.break_even)
        variables[name] = replace(
            v,
            seconds_after=weighed.after.seconds,
            rechunk_seconds=weighed.staging.seconds,
            break_even_passes=weighed.break_even if finite else None,
            why=f"{v.why} {told}" if finite else v.why,
        )
    return replace(found, variables=variables, outcomes=(*found.outcomes, weighed.outcome))


def staged(
    layouts: Sequence[ArrayLayout],
    weighed: Weighed,
    best: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    budget: MemoryBudget,
    *,
    rates: Rates,
) -> Suggestion:
    """The suggestion to rechunk first."""
    lazy = best[0] if best else None
    before = None if lazy is None else lazy.prediction
    tried = sum(o.prediction is not None for o in outcomes) + 1
    told, _, _ = reasons(weighed.outcome, (), budget, tried)
    found = suggestion(layouts, [weighed.outcome], outcomes, budget, rates=rates)
    text = f"{weighed.said(before)} {told}"
    variables = dict(found.variables)
    for name, new in weighed.staging.variables.items():
        variables[name] = replace(
            variables[name],
            action="stage",
            target_chunks=new.target.chunks,
            target_shards=new.target.shards,
            seconds_now=None if before is None else before.seconds,
            seconds_after=weighed.after.seconds,
            rechunk_seconds=weighed.staging.seconds,
            break_even_passes=weighed.break_even,
            binding="memory" if before is None else "workload",
            lazy_chunks=None if lazy is None else dict(lazy.chunks[name]),
            runner_up="" if lazy is None else f"lazily, {lazy.label}",
            why=text,
        )
    all_seen = (*outcomes, weighed.outcome)
    return replace(found, variables=variables, outcomes=all_seen, runner_up=lazy)


def too_large(
    outcomes: Sequence[Outcome], budget: MemoryBudget, left: int = 0
) -> MemoryBudgetError:
    """Say what the leanest candidate would need."""
    tried, rest = "however the data are chunked", ""
    if left:
        tried = "with the chunks that there was time for"
        rest = f" {left} more were left out for lack of time: seconds= gives more."
    found = [(o.prediction.peak, o) for o in outcomes if o.prediction is not None]
    needed, least = min(found, key=lambda f: f[0])
    return MemoryBudgetError(
        f"the workload does not fit a worker that may grow by {format_bytes(budget.max_mem)}, "
        f"{tried}: of {len(found)} ways that were simulated, {least.label} "
        f"takes the least, {format_bytes(needed)} with one thread.{rest} Give a worker that much "
        f"(max_mem={needed}), or rechunk the data first, as suggest(access=...) would.",
        needed=needed,
        allowed=budget.max_mem,
        smallest=needed,
    )
