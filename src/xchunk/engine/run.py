"""Running stages with dask: its threads, or the active cluster.

Each stage is a graph with one task for each box; what its tasks share is one entry of the
graph, handed to each worker once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from dask.base import normalize_token
from dask.base import optimize as dask_optimize
from dask.utils import key_split
from zarr.abc.store import Store

from xchunk._secrets import safe_cause
from xchunk.engine.apart import Names
from xchunk.engine.copy import StageSpec, copy_box, release, write_block
from xchunk.engine.digest import digest_block, digest_box
from xchunk.errors import SourceError, StageFailedError, XchunkError
from xchunk.storage.stores import describe
from xchunk.storage.workspace import PREFIX
from xchunk.storage.zarr_io import delete_prefix, has_key, put_key

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    from distributed import Client

    from xchunk.core.cost import Rates
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.plan import ArrayPlan, CopyJob, Limits

__all__ = [
    "Chain",
    "Engine",
    "Report",
    "current_client",
    "refuse_blind_workers",
    "release_run",
    "run_chains",
]

#: Called when a box is done, with the label of its stage, its number, and what its task
#: returned: its bytes where it was copied, the digests of its pieces where it was only read.
Report = Callable[[str, int, Any], None]

_RETRIES = 2
#: Futures of a cluster that are waited for at a time; dask runs the boxes in about this order.
_WATCHED = 5_000
#: Where workers show that the target they see is the one that everybody sees.
_ANSWERS = f"{PREFIX}/answers"


@dataclass(frozen=True)
class Chain:
    """The stages of one array, in order, and what follows the last of them."""

    stages: tuple[StageSpec, ...]
    """The stages; each starts when the one before is complete."""
    blocks: da.Array | None = None
    """The blocks that the first stage writes, where the source is computed."""
    after: Callable[[], None] | None = field(default=None, compare=False)
    """Called in this process when the last stage is complete (to delete scratch data)."""
    finished: tuple[frozenset[int], ...] = ()
    """For each stage the boxes that an earlier run has copied; none are by default."""

    def remaining(self, number: int) -> list[int]:
        """List the boxes of a stage that are still to be copied."""
        count = self.stages[number].boxes.count
        done = self.finished[number] if self.finished else frozenset()
        return [i for i in range(count) if i not in done]


class Engine(Protocol):
    """What plans and copies arrays in the place of xchunk's own planner and tasks."""

    def takes(self, job: CopyJob, dtype: np.dtype[Any]) -> bool:
        """Tell whether it can copy an array; if not, xchunk does."""
        ...

    def plan(
        self, job: CopyJob, budget: MemoryBudget, *, rates: Rates, limits: Limits
    ) -> ArrayPlan:
        """Choose how an array is copied within a budget."""
        ...

    def run(
        self,
        chains: Sequence[Chain],
        *,
        threads: int,
        client: Client | None = None,
        report: Report | None = None,
    ) -> None:
        """Run the stages of several arrays, as `run_chains` does."""
        ...


def current_client() -> Client | None:
    """Return the active client of dask.distributed, if there is one, without importing it."""
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def refuse_blind_workers(client: Client, store: Store, key: str | None) -> None:
    """Refuse a target that the workers of a cluster cannot see, before the first box.

    Parameters
    ----------
    client : distributed.Client
        The cluster.
    store : zarr store
        The target.
    key : str, optional
        Something that was just written to it.

    Raises
    ------
    SourceError
        If a worker does not find it.
    """
    if key is None:
        return
    answers = client.run(_answer, store, key, on_error="return")
    try:
        blind = [
            str(worker)
            for worker, mark in answers.items()
            if not isinstance(mark, str) or not has_key(store, mark)
        ]
    finally:
        delete_prefix(store, _ANSWERS)
    if blind:
        raise SourceError(
            f"{len(blind)} of {len(answers)} workers ({', '.join(blind[:3])}) cannot see what was "
            f"just written to {describe(store)}, or what they write there is not seen here (a "
            "store in memory is another one in each process). No box was copied. Give a target "
            "that every worker reaches: a shared file system or an object store."
        )


def _answer(store: Store, key: str) -> str | None:
    """Look for a key as a worker does, and leave a mark that the others can look for."""
    if not has_key(store, key):
        return None
    mark = f"{_ANSWERS}/{uuid.uuid4().hex}"
    put_key(store, mark, b"seen")
    return mark


