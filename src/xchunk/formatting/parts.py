"""Small reports, and parts of larger ones: each is told once, and shown as text and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xchunk.core.findings import Finding
from xchunk.core.layout import ArrayLayout
from xchunk.core.plan import ArrayPlan
from xchunk.core.suggest import VariableSuggestion
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.core.workload import Prediction
from xchunk.formatting import describe, html, style, text

if TYPE_CHECKING:
    from xchunk.cleaning import Cleaning
    from xchunk.proof import Proof

__all__ = [
    "Sheet",
    "cleaning_html",
    "cleaning_text",
    "finding_html",
    "finding_text",
    "layout_html",
    "layout_text",
    "plan_html",
    "plan_text",
    "prediction_html",
    "prediction_text",
    "proof_html",
    "proof_text",
    "sheet_html",
    "sheet_text",
    "variable_html",
    "variable_text",
]

#: Items of a list that are shown, at the most.
MOST = 40


@dataclass(frozen=True)
class Sheet:
    """A report of a few facts: all of it plain text."""

    title: str
    """What it is."""
    of: str
    """What it is of."""
    right: str = ""
    """What sums it up; stands at the end of the first line."""
    facts: tuple[tuple[str, str], ...] = ()
    """Facts by name."""
    said: tuple[str, ...] = ()
    """Paragraphs."""
    head: tuple[str, ...] = ()
    """Columns of a table."""
    rows: tuple[tuple[str, ...], ...] = ()
    """The table's rows."""
    items: tuple[str, ...] = field(default=())
    """A list, such as of names; shown up to its first `MOST`."""


def sheet_text(sheet: Sheet) -> str:
    """Show a sheet as text of at most 80 columns."""
    of = f"{sheet.title} of {sheet.of}" if sheet.of else sheet.title
    lines = [text.sides(of, sheet.right)]
    indent = 6 + max((len(name) for name, _ in sheet.facts), default=0)
    for name, value in sheet.facts:
        lines += text.wrap(value, indent, f"    {name}")
    if sheet.rows:
        lines += ["", *text.table(sheet.rows, sheet.head, 4)]
    for paragraph in sheet.said:
        lines += ["", *text.wrap(paragraph, 2)]
    lines += [text.cut(f"    {item}", text.WIDTH) for item in sheet.items[:MOST]]
    return "\n".join([*lines, *text.more(len(sheet.items) - MOST, "item")])


def sheet_html(sheet: Sheet, *, style: bool = True) -> str:
    """Show a sheet as HTML."""
    body = _pairs(sheet.facts) if sheet.facts else ""
    if sheet.rows:
        body += _table(sheet.head, ((list(row), "") for row in sheet.rows))
    body += "".join(f"<p>{_esc(paragraph)}</p>" for paragraph in sheet.said)
    if sheet.items:
        shown = "".join(f"<li>{_esc(item)}</li>" for item in sheet.items[:MOST])
        body += f'<ul class="xc">{shown}</ul>' + html.more(len(sheet.items) - MOST)
    return _card(sheet.title, [sheet.of, sheet.right], body, style=style)


_card, _esc, _pairs, _table = style.card, style.esc, style.pairs, style.table


def _views(make: Callable[[Any], Sheet]) -> tuple[Callable[[Any], str], Callable[..., str]]:
    def as_text(report: Any) -> str:
        return sheet_text(make(report))

    def as_html(report: Any, *, style: bool = True) -> str:
        return sheet_html(make(report), style=style)

    return as_text, as_html


