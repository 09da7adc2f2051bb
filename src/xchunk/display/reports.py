"""What each report says: one function for each view that a result's class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from xchunk.core.cost import FAR, MeasuredRates
from xchunk.core.grid import Grid
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
    Flow,
    Fold,
    Items,
    Listing,
    Many,
    Node,
    Paragraph,
    Table,
)
from xchunk.display.phrases import (
    MARKS,
    SMALL,
    STATUSES,
    chunks,
    codecs,
    counted,
    dask_blocks,
    dims,
    dtypes,
    fill,
    is_cut,
    lengths,
    listed,
    misfit,
    names_of,
    on_disk,
    request_of,
    shards,
    stored,
    times,
    unlike,
    uses,
)

if TYPE_CHECKING:
    from xchunk.batching.run import BatchReport, JobResult
    from xchunk.core.layout import ArrayLayout
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.plan.stages import ArrayPlan, RechunkPlan, Stage
    from xchunk.core.reports.comparison import RechunkComparison
    from xchunk.core.reports.graph import GraphReport, Layer
    from xchunk.core.reports.rules import CheckReport, Finding
    from xchunk.core.reports.workload import Prediction
    from xchunk.core.shown import Shown
    from xchunk.rechunking.clean import Cleaning
    from xchunk.rechunking.verify import Proof
    from xchunk.sources.layouts import LayoutReport

__all__ = [
    "accessor",
    "array_plan",
    "batch",
    "budget",
    "check",
    "cleaning",
    "comparison",
    "document",
    "finding",
    "graph",
    "layout",
    "layouts",
    "plan",
    "prediction",
    "proof",
    "rates",
]

#: What is read, by which tasks, and what is written.
Arrow: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]

#: Views that are in modules of their own.
ELSEWHERE = {
    "suggestion": "xchunk.display.advice",
    "variable_suggestion": "xchunk.display.advice",
    "diagnosis": "xchunk.display.observed",
    "observation": "xchunk.display.observed",
}

#: Variables that are drawn.
DRAWN = 3


def document(report: Shown, **view: Any) -> Document:
    """Return what a result says, by the view that its class names, with that view's options."""
    # a module more is loaded with what it shows, and not with every report
    module = import_module(ELSEWHERE.get(report.shown_as, __name__))
    found: Document = getattr(module, report.shown_as)(report, **view)
    return found


# ---- how it is stored ---------------------------------------------------------------------


def _stored(a: ArrayLayout, *, dask: bool = True) -> list[Block]:
    facts = [("stored", stored(a))]
    if a.shards is not None:
        facts.append(("shards", shards(a)))
    if a.parts:
        facts.append(("on disk", on_disk(a)))
    if a.format not in ("memory", "dask"):
        facts.append(("codecs", f"{codecs(a)}  in {a.format}"))
    if a.dask_chunks is not None and (dask or a.format == "dask"):
        facts.append(("dask", dask_blocks(a)))
    sizes = [Paragraph(dims(a.sizes))] if a.dims else []
    note = misfit(a) if dask else ""
    return [*sizes, Facts(facts), *([Paragraph(note, label=" ")] if note else [])]


def _stored_card(a: ArrayLayout, *, dask: bool = True) -> Card:
    return Card(a.name, _stored(a, dask=dask), facts=(dtypes(a), format_bytes(a.nbytes)))


def _stored_table(arrays: Sequence[ArrayLayout]) -> Table:
    """One variable in a row; a column that says nothing for any variable is left out."""
    columns = {
        "variable": [a.name for a in arrays],
        "dims": [dims(a.sizes) for a in arrays],
        "dtype": [dtypes(a) for a in arrays],
        "stored chunks": [chunks(a) for a in arrays],
        "shards": [shards(a) for a in arrays],
        "codecs": ["" if a.format in ("memory", "dask") else codecs(a) for a in arrays],
        "chunk": [format_bytes(a.chunk_nbytes) if a.chunks is not None else "" for a in arrays],
        "chunks": [format_count(a.n_chunks) if a.chunks is not None else "" for a in arrays],
        "on disk": [on_disk(a) if a.parts else "" for a in arrays],
        "dask": [dask_blocks(a) for a in arrays],
    }
    told = {name: cells for name, cells in columns.items() if name == "variable" or any(cells)}
    rows = list(zip(*told.values(), strict=True))
    return Table(tuple(told), rows, [misfit(a) for a in arrays])


