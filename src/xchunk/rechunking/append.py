"""Appending to a zarr store, or writing a region of it: what is asked, checked against the store.

The chunks are those of the store. `Extension` tells which old values are written with the new
ones; `xchunk.rechunking.extending` runs what is bound here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray
from zarr.abc.store import Store

from xchunk.core.cost import Rates
from xchunk.core.grid import Axis
from xchunk.core.memory import DECODE_COPIES, QUEUED, MemoryBudget, codec_copies
from xchunk.core.plan.choose import plan_array
from xchunk.core.plan.stages import ArrayPlan, CopyJob, Limits, RechunkPlan
from xchunk.core.plan.window import Extension, Span
from xchunk.core.units import format_count
from xchunk.engine.cluster import current_client
from xchunk.errors import InvalidChunksError, SourceError, XchunkError, XchunkWarning
from xchunk.rechunking.bind import copy_job, may_scratch, with_blocks
from xchunk.rechunking.extending import BoundExtension, ExtendedMetadata
from xchunk.rechunking.options import Place, RechunkOptions
from xchunk.rechunking.resume import compare, header_of
from xchunk.rechunking.runner import BoundArray
from xchunk.sources.arrays import close_files, open_stored
from xchunk.sources.foreign import as_numpy
from xchunk.sources.provenance import refuse_own_roots
from xchunk.sources.refs import SplicedRef, ZarrRef
from xchunk.stores.adapter import is_near
from xchunk.stores.icechunk import is_session, refuse_unready, session_of
from xchunk.stores.stores import describe, open_store, reaching, root_of
from xchunk.targets.append.encode_like import conform
from xchunk.targets.append.existing import (
    Existing,
    Extending,
    Held,
    lengths_of_relatives,
    read_existing,
)
from xchunk.targets.append.labels import (
    Labels,
    check_labels_follow,
    check_labels_match,
    find_region,
    order_of,
    same_values,
)
from xchunk.targets.encode import Assembled, stored_variables
from xchunk.targets.journal import Journal
from xchunk.targets.location import Site
from xchunk.targets.metadata import TargetArray

if TYPE_CHECKING:
    import dask.array as da


def whole_store(
    store: Store, groups: Mapping[str, xr.Dataset]
) -> tuple[Store, dict[str, xr.Dataset], str]:
    """Find the whole store of which a group is named, so that its root is kept in step.

    - returns: the store, the Datasets by their paths in it, and the path of the group that was
      named; ``""``: it is the root.
    """
    root, within = root_of(store)
    if not within:
        return store, dict(groups), ""
    return root, {f"{within}/{p}" if p else within: ds for p, ds in groups.items()}, within


def bind_extension(
    groups: Mapping[str, xr.Dataset],
    store: Any,
    place: Place,
    options: RechunkOptions,
    *,
    budget: MemoryBudget,
    allowed: MemoryBudget | None = None,
) -> BoundExtension:
    """Plan how data are appended to a store, or written to a region of it; nothing is written.

    - ``groups``: the Dataset of each group's path; ``""`` is the root.
    - ``store``: the store, which exists.
    - ``place``: where the data go in it.
    - ``options``: how it is done; how the store is stored is not among it.
    - ``budget``, ``allowed``: as in `xchunk.rechunking.bind.bind`.
    - raises `InvalidChunksError, EncodingError, MemoryBudgetError, SourceError` if it cannot be
      done as it is asked.
    - raises `ResumeMismatchError` if another append to the store was stopped half way.
    """
    options.refuse_layout()
    storage_options = options.storage_options
    _check_question(place)
    target = open_store(store, storage_options=storage_options)
    with reaching(target):
        _check_store(target)
        stopped = Extending.read(target)
        committed = stopped is not None and stopped.is_committed(target)
    ask = Ask(
        place=place,
        budget=budget,
        rates=options.rates or Rates.usual(near=is_near(target)),
        limits=options.limits or Limits(),
        resume=options.resume,
        allowed=allowed or budget,
        store=target,
        scratch=None
        if options.scratch is None
        else open_store(options.scratch, storage_options=storage_options),
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


def _check_question(place: Place) -> None:
    if (place.append_dim is None) == (place.region is None):
        raise InvalidChunksError(
            "a store is made longer along a dim, or a region of it is written: give one of them."
        )
    if place.append_dim is not None and not isinstance(place.append_dim, str):
        raise InvalidChunksError(f"dim={place.append_dim!r} is not the name of a dim.")


def _check_store(store: Store) -> None:
    able = store.supports_writes and store.supports_listing and store.supports_deletes
    if store.read_only or not able:
        raise SourceError(
            f"{describe(store)} cannot be written to. Nothing was written. Open it for writing."
        )
    if is_session(store):
        refuse_unready(store)


def _check_dim(dim: str | None, existing: Existing, store: Store) -> None:
    """Refuse a dim that the store does not have, and name the one that is meant."""
    known = dict.fromkeys(d for held in existing.arrays.values() for d in held.dims)
    if dim is None or dim in known:
        return
    nearest = get_close_matches(dim, known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    raise InvalidChunksError(
        f"{dim!r} is no dim of {describe(store)}{hint} Its dims: "
        f"{', '.join(map(repr, known)) or 'none'}. Nothing was written."
    )


def _bind(
    groups: Mapping[str, xr.Dataset], store: Store, ask: Ask, stopped: Extending | None
) -> BoundExtension:
    with reaching(store):
        # a session does not travel to workers, but a fork of it does
        travels = is_session(store) and current_client() is not None
        seen = session_of(store).fork().store if travels else store
        existing = read_existing(seen, list(groups), stopped.old if stopped else None)
    _check_dim(ask.place.append_dim, existing, store)
    copies: list[BoundArray] = []
    sources: list[tuple[TargetArray, ArrayPlan]] = []
    extensions: dict[str, Extension] = {}
    news: dict[str, Assembled] = {}
    notes: list[str] = []
    for group in groups:
        found = Group(group, groups, existing, ask)
        notes += found.notes
        for one, held, extension in found.arrays:
            copy, source = _plan(one, held, extension, ask)
            copies.append(copy)
            sources.append((source, copy.plan))
            extensions[held.path], news[held.path] = extension, source.assembled
    if not copies and any(len(ds.variables) for ds in groups.values()):
        if ask.place.region == "auto":
            raise InvalidChunksError(
                "region='auto': no dim of the data has labels, in the data and in the store. Give "
                "positions, such as {'time': slice(0, 24)}."
            )
        raise InvalidChunksError(
            f"no variable has the dim {ask.place.append_dim or list(ask.place.region)!r}: there is "
            "nothing to write."
        )
    for path, one in news.items():
        # what else is in the store may be read while these are written
        refuse_own_roots(path, one.ref, one.variable, store, list(news))
        if ask.scratch is not None:
            refuse_own_roots(path, one.ref, one.variable, ask.scratch)
    refuse_broken_tree(existing, extensions, ask)
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


def _plan(
    one: Assembled, held: Held, extension: Extension, ask: Ask
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
    ask: Ask,
) -> Any:
    header = header_of(list(sources), metadata, ask.budget, ask.scratch)
    places = {
        path: {"start": list(e.start), "shape before": [s.size for s in e.spans]}
        for path, e in extensions.items()
    }
    facts = {path: {**own, "extension": places[path]} for path, own in header.arrays.items()}
    return replace(header, arrays=facts)


def _notes(existing: Existing, extensions: Mapping[str, Extension], ask: Ask) -> list[str]:
    notes = []
    dim = ask.place.append_dim
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


@dataclass(frozen=True)
class Ask:
    """What is asked, with its defaults found and its stores opened."""

    place: Place
    """Where the new data go."""
    budget: MemoryBudget
    """What the tasks of one worker may take."""
    rates: Rates
    """By which plans are chosen."""
    limits: Limits
    """The most tasks and objects."""
    resume: bool
    """Whether boxes that an earlier run has written are kept."""
    allowed: MemoryBudget
    """What the tasks may take now, where the budget is that of an earlier run."""
    store: Store
    """The store that is written."""
    scratch: Store | None
    """Where scratch data go; None: into the store."""


class Group:
    """One group of the data, checked against the same group of the store."""

    def __init__(self, group: str, groups: Mapping[str, xr.Dataset], existing: Existing, ask: Ask):
        self.prefix = f"{group}/" if group else ""
        self.ds, self.ask = as_numpy(groups[group], group), ask
        ds = self.ds
        self.helds = {
            path.removeprefix(self.prefix): held
            for path, held in existing.arrays.items()
            if path.rpartition("/")[0] == group
        }
        self.notes: list[str] = []
        self.arrays: list[tuple[Assembled, Held, Extension]] = []
        if not ds.variables:
            return
        self.labels = self._labels(group, groups, existing)
        #: coordinates that the data repeat, and that the group has from one that it lies in
        self.inherited = {
            name: found.held
            for name, found in self.labels.items()
            if name not in self.helds and name in ds.variables
        }
        self._check_names()
        raw = stored_variables(ds, zarr_format=existing.zarr_format, group=group)
        decoded = not any(" since " in str(v.attrs.get("units", "")) for v in ds.variables.values())
        self.region = self._region(decoded, existing)
        # labels first: where these are in another order, that is what is wrong with all
        for name in sorted(ds.variables, key=lambda n: n not in ds.dims):
            variable = ds.variables[name]
            held = self.helds.get(str(name)) or self.inherited[str(name)]
            one = conform(variable, raw.get(str(name)), held, decoded=decoded)
            self._add(one, held)

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths of the store's dims in this group."""
        return {
            d: n for h in self.helds.values() for d, n in zip(h.dims, h.info.shape, strict=True)
        }

    def _labels(
        self, group: str, groups: Mapping[str, xr.Dataset], existing: Existing
    ) -> dict[str, Labels]:
        """Find the labels of each dim, in this group or the closest one above it."""
        out: dict[str, Labels] = {}
        for dim in self.sizes:
            path: str | None = group
            while path is not None and dim not in out:
                held = existing.arrays.get(f"{path}/{dim}" if path else dim)
                if held is not None and held.dims == (dim,):
                    of = next((g for g in (group, path) if g in groups and dim in groups[g]), None)
                    out[dim] = Labels(held, None if of is None else groups[of])
                path = path.rpartition("/")[0] if path else None
        return out

    def _check_names(self) -> None:
        names = {*self.helds, *self.inherited}
        extra = [str(n) for n in self.ds.variables if n not in names]
        if extra:
            raise InvalidChunksError(
                f"the store has no {', '.join(map(repr, extra))}, and what is appended to a store "
                f"has to be in it. Nothing was written. Leave them out: ds.drop_vars({extra!r})."
            )
        dim = self.ask.place.append_dim
        if dim is None:
            return
        if dim in self.inherited:
            raise InvalidChunksError(
                f"{dim!r} is stored in a group above, '/{self.inherited[dim].path}', which would "
                "stay shorter. Nothing was written. Append the whole tree: "
                "tree.chunking.append(store, dim=…)."
            )
        missing = [n for n, h in self.helds.items() if dim in h.dims and n not in self.ds.variables]
        if dim not in self.ds.dims and missing:
            raise InvalidChunksError(
                f"{dim!r} is no dim of the data. Its dims: "
                f"{', '.join(map(repr, self.ds.dims)) or 'none'}."
            )
        if missing:
            raise InvalidChunksError(
                f"{', '.join(map(repr, missing))} of the store has the dim {dim!r} and would "
                "stay shorter than the rest. Nothing was written. Append it with the others."
            )

    def _region(self, decoded: bool, existing: Existing) -> dict[str, slice]:
        """Return where the data go along each of their dims that is not whole."""
        ask = self.ask
        if ask.place.append_dim is not None:
            return {}
        if isinstance(ask.place.region, Mapping):
            known = dict.fromkeys(d for h in existing.arrays.values() for d in h.dims)
            for dim in ask.place.region:
                if dim not in known:
                    raise InvalidChunksError(
                        f"region names {dim!r}, which is no dim of the store. Its dims: "
                        f"{', '.join(map(repr, known))}."
                    )
        return find_region(self.ds, self.labels, self.sizes, ask.place.region, decoded=decoded)

    def _add(self, one: Assembled, held: Held) -> None:
        dim = self.ask.place.append_dim
        moving = [dim] if dim is not None else list(self.region)
        if not any(d in held.dims for d in moving):
            if one.shape != held.info.shape or not same_values(one, held, self.ask.budget):
                raise self._differs(one, held, moving)
            return
        is_index = held.dims == (one.name,)
        if is_index and self.ask.place.check_labels:
            if dim is not None:
                for gap in check_labels_follow(one, held):
                    self.notes.append(gap)
                    warnings.warn(f"{gap}.", XchunkWarning, stacklevel=2)
            else:
                check_labels_match(one, held, self.region[one.name])
                return
        if one.name in self.inherited:
            return
        self.arrays.append((one, held, self._extension(one, held)))

    def _differs(self, one: Assembled, held: Held, moving: Sequence[str]) -> InvalidChunksError:
        """Say what is to be done with a variable that differs, and is not written."""
        said = (
            f"{held.path} does not have the dim {' or '.join(map(repr, moving))}, and differs from "
            "what the store holds. Nothing was written. "
        )
        ordered = order_of(one, held)
        if ordered is not None:
            return InvalidChunksError(
                f"{said}It has the same values in another order: put the data into the order of "
                f"the store, {ordered}."
            )
        shared = {d for v in self.ds.variables.values() if v.dims != one.dims for d in v.dims}
        if one.dims and (one.is_coord or one.name in self.ds.coords) and shared & set(one.dims):
            return InvalidChunksError(
                f"{said}It says where the data lie: without it they would be written to places "
                "where they do not belong. Regrid them to the grid of the store first."
            )
        return InvalidChunksError(
            f"{said}Leave it out, and the store keeps its own: ds.drop_vars({one.name!r})."
        )

    def _extension(self, one: Assembled, held: Held) -> Extension:
        spans = []
        for d, n, size, unit in zip(held.dims, one.shape, held.info.shape, held.units, strict=True):
            if d == self.ask.place.append_dim:
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