def _prediction(p: Prediction) -> Sheet:
    who = "the fullest worker" if p.workers > 1 else "the process"
    threads = describe.counted(p.threads, "thread")
    where = f"{describe.counted(p.workers, 'worker')} of {threads}" if p.workers > 1 else threads
    low, high = p.rss
    facts = [
        ("on", where),
        ("tasks", format_count(p.tasks)),
        ("decodes", f"{describe.counted(p.decodes, 'chunk')}, {format_bytes(p.nbytes_read)}"),
        ("read / needed", describe.times(p.amplification)),
        (f"{who} holds", f"{format_bytes(p.peak)} at its peak"),
        ("grows by", f"{format_bytes(low)}, without malloc trimming up to {format_bytes(high)}"),
        ("takes about", format_seconds(p.seconds)),
        ("longest chain", format_seconds(p.critical)),
    ]
    if p.moved:
        facts.append(("sent between workers", format_bytes(p.moved)))
    if p.gathered:
        facts.append(("gathering adds", format_bytes(p.gathered)))
    rows = tuple(
        (
            r.name,
            format_count(r.requests),
            format_count(r.decodes),
            format_bytes(r.nbytes),
            describe.times(r.amplification),
        )
        for r in p.reads.values()
    )
    said = list(p.notes)
    if p.scaled > 1.01:
        said.append(f"predicted from data {p.scaled:.0f} times smaller")
    head = ("read", "requests", "decodes", "bytes", "read / needed")
    return Sheet("xchunk prediction", "", "not run", tuple(facts), tuple(said), head, rows)


def _proof(proof: Proof) -> Sheet:
    facts = (
        ("variables", format_count(len(proof.variables))),
        ("compared", f"{format_bytes(proof.nbytes)} in {describe.counted(proof.pieces, 'piece')}"),
    )
    said = ("The store holds what the source holds, bit by bit, metadata included.",)
    return Sheet("xchunk proof", proof.target, "equal", facts, said, items=proof.variables)


def _cleaning(cleaning: Cleaning) -> Sheet:
    would = "would be " if cleaning.dry_run else ""
    facts = [("found", cleaning.found)]
    if cleaning.repaired:
        facts.append(("repaired", f"{cleaning.repaired} {would}put in its place"))
    if cleaning.keys:
        facts.append(
            (f"{would}deleted", describe.counted(len(cleaning.keys), "object")),
        )
    right = "nothing was done" if cleaning.dry_run else "done"
    return Sheet("xchunk clean", cleaning.target, right, tuple(facts), items=cleaning.keys)


prediction_text, prediction_html = _views(_prediction)
proof_text, proof_html = _views(_proof)
cleaning_text, cleaning_html = _views(_cleaning)


def _in_card(title: str, facts: Iterable[str], body: str, style: bool) -> str:
    return _card(title, facts, body, style=style)


def layout_text(layout: ArrayLayout) -> str:
    """Show how one variable is stored."""
    return "\n".join(["xchunk layout of a variable", *text.layout_lines(layout)])


def layout_html(layout: ArrayLayout, *, style: bool = True) -> str:
    """Show how one variable is stored, and draw it."""
    facts = [layout.name, format_bytes(layout.nbytes) + " in memory", layout.format]
    body = html.rows((layout,)) + html.layout_figures(layout, (layout,))
    return _in_card("xchunk layout", facts, body, style)


def plan_text(array: ArrayPlan) -> str:
    """Show what a rechunk does with one variable."""
    return "\n".join(["xchunk plan of a variable", *text.plan_lines(array)])


def plan_html(array: ArrayPlan, *, style: bool = True) -> str:
    """Show what a rechunk does with one variable."""
    return _in_card("xchunk plan", [array.name], html.planned(array), style)


def finding_text(finding: Finding) -> str:
    """Show one finding of a check."""
    return "\n".join(["xchunk finding", *text.finding_lines(finding)])


def finding_html(finding: Finding, *, style: bool = True) -> str:
    """Show one finding of a check."""
    return _in_card("xchunk finding", [], html.finding(finding), style)


def variable_text(v: VariableSuggestion) -> str:
    """Show what to do with one variable, and why."""
    return "\n".join(["xchunk suggestion for a variable", *text.suggested_lines(v, None)])


def variable_html(v: VariableSuggestion, *, style: bool = True) -> str:
    """Show what to do with one variable, and why."""
    return _in_card("xchunk suggestion", [], html.suggested(v, None, ()), style)
