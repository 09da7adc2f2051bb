"""The cheapest way to combine one row of each table, where columns multiply over tables.

Tables are joined one by one. What is dropped on the way cannot win: rows that break a limit
or cost more than the best known solution even with the least of every table to come, and
rows that another one equals or beats in every column. Dropping these is exact. Beyond
`SLACK` rows the search becomes a beam: of rows whose boxes differ by little the cheapest
stays, so that time and memory stay bounded for any number of dims and chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.core.chains import Table

__all__ = ["Found", "Model", "cheapest"]

#: A beam's width: rows kept after a join, and rows that are compared with each other before.
#: One ten times as wide found nothing better by more than two per cent in 20 real layouts.
BEAM = (80, 500)

#: Combinations up to which a search is exact.
EXACT = 10_000

_Bools: TypeAlias = NDArray[np.bool_]
_Floats: TypeAlias = NDArray[np.float64]


class Model(Protocol):
    """What a search needs to know about solutions, given as rows of multiplied columns."""

    @property
    def compared(self) -> Sequence[int]:
        """Columns of which less is never worse."""
        ...

    @property
    def counted(self) -> Sequence[int]:
        """Columns of which neither less nor more is always better: they must be equal."""
        ...

    @property
    def volumes(self) -> Sequence[int]:
        """Columns by which a beam keeps its rows apart."""
        ...

    def fits(self, rows: Table) -> _Bools:
        """Whether rows keep all limits; if a row does, so does every one with less."""
        ...

    def at_least(self, rows: Table) -> _Floats:
        """A cost that no row with as much or more in each column falls below."""
        ...

    def cost(self, rows: Table) -> _Floats:
        """The cost of complete rows."""
        ...


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    picks: tuple[int, ...]
    """The row of each table."""
    cost: float
    """Its cost."""
    exact: bool
    """Whether no other combination of rows is cheaper; False where a beam was needed."""
    visited: int
    """Combinations that were looked at."""


def cheapest(tables: Sequence[Table], model: Model, *, below: float = np.inf) -> Found | None:
    """Find the cheapest combination of one row of each table.

    Exact for up to `EXACT` combinations, and wherever dropping what cannot win leaves few
    enough rows; ``Found.exact`` tells.

    Parameters
    ----------
    tables : sequence of arrays
        One table for each dim, of one width.
    model : Model
        Limits and costs.
    below : float
        Only solutions cheaper than this are of interest.

    Returns
    -------
    Found or None
        None where nothing fits, or nothing that fits is cheaper than ``below``.
    """
    combinations = math.prod(len(t) for t in tables)
    if combinations <= EXACT:
        return _join(tables, model, below, EXACT, EXACT)
    return _join(tables, model, below, *BEAM)


def _join(
    tables: Sequence[Table], model: Model, below: float, keep: int, compare: int
) -> Found | None:
    width = tables[0].shape[1]
    least: list[_Floats] = [np.ones(width)]
    for table in reversed(tables):
        least.append(least[-1] * table.min(axis=0))
    least = least[-2::-1]

    rows = np.ones((1, width))
    picks = np.zeros((1, 0), dtype=np.int64)
    visited, exact = 0, True
    for i, (table, rest) in enumerate(zip(tables, least, strict=True)):
        visited += len(rows) * len(table)
        joined = (rows[:, None, :] * table[None, :, :]).reshape(-1, width)
        lowest = joined * rest
        alive = np.flatnonzero(model.fits(lowest))
        costs = model.at_least(lowest[alive])
        alive, costs = alive[costs < below], costs[costs < below]
        if len(alive) == 0:
            return None
        joined = joined[alive]
        kept: NDArray[np.intp] = np.arange(len(joined))
        if i < len(tables) - 1:
            kept, sure = _thin(joined, costs, model, keep, compare)
            exact &= sure
        rows = joined[kept]
        picks = np.column_stack([picks[alive[kept] // len(table)], alive[kept] % len(table)])
    costs = model.cost(rows)
    lowest_cost = float(np.min(costs))
    if not lowest_cost < below:
        return None
    close = np.flatnonzero(costs <= lowest_cost * (1 + 1e-6))
    rows, costs, picks = rows[close], costs[close], picks[close]
    winner = _ranking(rows, costs, picks, model)[0]
    return Found(tuple(int(i) for i in picks[winner]), float(costs[winner]), exact, visited)


def _ranking(rows: Table, costs: _Floats, picks: NDArray[Any], model: Model) -> NDArray[np.intp]:
    """Order by cost, then by tasks, then by volume; equal to the last digits counts as equal."""
    rounded = np.array([float(f"{c:.9e}") for c in costs])
    keys = [rows[:, c] for c in (*model.counted, *model.volumes)]
    order: NDArray[np.intp] = np.lexsort([*picks.T[::-1], *keys[::-1], rounded])
    return order


def _thin(
    rows: Table, costs: _Floats, model: Model, keep: int, compare: int
) -> tuple[NDArray[np.intp], bool]:
    """Choose the rows to go on with, and tell whether the best one is surely among them."""
    order = np.argsort(costs, kind="stable")
    exact = len(order) <= compare
    if not exact:
        order = _spread(rows, order, model, compare)
    order = order[_undominated(rows[order], model, counted=exact)]
    if len(order) > keep:
        order, exact = _spread(rows, order, model, keep), False
    return order, exact


def _undominated(rows: Table, model: Model, *, counted: bool = True) -> NDArray[np.intp]:
    """Indices of the rows that no other row equals or beats in every column; first of equals."""
    values = rows[:, list(model.compared)]
    if counted:
        values = np.column_stack([values, 1 / rows[:, list(model.counted)]])
    left = np.argsort(np.log(values).sum(axis=1), kind="stable")
    kept: list[int] = []
    while len(left):
        kept.append(int(left[0]))
        beaten = (values[left[0]] <= values[left]).all(axis=1)
        beaten[0] = True
        left = left[~beaten]
    return np.sort(np.array(kept, dtype=np.intp))


def _spread(rows: Table, order: NDArray[np.intp], model: Model, keep: int) -> NDArray[np.intp]:
    """Keep the first in order of those with nearly equal boxes, as finely as there is room."""
    logs = np.log2(rows[order][:, list(model.volumes)])
    step = 1 / 32
    while True:
        cells = np.floor(logs / step).astype(np.int64)
        cells -= cells.min(axis=0)
        keys = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
        _, first = np.unique(keys, return_index=True)
        if len(first) <= keep:
            # the cheapest ones stay as well, however close together they are
            some = np.union1d(first, np.arange(min(keep - len(first), len(order))))
            return order[some]
        step *= 2
