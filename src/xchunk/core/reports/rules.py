"""What a check knows of a Dataset, the rules that find what is wrong, and the code that mends it.

Each rule looks at one thing, and says what it costs and what to do about it. Thresholds
follow what stores and schedulers take: a request to an object store is as expensive as reading
some megabytes, and a task costs the scheduler about a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from xchunk.core.chunkspec import STORED_CHUNK
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout, Packing
from xchunk.core.memory import MemoryBudget, codec_copies
from xchunk.core.reports.remedies import (
    Opening,
    aligned,
    chunk_raw,
    divided,
    grown,
    has_store,
    lengths,
    merged,
    rechunk_code,
    region_code,
    shrunk,
)
from xchunk.core.shown import Shown
from xchunk.core.suggest.access import dim_roles
from xchunk.core.suggest.lazy_pass import BLOCK_COPIES, item_nbytes
from xchunk.core.types import Chunks
from xchunk.core.units import format_bytes, format_count, format_seconds

#: ``info``: it could be better; ``warning``: it costs time, memory or requests that are not
#: needed; ``error``: it fails, kills workers or stores wrong values.
Severity: TypeAlias = Literal["info", "warning", "error"]

#: From the mildest to the worst.
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")


@dataclass(frozen=True, repr=False)
class Finding(Shown, view="finding"):
    """One thing that is not as it should be."""

    code: str
    """Name of the rule, such as ``split-stored-chunks``; it stays the same between versions."""
    severity: Severity
    """How bad it is."""
    variable: str
    """Name of the variable; empty where it concerns the Dataset."""
    message: str
    """What was found."""
    consequence: str
    """What it leads to, in numbers."""
    remedy: str
    """What to do, as code."""


@dataclass(frozen=True, repr=False)
class CheckReport(Shown, Sequence[Finding], view="check", keys="source checked counts findings"):
    """What a check found, the worst first; a sequence of findings."""

    findings: tuple[Finding, ...]
    """The findings."""
    source: str = ""
    """What was checked, in words."""
    checked: int = 0
    """Number of variables that were looked at."""

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]

    @property
    def counts(self) -> dict[Severity, int]:
        """Number of findings of each severity, the worst first."""
        return {s: sum(f.severity == s for f in self.findings) for s in reversed(SEVERITIES)}

    @property
    def worst(self) -> Severity | None:
        """The worst severity; None where nothing was found."""
        return max((f.severity for f in self.findings), key=SEVERITIES.index, default=None)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of this severity and worse."""
        least = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= least)


@dataclass(frozen=True)
class RegionWrite:
    """A region of a stored array that is to be written."""

    shape: tuple[int, ...]
    """Elements of the stored array along each dim."""
    units: Chunks
    """What is written as a whole: shards, or chunks where there are none."""
    start: tuple[int, ...]
    """First element of the region along each dim."""
    stop: tuple[int, ...]
    """Element after the last along each dim."""
    store: str = "store"
    """The store that holds the array, as code."""

    def as_code(self, dims: Sequence[str]) -> str:
        """Return the region as code."""
        spans = zip(dims, self.start, self.stop, strict=True)
        return region_code({d: slice(a, b) for d, a, b in spans})


