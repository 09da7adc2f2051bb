"""Choosing chunks for a workload by what each choice is predicted to take.

The predictions come from graphs that are built and replayed (`xchunk.simulate`); here are
their numbers, the order of preference among them, and the reasons in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xchunk.core.cost import LOCAL_TASK, Rates
from xchunk.core.memory import SPILL, MemoryBudget
from xchunk.core.shown import Shown, ToDict
from xchunk.core.suggest.decision import TIE
from xchunk.core.types import DimChunk
from xchunk.core.units import format_bytes, format_count, format_seconds

#: What a process holds for each byte on the heap where the allocator keeps what was freed:
#: measured at 1.0 to 2.7, in the middle 1.5. With MALLOC_TRIM_THRESHOLD_ set it is about 1.
KEPT, KEPT_AT_WORST = 1.5, 2.7

#: Bytes read and times up to which two candidates count as equal when one is chosen. Counted times
#: put the sizes of blocks in the right order, although they may be off by a factor of 2.
_SAME_BYTES, _SAME_TIME = 1.1, 1.25

#: Tasks that take so little time that fewer are no better: on 100 MB, each block that is read was
#: measured to take 1 to 3 ms of a processor besides its bytes.
_FEW_TASKS = 50


@dataclass(frozen=True)
class Reads(ToDict, keys="name requests decodes nbytes amplification"):
    """What is read of one stored array."""

    name: str
    """Name of the variable."""
    requests: int
    """How many times a task asks for a part of it."""
    decodes: int
    """Stored chunks decoded, each as often as it is; parts asked for where it has no chunks."""
    nbytes: int
    """Bytes decoded, as stored before codecs."""
    distinct: int
    """Bytes that would be decoded if every chunk that is needed were decoded once."""
    codecs: tuple[str, ...] = ()
    """Names of the codecs of its chunks."""

    @property
    def amplification(self) -> float:
        """Bytes decoded / bytes of the chunks that are needed."""
        return self.nbytes / self.distinct if self.distinct else 1.0


@dataclass(frozen=True, repr=False)
class Prediction(
    Shown,
    view="prediction",
    keys="tasks reads nbytes_read decodes amplification live heap rss threads workers "
    "worker_heap moved seconds critical gathered block profiled assumed scaled notes",
):
    """What running a lazy result would take."""

    tasks: int
    """Tasks that the scheduler runs."""
    reads: Mapping[str, Reads]
    """What is read of each stored array, by name."""
    live: int
    """Bytes of results that are alive at the same time, at most."""
    heap: int
    """Bytes on the heap at most, results and the tasks at work, on threads of one process."""
    threads: int
    """Tasks that one process runs at once."""
    seconds: float
    """Time on the clock, coarsely: differences below a factor of 2 mean nothing."""
    critical: float
    """Seconds of the longest chain of tasks, which no number of workers makes shorter."""
    gathered: int = 0
    """Bytes that gathering the result in one process would add: its blocks, and the array that
    they are put together in; 0 where they are counted."""
    workers: int = 1
    """Workers of the cluster."""
    worker_heap: int = 0
    """Bytes on the heap of the fullest worker at most."""
    moved: int = 0
    """Bytes that workers send to each other."""
    block: int = 0
    """Bytes of the largest part that is read at once."""
    profiled: int = 0
    """Tasks that were run on noise to learn what all of them take."""
    assumed: int = 0
    """Kinds of tasks that could not be run, and were taken to copy their inputs."""
    scaled: float = 1.0
    """How many times larger the real data are than those that were looked at."""
    notes: tuple[str, ...] = ()
    """What limits the prediction, in words."""
    over_time: tuple[tuple[float, float], ...] = ()
    """Parts of the time that have passed, with the part of `peak` that is in use until then."""
    touched: int = 0
    """Bytes of `heap` that are ever in use at once; the system gives reserved ones no memory."""
    work: float = 0.0
    """Seconds of counted work, which do not depend on what else a machine does while it is looked
    at; chunks are chosen by these. 0: as `seconds`."""

    @property
    def counted(self) -> float:
        """Seconds by which chunks are chosen."""
        return self.work or self.seconds

    @property
    def nbytes_read(self) -> int:
        """Bytes decoded, as stored before codecs."""
        return sum(r.nbytes for r in self.reads.values())

    @property
    def decodes(self) -> int:
        """Stored chunks decoded."""
        return sum(r.decodes for r in self.reads.values())

    @property
    def amplification(self) -> float:
        """Bytes decoded / bytes of the chunks that are needed."""
        distinct = sum(r.distinct for r in self.reads.values())
        return self.nbytes_read / distinct if distinct else 1.0

    @property
    def peak(self) -> int:
        """Bytes on the heap of the process, or of the fullest worker of several."""
        return self.worker_heap if self.workers > 1 else self.heap

    @property
    def rss(self) -> tuple[int, int]:
        """Bytes by which the process grows: with malloc trimming, and at worst without it."""
        # of workers only what they reserve is known, and of what was not replayed
        least = self.peak if self.workers > 1 else self.touched or self.heap
        return least, int(KEPT_AT_WORST * self.peak)

    def enlarged(self, part: float) -> Prediction:
        """Multiply what thinner blocks take; the tasks are as many as those of the data."""

        def more(n: float) -> int:
            return round(n / part)

        def longer(seconds: float, task: float) -> float:
            # what the scheduler takes does not grow with the blocks
            scheduling = min(seconds, self.tasks * task)
            return (seconds - scheduling) / part + scheduling

        return replace(
            self,
            reads={
                name: replace(r, nbytes=more(r.nbytes), distinct=more(r.distinct))
                for name, r in self.reads.items()
            },
            live=more(self.live),
            heap=more(self.heap),
            touched=more(self.touched),
            worker_heap=more(self.worker_heap),
            moved=more(self.moved),
            gathered=more(self.gathered),
            block=more(self.block),
            seconds=longer(self.seconds, LOCAL_TASK),
            work=longer(self.work, Rates().task),
            critical=self.critical / part,
            scaled=self.scaled / part,
        )

    def plot(self, *, budget: MemoryBudget | None = None, ax: Any = None) -> Any:
        """Plot the predicted memory over the time that the workload takes.

        Parameters
        ----------
        budget : MemoryBudget, optional
            Drawn as a line, with dask's thresholds where it has a limit.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
        """
        return self._plot(budget=budget, ax=ax)


@dataclass(frozen=True)
class Outcome(ToDict, keys="label chunks prediction failure"):
    """One candidate, and what it is predicted to take."""

    label: str
    """Where the chunks come from, in a few words."""
    chunks: Mapping[str, Mapping[str, DimChunk]]
    """dask chunks: ``{variable: {dim: n}}``."""
    prediction: Prediction | None = None
    """What it takes; None where the workload cannot be run with these chunks."""
    failure: str = ""
    """Why not."""
    blocks: Mapping[str, int] = field(default_factory=dict)
    """Number of blocks of each variable."""


def best_outcomes(outcomes: Sequence[Outcome], budget: MemoryBudget) -> list[Outcome]:
    """Put those that fit the memory in order, the best first.

    Fewest bytes read come first; among those that read as much, the ones that also fit where
    the allocator keeps what was freed; among these the quickest; and where times do not differ
    by more than a prediction can tell, the fewest tasks and then the least memory.
    """
    kept = 1.0 if budget.workers > 1 else KEPT
    left = [
        (o, o.prediction)
        for o in outcomes
        if o.prediction is not None and o.prediction.peak <= budget.max_mem
    ]
    out: list[Outcome] = []
    while left:
        fewest = min(p.nbytes_read for _, p in left)
        lean = [(o, p) for o, p in left if p.nbytes_read <= _SAME_BYTES * fewest]
        easy = [(o, p) for o, p in lean if kept * p.peak <= budget.max_mem] or lean
        quickest = min(p.counted for _, p in easy)
        quick = [(o, p) for o, p in easy if p.counted <= _SAME_TIME * quickest]
        best = min(quick, key=lambda op: (max(op[1].tasks, _FEW_TASKS), op[1].peak))[0]
        out.append(best)
        left = [(o, p) for o, p in left if o is not best]
    return out


def reasons(
    chosen: Outcome, others: Sequence[Outcome], budget: MemoryBudget, tried: int
) -> tuple[str, str, bool]:
    """Say why a candidate was chosen, what the next best is, and whether it was a close call."""
    p = chosen.prediction
    if p is None:
        raise RuntimeError("a candidate was chosen that cannot be run")
    parts = [f"Of {tried} ways to chunk that were simulated, {chosen.label} is the best."]
    often = f"{p.amplification:.1f} times what is needed" if p.amplification > 1.05 else "once"
    parts.append(
        f"The workload then runs {format_count(p.tasks)} tasks, decodes "
        f"{format_count(p.decodes)} stored chunks ({format_bytes(p.nbytes_read)}, "
        + (f"{often})" if often != "once" else "each once)")
        + f" and takes about {format_seconds(p.seconds)}."
    )
    who = "the fullest worker" if p.workers > 1 else "the process"
    memory = (
        f"With {p.threads} {'thread' if p.threads == 1 else 'threads'} {who} holds "
        f"{format_bytes(p.peak)} at its peak, {p.peak / budget.max_mem:.0%} of what it may grow "
        f"by; {KEPT:g} times that, at worst {KEPT_AT_WORST:g} times, unless malloc trimming is set"
    )
    limit = budget.fraction_of_limit(p.peak)
    if limit is not None:
        memory += f". It takes it to {limit:.0%} of its limit (dask spills at {SPILL:.0%})"
    parts.append(memory + ".")
    if p.threads < budget.threads:
        parts.append(f"With {budget.threads} threads nothing fits.")
    if p.moved:
        parts.append(f"Workers send each other {format_bytes(p.moved)}.")
    if p.gathered:
        parts.append(
            f"The result is taken to be written block by block; gathering it in one process "
            f"would add {format_bytes(p.gathered)}."
        )
    if p.scaled > 1.01:
        parts.append(f"Predicted from data {p.scaled:.0f} times smaller.")
    parts += [f"{note[0].upper()}{note[1:]}." for note in p.notes]
    if not others:
        return " ".join(parts), "", False
    text, close = _runner_up(p, others[0])
    return " ".join(parts), text, close


def _runner_up(p: Prediction, other: Outcome) -> tuple[str, bool]:
    o = other.prediction
    if o is None:
        return "", False
    less = "more" if o.nbytes_read > p.nbytes_read else "less"
    bytes_too = (
        "reads as much"
        if max(o.nbytes_read, p.nbytes_read) <= _SAME_BYTES * min(o.nbytes_read, p.nbytes_read)
        else f"reads {format_bytes(o.nbytes_read)}, {less}"
    )
    close = max(o.seconds, p.seconds) < TIE * min(o.seconds, p.seconds) and bytes_too[6:8] == "as"
    text = (
        f"{other.label}: {bytes_too}, {format_count(o.tasks)} tasks, {format_bytes(o.peak)} at "
        f"the peak, about {format_seconds(o.seconds)}"
    )
    return text, close
