"""Reports as HTML for notebooks and pages: everything escaped, nothing external."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xchunk.core.findings import CheckReport, Finding
from xchunk.core.layout import ArrayLayout
from xchunk.core.measured import MeasuredRates
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import ArrayPlan, RechunkPlan
from xchunk.core.rechunking import RechunkComparison
from xchunk.core.suggest import Suggestion, VariableSuggestion
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.formatting import describe, drawing
from xchunk.formatting.style import card, esc, pairs, table

if TYPE_CHECKING:
    from xchunk.storage.layouts import LayoutReport

__all__ = [
    "accessor",
    "bar",
    "check_report",
    "layout_report",
    "measured_rates",
    "memory_budget",
    "rechunk_comparison",
    "rechunk_plan",
    "suggestion",
]

#: Variables shown, at the most, and drawn.
MOST, DRAWN = 200, 3

_COLUMNS = (
    "variable",
    "dims",
    "dtype",
    "stored chunks",
    "shards",
    "codecs",
    "chunk",
    "chunks",
    "dask",
)


def bar(budget: MemoryBudget, growth: int) -> str:
    """Draw a growth of one worker against its limit, with dask's thresholds marked."""
    fill = describe.fill(budget, growth)
    parts = [
        f'<i class="h" style="left:0;width:{100 * fill.held:.1f}%"></i>',
        f'<i class="g" style="left:{100 * fill.held:.1f}%;width:{100 * fill.grown:.1f}%"></i>',
        *(
            f'<i class="m" style="left:{100 * mark:.1f}%" title="{esc(f"{name} {mark:.0%}")}"></i>'
            for mark, name in fill.marks
        ),
    ]
    marks = "; marks at " + ", ".join(f"{m:.0%} {n}" for m, n in fill.marks) if fill.marks else ""
    return (
        f'<div class="xc-bar" role="img" aria-label="{esc(fill.caption)}">{"".join(parts)}</div>'
        f'<div class="xc-dim xc-num">{esc(fill.caption + marks)}</div>'
    )


def _row(layout: ArrayLayout) -> tuple[list[str], str]:
    chunked = layout.chunks is not None
    cells = [
        layout.name,
        describe.dims(layout.sizes),
        describe.dtypes(layout),
        describe.chunks(layout),
        describe.shards(layout),
        "" if layout.format in ("memory", "dask") else describe.codecs(layout),
        format_bytes(layout.chunk_nbytes) if chunked else "",
        format_count(layout.n_chunks) if chunked else "",
        describe.dask_blocks(layout),
    ]
    return cells, describe.misfit(layout)


def _rows(layouts: Sequence[ArrayLayout]) -> str:
    rows = [_row(a) for a in layouts[:MOST]]
    # A column that says nothing for any variable is left out.
    kept = [i for i in range(len(_COLUMNS)) if i == 0 or any(cells[i] for cells, _ in rows)]
    shown = table([_COLUMNS[i] for i in kept], [([c[i] for i in kept], note) for c, note in rows])
    left = len(layouts) - MOST
    return shown + (f"<p>… and {left} more, see to_dict().</p>" if left > 0 else "")


def layout_report(report: LayoutReport, *, style: bool = True) -> str:
    """Show how every variable is stored, and draw the largest ones."""
    data, coords = describe.grouped(report)
    total = format_bytes(sum(a.nbytes for a in (*data, *coords)))
    formats = sorted({a.format for a in (*data, *coords)} - {"memory", "dask"})
    facts = [
        str(report.source),
        f"{describe.counted(len(data), 'variable')}, {describe.counted(len(coords), 'coordinate')}",
        f"{total} in memory",
        ", ".join(formats),
    ]
    body = _rows(data) if data else "<p>No data variables.</p>"
    figures = [drawing.array_layout(a) for a in data[:DRAWN] if describe.is_cut(a)]
    if any(figures):
        body += f'<div class="xc-flex">{"".join(figures)}</div>'
    if coords:
        count = describe.counted(len(coords), "coordinate")
        body += f"<details><summary>{esc(count)}</summary>{_rows(coords)}</details>"
    return card("xchunk layout", facts, body, style=style)


def accessor(report: LayoutReport) -> str:
    """Show the accessor: the layout, and what can be asked for next."""
    asks = (
        "<p class='xc-dim'>Ask next: <code>.suggest(access=…)</code>, <code>.plan(store=…)</code>, "
    )
    asks += "<code>.apply(store=…)</code>, <code>.budget()</code></p>"
    shown = layout_report(report)
    return shown.removesuffix("</div>") + asks + "</div>"


def memory_budget(budget: MemoryBudget, *, style: bool = True) -> str:
    """Show what one worker may take."""
    body = pairs(describe.budget_facts(budget))
    if budget.memory is not None:
        body = bar(budget, budget.max_mem) + body
    return card("xchunk memory budget", [format_bytes(budget.max_mem)], body, style=style)


def _suggested(v: VariableSuggestion, budget: MemoryBudget) -> str:
    facts = [
        *describe.suggestion_facts(v, budget),
        ("one task holds", format_bytes(v.projected_mem)),
    ]
    return (
        f'<div class="xc-card"><div class="xc-name"><b>{esc(v.name)}</b>'
        f'<span class="xc-tag">{esc(describe.ACTIONS[v.action])}</span></div>{pairs(facts)}'
        f"{bar(budget, describe.growth(v, budget))}<p>{esc(v.why)}</p></div>"
    )