def _uses_drawn(a: ArrayLayout, arrays: Sequence[ArrayLayout]) -> list[Figure | None]:
    """A variable, and what one request of each use touches; dims are found in ``arrays``."""
    drawn = [drawing.array_layout(a, title="as it is stored")]
    if a.chunks is not None and a.n_chunks > 1:
        for use in uses(arrays, a):
            title = f"{use.name}: {', '.join(use.whole)} whole"
            drawn.append(drawing.array_layout(a, request_of(use, a), title=title, is_named=False))
    return drawn


def layout(a: ArrayLayout) -> Document:
    """How one variable is stored."""
    drawn = Drawn(lambda: _uses_drawn(a, (a,)))
    card = Card(a.name, [*_stored(a), drawn], facts=_stored_card(a).facts)
    return card.alone("xchunk layout")


def layouts(
    report: LayoutReport, *, of: str = "", dask: bool = True, files: bool = False
) -> Document:
    """How every variable is stored; the largest ones are drawn.

    - ``report``: the layouts.
    - ``of``: what they are of, as a user has named it.
    - ``dask``: whether text shows dask's blocks.
    - ``files``: whether text shows what each file holds, where that was counted.
    """
    ordered = sorted(report, key=lambda a: -a.nbytes)
    data = [a for a in ordered if not a.is_coord]
    coords = [a for a in ordered if a.is_coord]
    cut = [a for a in data[:DRAWN] if is_cut(a)]
    # what requests touch is shown for the largest one
    drawn = [
        Drawn(lambda: _uses_drawn(cut[0], (*data, *coords))),
        Drawn(lambda: [drawing.array_layout(a, title=a.name) for a in cut[1:]]),
    ]
    small = [a for a in ordered if a.nbytes <= SMALL]
    large = [a for a in ordered if a not in small]
    if not large:
        large, small = data, coords
    rows = [((f"{a.name} ({', '.join(a.dims)})", *_in_short(a)), ()) for a in small]
    text: list[Block] = [
        Many(large, lambda _, a: _stored_card(a, dask=dask), "variable"),
        *([Listing(("small variables and coordinates", "", ""), rows, "variable")] if rows else []),
        *(Paragraph(said, mark="-") for a in large for said in unlike(a)),
    ]
    if files:
        text.append(_by_file(ordered))
    html: list[Block] = [
        _stored_table(data) if data else Paragraph("No data variables."),
        *drawn[: len(cut)],
    ]
    if coords:
        html.append(Fold(counted(len(coords), "coordinate"), [_stored_table(coords)]))
    total = format_bytes(sum(a.nbytes for a in ordered))
    sums = f"{counted(len(data), 'variable')}, {counted(len(coords), 'coordinate')}, {total}"
    known = [a.stored_nbytes for a in ordered if a.parts]
    taken = sum(n for n in known if n is not None)
    facts = (f"{format_bytes(taken)} on disk",) if known and None not in known else ()
    body = [Either(text=text, html=html)]
    return Document("xchunk layout", f"of {of or report.source or 'a Dataset'}", sums, facts, body)


def _in_short(a: ArrayLayout) -> tuple[str, str]:
    taken = "" if a.stored_nbytes is None else f"{format_bytes(a.stored_nbytes)} on disk"
    return f"{chunks(a)}  {dtypes(a)}", taken


def _by_file(arrays: Sequence[ArrayLayout]) -> Listing:
    """What each file holds: all its variables' bytes, and the chunks of the largest variable."""
    main = max(arrays, key=lambda a: (len(a.parts), a.nbytes))
    taken: dict[str, int] = {}
    for part in (part for a in arrays for part in a.parts):
        taken[part.place] = taken.get(part.place, 0) + (part.nbytes or 0)
    rows = [
        (
            (
                part.place,
                lengths(part.shape),
                "contiguous" if part.chunks is None else lengths(map(_of_dim, part.chunks)),
                format_bytes(taken[part.place]),
            ),
            (),
        )
        for part in main.parts
    ]
    return Listing(
        ("files", f"{main.name}: shape, chunks, bytes of all"), rows, "file", always=len(rows)
    )


