"""Stages as dask graphs, run on dask's threads or the active cluster.

xarray gives variables of one name in different groups of a file the same dask name when they
are opened with ``open_groups(chunks={})``. Merged into one graph, or known to one scheduler, one
of them would silently get the values of the other.

Each stage is a graph with one task for each box; what its tasks share is one entry of the
graph, handed to each worker once.
"""

from __future__ import annotations

import pickle
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from dask.base import normalize_token
from dask.base import optimize as dask_optimize
from dask.utils import key_split
from zarr.abc.store import Store

from xchunk.core.redact import safe_cause
from xchunk.engine.cluster import (
    Declined,
    Needs,
    declined,
    fitting_workers,
    seceded,
)
from xchunk.engine.copy import (
    StageKey,
    StageSpec,
    copy_box,
    digest_block,
    digest_box,
    release,
    write_block,
)
from xchunk.errors import SourceError, StageFailedError, XchunkError, XchunkWarning
from xchunk.sources.refs import ZarrRef, ones_of
from xchunk.stores.adapter import delete_prefix, has_key, put_key
from xchunk.stores.stores import describe
from xchunk.targets.scratch import PREFIX

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    from distributed import Client

    from xchunk.core.cost import Rates
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.plan.stages import ArrayPlan, CopyJob, Limits


class Names:
    """The names of all graphs of a run, and what they stand for."""

    def __init__(self) -> None:
        # what is kept alive here cannot be mistaken for something else of the same id
        self._known: dict[str, Any] = {}

    def own(self, blocks: da.Array, seed: str) -> da.Array:
        """Return blocks under names that stand for nothing else.

        - ``blocks``: blocks that are about to be computed.
        - ``seed``: what new names are made of, where they are needed.
        """
        leaves = dict(_leaves(blocks))
        if any(not _same(self._known.get(n, leaf), leaf) for n, leaf in leaves.items()):
            from xchunk.sources.dask_adapter import renamed

            blocks = renamed(blocks, seed)
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


#: Called when a box is done, with its stage, its number, and what its task returned: its bytes
#: where it was copied, the digests of its pieces where it was only read.
Report = Callable[[StageKey, int, Any], None]

_RETRIES = 2
#: Tasks on far stores for each that holds a box, and one: others read ahead, send, or are noted.
_BESIDE = 2
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
        """Return whether it can copy an array; if not, xchunk does."""
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


def refuse_blind_workers(client: Client, store: Store, key: str | None) -> None:
    """Refuse a target that the workers of a cluster cannot see, before the first box.

    - ``client``: the cluster.
    - ``store``: the target.
    - ``key``: something that was just written to it.
    - raises `SourceError` if a worker does not find it.
    """
    if key is None:
        return
    _refuse_unsent([store])
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


def _refuse_unsent(stores: Iterable[Store]) -> None:
    """Refuse stores that cannot be sent to other processes, such as one of obstore in memory."""
    for store in {id(s): s for s in stores}.values():
        try:
            pickle.dumps(store)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise SourceError(
                f"{describe(store)} cannot be sent to the workers of the cluster "
                f"({type(error).__name__}: {error}), so that they cannot reach it. No box was "
                "copied. Give a store that every worker reaches: a shared file system or an "
                "object store; or run it without a cluster."
            ) from error


