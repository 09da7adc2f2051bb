"""The words and numbers that text and HTML share: one phrase for each fact."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xchunk.core.findings import CheckReport, Severity
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.measured import MeasuredRates
from xchunk.core.memory import PAUSE, SPILL, TARGET, TERMINATE, MemoryBudget
from xchunk.core.plan import ArrayPlan, Stage
from xchunk.core.rechunking import RechunkComparison
from xchunk.core.suggest import VariableSuggestion
from xchunk.core.units import format_bytes, format_count, format_seconds

__all__ = [
    "ACTIONS",
    "FAMILIES",
    "MARKS",
    "SEVERITY_WORDS",
    "STAGES",
    "WAYS",
    "Fill",
    "budget_facts",
    "check_counts",
    "chunks",
    "codecs",
    "counted",
    "dask_blocks",
    "dim_chunks",
    "dims",
    "dtypes",
    "fill",
    "folded",
    "growth",
    "grouped",
    "is_cut",
    "is_plain",
    "lengths",
    "measured_facts",
    "misfit",
    "plain",
    "rechunk_rows",
    "rechunk_says",
    "shards",
    "stage_facts",
    "stored",
    "suggestion_facts",
    "times",
    "work_facts",
]

#: What each action means, in a few words.
ACTIONS = {
    "load": "load into memory, no dask",
    "chunk": "chunk lazily",
    "stage": "rechunk to zarr first",
}

#: What each family of plans does.
FAMILIES = {
    "direct": "source to target in one stage",
    "staged": "through scratch, in two stages",
    "multi-stage": "through scratch, in several stages",
    "empty": "metadata only",
}

#: What each kind of stage does.
STAGES = {
    "direct": "source → target",
    "read": "source → scratch",
    "move": "scratch → scratch",
    "write": "scratch → target",
    "verify-source": "source read back",
    "verify-target": "target read back",
}

#: What a finding of each severity is called.
SEVERITY_WORDS: Mapping[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}

#: The ways to have data in other chunks.
WAYS = {
    "lazy": "lazy",
    "tasks": "dask tasks",
    "p2p": "dask p2p",
    "staged": "staged",
}

_WAYS_TOLD = {
    "lazy": "blocks like these straight from the store",
    "tasks": "ds.chunk(…) with dask's rechunk by tasks",
    "p2p": "ds.chunk(…) with dask's rechunk by p2p, on a cluster",
    "staged": "rewriting it once to a store, ds.chunking.apply(…, store=…)",
}

#: dask's thresholds, as parts of a worker's limit.
MARKS = ((TARGET, "target"), (SPILL, "spill"), (PAUSE, "pause"), (TERMINATE, "terminate"))


def plain(text: object) -> str:
    """Make any text safe for one line of a terminal: control characters become escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def counted(n: int, one: str, many: str = "") -> str:
    """Count things: ``1 box``, ``1,200 boxes``."""
    return f"{format_count(n)} {one if n == 1 else many or one + 's'}"


def lengths(values: Iterable[object]) -> str:
    """Lengths by dim: ``(1460, 25, 24)``."""
    items = [str(v) for v in values]
    return "(" + ", ".join(items) + ("," if len(items) == 1 else "") + ")"


def _lengths(parts: int | Sequence[int]) -> str:
    """One dim's chunk lengths: ``7``, or the range that irregular ones lie in."""
    if isinstance(parts, int):
        return str(parts)
    lengths = [p for p in parts if p] or [0]
    if len(set(lengths[:-1])) <= 1 and lengths[-1] <= lengths[0]:
        return str(lengths[0])
    return f"{min(lengths)}…{max(lengths)}"


def dims(sizes: Mapping[str, int]) -> str:
    """The dims with their sizes: ``time: 240, lat: 37``."""
    return ", ".join(f"{plain(d)}: {n}" for d, n in sizes.items()) or "scalar"


def dtypes(layout: ArrayLayout) -> str:
    """The dtype that a user sees and, where it differs, the one that is stored."""
    if layout.dtype == layout.stored_dtype:
        return str(layout.dtype)
    return f"{layout.stored_dtype} → {layout.dtype}"


def chunks(layout: ArrayLayout) -> str:
    """The stored chunks by dim, or what the store has instead of chunks."""
    if not layout.ndim:
        return "scalar"
    if layout.chunks is not None:
        return lengths(_lengths(c) for c in layout.chunks)
    if layout.format == "memory":
        return "in memory"
    if layout.format == "dask":
        return "computed by dask"
    return "contiguous"


def shards(layout: ArrayLayout) -> str:
    """The shards by dim; empty where there are none."""
    return "" if layout.shards is None else lengths(layout.shards)


def codecs(layout: ArrayLayout) -> str:
    """The codecs in the order of encoding; ``none`` where the bytes are as they are."""
    return " + ".join(plain(c) for c in layout.codecs) or "none"


