"""What was observed, as text and as HTML: the task stream, the memory, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xchunk.core.diagnosis import Diagnosis, Symptom
from xchunk.core.memory import PAUSE, SPILL, TARGET, TERMINATE
from xchunk.core.observed import Action, Facts, MemorySample, Record, Span, WorkerSeen
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.formatting import describe
from xchunk.formatting.style import card, esc, pairs
from xchunk.formatting.text import sides, wrap

if TYPE_CHECKING:
    from xchunk.diagnose.observe import Observation

__all__ = ["diagnosis_html", "diagnosis_text", "html", "text"]

#: Columns of pixels and lanes of the drawn task stream, at the most.
_COLUMNS, _LANES = 360, 32

#: Width of a drawing, and the height of a lane, in its own units.
_WIDTH, _LANE = 720.0, 12.0

#: Colours of the most common tasks, then of all others; they read on white and on black.
_TASKS = ("#4c8fbd", "#5aa469", "#8f7cc0", "#3aa6a0", "#9a8f4f", "#6f7f9f")
_OTHER = "#8a949e"

#: As on dask's dashboard.
_ACTIONS: dict[Action, tuple[str, str]] = {
    "transfer": ("#d64541", "transfer"),
    "spill": ("#f08a24", "spill to disk and back"),
    "deserialize": ("#9aa5b1", "deserialize"),
}

#: Colours of workers' lines.
_WORKERS = ("#4c8fbd", "#5aa469", "#8f7cc0", "#b5651d", "#3aa6a0", "#c0577a")

_STATES = {
    "compute": "computing",
    "blocked": "asleep in Python code",
    "store": "waiting for the store",
    "file-store": "waiting for a file",
    "codec": "decoding",
    "file-codec": "decoding in a file's library",
    "lock": "waiting for a lock",
    "wait": "waiting",
}

Run = tuple[float, float, str, float]


def _shares(f: Facts) -> list[tuple[str, str]]:
    """How the threads' time was used."""
    out = [("tasks ran", f"{min(1.0, f.compute / f.total):.0%}")]
    if f.transfer:
        out.append(("transfers", f"{min(1.0, f.transfer / f.total):.0%}"))
    if f.spill:
        out.append(("spills", f"{min(1.0, f.spill / f.total):.0%}"))
    return [*out, ("idle", f"{f.idle:.0%}")]


def _doing(f: Facts) -> str:
    """What the tasks' threads did."""
    seen = sorted(((f.doing(s), name) for s, name in _STATES.items()), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in seen if share >= 0.01)


def _facts(record: Record, f: Facts) -> list[tuple[str, str]]:
    threads = describe.counted(record.slots, "thread")
    if record.scheduler == "cluster":
        where = f"{describe.counted(len(record.workers), 'worker')}, {threads}"
    else:
        where = f"{record.scheduler}, {threads}"
    out = [
        ("ran on", where),
        ("tasks", f"{format_count(f.tasks)}, {format_seconds(f.mean)} on average"),
        ("threads' time", ", ".join(f"{name} {share}" for name, share in _shares(f))),
    ]
    if doing := _doing(f):
        out.append(("in tasks", doing))
    if record.memory:
        top = max(record.memory, key=lambda m: m.rss)
        said = format_bytes(top.rss)
        if f.limit:
            said += f" of {format_bytes(f.limit)}"
        if top.managed is not None:
            said += f", {format_bytes(top.managed)} of it managed"
        out.append(("memory at most", said))
    if f.spilled:
        out.append(("spilled", format_bytes(f.spilled)))
    if f.transferred:
        out.append(("transferred", format_bytes(f.transferred)))
    if f.paused:
        out.append(("paused", format_seconds(f.paused)))
    if f.restarts:
        out.append(("workers lost", format_count(f.restarts)))
    return out


def _symptom(s: Symptom) -> list[str]:
    lines = ["", sides(s.name, f"{s.share:.0%}" if s.share else "", 2)]
    for sentence in (s.what, s.means, s.remedy):
        lines += wrap(sentence)
    return [*lines, *(f"      {line}"[:80] for line in s.code.splitlines())]


def diagnosis_text(d: Diagnosis) -> str:
    """Show what was found."""
    lines = [f"xchunk diagnosis: {d.title}"]
    for s in d.symptoms:
        lines += _symptom(s)
    for note in d.notes:
        lines += ["", *wrap(note, 4, "  *")]
    return "\n".join(lines)


def text(seen: Observation) -> str:
    """Show what was seen, and what it means."""
    if not seen.ended:
        return "xchunk observation: the block has not ended yet"
    record, f, d = seen.record, seen.facts, seen.explain()
    lines = [sides(f"xchunk observation: {d.title}", format_seconds(f.elapsed))]
    for name, value in _facts(record, f):
        lines += wrap(value, 22, f"    {name}")
    return "\n".join([*lines, *diagnosis_text(d).splitlines()[1:]])


