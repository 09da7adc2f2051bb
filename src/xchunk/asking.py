"""What can be asked of data: how it is stored, what fits, what is wrong, how fast it is.

Nothing is computed or written by any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import xarray as xr

from xchunk._typing import Access, ByteSize
from xchunk.errors import InvalidChunksError

if TYPE_CHECKING:
    from xchunk.core.cost import Rates
    from xchunk.core.findings import CheckReport
    from xchunk.core.graphs import GraphReport
    from xchunk.core.measured import MeasuredRates
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.rechunking import RechunkComparison
    from xchunk.core.suggest import Suggestion
    from xchunk.storage.layouts import LayoutReport

__all__ = ["Asking"]

T = TypeVar("T", xr.Dataset, xr.DataArray, xr.DataTree)


class Asking(Generic[T]):
    """How the data are stored, which chunks fit, and rechunking to them."""

    _obj: T

    def __init__(self, obj: T):
        self._obj = obj

    def _groups(self) -> dict[str, xr.Dataset]:
        raise NotImplementedError

    def _back(self, groups: dict[str, xr.Dataset]) -> T:
        raise NotImplementedError

    def layout(self) -> LayoutReport:
        """Tell how every variable is stored.

        Returns
        -------
        LayoutReport
            One `ArrayLayout` for each variable; iterable, with ``to_dict`` and ``to_dataframe``.
            Nothing but metadata is read.
        """
        from xchunk.formatting import shown
        from xchunk.storage.layouts import read_layouts

        return shown(read_layouts(self._groups()))

    def budget(
        self, memory: ByteSize | MemoryBudget | None = None, max_mem: ByteSize | None = None
    ) -> MemoryBudget:
        """Tell what the tasks of one worker may take.

        Parameters
        ----------
        memory : int or str, optional
            The limit of one worker of the active ``distributed.Client`` (of this process where
            there is none), of which dask's target fraction is used. Detected by default. A
            budget is taken as it is.
        max_mem : int or str, optional
            Bytes by which one worker may grow at its peak, all its tasks together, taken as
            they are. Overrides ``memory``.

        Raises
        ------
        InvalidChunksError
            If a size cannot be understood.
        MemoryBudgetError
            If the limit leaves nothing for data.
        """
        from xchunk.core.memory import MemoryBudget
        from xchunk.engine.budget import detect_budget
        from xchunk.engine.run import current_client

        if isinstance(memory, MemoryBudget):
            return memory
        return detect_budget(memory, max_mem, client=current_client())

    def suggest(
        self,
        access: Access | None = None,
        *,
        workload: Callable[[T], Any] | None = None,
        memory: ByteSize | MemoryBudget | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
        passes: float = 1,
        reduce: str | Sequence[str] | Mapping[str, str] = (),
        rolling: Mapping[str, int] | None = None,
        groupby: str | Sequence[str] | None = None,
        resample: Mapping[str, Any] | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        seconds: float | None = None,
    ) -> Suggestion:
        """Suggest chunks that fit the memory, for the way the data will be used.

        Parameters
        ----------
        access : str, mapping or list, optional
            A preset, ``"timeseries"``, ``"map"``, ``"profile"`` or ``"scan"``, whose dims are
            found from CF metadata; or the dims that one request needs, whole (-1), so many
            elements of them or a slice of labels: ``{"time": -1, "lat": slice(60, 40)}``; or a
            list of these with weights: ``[("timeseries", 0.7), ("map", 0.3)]``. A scan by default.
        workload : callable, optional
            Instead of all that describes a use: what will be computed, as a function of the
            object that returns something lazy and writes nothing. Its graphs for many chunks
            are simulated; the function itself meets noise in place of what is stored.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.
        passes : float
            How many times the data are used like this; what a rechunk costs is weighed with it.
        reduce : str, sequence of str or mapping, optional
            Dims that the operation reduces, as in ``ds.mean(reduce)``, or for each the method
            that does it, whose copies of a block are then reckoned: ``{"time": "std"}``. Named
            so, ``"corr"`` and ``"cov"``, which go over the dim twice, also have room for what is
            held of both variables in between.
        rolling : mapping, optional
            Lengths of moving windows: ``{"time": 24}``.
        groupby : str or sequence of str, optional
            As for ``ds.groupby``: ``"time.month"``. Blocks end where a round of the groups ends,
            if stored chunks do.
        resample : mapping, optional
            As for ``ds.resample``: ``{"time": "MS"}``. Blocks end where periods end, if stored
            chunks do.
        groups : mapping, optional
            The positions by dim at which groups end, where they are known.
        seconds : float, optional
            What simulating a workload may take, after which the best found so far is taken; 6 by
            default.

        Returns
        -------
        Suggestion
            For each variable whether to ``load``, ``chunk`` or ``stage`` it, with chunks and
            reasons. Nothing but metadata is read.

        Raises
        ------
        InvalidChunksError
            If the pattern names what is not there, or a preset's dims cannot be found.
        MemoryBudgetError
            If nothing fits.
        """
        from xchunk.trees import suggest_groups

        if workload is not None:
            if access is not None or reduce or rolling or groupby or resample or groups:
                raise InvalidChunksError(
                    "workload= tells all of the use: give it alone, without access= and the like."
                )
            from xchunk.simulate.workload import suggest_workload

            return suggest_workload(
                self._groups(),
                self.layout().layouts,
                workload,
                self._back,
                self.budget(memory, max_mem),
                rates=rates,
                passes=passes,
                seconds=seconds,
            )
        return suggest_groups(
            self._groups(),
            self.layout().layouts,
            access,
            self.budget(memory, max_mem),
            groupby=groupby,
            resample=resample,
            edges=groups,
            rates=rates,
            passes=passes,
            reduce=reduce,
            rolling=rolling,
        )

    def check(
        self,
        *,
        store: Any = None,
        region: Mapping[str, slice] | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> CheckReport:
        """Check how the data are stored, chunked by dask and about to be written.

        Parameters
        ----------
        store : str, path or zarr store, optional
            Where a region is to be written.
        region : mapping, optional
            The region, as for ``to_zarr``: ``{"time": slice(0, 24)}``.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.
        storage_options : mapping, optional
            What fsspec needs to reach a URL.

        Returns
        -------
        CheckReport
            The findings, the worst first; each with what it leads to and a remedy as code. Only
            metadata are read, and values that are in memory already.

        Raises
        ------
        InvalidChunksError
            If only one of ``store`` and ``region`` is given, or the region makes no sense.
        SourceError
            If the store is not there.
        """
        from xchunk.diagnose.facts import check
        from xchunk.formatting import shown

        found = check(
            self._groups(),
            self.budget(memory, max_mem),
            store=store,
            region=region,
            rates=rates,
            storage_options=storage_options,
        )
        return shown(found)

    def probe(
        self, variable: str | None = None, *, max_bytes: ByteSize = "256MB", seconds: float = 1.0
    ) -> MeasuredRates:
        """Measure how fast the store, its codec and a target's codec are, in about a second.

        A few stored chunks are read and decoded, by one thread and by two, and encoded in
        memory; nothing is written. The result goes into ``suggest``, ``plan`` and ``apply`` as
        ``rates=``, and says in words whether it is the store, the codec or a lock.

        Parameters
        ----------
        variable : str, optional
            The variable that is read; the largest that is stored by default.
        max_bytes : int or str
            Bytes that are read and encoded at the most, decoded.
        seconds : float
            Seconds after which no further sample is taken.

        Raises
        ------
        InvalidChunksError
            If there is no such variable, or none of its chunks may be read.
        SourceError
            If nothing is stored, or it cannot be read.
        """
        from xchunk.diagnose.probe import probe
        from xchunk.formatting import shown

        return shown(probe(self._groups(), variable=variable, max_bytes=max_bytes, seconds=seconds))

    def compare_rechunk(
        self,
        what: Suggestion | Mapping[Any, Any],
        *,
        variable: str | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
    ) -> RechunkComparison:
        """Compare dask's own rechunk, by tasks and by p2p, with lazy blocks and a staged copy.

        Parameters
        ----------
        what : Suggestion or mapping
            The dask chunks that are wanted: ``{dim: n}`` or ``{variable: {dim: n}}``; -1 is the
            whole dim.
        variable : str, optional
            The variable that is compared; the largest that the chunks concern by default.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.

        Returns
        -------
        RechunkComparison
            Tasks, memory of a worker, disk and time of each way. Only metadata are read.

        Raises
        ------
        InvalidChunksError
            If the chunks do not fit the variables, or concern none of them.
        """
        from xchunk.diagnose.rechunks import compare_rechunk
        from xchunk.formatting import shown

        budget = self.budget(memory, max_mem)
        return shown(compare_rechunk(self._groups(), what, budget, variable=variable, rates=rates))

    def graph(
        self,
        *,
        workload: Callable[[T], Any] | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
    ) -> GraphReport:
        """Tell what dask's graph of this object holds before it runs.

        Parameters
        ----------
        workload : callable, optional
            What will be computed, as a function of the object that returns something lazy. Its
            graph is built, with larger and smaller blocks too, on stand-ins for what is
            stored; without it, the graph is the object's own, and other blocks are estimated.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.

        Returns
        -------
        GraphReport
            Tasks of each layer, where it widens, aggregates and rechunks, the longest chain,
            bytes in and out, the predicted peak, and what other chunks would change. Nothing
            is computed.

        Raises
        ------
        InvalidChunksError
            If nothing is lazy, or the workload fails.
        """
        from xchunk.formatting import shown

        budget = self.budget(memory, max_mem)
        if workload is not None:
            from xchunk.diagnose.resized import graph_of_workload

            return shown(
                graph_of_workload(self._groups(), workload, self._back, budget=budget, rates=rates)
            )
        from xchunk.diagnose.graph import graph_report

        return shown(graph_report(self._obj, budget=budget, rates=rates))
