"""Looking at data before anything runs: checking them, and comparing ways to rechunk them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.base import is_dask_collection

from xchunk.core.chunkspec import parse_chunks
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout, Packing
from xchunk.core.memory import MemoryBudget
from xchunk.core.reports.comparison import RechunkComparison, compare_ways
from xchunk.core.reports.remedies import Opening
from xchunk.core.reports.rules import (
    CheckReport,
    DatasetFacts,
    RegionWrite,
    VariableFacts,
    check_layouts,
)
from xchunk.core.suggest.lazy_pass import item_nbytes
from xchunk.core.suggest.suggestion import Suggestion
from xchunk.errors import InvalidChunksError, SourceError
from xchunk.opening.dataset import patterned
from xchunk.sources.arrays import close_files, open_stored
from xchunk.sources.hdf5_read import open_direct
from xchunk.sources.layouts import LayoutReport, read_layouts
from xchunk.sources.netcdf3 import DEFAULT_FILLS
from xchunk.sources.provenance import why_misread
from xchunk.sources.refs import FileRef, JoinedRef, StoredInfo, ones_of
from xchunk.sources.trace import trace
from xchunk.stores.stores import describe, open_store
from xchunk.targets.append.existing import warn_of_half_written

#: Bytes in memory up to which values are looked at, to see whether they fit their packing.
_LOOKED_AT = 256_000_000

#: Values that are looked at, at most, for whether they are exact, or missing.
_SAMPLE = 100_000
#: Chunks of a file that are read to look for missing values, and the largest, in bytes.
_PLACES, _CHUNK = 4, 64_000_000


def check(
    groups: Mapping[str, xr.Dataset],
    budget: MemoryBudget,
    *,
    store: Any = None,
    region: Mapping[str, slice] | None = None,
    rates: Rates | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Check how some groups' Datasets are stored, chunked and about to be written.

    - ``groups``: the Dataset of each group's path; ``""`` is the root.
    - ``budget``: what the tasks of one worker may take.
    - ``store``: where a region is to be written.
    - ``region``: the region, as for ``to_zarr``: ``{dim: slice(start, stop)}``.
    - ``rates``: how fast things are.
    - ``storage_options``: what fsspec needs to reach a URL.
    - raises `InvalidChunksError` if only one of ``store`` and ``region`` is given, or the region
      makes no sense.
    - raises `SourceError` if the store is not there.
    """
    if region is not None and store is None:
        raise InvalidChunksError("region= needs store=, the target that it is a part of.")
    warn_of_half_written(groups)
    report = read_layouts(groups)
    regions = _regions(report, store, region or {}, storage_options) if store is not None else {}
    variables: dict[str, VariableFacts] = {}
    tasks, seen = 0, set()
    try:
        for path, ds in groups.items():
            for name, variable in ds.variables.items():
                full = f"{path}/{name}" if path else str(name)
                found = _facts(variable, report[full])
                variables[full] = replace(found, region=regions.get(full))
                for layer, count in _layers(variable):
                    if layer not in seen:
                        seen.add(layer)
                        tasks += count
    finally:
        close_files()
    facts = DatasetFacts(variables, tasks, _opening(groups, report))
    found_all = check_layouts(report.layouts, budget, facts, rates=rates)
    return replace(found_all, source=report.source)


def _opening(groups: Mapping[str, xr.Dataset], report: LayoutReport) -> Opening:
    """Find out how to open the Datasets again: by the files that their largest variable is in."""
    is_tree = any(groups)
    found = max(
        (
            (v.nbytes, traced, v.dims, ds)
            for ds in groups.values()
            for v in ds.variables.values()
            if (traced := trace(v)) is not None
        ),
        key=lambda one: one[0],
        default=None,
    )
    ref = None if found is None else found[1].ref
    if found is None or not isinstance(ref, JoinedRef):
        named = "://" in report.source or Path(report.source).exists()
        return Opening((report.source,) if named else (), is_tree=is_tree)
    names = dict.fromkeys(
        one.filename if isinstance(one, FileRef) else describe(one.store) for one in ref.parts
    )
    _, traced, dims, ds = found
    axes = zip(dims, traced.axes, strict=True)
    several = (d for d, a in axes if len(ref.lengths[a.stored_axis]) > 1)
    unlabelled = [str(d) for d in several if d not in ds.xindexes]
    pattern = patterned(list(names), ordered=bool(unlabelled))
    return Opening(
        tuple(pattern) if len(unlabelled) < 2 else (),
        is_joined=True,
        along="".join(unlabelled[:1]),
        is_zarr=not isinstance(ref.parts[0], FileRef),
        is_tree=is_tree,
    )