def suggestion(s: Suggestion, *, style: bool = True) -> str:
    """Show what to do with each variable, and why."""
    variables = sorted(s.variables.values(), key=lambda v: -v.layout.nbytes)
    data = [v for v in variables if not v.layout.is_coord]
    coords = [v for v in variables if v.layout.is_coord] if data else []
    facts = [
        f"for {s.access}",
        describe.ACTIONS[s.action],
        f"a worker may grow by {format_bytes(s.budget.max_mem)}",
        f"{describe.counted(s.budget.threads, 'task')} at once",
    ]
    shown = (data or variables)[:MOST]
    body = "".join(_suggested(v, s.budget) for v in shown)
    left = len(data or variables) - len(shown)
    if left:
        body += f"<p>… and {left} more, see to_dict().</p>"
    if coords:
        rows = [
            (
                [v.name, describe.ACTIONS[v.action], describe.dim_chunks(v.layout.sizes, v.chunks)],
                "",
            )
            for v in coords[:MOST]
        ]
        count = describe.counted(len(coords), "coordinate")
        listed = table(("coordinate", "action", "chunks"), rows)
        body += f"<details><summary>{esc(count)}</summary>{listed}</details>"
    return card("xchunk suggestion", facts, body, style=style)


def _planned(array: ArrayPlan) -> str:
    facts = describe.work_facts(array)
    stages = [(s, describe.stage_facts(s, array.threads)) for s in array.stages]
    listed = ""
    if stages:
        head = ("stage", *(name for name, _ in stages[0][1]))
        rows = [([describe.STAGES[s.kind], *(v for _, v in f)], "") for s, f in stages]
        listed = table(head, rows)
    why = f'<p class="xc-dim">{esc(array.runner_up)}</p>' if array.runner_up else ""
    return (
        f'<div class="xc-card"><div class="xc-name"><b>{esc(array.name)}</b>'
        f'<span class="xc-tag">{esc(array.family)}</span>'
        f'<span class="xc-dim">{esc(describe.FAMILIES[array.family])}, '
        f"{esc(format_bytes(array.nbytes))}</span></div>{pairs(facts)}{listed}{why}</div>"
    )


def rechunk_plan(plan: RechunkPlan, *, style: bool = True) -> str:
    """Show what a rechunk would do: stages, boxes, bytes, objects and peak."""
    work = plan.work
    facts = [
        f"to {plan.target}" if plan.target else "",
        format_bytes(plan.nbytes),
        describe.counted(plan.tasks, "task"),
        describe.counted(work.decodes, "decode"),
        f"{describe.counted(work.objects, 'object')} written",
        f"{format_bytes(plan.scratch_nbytes)} of scratch" if plan.scratch_nbytes else "",
        f"about {format_seconds(plan.seconds)}",
    ]
    arrays = sorted(plan.arrays, key=lambda a: -a.nbytes)
    large = [a for a in arrays if not describe.is_plain(a)]
    small = [a for a in arrays if describe.is_plain(a)]
    body = bar(plan.budget, plan.projected_mem)
    body += "".join(_planned(a) for a in large[:MOST])
    if len(large) > MOST:
        body += f"<p>… and {len(large) - MOST} more, see to_dict().</p>"
    if small:
        names = ", ".join(a.name for a in small)
        body += f'<p class="xc-dim">Copied in one piece: {esc(names)}</p>'
    body += "".join(f"<p>{esc(note)}</p>" for note in plan.notes)
    return card("xchunk plan", facts, body, style=style)


def _finding(f: Finding) -> str:
    return (
        f'<div class="xc-card"><div class="xc-name"><b>{esc(f.variable or "all variables")}</b>'
        f'<span class="xc-tag">{esc(describe.SEVERITY_WORDS[f.severity])}</span>'
        f'<span class="xc-dim">{esc(f.code)}</span></div>'
        f"<p>{esc(f.message)}</p><p>{esc(f.consequence)}</p><p><code>{esc(f.remedy)}</code></p></div>"
    )


def check_report(report: CheckReport, *, style: bool = True) -> str:
    """Show what a check found: what it is, what it leads to, and what to do."""
    shown = report.findings[:MOST]
    body = "".join(_finding(f) for f in shown)
    left = len(report) - len(shown)
    body += f"<p>… and {left} more, see to_dict().</p>" if left else ""
    facts = [report.source, describe.check_counts(report)]
    return card("xchunk check", facts, body, style=style)


def measured_rates(rates: MeasuredRates, *, style: bool = True) -> str:
    """Show what a probe measured, and what it says."""
    facts = [
        f"{rates.variable} ({rates.format})",
        f"{describe.counted(rates.samples, 'sample')}, {format_bytes(rates.nbytes)}",
    ]
    body = pairs(describe.measured_facts(rates)) + f"<p>{esc(rates.why)}</p>"
    return card("xchunk probe", facts, body, style=style)


def rechunk_comparison(c: RechunkComparison, *, style: bool = True) -> str:
    """Show what each way to other chunks takes."""
    head, rows = describe.rechunk_rows(c)
    facts = [c.variable, format_bytes(c.nbytes), f"{c.before} → {c.after}"]
    body = table(("way", *head[1:]), [(row, "") for row in rows])
    body += f"<p>{esc(describe.rechunk_says(c))}</p>"
    return card("xchunk rechunk", facts, body, style=style)