def _of_dim(chunk: int | tuple[int, ...]) -> int:
    return max(chunk, default=0) if isinstance(chunk, tuple) else chunk


def accessor(report: LayoutReport) -> Document:
    """How every variable is stored, and what can be asked for next."""
    told = layouts(report)
    asks = ".layout() .budget() .suggest(access=…) .plan(store=…) .apply(store=…)"
    return Document(told.title, told.of, told.right, (), [*told.body, Paragraph(asks, dim=True)])


# ---- what to do ---------------------------------------------------------------------------


def budget(b: MemoryBudget) -> Document:
    """What one worker may take."""
    facts = []
    if b.memory is not None:
        facts += [
            ("limit of a worker", format_bytes(b.memory)),
            ("used of it", f"{b.fraction:.0%}"),
            ("held before data", format_bytes(b.reserved)),
        ]
    facts += [
        ("a worker may grow by", format_bytes(b.max_mem)),
        ("tasks at once", format_count(b.threads)),
        ("so a task may hold", format_bytes(b.per_task)),
        ("workers", format_count(b.workers)),
        ("found in", b.origin),
    ]
    body: list[Block] = [Facts(facts)]
    if b.memory is not None:
        marks = ", ".join(f"{mark:.0%} {name}" for mark, name in MARKS)
        body += [
            Bar(fill(b, b.max_mem)), Either(text=[Facts([("dask's thresholds", marks)])]),
        ]  # fmt: skip
    return Document("xchunk memory budget", body=body)


#: What each family of plans does.
_FAMILIES = {
    "direct": "source to target in one stage",
    "staged": "through scratch, in two stages",
    "multi-stage": "through scratch, in several stages",
    "empty": "metadata only",
}


def _planned(array: ArrayPlan, *, is_drawn: bool = True) -> Card:
    """What a rechunk does with one variable, as its stages."""
    job = array.job
    body: list[Block] = []
    if array.stages:
        arrows = [_arrow(s, array.threads) for s in array.stages]
        flow = Flow(_nodes(array), arrows, lambda: _flow(array) if is_drawn else (), drawing.BOX)
        body.append(flow)
    if array.runner_up:
        body.append(Paragraph(array.runner_up, dim=True))
    return Card(
        job.name, body, array.family, (format_bytes(array.nbytes),), _FAMILIES[array.family]
    )


def _nodes(array: ArrayPlan) -> list[Node]:
    """The arrays of a plan, from the source to the target."""
    job = array.job
    source = lengths(job.source.chunks) if job.source_chunked else "contiguous"
    kind = "dask blocks" if job.blocks else "chunks" if job.source_chunked else ""
    nodes = [Node("source", f"{source} {kind}".strip())]
    for stage in array.stages:
        s = stage.scratch
        if s is None:
            is_sharded = job.units.chunks != job.target.chunks
            parts = f"in shards of {lengths(job.units.chunks)}" if is_sharded else ""
            nodes.append(Node("target", f"{lengths(job.target.chunks)} chunks", parts))
            continue
        words = [] if s.shards is None else [f"one object for each {lengths(s.shards)}"]
        words += [] if s.compressor == "none" else [s.compressor]
        nodes.append(Node("scratch", f"{lengths(s.chunks)} pieces", ", ".join(words)))
    return nodes


def _arrow(stage: Stage, threads: int) -> Arrow:
    """What one stage does: what it reads, by which tasks, and what it writes."""
    work = stage.work
    decodes = (counted(work.decodes, "decode"),) if work.decodes else ()
    return (
        (f"reads {format_bytes(work.decoded_bytes + work.scratch_read_bytes)}", *decodes),
        (
            counted(work.tasks, "task"),
            f"box {lengths(stage.boxes.chunks)}",
            f"peak {format_bytes(stage.projected_mem * threads)}",
        ),
        (
            f"writes {format_bytes(work.encoded_bytes + work.scratch_write_bytes)}",
            counted(work.objects, "object"),
        ),
    )


