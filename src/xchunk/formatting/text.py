"""Reports as text of at most 80 columns, for ``repr`` and terminals."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from xchunk.core.findings import CheckReport, Finding
from xchunk.core.layout import ArrayLayout
from xchunk.core.measured import MeasuredRates
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import ArrayPlan, RechunkPlan
from xchunk.core.rechunking import RechunkComparison
from xchunk.core.suggest import Suggestion, VariableSuggestion
from xchunk.core.units import format_bytes, format_seconds
from xchunk.formatting import captions, describe

if TYPE_CHECKING:
    from xchunk.storage.layouts import LayoutReport

__all__ = [
    "WIDTH",
    "accessor",
    "bar",
    "check_report",
    "cut",
    "finding_lines",
    "layout_lines",
    "layout_report",
    "measured_rates",
    "memory_budget",
    "more",
    "plan_lines",
    "rechunk_comparison",
    "rechunk_plan",
    "sides",
    "suggested_lines",
    "suggestion",
    "table",
    "wrap",
]

#: Columns of a line, at the most.
WIDTH = 80

#: Variables shown, at the most; ``to_dict`` and ``to_dataframe`` have all of them.
MOST = 40

T = TypeVar("T")

_UNIT = re.compile(r"(\d) ((?:[kMGTP]?B|µs|ms|s|min|h|d|×)\b)")


def cut(text: str, width: int) -> str:
    """Shorten a text to one line of ``width`` columns, taking from its middle."""
    text = describe.plain(text)
    if len(text) <= width:
        return text
    keep = max(1, width - 1)
    return text[: keep - keep // 3] + "…" + text[len(text) - keep // 3 :]


def wrap(text: str, indent: int = 4, first: str = "") -> list[str]:
    """Fold a paragraph; ``first`` stands before its first line, within the indent."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        # a number stays with its unit: textwrap breaks at ASCII spaces only
        whole = _UNIT.sub("\\1\N{NO-BREAK SPACE}\\2", describe.plain(paragraph))
        lines += textwrap.wrap(
            whole,
            WIDTH,
            initial_indent=(first if not lines else "").ljust(indent),
            subsequent_indent=" " * indent,
        ) or [first.rstrip()]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def sides(left: str, right: str, indent: int = 0) -> str:
    """Put two texts at the two ends of a line, shortening the left one if they do not fit."""
    room = WIDTH - indent - len(right) - 2
    shown = cut(left, max(10, room))
    return cut(" " * indent + shown.ljust(max(10, room)) + "  " + right, WIDTH).rstrip()


def table(rows: Sequence[Sequence[str]], head: Sequence[str], indent: int = 4) -> list[str]:
    """Align rows in columns, numbers to the right; too wide a table loses its inner space."""
    body = [list(head), *(list(r) for r in rows)]
    widths = [max(len(r[i]) for r in body) for i in range(len(head))]
    gap = 2 if sum(widths) + 2 * (len(head) - 1) + indent <= WIDTH else 1
    lines = []
    for row in body:
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(cut(" " * indent + (" " * gap).join(cells), WIDTH).rstrip())
    return lines


def bar(budget: MemoryBudget, growth: int, indent: int = 4, width: int = 40) -> list[str]:
    """Draw a growth of one worker against its limit, with dask's thresholds marked."""
    fill = describe.fill(budget, growth)
    held, upto = round(fill.held * width), round((fill.held + fill.grown) * width)
    if fill.grown > 0:
        upto = max(upto, held + 1)
    cells = ["▒" if i < held else "█" if i < upto else "·" for i in range(width)]
    for mark, _ in fill.marks:
        i = min(width - 1, round(mark * width))
        cells[i] = "┃" if i < upto else "│"
    return [cut(" " * indent + "[" + "".join(cells) + "] " + fill.caption, WIDTH)]


def _limited(items: Sequence[T]) -> tuple[Sequence[T], int]:
    return items[:MOST], max(0, len(items) - MOST)


def more(left: int, what: str) -> list[str]:
    """Say how many things are left out; nothing where there are none."""
    return [f"  … and {describe.counted(left, what)} more, see to_dict()"] if left > 0 else []


