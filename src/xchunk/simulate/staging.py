"""Rechunks that are weighed against the best lazy chunks for a workload."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from xchunk._typing import DimChunk
from xchunk.core.access import AccessPattern
from xchunk.core.axes import dim_roles
from xchunk.core.cost import Rates
from xchunk.core.decide import TIE, WORTHWHILE, Rewritten, rewritten
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.passes import best_pass
from xchunk.core.units import format_seconds
from xchunk.core.workload import Outcome, Prediction
from xchunk.simulate.candidates import for_all, said_blocks

__all__ = ["Staging", "Weighed", "stagings", "weigh"]

#: Parts of the memory for which blocks over new chunks are looked for: a workload may need
#: many times what a plain pass does. The first that holds whole chunks is taken.
_PARTS = (0.25, 0.5, 1.0)

#: Decoding more than this many times what is needed is a sure gain to be had by a rechunk.
_LEAN = 1.2


@dataclass(frozen=True)
class Staging:
    """One way to store what a workload reads, and the blocks to read it in."""

    label: str
    """The new chunks, in a few words."""
    variables: Mapping[str, Rewritten]
    """The variables that are written anew."""
    chunks: Mapping[str, Mapping[str, DimChunk]]
    """dask chunks: ``{variable: {dim: n}}``."""

    @property
    def seconds(self) -> float:
        """Predicted time of the rechunks."""
        return math.fsum(v.seconds for v in self.variables.values())


@dataclass(frozen=True)
class Weighed:
    """A rechunk beside the best that can be done without."""

    staging: Staging
    """The rechunk."""
    outcome: Outcome
    """What the workload takes afterwards."""
    after: Prediction
    """The same, in numbers."""
    break_even: float
    """Runs of the workload after which the rechunk has paid off; infinite: never."""
    pays: bool
    """Whether it is to be done."""

    def said(self, lazy: Prediction | None) -> str:
        """Say what it would bring, in a sentence or two."""
        cost = f"in about {format_seconds(self.staging.seconds)}"
        then = f"a run takes about {format_seconds(self.after.seconds)}"
        what = f"Rechunked once to {self.staging.label}, {cost}, {then}"
        if lazy is None:
            return f"No lazy blocks fit a worker. {what}."
        now = f"Lazily, a run takes about {format_seconds(lazy.seconds)}"
        if not math.isfinite(self.break_even):
            return f"{now}. {what}, which never pays off."
        even = max(1, math.ceil(self.break_even))
        runs = "the first run" if even == 1 else f"{even} runs"
        return f"{now}. {what}; it pays off after {runs}."


def stagings(used: Sequence[ArrayLayout], budget: MemoryBudget, rates: Rates) -> Iterator[Staging]:
    """New chunks for the workload's variables: long in time, in space, and in height."""
    main = used[0]
    if any(v.format in ("dask", "memory") for v in used):
        return
    roles = dim_roles(used)
    uses = [tuple(d for d in main.dims if roles.get(d) == role) for role in ("T", "H", "Z")]
    seen = set()
    for whole in dict.fromkeys(uses):
        if not whole or len(whole) == main.ndim:
            continue
        pattern = AccessPattern("use", whole)
        new = {v.name: rewritten(v, pattern, budget, rates) for v in used}
        kept = {name: found for name, found in new.items() if found is not None}
        if main.name not in kept or kept[main.name].target in seen:
            continue
        stored = [kept[v.name].layout if v.name in kept else v for v in used]
        blocks = None
        for part in _PARTS:
            if blocks is None or blocks.splits:
                room = replace(budget, max_mem=max(1, int(budget.max_mem * part)))
                blocks = best_pass(stored[0], pattern, room, rates) or blocks
        if blocks is None:
            continue
        target = kept[main.name].target
        seen.add(target)
        label = f"chunks of {target.chunks}"
        label += "" if target.shards is None else f" in shards of {target.shards}"
        label += f", read in blocks of {said_blocks(main, blocks.chunks)}"
        yield Staging(label, kept, for_all(stored, blocks.chunks))


def weigh(
    looked: Sequence[tuple[Staging, Outcome]],
    lazy: Prediction | None,
    budget: MemoryBudget,
    passes: float,
) -> Weighed | None:
    """Choose the rechunk with which all runs take least, and tell whether it pays.

    Times are not told apart below a factor of 2, unless it is sure that less is read.

    Returns
    -------
    Weighed or None
        None where none fits the memory.
    """
    fits = [
        (s, o, o.prediction)
        for s, o in looked
        if o.prediction is not None and o.prediction.peak <= budget.max_mem
    ]
    if not fits:
        return None
    staging, outcome, after = min(fits, key=lambda f: f[0].seconds + passes * f[2].seconds)
    if lazy is None:
        return Weighed(staging, outcome, after, 0.0, pays=True)
    saved = lazy.seconds - after.seconds
    even = staging.seconds / saved if saved > 0 else math.inf
    sure = WORTHWHILE if lazy.amplification > _LEAN else 1 / TIE
    total = staging.seconds + passes * after.seconds
    pays = after.seconds < sure * lazy.seconds and total < sure * passes * lazy.seconds
    return Weighed(staging, outcome, after, even, pays)
