from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client

import xchunk
from diagnose.staged import CLUSTER, LOCAL
from xchunk.core.cost import Rates
from xchunk.errors import InvalidChunksError

SUM = (da.ones((400, 400), chunks=100) + 1).sum()


def test_what_ran_is_seen() -> None:
    with xchunk.observe() as seen:
        assert not seen.ended
        assert "not ended" in repr(seen)
        assert SUM.compute() == 320_000
    record = seen.record
    assert record.scheduler == "threads"
    assert record.tasks == len(record.spans) >= 17
    assert record.slots == 2
    assert {s.action for s in record.spans} == {"compute"}
    assert all(0 <= s.start <= s.stop <= record.elapsed for s in record.spans)
    assert record.cpu > 0
    for lane in range(2):
        own = sorted((s for s in record.spans if s.lane == lane), key=lambda s: s.start)
        assert all(a.stop <= b.start + 1e-9 for a, b in itertools.pairwise(own))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers(scheduler: str) -> None:
    with xchunk.observe() as seen:
        SUM.compute(scheduler=scheduler)
    assert seen.record.scheduler == scheduler
    assert seen.record.slots == (1 if scheduler == "synchronous" else 2)


def test_it_can_be_used_again_and_shows_itself() -> None:
    seen = xchunk.observe()
    for _ in range(2):
        with seen:
            SUM.compute()
        assert seen.record.tasks < 60
    shown = repr(seen)
    assert shown.startswith("xchunk observation")
    assert max(map(len, shown.splitlines())) <= 80
    html = seen._repr_html_()
    assert "<svg" in html
    assert "Task stream" in html
    assert seen.save("seen.html").read_text().startswith("<!doctype html>")
    told = json.loads(seen.to_json())
    assert told == json.loads(seen.save("seen.json").read_text())
    assert told["diagnosis"]["verdict"] == seen.explain().verdict
    assert len(told["spans"]) == seen.record.tasks
    assert "xchunk diagnosis" in repr(seen.explain())
    assert "xchunk diagnosis" in seen.explain()._repr_html_()


@pytest.mark.parametrize(
    ("chunks", "times"),
    [({"t": 24}, 1), ({"t": 48}, 1), ({"t": 2}, 12), ({"t": -1, "y": 4}, 12), ({"t": 36}, 1.3)],
    ids=["chunk by chunk", "two at once", "thin blocks", "across", "halves"],
)
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.filterwarnings("ignore:The specified chunks separate:UserWarning")
def test_reads_are_counted_against_stored_chunks(
    scheduler: str, chunks: dict[str, int], times: float
) -> None:
    values = np.arange(240 * 48 * 96, dtype="f4").reshape(240, 48, 96)
    made = xr.Dataset({"v": (("t", "y", "x"), values)})
    made.to_zarr("s.zarr", encoding={"v": {"chunks": (24, 48, 96)}})
    ds = xr.open_zarr("s.zarr", chunks={"t": 24, "y": 48} | chunks)
    with xchunk.observe() as seen, dask.config.set(scheduler=scheduler):
        xr.testing.assert_equal((ds + 1).v.max().compute(), made.v.max() + 1)
        # what is computed again is read again: that is no fault of the chunks
        ds.v.isel(t=slice(24)).max().compute()
    again = 1 if times < 2 else times
    assert seen.record.distinct == values.nbytes * 11 / 10
    assert seen.record.decoded == pytest.approx(values.nbytes * (times + again / 10))
    assert (seen.explain().verdict == "decoded-again") == (times > 2)
    assert ("each chunk 12 times" in str(seen.explain())) == (times > 2)


def test_nothing_ran() -> None:
    with xchunk.observe() as seen:
        pass
    assert seen.explain().verdict == "nothing"
    assert "No task" in str(seen.explain())