def layout_lines(layout: ArrayLayout) -> list[str]:
    """Show how one variable is stored."""
    right = f"{describe.dtypes(layout)}  {format_bytes(layout.nbytes)}"
    lines = [sides(layout.name, right, 2)]
    if layout.dims:
        lines += wrap(describe.dims(layout.sizes))
    facts = [("stored", describe.stored(layout))]
    if layout.shards is not None:
        facts.append(("shards", describe.shards(layout)))
    if layout.format not in ("memory", "dask"):
        facts.append(("codecs", f"{describe.codecs(layout)}  in {layout.format}"))
    if layout.dask_chunks is not None:
        facts.append(("dask", describe.dask_blocks(layout)))
    for name, value in facts:
        lines += wrap(value, 12, f"    {name}")
    if note := describe.misfit(layout):
        lines += wrap(note, 12)
    return lines


def _coord(layout: ArrayLayout) -> str:
    what = f"{describe.chunks(layout)}  {describe.dtypes(layout)}"
    return sides(f"{layout.name} ({describe.dims(layout.sizes)})", what, 4)


def layout_report(report: LayoutReport) -> str:
    """Show how every variable is stored."""
    data, coords = describe.grouped(report)
    total = format_bytes(sum(a.nbytes for a in (*data, *coords)))
    counts = (describe.counted(len(data), "variable"), describe.counted(len(coords), "coordinate"))
    what = ", ".join(counts)
    lines = [sides(f"xchunk layout of {report.source or 'a Dataset'}", f"{what}, {total}")]
    shown, left = _limited(data)
    for layout in shown:
        lines += ["", *layout_lines(layout)]
    lines += more(left, "variable")
    if coords:
        shown, left = _limited(coords)
        lines += ["", "  coordinates", *(_coord(c) for c in shown), *more(left, "coordinate")]
    return "\n".join(lines)


def accessor(report: LayoutReport) -> str:
    """Show the accessor: the layout, and what can be asked for next."""
    asks = ".layout() .budget() .suggest(access=…) .plan(store=…) .apply(store=…)"
    return f"{layout_report(report)}\n\n  {asks}"


def memory_budget(budget: MemoryBudget) -> str:
    """Show what one worker may take."""
    lines = ["xchunk memory budget"]
    for name, value in describe.budget_facts(budget):
        lines += wrap(value, 26, f"    {name}")
    if budget.memory is not None:
        lines += ["", *bar(budget, budget.max_mem)]
        marks = ", ".join(f"{mark:.0%} {name}" for mark, name in describe.MARKS)
        lines.append(cut(f"    dask's thresholds: {marks}", WIDTH))
    return "\n".join(lines)


def suggested_lines(v: VariableSuggestion, budget: MemoryBudget | None) -> list[str]:
    """Show what to do with one variable, and why."""
    lines = [sides(v.name, describe.ACTIONS[v.action], 2)]
    for name, value in describe.suggestion_facts(v, budget):
        lines += wrap(value, 18, f"    {name}")
    if budget is not None:
        (drawn,) = bar(budget, describe.growth(v, budget), indent=18, width=30)
        lines.append("    memory" + drawn[10:])
    lines += wrap(v.why, 18, "    why") if v.why else []
    return lines


def suggestion(s: Suggestion) -> str:
    """Show what to do with each variable, and why."""
    budget = s.budget
    lines = [sides(f"xchunk suggestion for {s.access}", describe.ACTIONS[s.action])]
    threads = describe.counted(budget.threads, "task")
    grows = f"a worker may grow by {format_bytes(budget.max_mem)}, {threads} at once"
    lines += wrap(grows, 2)
    variables = sorted(s.variables.values(), key=lambda v: -v.layout.nbytes)
    data = [v for v in variables if not v.layout.is_coord]
    shown, left = _limited(data or variables)
    for v in shown:
        lines += ["", *suggested_lines(v, budget)]
    lines += more(left, "variable")
    coords = len(variables) - len(data) if data else 0
    if coords:
        lines += ["", f"  {describe.counted(coords, 'coordinate')} as well, see .variables"]
    return "\n".join(lines)


