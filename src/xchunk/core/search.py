"""The cheapest way to combine one row of each table, where columns multiply over tables.

Tables are joined one by one. What is dropped on the way cannot win: rows that break a limit
or cost more than the best known solution even with the least of every table to come, and
rows that another one equals or beats in every column. Dropping these is exact. Beyond
`SLACK` rows the search becomes a beam: of rows whose boxes differ by little the cheapest
stays, so that time and memory stay bounded for any number of dims and chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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

#: Pairs of rows that are looked at together; some hundred kilobytes of figures.
_BLOCK = 2048

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
    for table, rest in zip(tables[:-1], least[:-1], strict=True):
        pairs = _Pairs(rows, table)
        visited += len(pairs)
        alive, costs = pairs.alive(rest, model, below)
        if len(alive) == 0:
            return None
        kept, sure = _thin(pairs, alive, costs, model, (keep, compare))
        exact &= sure
        rows = pairs[kept]
        picks = np.column_stack([picks[kept // len(table)], kept % len(table)])
    pairs = _Pairs(rows, tables[-1])
    visited += len(pairs)
    best, costs = pairs.best(least[-1], model, below)
    if len(best) == 0:
        return None
    picks = np.column_stack([picks[best // len(tables[-1])], best % len(tables[-1])])
    winner = _ranking(pairs[best], costs, picks, model)[0]
    return Found(tuple(int(i) for i in picks[winner]), float(costs[winner]), exact, visited)


class _Pairs:
    """The products of every row with every row of a table, made when they are asked for.

    All of them at once would take tens of megabytes, which count against the budget that is
    being planned for; so they are looked at block by block.
    """

    def __init__(self, rows: Table, table: Table) -> None:
        self.rows, self.table = rows, table

    def __len__(self) -> int:
        return len(self.rows) * len(self.table)

    def __getitem__(self, index: NDArray[np.intp]) -> Table:
        n = len(self.table)
        product: Table = self.rows[index // n] * self.table[index % n]
        return product

    def _blocks(self, rest: _Floats, model: Model) -> Iterator[tuple[NDArray[np.intp], Table]]:
        """Hand out the pairs that fit, even with the least of every table to come."""
        for start in range(0, len(self), _BLOCK):
            index = np.arange(start, min(start + _BLOCK, len(self)))
            products = self[index]
            fitting = np.flatnonzero(model.fits(products * rest))
            yield index[fitting], products[fitting]

    def alive(self, rest: _Floats, model: Model, below: float) -> tuple[NDArray[np.intp], _Floats]:
        """The pairs that fit and may still cost less than ``below``, with their least costs."""
        found, costs = [np.zeros(0, dtype=np.intp)], [np.zeros(0)]
        for index, products in self._blocks(rest, model):
            least = model.at_least(products * rest)
            found.append(index[least < below])
            costs.append(least[least < below])
        return np.concatenate(found), np.concatenate(costs)

    def best(self, rest: _Floats, model: Model, below: float) -> tuple[NDArray[np.intp], _Floats]:
        """The pairs of the last table that cost the least, equal to six digits, if below."""
        found, costs = np.zeros(0, dtype=np.intp), np.zeros(0)
        for index, products in self._blocks(rest, model):
            if not len(index):
                continue
            cost = model.cost(products)
            found, costs = np.concatenate([found, index]), np.concatenate([costs, cost])
            close = (costs <= float(np.min(costs)) * (1 + 1e-6)) & (costs < below)
            found, costs = found[close], costs[close]
            below = min(below, float(np.min(costs)) * (1 + 2e-6)) if len(costs) else below
        return found, costs


def _ranking(rows: Table, costs: _Floats, picks: NDArray[Any], model: Model) -> NDArray[np.intp]:
    """Order by cost, then by tasks, then by volume; equal to the last digits counts as equal."""
    rounded = np.array([float(f"{c:.9e}") for c in costs])
    keys = [rows[:, c] for c in (*model.counted, *model.volumes)]
    order: NDArray[np.intp] = np.lexsort([*picks.T[::-1], *keys[::-1], rounded])
    return order


def _thin(
    pairs: _Pairs,
    alive: NDArray[np.intp],
    costs: _Floats,
    model: Model,
    beam: tuple[int, int],
) -> tuple[NDArray[np.intp], bool]:
    """Choose the pairs to go on with, and tell whether the best one is surely among them."""
    keep, compare = beam
    order = alive[np.argsort(costs, kind="stable")]
    exact = len(order) <= compare
    if not exact:
        order = _spread(pairs, order, model, compare)
    order = order[_undominated(pairs[order], model, counted=exact)]
    if len(order) > keep:
        order, exact = _spread(pairs, order, model, keep), False
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


def _spread(pairs: _Pairs, order: NDArray[np.intp], model: Model, keep: int) -> NDArray[np.intp]:
    """Keep the first in order of those with nearly equal boxes, as finely as there is room."""
    columns = list(model.volumes)
    logs = np.log2(_Pairs(pairs.rows[:, columns], pairs.table[:, columns])[order])
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
