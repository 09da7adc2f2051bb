"""Opening datasets in the chunks that fit their use, one task for many stored chunks.

A dataset is opened without dask first, its layouts are read, and each variable is then cut
into blocks of whole stored chunks: every block is one task, and nothing is merged afterwards.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from xchunk._typing import Access, ByteSize, DimChunk
from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.core.suggest import Suggestion, VariableSuggestion, suggest_dataset
from xchunk.core.units import format_seconds
from xchunk.engine.budget import detect_budget
from xchunk.engine.run import current_client
from xchunk.errors import ExcessiveIOWarning, InvalidChunksError, XchunkWarning
from xchunk.joining import Opened, join_files
from xchunk.lazy import chunk_lazily, threads_note
from xchunk.naming import spell_out
from xchunk.sources import open_source
from xchunk.storage.layouts import read_layouts
from xchunk.uses import by_position, group_edges

__all__ = ["Wish", "open_dataset"]


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
    combine: str = "by_coords",
    concat_dim: Any = None,
    join: str = "exact",
    preprocess: Callable[[xr.Dataset], xr.Dataset] | None = None,
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
        one worker may grow, taken as they are. Detected by default.
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
    combine : {"by_coords", "nested"}
        How many files become one, as in `xarray.open_mfdataset`.
    concat_dim : str or sequence, optional
        The dims along which files are put together, for ``combine="nested"``.
    join : str
        What is done where files disagree on the coordinates of the other dims: ``"exact"``
        refuses; the rest is as in `xarray.concat`.
    preprocess : callable, optional
        Applied to each file's Dataset before they are combined.
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
    """
    if "chunks" in open_kwargs:
        raise InvalidChunksError(
            "open_dataset finds the chunks itself. To give them, use "
            f"xr.open_dataset(…, chunks={open_kwargs['chunks']!r})."
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
        ds = chunk_lazily(ds, wish.chunks(ds, read_layouts({"": ds}).layouts))
    else:
        ds = join_files(
            Opened(tuple(names), tuple(opened(name) for name in names)),
            wish.chunks,
            combine=combine,
            concat_dim=concat_dim,
            join=join,
            preprocess=preprocess,
        )
    wish.tell()
    return ds