def _flow(array: ArrayPlan) -> list[Figure | None]:
    """Draw the arrays of a plan, each with the first box that is read of it."""
    job = array.job
    cuts = [job.source if job.source_chunked else None]
    for stage in array.stages:
        piece = stage.scratch
        cuts.append(job.target if piece is None else Grid.of(job.shape, piece.chunks))
    boxes = [*(stage.boxes for stage in array.stages), None]
    nodes = _nodes(array)
    return [
        drawing.grids(job.shape, cut, box, title=node.title, said=(node.chunks, node.parts))
        for node, cut, box in zip(nodes, cuts, boxes, strict=True)
    ]


def array_plan(array: ArrayPlan) -> Document:
    """What a rechunk does with one variable."""
    return _planned(array).alone("xchunk plan")


def _planned_table(groups: Sequence[Sequence[ArrayPlan]]) -> Table:
    """One row for all variables whose plans are alike."""
    rows = []
    for group in groups:
        nodes = _nodes(group[0])
        source, *_, target = (n.chunks.removesuffix(" chunks") for n in nodes)
        target += " in shards" if nodes[-1].parts else ""
        rows.append(
            (
                names_of([a.name for a in group], 16),
                format_bytes(sum(a.nbytes for a in group)),
                f"{source} → {target}",
                group[0].family,
                format_count(sum(a.work.tasks for a in group)),
                format_seconds(sum(a.seconds for a in group)),
            )
        )
    return Table(("variable", "size", "chunks", "way", "tasks", "about"), rows)


def _alike(arrays: Sequence[ArrayPlan]) -> list[list[ArrayPlan]]:
    """Gather plans that differ in the names of their variables only."""
    groups: list[tuple[ArrayPlan, list[ArrayPlan]]] = []
    for a in arrays:
        bare = replace(a, job=replace(a.job, name=""))
        same = next((group for one, group in groups if one == bare), None)
        if same is None:
            groups.append((bare, [a]))
        else:
            same.append(a)
    return [group for _, group in groups]


def plan(p: RechunkPlan, *, details: bool = False) -> Document:
    """What a rechunk would do: stages, boxes, bytes, objects and peak.

    - ``p``: the plan.
    - ``details``: whether text shows the stages of each variable, instead of a row for it.
    """
    arrays = sorted(p.arrays, key=lambda a: -a.nbytes)
    small = [a for a in arrays if a.nbytes <= SMALL and a.work.tasks <= 2]
    if len(small) == len(arrays):
        # one chunk, a coordinate's mostly, that one task copies needs no words
        small = [a for a in arrays if a.work.tasks <= 1 and a.job.source.count <= 1]
    large = [a for a in arrays if a not in small]
    stages = Many(large, lambda i, a: _planned(a, is_drawn=i < DRAWN), "array")
    brief = [_planned_table(_alike(large))] if large else []
    body: list[Block] = [
        Bar(fill(p.budget, p.projected_mem)),
        Either(text=[stages] if details else brief, html=[stages]),
    ]
    if small:
        names = listed([a.name for a in small])
        body.append(Paragraph(f"{counted(len(small), 'small variable')}: {names}", dim=True))
    body += [Paragraph(note, mark="-") for note in p.notes]
    pieces = sum(s.work.objects for a in p.arrays for s in a.stages if s.scratch is not None)
    scratch = f" ({format_count(pieces)} of scratch)" if pieces else ""
    facts = (
        counted(p.tasks, "task"),
        counted(p.work.decodes, "decode"),
        f"{counted(p.work.objects, 'object')} written{scratch}",
        f"about {format_seconds(p.seconds)}",
        f"{format_bytes(p.scratch_nbytes)} of scratch" if p.scratch_nbytes else "",
        f"{format_seconds(p.rates.latency)} a request" if p.rates.latency >= FAR else "",
    )
    return Document(
        "xchunk plan", f"to {p.target or 'a store'}", format_bytes(p.nbytes), facts, body
    )


# ---- what was found -----------------------------------------------------------------------

#: What a finding of each severity is called.
_SEVERITIES = {"error": "error", "warning": "warning", "info": "note"}