@dataclass(frozen=True)
class VariableFacts:
    """What is known of one variable besides its layout."""

    encoding_chunks: Chunks | None = None
    """The chunks that ``to_zarr`` would take from the encoding; None: none, or of other dims."""
    encoding_shards: Chunks | None = None
    """The same for shards."""
    encoding_dtype: np.dtype[Any] | None = None
    """The dtype that values are converted to when they are written; None: their own."""
    packing: Packing | None = None
    """The packing that the encoding asks for."""
    has_fill: bool = False
    """Whether the encoding or the attributes name a fill value."""
    is_masked: bool = False
    """Whether values that equal the fill value are shown as missing."""
    codecs_for: int | None = None
    """The zarr format that the encoding's codecs are made for; None: it names none."""
    lowest: float | None = None
    """The smallest value, where the values are in memory."""
    highest: float | None = None
    """The largest value, where the values are in memory."""
    has_missing: bool | None = None
    """Whether values are missing; None: not known."""
    is_exact: bool | None = None
    """Whether every value is one that the packing can hold; None: not known."""
    default_fill: float | int | None = None
    """netCDF's own fill value, where it was seen and nothing names it; None: not seen."""
    is_unwritten: bool = False
    """Whether it is known, and not only seen, that some of it was never written."""
    misread: str = ""
    """Why zarr reads other values than are stored, in words; empty: it does not."""
    rechunk_tasks: int = 0
    """Tasks of dask's own rechunk in the variable's graph."""
    region: RegionWrite | None = None
    """Where it is to be written to, if that was said."""


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a Dataset besides its layouts."""

    variables: Mapping[str, VariableFacts] = field(default_factory=dict)
    """The facts by name of the variable."""
    tasks: int = 0
    """Tasks of the graphs of all variables together."""
    opening: Opening = field(default_factory=Opening)
    """How it is opened."""


def write_rules(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    """Find what would fail, or store wrong values, when a variable is written."""
    if facts.region is not None:
        # what is there decides how a region is stored, and not the encoding
        yield from _region(v, facts.region)
    else:
        yield from _stale_chunks(v, facts)
        yield from _codecs(v, facts)
    yield from _packing(v, facts)


def _stale_chunks(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    what = "shards" if facts.encoding_shards is not None else "chunks"
    unit = facts.encoding_shards or facts.encoding_chunks
    if unit is None or v.dask_chunks is None or len(unit) != v.ndim:
        return
    blocks, units = Grid.of(v.shape, v.dask_chunks), Grid.of(v.shape, unit)
    cut = [d for d, a, b in zip(v.dims, blocks.axes, units.axes, strict=True) if not a.nests(b)]
    if not cut:
        return
    shared = blocks.pairs(units) - units.count
    yield Finding(
        "stale-chunks",
        "error",
        v.name,
        f"its encoding asks for {what} of {tuple(unit)}, which dask blocks of "
        f"{tuple(blocks.chunks)} cut along {', '.join(map(repr, cut))}",
        f"to_zarr raises ValueError; with safe_chunks=False tasks overwrite each other's part of "
        f"the same {what[:-1]}, {shared} times",
        f"del ds[{v.name!r}].encoding[{what!r}]"
        if what == "chunks"
        else f"ds[{v.name!r}].encoding.update(chunks=None, shards=None)",
    )


def _codecs(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    if facts.codecs_for != 2:
        return
    yield Finding(
        "codecs-of-zarr-2",
        "error",
        v.name,
        "its encoding holds codecs of zarr format 2",
        "to_zarr writes format 3 by default, which raises TypeError (Expected a BytesBytesCodec)",
        f"for key in ('filters', 'compressors'): ds[{v.name!r}].encoding.pop(key, None)",
    )


def _packing(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    dtype = facts.encoding_dtype
    if dtype is None or dtype.kind not in "iu" or v.dtype.kind != "f" or has_store(v):
        return
    packing = facts.packing
    scale = 1.0 if packing is None else packing.scale_factor
    offset = 0.0 if packing is None else packing.add_offset
    remedy = f"ds[{v.name!r}].encoding = {{}}  # stores {v.dtype} as it is"
    said = f"it would be stored as {dtype}" + (
        "" if packing is None else f" with scale_factor={scale:g}, add_offset={offset:g}"
    )
    if facts.has_missing and not facts.has_fill:
        yield Finding(
            "missing-without-fill",
            "error",
            v.name,
            f"{said}, which has no NaN, and no _FillValue is named",
            "missing values are stored as some number, and nothing tells them from it later",
            f"ds[{v.name!r}].encoding['_FillValue'] = {np.iinfo(dtype).min}",
        )
    ends = sorted((np.iinfo(dtype).min * scale + offset, np.iinfo(dtype).max * scale + offset))
    if facts.lowest is not None and facts.highest is not None:
        if facts.lowest < ends[0] or facts.highest > ends[1]:
            yield Finding(
                "stale-packing",
                "error",
                v.name,
                f"{said}, which holds {ends[0]:g} to {ends[1]:g}; the values run from "
                f"{facts.lowest:g} to {facts.highest:g}",
                "values beyond wrap around and are stored wrong, without an error",
                remedy,
            )
            return
        if facts.is_exact:
            return
        yield Finding(
            "stale-packing",
            "info" if packing is not None else "warning",
            v.name,
            said,
            f"values are rounded to steps of {abs(scale):g}",
            remedy,
        )
        return
    yield Finding(
        "stale-packing",
        "warning",
        v.name,
        f"{said}, but the values are computed and no longer those that it was made for",
        f"they are rounded to steps of {abs(scale):g}, and beyond {ends[0]:g} to {ends[1]:g} they "
        "wrap around and are stored wrong, without an error",
        remedy,
    )


def _region(v: ArrayLayout, region: RegionWrite) -> Iterator[Finding]:
    shape = tuple(b - a for a, b in zip(region.start, region.stop, strict=True))
    if shape != v.shape:
        first = region_code({d: slice(0, n) for d, n in zip(v.dims, shape, strict=True)})
        spans = zip(v.dims, region.start, v.shape, strict=True)
        other = region_code({d: slice(a, a + n) for d, a, n in spans})
        is_larger = all(n <= m for n, m in zip(shape, v.shape, strict=True))
        yield Finding(
            "region-does-not-fit",
            "error",
            v.name,
            f"the region holds {shape} elements, the variable {v.shape}",
            "to_zarr raises ValueError",
            f"ds = ds.isel({first})  # as much as the region holds"
            if is_larger
            else f"region = {other}  # as much as there is",
        )
        return
    ragged: dict[str, slice] = {}
    shared = 0
    for i, dim in enumerate(v.dims):
        unit, start, stop = region.units[i], region.start[i], region.stop[i]
        if v.dask_chunks is not None:
            inner = Axis.of(v.shape[i], v.dask_chunks[i])
            shared += sum((start + inner.bounds(k)[0]) % unit != 0 for k in range(1, inner.count))
        if start % unit or (stop % unit and stop != region.shape[i]):
            last = -(-stop // unit) * unit
            ragged[dim] = slice(start // unit * unit, min(last, region.shape[i]))
    if v.dask_chunks is not None and (shared or ragged):
        which = "end within" if shared else "begin or end within"
        count = f"{shared} " if shared else ""
        yield Finding(
            "unsafe-region",
            "error",
            v.name,
            f"dask blocks {which} {count}of the target's chunks of {tuple(region.units)}",
            "to_zarr raises ValueError; with safe_chunks=False tasks overwrite each other's part "
            "of the same chunk",
            f"ds.chunking.write_region({region.store}, region={region.as_code(v.dims)})  "
            "# writes each chunk once, whatever the blocks",
        )
    elif ragged:
        yield Finding(
            "unsafe-region",
            "warning",
            v.name,
            f"the region begins or ends within chunks of {tuple(region.units)} along "
            f"{', '.join(map(repr, ragged))}",
            "it goes well once, but where another process writes the region beside it at the same "
            "time, the one overwrites the other's part of the chunk they share",
            f"region = {region_code(ragged)}  # whole chunks; or one process after the other",
        )


#: Seconds of one request to an object store, for what would happen there.
REMOTE = 0.05

#: Bytes of a stored chunk below which requests and not bytes are what one waits for, and from
#: which on a reader that needs little decodes much. Chunks that are suggested aim at 4 MB decoded,
#: which is 500 kB of packed bytes.
TINY_CHUNK, SMALL_CHUNK, LARGE_CHUNK = 256_000, 400_000, 256_000_000

#: Stored chunks from which on their smallness shows.
SOME, FEW, MANY = 10, 100, 1_000

#: Bytes of a dask block below which the scheduler's cost exceeds the work.
TINY_BLOCK = 1_000_000

#: Tasks of a graph from which on one waits for the scheduler, and from which on it fails.
MANY_TASKS, TOO_MANY_TASKS = 100_000, 1_000_000

#: Decoding more often than this is worth a word, and from the second on a warning.
SPLITS_A_BIT, SPLITS_MUCH = 1.02, 1.5


@dataclass(frozen=True)
class _Case:
    """One variable, with all that a rule may need."""

    layout: ArrayLayout
    facts: VariableFacts
    budget: MemoryBudget
    rates: Rates
    dataset: DatasetFacts

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def blocks(self) -> Grid | None:
        v = self.layout
        return None if v.dask_chunks is None else Grid.of(v.shape, v.dask_chunks)

    @property
    def is_index(self) -> bool:
        return self.layout.is_coord and self.layout.ndim == 1


def check_layouts(
    layouts: Sequence[ArrayLayout],
    budget: MemoryBudget,
    facts: DatasetFacts | None = None,
    *,
    rates: Rates | None = None,
) -> CheckReport:
    """Check how variables are stored, chunked and about to be written.

    - returns: the findings, the worst first, then those of the largest variables.
    """
    facts, rates = facts or DatasetFacts(), rates or Rates()
    found: list[Finding] = []
    for v in layouts:
        case = _Case(v, facts.variables.get(v.name, VariableFacts()), budget, rates, facts)
        if v.size and v.ndim:
            for rule in _RULES:
                found += rule(case)
            found += write_rules(v, case.facts)
    found += _graph(facts)
    found += _series(layouts)
    found += _mixed(layouts, facts)
    sizes = {v.name: v.nbytes for v in layouts}
    found.sort(key=lambda f: (-SEVERITIES.index(f.severity), -sizes.get(f.variable, math.inf)))
    return CheckReport(tuple(found), checked=len(layouts))


# ---- how it is stored ---------------------------------------------------------------------


def _traps(case: _Case) -> Iterator[Finding]:
    """Find what other libraries do with what is stored, that nobody would expect."""
    v, facts = case.layout, case.facts
    if facts.misread:
        yield Finding(
            "values-misread",
            "error",
            v.name,
            facts.misread,
            "every value that is read through zarr is another one, without an error",
            "xr.open_dataset('file://store.zarr#mode=nczarr', engine='netcdf4')",
        )
    if v.reader:
        yield Finding(
            "reader-not-known",
            "info",
            v.name,
            f"only {v.reader} can read it, one block at a time",
            f"how it is stored is not known, and what {v.reader} holds is in no budget",
            f"ds.chunking.apply({{{v.name!r}: {{}}}}, store='copy.zarr')",
        )
    codecs = [c.rpartition(".")[2] for c in v.codecs]
    shards = codecs.index("sharding_indexed") if "sharding_indexed" in codecs else 0
    if "transpose" in codecs[:shards]:
        yield Finding(
            "transpose-before-shards",
            "warning",
            v.name,
            "it is transposed before it is put into shards",
            "zarr 3.4 writes some shapes of such arrays without their values, and no reader can "
            "skip chunks of a shard",
            rechunk_code(v, v.read_grid.chunks, "copy.zarr"),
        )


def _fill_values(case: _Case) -> Iterator[Finding]:
    """Find fill values that xarray takes for data, and data that it takes for missing."""
    v, facts = case.layout, case.facts
    yield from _default_fill(case)
    if v.fill_value is None or not v.ndim or v.stored_dtype.kind not in "iuf":
        return
    fill, opening = np.asarray(v.fill_value).item(), case.dataset.opening
    group, node, name = _node(case)
    if v.format == "zarr3" and fill and math.isfinite(fill) and not facts.has_fill:
        yield Finding(
            "fill-read-as-values",
            "warning",
            v.name,
            f"what was not written reads as {fill:g}, and no _FillValue says that it is missing",
            f"xarray takes {fill:g} for a value: it is in each mean, minimum and maximum",
            _marked(case, fill),
        )
    masked = facts.is_masked and v.packing is None
    if v.format == "zarr2" and fill == 0 and masked and opening.names:
        how = f"chunks={{}}, mask_and_scale={{{name!r}: False}}"
        yield Finding(
            "zeros-read-as-missing",
            "info",
            v.name,
            "its fill value in zarr format 2 is 0, which writers other than xarray choose unasked",
            "xarray takes each 0 for missing, and makes integers floats",
            f"{node} = {opening.call(how, group=group)}",
        )


def _default_fill(case: _Case) -> Iterator[Finding]:
    v, facts = case.layout, case.facts
    if facts.default_fill is None:
        return
    fill, (group, node, name) = facts.default_fill, _node(case)
    shown = f"{fill:g}" if isinstance(fill, float) else str(fill)
    remedy = _marked(case, fill)
    if v.dtype != v.stored_dtype or v.packing is not None:
        # what is decoded no longer equals the fill value
        opened = case.dataset.opening.call("chunks={}", "decode_cf=False", group=group)
        remedy = (
            f"raw = {opened}; "
            f"raw[{name!r}].attrs['_FillValue'] = {fill!r}; "
            f"{node}[{name!r}] = xr.decode_cf(raw)[{name!r}]"
        )
    yield Finding(
        "default-fill-read-as-values",
        "warning" if facts.is_unwritten or v.stored_dtype.kind == "f" else "info",
        v.name,
        f"{'parts were never written, and read as' if facts.is_unwritten else 'some values are'} "
        f"{shown}, with which netCDF fills; no _FillValue says that it is missing",
        f"xarray takes {shown} for a value, in each mean, minimum and maximum; netCDF4 masks it",
        remedy,
    )


def _node(case: _Case) -> tuple[str, str, str]:
    """Return the path of a variable's group, the code of its Dataset, and its name there."""
    is_tree, name = case.dataset.opening.is_tree, case.layout.name
    group, _, name = name.rpartition("/") if is_tree else ("", "", name)
    return group, f"ds[{group!r}]" if group else "ds", name