def plan_lines(array: ArrayPlan) -> list[str]:
    """Show what a rechunk does with one variable, as its stages."""
    lines = [sides(array.name, f"{array.family}  {format_bytes(array.nbytes)}", 2)]
    nodes = captions.flow_nodes(array)
    for i, node in enumerate(nodes):
        lines += wrap(", ".join(filter(None, (node.chunks, node.parts))), 13, f"    {node.title}")
        if i < len(array.stages):
            told = captions.arrow(array.stages[i], array.threads)
            lines += [f"{m:>7}      {', '.join(t)}" for m, t in zip("││▼", told, strict=True)]
    if array.runner_up:
        lines += wrap(array.runner_up)
    return [cut(line, WIDTH) for line in lines]


def _small(arrays: Iterable[ArrayPlan]) -> str:
    names = ", ".join(describe.plain(a.name) for a in arrays)
    return f"copied in one piece: {names}"


def rechunk_plan(plan: RechunkPlan) -> str:
    """Show what a rechunk would do: stages, boxes, bytes, objects and peak."""
    lines = [sides(f"xchunk plan to {plan.target or 'a store'}", format_bytes(plan.nbytes))]
    work = plan.work
    facts = [
        describe.counted(plan.tasks, "task"),
        describe.counted(work.decodes, "decode"),
        f"{describe.counted(work.objects, 'object')} written",
        f"about {format_seconds(plan.seconds)}",
    ]
    if plan.scratch_nbytes:
        facts.append(f"{format_bytes(plan.scratch_nbytes)} of scratch")
    lines += wrap(", ".join(facts), 2)
    lines += bar(plan.budget, plan.projected_mem, 2)
    arrays = sorted(plan.arrays, key=lambda a: -a.nbytes)
    large = [a for a in arrays if not describe.is_plain(a)]
    shown, left = _limited(large)
    for array in shown:
        lines += ["", *plan_lines(array)]
    lines += more(left, "array")
    small = [a for a in arrays if describe.is_plain(a)]
    if small:
        lines += ["", *wrap(_small(small), 2)]
    for note in plan.notes:
        lines += ["", *wrap(note, 4, "  -")]
    return "\n".join(lines)


def finding_lines(f: Finding) -> list[str]:
    """Show one finding of a check."""
    word = describe.SEVERITY_WORDS[f.severity]
    lines = [sides(f"{word:<9}{f.variable or 'all variables'}", f.code, 2)]
    return [*lines, *wrap(f.message), *wrap(f.consequence), *wrap(f.remedy, 6, "    →")]


def check_report(report: CheckReport) -> str:
    """Show what a check found: what it is, what it leads to, and what to do."""
    of = f"xchunk check of {report.source or 'a Dataset'}"
    lines = [sides(of, describe.check_counts(report))]
    shown, left = _limited(report.findings)
    for found in shown:
        lines += ["", *finding_lines(found)]
    lines += more(left, "finding")
    return "\n".join(lines)


def measured_rates(rates: MeasuredRates) -> str:
    """Show what a probe measured, and what it says."""
    read = f"{describe.counted(rates.samples, 'sample')}, {format_bytes(rates.nbytes)}"
    lines = [sides(f"xchunk probe of {rates.variable} ({rates.format})", read)]
    for name, value in describe.measured_facts(rates):
        lines += wrap(value, 26, f"    {name}")
    return "\n".join([*lines, "", *wrap(rates.why, 2)])


def rechunk_comparison(c: RechunkComparison) -> str:
    """Show what each way to other chunks takes."""
    lines = [sides(f"xchunk rechunk of {c.variable}", format_bytes(c.nbytes))]
    lines += wrap(f"blocks of {c.before} → {c.after}", 2)
    head, rows = describe.rechunk_rows(c)
    return "\n".join([*lines, "", *table(rows, head, 2), "", *wrap(describe.rechunk_says(c), 2)])
