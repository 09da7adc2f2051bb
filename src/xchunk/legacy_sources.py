"""What rechunker's callers rechunk, bound to its target: arrays, groups and Datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store

from xchunk._typing import ZarrFormat
from xchunk.binding import bind, bind_targets
from xchunk.bound import Rechunk
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import Limits
from xchunk.core.spec import chunks_for_store, parse_chunks, shards_for_store
from xchunk.engine.run import Engine
from xchunk.errors import EncodingError, InvalidChunksError
from xchunk.jobs import with_blocks
from xchunk.legacy_stores import Target
from xchunk.proof import Proof, prove_arrays
from xchunk.storage.plain import (
    PlainArray,
    assemble_blocks,
    assemble_stored,
    make_plain_metadata,
)
from xchunk.storage.site import Site
from xchunk.storage.stores import reaching
from xchunk.storage.target import TargetArray

__all__ = ["Bind", "Wanted", "bind_dataset", "bind_plain", "prove_plain"]

#: What zarr is told of an array, and what made a difference in zarr 2 only.
_OPTIONS = {"compressor", "compressors", "filters", "serializer", "fill_value", "order", "shards"}
_NO_EFFECT = {"cache_attrs", "cache_metadata", "overwrite", "write_empty_chunks"}


@dataclass(frozen=True)
class Wanted:
    """The chunks and options that are asked for, as they were given."""

    chunks: Any
    """``target_chunks``."""
    options: Mapping[str, Any]
    """``target_options``."""
    zarr_format: ZarrFormat | None
    """The target's format; None: the source's."""
    single: bool
    """Whether they are those of one array, and not by name."""

    @property
    def overwrite(self) -> bool:
        """Whether any of the options asks that what is there be replaced."""
        each = [self.options] if self.single else list(self.options.values())
        return any(bool(o.get("overwrite")) for o in each if isinstance(o, Mapping))

    def check(self, source: Any) -> None:
        """Refuse options that make no sense for a source.

        Raises
        ------
        EncodingError
            If an option is not known.
        InvalidChunksError
            If options by name are no mapping, or name what is not there.
        """
        if self.single:
            _check_options(self.options, "")
            return
        for name, own in self.options.items():
            if name not in source:
                raise InvalidChunksError(f"the options name {name!r}, which is not in the source.")
            if not isinstance(own, Mapping):
                raise InvalidChunksError(
                    f"the options of {name!r} are {own!r}. Give a mapping by name of the array: "
                    "{name: {'compressor': …}}."
                )
            if isinstance(source, zarr.Group):
                _check_options(own, name)
            elif "chunks" in own:
                raise EncodingError(
                    f"chunks of {name!r} are given in its options. Give them in target_chunks."
                )

    def of(self, name: str) -> Mapping[str, Any]:
        """Return the options of one array, with zarr 3's names."""
        own = dict(self.options if self.single else self.options.get(name) or {})
        return _named_as_now({k: v for k, v in own.items() if k not in _NO_EFFECT})


def _check_options(options: Mapping[str, Any], name: str) -> None:
    for key in options:
        if key not in _OPTIONS | _NO_EFFECT:
            raise EncodingError(
                f"the option {key!r}{f' of {name!r}' if name else ''} is not known. Options: "
                f"{', '.join(sorted(_OPTIONS | _NO_EFFECT))}."
            )


def _named_as_now(options: dict[str, Any]) -> dict[str, Any]:
    """Give zarr 2's names of codecs as zarr 3's; nothing to compress with is an empty tuple."""
    if "compressor" in options:
        one = options.pop("compressor")
        if one == "default":
            return options
        options["compressors"] = () if one is None else (one,)
    for key in ("compressors", "filters"):
        if key in options:
            value = options[key]
            several = isinstance(value, list | tuple)
            options[key] = tuple(value or ()) if several or value is None else (value,)
    return options


@dataclass(frozen=True)
class Bind:
    """How what is wanted is bound to its stores."""

    target: Target
    """Where the result goes."""
    budget: MemoryBudget
    """What the tasks of one worker may take."""
    scratch: Store | None
    """Where scratch data go; None: to the target's own store."""
    engine: Engine | None
    """What plans and copies; None: xchunk."""
    resume: bool
    """Whether boxes that an earlier run has written are kept."""
    limits: Limits
    """What a plan may not exceed besides memory."""


def bind_dataset(ds: xr.Dataset, wanted: Wanted, how: Bind) -> Rechunk:
    """Bind a Dataset.

    Raises
    ------
    InvalidChunksError
        If the chunks make no sense.
    """
    shards: dict[str, dict[str, int]] = {}
    out = ds.assign_attrs({**how.target.attrs, **ds.attrs})
    for name in wanted.options:
        own = dict(wanted.of(name))
        own_shards = own.pop("shards", None)
        if own_shards is not None:
            shards[name] = dict(zip(map(str, ds[name].dims), own_shards, strict=False))
        out[name].encoding = {**out[name].encoding, **own}
    return bind(
        {"": out},
        _chunks_of_dataset(ds, wanted.chunks),
        how.target.store,
        budget=how.budget,
        limits=how.limits,
        shards=shards,
        zarr_format=wanted.zarr_format,
        overwrite=how.target.overwrite,
        resume=how.resume,
        scratch=how.scratch,
        engine=how.engine,
    )


