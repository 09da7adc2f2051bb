"""Going on where an earlier run was stopped: what it left, and whether it is still this run's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from zarr.abc.store import Store

from xchunk.core.grid import Axis, Grid
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import ArrayPlan
from xchunk.core.units import format_count
from xchunk.errors import ResumeMismatchError, TargetExistsError
from xchunk.storage.fingerprint import source_facts, without_secrets
from xchunk.storage.journal import Header, Journal, committed_digest, differences
from xchunk.storage.site import Site, state_of
from xchunk.storage.stores import describe, open_store, reaching
from xchunk.storage.target import TargetArray, TargetMetadata
from xchunk.storage.workspace import Workspace

__all__ = ["Standing", "compare", "header_of", "planning_budget", "refuse_other"]

#: What a detected budget may be smaller than that of the run that is resumed: a process is not
#: of exactly the same size each time.
_SLACK = 1.05
_NAMED = 5


def header_of(
    arrays: Sequence[tuple[TargetArray, ArrayPlan]],
    metadata: TargetMetadata,
    budget: MemoryBudget,
    scratch: Store | None = None,
) -> Header:
    """Return the facts of a run, for its journal."""
    most = max((plan.projected_mem for _, plan in arrays), default=0)
    return Header(
        arrays={
            target.assembled.path: {
                "source": source_facts(target.assembled),
                "plan": _plan_facts(plan) | _place_facts(scratch),
                "target": _target_facts(target, metadata),
            }
            for target, plan in arrays
        },
        groups=tuple(metadata.groups),
        documents=_digest(metadata.groups),
        budget={**asdict(budget), "projected_mem": most},
    )


def _plan_facts(plan: ArrayPlan) -> dict[str, Any]:
    return {
        "stages": [
            {
                "kind": stage.kind,
                "boxes": _grid_facts(stage.boxes),
                "scratch": None
                if stage.scratch is None
                else {
                    "chunks": list(stage.scratch.chunks),
                    "shards": None if stage.scratch.shards is None else list(stage.scratch.shards),
                    "compressor": stage.scratch.compressor,
                },
            }
            for stage in plan.stages
        ]
    }


def _place_facts(scratch: Store | None) -> dict[str, Any]:
    """Tell where scratch data are, unless they are in the target's store."""
    return {} if scratch is None else {"scratch data in": without_secrets(describe(scratch))}


def _grid_facts(grid: Grid) -> list[Any]:
    def axis_facts(axis: Axis) -> Any:
        return axis.chunk if axis.parts is None else list(axis.parts)

    return [axis_facts(axis) for axis in grid.axes]


def _target_facts(target: TargetArray, metadata: TargetMetadata) -> dict[str, Any]:
    path = target.assembled.path
    own = {k: v for k, v in metadata.arrays.items() if k.rpartition("/")[0] == path}
    return {
        "format": metadata.zarr_format,
        "chunks": list(target.chunks),
        "shards": None if target.shards is None else list(target.shards),
        "metadata": _digest(own),
    }


def _digest(documents: Mapping[str, bytes]) -> str:
    state = hashlib.sha256()
    for key, value in sorted(documents.items()):
        state.update(f"{key}\0{len(value)}\0".encode() + value)
    return state.hexdigest()


def planning_budget(
    where: Any,
    budget: MemoryBudget,
    *,
    overwrite: bool,
    storage_options: Mapping[str, Any] | None = None,
) -> MemoryBudget:
    """Return the budget by which an unfinished target was planned, where this one allows it.

    Free memory differs from one moment to the next. By another budget, the plan would be another
    one, and nothing of what is written could be used.
    """
    site = Site(open_store(where, storage_options=storage_options), overwrite=overwrite)
    with reaching(site.store):
        if Workspace(site.working).read_marker() is None:
            return budget
        try:
            header = Journal(site.working).read()
        except ResumeMismatchError:
            return budget
    if header is None:
        return budget
    found = dict(header.budget)
    needed = found.pop("projected_mem", None)
    known = {f.name for f in fields(MemoryBudget)}
    slack = 1.0 if budget.origin == "max_mem" else _SLACK
    if not isinstance(needed, int) or needed > slack * budget.max_mem or set(found) - known:
        return budget
    return MemoryBudget(**found)


@dataclass(frozen=True)
class Standing:
    """What an earlier run left, as far as this one can use it."""

    earlier: Header | None = None
    """What the earlier run did; None where there was none."""
    finished: Mapping[str, tuple[frozenset[int], ...]] | None = None
    """The boxes of each stage that are written, by path of the array."""
    changed: tuple[str, ...] = ()
    """Arrays that have to begin anew: they differ, and none of their boxes was written."""

    @property
    def boxes(self) -> int:
        """How many boxes need not be copied again."""
        return sum(len(f) for stages in (self.finished or {}).values() for f in stages)

    def note(self) -> list[str]:
        """Say in words that this run goes on with an earlier one."""
        if not self.boxes:
            return []
        done = format_count(self.boxes)
        return [f"an earlier run was stopped after {done} boxes, which are not copied again"]


def compare(journal: Journal, now: Header) -> Standing:
    """Compare an earlier run's journal with this run.

    Raises
    ------
    ResumeMismatchError
        If boxes were written of another source, plan or target.
    """
    earlier = journal.read()
    if earlier is None:
        return Standing()
    finished: dict[str, tuple[frozenset[int], ...]] = {}
    changed: list[str] = []
    faults: list[str] = []
    for path, facts in earlier.arrays.items():
        wanted = now.arrays.get(path)
        if wanted == facts:
            finished[path] = journal.finished(earlier, facts)
        elif not journal.has_boxes(facts):
            changed.append(path)
        elif wanted is None:
            faults.append(f"{path} is not written any more")
        else:
            faults += [f"{path}: {d}" for d in differences(facts, wanted)]
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise ResumeMismatchError(
            f"{describe(journal.store)} is the unfinished target of another rechunk: "
            f"{'; '.join(faults[:_NAMED])}{more}. Nothing was written. Call with what it was "
            "begun with to finish it, give resume=False (--no-resume) to start anew, or another "
            "target."
        )
    return Standing(earlier, finished, tuple(changed))


def refuse_other(site: Site, digest: str) -> None:
    """Refuse a complete target of ours that another run has made.

    Raises
    ------
    TargetExistsError
        If it is not what this run would commit, and is not to be overwritten.
    """
    if site.overwrite or state_of(site.store) != "committed":
        return
    if committed_digest(site.store) != digest:
        raise TargetExistsError(str(site.exists()))
