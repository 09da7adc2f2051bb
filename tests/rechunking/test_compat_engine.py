"""rechunker's planner and executor on zarr 3, driven by xchunk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client

import xchunk
from xchunk.core.grid import Grid
from xchunk.core.memory import PROCESS_OVERHEAD, TASK_OVERHEAD, MemoryBudget
from xchunk.core.plan.stages import CopyJob, Limits
from xchunk.errors import InvalidChunksError, MemoryBudgetError, StageFailedError

#: Little enough beside what every process and task take that the arrays go through scratch, on
#: one thread.
MEMORY = PROCESS_OVERHEAD + TASK_OVERHEAD + 500_000
CHUNKS = {"time": -1, "lat": 15, "lon": 20}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with dask.config.set(num_workers=1):
        yield


def test_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "rechunker", None)
    monkeypatch.delitem(sys.modules, "rechunker.algorithm", raising=False)
    ds = xr.Dataset({"a": ("x", np.arange(9))})
    with pytest.raises(InvalidChunksError, match="pip install --no-deps rechunker"):
        ds.chunking.apply({"x": 3}, store=tmp_path / "t.zarr", engine="rechunker")
    assert not (tmp_path / "t.zarr").exists()


def test_there_is_no_such_engine(tmp_path: Path) -> None:
    ds = xr.Dataset({"a": ("x", np.arange(9))})
    with pytest.raises(InvalidChunksError, match="'beam' does not exist"):
        ds.chunking.plan({"x": 3}, store=tmp_path / "t.zarr", engine="beam")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Maps, packed and not, with a gap, and variables that rechunker cannot copy."""
    pytest.importorskip("rechunker")
    rng = np.random.default_rng(0)
    packed = xr.Variable(("time", "lat", "lon"), rng.integers(0, 99, (20, 100, 60)) * 0.5)
    packed.encoding = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": np.int16(-9)}
    values = rng.random((20, 100, 60)).astype("f4")
    values[:3] = np.nan
    ds = xr.Dataset(
        {
            "a": packed,
            "b": (("time", "lat", "lon"), values),
            "name": ("lat", np.array([f"n{i}" for i in range(100)], dtype=object)),
            "none": (("time", "empty"), np.zeros((20, 0))),
            "one": 3,
        },
        coords={"time": np.arange(20)},
    )
    for name in ("a", "b"):
        ds[name].encoding["chunks"] = (1, 100, 60)
    ds.to_zarr(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_a_store_is_the_one_that_xchunk_makes(source: Path, tmp_path: Path) -> None:
    chunks = CHUNKS
    documents = {}
    for engine in ("xchunk", "rechunker"):
        target = tmp_path / f"{engine}.zarr"
        out = xr.open_zarr(source).chunking.apply(
            chunks,
            store=target,
            engine=engine,
            max_mem=MEMORY,
            verify=True,
            progress=False,
        )
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())
        documents[engine] = {
            p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()
        }
    assert documents["rechunker"] == documents["xchunk"]