def refuse_broken_tree(existing: Existing, extensions: Mapping[str, Extension], ask: Ask) -> None:
    """Refuse to make some groups longer, where groups above or below them would not fit any more.

    xarray opens a tree only if a dim has one length from a group down to the groups in it.
    """
    dim = ask.place.append_dim
    if dim is None:
        return
    grown: dict[str, int] = {}
    for path, e in extensions.items():
        grown[path.rpartition("/")[0]] = e.spans[existing.arrays[path].dims.index(dim)].size
    for group, before in grown.items():
        for path, length in lengths_of_relatives(existing, group, dim).items():
            if path not in extensions and length == before:
                raise InvalidChunksError(
                    f"'/{path}' of the store has the dim {dim!r}, as long as in '/{group}', and "
                    "would stay shorter: the store could no longer be opened as a tree. Nothing "
                    "was written. Append both groups at once, as a DataTree: "
                    "tree.chunking.append(store, dim=…)."
                )


@dataclass(frozen=True, eq=False)
class _Slab:
    """A region of a stored array, which has what dask asks of an array; opened where it is read."""

    ref: ZarrRef
    origin: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        region = [
            slice(o + k.indices(n)[0], o + k.indices(n)[1])
            for o, n, k in zip(self.origin, self.shape, key, strict=True)
        ]
        return open_stored(self.ref).read(region)


