"""Datasets from paths: one dataset with its groups, or many files as one, in fitting chunks.

A list, a glob and a folder of netCDF files are spelled out here, for paths and URLs alike.

A dataset is opened without dask first, its layouts are read, and each variable is then cut
into blocks of whole stored chunks: every block is one task, and nothing is merged afterwards.
"""

from __future__ import annotations

import gc
import glob
import inspect
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.types import Access, ByteSize, DimChunk
from xchunk.core.units import format_seconds
from xchunk.errors import ExcessiveIOWarning, InvalidChunksError, SourceError, XchunkWarning
from xchunk.opening.combine import FindChunks, Opened, join_files, open_alike
from xchunk.opening.formats import open_groups, open_source
from xchunk.opening.groups import by_position, group_edges
from xchunk.rechunking.lazy import agreeing, chunk_lazily, threads_note
from xchunk.rechunking.options import nearest_keyword
from xchunk.sources.layouts import read_layouts

if TYPE_CHECKING:
    from xchunk.core.suggest.suggestion import Suggestion, VariableSuggestion

_MAGIC = ("*", "?", "[")
_ZARR = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs", ".zarray")
#: Files that are named one by one where no pattern stands for them.
_FEW = 12
#: How the names of files end that a folder is looked through for.
_FILES = (".nc", ".nc3", ".nc4", ".cdf", ".netcdf", ".h5", ".he5", ".hdf5")


