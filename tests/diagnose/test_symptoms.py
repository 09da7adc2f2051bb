"""The judgement, from facts as they were recorded, without anything that runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from xchunk.core.cost import MeasuredRates
from xchunk.core.reports.verdicts import (
    Facts,
    MemorySample,
    Record,
    Span,
    WorkerSeen,
    diagnose,
    facts_of,
)
from xchunk.diagnose.observe import resolved, state_of, task_part

#: A computation in which nothing is wrong; seconds of threads are those of two for 10 s.
HEALTHY = Facts(
    scheduler="threads",
    slots=2,
    workers=1,
    threads=2,
    tasks=100,
    elapsed=10.0,
    compute=19.0,
    handed=19.0,
    states={"compute": 19.0},
    cpu=18.0,
    longest=0.3,
    longest_name="sum",
    usual=0.2,
    alone=0.2,
)
CLUSTER = replace(HEALTHY, scheduler="cluster", workers=2, threads=1, limit=10**9, fullest=0.5)

PROBED = MeasuredRates(
    variable="a", chunk_nbytes=10**6, codecs=("zlib",), format="netcdf4",
    store_seconds=0.001, codec_seconds=0.01, overhead_seconds=0.0001,
)  # fmt: skip

CASES = {
    "healthy": (HEALTHY, {}, "healthy"),
    "healthy cluster": (CLUSTER, {}, "healthy"),
    # recorded on a machine with ten times more work than processors
    "busy machine": (
        HEALTHY, {"cpu": 4.5, "starved": 14.0, "crowded": 13.0, "gil": 0.26}, "healthy"
    ),
    "workers lost": (CLUSTER, {"restarts": 2, "spill": 5.0}, "workers-lost"),
    "spilling": (CLUSTER, {"compute": 12.0, "spill": 5.0, "spilled": 10**9}, "spilling"),
    "spilling while sending": (CLUSTER, {"transfer": 8.0, "spilled": 3 * 10**9}, "spilling"),
    "paused": (CLUSTER, {"paused": 4.0, "fullest": 0.82}, "spilling"),
    "a little spilled": (CLUSTER, {"spill": 0.1, "spilled": 10**7}, "healthy"),
    "full without a cluster": (HEALTHY, {"fullest": 0.9, "limit": 10**9}, "memory"),
    "one chunk": (
        HEALTHY,
        {"compute": 10.5, "handed": 10.5, "longest": 8.0, "usual": 0.05, "alone": 9.0,
         "substantial": 1},
        "one-chunk",
    ),
    "too few": (
        HEALTHY,
        {"tasks": 2, "compute": 10.0, "handed": 10.0, "longest": 9.8, "usual": 9.8, "alone": 10.0,
         "substantial": 1},
        "too-few-tasks",
    ),
    "too many": (
        HEALTHY,
        {"tasks": 20_000, "compute": 4.0, "handed": 9.0, "longest": 0.01, "usual": 0.0002},
        "too-many-tasks",
    ),
    "too many, cluster": (
        CLUSTER,
        {"tasks": 5_000, "compute": 1.0, "handed": 1.0, "longest": 0.01, "usual": 0.0002},
        "too-many-tasks",
    ),
    "unbalanced": (CLUSTER, {"compute": 11.0, "uneven": 1.8}, "unbalanced"),
    "transfers": (CLUSTER, {"compute": 8.0, "transfer": 9.0}, "transfer-bound"),
    "few transfers": (CLUSTER, {"compute": 16.0, "transfer": 2.0}, "healthy"),
    "decoded again": (HEALTHY, {"decoded": 12 * 10**8, "distinct": 10**8}, "decoded-again"),
    "some decoded again": (HEALTHY, {"decoded": 12 * 10**8, "distinct": 10**9}, "healthy"),
    "little decoded again": (HEALTHY, {"decoded": 12 * 10**5, "distinct": 10**5}, "healthy"),
    "lock": (HEALTHY, {"states": {"lock": 8.0, "file-codec": 8.0, "compute": 3.0}}, "lock-bound"),
    "codec in a file": (HEALTHY, {"states": {"file-codec": 15.0, "compute": 4.0}}, "codec-bound"),
    "codec": (HEALTHY, {"states": {"codec": 14.0, "store": 2.0, "compute": 3.0}}, "codec-bound"),
    "store": (HEALTHY, {"states": {"store": 17.0, "compute": 2.0}, "cpu": 2.0}, "io-bound"),
    "small stored chunks": (
        HEALTHY, {"states": {"store": 17.0, "compute": 2.0}, "cpu": 9.0}, "overhead-bound"
    ),
    "small blocks of them": (
        HEALTHY,
        {"states": {"store": 17.0, "compute": 2.0}, "cpu": 9.0, "tasks": 2000},
        "too-many-tasks",
    ),
    "asleep": (HEALTHY, {"states": {"blocked": 17.0, "compute": 2.0}, "cpu": 2.0}, "io-bound"),
    "interpreter": (
        HEALTHY, {"states": {"compute": 12.0, "blocked": 7.0}, "cpu": 10.4, "gil": 0.7}, "gil-bound"
    ),
    # recorded with four times more work than processors; looks came late
    "interpreter, busy machine": (
        HEALTHY,
        {"states": {"compute": 12.4}, "cpu": 3.9, "starved": 11.8, "crowded": 11.8, "gil": 0.63},
        "gil-bound",
    ),
    "interpreter, hardly seen": (
        HEALTHY, {"cpu": 3.9, "starved": 8.0, "crowded": 8.0, "gil": 0.22}, "gil-bound"
    ),
    "numpy, late looks": (
        HEALTHY, {"cpu": 4.5, "starved": 14.0, "crowded": 13.0, "gil": 0.4}, "healthy"
    ),
    "interpreter, one thread": (CLUSTER, {"cpu": 9.0, "gil": 0.9}, "healthy"),
    "idle": (
        HEALTHY,
        {"tasks": 30, "compute": 3.0, "handed": 3.0, "states": {"compute": 3.0}},
        "idle",
    ),
    "nothing": (Facts(), {}, "nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    facts, changed, expected = CASES[name]
    found = diagnose(replace(facts, **changed))
    assert found.verdict == expected
    if expected == "healthy":
        assert len(found.symptoms) == 1
    for s in found.symptoms:
        assert s.what
        assert s.means
        assert s.remedy.endswith(".")
        assert 0 <= s.share <= 1
        assert all(len(line) <= 74 for line in s.code.splitlines()), s.code
        compile(s.code.replace("{dim: n}", "{}") + "\n", name, "exec")
    json.dumps(found.to_dict(), allow_nan=False)
    assert expected in str(found)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c[0].elapsed])
@pytest.mark.parametrize("factor", [0.1, 7.0], ids=["quick", "slow"])
def test_verdicts_do_not_depend_on_the_clock(name: str, factor: float) -> None:
    facts, changed, expected = CASES[name]
    facts = replace(facts, **changed)
    if expected == "too-many-tasks" and factor > 1:
        factor = 3.0  # a task of a quarter of a second is none that is tiny
    names = (
        "elapsed", "compute", "handed", "transfer", "spill", "cpu", "starved", "crowded",
        "longest", "usual", "alone", "paused",
    )  # fmt: skip
    scaled = {n: getattr(facts, n) * factor for n in names}
    states = {k: v * factor for k, v in facts.states.items()}
    if expected in ("healthy", "idle") and facts.tasks:
        scaled["handed"] = max(scaled["handed"], 0.04 * facts.tasks)
    assert diagnose(replace(facts, states=states, **scaled)).verdict == expected


def test_a_probe_tells_what_a_file_hides() -> None:
    facts = replace(HEALTHY, states={"file-store": 8.0, "file-codec": 8.0, "compute": 3.0})
    assert diagnose(replace(facts, rates=PROBED)).verdict == "codec-bound"
    slow = replace(PROBED, store_seconds=0.1)
    found = diagnose(replace(facts, rates=slow))
    assert found.verdict == "io-bound"
    assert "A probe says that it is the store." in found.symptoms[0].what
    assert found.notes == (slow.why,)


@pytest.mark.parametrize(
    ("least", "said"),
    [(0, 'suggest(max_mem="300MB")'), (400_000_000, 'suggest(max_mem="100MB")'),
     (590_000_000, "holds 590 MB before any data:\n# give it more memory")],
)  # fmt: skip
def test_advice_leaves_room_for_the_process(least: int, said: str) -> None:
    spilling = {"compute": 12.0, "spill": 5.0, "spilled": 10**9, "least": least}
    assert said in diagnose(replace(CLUSTER, **spilling)).symptoms[0].code  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codecs", "is_offered"),
    [(("shuffle", "zlib"), True), (("numcodecs.blosc",), False), (("zstd",), False), ((), True)],
    ids=str,
)
def test_zstd_is_offered_to_what_has_a_slower_codec(
    codecs: tuple[str, ...], is_offered: bool
) -> None:
    facts = replace(HEALTHY, states={"codec": 14.0, "compute": 3.0}, codecs=codecs)
    (found,) = diagnose(facts).symptoms
    assert found.name == "codec-bound"
    assert ("zstd" in found.code, "faster codec" in found.remedy) == (is_offered, is_offered)


@pytest.mark.parametrize(
    ("changed", "helps"),
    [
        ({"held": 300_000_000}, True),
        ({"held": 1_800_000_000}, False),
        ({"held": 1_800_000_000, "distinct": 0}, True),
        ({"held": 1_800_000_000, "tasks": 6}, True),
    ],
    ids=["a part is held", "most is held", "what is read is not known", "a few large blocks"],
)
@pytest.mark.parametrize("name", ["workers lost", "spilling", "full without a cluster"], ids=str)
def test_smaller_blocks_are_not_advised_where_two_passes_hold_the_data(
    name: str, changed: dict[str, int], helps: bool
) -> None:
    facts, case, _ = CASES[name]
    found = diagnose(replace(facts, **{**case, "distinct": 2_000_000_000, **changed})).symptoms[0]
    assert ("maller blocks would not change" in found.remedy) == (not helps)
    assert ("suggest(" in found.code) == helps
    compile(found.code, name, "exec")


def test_what_is_held_is_counted_where_each_worker_held_most() -> None:
    workers = tuple(WorkerSeen(str(i), 1) for i in range(3))
    memory = (
        MemorySample(0, 0.0, 100, managed=0),
        MemorySample(0, 1.0, 900, managed=700, spilled=50),
        MemorySample(1, 1.0, 300, managed=200),
        MemorySample(1, 2.0, 200, managed=20),
        MemorySample(2, 0.0, 100),
        MemorySample(2, 1.0, 160),
    )
    assert facts_of(Record("cluster", workers, (), memory)).held == 750 + 200 + 60


def test_what_takes_little_is_not_told_beside_what_takes_much() -> None:
    many = {"tasks": 20_000, "compute": 2.0, "handed": 2.0, "longest": 0.01, "usual": 0.0002}
    found = diagnose(replace(HEALTHY, states={"codec": 2.0}, **many))
    assert [s.name for s in found.symptoms] == ["too-many-tasks"]
    both = {"states": {"lock": 5.0, "file-codec": 14.0}}
    found = diagnose(replace(HEALTHY, **both))
    assert [s.name for s in found.symptoms] == ["lock-bound", "codec-bound"]


def test_a_busy_machine_is_told() -> None:
    busy = diagnose(replace(HEALTHY, cpu=6.0, starved=12.0, crowded=12.0))
    assert "for 67% of the time in which threads could have run" in str(busy)
    assert busy.title == "healthy, on a busy machine"
    assert busy.to_dict()["is_crowded"]
    assert "share the processors" in busy.symptoms[0].means


def test_threads_of_one_process_that_wait_for_each_other_make_no_busy_machine() -> None:
    found = diagnose(replace(HEALTHY, cpu=18.0, starved=20.0, crowded=0.5))
    assert found.title == "healthy"
    assert found.notes == ()


def spans(*times: tuple[int, float, float], action: str = "compute") -> tuple[Span, ...]:
    return tuple(Span(0, lane, "f", action, a, b) for lane, a, b in times)  # type: ignore[arg-type]


def test_facts_of_a_record() -> None:
    stream = spans((0, 0, 8), (1, 0, 1), (1, 1, 2)) + spans((1, 2, 3), action="transfer")
    workers = (WorkerSeen("w", 2, 1000),)
    memory = (
        MemorySample(0, 0.0, 100, 50),
        MemorySample(0, 1.0, 900, 300, 10, True),
        MemorySample(0, 3.0, 400, 300, 500),
    )
    record = Record("cluster", workers, stream, memory, tasks=3, elapsed=8.0, spilled=500)
    facts = facts_of(record)
    assert (facts.compute, facts.transfer, facts.spill) == (10, 1, 0)
    assert facts.total == 16
    assert facts.idle == pytest.approx(5 / 16)
    assert facts.alone == pytest.approx(6)
    assert (facts.longest, facts.usual, facts.substantial) == (8, 1, 3)
    assert (facts.fullest, facts.limit) == (0.9, 1000)
    assert facts.unmanaged == pytest.approx(2 / 3)
    assert facts.paused == pytest.approx(2)
    json.dumps(facts.to_dict(), allow_nan=False)


def test_facts_of_nothing() -> None:
    facts = facts_of(Record("none", (), ()))
    assert facts.tasks == 0
    assert facts.idle == 1
    assert facts.doing("store") == 0


LIB = "/usr/lib/python3.12"
LOOP = (f"{LIB}/asyncio/base_events.py", "run_forever")
SITE = "/env/lib/python3.12/site-packages"
TASK = [(f"{SITE}/dask/_task_spec.py", "__call__"), (f"{SITE}/dask/local.py", "execute_task")]


@pytest.mark.parametrize(
    ("frames", "state"),
    [
        ([("/home/me/work.py", "f")], "compute"),
        ([(f"{SITE}/xarray/backends/locks.py", "__enter__")], "lock"),
        ([(f"{SITE}/dask/utils.py", "__enter__"), (f"{SITE}/xarray/b.py", "get")], "lock"),
        ([(f"{SITE}/xarray/backends/netCDF4_.py", "_getitem")], "file"),
        ([(f"{SITE}/h5netcdf/core.py", "__getitem__")], "file"),
        ([(f"{SITE}/numcodecs/blosc.py", "decode")], "codec"),
        ([(f"{SITE}/zarr/storage/_local.py", "_get"), (f"{SITE}/zarr/codecs/s.py", "d")], "store"),
        (
            [(f"{LIB}/threading.py", "wait"), (f"{SITE}/zarr/core/sync.py", "sync")],
            "zarr",
        ),
        (
            [(f"{LIB}/threading.py", "wait"), (f"{SITE}/fsspec/asyn.py", "sync")],
            "store",
        ),
        ([(f"{LIB}/threading.py", "wait"), ("/home/me/work.py", "f")], "wait"),
        ([(f"{LIB}/socket.py", "readinto")], "store"),
    ],
)
def test_what_a_stack_says(frames: list, state: str) -> None:
    part = task_part([*frames, *TASK, (f"{LIB}/threading.py", "run")])
    assert part is not None
    assert state_of(part) == state
    assert task_part(frames) is None


@pytest.mark.parametrize(
    ("others", "state"),
    [
        ([], "store"),
        ([[(f"{LIB}/selectors.py", "select"), LOOP]], "store"),
        ([[(f"{SITE}/zarr/core/x.py", "f"), LOOP]], "compute"),
        ([[(f"{SITE}/zarr/codecs/zstd.py", "_decode")]], "codec"),
        ([[(f"{SITE}/zarr/storage/_local.py", "_get")]], "store"),
        ([[(f"{LIB}/threading.py", "wait"), (f"{SITE}/zarr/codecs/z.py", "d")]], "store"),
    ],
    ids=["none", "loop waits", "loop runs", "decoding", "reading", "codec waits"],
)
def test_what_zarr_is_waited_for(others: list, state: str) -> None:
    assert resolved(others) == state