def _found(d: Diagnosis) -> str:
    out = []
    for s in d.symptoms:
        share = f'<span class="xc-dim xc-num">{s.share:.0%}</span>' if s.share else ""
        out.append(
            f'<div class="xc-card"><div class="xc-name"><b>{esc(s.name)}</b>{share}</div>'
            f"<p>{esc(s.what)}</p><p>{esc(s.means)} {esc(s.remedy)}</p>"
            f'<pre style="white-space:pre-wrap;margin:4px 0"><code>{esc(s.code)}</code></pre></div>'
        )
    return "".join(out) + "".join(f'<p class="xc-dim">{esc(n)}</p>' for n in d.notes)


def diagnosis_html(d: Diagnosis, *, style: bool = True) -> str:
    """Show what was found."""
    return card("xchunk diagnosis", [d.title], _found(d), style=style)


def html(seen: Observation, *, style: bool = True) -> str:
    """Show the task stream, the memory, and what they mean."""
    if not seen.ended:
        return card("xchunk observation", ["the block has not ended yet"], "", style=style)
    record, f, d = seen.record, seen.facts, seen.explain()
    body = pairs(_facts(record, f)) + _stream(record) + _memory(record) + _found(d)
    return card("xchunk observation", [d.title, format_seconds(f.elapsed)], body, style=style)


def _stream(record: Record) -> str:
    """Draw what each thread did over time."""
    if not record.spans or record.elapsed <= 0:
        return ""
    colours = _colours(record.spans)
    lanes: dict[int, list[Span]] = {}
    for s in record.spans:
        lanes.setdefault(s.lane, []).append(s)
    order = sorted(lanes, key=lambda i: (lanes[i][0].worker, i))[:_LANES]
    empty = max(0, min(_LANES, record.slots) - len(order))
    shapes = []
    for row, lane in enumerate(order):
        top = row * (_LANE + 2)
        work = [s for s in lanes[lane] if s.action == "compute"]
        rest = [s for s in lanes[lane] if s.action != "compute"]
        for x, width, colour, part in _runs(work, record.elapsed, colours):
            shapes.append(_rect(x, top, width, _LANE, colour=colour, part=part))
        y = top + 0.55 * _LANE
        for x, width, colour, part in _runs(rest, record.elapsed, colours):
            shapes.append(_rect(x, y, width, _LANE - y + top, colour=colour, part=part))
    rows = len(order) + empty
    lines = "".join(
        _rect(0, row * (_LANE + 2), _WIDTH, _LANE, colour="var(--xc-soft)") for row in range(rows)
    )
    height = rows * (_LANE + 2)
    names = [(colour, name) for name, colour in colours.items() if name not in _ACTIONS]
    shown = dict.fromkeys(s.action for s in record.spans if s.action != "compute")
    legend = [(c, n) for c, n in names if c != _OTHER]
    legend += [(_OTHER, "other tasks")] if any(c == _OTHER for c, _ in names) else []
    legend += [_ACTIONS[a] for a in shown if a in _ACTIONS]
    legend.append(("var(--xc-line)", "idle"))
    more = len(lanes) - len(order)
    caption = f"Task stream: {format_seconds(record.elapsed)}, one row for each thread"
    caption += f"; {more} more threads not drawn" if more > 0 else ""
    return _figure(shapes, lines, height, legend=legend, caption=caption, label="task stream")


def _colours(spans: Iterable[Span]) -> dict[str, str]:
    """A colour for each kind of task, the longest-running first."""
    total: dict[str, float] = {}
    for s in spans:
        if s.action == "compute":
            total[s.name] = total.get(s.name, 0.0) + s.seconds
    names = sorted(total, key=lambda n: -total[n])
    return {n: _TASKS[i] if i < len(_TASKS) else _OTHER for i, n in enumerate(names)}


def _runs(spans: Sequence[Span], elapsed: float, colours: dict[str, str]) -> list[Run]:
    """Where a lane is coloured how: by what took most of each column of pixels."""
    columns: list[dict[str, float]] = [{} for _ in range(_COLUMNS)]
    step = elapsed / _COLUMNS
    for s in spans:
        colour = colours.get(s.name, _OTHER) if s.action == "compute" else _ACTIONS[s.action][0]
        first = max(0, min(_COLUMNS - 1, int(s.start / step)))
        last = max(first, min(_COLUMNS - 1, int(s.stop / step)))
        for i in range(first, last + 1):
            part = min(s.stop, (i + 1) * step) - max(s.start, i * step)
            columns[i][colour] = columns[i].get(colour, 0.0) + max(0.0, part) / step
    out: list[Run] = []
    width = _WIDTH / _COLUMNS
    for i, column in enumerate(columns):
        if not column:
            continue
        colour = max(column, key=lambda c: column[c])
        part = round(min(1.0, max(0.15, sum(column.values()))), 1)
        if out and out[-1][2:] == (colour, part) and abs(out[-1][0] + out[-1][1] - i * width) < 0.1:
            x, w, *_ = out.pop()
            out.append((x, w + width, colour, part))
        else:
            out.append((i * width, width, colour, part))
    return out