def framed(
    extension: Extension, data: Any, old: ZarrRef, dtype: np.dtype[Any], token: str
) -> da.Array:
    """Return the window: the new data, and what there is around them in its units.

    - ``extension``: where the new data go.
    - ``data``: the new data, encoded; dask's or numpy's.
    - ``old``: the existing array.
    - ``dtype``: its dtype.
    - ``token``: what the old values are told by, so that the same run has the same graph.
    """
    import dask.array as da

    out = data if isinstance(data, da.Array) else da.from_array(np.asarray(data), chunks=-1)
    spans = extension.spans
    for axis, span in enumerate(spans):
        parts = [out]
        for length, start in ((span.lead, span.first), (span.trail, span.stop)):
            if not length:
                continue
            # along the dims before this one there is the whole window already
            origin = tuple(
                start if i == axis else (s.first if i < axis else s.start)
                for i, s in enumerate(spans)
            )
            shape = tuple(
                length if i == axis else (s.length if i < axis else s.count)
                for i, s in enumerate(spans)
            )
            slab = _Slab(old, origin, shape, dtype)
            block = da.from_array(
                slab,
                chunks=tuple(min(n, s.unit) or 1 for n, s in zip(shape, spans, strict=True)),
                name=f"xchunk-old-{tokenize(token, origin, shape, str(dtype))}",
                asarray=False,
                meta=np.empty((0,) * len(shape), dtype=dtype),
            )
            parts = [block, *parts] if start < span.start else [*parts, block]
        if len(parts) > 1:
            out = da.concatenate(parts, axis=axis)
    return out