def spell_out(
    src: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    storage_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Spell out what the user named: one source, or several that are to be joined.

    - ``src``: a dataset; a glob such as ``"era5_*.nc"``; a folder that is no zarr store, for the
      netCDF and HDF5 files in it; or several of these.
    - ``storage_options``: what fsspec needs to reach URLs.
    - returns: paths and URLs; those of a glob and of a folder are in the order of their names.
    - raises `SourceError` if nothing matches.
    """
    if isinstance(src, str | os.PathLike):
        return _of_one(os.fspath(src), dict(storage_options or {}))
    if not isinstance(src, Sequence):
        raise SourceError(
            f"{type(src).__name__} is not something to open; give a path, a URL, a glob or a list."
        )
    if not src:
        raise SourceError("there are no files to open: the list is empty.")
    options = dict(storage_options or {})
    names = [name for one in src for name in _of_one(os.fspath(one), options)]
    return list(dict.fromkeys(names))


def patterned(names: Sequence[str], *, ordered: bool = False) -> list[str]:
    """Name files by one pattern; or one by one, if none stands for these and they are few.

    - ``ordered``: whether their order matters.
    - returns: nothing where they are many.
    """
    head = _prefix(names)
    tail = _prefix([name[len(head) :][::-1] for name in names])[::-1]
    pattern = f"{head}*{tail}"
    if len(names) > 2 and "://" not in head:
        found = spell_out([pattern])
        if found == list(names) or (not ordered and sorted(found) == sorted(names)):
            return [pattern]
    return [*names] if len(names) <= _FEW else []


def _prefix(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    alike = itertools.takewhile(lambda cs: len(set(cs)) == 1, zip(*texts, strict=False))
    return "".join(cs[0] for cs in alike)


def _of_one(name: str, options: dict[str, Any]) -> list[str]:
    if "://" in name or "::" in name:
        return _remote(name, options)
    path = Path(name).expanduser()
    if path.exists():
        return _files_of(path) or [name]
    if not any(m in name for m in _MAGIC):
        return [name]
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute ones too
    if not found:
        raise SourceError(f"{name}: no file has such a name. Check the pattern.")
    return found


def _files_of(path: Path) -> list[str]:
    """List the files of a folder that is to be joined; nothing for any other folder."""
    if not path.is_dir() or any((path / key).exists() for key in _ZARR):
        return []
    return sorted(str(p) for p in path.iterdir() if p.suffix.lower() in _FILES and p.is_file())


def _remote(name: str, options: dict[str, Any]) -> list[str]:
    if name.startswith("reference://") and "fo" not in options:
        raise SourceError(
            "reference://: names no references, so nothing is opened. Name the file or the folder "
            "of them instead; or give storage_options={'fo': 'refs.json'} (--storage-option "
            "fo=refs.json)."
        )
    magic = any(m in name.partition("://")[2] for m in _MAGIC)
    if not magic and not name.endswith("/"):
        return [name]
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(name, **options)
        if not magic:
            if any(fs.exists(f"{path.rstrip('/')}/{key}") for key in _ZARR):
                return [name]
            entries = fs.ls(path, detail=False)
            found = [p for p in entries if os.path.splitext(p)[1].lower() in _FILES]  # noqa: PTH122
            return sorted(fs.unstrip_protocol(p) for p in found) or [name]
        found = sorted(fs.unstrip_protocol(p) for p in fs.glob(path))
    except Exception as error:  # every filesystem has errors of its own
        said = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{name}: cannot be listed ({said}).") from error
    if not found:
        # A ? may begin a URL's query, and is no pattern then.
        if "?" in name and not any(m in name for m in ("*", "[")):
            return [name]
        raise SourceError(f"{name}: nothing there has such a name. Check the pattern.")
    return found


#: The dask blocks of files that are joined: the stored chunks, or as many of them as a task of
#: the budget holds.
Blocks = Literal["stored", "fitting"]

#: Bytes of a group that are read to find out whether all files hold the same there.
_COMPARED = 64 << 20


def open_named(
    src: str | Sequence[str],
    group: str | None = None,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    **how: Any,
) -> xr.Dataset | xr.DataTree:
    """Open what a user named: paths, URLs, globs or folders of files.

    - ``src``: what is more than one file is joined.
    - ``group``: the group to open; all of them by default.
    - ``engine``: xarray's name of a backend.
    - ``options``: what fsspec needs to reach URLs.
    - ``**how``: as `open_names` takes it.
    - returns: a tree where there are several groups.
    - raises `SourceError` if there is nothing there, it cannot be read, or files do not fit
      together.
    """
    names = spell_out([src] if isinstance(src, str) else src, options)
    return open_names(names, group, engine, options, **how)


def open_names(
    names: Sequence[str],
    group: str | None = None,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    combine: str | None = None,
    concat_dim: str | Sequence[str] | None = None,
    blocks: Blocks = "stored",
    sizes: Mapping[str, int] | None = None,
    progress: bool | None = None,
    **open_kwargs: Any,
) -> xr.Dataset | xr.DataTree:
    """Open one source, or join several.

    - ``names``: paths and URLs.
    - ``group``: the group to open; all of them by default.
    - ``engine``: xarray's name of a backend.
    - ``options``: what fsspec needs to reach URLs.
    - ``combine`` ({"by_coords", "nested"}): how files are joined; as they are listed where
      ``concat_dim`` is given, by their coordinates otherwise.
    - ``concat_dim``: the dims along which they are put together as they are listed.
    - ``blocks`` ({"stored", "fitting"}): the dask blocks of files that are joined.
    - ``sizes``: ``memory`` or ``max_mem``, for blocks that fit.
    - ``progress``: as in `open_dataset`.
    - ``**open_kwargs``: passed on to `xarray.open_dataset`.
    - returns: a tree where there are several groups.
    - raises `SourceError` if one is not there or cannot be read, or if files do not fit together.
    """
    if len(names) == 1:
        if group is not None:
            return open_source(names[0], engine, group, options, **open_kwargs)
        return _tree(open_groups(names[0], engine, options, **open_kwargs), names[0])
    how = {**open_kwargs, "chunks": None}
    if group is None:
        opened = _open_all_groups(names, engine, options, progress, **how)
    else:
        one = partial(open_source, engine=engine, group=group, storage_options=options, **how)
        opened = [{"": ds} for ds in open_alike(names, group, one, progress=progress)]
    of_task = sizes or {}
    wish = Wish.scan(of_task.get("memory"), of_task.get("max_mem"))
    joining = _Joining(
        tuple(names),
        tuple(opened),
        wish.chunks if blocks == "fitting" else _stored_chunks,
        combine=combine,
        concat_dim=concat_dim,
    )
    joined = joining.all()
    wish.tell()
    return _tree(joined, names[0])


def _open_all_groups(
    names: Sequence[str],
    engine: str | None,
    options: Mapping[str, Any] | None,
    progress: bool | None,
    **how: Any,
) -> list[dict[str, xr.Dataset]]:
    """Open all groups of files, of which those that say the same are opened once."""
    first = open_groups(names[0], engine, options, **how)
    several = {names[0]: first}

    def root(name: str) -> xr.Dataset:
        if name not in several:
            several[name] = open_groups(name, engine, options, **how)
        return several[name][""]

    roots = open_alike(names, None, root, alike=set(first) == {""}, progress=progress)
    return [several.get(name, {"": ds}) for name, ds in zip(names, roots, strict=True)]


def _tree(groups: dict[str, xr.Dataset], name: str) -> xr.Dataset | xr.DataTree:
    if set(groups) == {""}:
        return groups[""]
    try:
        tree = xr.DataTree.from_dict({f"/{path}": ds for path, ds in groups.items()})
    except ValueError as error:
        said = " ".join(str(error).split())
        paths = ", ".join(path or "/" for path in groups)
        raise SourceError(
            f"{name}: its groups ({paths}) do not fit together as one tree ({said[:200]}). Take "
            "one of them: group (--group)."
        ) from error

    def close() -> None:
        for ds in groups.values():
            ds.close()

    # a tree that is made of Datasets does not close them
    tree.set_close(close)
    return tree


@dataclass(frozen=True)
class _Joining:
    """Files that are joined, group by group."""

    names: tuple[str, ...]
    """Their paths and URLs."""
    opened: tuple[Mapping[str, xr.Dataset], ...]
    """The groups of each of them."""
    find_chunks: FindChunks
    """Finds the dask blocks."""
    combine: str | None
    """How they are joined."""
    concat_dim: Any
    """The dims along which they are put together as they are listed."""

    def all(self) -> dict[str, xr.Dataset]:
        """Join all groups."""
        first = self.opened[0]
        full = {path for path, ds in first.items() if ds.variables}
        for name, groups in zip(self.names, self.opened, strict=True):
            differ = full ^ {path for path, ds in groups.items() if ds.variables}
            if differ:
                raise SourceError(
                    f"{name} and {self.names[0]} do not hold the same groups: "
                    f"{', '.join(path or '/' for path in sorted(differ))}. Take one that all of "
                    "them hold: group (--group)."
                )
        # a group without variables may still have attributes
        return {
            path: self._join(path) if path in full else xr.Dataset(attrs=ds.attrs)
            for path, ds in first.items()
        }

    def _join(self, path: str) -> xr.Dataset:
        # the order of files may be told by a coordinate that the group inherits
        lent = [_with_inherited(groups, path) for groups in self.opened]
        files = Opened(self.names, tuple(lent))
        if len(self.opened[0]) > 1 and self.combine == "by_coords" and _are_equal(lent):
            # what a tree holds once, such as the coordinates of a grid
            ds = lent[0].copy()
        else:
            ds = join_files(
                files,
                self.find_chunks,
                combine=self.combine,
                concat_dim=self.concat_dim,
                join="exact",
                preprocess=None,
            )
        own = {name for groups in self.opened for name in groups[path].variables}
        ds = ds.drop_vars([name for name in ds.coords if name not in own])
        ds.set_close(files.close)
        ds.encoding["source"] = f"{self.names[0]} … {self.names[-1]} ({len(self.names)} files)"
        return ds


def _are_equal(datasets: Sequence[xr.Dataset]) -> bool:
    """Return whether files hold the same; what is large is taken to differ, and not read."""
    first, *rest = datasets
    alike = all(
        ds.sizes == first.sizes and set(ds.variables) == set(first.variables) for ds in rest
    )
    if not alike or first.nbytes > _COMPARED:
        return False
    # axes first, which are in memory; parts of variables, so that the others do not stay there
    names = sorted(first.variables, key=lambda name: name not in first.xindexes)
    held: dict[Any, Any] = {name: first.variables[name][...] for name in names}
    return all(held[name].identical(ds.variables[name][...]) for name in names for ds in rest)


def _with_inherited(groups: Mapping[str, xr.Dataset], path: str) -> xr.Dataset:
    """Give a group the coordinates of its dims that are stored in the groups that hold it."""
    ds = out = groups[path]
    above = path
    while above:
        above = above.rpartition("/")[0]
        indexes = groups[above].xindexes if above in groups else {}
        lent = {d: groups[above][d].variable for d in indexes if d in out.dims}
        out = out.assign_coords({d: v for d, v in lent.items() if d not in out.variables})
    if out is not ds:
        out.set_close(ds.close)
    return out


def _stored_chunks(
    _: xr.Dataset, layouts: Sequence[ArrayLayout]
) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Take stored chunks as blocks; what is not chunked is one block for each file."""
    return {
        layout.name: dict(zip(layout.dims, layout.chunks or layout.shape, strict=True))
        for layout in layouts
    }


@dataclass(frozen=True)
class Wish:
    """How the data will be used, and with what: all that decides the chunks."""

    access: Any
    """The use, as a user says it; None: a scan."""
    memory: ByteSize | None
    """The limit of one worker."""
    max_mem: ByteSize | None
    """The bytes by which one worker may grow."""
    rates: Rates | None
    """How fast the store and the codecs are."""
    pattern: Mapping[str, Any]
    """More about the use."""
    notes: dict[str, type[Warning]] = field(default_factory=dict)
    """What was noted while chunks were found, and the class of the warning."""

    @classmethod
    def scan(
        cls, memory: ByteSize | None, max_mem: ByteSize | None, rates: Rates | None = None
    ) -> Wish:
        """Wish for nothing but to read all of it once."""
        return cls(None, memory, max_mem, rates, {"groupby": None, "resample": None})

    def tell(self, stacklevel: int = 2) -> None:
        """Warn of what was noted while chunks were found."""
        for said, kind in self.notes.items():
            warnings.warn(said, kind, stacklevel=stacklevel + 1)

    def suggest(self, ds: xr.Dataset, layouts: Sequence[ArrayLayout]) -> Suggestion:
        """Suggest chunks for one Dataset."""
        from xchunk.core.suggest.suggestion import suggest_dataset
        from xchunk.engine.budget import detect_budget
        from xchunk.engine.cluster import current_client

        own = dict(self.pattern)
        groups = group_edges([ds], groupby=own.pop("groupby"), resample=own.pop("resample"))
        return suggest_dataset(
            layouts,
            "scan" if self.access is None else by_position(self.access, [ds]),
            detect_budget(self.memory, self.max_mem, client=current_client()),
            rates=self.rates,
            groups=groups,
            **own,
        )

    def chunks(
        self, ds: xr.Dataset, layouts: Sequence[ArrayLayout]
    ) -> dict[str, dict[str, DimChunk]]:
        """Find the blocks of each variable; those that are better loaded as a whole are left out.

        Where the advice is to rechunk first, the blocks of the best lazy pass are taken, and
        a note is made of it.
        """
        suggestion = self.suggest(ds, layouts)
        if said := threads_note(suggestion):
            self.notes[said] = XchunkWarning
        staged = [v for v in suggestion.variables.values() if v.action == "stage"]
        self.notes.update((_staged(v, suggestion), ExcessiveIOWarning) for v in staged)
        if any(v.lazy_chunks is None for v in staged):
            scan = Wish.scan(self.memory, self.max_mem, self.rates)
            spare = scan.suggest(ds, layouts).lazy_chunks
        else:
            spare = {}
        return {
            name: dict(v.lazy_chunks if v.lazy_chunks is not None else spare.get(name, {}))
            for name, v in suggestion.variables.items()
            if v.action != "load"
        }


def _staged(v: VariableSuggestion, suggestion: Suggestion) -> str:
    if v.lazy_chunks is None:
        now = "no blocks for this use fit a worker, so that it is opened in blocks for a scan"
    else:
        now = f"a pass decodes each stored chunk {v.read_amplification:.3g} times"
        if v.seconds_now is not None:
            now += f" and takes about {format_seconds(v.seconds_now)}"
    once = "" if v.rechunk_seconds is None else f" (about {format_seconds(v.rechunk_seconds)})"
    return (
        f"{v.name!r} is not stored for {suggestion.access}: {now}. Rechunked once{once} it would "
        "be read as it is needed: ds.chunking.apply(ds.chunking.suggest(…), store='….zarr')."
    )


@contextmanager
def _without_collections() -> Iterator[None]:
    """Put off the search for unused cycles of objects, which looks at all that are made.

    Of 1,000 files it took a sixth of the time, and found next to nothing.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def open_dataset(
    src: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    access: Access | None = None,
    *,
    memory: ByteSize | None = None,
    max_mem: ByteSize | None = None,
    rates: Rates | None = None,
    reduce: str | Sequence[str] | Mapping[str, str] = (),
    rolling: Mapping[str, int] | None = None,
    groupby: str | Sequence[str] | None = None,
    resample: Mapping[str, Any] | None = None,
    engine: str | None = None,
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    combine: str | None = None,
    concat_dim: Any = None,
    join: str = "exact",
    preprocess: Callable[[xr.Dataset], xr.Dataset] | None = None,
    progress: bool | None = None,
    **open_kwargs: Any,
) -> xr.Dataset:
    """Open a dataset, or many files as one, in chunks that fit the memory and the use.

    Each block is one task, which reads as many stored chunks as fit, over files if need be.
    Variables that one thread holds easily are left without dask, to be loaded when they are used.

    Parameters
    ----------
    src : str, path, or sequence of them
        A netCDF, HDF5 or zarr dataset, a path or a URL; several; a glob (``"era5_*.nc"``); or a
        folder of netCDF files.
    access : str, mapping or list, optional
        How the data will be used, as ``ds.chunking.suggest`` takes it. A scan by default.
    memory, max_mem : int or str, optional
        The limit of one worker, of which dask's target fraction is used; or the bytes by which
        one worker may grow, used as given. Detected by default.
    rates : Rates, optional
        How fast the store and the codecs are; defaults otherwise.
    reduce, rolling, groupby, resample
        More about the use, as ``ds.chunking.suggest`` takes it.
    engine : str, optional
        xarray's name of a backend; found by the content by default.
    group : str, optional
        Group within the source; the root by default.
    storage_options : mapping, optional
        Options for fsspec, for URLs.
    combine : {"by_coords", "nested"}, optional
        How many files become one, as in `xarray.open_mfdataset`: as they are listed where
        ``concat_dim`` is given, by their coordinates otherwise.
    concat_dim : str or sequence, optional
        The dims along which files are put together as they are listed.
    join : str
        What is done where files disagree on the coordinates of the other dims: ``"exact"``
        refuses; the rest is as in `xarray.concat`.
    preprocess : callable, optional
        Applied to each file's Dataset before they are combined.
    progress : bool, optional
        Whether many files are counted on the terminal while they are opened, once that takes more
        than two seconds. By default, only where the terminal is interactive.
    **open_kwargs
        Passed on to `xarray.open_dataset`.

    Returns
    -------
    xarray.Dataset
        Each variable with its own dask chunks; nothing but metadata and indexes is read.

    Raises
    ------
    SourceError
        If there is nothing there, it cannot be read, or the files do not fit together.
    InvalidChunksError
        If the use cannot be understood.
    MemoryBudgetError
        If nothing fits.

    Examples
    --------
    >>> ds = xchunk.open_dataset("maps.zarr", "timeseries", max_mem="20MB")
    >>> ds.chunks["lat"]
    (20, 20)
    """
    if "chunks" in open_kwargs:
        raise InvalidChunksError(
            "open_dataset finds the chunks itself. To give them, use "
            f"xr.open_dataset(…, chunks={open_kwargs['chunks']!r})."
        )
    for name in open_kwargs:
        nearest = nearest_keyword(name, inspect.signature(open_dataset).parameters, 0.8)
        if nearest is not None:
            raise TypeError(
                f"open_dataset() got an unexpected keyword argument {name!r}; did you mean "
                f"{nearest!r}?"
            )
    pattern = {"reduce": reduce, "rolling": rolling, "groupby": groupby, "resample": resample}
    wish = Wish(access, memory, max_mem, rates, pattern)
    names = spell_out(src, storage_options)

    def opened(name: Any) -> xr.Dataset:
        return open_source(name, engine, group, storage_options, chunks=None, **open_kwargs)

    if len(names) == 1:
        ds = opened(names[0])
        if preprocess is not None:
            ds = preprocess(ds)
        ds = agreeing(chunk_lazily(ds, wish.chunks(ds, read_layouts({"": ds}).layouts)))
    else:
        # a function of the user's may look at anything
        alike = preprocess is None and not open_kwargs
        with _without_collections() if preprocess is None else nullcontext():
            files = open_alike(names, group, opened, alike=alike, progress=progress)
            ds = join_files(
                Opened(tuple(names), tuple(files)),
                wish.chunks,
                combine=combine,
                concat_dim=concat_dim,
                join=join,
                preprocess=preprocess,
            )
        ds = agreeing(ds)
    wish.tell()
    return ds