def _found(f: Finding) -> Card:
    body = [Paragraph(f.message), Paragraph(f.consequence), Code(f.remedy, mark="→")]
    level = _SEVERITIES[f.severity]
    return Card(f.variable or "all variables", body, facts=(f.code,), level=level)


def finding(f: Finding) -> Document:
    """One finding of a check."""
    return _found(f).alone("xchunk finding")


def check(report: CheckReport) -> Document:
    """What a check found: what it is, what it leads to, and what to do."""
    counts = [counted(n, _SEVERITIES[s]) for s, n in report.counts.items() if n]
    nothing = f"nothing found in {counted(report.checked, 'variable')}"
    body = [Many(report.findings, lambda _, f: _found(f), "finding")]
    of = f"of {report.source or 'a Dataset'}"
    return Document("xchunk check", of, ", ".join(counts) or nothing, (), body)


def rates(r: MeasuredRates) -> Document:
    """What a probe measured, and what it says."""
    facts = [
        ("request", format_seconds(r.latency)),
        ("store", f"{format_bytes(r.bandwidth)}/s"),
        ("decode", f"{format_bytes(r.decode)}/s" if r.codecs else "no codec"),
        ("encode for a target", f"{format_bytes(r.encode)}/s"),
        ("two threads read", "not measured" if r.speedup is None else f"{r.speedup:.2f} times one"),
        ("stored for each byte", f"{r.compression:.2f}"),
    ]
    read = f"{counted(r.samples, 'sample')}, {format_bytes(r.nbytes)}"
    of = f"of {r.variable} ({r.format})"
    return Document("xchunk probe", of, read, (), [Facts(facts), Paragraph(r.why)])


_WAYS = {"lazy": "lazy", "tasks": "dask tasks", "p2p": "dask p2p", "staged": "staged"}
_WAYS_TOLD = {
    "lazy": "blocks like these straight from the store",
    "tasks": "ds.chunk(…) with dask's rechunk by tasks",
    "p2p": "ds.chunk(…) with dask's rechunk by p2p, on a cluster",
    "staged": "rewriting it once to a store, ds.chunking.apply(…, store=…)",
}


def comparison(c: RechunkComparison) -> Document:
    """What each way to other chunks takes."""
    rows = []
    for way in c.ways:
        disk = way.worker_disk or way.store_disk
        where = "/worker" if way.worker_disk else ""
        rows.append(
            (
                _WAYS[way.name],
                format_count(way.tasks),
                format_bytes(way.decoded),
                format_bytes(way.worker_mem),
                "yes" if way.fits else "no",
                f"{format_bytes(disk)}{where}" if disk else "-",
                "?" if way.seconds is None else format_seconds(way.seconds),
            )
        )
    grows = format_bytes(c.budget.max_mem)
    if c.best is None:
        said = f"None of them fits a worker that may grow by {grows}."
    else:
        said = f"Of those that fit a worker that may grow by {grows}, the quickest is: "
        said += f"{_WAYS_TOLD[c.best.name]}."
        again = c.best.name != "staged" and c.best.decoded > 1.2 * c.nbytes
        if again and any(w.name == "staged" and w.fits for w in c.ways):
            said += " What is used often is quicker once it is rewritten."
    copied = next((w.copy_seconds for w in c.ways if w.copy_seconds is not None), None)
    if copied is not None:
        said += f" Times are for {c.variable} alone, read once in the new chunks: of the staged "
        said += f"way, {format_seconds(copied)} are the copy that a plan predicts."
    head = ("way", "tasks", "decodes", "memory", "fits", "disk", "about")
    blocks = f"blocks of {c.before} → {c.after}"
    body = [Table(head, rows), Paragraph(said)]
    return Document("xchunk rechunk", f"of {c.variable}", format_bytes(c.nbytes), (blocks,), body)


# ---- what a computation takes -------------------------------------------------------------


