"""The graphs that a function of some data makes, with blocks of several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import xarray as xr

from xchunk._typing import DimChunk
from xchunk.core.blocks import item_nbytes
from xchunk.core.cost import Rates
from xchunk.core.graphs import ChunkSize, GraphReport
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.diagnose.graph import graph_report
from xchunk.diagnose.layers import layers_of, whole_graph
from xchunk.errors import InvalidChunksError, XchunkError
from xchunk.simulate._dask import Graph, catch
from xchunk.simulate.twins import Source
from xchunk.storage.layouts import read_layouts

__all__ = ["graph_of_workload"]


def graph_of_workload(
    groups: Mapping[str, xr.Dataset],
    function: Callable[[Any], Any],
    back: Callable[[dict[str, xr.Dataset]], Any],
    *,
    budget: MemoryBudget | None = None,
    rates: Rates | None = None,
) -> GraphReport:
    """Tell what a function of some data would make dask do, also with other blocks.

    Parameters
    ----------
    groups : mapping
        The Dataset of each group's path; ``""`` is the root.
    function : callable
        Takes the object, and returns something lazy.
    back : callable
        Makes the object that the function takes of such a mapping.
    budget, rates : optional
        As for `graph_report`.

    Raises
    ------
    InvalidChunksError
        If the function fails, or computes by itself.
    """
    if not callable(function):
        raise InvalidChunksError(
            f"workload={function!r} is not a function. Give what will be computed as one that "
            "takes the data: workload=lambda ds: ds.t2m.mean('time')."
        )
    rates = rates or Rates()
    layouts = {v.name: v for v in read_layouts(groups).layouts}
    source = Source(groups, layouts, rates)
    movable = source.movable
    if not movable:
        raise InvalidChunksError(
            "there is nothing lazy: all variables are in memory. Open the data with chunks={}, "
            "or chunk them."
        )
    lazy = _run(function, partial(_twin, source, back, _scaled(movable, 1.0)))
    name = getattr(function, "__name__", "the workload")
    report = graph_report(
        lazy, budget=budget, rates=rates, source="the workload" if name == "<lambda>" else name
    )
    rows = []
    for row in report.sizes:
        chunks = _scaled(movable, row.factor)
        try:
            made = lazy if row.factor == 1 else _run(function, partial(_twin, source, back, chunks))
            whole = whole_graph(made)
        except XchunkError:
            continue
        layers = layers_of(whole)
        tasks = sum(layer.tasks for layer in layers)
        inputs = sum(layer.tasks for layer in layers if layer.role in ("read", "create"))
        largest = max(movable.values(), key=lambda v: v.nbytes)
        block = _block_nbytes(largest, chunks[largest.name])
        seconds = tasks * report.run_tasks / max(1, report.tasks) * rates.task
        rows.append(ChunkSize(row.factor, block, inputs, tasks, seconds, exact=True))
    return replace(report, sizes=tuple(rows))


def _twin(
    source: Source,
    back: Callable[[dict[str, xr.Dataset]], Any],
    chunks: Mapping[str, Mapping[str, DimChunk]],
) -> Any:
    return back(source.twin(chunks))


def _run(function: Callable[[Any], Any], make: Callable[[], Any]) -> Any:
    """Call a user's function on stand-ins; whatever it raises is told."""
    try:
        result = catch(function, make())
    except XchunkError:
        raise
    except Exception as error:
        raise InvalidChunksError(
            f"the workload failed on a stand-in for the data: {type(error).__name__}: {error}. It "
            "has to work on dask arrays and must not depend on values that are not loaded."
        ) from error
    if isinstance(result, Graph):
        raise InvalidChunksError(
            "the workload computes by itself. Return the lazy result instead: leave out "
            ".compute(), .load() and .values."
        )
    return result


def _scaled(movable: Mapping[str, ArrayLayout], factor: float) -> dict[str, dict[str, DimChunk]]:
    """The variables' blocks, or stored chunks, made larger along the dim with the most."""
    out: dict[str, dict[str, DimChunk]] = {}
    for name, v in movable.items():
        lengths = [_longest(c) for c in v.dask_chunks or v.chunks or v.shape]
        left = factor
        while left > 1:
            counts = [math.ceil(n / c) for n, c in zip(v.shape, lengths, strict=True)]
            i = counts.index(max(counts))
            lengths[i] = min(v.shape[i], lengths[i] * 2)
            left /= 2
        if factor < 1:
            counts = [math.ceil(n / c) for n, c in zip(v.shape, lengths, strict=True)]
            i = counts.index(max(counts))
            lengths[i] = max(1, math.ceil(lengths[i] * factor))
        own: dict[str, DimChunk] = dict(zip(v.dims, lengths, strict=True))
        out[name] = own
    return out


def _longest(chunk: int | Sequence[int]) -> int:
    return max(1, chunk if isinstance(chunk, int) else max(chunk, default=1))


def _block_nbytes(v: ArrayLayout, own: Mapping[str, DimChunk]) -> int:
    lengths = [_longest(own[d]) for d in v.dims]
    return math.prod(lengths) * item_nbytes(v.dtype)
