"""Appending to a zarr store, or writing a region of it: what is asked, checked against the store.

The chunks are those of the store. `Extension` tells which old values are written with the new
ones; `xchunk.extending` runs what is bound here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr
from zarr.abc.store import Store

from xchunk.bound import BoundArray
from xchunk.core.cost import Rates
from xchunk.core.extension import Extension, Span
from xchunk.core.grid import Axis
from xchunk.core.memory import DECODE_COPIES, QUEUED, MemoryBudget, codec_copies
from xchunk.core.plan import ArrayPlan, CopyJob, Limits, RechunkPlan, plan_array
from xchunk.core.units import format_count
from xchunk.engine.run import current_client
from xchunk.errors import InvalidChunksError, SourceError, XchunkError
from xchunk.extending import BoundExtension, ExtendedMetadata
from xchunk.jobs import copy_job, may_scratch, with_blocks
from xchunk.labels import check_labels_follow, check_labels_match, find_region, same_values
from xchunk.resume import compare, header_of
from xchunk.storage.assemble import Assembled, stored_variables
from xchunk.storage.conform import conform
from xchunk.storage.existing import Existing, Held, read_existing
from xchunk.storage.extending import Extending
from xchunk.storage.framed import framed
from xchunk.storage.icechunk import is_session, refuse_unready, session_of
from xchunk.storage.journal import Journal
from xchunk.storage.refs import FileRef, SplicedRef, ZarrRef
from xchunk.storage.site import Site
from xchunk.storage.stored import close_files
from xchunk.storage.stores import describe, open_store, reaching, refuse_overlap
from xchunk.storage.target import TargetArray
from xchunk.storage.zarr_io import is_near

__all__ = ["bind_extension", "refuse_layout"]

#: A region as the user says it.
Region = Any


def refuse_layout(what: Any, **asked: Any) -> None:
    """Refuse to be told how a store is to be chunked that is there already.

    Raises
    ------
    InvalidChunksError
        If anything is said of it.
    """
    said = ["chunks"] if what is not None else []
    names = ("access", "shards", "zarr_format", "overwrite", "unpack")
    said += [name for name in names if asked.get(name)]
    if asked.get("engine", "xchunk") != "xchunk":
        said.append("engine")
    if said:
        raise InvalidChunksError(
            f"append_dim= and region= write to a store as it is: leave out {', '.join(said)}. "
            "Chunks, shards, codecs and encodings stay those of the store."
        )


def bind_extension(
    groups: Mapping[str, xr.Dataset],
    store: Any,
    *,
    append_dim: str | None = None,
    region: Region = None,
    check_labels: bool = True,
    budget: MemoryBudget,
    rates: Rates | None = None,
    limits: Limits | None = None,
    resume: bool = True,
    allowed: MemoryBudget | None = None,
    storage_options: Mapping[str, Any] | None = None,
    scratch: Any = None,
) -> BoundExtension:
    """Plan how data are appended to a store, or written to a region of it; nothing is written.

    Parameters
    ----------
    groups : mapping
        The Dataset of each group's path; ``""`` is the root.
    store : str, path or zarr store
        The store that is there.
    append_dim : str, optional
        The dim along which the store grows.
    region : mapping or "auto", optional
        Where to write instead: ``{"time": slice(0, 24)}``; ``"auto"`` finds it by the labels.
    check_labels : bool
        Whether labels that repeat, or do not go on (``append_dim``), or differ (``region``)
        are refused.
    budget, rates, limits, resume, allowed, storage_options, scratch
        As in `xchunk.binding.bind`.

    Raises
    ------
    InvalidChunksError, EncodingError, MemoryBudgetError, SourceError
        If it cannot be done as it is asked.
    ResumeMismatchError
        If another append to the store was stopped half way.
    """
    _check_question(append_dim, region)
    target = open_store(store, storage_options=storage_options)
    with reaching(target):
        _check_store(target)
        stopped = Extending.read(target)
        committed = stopped is not None and stopped.is_committed(target)
    ask = _Ask(
        append_dim=append_dim,
        region=region,
        check_labels=check_labels,
        budget=budget,
        rates=rates or Rates.usual(near=is_near(target)),
        limits=limits or Limits(),
        resume=resume,
        allowed=allowed or budget,
        store=target,
        scratch=None if scratch is None else open_store(scratch, storage_options=storage_options),
    )
    try:
        if stopped is not None:
            try:
                bound = _bind(groups, target, ask, stopped)
                if not committed or bound.header.digest == stopped.digest:
                    return replace(bound, complete=committed)
            except XchunkError:
                if not committed:
                    raise
        return _bind(groups, target, ask, None)
    finally:
        # files are opened anew when it runs, with the small caches of that time
        close_files()


class _Ask:
    """What is asked, handed on as a whole."""

    def __init__(self, **asked: Any):
        self.append_dim: str | None = asked["append_dim"]
        self.region: Region = asked["region"]
        self.check_labels: bool = asked["check_labels"]
        self.budget: MemoryBudget = asked["budget"]
        self.rates: Rates = asked["rates"]
        self.limits: Limits = asked["limits"]
        self.resume: bool = asked["resume"]
        self.allowed: MemoryBudget = asked["allowed"]
        self.scratch: Store | None = asked["scratch"]
        self.store: Store = asked["store"]


def _check_question(append_dim: Any, region: Any) -> None:
    if (append_dim is None) == (region is None):
        raise InvalidChunksError(
            "append_dim= makes a store longer, region= writes to a part of it: give one of them."
        )
    if append_dim is not None and not isinstance(append_dim, str):
        raise InvalidChunksError(f"append_dim={append_dim!r} is not the name of a dim.")


def _check_store(store: Store) -> None:
    able = store.supports_writes and store.supports_listing and store.supports_deletes
    if store.read_only or not able:
        raise SourceError(
            f"{describe(store)} cannot be written to. Nothing was written. Open it for writing."
        )
    if is_session(store):
        refuse_unready(store)


def _bind(
    groups: Mapping[str, xr.Dataset], store: Store, ask: _Ask, stopped: Extending | None
) -> BoundExtension:
    with reaching(store):
        # a session does not travel to workers, but a fork of it does
        travels = is_session(store) and current_client() is not None
        seen = session_of(store).fork().store if travels else store
        existing = read_existing(seen, list(groups), stopped.old if stopped else None)
    copies: list[BoundArray] = []
    sources: list[tuple[TargetArray, ArrayPlan]] = []
    extensions: dict[str, Extension] = {}
    news: dict[str, Assembled] = {}
    notes: list[str] = []
    for group, ds in groups.items():
        found = _Group(group, ds, existing, ask)
        notes += found.notes
        for one, held, extension in found.arrays:
            for place in filter(None, (store, ask.scratch)):
                _refuse_own_source(one, place)
            copy, source = _plan(one, held, extension, ask)
            copies.append(copy)
            sources.append((source, copy.plan))
            extensions[held.path], news[held.path] = extension, source.assembled
    if not copies and any(len(ds.variables) for ds in groups.values()):
        raise InvalidChunksError(
            f"nothing of the data has the dim {ask.append_dim or list(ask.region)!r}, so that "
            "there is nothing to write."
        )
    metadata = _metadata(existing, extensions)
    header = _header(sources, metadata, extensions, ask)
    notes += _notes(existing, extensions, ask)
    with reaching(store):
        if ask.resume and stopped is not None:
            notes += compare(Journal(store), header).note()
    copies.sort(key=lambda c: c.plan.nbytes)
    plan = RechunkPlan(
        arrays=tuple(c.plan for c in copies),
        budget=ask.budget,
        rates=ask.rates,
        target=describe(store),
        notes=tuple(notes),
    )
    return BoundExtension(
        plan,
        Site(store),
        tuple(copies),
        metadata,
        header,
        allowed=ask.allowed,
        resume=ask.resume,
        scratch=ask.scratch,
        existing=existing,
        extensions=extensions,
        news=news,
    )


def _refuse_own_source(one: Assembled, target: Store) -> None:
    if isinstance(one.ref, ZarrRef):
        refuse_overlap(one.ref.store, target, one.path)
    elif isinstance(one.ref, FileRef):
        refuse_overlap(one.ref.filename, target, one.path)


class _Group:
    """One group of the data, checked against the same group of the store."""

    def __init__(self, group: str, ds: xr.Dataset, existing: Existing, ask: _Ask):
        self.prefix = f"{group}/" if group else ""
        self.ds, self.ask = ds, ask
        self.helds = {
            path.removeprefix(self.prefix): held
            for path, held in existing.arrays.items()
            if path.rpartition("/")[0] == group
        }
        self.notes: list[str] = []
        self.arrays: list[tuple[Assembled, Held, Extension]] = []
        if not ds.variables:
            return
        self._check_names()
        raw = stored_variables(ds, zarr_format=existing.zarr_format, group=group)
        decoded = not any(" since " in str(v.attrs.get("units", "")) for v in ds.variables.values())
        self.region = self._region(decoded)
        for name, variable in ds.variables.items():
            held = self.helds[str(name)]
            one = conform(variable, raw.get(str(name)), held, decoded=decoded)
            self._add(one, held)

    def _check_names(self) -> None:
        extra = [str(n) for n in self.ds.variables if n not in self.helds]
        if extra:
            raise InvalidChunksError(
                f"the store has no {', '.join(map(repr, extra))}, and what is appended to a store "
                f"has to be in it. Nothing was written. Leave them out: ds.drop_vars({extra!r})."
            )
        dim = self.ask.append_dim
        if dim is None:
            return
        missing = [n for n, h in self.helds.items() if dim in h.dims and n not in self.ds.variables]
        if dim not in self.ds.dims and missing:
            raise InvalidChunksError(
                f"append_dim={dim!r} is no dim of the data. Its dims: "
                f"{', '.join(map(repr, self.ds.dims)) or 'none'}."
            )
        if missing:
            raise InvalidChunksError(
                f"{', '.join(map(repr, missing))} of the store has the dim {dim!r} and would "
                "stay shorter than the rest. Nothing was written. Append it with the others."
            )

    def _region(self, decoded: bool) -> dict[str, slice]:
        """Return where the data go along each of their dims that is not whole."""
        ask = self.ask
        if ask.append_dim is not None:
            return {}
        sizes = {
            d: n for h in self.helds.values() for d, n in zip(h.dims, h.info.shape, strict=True)
        }
        return find_region(self.ds, self.helds, sizes, ask.region, decoded=decoded)

    def _add(self, one: Assembled, held: Held) -> None:
        dim = self.ask.append_dim
        moving = [dim] if dim is not None else list(self.region)
        if not any(d in held.dims for d in moving):
            if one.shape != held.info.shape or not same_values(one, held, self.ask.budget):
                raise InvalidChunksError(
                    f"{held.path} does not have the dim {' or '.join(map(repr, moving))}, and "
                    "differs from what the store holds. Nothing was written. Leave it out: "
                    f"ds.drop_vars({one.name!r})."
                )
            return
        is_index = held.dims == (one.name,)
        if is_index and self.ask.check_labels:
            if dim is not None:
                check_labels_follow(one, held)
            else:
                check_labels_match(one, held, self.region[one.name])
                return
        self.arrays.append((one, held, self._extension(one, held)))

    def _extension(self, one: Assembled, held: Held) -> Extension:
        spans = []
        for d, n, size, unit in zip(held.dims, one.shape, held.info.shape, held.units, strict=True):
            if d == self.ask.append_dim:
                spans.append(Span(size, unit, size, n))
            elif d in self.region:
                spans.append(Span(size, unit, self.region[d].start, n))
            elif n != size:
                raise InvalidChunksError(
                    f"{held.path} has {n} elements along {d!r}, and {size} in the store. Nothing "
                    "was written. Give the data the same grid as the store."
                )
            else:
                spans.append(Span(size, unit, 0, n))
        return Extension(tuple(spans))


def _plan(
    one: Assembled, held: Held, extension: Extension, ask: _Ask
) -> tuple[BoundArray, TargetArray]:
    """Plan how the window of one array is written; also return what is new of it."""
    chunks, shards = tuple(held.info.chunks or ()), held.info.shards
    source = TargetArray(one, chunks, shards)  # type: ignore[arg-type]
    source = replace(source, assembled=with_blocks(source, ask.budget))
    window = _window(one, held, extension)
    target = TargetArray(window, chunks, shards)  # type: ignore[arg-type]
    target = replace(target, assembled=with_blocks(target, ask.budget))
    job = copy_job(target, ask.store, scratch=ask.scratch)
    if extension.has_old:
        job = _with_old(job, held)
    limits = ask.limits if may_scratch(window) else replace(ask.limits, scratch=False)
    plan = plan_array(job, ask.budget, rates=ask.rates, limits=limits)
    return BoundArray(target, plan), source


def _window(one: Assembled, held: Held, extension: Extension) -> Assembled:
    if not extension.has_old:
        return one
    if one.ref is None or isinstance(one.ref, SplicedRef) or one.info is None:
        data = None if one.variable is None else one.variable.data
        token = f"{held.path} {held.info.shape}"
        whole = framed(extension, data, held.ref, held.info.dtype, token)
        return replace(one, shape=extension.shape, variable=xr.Variable(one.dims, whole))
    ref = SplicedRef(extension, held.ref, one.ref, one.origin, at_once=1_000_000)
    info = replace(one.info, shape=extension.shape)
    if info.chunks is not None:
        parts = []
        for span, start, size, c in zip(
            extension.spans, one.origin, one.info.shape, info.chunks, strict=True
        ):
            stored = Axis.of(size, c)
            cut = [
                min(stored.bounds(i)[1], start + span.count) - max(stored.bounds(i)[0], start)
                for i in stored.touched(start, start + span.count)
            ]
            axis = span.parts(Axis.of(span.count, cut))
            parts.append(axis.chunk if axis.is_regular else axis.parts or ())
        info = replace(info, chunks=tuple(parts))
    return replace(
        one, shape=extension.shape, ref=ref, origin=(0,) * len(extension.shape), info=info
    )


def _with_old(job: CopyJob, held: Held) -> CopyJob:
    """Count in what is held while old units are read: as much as while new ones are written."""
    reading = max(codec_copies(held.info.codecs)[0], DECODE_COPIES)
    if not job.fused:
        reading += QUEUED
    return replace(job, write_copies=max(job.write_copies or 0.0, reading + 0.2))


def _metadata(existing: Existing, extensions: Mapping[str, Extension]) -> ExtendedMetadata:
    shapes = {path: e.new_shape for path, e in extensions.items()}
    documents = existing.grown(shapes)
    arrays = {existing.key(path) for path in existing.arrays}
    return ExtendedMetadata(
        arrays={k: v for k, v in documents.items() if k in arrays},
        groups={k: v for k, v in documents.items() if k not in arrays},
        zarr_format=existing.zarr_format,
    )


def _header(
    sources: Sequence[tuple[TargetArray, ArrayPlan]],
    metadata: ExtendedMetadata,
    extensions: Mapping[str, Extension],
    ask: _Ask,
) -> Any:
    header = header_of(list(sources), metadata, ask.budget, ask.scratch)
    places = {
        path: {"start": list(e.start), "shape before": [s.size for s in e.spans]}
        for path, e in extensions.items()
    }
    facts = {path: {**own, "extension": places[path]} for path, own in header.arrays.items()}
    return replace(header, arrays=facts)


def _notes(existing: Existing, extensions: Mapping[str, Extension], ask: _Ask) -> list[str]:
    notes = []
    dim = ask.append_dim
    if dim is not None:
        for path, e in extensions.items():
            axis = existing.arrays[path].dims.index(dim)
            span = e.spans[axis]
            if span.lead:
                notes.append(
                    f"{path}: its last chunk along {dim!r} is not full; the {span.lead} old steps "
                    "in it are read and written again with the new ones"
                )
        lengths = {
            (
                e.spans[existing.arrays[p].dims.index(dim)].size,
                e.spans[existing.arrays[p].dims.index(dim)].new_size,
            )
            for p, e in extensions.items()
        }
        for before, after in sorted(lengths):
            notes.append(f"{dim!r} grows from {format_count(before)} to {format_count(after)}")
        if not existing.consolidated and not is_session(existing.store):
            notes.append(
                "the store has no consolidated metadata, so that its variables grow one after the "
                "other; who opens it in that moment may find them of different lengths"
            )
    elif not is_session(existing.store):
        notes.append(
            "a region is written in place, and not at once: who reads it meanwhile may see old "
            "and new values side by side, and after a stop until the same call has finished it"
        )
    return notes