def test_an_error_goes_on_and_what_ran_is_kept() -> None:
    def fail(block: Any) -> Any:
        raise ZeroDivisionError("in a task")

    bad = da.ones(3).map_blocks(fail, meta=da.ones(1)._meta)
    seen = xchunk.observe()
    with pytest.raises(ZeroDivisionError), seen:  # noqa: PT012 - what ran before is kept
        SUM.compute()
        bad.compute()
    assert seen.record.tasks >= 17
    with pytest.raises(ZeroDivisionError), seen:
        SUM.map_blocks(fail, meta=da.ones(1)._meta).compute(scheduler="synchronous")


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: xchunk.observe().explain(), "block has not ended"),
        (lambda: xchunk.observe(rates=3), "are no rates"),
        (lambda: xchunk.observe().to_dict(), "block has not ended"),
    ],
)
def test_wrong_use(use: Any, said: str) -> None:
    with pytest.raises(InvalidChunksError, match=said):
        use()


def test_rates_may_be_given() -> None:
    xr.Dataset({"a": ("x", range(1000))}).to_zarr("a.zarr")
    ds = xr.open_zarr("a.zarr")
    rates = ds.chunking.probe(seconds=0.1)
    with xchunk.observe(rates=rates) as seen:
        ds.a.sum().compute()
    assert rates.why in seen.explain().notes
    assert seen.to_dict()["facts"]["rates"]["why"] == rates.why
    with xchunk.observe(rates=Rates()) as seen:
        ds.a.sum().compute()
    assert seen.facts.rates is None


def test_names_are_escaped() -> None:
    x = da.ones(40, chunks=10).map_blocks(lambda b: b, name="<script>alert", dtype=float)
    with xchunk.observe() as seen:
        x.compute(optimize_graph=False)
    assert "<script>" not in seen._repr_html_()


def test_threads_do_not_pile_up() -> None:
    import threading

    before = threading.active_count()
    for _ in range(3):
        with xchunk.observe():
            SUM.compute(scheduler="synchronous")
    assert threading.active_count() <= before


#: What is staged is real, and so is what else the machine does meanwhile: it may be staged again.
TRIES = 3


@pytest.mark.slow
@pytest.mark.parametrize("name", LOCAL)
def test_staged_on_threads(name: str) -> None:
    stage, expected = LOCAL[name]
    for _ in range(TRIES):
        seen = stage()
        if seen.explain().verdict == expected:
            break
    assert seen.explain().verdict == expected, repr(seen) + str(seen.facts.to_dict())
    if name == "healthy":
        # CPU time, of which a busy machine takes none
        assert seen.record.own < 0.03 * seen.record.cpu


@pytest.mark.cluster
@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTER)
def test_staged_on_a_cluster(name: str) -> None:
    # in a process of its own: a cluster of processes starts this one's main module anew
    command = [sys.executable, Path(__file__).with_name("cluster_child.py"), name]
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout.splitlines()[-1])
        if told["verdict"] == CLUSTER[name][1]:
            break
    assert told["verdict"] == CLUSTER[name][1], json.dumps(told, indent=1)
    assert told["scheduler"] == "cluster"
    assert told["workers"] == 2
    assert told["samples"] > 5
    assert told["leftovers"] == 0
    if name == "healthy":
        assert told["own"] < 0.03


def test_the_dashboards_things_are_seen_on_a_cluster(client_in_threads: Client) -> None:
    with dask.config.set({"distributed.admin.log-format": "%(message)s"}):
        x = da.random.random((400, 400), chunks=(100, 400)).rechunk((400, 100), method="tasks")
        with xchunk.observe() as seen:
            x.sum().compute()
        record = seen.record
        assert record.scheduler == "cluster"
        assert len(record.workers) == 2
        assert record.slots == 2
        assert record.tasks >= 8
        assert {"compute"} <= {s.action for s in record.spans}
        assert record.restarts == 0
        assert "<svg" in seen._repr_html_()
        with xchunk.observe() as again:
            pass
        assert again.explain().verdict == "nothing"
        with xchunk.observe() as local:
            x.sum().compute(scheduler="threads")
        assert local.record.scheduler == "threads"