def _stores_of(chains: Sequence[Chain]) -> Iterator[Store]:
    for stage in (stage for chain in chains for stage in chain.stages):
        for ref in (stage.source, stage.target):
            if ref is not None:
                yield from (one.store for one in ones_of(ref) if isinstance(one, ZarrRef))


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

    - ``chains``: what to run. Arrays of a single stage are run together, since they need no
      scratch; the others one by one, so that the scratch data of one exist at a time.
    - ``threads``: threads of dask's local scheduler; without meaning on a cluster.
    - ``client``: the cluster to run on; None: this process.
    - ``report``: called with each finished box.
    - raises `StageFailedError` if a box could not be copied, after dask's retries on a cluster.
    """
    names = Names()
    chains = [
        c if c.blocks is None else replace(c, blocks=names.own(c.blocks, c.stages[0].run))
        for c in chains
    ]
    try:
        if client is not None:
            _refuse_unsent(_stores_of(chains))
        for group in _groups(chains, alike=client is None):
            for number in range(max(len(chain.stages) for chain in group)):
                graph, boxes = _graph(group, number, guarded=client is not None)
                if boxes and client is None:
                    # what is computed is held before a task of ours can wait for its turn
                    most = [
                        c.stages[0].threads for c in group if c.blocks is not None and not number
                    ]
                    stages = [c.stages[number] for c in group if number < len(c.stages)]
                    far = [s for s in stages if s.is_far]
                    beside = [_BESIDE * (s.threads + 1) for s in far]
                    # each thread has a heap, which keeps what it has freed: there are no more of
                    # them than tasks are counted
                    own = min(threads, max(s.threads for s in stages))
                    _run_local(graph, boxes, min([max([own, *beside]), *most]), report)
                elif boxes and client is not None:
                    needs = _largest([c.stages[number] for c in group])
                    with seceded() as nested:
                        _run_on_cluster(graph, boxes, client, report, needs, nested=nested)
            for chain in group:
                if chain.after is not None:
                    chain.after()
    except (XchunkError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - raised again, without credentials
        writes = any(s.target is not None for c in chains for s in c.stages)
        what = "the rechunk" if writes else "the comparison"
        after = "The target was not committed." if writes else "What was compared so far is lost."
        raise StageFailedError(
            f"{what} stopped: {type(error).__name__}: {str(error).rstrip('.')}. {after}"
        ) from safe_cause(error)
    finally:
        for run in {s.run for c in chains for s in c.stages}:
            release_run(run, client)


def _groups(chains: Sequence[Chain], *, alike: bool) -> Iterable[list[Chain]]:
    """Yield what is run together; ``alike``: with the same number of tasks at once."""
    single: dict[int, list[Chain]] = {}
    for chain in chains:
        if len(chain.stages) == 1:
            single.setdefault(chain.stages[0].threads if alike else 0, []).append(chain)
    yield from single.values()
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


def _graph(
    chains: Sequence[Chain], number: int, *, guarded: bool = False
) -> tuple[dict[Any, Any], dict[Any, StageKey]]:
    """Build the graph of one stage; also return the keys of the boxes with their stages.

    Guarded tasks look first whether the worker that they were sent to is large enough.


    A stage is a graph of its own: in one graph, all boxes of the second would depend on all of
    the first, and dask's ordering of it takes time and memory by the square of their number.
    """
    graph = _Graph()
    boxes: dict[Any, StageKey] = {}
    for chain in chains:
        stage = chain.stages[number]
        # a cluster may still hold what another stage of the same label has returned
        token = f"{stage.run}{stage.number}"
        shared = f"{stage.label}-spec-{token}"
        graph[shared] = stage
        name = f"{shown_whole(stage.label)}-{token}"
        boxes_left = chain.remaining(number)
        keys = [(name, i) for i in boxes_left]
        copying = stage.target is not None
        head: tuple[Callable[..., Any], ...]
        if number == 0 and chain.blocks is not None:
            blocks, block_keys = _block_graph(chain.blocks, boxes_left)
            graph.update(blocks)
            block_task = write_block if copying else digest_block
            head = (_guarded, block_task) if guarded else (block_task,)
            graph.update(
                (k, (*head, shared, k[1], b)) for k, b in zip(keys, block_keys, strict=True)
            )
        else:
            box_task = copy_box if copying else digest_box
            head = (_guarded, box_task) if guarded else (box_task,)
            graph.update((k, (*head, shared, k[1])) for k in keys)
        boxes.update(dict.fromkeys(keys, stage.key))
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
    graph: dict[Any, Any], boxes: dict[Any, StageKey], threads: int, report: Report | None
) -> None:
    from dask.callbacks import Callback
    from dask.threaded import get

    def finished(key: Any, value: Any, *_: Any) -> None:
        if report is not None and key in boxes:
            report(boxes[key], key[1], value)

    with Callback(posttask=finished):
        get(graph, list(boxes), num_workers=threads)


def _guarded(task: Callable[..., Any], spec: StageSpec, *args: Any) -> Any:
    """Run a task, unless the worker that it was sent to is too small for it."""
    return declined(spec.needs) or task(spec, *args)


def _largest(stages: Sequence[StageSpec]) -> Needs | None:
    known = [s.needs for s in stages if s.needs is not None]
    return max(known, key=lambda n: n.task * n.threads) if known else None


def _run_on_cluster(
    graph: dict[Any, Any],
    boxes: dict[Any, StageKey],
    client: Client,
    report: Report | None,
    needs: Needs | None,
    *,
    nested: bool = False,
) -> None:
    """Run the tasks of a stage; those that a small worker declined, again on the others.

    Nested in a task of the cluster they go before tasks that wait: what is begun is finished.
    """
    where: dict[str, Any] = {"priority": 1} if nested else {}
    while boxes:
        if needs is not None:
            fitting, small = fitting_workers(client, needs)
            if small:
                _warn_of_small(small, fitting)
                where |= {"workers": fitting, "allow_other_workers": True}
        left = _round(graph, boxes, client, report, where)
        # a task that runs again has another name: dask knows the result of the old one
        again = {key: (f"{key[0]}-again", key[1]) for key in left}
        tasks = {new: graph[old] for old, new in again.items()}
        graph = _Graph({k: task for k, task in graph.items() if k not in boxes} | tasks)
        boxes = {new: boxes[old] for old, new in again.items()}


def _warn_of_small(small: Sequence[Declined], fitting: Sequence[str]) -> None:
    said = f"{', '.join(map(str, small[:3]))}: too small for the tasks of this plan"
    if not fitting:
        raise StageFailedError(
            f"no worker of the cluster is large enough any more; {said}, which was made for larger "
            "ones. The target was not committed. Start workers as large as before, or run again "
            "with the plan of the smallest worker."
        )
    warnings.warn(f"worker {said}, so that the others run them", XchunkWarning, stacklevel=2)


def _round(
    graph: dict[Any, Any],
    boxes: dict[Any, StageKey],
    client: Client,
    report: Report | None,
    where: dict[str, Any],
) -> list[Any]:
    """Run tasks to their end; return the keys of those that were declined."""
    from distributed import as_completed

    futures = client.get(graph, list(boxes), sync=False, retries=_RETRIES, **where)
    keys = list(boxes)
    names = {f.key: key for f, key in zip(futures, keys, strict=True)}
    left: list[Any] = []
    try:
        # what waits for a future costs more than the future: it is set up for some at a time
        for start in range(0, len(futures), _WATCHED):
            watched = futures[start : start + _WATCHED]
            for future, value in as_completed(watched, with_results=True):
                key = names[future.key]
                if isinstance(value, Declined):
                    left.append(key)
                elif report is not None:
                    report(boxes[key], key[1], value)
    except BaseException:
        client.cancel(futures)
        raise
    return left


def release_run(run: str, client: Client | None) -> None:
    """Let go, here and on all workers, of what is kept for a run."""
    release(run)
    if client is not None:
        try:
            client.run(release, run)
        except Exception:  # noqa: BLE001 - a worker that is gone holds nothing any more
            return