def stored(layout: ArrayLayout) -> str:
    """The stored chunks, how many there are and how large one is in memory."""
    if layout.chunks is None or not layout.ndim:
        return chunks(layout)
    each = "" if layout.n_chunks == 1 else " each"
    of = f"{counted(layout.n_chunks, 'chunk')}, {format_bytes(layout.chunk_nbytes)}{each}"
    return f"{chunks(layout)}  {of}"


def dask_blocks(layout: ArrayLayout) -> str:
    """The dask blocks by dim and how many there are; empty where it is not a dask array."""
    if layout.dask_chunks is None:
        return ""
    grid = Grid.of(layout.shape, layout.dask_chunks)
    return f"{lengths(_lengths(c) for c in layout.dask_chunks)}  {counted(grid.count, 'block')}"


def is_cut(layout: ArrayLayout) -> bool:
    """Whether a variable lies in several stored chunks or dask blocks: worth a drawing."""
    blocks = layout.dask_chunks or ()
    return layout.n_chunks > 1 or any(len(parts) > 1 for parts in blocks)


def misfit(layout: ArrayLayout) -> str:
    """What it costs that dask blocks cut stored chunks; empty where they do not."""
    if layout.dask_chunks is None or layout.chunks is None or not layout.size:
        return ""
    blocks, read = Grid.of(layout.shape, layout.dask_chunks), layout.read_grid
    times = blocks.pairs(read) / max(1, read.count)
    if times <= 1:
        return ""
    return f"dask blocks cut stored chunks: each is read {times:.3g} times"


def dim_chunks(sizes: Mapping[str, int], by_dim: Mapping[str, int | tuple[int, ...]]) -> str:
    """Suggested chunks by dim, in words where a dim is whole: ``time: all 240, lat: 10``."""
    out = []
    for dim, chunk in by_dim.items():
        size = sizes.get(dim)
        whole = chunk == -1 or (isinstance(chunk, int) and size is not None and chunk >= size)
        shown = f"all {size}" if whole and size is not None else _lengths(chunk)
        out.append(f"{plain(dim)}: {shown}")
    return ", ".join(out) or "scalar"


def times(factor: float) -> str:
    """A factor, to three digits or as a whole number: ``1.5 ×``, ``29,040 ×``."""
    return f"{format_count(factor) if factor >= 1000 else format(factor, '.3g')} ×"


def growth(v: VariableSuggestion, budget: MemoryBudget) -> int:
    """Bytes by which one worker grows, as the suggestion says it or as its tasks make up."""
    return v.worker_mem or v.projected_mem * (v.threads or budget.threads)


def suggestion_facts(v: VariableSuggestion, budget: MemoryBudget | None) -> list[tuple[str, str]]:
    """The facts of a suggestion for one variable by name."""
    facts = [("chunks", dim_chunks(v.layout.sizes, v.chunks))]
    if v.action == "stage":
        kept = lengths(v.target_chunks)
        if v.target_shards is not None:
            kept += f" in shards of {lengths(v.target_shards)}"
        facts.append(("stored", f"{chunks(v.layout)} → {kept}"))
    decoded = f"{times(v.read_amplification)} what is needed in a pass"
    if v.request_amplification > 1:
        decoded += f", {times(v.request_amplification)} in one request"
    facts.append(("decoded now", decoded))
    if v.action == "load":
        return facts
    tasks = f"{format_count(v.tasks)} a pass"
    if budget is not None and 1 <= v.threads < budget.threads:
        tasks += f", on {v.threads} of {counted(budget.threads, 'thread')}"
    facts.append(("tasks", tasks))
    spans = [
        ("as it is", v.seconds_now),
        ("rechunked", v.seconds_after),
        ("the rechunk itself", v.rechunk_seconds),
    ]
    known = [f"{name} {format_seconds(t)}" for name, t in spans if t is not None]
    if known:
        facts.append(("a pass takes", ", ".join(known)))
    return facts


def stage_facts(stage: Stage, threads: int) -> list[tuple[str, str]]:
    """The facts of a stage by name: boxes, bytes, decodes, objects and peak."""
    work = stage.work
    read = work.decoded_bytes + work.scratch_read_bytes
    written = work.encoded_bytes + work.scratch_write_bytes
    return [
        ("boxes", f"{format_count(stage.boxes.count)} of {lengths(stage.boxes.chunks)}"),
        ("tasks", format_count(work.tasks)),
        ("reads", format_bytes(read)),
        ("decodes", format_count(work.decodes)),
        ("writes", format_bytes(written)),
        ("objects", format_count(work.objects)),
        ("peak", format_bytes(stage.projected_mem * threads)),
    ]


def work_facts(array: ArrayPlan) -> list[tuple[str, str]]:
    """The figures of one array's plan: chunks from and to, and what it needs."""
    job = array.job
    facts = [
        ("from", lengths(job.source.chunks) if job.source_chunked else "contiguous"),
        ("to", lengths(job.target.chunks)),
    ]
    if job.units.chunks != job.target.chunks:
        facts.append(("shards", lengths(job.units.chunks)))
    if array.scratch_nbytes:
        facts.append(("scratch", format_bytes(array.scratch_nbytes)))
    return facts