def _rect(x: float, y: float, width: float, height: float, *, colour: str, part: float = 1) -> str:
    opacity = f";opacity:{part:g}" if part < 1 else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'style="fill:{colour}{opacity}"/>'
    )


def _figure(
    shapes: Sequence[str],
    under: str,
    height: float,
    *,
    legend: Iterable[tuple[str, str]],
    caption: str,
    label: str,
) -> str:
    marks = "".join(
        f'<span><i style="background:{c};border-color:{c}"></i>{esc(name)}</span>'
        for c, name in legend
    )
    return (
        f'<figure style="max-width:100%"><svg role="img" aria-label="{esc(label)}" '
        f'viewBox="0 0 {_WIDTH:.0f} {height:.0f}" preserveAspectRatio="none" '
        f'style="width:100%;height:{height:.0f}px">{under}{"".join(shapes)}</svg>'
        f"<figcaption>{marks}<br>{esc(caption)}</figcaption></figure>"
    )


@dataclass(frozen=True)
class _Scale:
    """From seconds and bytes to a drawing."""

    elapsed: float
    top: float
    height: float = 90.0

    def at(self, seconds: float, nbytes: float) -> tuple[float, float]:
        """The place of a number of bytes at a moment."""
        return seconds / self.elapsed * _WIDTH, self.height * (1 - nbytes / self.top)


def _memory(record: Record) -> str:
    """Draw the memory of the workers over time."""
    if len(record.memory) < 2 or record.elapsed <= 0:
        return ""
    limit = max((w.limit or 0 for w in record.workers), default=0)
    most = max(max(m.rss, m.spilled) for m in record.memory)
    # a limit far away would press the lines to the ground
    marked = bool(limit) and most > 0.3 * limit
    scale = _Scale(record.elapsed, max(most * 1.05, limit if marked else 0))
    by_worker: dict[int, list[MemorySample]] = {}
    for m in record.memory:
        if 0 <= m.time <= record.elapsed:
            by_worker.setdefault(m.worker, []).append(m)
    shapes, legend = [], []
    for n, (worker, samples) in enumerate(list(by_worker.items())[:_LANES]):
        colour = _WORKERS[n % len(_WORKERS)]
        if len(by_worker) <= len(_WORKERS):
            legend.append((colour, _name(record.workers[worker])))
        shapes += _lines(samples, scale, colour)
    if any(m.spilled for m in record.memory):
        legend.append((_ACTIONS["spill"][0], "on disk"))
    caption = f"Memory: at most {format_bytes(most)}"
    if limit:
        caption += f" of {format_bytes(limit)} for a worker"
    if any(m.managed for m in record.memory):
        caption += "; dashed, what dask manages"
    under = _rect(0, 0, _WIDTH, scale.height, colour="var(--xc-soft)")
    if marked:
        for part in (TARGET, SPILL, PAUSE, TERMINATE):
            _, y = scale.at(0, part * limit)
            under += (
                f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH:.0f}" y2="{y:.1f}" '
                'style="stroke:var(--xc-line);stroke-width:1"/>'
            )
        caption += "; lines at 60, 70, 80 and 95 % of the limit"
    return _figure(
        shapes, under, scale.height, legend=legend, caption=caption, label="memory over time"
    )


def _name(worker: WorkerSeen) -> str:
    return worker.name if not worker.name.isdigit() else f"worker {worker.name}"


def _lines(samples: Sequence[MemorySample], scale: _Scale, colour: str) -> list[str]:
    """What a worker holds, what dask manages of it, and what lies on disk."""
    rows = [
        ([m.rss for m in samples], f"stroke:{colour};stroke-width:1.4"),
        (
            [m.managed or 0 for m in samples],
            f"stroke:{colour};stroke-width:.8;stroke-dasharray:3 2",
        ),
        ([m.spilled for m in samples], f"stroke:{_ACTIONS['spill'][0]};stroke-width:1.2"),
    ]
    step = max(1, len(samples) // _COLUMNS)
    out = []
    for values, look in rows:
        if any(values):
            places = [
                scale.at(m.time, v) for m, v in zip(samples[::step], values[::step], strict=True)
            ]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            out.append(
                f'<polyline points="{points}" vector-effect="non-scaling-stroke" '
                f'style="fill:none;{look}"/>'
            )
    return out
