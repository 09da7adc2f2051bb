"""Graphs of dask that must not be merged: equal names for different data.

xarray gives variables of one name in different groups of a file the same dask name when they
are opened with ``open_groups(chunks={})``. Merged into one graph, or known to one scheduler, one
of them would silently get the values of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["Names"]


class Names:
    """The names of all graphs of a run, and what they stand for."""

    def __init__(self) -> None:
        # what is kept alive here cannot be mistaken for something else of the same id
        self._known: dict[str, Any] = {}

    def own(self, blocks: da.Array, seed: str) -> da.Array:
        """Return blocks under names that stand for nothing else.

        Parameters
        ----------
        blocks : dask.array.Array
            Blocks that are about to be computed.
        seed : str
            What new names are made of, where they are needed.
        """
        leaves = dict(_leaves(blocks))
        if any(not _same(self._known.get(n, leaf), leaf) for n, leaf in leaves.items()):
            from dask.graph_manipulation import clone

            blocks = clone(blocks, seed=seed)
            leaves = dict(_leaves(blocks))
        self._known.update(leaves)
        return blocks


def _leaves(blocks: da.Array) -> Iterator[tuple[str, Any]]:
    """Yield the layers that depend on no other, by name."""
    graph: Any = blocks.__dask_graph__()
    layers = getattr(graph, "layers", None)
    if layers is None:
        yield from ((str(key), task) for key, task in dict(graph).items())
        return
    for name, layer in layers.items():
        if not graph.dependencies.get(name):
            yield name, layer


def _same(one: Any, other: Any) -> bool:
    """Whether two layers of one name are one, or hold the very same things."""
    if one is other:
        return True
    a, b = getattr(one, "mapping", one), getattr(other, "mapping", other)
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)) or type(one) is not type(other):
        return False
    return a.keys() == b.keys() and all(_value(a[k]) is _value(b[k]) for k in a)


def _value(task: Any) -> Any:
    """Return what a task holds, where it is nothing but a value."""
    return getattr(task, "value", task)
