"""rechunker's sources, bound to their targets: arrays, groups and Datasets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from xarray.backends.zarr import FillValueCoder
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath

from xchunk.core.chunkspec import chunks_for_store, parse_chunks, shards_for_store
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.stages import Limits
from xchunk.core.types import ZarrFormat
from xchunk.engine.graph import Engine
from xchunk.errors import EncodingError, InvalidChunksError
from xchunk.rechunking.bind import bind, bind_targets, with_blocks
from xchunk.rechunking.options import RechunkOptions
from xchunk.rechunking.runner import Rechunk
from xchunk.rechunking.verify import Proof, prove_arrays
from xchunk.sources.arrays import open_stored
from xchunk.sources.provenance import refuse_misread
from xchunk.sources.refs import StoredInfo, ZarrRef
from xchunk.sources.trace import trace
from xchunk.stores.stores import describe, open_store, reaching
from xchunk.targets.codecs import target_codecs, tidy_codecs
from xchunk.targets.encode import Assembled
from xchunk.targets.location import Site
from xchunk.targets.metadata import TargetArray, TargetMetadata, sort_documents


@dataclass(frozen=True)
class Target:
    """Where the result goes."""

    store: Store
    """The store, of which the result is all."""
    parent: zarr.Group | None = None
    """The group of which the result becomes a member."""
    overwrite: bool = False
    """Whether an existing zarr store is replaced."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of an empty group that is there, which stay."""

    def refresh(self) -> None:
        """Show the new member in the consolidated metadata of its group, where there are any."""
        parent = self.parent
        if parent is None or parent.metadata.consolidated_metadata is None:
            return
        zarr.consolidate_metadata(parent.store_path.store, path=parent.path or None)


def _is_place(value: Any) -> bool:
    """Return whether this is where something is stored, and no mapping of options."""
    kinds = (str, os.PathLike, Store, StorePath, zarr.Group)
    return isinstance(value, kinds) or (hasattr(value, "fs") and hasattr(value, "root"))


def in_order(options: Any, temp_store: Any) -> tuple[Mapping[str, Any] | None, Any]:
    """Return options and scratch store in their order.

    Early versions of rechunker had the scratch store as their fifth argument; what is given
    there tells which of the two it is.
    """
    if _is_place(options):
        return (temp_store if isinstance(temp_store, Mapping) else None), options
    if options is None and isinstance(temp_store, dict) and temp_store:
        return temp_store, None
    if options is not None and not isinstance(options, Mapping):
        raise InvalidChunksError(f"target_options={options!r} is not a mapping of options.")
    return options, temp_store


def find_target(where: Any, name: str | None, storage_options: Mapping[str, Any] | None) -> Target:
    """Find the place of the result.

    - ``where``: what the user named.
    - ``name``: name within a group, of an array; empty: the result is a group itself; None: an
      array without a name.
    - ``storage_options``: what fsspec needs to reach a URL.
    - raises `InvalidChunksError` if an array without a name is to become a member of a group.
    """
    if not isinstance(where, zarr.Group):
        return Target(_open(where, storage_options))
    if name is None:
        raise InvalidChunksError(
            "the target is a group, so that the array needs a name in it: give array_name."
        )
    if name:
        return Target(_below(where.store_path.store, _joined(where.path, name)), parent=where)
    empty = where.nmembers() == 0
    store = _below(where.store_path.store, where.path)
    return Target(store, overwrite=empty, attrs=dict(where.attrs) if empty else {})


def open_scratch(where: Any, storage_options: Mapping[str, Any] | None) -> Store:
    """Open the store for scratch data."""
    if isinstance(where, zarr.Group):
        return _below(where.store_path.store, where.path)
    return _open(where, storage_options)


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _open(where: Any, storage_options: Mapping[str, Any] | None) -> Store:
    if isinstance(where, StorePath) and where.path:
        return _below(where.store, where.path)
    if isinstance(where, MutableMapping) and not hasattr(where, "fs"):
        return MemoryStore(where)
    return open_store(where, storage_options=storage_options)


def _below(store: Store, path: str) -> Store:
    """Return what lies below a path of a store as a store of its own."""
    if not path:
        return store
    if isinstance(store, LocalStore):
        return LocalStore(Path(store.root) / path)
    if isinstance(store, FsspecStore):
        return FsspecStore(store.fs, path=f"{store.path.rstrip('/')}/{path}")
    raise InvalidChunksError(
        f"a path within {describe(store)} cannot be a target of its own; give a path or a URL."
    )


_DIMS = "_ARRAY_DIMENSIONS"