def prediction(p: Prediction) -> Document:
    """What running a lazy result would take."""
    who = "the fullest worker" if p.workers > 1 else "the process"
    threads = counted(p.threads, "thread")
    where = f"{counted(p.workers, 'worker')} of {threads}" if p.workers > 1 else threads
    low, high = p.rss
    facts = [
        ("on", where),
        ("tasks", format_count(p.tasks)),
        ("decodes", f"{counted(p.decodes, 'chunk')}, {format_bytes(p.nbytes_read)}"),
        ("read / needed", times(p.amplification)),
        (f"{who} holds", f"{format_bytes(p.peak)} at its peak"),
        ("grows by", f"{format_bytes(low)}, without malloc trimming up to {format_bytes(high)}"),
        ("takes about", format_seconds(p.seconds)),
        ("longest chain", format_seconds(p.critical)),
    ]
    if p.moved:
        facts.append(("sent between workers", format_bytes(p.moved)))
    if p.gathered:
        facts.append(("gathering adds", format_bytes(p.gathered)))
    rows = [
        (
            r.name,
            format_count(r.requests),
            format_count(r.decodes),
            format_bytes(r.nbytes),
            times(r.amplification),
        )
        for r in p.reads.values()
    ]
    head = ("read", "requests", "decodes", "bytes", "read / needed")
    said = [*p.notes]
    if p.scaled > 1.01:
        said.append(f"predicted from data {p.scaled:.0f} times smaller")
    table = [Table(head, rows)] if rows else []
    body: list[Block] = [Facts(facts), *table, *map(Paragraph, said)]
    return Document("xchunk prediction", right="not run", body=body)


#: Layers that do the same under one name, up to which each is shown.
_FEW_LAYERS = 3