def _facts(variable: xr.Variable, layout: ArrayLayout) -> VariableFacts:
    encoding = variable.encoding
    fills = ("_FillValue", "missing_value")
    facts = VariableFacts(
        encoding_chunks=_lengths(encoding.get("chunks"), variable.ndim),
        encoding_shards=_lengths(encoding.get("shards"), variable.ndim),
        encoding_dtype=_dtype(encoding.get("dtype")),
        packing=_packing(encoding),
        has_fill=any(encoding.get(k) is not None or k in variable.attrs for k in fills),
        is_masked=encoding.get("_FillValue") is not None,
        codecs_for=_codecs_for(encoding),
        misread=why_misread(variable),
        rechunk_tasks=sum(n for name, n in _layers(variable) if name.startswith("rechunk")),
    )
    facts = _looked_at(variable, layout, facts)
    return facts if facts.has_fill else _with_default_fill(variable, layout, facts)


def _with_default_fill(
    variable: xr.Variable, layout: ArrayLayout, facts: VariableFacts
) -> VariableFacts:
    """Look for netCDF's own fill value: in the tables of chunks, and in a few of the chunks."""
    fill = DEFAULT_FILLS.get(layout.stored_dtype.str[1:])
    if fill is None or not layout.format.startswith("netcdf") or not layout.size:
        return facts
    traced = trace(variable)
    ones = () if traced is None else ones_of(traced.ref)
    for ref in {id(ref): ref for ref in (ones[:1] + ones[-1:])}.values():
        if not isinstance(ref, FileRef) or ref.is_far:
            continue
        try:
            stored = open_stored(ref)
            if _is_unwritten(ref, fill):
                return replace(facts, default_fill=fill, is_unwritten=True)
            if any((stored.read(region) == fill).any() for region in _samples(stored.info)):
                return replace(facts, default_fill=fill)
        except (SourceError, OSError):
            continue
    return facts


def _is_unwritten(ref: FileRef, fill: float) -> bool:
    """Whether chunks are not there, or nothing is, and would read as a fill value."""
    direct = open_direct(ref.filename, ref.group, ref.variable)
    dataset = None if direct is None else direct.dataset
    if dataset is None or not dataset.fill or not all(dataset.shape):
        return False
    if np.frombuffer(dataset.fill, dataset.dtype)[0] != fill:
        return False
    if dataset.table is not None and dataset.chunks is not None:
        return len(dataset.table) < Grid.of(dataset.shape, dataset.chunks).count
    return dataset.chunks is None and dataset.offset is None and dataset.raw is None


