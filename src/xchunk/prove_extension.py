"""Proving that a store holds what was appended to it, or written to a region of it, bit by bit."""

from __future__ import annotations

import math
import uuid
from typing import Any

from xchunk._typing import ProgressLike
from xchunk.core.grid import Grid
from xchunk.core.plan import Limits, plan_array
from xchunk.engine.copy import StageSpec
from xchunk.engine.digest import Unreadable, common_pieces, pieces_of
from xchunk.engine.run import Chain, current_client, run_chains
from xchunk.errors import SourceError, VerificationError
from xchunk.extending import BoundExtension
from xchunk.jobs import copy_job, may_scratch, with_blocks
from xchunk.storage.assemble import Assembled
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stores import describe
from xchunk.storage.target import TargetArray

__all__ = ["prove_extension"]


def prove_extension(bound: BoundExtension, *, progress: ProgressLike | None = None) -> None:
    """Read back what was written, box by box within the budget, and compare it with the source.

    Raises
    ------
    VerificationError
        If anything differs: names each variable and region of the store.
    """
    faults: list[str] = []
    for path, one in bound.news.items():
        if not all(one.shape):
            continue
        pieces, sides = _digests(bound, path, one, progress)
        start = bound.extensions[path].start
        for index, wanted in sides["source"].items():
            if sides["target"].get(index) != wanted:
                region = [slice(*a.bounds(i)) for a, i in zip(pieces.axes, index, strict=True)]
                said = ", ".join(
                    f"{r.start + s}:{r.stop + s}" for r, s in zip(region, start, strict=True)
                )
                faults.append(f"{path}: [{said}] differs from what was to be written")
    if faults:
        raise VerificationError(
            f"{describe(bound.store)} does not hold what was written to it:\n  "
            + "\n  ".join(faults[:10])
        )


def _digests(
    bound: BoundExtension, path: str, one: Assembled, progress: ProgressLike | None
) -> tuple[Grid, dict[str, dict[tuple[int, ...], bytes]]]:
    held = bound.existing.arrays[path]
    budget = bound.plan.budget
    target = TargetArray(one, tuple(held.info.chunks or ()), held.info.shards)  # type: ignore[arg-type]
    source = with_blocks(target, budget)
    job = copy_job(TargetArray(source, target.chunks, target.shards), bound.readable())
    limits = Limits() if may_scratch(source) else Limits(scratch=False)
    plan = plan_array(job, budget, limits=limits)
    grids = {"source": plan.stages[0].boxes, "target": plan.stages[-1].boxes}
    pieces = common_pieces(grids["source"], grids["target"])
    common: dict[str, Any] = {
        "run": uuid.uuid4().hex[:12],
        "target": None,
        "pieces": pieces,
        "threads": plan.threads,
    }
    specs = {
        "source": StageSpec(
            label=f"xchunk-verify-source-{path}",
            source=source.ref,
            origin=source.origin or (0,) * len(source.shape),
            boxes=grids["source"],
            dtype=source.dtype,
            **common,
        ),
        "target": StageSpec(
            label=f"xchunk-verify-target-{path}",
            source=ZarrRef(bound.readable(), path, bound.existing.zarr_format),
            origin=bound.extensions[path].start,
            boxes=grids["target"],
            dtype=held.info.dtype,
            **common,
        ),
    }
    found: dict[str, dict[tuple[int, ...], bytes]] = {"source": {}, "target": {}}
    done = {"source": 0, "target": 0}

    def collect(label: str, box: int, value: Any) -> None:
        side = "source" if "-source-" in label else "target"
        if isinstance(value, Unreadable):
            if side == "source":
                raise SourceError(f"the source of {path} cannot be read: {value.why}")
            return
        region = grids[side].region(box)
        found[side].update(zip(pieces_of(pieces, region), value, strict=True))
        done[side] += 1
        if progress is not None:
            progress.update(
                name=path,
                stage=f"verify-{side}",
                done=done[side],
                total=grids[side].count,
                nbytes=specs[side].dtype.itemsize * math.prod(s.stop - s.start for s in region),
            )

    blocks = None if source.ref is not None or source.variable is None else source.variable.data
    chains = [Chain((specs["source"],), blocks), Chain((specs["target"],))]
    run_chains(chains, threads=budget.threads, client=current_client(), report=collect)
    return pieces, found
