"""What was observed: the task stream, the memory over time, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from xchunk.core.reports.verdicts import (
    Action,
    Diagnosis,
    MemorySample,
    Record,
    Span,
    Symptom,
    WorkerSeen,
)
from xchunk.core.reports.verdicts import Facts as SeenFacts
from xchunk.core.units import format_bytes, format_count, format_seconds
from xchunk.display.document import Block, Card, Code, Document, Drawn, Facts, Figure, Paragraph
from xchunk.display.phrases import MARKS, counted

if TYPE_CHECKING:
    from xchunk.diagnose.observe import Observation

#: Columns of pixels and lanes of the drawn task stream, at most.
_COLUMNS, _LANES = 360, 32

#: Width of a drawing, height of a lane of the task stream, and of the memory, in its own units.
_WIDTH, _LANE, _HEIGHT = 720.0, 12.0, 90.0

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

Run = tuple[float, float, str, float]

#: What threads do within tasks.
_DOING = {
    "compute": "computing",
    "blocked": "asleep in Python code",
    "store": "waiting for the store",
    "file-store": "waiting for a file",
    "codec": "decoding",
    "file-codec": "decoding in a file's library",
    "lock": "waiting for a lock",
    "wait": "waiting",
}


def _seen(record: Record, f: SeenFacts) -> list[tuple[str, str]]:
    threads = counted(record.slots, "thread")
    is_cluster = record.scheduler == "cluster"
    where = counted(len(record.workers), "worker") if is_cluster else record.scheduler
    spent = [("tasks ran", f.compute), ("transfers", f.transfer), ("spills", f.spill)]
    shares = [
        f"{name} {min(1.0, seconds / f.total):.0%}"
        for i, (name, seconds) in enumerate(spent)
        if seconds or i == 0
    ]
    out = [
        ("ran on", f"{where}, {threads}"),
        ("tasks", f"{format_count(f.tasks)}, {format_seconds(f.mean)} on average"),
        ("threads' time", ", ".join([*shares, f"idle {f.idle:.0%}"])),
    ]
    doing = sorted(((f.doing(s), name) for s, name in _DOING.items()), reverse=True)
    if told := [f"{name} {share:.0%}" for share, name in doing if share >= 0.01]:
        out.append(("in tasks", ", ".join(told)))
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


def _symptom(s: Symptom) -> Card:
    body = [*map(Paragraph, (s.what, s.means, s.remedy)), Code(s.code)]
    return Card(s.name, body, facts=(f"{s.share:.0%}",) if s.share else ())


def _verdict(d: Diagnosis) -> Iterable[Block]:
    return [*map(_symptom, d.symptoms), *(Paragraph(n, mark="*", dim=True) for n in d.notes)]


def diagnosis(d: Diagnosis) -> Document:
    """What a computation suffers from."""
    return Document("xchunk diagnosis:", d.title, body=[*_verdict(d)])


def observation(seen: Observation) -> Document:
    """What ran, as the task stream and the memory over time; and what it means."""
    title = "xchunk observation:"
    if not seen.ended:
        return Document(title, "the block has not ended yet")
    record, f, d = seen.record, seen.facts, seen.explain()
    drawn = Drawn(lambda: [_stream(record), _memory(record)])
    body = [Facts(_seen(record, f)), drawn, *_verdict(d)]
    return Document(title, d.title, format_seconds(f.elapsed), (), body)


def _stream(record: Record) -> Figure | None:
    """Draw what each thread did over time."""
    if not record.spans or record.elapsed <= 0:
        return None
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
    lanes_behind = [
        _rect(0, row * (_LANE + 2), _WIDTH, _LANE, colour="var(--xc-soft)") for row in range(rows)
    ]
    key = [(colour, n) for n, colour in colours.items() if n not in _ACTIONS and colour != _OTHER]
    key += [(_OTHER, "other tasks")] if _OTHER in colours.values() else []
    shown = dict.fromkeys(s.action for s in record.spans if s.action != "compute")
    key += [_ACTIONS[a] for a in shown if a in _ACTIONS]
    key.append(("var(--xc-line)", "idle"))
    left = len(lanes) - len(order)
    caption = f"Task stream: {format_seconds(record.elapsed)}, one row for each thread"
    caption += f"; {left} more threads not drawn" if left > 0 else ""
    return _figure([*lanes_behind, *shapes], rows * (_LANE + 2), key, caption, "task stream")


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
    looks = [
        (max(c, key=lambda k: c[k]), round(min(1.0, max(0.15, sum(c.values()))), 1)) if c else None
        for c in columns
    ]
    out: list[Run] = []
    at, width = 0.0, _WIDTH / _COLUMNS
    for look, alike in groupby(looks):
        wide = width * len(list(alike))
        if look is not None:
            out.append((at, wide, *look))
        at += wide
    return out


def _rect(x: float, y: float, width: float, height: float, *, colour: str, part: float = 1) -> str:
    opacity = f";opacity:{part:g}" if part < 1 else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'style="fill:{colour}{opacity}"/>'
    )


def _figure(
    shapes: Sequence[str], height: float, key: Sequence[tuple[str, str]], caption: str, label: str
) -> Figure:
    box = (0.0, 0.0, _WIDTH, height)
    return Figure("".join(shapes), box, label, key=key, said=(caption,), fills=True)


def _memory(record: Record) -> Figure | None:
    """Draw the memory of the workers over time."""
    if len(record.memory) < 2 or record.elapsed <= 0:
        return None
    limit = max((w.limit or 0 for w in record.workers), default=0)
    most = max(max(m.rss, m.spilled) for m in record.memory)
    # a limit far away would press the lines to the ground
    marked = bool(limit) and most > 0.3 * limit
    top = max(most * 1.05, limit if marked else 0)
    by_worker: dict[int, list[MemorySample]] = {}
    for m in record.memory:
        if 0 <= m.time <= record.elapsed:
            by_worker.setdefault(m.worker, []).append(m)
    shapes: list[str] = []
    legend: list[tuple[str, str]] = []
    for n, (worker, samples) in enumerate(list(by_worker.items())[:_LANES]):
        colour = _WORKERS[n % len(_WORKERS)]
        if len(by_worker) <= len(_WORKERS):
            legend.append((colour, _name(record.workers[worker])))
        shapes += _lines(samples, record.elapsed, top, colour)
    if any(m.spilled for m in record.memory):
        legend.append((_ACTIONS["spill"][0], "on disk"))
    caption = f"Memory: at most {format_bytes(most)}"
    if limit:
        caption += f" of {format_bytes(limit)} for a worker"
    if any(m.managed for m in record.memory):
        caption += "; dashed, what dask manages"
    behind = [_rect(0, 0, _WIDTH, _HEIGHT, colour="var(--xc-soft)")]
    if marked:
        for part, _ in MARKS:
            y = _HEIGHT * (1 - part * limit / top)
            behind.append(
                f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH:.0f}" y2="{y:.1f}" '
                'style="stroke:var(--xc-line);stroke-width:1"/>'
            )
        caption += "; lines at 60, 70, 80 and 95 % of the limit"
    return _figure([*behind, *shapes], _HEIGHT, legend, caption, "memory over time")


def _name(worker: WorkerSeen) -> str:
    return worker.name if not worker.name.isdigit() else f"worker {worker.name}"


def _lines(
    samples: Sequence[MemorySample], elapsed: float, top: float, colour: str
) -> Iterator[str]:
    """What a worker holds, what dask manages of it, and what lies on disk."""
    own = f"stroke:{colour}"
    rows = [
        ([m.rss for m in samples], f"{own};stroke-width:1.4"),
        (
            [m.managed or 0 for m in samples],
            f"{own};stroke-width:.8;stroke-dasharray:3 2",
        ),
        ([m.spilled for m in samples], f"stroke:{_ACTIONS['spill'][0]};stroke-width:1.2"),
    ]
    step = max(1, len(samples) // _COLUMNS)
    for values, look in rows:
        if any(values):
            points = " ".join(
                f"{m.time / elapsed * _WIDTH:.1f},{_HEIGHT * (1 - v / top):.1f}"
                for m, v in zip(samples[::step], values[::step], strict=True)
            )
            yield (
                f'<polyline points="{points}" vector-effect="non-scaling-stroke" '
                f'style="fill:none;{look}"/>'
            )
