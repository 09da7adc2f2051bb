from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from xchunk import cli


@pytest.fixture
def store() -> str:
    ds = xr.Dataset({"a": (("time", "x"), np.zeros((2000, 30), "f4"))}, {"time": np.arange(2000)})
    ds.to_zarr("a.zarr", encoding={"a": {"chunks": (1, 30)}, "time": {"chunks": (1,)}})
    return "a.zarr"


@pytest.mark.parametrize(
    ("fail_on", "code"), [("never", 0), ("error", 0), ("warning", 11), ("note", 11), (None, 0)]
)
def test_check_has_an_exit_code_for_ci(
    store: str, fail_on: str | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [] if fail_on is None else ["--fail-on", fail_on]
    assert cli.run(["check", store, "--max-mem", "1GB", *options]) == code
    shown = capsys.readouterr().out
    assert "stored-chunks-too-small" in shown
    assert "split-coordinate" in shown
    # blocks that the command itself would make are no news
    assert "blocks-too-small" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_check_as_json(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["warning"] >= 2
    assert {"code", "severity", "variable", "message", "consequence", "remedy"} == set(
        found["findings"][0]
    )


def test_a_budget_makes_an_error(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    ds = xr.Dataset({"a": ("x", np.zeros(10**6))})
    ds.to_zarr("b.zarr", encoding={"a": {"chunks": (10**6,)}})
    assert cli.run(["check", "b.zarr", "--max-mem", "1MB"]) == 11
    assert "stored-chunks-too-large" in capsys.readouterr().out


def test_probe(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["probe", store]) == 0
    shown = capsys.readouterr().out
    assert "xchunk probe of a (zarr3)" in shown
    assert "that one waits for" in " ".join(shown.split())
    assert cli.run(["probe", store, "--variable", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bottleneck"] in ("store", "codec", "overhead")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["check", "nothing.zarr"], 6),
        (["check", "a.zarr", "--fail-on", "rain"], 2),
        (["check", "a.zarr", "--memory", "much"], 3),
        (["probe", "nothing.zarr"], 6),
        (["probe", "a.zarr", "--variable", "b"], 3),
        (["probe", "a.zarr", "--max-bytes", "some"], 3),
    ],
)
def test_what_goes_wrong_is_one_line(
    store: str, args: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(args) == code
    assert "Traceback" not in capsys.readouterr().err
