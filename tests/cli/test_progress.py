from __future__ import annotations

import json
from typing import Any

import pytest

from xchunk.cli.output import EventProgress, Output, progress_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"now": 0.0}
    monkeypatch.setattr("xchunk.cli.output.time.monotonic", lambda: now["now"])
    return now


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("boxes", "seconds", "events"),
    [
        pytest.param(1, 0.1, 0, id="one box is its own end"),
        pytest.param(1000, 0.001, 0, id="what takes a second needs no progress"),
        pytest.param(100, 0.1, 9, id="each 10 % of 10 s"),
        pytest.param(100, 1, 9, id="each 10 % of 100 s"),
        pytest.param(100, 5, 49, id="each 10 s of 500 s"),
        pytest.param(10, 60, 9, id="each box of a minute"),
    ],
)
def test_as_many_events_as_are_sensible(
    clock: dict[str, float],
    capsys: pytest.CaptureFixture[str],
    boxes: int,
    seconds: float,
    events: int,
) -> None:
    with EventProgress(Output(["--log-json"])) as progress:
        for i in range(boxes):
            clock["now"] += seconds
            progress.update(name="t", stage="read", done=i + 1, total=boxes, nbytes=7)
    found = told(capsys)
    assert [e["event"] for e in found] == ["progress"] * events + ["stage"]
    assert found[-1]["done"] == found[-1]["total"] == boxes
    assert found[-1]["nbytes"] == 7 * boxes
    assert found[-1]["seconds"] == pytest.approx(boxes * seconds)
    for event in found[:-1]:
        left = (boxes - event["done"]) * seconds
        assert event["seconds_left"] == pytest.approx(left)


def test_counts_may_come_in_any_order(
    clock: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    with EventProgress(Output(["--log-json"]), least=0) as progress:
        for done in (2, 1, 4, 3):
            clock["now"] += 20
            progress.update(name="t", stage="read", done=done, total=4, nbytes=1)
    found = told(capsys)
    assert [(e["event"], e["done"]) for e in found] == [
        ("progress", 2), ("progress", 2), ("stage", 4)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "kind"), [([], True), (["-q"], False), (["--log-json", "-q"], EventProgress)]
)
def test_what_the_options_want(args: list[str], kind: Any) -> None:
    found = progress_of(Output(args))
    assert found is kind or isinstance(found, EventProgress) is (kind is EventProgress)