def is_plain(array: ArrayPlan) -> bool:
    """Whether a plan needs no words: one chunk (a coordinate's, mostly) copied by one task."""
    return array.work.tasks <= 1 and array.job.source.count <= 1


def budget_facts(budget: MemoryBudget) -> list[tuple[str, str]]:
    """The facts of a budget by name."""
    facts = []
    if budget.memory is not None:
        facts += [
            ("limit of a worker", format_bytes(budget.memory)),
            ("used of it", f"{budget.fraction:.0%}"),
            ("held before data", format_bytes(budget.reserved)),
        ]
    facts += [
        ("a worker may grow by", format_bytes(budget.max_mem)),
        ("tasks at once", format_count(budget.threads)),
        ("so a task may hold", format_bytes(budget.per_task)),
        ("workers", format_count(budget.workers)),
        ("found in", plain(budget.origin)),
    ]
    return facts


@dataclass(frozen=True)
class Fill:
    """A memory bar: parts of a whole, and marks on it; all from 0 to 1."""

    held: float
    """What the process holds before any data."""
    grown: float
    """What it grows by."""
    marks: tuple[tuple[float, str], ...]
    """Thresholds with their names."""
    caption: str
    """The bar in words."""


def fill(budget: MemoryBudget, growth: int) -> Fill:
    """Set a growth of one worker against its budget.

    Where the limit of the worker is known, the whole is that limit and the marks are
    dask's thresholds; else the whole is ``max_mem``.
    """
    part = budget.fraction_of_limit(growth)
    if part is None or budget.memory is None:
        part = growth / budget.max_mem
        caption = f"{format_bytes(growth)} of {format_bytes(budget.max_mem)} ({part:.0%})"
        return Fill(0.0, min(1.0, part), (), caption)
    held = min(1.0, budget.reserved / budget.memory)
    words = (
        f"{format_bytes(budget.reserved + growth)} of {format_bytes(budget.memory)} ({part:.0%})"
    )
    passed = [name for mark, name in MARKS if part > mark + 0.005]
    if passed:
        words += f", past {passed[-1]}"
    return Fill(held, max(0.0, min(1.0, part) - held), MARKS, words)


def check_counts(report: CheckReport) -> str:
    """How many findings there are: ``1 error, 2 warnings``."""
    said = [counted(n, SEVERITY_WORDS[s]) for s, n in report.counts.items() if n]
    return ", ".join(said) or f"nothing found in {counted(report.checked, 'variable')}"


def measured_facts(rates: MeasuredRates) -> list[tuple[str, str]]:
    """The rates of a probe by name."""
    two = "not measured" if rates.speedup is None else f"{rates.speedup:.2f} times one"
    coded = bool(rates.codecs)
    return [
        ("request", format_seconds(rates.latency)),
        ("store", f"{format_bytes(rates.bandwidth)}/s"),
        ("decode", f"{format_bytes(rates.decode)}/s" if coded else "no codec"),
        ("encode for a target", f"{format_bytes(rates.encode)}/s"),
        ("two threads read", two),
        ("stored for each byte", f"{rates.compression:.2f}"),
    ]


def rechunk_rows(c: RechunkComparison) -> tuple[list[str], list[list[str]]]:
    """The ways of a comparison as a table: its head, and a row for each way."""
    head = ["", "tasks", "decodes", "memory", "fits", "disk", "about"]
    rows = []
    for way in c.ways:
        disk = way.worker_disk or way.store_disk
        where = "/worker" if way.worker_disk else ""
        rows.append(
            [
                WAYS[way.name],
                format_count(way.tasks),
                format_bytes(way.decoded),
                format_bytes(way.worker_mem),
                "yes" if way.fits else "no",
                f"{format_bytes(disk)}{where}" if disk else "-",
                "?" if way.seconds is None else format_seconds(way.seconds),
            ]
        )
    return head, rows


def rechunk_says(c: RechunkComparison) -> str:
    """What a comparison says: the quickest way that fits, and what it is measured by."""
    grows = format_bytes(c.budget.max_mem)
    if c.best is None:
        return f"None of them fits a worker that may grow by {grows}."
    said = f"Of those that fit a worker that may grow by {grows}, the quickest is: "
    said += f"{_WAYS_TOLD[c.best.name]}."
    again = c.best.name != "staged" and c.best.decoded > 1.2 * c.nbytes
    if again and any(w.name == "staged" and w.fits for w in c.ways):
        said += " What is used often is quicker once it is rewritten."
    return said


def grouped(layouts: Iterable[ArrayLayout]) -> tuple[list[ArrayLayout], list[ArrayLayout]]:
    """Part data variables from coordinates, the largest first."""
    ordered = sorted(layouts, key=lambda a: -a.nbytes)
    return [a for a in ordered if not a.is_coord], [a for a in ordered if a.is_coord]


def folded(said: str) -> str:
    """Fold lines for the terminal; paths and words stay whole, so that they can be copied."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    return "\n".join(
        textwrap.fill(
            line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for line in said.splitlines()
    )
