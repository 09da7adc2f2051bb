"""Stages are told apart by their array and number, whatever they are called."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import xchunk  # noqa: F401 - registers the accessor
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.model import Facts, Geometry
from xchunk.core.plan.stages import ArrayPlan, CopyJob
from xchunk.engine.cluster import current_client
from xchunk.engine.graph import run_chains
from xchunk.errors import StageFailedError
from xchunk.rechunking.bind import bind
from xchunk.rechunking.options import RechunkOptions
from xchunk.rechunking.run import run_rechunk

#: Boxes of the four stages, and pieces of the three scratch arrays between them.
BOXES = ((4, 24), (8, 12), (12, 6), (24, 4))
PIECES = ((4, 12), (8, 6), (12, 2))
KINDS = ["read", "move 1", "move 2", "write"]


class FourStages:
    """An engine that plans four stages for every array, and copies as xchunk does."""

    stop_after: int | None = None

    def takes(self, job: CopyJob, dtype: np.dtype[Any]) -> bool:
        return len(job.shape) == 2

    def plan(self, job: CopyJob, budget: MemoryBudget, *, rates: Any, limits: Any) -> ArrayPlan:
        facts = Facts(job, rates, limits, budget.per_task, 1, 1)
        geometry = Geometry(BOXES, PIECES)
        stages = geometry.stages(facts)
        plan = ArrayPlan(job, stages, "staged", sum(s.seconds for s in stages), 1, "")
        plan.check_exclusive()
        return plan

    def run(self, chains: Sequence[Any], *, report: Any = None, **kwargs: Any) -> None:
        left = [self.stop_after]

        def count(key: Any, box: int, nbytes: Any) -> None:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise StageFailedError("stopped")
            if report is not None:
                report(key, box, nbytes)

        run_chains(chains, report=count, **kwargs)


class Told:
    """What a progress object is told."""

    def __init__(self) -> None:
        self.done: dict[tuple[str, str], tuple[int, int]] = {}

    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        self.done[name, stage] = done, total

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def data(names: Sequence[str] = ("v",)) -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset({n: (("t", "x"), rng.normal(size=(24, 24)).astype("f4")) for n in names})


def source(place: Any, names: Sequence[str] = ("v",)) -> xr.Dataset:
    ds = data(names)
    ds.to_zarr(place, encoding={n: {"chunks": (1, 24)} for n in names}, consolidated=False)
    return xr.open_zarr(place, consolidated=False, chunks={})


def bound(ds: xr.Dataset, store: Any, engine: FourStages) -> Any:
    budget = MemoryBudget(max_mem=50_000_000, threads=2)
    options = RechunkOptions(chunks={"t": 24, "x": 1})
    return bind({"": ds}, store, options, budget=budget, engine=engine)


@pytest.mark.parametrize("kind", ["raw", "computed"])
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_four_stages_run_and_are_right(where: str, kind: str, tmp_path: Path) -> None:
    names = ["v", "w-1", "w_1"]
    ds = source(str(tmp_path / "in.zarr"), names)
    if kind == "computed":
        ds = ds.chunk(t=4) + 0
    told = Told()
    with ExitStack() as stack:
        if where == "cluster":
            from distributed import Client, LocalCluster

            options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 2}
            cluster = LocalCluster(processes=False, dashboard_address=None, **options)
            stack.enter_context(cluster)
            stack.enter_context(Client(cluster))
            assert current_client() is not None
        run = bound(ds, str(tmp_path / "out.zarr"), FourStages())
        assert [len(a.stages) for a in run.plan.arrays] == [4, 4, 4]
        run_rechunk(run, {"": ds}, {}, verify=True, progress=told)
    assert xr.open_zarr(tmp_path / "out.zarr", chunks=None).equals(data(names))
    assert {k for k in told.done if "verify" not in k[1]} == {(n, k) for n in names for k in KINDS}
    assert all(done == total for done, total in told.done.values())


@pytest.mark.parametrize("after", [1, 7, 9, 13, 19, 23])
def test_four_stages_are_resumed(after: int) -> None:
    ds, target, engine = source(MemoryStore()), MemoryStore(), FourStages()
    engine.stop_after = after
    with pytest.raises(StageFailedError):
        bound(ds, target, engine).run()
    engine.stop_after = None
    again: list[Any] = []
    bound(ds, target, engine).run(report=lambda key, box, nbytes: again.append((key, box, nbytes)))
    assert xr.open_zarr(target, chunks=None).equals(data())
    copied = [(key, box) for key, box, nbytes in again if nbytes]
    assert len(copied) == len(set(copied)) < sum(s.boxes.count for s in bound_stages(ds, engine))


def bound_stages(ds: xr.Dataset, engine: FourStages) -> Sequence[Any]:
    return bound(ds, MemoryStore(), engine).plan.arrays[0].stages  # type: ignore[no-any-return]


@pytest.mark.parametrize("names", [["heat-source-flux"], ["sst-1", "sst_1", "sst_1-target-"]])
def test_names_that_look_like_labels_are_verified(names: list[str]) -> None:
    store = MemoryStore()
    ds = source(MemoryStore(), names)
    ds.chunking.apply({"t": 5}, store=store, max_mem="20MB", verify=True)
    ds.chunking.append(store, dim="t", max_mem="20MB", verify=True)
    expected = xr.concat([data(names)] * 2, "t")
    assert xr.open_zarr(store, chunks=None).equals(expected)
