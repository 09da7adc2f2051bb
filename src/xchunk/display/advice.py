"""What a suggestion says: the verdict and a table first, the reasons where they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest.access import AccessPattern
from xchunk.core.suggest.lazy_pass import item_nbytes
from xchunk.core.suggest.suggestion import (
    Suggestion,
    VariableSuggestion,
    counted_passes,
    more_memory,
    needs_format_3,
)
from xchunk.core.types import DimChunk
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.display import drawing
from xchunk.display.document import (
    Bar,
    Block,
    Card,
    Code,
    Document,
    Drawn,
    Either,
    Facts,
    Figure,
    Fold,
    Many,
    Paragraph,
    Table,
)
from xchunk.display.phrases import (
    ACTIONS,
    SMALL,
    after,
    chunks,
    counted,
    dim_chunks,
    fill,
    growth,
    lengths,
    listed,
    names_of,
    request_of,
    times,
)

#: Variables that are drawn.
_DRAWN = 3
#: Names of alike variables that are all in sight; more can be unfolded.
_NAMED = 6
#: What each action is called in a table.
_SHORT = {"load": "load", "chunk": "chunk", "stage": "rechunk"}


def suggestion(
    s: Suggestion, *, details: bool = False, steps: Sequence[Block] | None = None
) -> Document:
    """What to do with each variable, and what it brings.

    - ``s``: the suggestion.
    - ``details``: whether all that is known of each variable is said, with the reasons.
    - ``steps``: how to follow it; with Python by default.
    """
    ordered = sorted(s.variables.values(), key=lambda v: -v.layout.nbytes)
    small = [v for v in ordered if v.action == "load" and v.layout.nbytes <= SMALL]
    if len(small) == len(ordered):
        small = [v for v in ordered if v.layout.is_coord and len(small) > 1]
    large = [v for v in ordered if v not in small] or ordered
    groups = _alike(large)
    brief: list[Block] = [Paragraph("No variables.")]
    if groups:
        brief = [_table(groups, s), *_verdict(s, large)]
    full = [_advised(group[0], s.budget, name=names_of(v.name for v in group)) for group in groups]
    text: list[Block] = [*full] if details else brief
    if small and large is not ordered:
        names = listed([v.name for v in small])
        text.append(Paragraph(f"{counted(len(small), 'small variable')}, to load: {names}"))
    notes = [Paragraph(note, mark="-") for note in s.notes]
    steps = _in_python(s) if steps is None else steps
    body: list[Block] = [
        Either(text=text, html=_in_html(s, ordered)),
        *notes,
        Either(text=[] if details else steps),
    ]
    grows = f"a worker may grow by {format_bytes(s.budget.max_mem)}"
    at_once = f"{counted(s.budget.threads, 'task')} at once"
    return Document(
        "xchunk suggestion", f"for {s.access}", ACTIONS[s.action], (grows, at_once), body
    )


def variable_suggestion(v: VariableSuggestion) -> Document:
    """What to do with one variable, and why."""
    card = _advised(v, None, drawn=Drawn(lambda: _before_and_after(v, ())))
    return card.alone("xchunk suggestion")


# ---- in short -----------------------------------------------------------------------------


def _alike(found: Sequence[VariableSuggestion]) -> list[list[VariableSuggestion]]:
    """Gather variables that differ in their names only."""

    def bare(v: VariableSuggestion) -> VariableSuggestion:
        return replace(v, layout=replace(v.layout, name="", packing=None, fill_value=None))

    groups: list[tuple[VariableSuggestion, list[VariableSuggestion]]] = []
    for v in found:
        same = next((group for one, group in groups if one == bare(v)), None)
        if same is None:
            groups.append((bare(v), [v]))
        else:
            same.append(v)
    return [group for _, group in groups]


def _table(groups: Sequence[Sequence[VariableSuggestion]], s: Suggestion) -> Table:
    """One row for all variables that are alike."""
    is_scan = all(_is_scan(v, s.patterns) for v, *_ in groups)
    rows = []
    for group in groups:
        v = group[0]
        decoded, then = _decoded(v, s.patterns)
        rows.append(
            (
                names_of([one.name for one in group], 12),
                _SHORT[v.action],
                _cut(v),
                _change(format_bytes(decoded), then and format_bytes(then)),
                format_bytes(growth(v, s.budget)),
                _pass_time(v),
            )
        )
    asked = "a pass reads" if is_scan else "a request reads"
    # a row of several that are alike tells the time of one
    each = "a pass of each" if any(len(group) > 1 for group in groups) else "a pass takes"
    head = ("variable", "action", "chunks", asked, "memory", each)
    told = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return Table([head[i] for i in told], [[row[i] for i in told] for row in rows])


def _cut(v: VariableSuggestion) -> str:
    """The chunks to store, or the blocks of dask."""
    if v.action == "load":
        return "whole"
    if v.action == "stage":
        return lengths(v.target_chunks) + ("" if v.target_shards is None else " in shards")
    return lengths(_length(v.chunks[d], n) for d, n in v.layout.sizes.items())


def _length(chunk: DimChunk, size: int) -> int:
    return max(chunk) if isinstance(chunk, tuple) else size if chunk == -1 else min(chunk, size)


def _change(now: str, then: str | int | None) -> str:
    return f"{now} → {then}" if then else now


def _pass_time(v: VariableSuggestion) -> str:
    if v.action == "load" or (v.seconds_now is None and v.seconds_after is None):
        return ""
    now = "does not fit" if v.seconds_now is None else format_seconds(v.seconds_now)
    then = v.seconds_after if v.action == "stage" else None
    return _change(now, None if then is None else format_seconds(then))


def _is_scan(v: VariableSuggestion, patterns: Sequence[AccessPattern]) -> bool:
    return all(p.on(v.layout).is_scan for p in patterns)


def _decoded(v: VariableSuggestion, patterns: Sequence[AccessPattern]) -> tuple[int, int | None]:
    """Bytes that one request decodes (a pass, where there is none), now and once rechunked."""
    if _is_scan(v, patterns):
        whole = v.layout.nbytes
        return round(whole * v.read_amplification), whole if v.action == "stage" else None
    now = _request_nbytes(v.layout, patterns)
    return now, _request_nbytes(after(v), patterns) if v.action == "stage" else None


def _request_nbytes(layout: ArrayLayout, patterns: Sequence[AccessPattern]) -> int:
    """Bytes that one request at any place decodes, averaged over the uses by their weights."""
    cut = [max(c) if isinstance(c, tuple) else c for c in layout.chunks or (1,) * layout.ndim]
    total = 0.0
    for p in patterns:
        needs = zip(p.on(layout).request_shape(layout), cut, layout.shape, strict=True)
        total += p.weight * math.prod(min(n, need + max(1, c) - 1) for need, c, n in needs)
    return round(total * item_nbytes(layout.dtype))


def _verdict(s: Suggestion, found: Sequence[VariableSuggestion]) -> list[Block]:
    """Say in a sentence or two what the advice costs and brings."""
    main = next((v for v in found if v.action == s.action), None)
    if main is None:
        return []
    if s.action == "load":
        said = "One thread loads it faster than dask would run its tasks."
    elif s.action == "stage":
        staged = [v for v in found if v.action == "stage"]
        took = format_seconds(sum(v.rechunk_seconds or 0 for v in staged))
        said = f"The rechunk takes about {took}"
        if len(staged) > 1:
            said = f"The rechunk of all {len(staged)} takes about {took}"
        if main.break_even_passes is not None:
            said += f", and has paid off after {counted_passes(main.break_even_passes)}"
        said += "."
    elif main.read_amplification > 1.05:
        said = f"A pass decodes every stored chunk {main.read_amplification:.3g} times."
        if main.runner_up:
            said += f" The alternative: {main.runner_up}."
    else:
        said = "A pass decodes every stored chunk once."
    if s.action == "chunk" and main.tasks < s.budget.slots:
        said += f" Only {counted(main.tasks, 'thread')} of {s.budget.slots} has work."
    if 1 <= s.threads < s.budget.threads and s.action != "load":
        said += f" It needs workers with {counted(s.threads, 'thread')}."
    if any(v.close_call for v in found):
        said += " A close call: times are predicted to a factor of 2."
    return [Paragraph(said)]


def _in_python(s: Suggestion) -> list[Block]:
    """How to follow the advice in Python."""
    three = ", zarr_format=3" if needs_format_3(s.variables.values()) else ""
    code = {
        "load": "ds = ds.load()",
        "chunk": "ds = ds.chunking.apply(suggestion)",
        "stage": f'ds = ds.chunking.apply(suggestion, store="rechunked.zarr"{three})',
    }[s.action]
    more = more_memory(s) if s.action == "stage" else ""
    return [
        *([Paragraph(more)] if more else [Paragraph("Next:"), Code(code)]),
        Paragraph("Reasons: print(suggestion.details()). All numbers: .to_dict()", dim=True),
    ]


# ---- in full ------------------------------------------------------------------------------


def _in_html(s: Suggestion, ordered: Sequence[VariableSuggestion]) -> list[Block]:
    data = [v for v in ordered if not v.layout.is_coord]
    coords = [v for v in ordered if v.layout.is_coord] if data else []
    groups = _alike(data or ordered)

    def names_in(group: Sequence[VariableSuggestion]) -> list[str]:
        return [v.name for v in group]

    def card(i: int, group: list[VariableSuggestion]) -> Card:
        v = group[0]
        drawn = Drawn(lambda: _before_and_after(v, s.patterns)) if i < _DRAWN else None
        found = _advised(v, s.budget, drawn=drawn, name=names_of(names_in(group)))
        if len(group) > 1:
            names: Block = Paragraph(", ".join(names_in(group)))
            if len(group) > _NAMED:
                names = Fold(counted(len(group), "variable"), [names])
            found = replace(found, body=[names, *found.body])
        return found

    body: list[Block] = [Many(groups, card, "variable")]
    if coords:
        rows = [(v.name, ACTIONS[v.action], dim_chunks(v.layout.sizes, v.chunks)) for v in coords]
        table = Table(("coordinate", "action", "chunks"), rows)
        body.append(Fold(counted(len(coords), "coordinate"), [table]))
    return body


def _advised(
    v: VariableSuggestion,
    budget: MemoryBudget | None,
    *,
    drawn: Drawn | None = None,
    name: str = "",
) -> Card:
    """What to do with one variable, and why; with drawings of before and after."""
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
    if v.action != "load":
        tasks = f"{format_count(v.tasks)} a pass"
        if budget is not None and 1 <= v.threads < budget.threads:
            tasks += f", on {v.threads} of {counted(budget.threads, 'thread')}"
        spans = [
            ("as it is", v.seconds_now),
            ("rechunked", v.seconds_after),
            ("the rechunk itself", v.rechunk_seconds),
        ]
        known = [f"{name} {format_seconds(t)}" for name, t in spans if t is not None]
        facts += [("tasks", tasks), *([("a pass takes", ", ".join(known))] if known else [])]
    facts.append(("a task holds", format_bytes(v.projected_mem)))
    body: list[Block] = [Facts(facts)]
    if budget is not None:
        body.append(Bar(fill(budget, growth(v, budget)), label="memory"))
    if drawn is not None and v.action != "load" and v.layout.size:
        body.append(drawn)
    if v.why:
        body.append(Paragraph(v.why, label="why"))
    return Card(name or v.name, body, ACTIONS[v.action])


def _before_and_after(
    v: VariableSuggestion, patterns: Sequence[AccessPattern]
) -> list[Figure | None]:
    pattern = max(patterns, key=lambda p: p.weight, default=None)
    own = None if pattern is None else pattern.on(v.layout)
    request = None if own is None or own.is_scan else request_of(own, v.layout)
    before = drawing.array_layout(v.layout, request, title="as it is stored")
    if v.action == "stage":
        return [before, drawing.array_layout(after(v), request, title="rechunked")]
    return [before, drawing.array_layout(after(v), title="in the suggested blocks")]
