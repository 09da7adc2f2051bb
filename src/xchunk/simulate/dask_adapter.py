"""The one place that knows how dask hands over a graph, and how its tasks are laid out.

dask's public API neither tells the order in which a graph is run nor what a fused task
consists of. ``dask.order`` and the layout of fused tasks are private, so they are used here
only; where they are not what they were, `capture` and `ordered` raise `SimulationError`, and
nothing but the prediction is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeAlias

import dask
import dask.array as da
from dask.base import compute

from xchunk.errors import InvalidChunksError

Key: TypeAlias = Hashable


_VERSION = version("dask")


class SimulationError(InvalidChunksError):
    """A graph that cannot be predicted."""


try:
    from dask._task_spec import _execute_subgraph, convert_legacy_graph
    from dask.order import order
    from dask.task_spec import Alias, DataNode, GraphNode, Task, TaskRef
except ImportError as error:  # pragma: no cover
    raise SimulationError(
        f"dask {_VERSION} keeps its graphs in a way that is not known, so that they "
        f"cannot be predicted ({error}). Everything else works; say the use in another way, "
        "with access=."
    ) from error


@dataclass(frozen=True)
class Graph:
    """The tasks that dask would run, fused and culled."""

    nodes: Mapping[Key, GraphNode]
    """Tasks, aliases and constants by key."""
    outputs: frozenset[Key]
    """Keys that are asked for, and kept to the end."""
    eager: bool = False
    """Whether the graph is of a computation inside the user's function."""

    @property
    def tasks(self) -> int:
        """Number of tasks that a local scheduler runs; constants are none."""
        return sum(not isinstance(node, DataNode) for node in self.nodes.values())


@dataclass(frozen=True)
class Fused:
    """A task that runs a small graph of its own."""

    inner: Mapping[Key, GraphNode]
    """The tasks within it."""
    output: Key
    """The one whose result is that of the whole."""
    renamed: Mapping[Key, Any]
    """What stands for the tasks outside, by the names that they have within."""


class _Caught(BaseException):
    """Ends a computation when its graph is known."""

    def __init__(self, graph: Graph) -> None:
        super().__init__("caught")
        self.graph = graph


def capture(*lazy: Any) -> Graph:
    """Take the graph that dask would run for some collections; nothing runs."""
    try:
        with _scheduler(eager=False):
            compute(*lazy)
    except _Caught as caught:
        return caught.graph
    raise SimulationError(
        "there is nothing to predict: the result is computed already, or was never lazy. "
        "Give a result whose data are dask arrays."
    )


def part_of(graph: Any, keys: Sequence[Key]) -> Graph:
    """Take the part of an array's graph that some keys need, fused as dask would."""
    wanted = list(keys)
    merged = da.optimize(graph, wanted)
    nodes = convert_legacy_graph(dict(merged))
    return Graph(_reached(nodes, wanted), frozenset(wanted))


def graph_of(tasks: Mapping[Key, Any]) -> Graph:
    """Take the tasks that a scheduler was given."""
    return Graph(convert_legacy_graph(dict(tasks)), frozenset())


def catch(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call a user's function; a computation that it starts is caught and its graph returned."""
    try:
        with _scheduler(eager=True):
            return function(argument)
    except _Caught as caught:
        return caught.graph


def ordered(graph: Graph) -> dict[Key, int]:
    """The rank of each task in dask's own order."""
    try:
        ranks: dict[Any, Any] = order(dict(graph.nodes))  # type: ignore[arg-type]
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise SimulationError(f"dask could not put the graph in order: {error}") from error
    return ranks


def fused(task: Task) -> Fused | None:
    """Look into a fused task; None where it is a plain one."""
    args = task.args
    if task.func is not _execute_subgraph:
        return None
    if len(args) < 3 or not isinstance(args[0], dict):
        raise SimulationError(f"dask {_VERSION} fuses tasks in a way that is not known")
    return Fused(args[0], args[1], dict(zip(args[2], args[3:], strict=False)))


def produces(node: Node) -> bool:
    """Whether dask's graph marks a task as one that makes data, as reading does."""
    return bool(getattr(node, "data_producer", False))


def _scheduler(*, eager: bool) -> Any:
    mine = threading.get_ident()

    def get(dsk: Any, keys: Any, **options: Any) -> Any:
        if threading.get_ident() != mine:
            # somebody else's computation, in another thread
            from dask.threaded import get as run

            return run(dsk, keys, **options)
        graph = dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__()
        nodes = convert_legacy_graph(dict(graph))
        raise _Caught(Graph(_reached(nodes, keys), frozenset(_flat(keys)), eager))

    return dask.config.set(scheduler=get)


def _flat(keys: Any) -> list[Key]:
    if isinstance(keys, list):
        return [k for each in keys for k in _flat(each)]
    return [keys]


def _reached(nodes: Mapping[Key, GraphNode], keys: Any) -> dict[Key, GraphNode]:
    """The nodes that are needed for some keys; a scheduler never looks at the others."""
    out: dict[Key, GraphNode] = {}
    stack: list[Key] = _flat(keys)
    while stack:
        key = stack.pop()
        if key not in out:
            # what is not in the graph is on a cluster already, as after persist()
            out[key] = nodes.get(key) or DataNode(key, None)
            stack.extend(out[key].dependencies)
    return out


#: Names that other modules of the package use, so that dask's are imported here only.
AliasNode: TypeAlias = Alias
ConstantNode: TypeAlias = DataNode
TaskNode: TypeAlias = Task
Ref: TypeAlias = TaskRef
Node: TypeAlias = GraphNode