@dataclass(frozen=True)
class PlainArray:
    """An array of a source, with what its target's metadata will say."""

    assembled: Assembled
    """What is written."""
    chunks: tuple[int, ...]
    """Elements of a chunk of the source along each dim."""
    shards: tuple[int, ...] | None = None
    """Elements of a shard of the source along each dim; None: no shards."""
    dims: tuple[str | None, ...] | None = None
    """Names of the dims; None: they have none."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """The attributes as zarr has them."""
    data_type: Any = None
    """The data type as zarr has it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else is given to zarr when the target is made: codecs, fill value, order."""


def dims_of(array: zarr.Array[Any]) -> tuple[str | None, ...] | None:
    """Return the names of an array's dims; None where it has none."""
    named: Any = getattr(array.metadata, "dimension_names", None)
    if named is None:
        named = array.attrs.get(_DIMS)
    return tuple(named) if isinstance(named, list | tuple) and len(named) == array.ndim else None


def assemble_stored(
    array: zarr.Array[Any], path: str, *, zarr_format: int, options: Mapping[str, Any]
) -> PlainArray:
    """Assemble a zarr array: its bytes are copied as they are stored.

    - ``array``: the source.
    - ``path``: its path in the target; empty: it is all of the target.
    - ``zarr_format`` ({2, 3}): the target's format.
    - ``options``: what is to differ from the source: ``compressors``, ``filters``, ``serializer``,
      ``fill_value`` and ``order``.
    """
    refuse_misread(path or "the array", array)
    own = array.metadata.zarr_format
    ref = ZarrRef(array.store_path.store, array.path, own)
    info = open_stored(ref).info
    like = _with_codecs(info, options)
    encoding, notes = target_codecs(like, zarr_format, inherited=like is info)
    dims = dims_of(array)
    names = tuple(d or f"dim_{i}" for i, d in enumerate(dims or (None,) * array.ndim))
    objects = info.dtype.hasobject or info.dtype.kind == "T"
    chunks = tuple(c if isinstance(c, int) else max(c) for c in info.chunks or ())
    variable = None
    if objects:
        import dask.array as da

        variable = xr.Variable(names, da.from_array(array, chunks=chunks or -1))
    group, _, name = path.rpartition("/")
    settings = {**encoding, "fill_value": array.fill_value}
    if zarr_format == 2:
        settings["order"] = array.order
    if own == zarr_format and info.chunk_keys is not None:
        settings["chunk_key_encoding"] = info.chunk_keys
    one = Assembled(
        name=name,
        group=group,
        dims=names,
        shape=info.shape,
        dtype=info.dtype,
        attrs=info.attrs,
        encoding=encoding,
        ref=None if objects else ref,
        origin=() if objects else (0,) * array.ndim,
        info=None if objects else info,
        variable=variable,
        notes=tuple(notes),
    )
    kept = {k: options[k] for k in ("fill_value", "order") if k in options}
    attrs = {k: v for k, v in array.attrs.items() if k != _DIMS}
    if dims is not None and own != zarr_format:
        _move_fill(info, attrs, settings, zarr_format)
    metadata: Any = array.metadata
    data_type = metadata.data_type if own == 3 else metadata.dtype
    return PlainArray(one, chunks, info.shards, dims, attrs, data_type, {**settings, **kept})


def _move_fill(
    info: StoredInfo, attrs: dict[str, Any], settings: dict[str, Any], zarr_format: int
) -> None:
    """Say of an array with named dims what is missing, as xarray reads it in the other format.

    In format 2 it is the fill value, in format 3 an attribute.
    """
    missing = info.attrs.get("_FillValue")
    if zarr_format == 2:
        attrs.pop("_FillValue", None)
        settings["fill_value"] = missing
    elif missing is not None:
        attrs["_FillValue"] = FillValueCoder.encode(missing, info.dtype)


def _with_codecs(info: StoredInfo, options: Mapping[str, Any]) -> StoredInfo:
    keys = ("compressors", "filters", "serializer")
    asked = tidy_codecs({k: options[k] for k in keys if k in options})
    if not asked:
        return info
    of_v2 = any(hasattr(c, "get_config") for k in asked for c in asked[k] or ())
    known = dict(info.encoding) if ("zarr2" if of_v2 else "zarr3") == info.format else {}
    return replace(info, format="zarr2" if of_v2 else "zarr3", encoding={**known, **asked})