def run_chains(
    chains: Sequence[Chain],
    *,
    threads: int,
    client: Client | None = None,
    report: Report | None = None,
) -> None:
    """Run the stages of several arrays, one array after the other.

    Parameters
    ----------
    chains : sequence of Chain
        What to run. Arrays of a single stage are run together, since they need no scratch;
        the others one by one, so that the scratch data of one exist at a time.
    threads : int
        Threads of dask's local scheduler; without meaning on a cluster.
    client : distributed.Client, optional
        The cluster to run on; None: this process.
    report : callable, optional
        Called with each finished box.

    Raises
    ------
    StageFailedError
        If a box could not be copied, after dask's retries on a cluster.
    """
    names = Names()
    chains = [
        c if c.blocks is None else replace(c, blocks=names.own(c.blocks, c.stages[0].label))
        for c in chains
    ]
    try:
        for group in _groups(chains):
            for number in range(max(len(chain.stages) for chain in group)):
                graph, boxes = _graph(group, number)
                if boxes and client is None:
                    _run_local(graph, boxes, threads, report)
                elif boxes and client is not None:
                    _run_on_cluster(graph, boxes, client, report)
            for chain in group:
                if chain.after is not None:
                    chain.after()
    except (XchunkError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - raised again, without credentials
        raise StageFailedError(
            f"the rechunk stopped: {type(error).__name__}: {error}. The target was not committed."
        ) from safe_cause(error)
    finally:
        for run in {s.run for c in chains for s in c.stages}:
            release_run(run, client)


def _groups(chains: Sequence[Chain]) -> Iterable[list[Chain]]:
    single = [c for c in chains if len(c.stages) == 1]
    if single:
        yield single
    yield from ([c] for c in chains if len(c.stages) > 1)


def shown_whole(label: str) -> str:
    """Spell a label so that dask's dashboard shows all of it.

    The dashboard groups tasks by the words of their names, and drops all from the first one
    with a digit in it: of ``xchunk-read-t2m`` it shows ``xchunk-read``. It takes one word as
    it is, so that this becomes ``xchunk_read_t2m``.
    """
    return label if key_split(label) == label else label.replace("-", "_")


class _Graph(dict[Any, Any]):
    """A graph that dask tells from others without a look at its tasks.

    It would hash each of them before it sends the graph, which takes as long as all the rest.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # who gets it needs no more than what is in it
        return dict, (dict(self),)


@normalize_token.register(_Graph)  # type: ignore[untyped-decorator]
def _token(_: _Graph) -> str:
    return uuid.uuid4().hex


def _graph(chains: Sequence[Chain], number: int) -> tuple[dict[Any, Any], dict[Any, str]]:
    """Build the graph of one stage; also return the keys of the boxes with their labels.

    A stage is a graph of its own: in one graph, all boxes of the second would depend on all of
    the first, and dask's ordering of it takes time and memory by the square of their number.
    """
    graph = _Graph()
    boxes: dict[Any, str] = {}
    for chain in chains:
        stage = chain.stages[number]
        shared = f"{stage.label}-spec-{stage.run}"
        graph[shared] = stage
        name = f"{shown_whole(stage.label)}-{stage.run}"
        boxes_left = chain.remaining(number)
        keys = [(name, i) for i in boxes_left]
        copying = stage.target is not None
        if number == 0 and chain.blocks is not None:
            blocks, block_keys = _block_graph(chain.blocks, boxes_left)
            graph.update(blocks)
            block_task = write_block if copying else digest_block
            graph.update(
                (k, (block_task, shared, k[1], b)) for k, b in zip(keys, block_keys, strict=True)
            )
        else:
            box_task = copy_box if copying else digest_box
            graph.update((k, (box_task, shared, k[1])) for k in keys)
        boxes.update(dict.fromkeys(keys, stage.label))
    return graph, boxes


def _block_graph(blocks: da.Array, wanted: list[int]) -> tuple[dict[Any, Any], list[Any]]:
    (optimized,) = dask_optimize(blocks)
    flat: list[Any] = []
    stack = [optimized.__dask_keys__()]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(reversed(item))
        else:
            flat.append(item)
    keys = [flat[i] for i in wanted]
    layers = optimized.__dask_graph__()
    return dict(layers if len(keys) == len(flat) else layers.cull(set(keys))), keys


def _run_local(
    graph: dict[Any, Any], boxes: dict[Any, str], threads: int, report: Report | None
) -> None:
    from dask.callbacks import Callback
    from dask.threaded import get

    def finished(key: Any, value: Any, *_: Any) -> None:
        if report is not None and key in boxes:
            report(boxes[key], key[1], value)

    with Callback(posttask=finished):
        get(graph, list(boxes), num_workers=threads)


def _run_on_cluster(
    graph: dict[Any, Any], boxes: dict[Any, str], client: Client, report: Report | None
) -> None:
    from distributed import as_completed

    futures = client.get(graph, list(boxes), sync=False, retries=_RETRIES)
    labels = {f.key: label for f, label in zip(futures, boxes.values(), strict=True)}
    try:
        # what waits for a future costs more than the future: it is set up for some at a time
        for start in range(0, len(futures), _WATCHED):
            watched = futures[start : start + _WATCHED]
            for future, value in as_completed(watched, with_results=True):
                if report is not None:
                    report(labels[future.key], future.key[1], value)
    except BaseException:
        client.cancel(futures)
        raise


def release_run(run: str, client: Client | None) -> None:
    """Let go, here and on all workers, of what is kept for a run."""
    release(run)
    if client is not None:
        try:
            client.run(release, run)
        except Exception:  # noqa: BLE001 - a worker that is gone holds nothing any more
            return