def test_the_plan_is_rechunkers(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    algorithm = pytest.importorskip("rechunker.algorithm")
    made: dict[int, Any] = {}
    real = algorithm.rechunking_plan

    def watched(shape: Any, before: Any, after: Any, itemsize: int, *args: Any, **how: Any) -> Any:
        made[itemsize] = real(shape, before, after, itemsize, *args, **how)
        return made[itemsize]

    monkeypatch.setattr(algorithm, "rechunking_plan", watched)
    plan = xr.open_zarr(source).chunking.plan(
        CHUNKS, store=tmp_path / "t.zarr", engine="rechunker", max_mem=MEMORY
    )
    found = plan["b"]
    assert found.family == "staged"
    assert plan.projected_mem <= MEMORY
    read, write = found.stages
    assert read.scratch is not None
    assert read.boxes.chunks == read.scratch.chunks
    assert (read.boxes.chunks, write.boxes.chunks) == made[4][1:]


@pytest.mark.slow
def test_computed_values_and_scratch_elsewhere(source: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((400, 60, 50)).astype("f4")
    ds = xr.Dataset({"c": (("time", "lat", "lon"), values)}).chunk({"time": 10}) * 2
    how: Any = {"store": tmp_path / "t.zarr", "engine": "rechunker", "max_mem": "10.5MB"}
    plan = ds.chunking.plan({"time": -1, "lon": 1}, **how)
    assert plan["c"].family == "staged"
    out = ds.chunking.apply(
        {"time": -1, "lon": 1}, scratch=tmp_path / "scratch", verify=True, progress=False, **how
    )
    xr.testing.assert_identical(out.load(), ds.load())
    assert not (tmp_path / "scratch").exists()


def test_it_goes_on_where_it_was(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import xchunk.rechunking.compat.engine as adapter

    target, ds = tmp_path / "t.zarr", xr.open_zarr(source)[["b"]]
    how: Any = {"store": target, "engine": "rechunker", "max_mem": MEMORY, "progress": False}
    chunks = CHUNKS
    plan = ds.chunking.plan(chunks, **{k: v for k, v in how.items() if k != "progress"})
    boxes = plan["b"].stages[1].boxes.count
    count, half = {"boxes": 0}, boxes // 2
    assert half
    real = adapter.write_block

    def failing(spec: Any, i: int, block: Any) -> int:
        if "write-b" in spec.label and count["boxes"] == half:
            raise OSError("the disk is gone")
        count["boxes"] += "write-b" in spec.label
        return real(spec, i, block)

    with monkeypatch.context() as patch:
        patch.setattr(adapter, "write_block", failing)
        with pytest.raises(StageFailedError, match="the disk is gone"):
            ds.chunking.apply(chunks, **how)
    with pytest.raises(FileNotFoundError):
        xr.open_zarr(target)
    written: list[tuple[str, int]] = []

    def counting(spec: Any, i: int, block: Any) -> int:
        written.append((spec.label, i))
        return real(spec, i, block)

    monkeypatch.setattr(adapter, "write_block", counting)
    out = ds.chunking.apply(chunks, **how)
    assert not any("read-b" in label for label, _ in written)
    assert 0 < sum("write-b" in label for label, _ in written) <= boxes - half
    xr.testing.assert_identical(out.load(), ds.load())


class Told:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.done: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        assert done <= total
        self.done[name, stage] = done


def test_progress_is_told_of_every_box(source: Path, tmp_path: Path) -> None:
    how: Any = {"store": tmp_path / "t.zarr", "engine": "rechunker", "max_mem": MEMORY}
    chunks, told = CHUNKS, Told()
    plan = xr.open_zarr(source)[["b"]].chunking.plan(chunks, **how)
    xr.open_zarr(source)[["b"]].chunking.apply(chunks, progress=told, **how)
    counts = {(a.name, s.kind): s.boxes.count for a in plan.arrays for s in a.stages}
    assert told.done == counts


def make_job(chunk: int, unit: int) -> CopyJob:
    shape = (1000, 1000)
    grids = [Grid.of(shape, c) for c in ((chunk, 1000), (1000, unit))]
    return CopyJob("a", shape, 8, grids[0], grids[1], grids[1])


@pytest.mark.parametrize("max_mem", ["12MB", "14MB", "20MB", "40MB", "200MB"])
@pytest.mark.parametrize(("chunk", "unit"), [(1, 1), (10, 10), (100, 10), (100, 100)])
def test_plans_stay_within_the_budget_or_say_what_would(
    max_mem: str, chunk: int, unit: int
) -> None:
    pytest.importorskip("rechunker")
    from xchunk.core.cost import Rates
    from xchunk.rechunking.compat.engine import RechunkerEngine

    budget = MemoryBudget.of_growth(int(max_mem[:-2]) * 1_000_000, threads=2)
    job = make_job(chunk, unit)
    how: Any = {"rates": Rates(), "limits": Limits()}
    try:
        plan = RechunkerEngine().plan(job, budget, **how)
    except MemoryBudgetError as error:
        assert error.smallest is not None
        wide = MemoryBudget.of_growth(error.smallest, threads=2)
        plan = RechunkerEngine().plan(job, wide, **how)
        assert plan.worker_mem <= error.smallest
        narrow = MemoryBudget.of_growth(int(error.smallest * 0.95), threads=2)
        with pytest.raises(MemoryBudgetError):
            RechunkerEngine().plan(job, narrow, **how)
    else:
        assert plan.worker_mem <= budget.max_mem


def test_rechunkers_own_executor(source: Path, tmp_path: Path) -> None:
    executors = pytest.importorskip("rechunker.executors.python")
    pipeline = pytest.importorskip("rechunker.pipeline")

    class Executor(executors.PythonPipelineExecutor, pipeline.CopySpecToPipelinesMixin):
        """rechunker's plain loops."""

    array = zarr.open_array(source / "b")
    plan = xchunk.rechunk(array, (20, 15, 20), "1MB", tmp_path / "t.zarr", executor=Executor())
    np.testing.assert_array_equal(plan.execute(verify=True)[:], array[:])


@pytest.mark.slow
def test_on_a_cluster(source: Path, client: Client, tmp_path: Path) -> None:
    out = xr.open_zarr(source).chunking.apply(
        CHUNKS,
        store=tmp_path / "t.zarr",
        engine="rechunker",
        max_mem=MEMORY,
        verify=True,
        progress=False,
    )
    xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())