def _marked(case: _Case, fill: float) -> str:
    """Name a fill value of values that are not decoded otherwise, as code."""
    _, node, name = _node(case)
    whole = f"{node}.to_dataset()" if case.dataset.opening.is_tree else node
    marked = f"{node}[{name!r}].assign_attrs(_FillValue={fill!r})"
    return (
        f"{node}{'.dataset' if case.dataset.opening.is_tree else ''} = xr.decode_cf("
        f"{whole}.assign({{{name!r}: {marked}}}))"
    )


def _unlike_files(case: _Case) -> Iterator[Finding]:
    v = case.layout
    if v.alike:
        return
    larger = item_nbytes(v.dtype) / max(1, item_nbytes(v.stored_dtype))
    grows = f", {larger:.3g} times as large before codecs" if larger > 1 else ""
    yield Finding(
        "files-packed-differently",
        "warning",
        v.name,
        "its files are not all stored alike: xchunk inspect --files says what differs",
        f"a store of all of them holds the decoded {v.dtype}{grows}, unless an encoding is given "
        "that holds the values of all: the notes of a plan give one",
        rechunk_code(v, v.read_grid.chunks if v.chunks else grown(v), "copy.zarr"),
    )


def _stored_too_small(case: _Case) -> Iterator[Finding]:
    v = case.layout
    if v.chunks is None or case.is_index or not has_store(v):
        return
    chunk = chunk_raw(v)
    requests = Grid.of(v.shape, v.shards).count if v.shards is not None else v.n_chunks
    if requests < FEW or chunk >= SMALL_CHUNK:
        return
    bad = chunk < TINY_CHUNK and requests >= MANY
    better = grown(v)
    yield Finding(
        "stored-chunks-too-small",
        "warning" if bad else "info",
        v.name,
        f"stored in {format_count(v.n_chunks)} chunks of {lengths(v)}, {format_bytes(chunk)} each",
        f"reading all {format_bytes(v.nbytes)} takes {format_count(requests)} requests: "
        f"{format_seconds(requests * case.rates.latency)} of waiting on a disk, "
        f"{format_seconds(requests * REMOTE)} one after the other on an object store",
        rechunk_code(v, better),
    )


