"""Functions beside the accessor: many rechunks at once, to verify a store, and to clean up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from xchunk._typing import ByteSize, ProgressLike
from xchunk.errors import SourceError

if TYPE_CHECKING:
    from distributed import Client

    from xchunk.batching.report import BatchReport
    from xchunk.cleaning import Cleaning
    from xchunk.core.cost import Rates
    from xchunk.core.graphs import GraphReport
    from xchunk.diagnose.observe import Observation
    from xchunk.proof import Proof

__all__ = ["batch", "clean", "graph", "observe", "verify"]


def batch(
    jobs: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    only: str | Sequence[str] = (),
    shard: str | Sequence[int] | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: bool = True,
    keep_going: bool = True,
    dry_run: bool = False,
    progress: bool = True,
) -> BatchReport:
    """Rechunk many sources, one after the other, unattended.

    Each target is written as ``ds.chunking.apply`` writes it, on the active
    ``distributed.Client`` or on dask's threads. What goes wrong with one does not stop the rest;
    the report tells what became of each.

    Parameters
    ----------
    jobs : str, path, list of mappings, or mapping
        A job file (TOML), whose paths are relative to its folder; or its jobs as a list, or all
        of it as a mapping, whose paths are relative to the working folder.
    defaults : mapping, optional
        What holds for every job that does not say otherwise.
    only : str or sequence of str
        Names of jobs, or of single sources of them (``"surface/2001.nc"``), or patterns of these.
    shard : str or tuple of int, optional
        Which of how many shards is run, of as many machines: ``"3/10"``.
    state : str or path, optional
        The folder of state and logs, by which finished jobs are known when it is run again. Beside
        a job file by default; none for a list.
    resume : bool
        Whether what an earlier run has finished is skipped where source, job and target are
        still the same, and what it left unfinished is gone on with. If not, all is done again.
    keep_going : bool
        Whether the rest is run after a job that failed.
    dry_run : bool
        Whether every job is planned only; nothing is written.
    progress : bool
        Whether it is told on stderr how far it is.

    Returns
    -------
    BatchReport
        What became of each target; a sequence of results, with ``counts`` and ``failed``.

    Raises
    ------
    InvalidJobError
        If the jobs cannot be understood; nothing was run.
    TargetExistsError
        If targets collide, or another process is running the same batch; nothing was run.
    KeyboardInterrupt
        If it is interrupted. The same call goes on there.

    Examples
    --------
    >>> xchunk.batch("jobs.toml")  # doctest: +SKIP
    >>> job = {"source": "raw/*.nc", "target": "out/{stem}.zarr", "access": "timeseries"}
    >>> xchunk.batch([job], defaults={"memory": "4GiB"}, state="batch")  # doctest: +SKIP
    """
    from xchunk.batching.start import start_batch
    from xchunk.formatting import shown
    from xchunk.formatting.batches import Lines

    report = start_batch(
        jobs,
        watcher=Lines(enabled=progress),
        defaults=defaults,
        only=only,
        shard=shard,
        state=state,
        resume=resume,
        keep_going=keep_going,
        dry_run=dry_run,
    )
    if report.interrupted and any(r.status == "interrupted" for r in report):
        raise KeyboardInterrupt("the batch was interrupted; the same call goes on there")
    return shown(report)


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
        from xchunk.named import open_named

        source = open_named(os.fspath(source), options=storage_options)
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
    from xchunk.formatting import shown

    return shown(clean_target(target, dry_run=dry_run, storage_options=storage_options))


def graph(
    result: Any,
    *,
    memory: ByteSize | None = None,
    max_mem: ByteSize | None = None,
    rates: Rates | None = None,
) -> GraphReport:
    """Tell what the graph of a lazy result holds before it runs.

    Parameters
    ----------
    result : Dataset, DataArray, DataTree or dask array
        What will be computed.
    memory, max_mem : int or str, optional
        As in ``ds.chunking.budget``.
    rates : Rates, optional
        How fast the store and the codecs are, as ``ds.chunking.probe`` measures it.

    Returns
    -------
    GraphReport
        Tasks of each layer, where it widens, aggregates and rechunks, the longest chain, bytes in
        and out, the predicted peak, and what other chunks would change. Nothing is computed.

    Raises
    ------
    InvalidChunksError
        If there is nothing lazy in it.

    Examples
    --------
    >>> xchunk.graph(ds.t2m.mean("time"))  # doctest: +SKIP
    """
    from xchunk.diagnose.graph import graph_report
    from xchunk.engine.budget import detect_budget
    from xchunk.engine.run import current_client
    from xchunk.formatting import shown

    budget = detect_budget(memory, max_mem, client=current_client())
    return shown(graph_report(result, budget=budget, rates=rates))


def observe(*, rates: Rates | None = None, client: Client | None = None) -> Observation:
    """Watch what dask runs within a ``with`` block, to explain it afterwards.

    The active ``distributed.Client`` is watched, or dask's local schedulers where there is none:
    what ran when and on which thread, transfers, spills and idle time, the memory of each
    worker, and what the threads waited for. It takes less than 3 % of the CPU time.

    Parameters
    ----------
    rates : Rates, optional
        What ``ds.chunking.probe`` measured; it sharpens the explanation.
    client : distributed.Client, optional
        The cluster that is watched, where it is not the active one.

    Returns
    -------
    Observation
        To be used as ``with xchunk.observe() as seen: ...``. Afterwards ``seen.explain()`` says
        what it means and what to change; ``seen.save("seen.html")`` keeps it.

    Raises
    ------
    InvalidChunksError
        If the client is an asynchronous one, or the rates are none.

    Examples
    --------
    >>> with xchunk.observe() as seen:  # doctest: +SKIP
    ...     ds.t2m.mean("time").compute()
    >>> print(seen.explain())  # doctest: +SKIP
    """
    from xchunk.core.observed import Facts
    from xchunk.core.symptoms import diagnose
    from xchunk.diagnose.observe import Observation
    from xchunk.formatting import shown

    # what explain() returns shows itself as well
    shown(diagnose(Facts()))
    return shown(Observation(rates=rates, client=client))
