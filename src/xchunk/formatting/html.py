"""Reports as HTML for notebooks and pages: everything escaped, nothing external."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xchunk.core.access import AccessPattern
from xchunk.core.findings import CheckReport, Finding
from xchunk.core.layout import ArrayLayout
from xchunk.core.measured import MeasuredRates
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import ArrayPlan, RechunkPlan
from xchunk.core.rechunking import RechunkComparison
from xchunk.core.suggest import Suggestion, VariableSuggestion
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.formatting import captions, describe, drawing
from xchunk.formatting.style import card, esc, pairs, table

if TYPE_CHECKING:
    from xchunk.storage.layouts import LayoutReport

__all__ = [
    "accessor",
    "bar",
    "check_report",
    "finding",
    "layout_figures",
    "layout_report",
    "measured_rates",
    "memory_budget",
    "more",
    "planned",
    "rechunk_comparison",
    "rechunk_plan",
    "rows",
    "suggested",
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
    kind = "g w" if "past" in fill.caption else "g"
    held, grown = 100 * fill.held, 100 * fill.grown
    parts = [
        f'<i class="h" style="width:{held:.1f}%"></i>',
        f'<i class="{kind}" style="left:{held:.1f}%;width:{grown:.1f}%"></i>',
        *(f'<i class="m" style="left:{100 * mark:.1f}%"></i>' for mark, _ in fill.marks),
    ]
    marks = "".join(
        f'<span style="left:{100 * mark:.1f}%">{mark:.0%}<br>{esc(name)}</span>'
        for mark, name in fill.marks
    )
    scale = f'<div class="xc-scale">{marks}</div>' if marks else ""
    return (
        f'<div class="xc-memory"><div class="xc-num">{esc(fill.caption)}</div>'
        f'<div class="xc-bar" role="img" aria-label="{esc(fill.caption)}">{"".join(parts)}</div>'
        f"{scale}</div>"
    )


def more(left: int) -> str:
    """Say how many things are left out; nothing where there are none."""
    return f"<p>… and {left} more, see to_dict().</p>" if left > 0 else ""


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


def rows(layouts: Sequence[ArrayLayout]) -> str:
    """Show how variables are stored, one in a row."""
    told = [_row(a) for a in layouts[:MOST]]
    # A column that says nothing for any variable is left out.
    kept = [i for i in range(len(_COLUMNS)) if i == 0 or any(cells[i] for cells, _ in told)]
    kept_rows = [([cells[i] for i in kept], note) for cells, note in told]
    shown = table([_COLUMNS[i] for i in kept], kept_rows, warns=True)
    return shown + more(len(layouts) - MOST)


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
    body = rows(data) if data else "<p>No data variables.</p>"
    drawn = [a for a in data[:DRAWN] if describe.is_cut(a)]
    if drawn:
        # what requests touch is shown for the largest one
        body += layout_figures(drawn[0], (*data, *coords))
        body += _figures([drawing.array_layout(a, title=a.name) for a in drawn[1:]])
    if coords:
        count = describe.counted(len(coords), "coordinate")
        body += f"<details><summary>{esc(count)}</summary>{rows(coords)}</details>"
    return card("xchunk layout", facts, body, style=style)


def layout_figures(layout: ArrayLayout, layouts: Sequence[ArrayLayout]) -> str:
    """Draw a variable, and what one request of each use touches; dims are found in ``layouts``."""
    drawn = [drawing.array_layout(layout, title="as it is stored")]
    if layout.chunks is not None and layout.n_chunks > 1:
        for use in captions.uses(layouts, layout):
            title = f"{use.name}: {', '.join(use.whole)} whole"
            request = captions.request_of(use, layout)
            drawn.append(drawing.array_layout(layout, request, title=title, named=False))
    return _figures(drawn)


def _figures(drawn: Sequence[str]) -> str:
    return f'<div class="xc-flex">{"".join(drawn)}</div>' if any(drawn) else ""


def accessor(report: LayoutReport, *, style: bool = True) -> str:
    """Show the accessor: the layout, and what can be asked for next."""
    asks = (
        "<p class='xc-dim'>Ask next: <code>.suggest(access=…)</code>, <code>.plan(store=…)</code>, "
    )
    asks += "<code>.apply(store=…)</code>, <code>.budget()</code></p>"
    shown = layout_report(report, style=style)
    return shown.removesuffix("</div>") + asks + "</div>"


def memory_budget(budget: MemoryBudget, *, style: bool = True) -> str:
    """Show what one worker may take."""
    body = pairs(describe.budget_facts(budget))
    if budget.memory is not None:
        body = bar(budget, budget.max_mem) + body
    return card("xchunk memory budget", [format_bytes(budget.max_mem)], body, style=style)


def suggested(
    v: VariableSuggestion,
    budget: MemoryBudget | None,
    patterns: Sequence[AccessPattern],
    *,
    drawn: bool = True,
) -> str:
    """Show what to do with one variable, and why; with drawings of before and after."""
    facts = [
        *describe.suggestion_facts(v, budget),
        ("one task holds", format_bytes(v.projected_mem)),
    ]
    held = "" if budget is None else bar(budget, describe.growth(v, budget))
    return (
        f'<div class="xc-card"><div class="xc-name"><b>{esc(v.name)}</b>'
        f'<span class="xc-tag">{esc(describe.ACTIONS[v.action])}</span></div>{pairs(facts)}{held}'
        f"{_before_and_after(v, patterns) if drawn else ''}<p>{esc(v.why)}</p></div>"
    )


def _before_and_after(v: VariableSuggestion, patterns: Sequence[AccessPattern]) -> str:
    if v.action == "load" or not v.layout.size:
        return ""
    pattern = max(patterns, key=lambda p: p.weight, default=None)
    own = None if pattern is None else pattern.on(v.layout)
    request = None if own is None or own.is_scan else captions.request_of(own, v.layout)
    then = captions.after(v)
    figures = [drawing.array_layout(v.layout, request, title="as it is stored")]
    if v.action == "stage":
        figures.append(drawing.array_layout(then, request, title="rechunked"))
    else:
        figures.append(drawing.array_layout(then, title="in the suggested blocks"))
    return _figures(figures)


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
    body = "".join(suggested(v, s.budget, s.patterns, drawn=i < DRAWN) for i, v in enumerate(shown))
    body += more(len(data or variables) - len(shown))
    if coords:
        told = [
            (
                [v.name, describe.ACTIONS[v.action], describe.dim_chunks(v.layout.sizes, v.chunks)],
                "",
            )
            for v in coords[:MOST]
        ]
        count = describe.counted(len(coords), "coordinate")
        listed = table(("coordinate", "action", "chunks"), told)
        body += f"<details><summary>{esc(count)}</summary>{listed}</details>"
    return card("xchunk suggestion", facts, body, style=style)


def planned(array: ArrayPlan, *, drawn: bool = True) -> str:
    """Show what a rechunk does with one variable: its stages, drawn or as a table."""
    stages = [(s, describe.stage_facts(s, array.threads)) for s in array.stages]
    shown = drawing.flow(array) if drawn else ""
    if stages and not shown:
        head = ("stage", *(name for name, _ in stages[0][1]))
        told = [([describe.STAGES[s.kind], *(v for _, v in f)], "") for s, f in stages]
        shown = pairs(describe.work_facts(array)) + table(head, told)
    why = f'<p class="xc-dim">{esc(array.runner_up)}</p>' if array.runner_up else ""
    return (
        f'<div class="xc-card"><div class="xc-name"><b>{esc(array.name)}</b>'
        f'<span class="xc-tag">{esc(array.family)}</span>'
        f'<span class="xc-dim">{esc(describe.FAMILIES[array.family])}, '
        f"{esc(format_bytes(array.nbytes))}</span></div>{shown}{why}</div>"
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
    body += "".join(planned(a, drawn=i < DRAWN) for i, a in enumerate(large[:MOST]))
    body += more(len(large) - MOST)
    if small:
        names = ", ".join(a.name for a in small)
        body += f'<p class="xc-dim">Copied in one piece: {esc(names)}</p>'
    body += "".join(f"<p>{esc(note)}</p>" for note in plan.notes)
    return card("xchunk plan", facts, body, style=style)


def finding(f: Finding) -> str:
    """Show one finding of a check."""
    return (
        f'<div class="xc-card"><div class="xc-name"><b>{esc(f.variable or "all variables")}</b>'
        f'<span class="xc-tag{"" if f.severity == "info" else " xc-warn"}">'
        f"{esc(describe.SEVERITY_WORDS[f.severity])}</span>"
        f'<span class="xc-dim">{esc(f.code)}</span></div>'
        f"<p>{esc(f.message)}</p><p>{esc(f.consequence)}</p><p><code>{esc(f.remedy)}</code></p></div>"
    )


def check_report(report: CheckReport, *, style: bool = True) -> str:
    """Show what a check found: what it is, what it leads to, and what to do."""
    shown = report.findings[:MOST]
    body = "".join(finding(f) for f in shown) + more(len(report) - len(shown))
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
    head, told = describe.rechunk_rows(c)
    facts = [c.variable, format_bytes(c.nbytes), f"{c.before} → {c.after}"]
    body = table(("way", *head[1:]), [(row, "") for row in told])
    body += f"<p>{esc(describe.rechunk_says(c))}</p>"
    return card("xchunk rechunk", facts, body, style=style)
