"""What is drawn of an observation that was made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from xchunk.core.reports.verdicts import (
    Action,
    MemorySample,
    Record,
    Span,
    WorkerSeen,
    diagnose,
    facts_of,
)
from xchunk.display.observed import observation
from xchunk.display.render import as_html, as_text


def record(**changes: Any) -> Record:
    kinds: list[tuple[str, Action]] = [
        ("open_dataset", "compute"), ("mean", "compute"), ("mean", "transfer"), ("x", "spill"),
    ]  # fmt: skip
    spans = [
        Span(lane // 2, lane, *kinds[(lane + i) % 4], 0.5 * i, 0.5 * i + 0.4)
        for lane in range(4)
        for i in range(20)
    ]
    memory = [
        MemorySample(w, 0.1 * i, 10**7 * i, 6 * 10**6 * i, spilled=10**6 * i if w else 0)
        for w in range(2)
        for i in range(100)
    ]
    given: dict[str, Any] = {
        "scheduler": "cluster",
        "workers": (WorkerSeen("0", 2, 10**9), WorkerSeen("<b>", 2, 10**9)),
        "spans": tuple(spans),
        "memory": tuple(memory),
        "tasks": 60,
        "elapsed": 10.0,
        "spilled": 10**8,
    }
    return Record(**{**given, **changes})


def seen(made: Record) -> Any:
    facts = facts_of(made)
    return SimpleNamespace(ended=True, record=made, facts=facts, explain=lambda: diagnose(facts))


def test_the_task_stream_and_the_memory_are_drawn() -> None:
    page = as_html(observation(seen(record())))
    assert page.count("<svg") == 2
    for said in (
        "Task stream: 10.0 s, one row for each thread", "transfer", "spill to disk and back",
        "open_dataset", "idle", "Memory: at most 990 MB of 1.00 GB for a worker",
        "dashed, what dask manages", "lines at 60, 70, 80 and 95 % of the limit", "worker 0",
        "&lt;b&gt;", "on disk",
    ):  # fmt: skip
        assert said in page
    # the two workers' memory, what is managed of it, and what one of them has on disk
    assert page.count("<polyline") == 5


def test_what_ran_is_told_in_text() -> None:
    told = as_text(observation(seen(record())))
    assert "2 workers, 4 threads" in told
    assert "990 MB of 1.00 GB, 594 MB of it managed" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize(
    ("changes", "figures"),
    [({"memory": ()}, 1), ({"spans": ()}, 1), ({"elapsed": 0.0}, 0)],
    ids=["no memory", "no spans", "no time"],
)
def test_what_was_not_seen_is_not_drawn(changes: dict[str, Any], figures: int) -> None:
    assert as_html(observation(seen(record(**changes)))).count("<svg") == figures


def test_of_many_threads_some_are_drawn() -> None:
    spans = tuple(Span(0, lane, "a", "compute", 0.0, 10.0) for lane in range(40))
    many = record(spans=spans, workers=(WorkerSeen("0", 40),), memory=())
    page = as_html(observation(seen(many)))
    assert "8 more threads not drawn" in page
    # neighbours of one colour are one rectangle, each above its lane
    assert page.count("<rect") == 64