def _chunks_of_dataset(ds: xr.Dataset, chunks: Any) -> dict[str, dict[str, Any]]:
    """Spell the chunks out for each variable, as rechunker understands them."""
    if not isinstance(chunks, Mapping):
        raise InvalidChunksError(
            f"target_chunks={chunks!r}: for a Dataset give {{dim: n}}, or {{variable: …}}."
        )
    out: dict[str, dict[str, Any]] = {}
    if all(key in ds.dims for key in chunks):
        for name, variable in ds.variables.items():
            if name in ds.coords and variable.ndim == 1:
                continue  # the axis itself is kept in one piece
            blocks = dict(zip(variable.dims, variable.chunks or (), strict=False))
            out[str(name)] = {
                str(d): _length(chunks[d])
                if chunks.get(d) is not None
                else max(blocks[d], default=1)
                if d in blocks
                else -1
                for d in variable.dims
            }
        return out
    for name, own in chunks.items():
        if name not in ds.variables:
            raise InvalidChunksError(
                f"target_chunks name {name!r}, which is neither a dim nor a variable. Variables: "
                f"{', '.join(repr(str(v)) for v in ds.variables)}."
            )
        if own is not None:
            dims = tuple(str(d) for d in ds.variables[name].dims)
            out[str(name)] = _by_dim(own, dims, str(name))
    return out


def _length(n: Any) -> Any:
    return -1 if isinstance(n, int | np.integer) and n < 0 else n


def _by_dim(chunks: Any, dims: Sequence[str], name: str) -> dict[str, Any]:
    """Turn the chunks of one array into lengths by dim."""
    if isinstance(chunks, Mapping):
        return {str(d): _length(n) for d, n in chunks.items()}
    if not isinstance(chunks, tuple | list) or len(chunks) != len(dims):
        raise InvalidChunksError(
            f"target_chunks={chunks!r} for {name!r}: give one length for each of its "
            f"{len(dims)} dims, or {{dim: n}}."
        )
    return {d: _length(n) for d, n in zip(dims, chunks, strict=True)}


def bind_plain(source: Any, wanted: Wanted, how: Bind) -> Rechunk:
    """Bind a zarr array or group, or a dask array.

    Raises
    ------
    InvalidChunksError
        If the chunks make no sense.
    """
    zarr_format = wanted.zarr_format or _format_of(source)
    site = Site(how.target.store, overwrite=how.target.overwrite)
    with reaching(site.store):
        site.check()
    arrays: list[tuple[PlainArray, TargetArray]] = []
    groups: dict[str, Mapping[str, Any]] = {}
    if isinstance(source, zarr.Group):
        if not isinstance(wanted.chunks, Mapping):
            raise InvalidChunksError(
                f"target_chunks={wanted.chunks!r}: for a group give {{name of the array: …}}."
            )
        groups = {"": {**how.target.attrs, **source.attrs}, **dict(_groups_in(source))}
        for name, chunks in wanted.chunks.items():
            array = _member(source, name)
            plain = assemble_stored(
                array, array_path(name), zarr_format=zarr_format, options=wanted.of(name)
            )
            arrays.append((plain, _target(plain, chunks, wanted.of(name), how.budget)))
    else:
        make = assemble_blocks if isinstance(source, da.Array) else assemble_stored
        plain = make(source, "", zarr_format=zarr_format, options=wanted.of(""))
        arrays.append((plain, _target(plain, wanted.chunks, wanted.of(""), how.budget)))
    return bind_targets(
        [target for _, target in arrays],
        make_plain_metadata(arrays, groups, zarr_format=zarr_format),
        site,
        budget=how.budget,
        limits=how.limits,
        resume=how.resume,
        scratch=how.scratch,
        engine=how.engine,
    )


def array_path(name: str) -> str:
    """Return the path of an array in its group as a store has it."""
    return name.strip("/")


def _format_of(source: Any) -> int:
    return 3 if isinstance(source, da.Array) else int(source.metadata.zarr_format)


def _groups_in(group: zarr.Group) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, member in group.members(max_depth=None):
        if isinstance(member, zarr.Group):
            yield path, dict(member.attrs)


def _member(group: zarr.Group, name: Any) -> zarr.Array[Any]:
    found = group.get(name) if isinstance(name, str) else None
    if not isinstance(found, zarr.Array):
        arrays = [p for p, m in group.members(max_depth=None) if isinstance(m, zarr.Array)]
        raise InvalidChunksError(
            f"target_chunks name {name!r}, which is no array of the group. Arrays: "
            f"{', '.join(map(repr, arrays[:12])) or 'none'}."
        )
    return found


def _target(
    plain: PlainArray, chunks: Any, options: Mapping[str, Any], budget: MemoryBudget
) -> TargetArray:
    one = plain.assembled
    name = one.path or "array"
    layout = ArrayLayout(
        name=name,
        dims=one.dims,
        shape=one.shape,
        dtype=one.dtype,
        stored_dtype=one.dtype,
        chunks=plain.chunks or None,
        format="zarr3",
    )
    shards = None
    if chunks is None:
        own, shards = plain.chunks, plain.shards
    else:
        if isinstance(chunks, Mapping) and plain.dims is None:
            raise InvalidChunksError(
                f"target_chunks={chunks!r} for {name!r}: its dims have no names. Give one length "
                f"for each of its {len(one.shape)} dims."
            )
        named = parse_chunks({name: _by_dim(chunks, one.dims, name)}, [layout])[name]
        own = chunks_for_store(layout, named)
    if options.get("shards") is not None:
        asked = {name: _by_dim(options["shards"], one.dims, name)}
        shards = shards_for_store(layout, parse_chunks(asked, [layout], "shards")[name], own)
    target = TargetArray(one, own, shards)
    return replace(target, assembled=with_blocks(target, budget))


def prove_plain(bound: Rechunk, store: Store) -> Proof:
    """Compare what was written with its source bit by bit."""
    sources = [copy.assembled for copy in bound.copies]
    return prove_arrays(sources, store, budget=bound.plan.budget)