def _samples(info: StoredInfo) -> Iterable[tuple[slice, ...]]:
    """Choose a few stored chunks, evenly, or as much of what has no chunks."""
    cell = [n for n in info.chunks or info.shape if isinstance(n, int)]
    if len(cell) < len(info.shape):
        return ()
    for i, n in enumerate(cell if info.chunks is None else ()):
        most = max(1, _SAMPLE // math.prod(cell[i + 1 :]))
        cell[i] = min(n, most)
    if math.prod(cell) * info.dtype.itemsize > _CHUNK:
        return ()
    grid = Grid.of(info.shape, cell)
    picked = {round(k * (grid.count - 1) / (_PLACES - 1)) for k in range(_PLACES)}
    return tuple(grid.region(number) for number in sorted(picked))


def _lengths(value: Any, ndim: int) -> tuple[int, ...] | None:
    """The chunks that an encoding holds; None where they belong to other dims."""
    if not isinstance(value, tuple | list) or len(value) != ndim:
        return None
    if not all(isinstance(n, int | np.integer) and n > 0 for n in value):
        return None
    return tuple(int(n) for n in value)


def _dtype(value: Any) -> np.dtype[Any] | None:
    if value is None:
        return None
    try:
        found: np.dtype[Any] = np.dtype(value)
    except TypeError:
        return None
    return found


def _packing(encoding: Mapping[Any, Any]) -> Packing | None:
    scale, offset = encoding.get("scale_factor"), encoding.get("add_offset")
    if scale is None and offset is None:
        return None
    try:
        one = 1.0 if scale is None else float(np.asarray(scale).reshape(-1)[0])
        other = 0.0 if offset is None else float(np.asarray(offset).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        return None
    return Packing(one, other)


def _codecs_for(encoding: Mapping[Any, Any]) -> int | None:
    """Report for which zarr format the codecs of an encoding are made."""
    codecs: list[Any] = []
    for key in ("compressors", "filters", "compressor"):
        value = encoding.get(key)
        codecs += list(value) if isinstance(value, tuple | list) else [value] if value else []
    # numcodecs' codecs are told by what they offer; zarr 3's own have no get_config
    if any(hasattr(c, "get_config") for c in codecs):
        return 2
    return 3 if codecs and any(hasattr(c, "to_dict") for c in codecs) else None


def _looked_at(variable: xr.Variable, layout: ArrayLayout, facts: VariableFacts) -> VariableFacts:
    """Add what values in memory tell; nothing is read or computed."""
    dtype = facts.encoding_dtype
    if dtype is None or dtype.kind not in "iu" or layout.dtype.kind != "f":
        return facts
    if layout.format != "memory" or layout.nbytes > _LOOKED_AT or not layout.size:
        return facts
    values = np.asarray(variable.values)
    there = np.isfinite(values)
    if not there.any():
        return replace(facts, has_missing=True)
    low, high = float(values[there].min()), float(values[there].max())
    packing = facts.packing or Packing()
    sample = values[there][:: max(1, int(there.sum()) // _SAMPLE)].astype("f8")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = (sample - packing.add_offset) / packing.scale_factor
        exact = bool((np.abs(steps - np.round(steps)) < 0.01).all())
    return replace(
        facts, lowest=low, highest=high, has_missing=not bool(there.all()), is_exact=exact
    )


def _layers(variable: xr.Variable) -> Iterable[tuple[str, int]]:
    """The layers of a variable's graph with their numbers of tasks."""
    if variable.chunks is None or not is_dask_collection(variable.data):
        return []
    graph = variable.data.__dask_graph__()
    layers = getattr(graph, "layers", None)
    if layers is None:
        return [(str(variable.data.name), len(graph))]
    return [(str(name), len(layer)) for name, layer in layers.items()]


def _regions(
    report: Iterable[ArrayLayout],
    store: Any,
    region: Mapping[str, slice],
    storage_options: Mapping[str, Any] | None,
) -> dict[str, RegionWrite]:
    """Find the part of each target array that a region is, for the root's variables."""
    where = describe(store)
    try:
        opened = open_store(store, read_only=True, storage_options=storage_options)
        target = xr.open_zarr(opened, chunks=None, decode_times=False)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{where}: cannot be opened as a zarr group ({error}).") from error
    bounds = {dim: _bounds(dim, part, target) for dim, part in region.items()}
    theirs = {v.name: v for v in read_layouts({"": target})}
    out = {}
    for layout in report:
        there = theirs.get(layout.name)
        if there is None or there.dims != layout.dims or not set(region) & set(there.dims):
            continue
        spans = [bounds.get(d, (0, n)) for d, n in there.sizes.items()]
        out[layout.name] = RegionWrite(
            there.shape,
            there.write_grid.chunks,
            tuple(a for a, _ in spans),
            tuple(b for _, b in spans),
            repr(where) if isinstance(store, str | PathLike) else "store",
        )
    return out


def _bounds(dim: Any, part: Any, target: xr.Dataset) -> tuple[int, int]:
    if dim not in target.sizes:
        raise InvalidChunksError(
            f"region: the target has no dim {dim!r}. Its dims: {', '.join(map(str, target.sizes))}."
        )
    if not isinstance(part, slice) or part.step not in (None, 1):
        raise InvalidChunksError(
            f"region: {dim!r}: {part!r} is not a slice of positions with a step of 1. Give for "
            "instance slice(0, 24)."
        )
    start, stop, _ = part.indices(target.sizes[dim])
    return start, max(start, stop)


def compare_rechunk(
    groups: Mapping[str, xr.Dataset],
    what: Suggestion | Mapping[Any, Any],
    budget: MemoryBudget,
    *,
    variable: str | None = None,
    rates: Rates | None = None,
) -> RechunkComparison:
    """Compare the ways to have one variable in other dask chunks.

    - ``groups``: the Dataset of each group's path; ``""`` is the root.
    - ``what``: the chunks that are wanted.
    - ``budget``: what the tasks of one worker may take.
    - ``variable``: the variable; the largest whose chunks are named by default.
    - ``rates``: how fast things are.
    - raises `InvalidChunksError` if the chunks do not fit the variables, or name none of them.
    """
    layouts = read_layouts(groups).layouts
    if isinstance(what, Suggestion):
        chunks = {name: dict(c) for name, c in what.chunks.items()}
    else:
        chunks = parse_chunks(what, layouts)
    named = [v for v in layouts if chunks.get(v.name) and v.size]
    if variable is not None:
        named = [v for v in named if v.name == variable]
    if not named:
        which = "no variable" if variable is None else repr(variable)
        raise InvalidChunksError(
            f"the chunks concern {which}. Give {{dim: n}} for dims that it has, or "
            "{variable: {dim: n}}."
        )
    layout = max(named, key=lambda v: v.nbytes)
    own = chunks[layout.name]
    blocks = layout.dask_chunks or layout.chunks or (-1,) * layout.ndim
    after = Grid(
        tuple(
            Axis.of(n, own.get(d, b))
            for d, n, b in zip(layout.dims, layout.shape, blocks, strict=True)
        )
    )
    return compare_ways(layout, after, budget, rates=rates, steps=_steps(layout, after))


def _steps(layout: ArrayLayout, after: Grid) -> tuple[Grid, ...]:
    """The steps between by which dask itself would go; none where it does not tell."""
    chunks = layout.dask_chunks or layout.chunks
    if chunks is None:
        return ()
    before = Grid.of(layout.shape, chunks)
    try:
        from dask.array.rechunk import plan_rechunk
    except ImportError:
        return ()
    steps = plan_rechunk(_parts(before), _parts(after), item_nbytes(layout.dtype))
    return tuple(Grid.of(layout.shape, s) for s in steps[:-1])


def _parts(grid: Grid) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(stop - start for start, stop in map(a.bounds, range(a.count))) for a in grid.axes
    )
