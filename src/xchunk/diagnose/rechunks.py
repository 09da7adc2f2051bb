"""Comparing dask's own rechunk of a variable with the other ways; nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from xchunk.core.blocks import item_nbytes
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.rechunking import RechunkComparison, compare_ways
from xchunk.core.spec import parse_chunks
from xchunk.core.suggest import Suggestion
from xchunk.errors import InvalidChunksError
from xchunk.storage.layouts import read_layouts

__all__ = ["compare_rechunk"]


def compare_rechunk(
    groups: Mapping[str, xr.Dataset],
    what: Suggestion | Mapping[Any, Any],
    budget: MemoryBudget,
    *,
    variable: str | None = None,
    rates: Rates | None = None,
) -> RechunkComparison:
    """Compare the ways to have one variable in other dask chunks.

    Parameters
    ----------
    groups : mapping
        The Dataset of each group's path; ``""`` is the root.
    what : Suggestion or mapping
        The chunks that are wanted.
    budget : MemoryBudget
        What the tasks of one worker may take.
    variable : str, optional
        The variable; the largest whose chunks are named by default.
    rates : Rates, optional
        How fast things are.

    Raises
    ------
    InvalidChunksError
        If the chunks do not fit the variables, or name none of them.
    """
    layouts = read_layouts(groups).layouts
    if isinstance(what, Suggestion):
        chunks = {name: dict(c) for name, c in what.chunks.items()}
    else:
        chunks = parse_chunks(what, layouts)
    named = [v for v in layouts if chunks.get(v.name) and v.size]
    if variable is not None:
        named = [v for v in named if v.name == variable]
    if not named:
        which = "no variable" if variable is None else repr(variable)
        raise InvalidChunksError(
            f"the chunks concern {which}. Give {{dim: n}} for dims that it has, or "
            "{variable: {dim: n}}."
        )
    layout = max(named, key=lambda v: v.nbytes)
    own = chunks[layout.name]
    blocks = layout.dask_chunks or layout.chunks or (-1,) * layout.ndim
    after = Grid(
        tuple(
            Axis.of(n, own.get(d, b))
            for d, n, b in zip(layout.dims, layout.shape, blocks, strict=True)
        )
    )
    return compare_ways(layout, after, budget, rates=rates, steps=_steps(layout, after))


def _steps(layout: ArrayLayout, after: Grid) -> tuple[Grid, ...]:
    """The steps between by which dask itself would go; none where it does not tell."""
    chunks = layout.dask_chunks or layout.chunks
    if chunks is None:
        return ()
    before = Grid.of(layout.shape, chunks)
    try:
        from dask.array.rechunk import plan_rechunk
    except ImportError:
        return ()
    steps = plan_rechunk(_parts(before), _parts(after), item_nbytes(layout.dtype))
    return tuple(Grid.of(layout.shape, s) for s in steps[:-1])


def _parts(grid: Grid) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(stop - start for start, stop in map(a.bounds, range(a.count))) for a in grid.axes
    )
