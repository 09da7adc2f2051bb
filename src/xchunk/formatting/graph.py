"""A graph as text and as HTML: its layers, what stands out, and what other chunks would do."""

from __future__ import annotations

from xchunk.core.graphs import GraphReport, Layer
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.formatting import describe
from xchunk.formatting.html import bar as html_bar
from xchunk.formatting.style import card, esc, pairs, table
from xchunk.formatting.text import bar as text_bar
from xchunk.formatting.text import sides, wrap
from xchunk.formatting.text import table as text_table

__all__ = ["graph_html", "graph_text"]

#: Layers shown, at the most; ``to_dict`` has all of them.
MOST = 40

_HEAD = ("chunks", "one block", "input tasks", "tasks", "scheduling")


def _facts(r: GraphReport) -> list[tuple[str, str]]:
    about = "" if r.part == 1 else "about "
    out = [
        ("tasks", f"{format_count(r.tasks)}, fused {about}{format_count(r.run_tasks)}"),
        ("input tasks", format_count(r.input_tasks)),
        ("output blocks", format_count(r.outputs)),
        ("longest chain", describe.counted(r.critical, "task")),
    ]
    if r.nbytes_in is not None:
        out.append(("bytes in", f"{about if r.nbytes_in else ''}{format_bytes(r.nbytes_in)}"))
    out.append(("bytes out", format_bytes(r.nbytes_out)))
    if r.prediction is not None:
        out.append(("predicted peak", f"{about}{format_bytes(r.prediction.peak)}"))
        out.append(("predicted time", f"{about}{format_seconds(r.prediction.seconds)}"))
    return out


def _merged(layers: tuple[Layer, ...]) -> list[tuple[str, str, str]]:
    """Name, tasks and sentence of each layer; neighbours that only map are one."""
    out: list[tuple[str, str, str]] = []
    run: list[Layer] = []
    for layer in (*layers, None):
        if layer is not None and layer.role == "map" and (not run or run[0].tasks == layer.tasks):
            run.append(layer)
            continue
        if len(run) > 2:
            names = f"{run[0].name} … {run[-1].name}"
            said = f"{len(run)} layers of one task for each block before; fused where they can be."
            out.append((names, format_count(sum(v.tasks for v in run)), said))
        else:
            out += [(v.name, format_count(v.tasks), v.sentence) for v in run]
        run = [layer] if layer is not None and layer.role == "map" else []
        if layer is not None and not run:
            out.append((layer.name, format_count(layer.tasks), layer.sentence))
    return out


def _sizes(r: GraphReport) -> list[list[str]]:
    rows = []
    for s in r.sizes:
        about = "" if s.exact or s.factor == 1 else "~"
        rows.append(
            [
                {0.5: "×½"}.get(s.factor, f"×{s.factor:g}"),
                format_bytes(s.block) if s.block else "",
                about + format_count(s.input_tasks),
                about + format_count(s.tasks),
                format_seconds(s.scheduling),
            ]
        )
    return rows


def graph_text(r: GraphReport) -> str:
    """Show what a graph holds."""
    lines = [sides(f"xchunk graph of {r.source}", describe.counted(r.tasks, "task"))]
    for name, value in _facts(r):
        lines += wrap(value, 20, f"    {name}")
    if r.prediction is not None and r.budget is not None and r.budget.memory is not None:
        lines += text_bar(r.budget, r.prediction.peak)
    shown = _merged(r.layers)
    lines += ["", sides("layers, inputs first", "tasks", 2)]
    for name, tasks, sentence in shown[:MOST]:
        lines += [sides(name, tasks, 4), *wrap(sentence, 6)]
    if len(shown) > MOST:
        lines.append(f"    … and {len(shown) - MOST} more, see to_dict()")
    if r.sizes:
        lines += ["", *text_table(_sizes(r), _HEAD)]
    for said in r.says:
        lines += ["", *wrap(said, 4, "  -")]
    for note in r.notes:
        lines += ["", *wrap(f"{note[0].upper()}{note[1:]}.", 4, "  *")]
    return "\n".join(lines)


def graph_html(r: GraphReport, *, style: bool = True) -> str:
    """Show what a graph holds."""
    facts = [r.source, describe.counted(r.tasks, "task"), describe.counted(len(r.layers), "layer")]
    body = pairs(_facts(r))
    if r.prediction is not None and r.budget is not None and r.budget.memory is not None:
        body += html_bar(r.budget, r.prediction.peak)
    body += "".join(f"<p>{esc(said)}</p>" for said in r.says)
    shown = _merged(r.layers)
    body += table(("layer", "tasks"), [([n, t], said) for n, t, said in shown[:MOST]])
    if len(shown) > MOST:
        body += f"<p>… and {len(shown) - MOST} more, see to_dict().</p>"
    if r.sizes:
        body += table(_HEAD, [(row, "") for row in _sizes(r)])
    body += "".join(f'<p class="xc-dim">{esc(note)}</p>' for note in r.notes)
    return card("xchunk graph", facts, body, style=style)
