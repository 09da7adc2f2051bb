from __future__ import annotations

import sys
from pathlib import Path

import dask
import pytest

from xchunk.engine.budget import (
    control_group_memory,
    detect_budget,
    local_threads,
    memory_limit,
    resident_bytes,
    slurm_memory,
)
from xchunk.errors import InvalidChunksError, MemoryBudgetError

GB, MIB = 10**9, 2**20


class FakeManager:
    def __init__(self, fraction: float | bool):
        self.memory_target_fraction = fraction


class FakeWorker:
    def __init__(self, fraction: float | bool):
        self.memory_manager = FakeManager(fraction)


class FakeClient:
    """A client whose scheduler and workers say what a test wants them to say."""

    asynchronous = False

    def __init__(self, *workers: tuple[int, int, int, float], now: int | None = None):
        self.workers, self.now = workers, now

    def scheduler_info(self, n_workers: int = 5) -> dict:
        shown = self.workers if n_workers == -1 else self.workers[:n_workers]
        return {
            "workers": {
                f"tcp://w{i}": {"nthreads": t, "memory_limit": m, "metrics": {"memory": held}}
                for i, (t, m, held, _) in enumerate(shown)
            }
        }

    def run(self, function, on_error: str = "raise") -> dict:
        answers = [function(FakeWorker(w[3])) for w in self.workers]
        assert all(held > 0 for _, held in answers)
        # what they hold here is what this process does
        held = [self.now if self.now is not None else w[2] for w in self.workers]
        return {f"tcp://w{i}": (part, held[i]) for i, (part, _) in enumerate(answers)}


def test_one_worker() -> None:
    budget = detect_budget(client=FakeClient((2, 4 * GB, GB // 10, 0.6)))
    assert (budget.max_mem, budget.threads, budget.workers) == (2_300_000_000, 2, 1)
    assert budget.origin == "the worker"


def test_the_worker_with_the_least_for_a_task_decides() -> None:
    # the larger worker has more threads, and so less for each of its tasks
    budget = detect_budget(client=FakeClient((2, 4 * GB, 0, 0.6), (16, 8 * GB, 0, 0.6)))
    assert budget.per_task == int(0.6 * 8 * GB) // 16
    assert (budget.threads, budget.workers) == (16, 1)
    assert "mixed cluster, tcp://w1" in budget.origin


@pytest.mark.parametrize("busy", [0, 1, 2])
def test_what_a_worker_holds_already_counts(busy: int) -> None:
    held = [GB if i == busy else 0 for i in range(3)]
    budget = detect_budget(client=FakeClient(*((1, 4 * GB, h, 0.6) for h in held)))
    assert budget.max_mem == int(0.6 * 4 * GB) - GB
    assert budget.workers == 3


def test_what_a_worker_holds_once_its_libraries_are_loaded_counts() -> None:
    client = FakeClient((1, 4 * GB, GB // 10, 0.6), now=GB // 4)
    assert detect_budget(client=client).max_mem == int(0.6 * 4 * GB) - GB // 4


def test_a_full_worker_is_named() -> None:
    with pytest.raises(MemoryBudgetError, match=r"tcp://w1 has no memory left.*client\.restart"):
        detect_budget(client=FakeClient((1, 4 * GB, 0, 0.6), (1, 4 * GB, 3 * GB, 0.6)))


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [((0.6, 0.6), 0.6), ((0.9, 0.3), 0.3), ((False, 0.8), 0.6)],
    ids=["alike", "each its own", "a worker that never spills"],
)
def test_each_worker_has_a_fraction_of_its_own(fractions: tuple, expected: float) -> None:
    budget = detect_budget(client=FakeClient(*((1, GB, 0, f) for f in fractions)))
    assert budget.fraction == expected
    assert budget.max_mem == int(expected * GB)


def test_a_worker_without_a_limit_has_its_share_of_this_machine() -> None:
    budget = detect_budget(client=FakeClient((1, 0, 0, 0.6), (1, 0, 0, 0.6)))
    assert budget.memory is not None
    assert 0 < budget.memory <= memory_limit()[0] * 1.5 / 2


def test_max_mem_is_taken_as_it_is_for_the_most_threads() -> None:
    client = FakeClient((1, GB, 0, 0.6), (4, GB, 0, 0.6))
    budget = detect_budget(max_mem="900MB", client=client)
    assert (budget.max_mem, budget.threads, budget.memory) == (9 * 10**8, 4, None)


def test_a_growth_at_which_a_worker_ends_is_refused() -> None:
    client = FakeClient((1, 2 * GB, 0, 0.6), (4, GB, 0, 0.6))
    with pytest.raises(MemoryBudgetError, match="more than a worker has"):
        detect_budget(max_mem="1.5GB", client=client)
    # a worker without a limit says 0
    assert detect_budget(max_mem="1.5GB", client=FakeClient((1, 0, 0, 0.6))).max_mem == 15 * 10**8


def test_memory_stands_for_each_worker() -> None:
    budget = detect_budget("2GB", client=FakeClient((1, GB, 0, 0.6), (2, GB, 10**8, 0.6)))
    assert (budget.memory, budget.max_mem) == (2 * GB, 11 * 10**8)


def test_this_process() -> None:
    budget = detect_budget("64GB")
    assert budget.threads == local_threads() == 2
    assert 0 < budget.reserved <= 10 * GB
    with dask.config.set({"distributed.worker.memory.target": 0.5}):
        assert detect_budget("64GB").fraction == 0.5
    with dask.config.set({"distributed.worker.memory.target": False}):
        assert detect_budget("64GB").fraction == 0.6


@pytest.mark.parametrize("size", ["many", -1, "0"])
def test_sizes_that_make_no_sense(size: object) -> None:
    with pytest.raises(InvalidChunksError):
        detect_budget(size)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, []),
        ({"SLURM_MEM_PER_NODE": "4096"}, [4096 * MIB]),
        ({"SLURM_MEM_PER_NODE": "0"}, []),
        ({"SLURM_MEM_PER_NODE": "8G"}, [8 * MIB]),
        ({"SLURM_MEM_PER_CPU": "2000", "SLURM_CPUS_ON_NODE": "16"}, [32000 * MIB]),
        ({"SLURM_MEM_PER_CPU": "2000", "SLURM_CPUS_ON_NODE": "16(x2)"}, [32000 * MIB]),
        ({"SLURM_MEM_PER_CPU": "2000", "SLURM_CPUS_PER_TASK": "4"}, [8000 * MIB]),
        ({"SLURM_MEM_PER_CPU": "2000"}, [2000 * MIB]),
    ],
)
def test_slurm(env: dict, expected: list[int]) -> None:
    assert [n for n, _ in slurm_memory(env)] == expected


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "max\n"}, []),
        ("0::/\n", {"memory.max": "5000000000\n"}, [5 * GB]),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "3000000000"}, [3 * GB]),
        ("0::/a\n", {"a/memory.high": "2000000000", "a/memory.max": "max"}, [2 * GB]),
        ("0::/host/path\n", {"memory.max": "1000000000"}, [GB]),
        (
            "9:memory:/job\n3:cpu,cpuacct:/job\n",
            {"memory/job/memory.limit_in_bytes": "4000000000"},
            [4 * GB],
        ),
        ("9:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, []),
        ("", {"memory/memory.limit_in_bytes": "7000000000"}, [7 * GB]),
    ],
    ids=["v2 none", "v2", "v2 parent", "v2 high", "container", "v1", "v1 none", "unreadable"],
)
def test_control_groups(tmp_path: Path, lines: str, files: dict, expected: list[int]) -> None:
    proc = tree(tmp_path / "proc", {"self/cgroup": lines} if lines else {})
    root = tree(tmp_path / "cgroup", files)
    assert sorted(n for n, _ in control_group_memory(proc, root)) == expected