def assemble_blocks(
    array: da.Array, path: str, *, zarr_format: int, options: Mapping[str, Any]
) -> PlainArray:
    """Assemble a dask array: stored bytes where it shows some as they are, else its blocks.

    The parameters are those of `assemble_stored`.
    """
    if any(np.isnan(n) for n in array.shape):
        raise EncodingError(
            f"the dask array has an unknown shape, {array.shape}. Nothing was written. "
            "Call its compute_chunk_sizes() first."
        )
    dims = tuple(f"dim_{i}" for i in range(array.ndim))
    shape = tuple(int(n) for n in array.shape)
    dtype = np.dtype(array.dtype)
    empty = StoredInfo(shape, dtype, None, None, (), f"zarr{zarr_format}", None, {}, {})
    like = _with_codecs(empty, options)
    encoding, notes = target_codecs(like, zarr_format, inherited=False)
    group, _, name = path.rpartition("/")
    variable = xr.Variable(dims, array)
    one = Assembled(
        name, group, dims, shape, dtype, {}, encoding, variable=variable, notes=tuple(notes)
    )
    traced = trace(variable)
    if traced is not None and traced.is_box and not traced.decoders and dtype.kind not in "OT":
        info = open_stored(traced.ref).info
        if info.dtype == dtype:
            origin = tuple(part.start for part in traced.axes)
            one = replace(one, variable=None, ref=traced.ref, origin=origin, info=info)
    chunks = tuple(max(1, *sizes) if sizes else 1 for sizes in array.chunks)
    kept = {k: options[k] for k in ("fill_value", "order") if k in options}
    return PlainArray(one, chunks, data_type=dtype, settings={**encoding, **kept})


def make_plain_metadata(
    arrays: Sequence[tuple[PlainArray, TargetArray]],
    groups: Mapping[str, Mapping[str, Any]],
    *,
    zarr_format: int,
) -> TargetMetadata:
    """Make the metadata of a target of plain arrays.

    ``groups`` has attributes by path; it is empty where an array is all of the target.

    - raises `EncodingError` if zarr cannot hold an array as it is to be written.
    """
    documents: dict[str, Any] = {}
    store = MemoryStore(documents)
    with warnings.catch_warnings():
        # zarr tells that consolidated metadata and some dtypes are not in the v3 standard yet
        warnings.simplefilter("ignore")
        for path, attrs in groups.items():
            zarr.create_group(
                store,
                path=path or None,
                attributes=dict(attrs),
                zarr_format=zarr_format,  # type: ignore[arg-type]
                overwrite=True,
            )
        for plain, target in arrays:
            try:
                _create(store, plain, target, zarr_format)
            except (ValueError, TypeError, NotImplementedError, KeyError) as error:
                raise EncodingError(
                    f"{plain.assembled.path or 'the array'}: the target's metadata cannot be "
                    f"made: {error}. Nothing was written."
                ) from error
        if groups:
            zarr.consolidate_metadata(store, zarr_format=zarr_format)  # type: ignore[arg-type]
    return sort_documents(documents, list(groups) or [""], zarr_format)


def _create(store: MemoryStore, plain: PlainArray, target: TargetArray, zarr_format: int) -> None:
    settings = dict(plain.settings)
    attrs = dict(plain.attrs)
    if plain.dims is not None and zarr_format == 2:
        attrs[_DIMS] = list(plain.dims)
    elif plain.dims is not None:
        settings["dimension_names"] = plain.dims
    for key in ("filters", "compressors", "serializer"):
        if key in settings and settings[key] is None:
            settings[key] = () if key != "serializer" else "auto"
    shape = plain.assembled.shape
    zarr.create_array(
        store,
        name=plain.assembled.path or None,
        shape=shape,
        dtype=plain.data_type,
        chunks=tuple(max(1, c) for c in target.chunks) if shape else (),
        shards=target.shards,
        zarr_format=zarr_format,  # type: ignore[arg-type]
        attributes=attrs,
        **settings,
    )


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

        - raises `EncodingError` if an option is not known.
        - raises `InvalidChunksError` if options by name are no mapping, or name what is not there.
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

    - raises `InvalidChunksError` if the chunks make no sense.
    """
    shards: dict[str, dict[str, int]] = {}
    out = ds.assign_attrs({**how.target.attrs, **ds.attrs})
    for name in wanted.options:
        own = dict(wanted.of(name))
        own_shards = own.pop("shards", None)
        if own_shards is not None:
            shards[name] = dict(zip(map(str, ds[name].dims), own_shards, strict=False))
        out[name].encoding = {**out[name].encoding, **own}
    options = RechunkOptions(
        chunks=_chunks_of_dataset(ds, wanted.chunks),
        limits=how.limits,
        shards=shards,
        zarr_format=wanted.zarr_format,
        overwrite=how.target.overwrite,
        resume=how.resume,
        scratch=how.scratch,
    )
    return bind({"": out}, how.target.store, options, budget=how.budget, engine=how.engine)


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

    - raises `InvalidChunksError` if the chunks make no sense.
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
