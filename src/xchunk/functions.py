"""Functions beside the accessor: to prove that a store is right, and to clean up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from xchunk._typing import ByteSize, ProgressLike
from xchunk.errors import SourceError

if TYPE_CHECKING:
    from xchunk.cleaning import Cleaning
    from xchunk.proof import Proof

__all__ = ["clean", "verify"]


def verify(
    source: xr.Dataset | xr.DataArray | xr.DataTree | str | os.PathLike[str],
    target: Any,
    *,
    memory: ByteSize | None = None,
    max_mem: ByteSize | None = None,
    progress: bool | ProgressLike = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Proof:
    """Compare a zarr store with its source, stored bits and metadata.

    Both are read once, box by box within the budget, on the active ``distributed.Client`` or
    on dask's threads.

    Parameters
    ----------
    source : Dataset, DataArray, DataTree, str or path
        What was rechunked. A path or URL is opened as the command line opens it.
    target : str, path or zarr store
        What it was rechunked to.
    memory, max_mem : int or str, optional
        As in ``ds.chunking.budget``.
    progress : bool or object
        As in ``ds.chunking.apply``.
    storage_options : mapping, optional
        What fsspec needs to reach URLs.

    Returns
    -------
    Proof
        What was compared.

    Raises
    ------
    SourceError
        If one of them is not there, or the target is not complete.
    VerificationError
        If anything differs; names each variable, region and storage key, and tells what is
        lost, torn or altered.

    Examples
    --------
    >>> xchunk.verify("maps.nc", "series.zarr")  # doctest: +SKIP
    """
    if isinstance(source, str | os.PathLike):
        from xchunk.sources import open_source

        source = open_source(source, storage_options=storage_options)
    chunking: Any = getattr(source, "chunking", None)
    if chunking is None:
        raise SourceError(
            f"a {type(source).__name__} cannot be verified; give a Dataset, DataArray, DataTree, "
            "path or URL"
        )
    proof: Proof = chunking.verify(
        target,
        memory=memory,
        max_mem=max_mem,
        progress=progress,
        storage_options=storage_options,
    )
    return proof


def clean(
    target: Any, dry_run: bool = True, *, storage_options: Mapping[str, Any] | None = None
) -> Cleaning:
    """Delete what a rechunk that was stopped has left at its target.

    Only what carries our marker is looked at. Of an unfinished target the chunks and metadata
    of its arrays are deleted, and the scratch data; what anybody else put there stays. A
    complete store stays as well, but for scratch data that were left in it. Where a run was
    stopped while it renamed the new store into the place of the old one, that is finished.

    Parameters
    ----------
    target : str, path or zarr store
        What was given as ``store``.
    dry_run : bool
        Whether it is only told what would be deleted.
    storage_options : mapping, optional
        What fsspec needs to reach a URL.

    Returns
    -------
    Cleaning
        What was deleted, or would be.

    Raises
    ------
    TargetExistsError
        If a run that is alive is writing the target.

    Examples
    --------
    >>> xchunk.clean("series.zarr")  # doctest: +SKIP
    >>> xchunk.clean("series.zarr", dry_run=False)  # doctest: +SKIP
    """
    from xchunk.cleaning import clean_target

    return clean_target(target, dry_run=dry_run, storage_options=storage_options)