def test_what_others_hold_of_the_groups_limit_is_not_ours(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {"self/cgroup": "0::/"})
    files = {
        "memory.max": str(100 * GB),
        "memory.current": str(50 * GB),
        "memory.stat": f"anon 1\ninactive_file {20 * GB}\n",
    }
    found = {w: n for n, w in control_group_memory(proc, tree(tmp_path / "c", files))}
    left = found["what others leave of the control group's limit"]
    assert left == pytest.approx(70 * GB + resident_bytes(), rel=0.01)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_real_cluster_whose_workers_have_a_fraction_of_their_own() -> None:
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 2, "memory_limit": "2GB"}
    config = {"distributed.worker.memory.target": 0.5}
    with (
        LocalCluster(**options, config=config, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        budget = detect_budget(client=client)
    assert (budget.threads, budget.workers, budget.fraction) == (2, 2, 0.5)
    assert budget.memory == 2 * GB
    assert 0 < budget.reserved < GB


def test_what_a_worker_holds_now_counts_and_not_what_the_scheduler_knew() -> None:
    client = FakeClient((1, 4 * GB, 3 * GB, 0.6), now=GB // 4)
    assert detect_budget(client=client).max_mem == int(0.6 * 4 * GB) - GB // 4


def test_looking_is_possible_however_much_is_held() -> None:
    full = FakeClient((1, 4 * GB, 3 * GB, 0.6))
    assert detect_budget(client=full, looking=True).max_mem == int(0.6 * 4 * GB)
    assert detect_budget("1MB", looking=True).max_mem == 600_000
    with pytest.raises(MemoryBudgetError):
        detect_budget("1MB")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc gives memory back")
def test_memory_that_is_free_again_is_not_held() -> None:
    kept = [bytes(60_000) for _ in range(3000)]
    full = resident_bytes()
    last = bytes(100)
    del kept
    assert detect_budget("64GB").reserved < full - 100_000_000
    assert last