def _stored_too_large(case: _Case) -> Iterator[Finding]:
    v, budget = case.layout, case.budget
    if v.chunks is None or not has_store(v):
        return
    chunk = chunk_raw(v)
    decoded = chunk // max(1, item_nbytes(v.stored_dtype)) * item_nbytes(v.dtype)
    needed = int(chunk * codec_copies(v.codecs)[0] + decoded)
    fits = needed <= budget.per_task
    if fits and chunk < LARGE_CHUNK:
        return
    better = shrunk(v, min(STORED_CHUNK, max(1, budget.per_task // 8)))
    remedy = rechunk_code(v, better)
    if fits:
        consequence = "whatever is read of it, one value even, decodes that much"
    elif needed <= budget.max_mem:
        most = max(1, budget.max_mem // needed)
        consequence = (
            f"a task that reads it takes {format_bytes(needed)}: only {most} of the "
            f"{budget.threads} tasks at once fit the {format_bytes(budget.max_mem)} that a worker "
            "may grow by"
        )
        remedy += f"  # or workers with threads_per_worker={most}"
    else:
        consequence = (
            f"a task that reads it takes {format_bytes(needed)}, more than the "
            f"{format_bytes(budget.max_mem)} that a worker may grow by: it is killed"
        )
        remedy = f"ds.chunking.suggest(max_mem={needed})  # workers that may grow by as much"
    yield Finding(
        "stored-chunks-too-large",
        "warning" if fits else "error",
        v.name,
        f"one stored chunk of {lengths(v)} is {format_bytes(chunk)} decoded",
        consequence,
        remedy,
    )


def _split_coordinate(case: _Case) -> Iterator[Finding]:
    v = case.layout
    if not case.is_index or not has_store(v) or v.chunks is None or v.n_chunks < SOME:
        return
    requests = v.n_chunks
    yield Finding(
        "split-coordinate",
        "warning" if requests >= FEW else "info",
        v.name,
        f"the coordinate's {v.shape[0]} values are stored in {format_count(requests)} chunks",
        f"every time that the dataset is opened, {format_count(requests)} requests are made for "
        f"{format_bytes(v.nbytes)}: {format_seconds(requests * REMOTE)} one after the other on an "
        "object store",
        f"ds.chunking.apply({{{v.name!r}: {{{v.dims[0]!r}: -1}}}}, store='rechunked.zarr')",
    )


def _series(layouts: Sequence[ArrayLayout]) -> Iterator[Finding]:
    """Find chunks of one time step, with which each series reads everything."""
    times = {d for d, role in dim_roles(layouts).items() if role == "T"}
    for v in layouts:
        if v.is_coord or v.chunks is None or not has_store(v) or not v.size:
            continue
        for dim, n, chunk in zip(v.dims, v.shape, v.chunks, strict=True):
            others = v.size // max(1, n)
            if dim not in times or chunk != 1 or n < FEW or others < 2 or v.nbytes < SMALL_CHUNK:
                continue
            inner = math.prod(v.read_grid.chunks)
            yield Finding(
                "time-chunk-of-one",
                "info",
                v.name,
                f"stored in chunks of one step along {dim!r}",
                f"a series at one place needs {format_count(n)} values and decodes "
                f"{format_bytes(n * inner * item_nbytes(v.stored_dtype))} in {format_count(n)} "
                "requests",
                "ds.chunking.suggest('timeseries', passes=10)",
            )


# ---- how it is chunked by dask ------------------------------------------------------------


def _split_chunks(case: _Case) -> Iterator[Finding]:
    v, blocks = case.layout, case.blocks
    if blocks is None or v.chunks is None or not has_store(v):
        return
    read = v.read_grid
    times = blocks.pairs(read) / max(1, read.count)
    if times <= SPLITS_A_BIT:
        return
    if case.facts.rechunk_tasks:
        tasks = case.facts.rechunk_tasks
        yield Finding(
            "rechunked-lazily",
            "warning" if tasks > MANY_TASKS // 10 or v.nbytes > case.budget.max_mem else "info",
            v.name,
            f"dask rechunks it after reading, in {format_count(tasks)} tasks",
            f"{format_bytes(v.nbytes)} move between tasks, and are held in memory until the blocks "
            "that need them are put together",
            f"{case.dataset.opening.fitting}  # or apply(…, store=…) for what is used often",
        )
        return
    yield Finding(
        "split-stored-chunks",
        "warning" if times >= SPLITS_MUCH else "info",
        v.name,
        f"dask blocks of {lengths(v, blocks)} cut stored chunks of {lengths(v)}",
        f"each stored chunk is decoded {times:.3g} times: "
        f"{format_bytes(times * v.raw_nbytes)} for {format_bytes(v.raw_nbytes)}",
        case.dataset.opening.chunked(aligned(v, blocks)),
    )


def _split_shards(case: _Case) -> Iterator[Finding]:
    v, blocks = case.layout, case.blocks
    if blocks is None or v.shards is None or case.facts.rechunk_tasks:
        return
    shards = v.write_grid
    if blocks.nests(shards):
        return
    times = blocks.pairs(shards) / max(1, shards.count)
    whole = dict(zip(v.dims, v.shards, strict=True))
    yield Finding(
        "blocks-cut-shards",
        "info" if shards.nests(blocks) else "warning",
        v.name,
        f"dask blocks of {lengths(v, blocks)} cut shards of {tuple(v.shards)}",
        f"each shard is opened {times:.3g} times, for its index and for ranges of it, and blocks "
        "like these cannot be written to shards like these",
        f"{case.dataset.opening.chunked(whole)}  # one block a shard, or several",
    )


def _blocks_too_large(case: _Case) -> Iterator[Finding]:
    v, blocks, budget = case.layout, case.blocks, case.budget
    if blocks is None:
        return
    block = blocks.box_elements * item_nbytes(v.dtype)
    at_once = min(max(1, budget.threads), max(1, blocks.count))
    needed = int(BLOCK_COPIES * block * at_once)
    if needed <= budget.max_mem:
        return
    part = budget.fraction_of_limit(needed)
    limit = "" if part is None else f", {part:.0%} of its limit"
    smaller = divided(v, blocks, budget.per_task / BLOCK_COPIES / 2)
    yield Finding(
        "blocks-too-large",
        "error",
        v.name,
        f"dask blocks of {lengths(v, blocks)} are {format_bytes(block)} each",
        f"{at_once} {'task' if at_once == 1 else 'tasks'} at once take {format_bytes(needed)} of "
        f"the {format_bytes(budget.max_mem)} that a worker may grow by{limit}: it spills, pauses "
        "and is killed",
        case.dataset.opening.chunked(smaller),
    )


def _blocks_too_small(case: _Case) -> Iterator[Finding]:
    v, blocks = case.layout, case.blocks
    if blocks is None or blocks.count < MANY:
        return
    block = blocks.box_elements * item_nbytes(v.dtype)
    if block >= TINY_BLOCK:
        return
    larger = merged(v, blocks)
    yield Finding(
        "blocks-too-small",
        "warning",
        v.name,
        f"{format_count(blocks.count)} dask blocks of {lengths(v, blocks)}, "
        f"{format_bytes(block)} each",
        "each is a task, for which the scheduler takes about as long as the work: "
        f"{format_seconds(blocks.count * case.rates.task)} for each operation",
        case.dataset.opening.chunked(larger),
    )


def _graph(facts: DatasetFacts) -> Iterator[Finding]:
    if facts.tasks < MANY_TASKS:
        return
    yield Finding(
        "too-many-tasks",
        "error" if facts.tasks >= TOO_MANY_TASKS else "warning",
        "",
        f"the graphs of all variables together have {format_count(facts.tasks)} tasks",
        f"the scheduler takes about {format_seconds(facts.tasks * Rates().task)} for them and "
        f"{format_bytes(facts.tasks * 2_000)} or more of its memory, before any work is done",
        f"{facts.opening.fitting}  # larger blocks, in one task each",
    )


def _mixed(layouts: Sequence[ArrayLayout], facts: DatasetFacts) -> Iterator[Finding]:
    """Find variables of the same dims that are stored, or chunked by dask, in different ways."""
    groups: dict[Any, list[ArrayLayout]] = {}
    for v in layouts:
        if not v.is_coord and v.ndim and v.size and v.chunks is not None and has_store(v):
            groups.setdefault((v.dims, v.shape), []).append(v)
    for members in groups.values():
        by_chunks: dict[Any, str] = {}
        for v in members:
            by_chunks.setdefault(v.chunks, v.name)
        if len(by_chunks) < 2 or all(_is_aligned(v) for v in members):
            continue
        first, second = [members[0], next(v for v in members if v.chunks != members[0].chunks)]
        yield Finding(
            "mixed-layouts",
            "info",
            "",
            f"variables of the same dims are stored in {len(by_chunks)} ways: {first.name!r} in "
            f"{lengths(first)}, {second.name!r} in {lengths(second)}",
            "no one chunks={…} fits them all, and where they are combined one of them is rechunked",
            f"{facts.opening.fitting}  # chunks of its own for each variable",
        )
    yield from _disagreeing(layouts)


def _is_aligned(v: ArrayLayout) -> bool:
    """Whether dask's blocks consist of whole stored chunks."""
    return v.dask_chunks is not None and Grid.of(v.shape, v.dask_chunks).nests(v.read_grid)


def _disagreeing(layouts: Iterable[ArrayLayout]) -> Iterator[Finding]:
    seen: dict[str, tuple[str, tuple[int, ...]]] = {}
    told: set[str] = set()
    for v in layouts:
        for dim, parts in zip(v.dims, v.dask_chunks or (), strict=False):
            other, theirs = seen.setdefault(dim, (v.name, parts))
            if parts == theirs or dim in told or sum(parts) != sum(theirs):
                continue
            told.add(dim)
            yield Finding(
                "blocks-disagree",
                "info",
                "",
                f"{other!r} and {v.name!r} have different dask chunks along {dim!r}",
                "ds.chunks raises ValueError, and where the two are combined dask rechunks one",
                "ds = ds.unify_chunks()  # where they are combined; else nothing",
            )


_RULES: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
    _traps,
    _fill_values,
    _unlike_files,
    _stored_too_small,
    _stored_too_large,
    _split_coordinate,
    _split_chunks,
    _split_shards,
    _blocks_too_large,
    _blocks_too_small,
)
