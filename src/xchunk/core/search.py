"""The cheapest way to combine one row of each table, where columns multiply over tables.

Tables are joined one by one. What is dropped on the way cannot win: rows that break a limit
or cost more than the best known solution even with the least of every table to come, and
rows that another one equals or beats in every column. Dropping these is exact. Beyond
`SLACK` rows the search becomes a beam: of rows whose boxes differ by little the cheapest
stays, so that time and memory stay bounded for any number of dims and chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.core.chains import Table

__all__ = ["Found", "Model", "cheapest"]

#: Rows that are kept after a join: at most so many, and in a first, rough pass.
SLACK, ROUGH = 1500, 60

#: Rows up to which every pair is compared; beyond it the dominated ones fall to the cheapest.
_ALL_PAIRS = 4000

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


def cheapest(
    tables: Sequence[Table], model: Model, *, below: float = np.inf, slack: int = SLACK
) -> Found | None:
    """Find the cheapest combination of one row of each table.

    Parameters
    ----------
    tables : sequence of arrays
        One table for each dim, of one width.
    model : Model
        Limits and costs.
    below : float
        Only solutions cheaper than this are of interest.
    slack : int
        Rows kept after each join before the search becomes a beam.

    Returns
    -------
    Found or None
        None where nothing fits, or nothing that fits is cheaper than ``below``.
    """
    if any(len(t) == 0 for t in tables):
        return None
    visited = 0
    best: Found | None = None
    for keep in (min(ROUGH, slack), slack):
        found = _join(tables, model, below if best is None else best.cost, keep, best is not None)
        if found is not None:
            visited += found.visited
            if best is None or found.cost < best.cost or found.exact:
                best = found
            if found.exact:
                break
    return None if best is None else Found(best.picks, best.cost, best.exact, visited)


def _join(
    tables: Sequence[Table], model: Model, below: float, keep: int, inclusive: bool
) -> Found | None:
    width = tables[0].shape[1]
    least = [np.ones(width)]
    for table in reversed(tables):
        least.append(least[-1] * table.min(axis=0))
    least = least[-2::-1]
    limit = np.nextafter(below, np.inf) if inclusive else below

    rows = np.ones((1, width))
    picks = np.zeros((1, 0), dtype=np.int64)
    visited, exact = 0, True
    for table, rest in zip(tables, least, strict=True):
        visited += len(rows) * len(table)
        joined = (rows[:, None, :] * table[None, :, :]).reshape(-1, width)
        lowest = joined * rest
        good = model.fits(lowest)
        costs = np.where(good, model.at_least(lowest), np.inf)
        good &= costs < limit
        alive = np.flatnonzero(good)
        if len(alive) == 0:
            return None
        joined, costs = joined[alive], costs[alive]
        chosen = np.column_stack([picks[alive // len(table)], alive % len(table)])
        kept, sure = _thin(joined, costs, model, keep)
        exact &= sure
        rows, picks = joined[kept], chosen[kept]
    costs = model.cost(rows)
    order = _ranking(rows, costs, picks, model)
    if not costs[order[0]] < limit:
        return None
    winner = order[0]
    return Found(tuple(int(i) for i in picks[winner]), float(costs[winner]), exact, visited)


def _ranking(rows: Table, costs: _Floats, picks: NDArray[Any], model: Model) -> NDArray[np.intp]:
    """Order by cost, then by tasks, then by volume; equal to the last digits counts as equal."""
    rounded = np.array([float(f"{c:.9e}") for c in costs])
    keys = [rows[:, c] for c in (*model.counted, *model.volumes)]
    order: NDArray[np.intp] = np.lexsort([*picks.T[::-1], *keys[::-1], rounded])
    return order


def _thin(rows: Table, costs: _Floats, model: Model, keep: int) -> tuple[NDArray[np.intp], bool]:
    """Choose the rows to go on with, and tell whether the best one is surely among them."""
    order = np.argsort(costs, kind="stable")
    exact = True
    if len(order) > max(_ALL_PAIRS, keep):
        order, exact = _spread(rows, order, model, max(_ALL_PAIRS, keep)), False
    compared = rows[order][:, list(model.compared)]
    counted = rows[order][:, list(model.counted)]
    alive = _undominated(np.column_stack([compared, 1 / counted]))
    if len(alive) > keep:
        alive = alive[_undominated(compared[alive])]
        exact = False
    order = order[alive]
    if len(order) > keep:
        order = _spread(rows, order, model, keep)
    return order, exact


def _undominated(values: _Floats) -> NDArray[np.intp]:
    """Indices of the rows that no other row equals or beats in every column; first of equals."""
    sums = np.log(values).sum(axis=1)
    left = np.argsort(sums, kind="stable")
    kept: list[int] = []
    while len(left):
        first = left[0]
        kept.append(int(first))
        beaten = (values[first] <= values[left]).all(axis=1)
        beaten[0] = True
        left = left[~beaten]
    return np.sort(np.array(kept, dtype=np.intp))


def _spread(rows: Table, order: NDArray[np.intp], model: Model, keep: int) -> NDArray[np.intp]:
    """Keep the first in order of those with nearly equal boxes, as finely as there is room."""
    logs = np.log2(rows[order][:, list(model.volumes)])
    step = 1 / 64
    while True:
        cells = np.floor(logs / step).astype(np.int64)
        _, first = np.unique(cells, axis=0, return_index=True)
        if len(first) <= keep:
            # the cheapest ones stay as well, however close together they are
            some = np.union1d(np.sort(first), np.arange(min(keep - len(first), len(order))))
            return order[some]
        step *= 1.5
