from __future__ import annotations

import io
import re
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from dask.utils import key_split

import xchunk  # noqa: F401  registers .chunking
from xchunk.core.memory import MemoryBudget
from xchunk.display.progress import (
    Gauge,
    Held,
    Log,
    Notebook,
    Progress,
    Stage,
    State,
    notebook_html,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def run(progress: Progress, boxes: int = 20, name: str = "t2m") -> None:
    with progress:
        for i in range(1, boxes + 1):
            progress.update(name=name, stage="read", done=i, total=boxes, nbytes=1_000_000)


def test_a_log_gets_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progress())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("xchunk: t2m, source → scratch: 1 of 20 boxes, 1.00 MB")
    assert re.search("20 of 20 boxes, 20.0 MB, done in", lines[1])


def test_a_log_gets_more_lines_as_time_goes_on() -> None:
    file = io.StringIO()
    run(Progress(file=file, every=0.0))
    assert len(file.getvalue().splitlines()) == 20


def test_a_terminal_gets_a_bar(terminal: Terminal) -> None:
    run(Progress(file=terminal))
    shown = terminal.getvalue()
    assert "20/20 boxes" in shown
    assert "20.0 MB" in shown
    assert "xchunk:" not in shown


def test_small_arrays_are_not_worth_a_line(terminal: Terminal) -> None:
    file = io.StringIO()
    for progress in (Progress(file=file), Progress(file=terminal)):
        run(progress, boxes=1, name="time")
    assert "time" not in file.getvalue() + terminal.getvalue()


def test_disabled_it_says_nothing(terminal: Terminal) -> None:
    run(Progress(enabled=False, file=terminal))
    assert terminal.getvalue() == ""


def test_many_threads_may_report(terminal: Terminal) -> None:
    file = io.StringIO()
    for progress in (Progress(file=file, every=0.0), Progress(file=terminal)):
        counter, lock = iter(range(1, 201)), threading.Lock()

        def work(progress: Progress = progress, counter=counter, lock=lock) -> None:
            for _ in range(50):
                with lock:
                    done = next(counter)
                progress.update(name="a", stage="write", done=done, total=200, nbytes=10_000)

        with progress:
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert "200 of 200 boxes, 2.00 MB, done" in file.getvalue()
    assert "200/200 boxes" in terminal.getvalue()


def test_an_error_takes_the_bar_down(terminal: Terminal) -> None:
    progress = Progress(file=terminal)

    def fail() -> None:
        with progress:
            progress.update(name="a", stage="read", done=1, total=9, nbytes=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert progress._view is None


def test_names_cannot_steer_the_terminal(terminal: Terminal) -> None:
    run(Progress(file=terminal), name="[red]\x1b[2Jx")
    assert "\x1b[2J" not in terminal.getvalue()
    assert "[red]" in terminal.getvalue()


def test_memory_is_told_against_the_budget(make_plan, terminal: Terminal) -> None:
    plan = make_plan(MemoryBudget.of_memory(64 * 1024**3, reserved=10**8, threads=2))
    file = io.StringIO()
    for progress in (Progress(file=file), Progress(file=terminal, plan=plan)):
        progress.begin(plan)
        run(progress)
    assert re.search(r"1 of 20 boxes.*, memory \d+ MB of 68\.7 GB", file.getvalue())
    assert "of 68.7 GB" in terminal.getvalue()


def test_growth_is_told_where_there_is_no_limit() -> None:
    gauge = Gauge(MemoryBudget.of_growth(10**12))
    held = gauge.look()
    assert held is not None
    assert held.of == 10**12
    assert held.part < 0.01
    assert not held.is_much
    assert gauge.most == held


@pytest.mark.parametrize(
    ("nbytes", "is_limit", "much"),
    [(79, True, False), (81, True, True), (99, False, False), (101, False, True)],
)
def test_much_is_where_something_happens(nbytes: int, is_limit: bool, much: bool) -> None:
    assert Held("memory", nbytes, 100, is_limit).is_much == much


def state(**changes: Any) -> State:
    stages = [
        Stage("<a>, source → scratch", 0.0, 20, 20, 100_000_000, 5.0),
        Stage("t2m, scratch → target", 5.0, 5, 20, 25_000_000),
    ]
    return replace(State(10.0, stages, Held("memory", 900, 1000), 200_000_000), **changes)


def test_all_of_it_has_a_bar_of_its_own() -> None:
    assert state().rows()[2] == ("all of it", 0.625, "125 MB  12.5 MB/s", "6.0 s left", False)
    assert "all of it" not in str(state(total=0).rows())
    assert state(how="done").rows()[2][3] == "10.0 s"


def test_of_many_stages_the_oldest_that_are_done_give_way() -> None:
    stages = [Stage(f"s{i}", 0.0, 9 + i % 2, 10, 10**9) for i in range(20)]
    labels = [row[0] for row in state(stages=stages).rows(12)]
    assert labels == [*(f"s{i}" for i in range(0, 20, 2)), "all of it", "memory"]
    assert len(state(stages=stages).rows()) == 22


def test_a_notebook_gets_the_same_bars() -> None:
    page = notebook_html(state())
    for said in (
        "&lt;a&gt;, source",
        "5/20 boxes",
        "5.00 MB/s",
        "15.0 s left",
        "all of it",
        "900 B",
    ):
        assert said in page
    assert "width:25.0%" in page
    assert "running" in page
    assert "memory at most" in notebook_html(state(how="done"))
    assert "stopped</span>" in notebook_html(state(how="stopped"))


def test_a_notebook_is_shown_one_picture_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, page: str) -> None:
            drawn.append(page)

    def display(page: str, *, display_id: bool) -> Handle:
        assert display_id
        drawn.append(page)
        return Handle()

    module = types.SimpleNamespace(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    view, now = Notebook(), state()
    view.show(now.stages[0], now)
    view.show(now.stages[1], now)  # too soon for another picture
    view.stop(state(how="done"))
    assert len(drawn) == 2
    assert "running" in drawn[0]
    assert "done" in drawn[1]


@pytest.mark.cluster
@pytest.mark.slow
def test_on_a_cluster_tasks_are_named_and_the_fullest_worker_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distributed import Client, LocalCluster, get_task_stream

    ds = xr.Dataset({"t2m": (("t", "y", "x"), np.zeros((64, 128, 256), "f4"))})
    ds.to_zarr(tmp_path / "a.zarr", encoding={"t2m": {"chunks": (1, 128, 256)}}, consolidated=False)
    ds = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
        get_task_stream(client) as stream,
    ):
        ds.chunking.apply({"t": -1, "y": 8, "x": 8}, store=tmp_path / "b.zarr", max_mem="12MB")
    kinds = {key_split(task["key"]) for task in stream.data}
    assert {"xchunk_read_t2m", "xchunk_write_t2m"} <= kinds
    assert "fullest worker" in capsys.readouterr().err