def _merged(layers: tuple[Layer, ...]) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Name, tasks and sentence of each layer; neighbours that only map are one.

    So are layers of one name that do the same, as those of the groups of a ``groupby``.
    """
    alike: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        alike.setdefault((layer.name, layer.role), []).append(layer)
    runs: list[list[Layer]] = []
    for layer in layers:
        same = alike[layer.name, layer.role]
        if len(same) > _FEW_LAYERS:
            if layer is same[0]:
                runs.append(same)
            continue
        last = runs[-1][0] if runs else None
        if last is not None and len(alike[last.name, last.role]) > _FEW_LAYERS:
            last = None
        if last is not None and last.role == layer.role == "map" and last.tasks == layer.tasks:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    out: list[tuple[Sequence[str], Sequence[str]]] = []
    for run in runs:
        tasks = format_count(sum(v.tasks for v in run))
        if len(run) > _FEW_LAYERS and run[0].name == run[-1].name:
            first = f"{run[0].sentence[0].lower()}{run[0].sentence[1:]}"
            out.append(((run[0].name, tasks), (f"{len(run)} layers; the first: {first}",)))
        elif len(run) > 2:
            names = f"{run[0].name} … {run[-1].name}"
            said = f"{len(run)} layers of one task for each block before; fused where they can be."
            out.append(((names, tasks), (said,)))
        else:
            out += [((v.name, format_count(v.tasks)), (v.sentence,)) for v in run]
    return out


def graph(r: GraphReport) -> Document:
    """What a graph holds: its layers, what stands out, and what other chunks would do."""
    about = "" if r.part == 1 else "about "
    facts = [
        ("tasks", f"{format_count(r.tasks)}, fused {about}{format_count(r.run_tasks)}"),
        ("input tasks", format_count(r.input_tasks)),
        ("output blocks", format_count(r.outputs)),
        ("longest chain", counted(r.critical, "task")),
    ]
    if r.nbytes_in is not None:
        facts.append(("bytes in", f"{about if r.nbytes_in else ''}{format_bytes(r.nbytes_in)}"))
    facts.append(("bytes out", format_bytes(r.nbytes_out)))
    if r.prediction is not None:
        facts.append(("predicted peak", f"{about}{format_bytes(r.prediction.peak)}"))
        facts.append(("predicted time", f"{about}{format_seconds(r.prediction.seconds)}"))
    body: list[Block] = [Facts(facts)]
    if r.prediction is not None and r.budget is not None and r.budget.memory is not None:
        body.append(Bar(fill(r.budget, r.prediction.peak)))
    body.append(Listing(("layers, inputs first", "tasks"), _merged(r.layers), "layer"))
    if r.sizes:
        rows = []
        for s in r.sizes:
            near = "" if s.exact or s.factor == 1 else "~"
            rows.append(
                (
                    {0.5: "×½"}.get(s.factor, f"×{s.factor:g}"),
                    format_bytes(s.block) if s.block else "",
                    near + format_count(s.input_tasks),
                    near + format_count(s.tasks),
                    format_seconds(s.scheduling),
                )
            )
        body.append(Table(("chunks", "one block", "input tasks", "tasks", "scheduling"), rows))
    body += [Paragraph(said, mark="-") for said in r.says]
    body += [Paragraph(f"{n[0].upper()}{n[1:]}.", mark="*", dim=True) for n in r.notes]
    return Document("xchunk graph", f"of {r.source}", counted(r.tasks, "task"), (), body)


# ---- what was done ------------------------------------------------------------------------


def proof(p: Proof) -> Document:
    """What was compared, and found equal."""
    facts = [
        ("variables", format_count(len(p.variables))),
        ("compared", f"{format_bytes(p.nbytes)} in {counted(p.pieces, 'piece')}"),
    ]
    said = "The store holds what the source holds, bit by bit, metadata included."
    notes = [Paragraph(note, mark="-") for note in p.notes]
    body = [Facts(facts), Paragraph(said), Items(p.variables), *notes]
    return Document("xchunk proof", f"of {p.target}", "equal", (), body)


def cleaning(c: Cleaning, *, steps: Sequence[Block] = ()) -> Document:
    """What was deleted, or would be.

    - ``c``: what was found.
    - ``steps``: how to go on.
    """
    would = "would be " if c.dry_run else ""
    facts = [("found", c.found)]
    if c.repaired:
        facts.append(("repaired", f"{c.repaired} {would}put in its place"))
    if c.keys:
        size = "" if c.nbytes is None else f", {format_bytes(c.nbytes)}"
        facts.append((f"{would}deleted", counted(len(c.keys), "object") + size))
    right = "nothing was done" if c.dry_run else "done"
    if not (c.keys or c.repaired):
        right = "nothing to delete"
    rows = [((folder, counted(n, "object")), ()) for folder, n in c.folders.items()]
    grouped = [Listing(("folders", ""), rows, "folder")] if rows else []
    body = [Facts(facts), Either(text=grouped, html=[Items(c.keys)]), *steps]
    return Document("xchunk clean", f"of {c.target}", right, (), body)


def batch(report: BatchReport) -> Document:
    """What became of a batch; first what needs somebody's attention."""

    def row(r: JobResult) -> tuple[Sequence[str], Sequence[str]]:
        is_timed = r.seconds and r.status != "skipped"
        about = "about " if r.status == "planned" else ""
        cells = (
            r.name,
            STATUSES[r.status],
            format_bytes(r.nbytes) if r.nbytes and r.status != "skipped" else "",
            f"{about}{format_seconds(r.seconds)}" if is_timed else "",
            "✓" if r.verified else "",
            r.target,
        )
        log = f"log: {r.log}" if r.log and r.status == "failed" else ""
        notes = () if r.status == "skipped" else tuple(filter(None, (r.message, log)))
        return cells, notes

    ordered = sorted(report, key=lambda r: r.status not in ("failed", "interrupted"))
    verified = sum(r.verified for r in report)
    head = ("job", "status", "size", "time", "verified", "target")
    body: list[Block] = [
        Listing(head, [*map(row, ordered)], "job", headed=False, wide=1, always=len(report.failed))
    ]
    if verified:
        body.append(Paragraph("✓ read back, and equal to its source bit by bit", dim=True))
    if report.state:
        body.append(Either(html=[Paragraph(f"State and logs: {report.state}", dim=True)]))
    facts = (
        "" if report.shard is None else f"shard {report.shard[0]} of {report.shard[1]}",
        counted(len(report), "job"),
        *(f"{n} {STATUSES[s]}" for s, n in report.counts.items() if n),
        f"{verified} verified" if verified else "",
        f"{format_bytes(report.nbytes)} written" if report.nbytes else "",
        format_seconds(report.seconds),
        "interrupted: run it again to go on" if report.interrupted else "",
    )
    of = f"of {report.source}" if report.source else ""
    return Document("xchunk batch", of, "", facts, body)