def test_small_variables_share_a_row() -> None:
    stages = [
        Stage("t, source → target", 0.0, 5, 20, 10**8, weight=4 * 10**8),
        *(Stage(f"{n}, source → target", 0.0, 2, 2, 6_000, 1.0, weight=6_000) for n in "abc"),
    ]
    rows = state(stages=stages).rows()
    assert [row[0] for row in rows[:2]] == ["t, source → target", "3 small variables"]
    assert rows[1][2] == "6/6 boxes  18.0 kB"


def test_the_largest_variable_comes_first() -> None:
    stages = [Stage(n, 0.0, 1, 4, 10**7, weight=w) for n, w in (("a", 10**8), ("b", 10**9))]
    assert [row[0] for row in state(stages=stages).rows()[:2]] == ["b", "a"]


def test_what_an_earlier_run_has_done_takes_no_time() -> None:
    whole = Stage("a", 0.0, 10, 10, 0, 0.1, before=10, weight=10**9)
    assert whole.row(5.0)[2:4] == ("10/10 boxes", "nothing to do")
    part = Stage("a", 0.0, 6, 10, 10**8, before=5, weight=10**9)
    # one box of its own in 10 s, and four are left
    assert part.left(10.0) == 40.0
    of = State(10.0, [whole, part], None, 2 * 10**9)
    label, done, _, left, _ = of.rows()[-1]
    assert (label, done) == ("all of it", 0.8)
    assert left == "40.0 s left"


def test_a_log_says_at_once_that_memory_is_over_its_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    log = Log(file, every=1000.0)
    stage = Stage("a", 0.0, 1, 9, 10**8, said=1.0)
    over = Held("memory", 600, 500, is_limit=False)
    log.show(stage, State(2.0, [stage], over))
    log.show(stage, State(3.0, [stage], over))
    assert file.getvalue() == "xchunk: memory 600 B of 500 B: over the budget\n"


def test_a_log_of_a_resumed_run_begins_with_what_it_copies() -> None:
    file = io.StringIO()
    with Progress(file=file, every=1000.0) as progress:
        for done, nbytes in ((1, 0), (2, 0), (3, 10**8)):
            progress.update(name="t", stage="direct", done=done, total=9, nbytes=nbytes)
    line = file.getvalue().splitlines()[0]
    assert "3 of 9 boxes, 100 MB, " in line
    assert " 0 B/s" not in line
    begun = Stage("t", 0.0, 2, 9, 0, before=2, weight=10**9)
    assert begun.row(1.0)[2:4] == ("2/9 boxes", "")


def test_a_log_names_no_small_variable() -> None:
    file = io.StringIO()
    with Progress(file=file, every=0.0) as progress:
        for done in (1, 2, 3):
            progress.update(name="lat_bnds", stage="direct", done=done, total=3, nbytes=2_000)
        progress.update(name="t", stage="direct", done=1, total=2, nbytes=10**8)
    assert "lat_bnds" not in file.getvalue()
    assert "t, source → target" in file.getvalue()
