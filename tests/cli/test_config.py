from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import main

Run = Callable[..., tuple[int, str, str]]
VARIABLES = ("MEMORY", "MAX_MEM", "WORKERS", "SCHEDULER", "STORAGE_OPTIONS")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in VARIABLES:
        monkeypatch.delenv(f"XCHUNK_{name}", raising=False)

    def call(*args: object) -> tuple[int, str, str]:
        code = main.run([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def source() -> str:
    ds = xr.Dataset({"t": (("time", "x"), np.zeros((100, 1000)))})
    ds.to_zarr("t.zarr", encoding={"t": {"chunks": (1, 1000)}}, consolidated=False)
    return "t.zarr"


def budget_of(run: Run, *args: str) -> dict:
    code, out, err = run("plan", "t.zarr", "out.zarr", "--chunks", "time=10", "--json", *args)
    assert code == 0, err
    return json.loads(out)["budget"]


@pytest.mark.parametrize(
    ("file", "variables", "flags", "allowed"),
    [
        ("", {}, ("--max-mem", "50MB"), 50_000_000),
        ('max_mem = "60MB"', {}, (), 60_000_000),
        ('max_mem = "60MB"', {"MAX_MEM": "70MB"}, (), 70_000_000),
        ('max_mem = "60MB"', {"MAX_MEM": "70MB"}, ("--max-mem", "80MB"), 80_000_000),
        ('memory = "4GiB"', {"MAX_MEM": "70MB"}, (), 70_000_000),
        ("max_mem = 60000000", {}, (), 60_000_000),
    ],
    ids=["flag", "file", "variable", "flag over all", "the rival that is said closer", "a number"],
)
def test_a_flag_wins_over_a_variable_and_that_over_the_file(  # noqa: PLR0917 - a row of the table
    run: Run, source: str, monkeypatch: pytest.MonkeyPatch, file: str, variables: dict[str, str],
    flags: tuple[str, ...], allowed: int,
) -> None:  # fmt: skip
    Path("xchunk.toml").write_text(file)
    for name, value in variables.items():
        monkeypatch.setenv(f"XCHUNK_{name}", value)
    assert budget_of(run, *flags)["max_mem"] == allowed


def test_a_limit_that_is_typed_is_no_rival_of_a_default(run: Run, source: str) -> None:
    Path("xchunk.toml").write_text('max_mem = "60MB"')
    assert budget_of(run, "--memory", "4GiB")["memory"] == 4 * 1024**3


def test_the_nearest_file_is_taken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pyproject.toml").write_text('[tool.xchunk]\nmax_mem = "60MB"\n')
    inner = Path("a/b")
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert "60MB" in run("config")[1]
    Path("pyproject.toml").write_text('[tool.other]\nmax_mem = "1MB"\n')
    assert "60MB" in run("config")[1], "a file without a table of ours says nothing"
    Path("../xchunk.toml").write_text('max_mem = "70MB"')
    assert "70MB" in run("config")[1]


def test_defaults_are_shown_with_where_they_come_from(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("xchunk.toml").write_text(
        'memory = "1GiB"\n[storage_options]\nanon = true\nsecret = "hunter2hunter2hunter2"\n'
        "client_kwargs = { endpoint_url = 'http://host:9000' }\n"
    )
    monkeypatch.setenv("XCHUNK_WORKERS", "3")
    code, out, _ = run("config")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["memory", "1GiB", "xchunk.toml"] in rows
    assert ["workers", "3", "XCHUNK_WORKERS"] in rows
    assert ["max_mem", "-", "built", "in"] in rows
    assert ["storage_options.anon", "true", "xchunk.toml"] in rows
    assert ["storage_options.client_kwargs.endpoint_url", "http://host:9000", "xchunk.toml"] in rows
    assert "hunter" not in out
    told = json.loads(run("config", "--json")[1])
    assert {d["key"]: d["from"] for d in told["defaults"]}["workers"] == "XCHUNK_WORKERS"
    assert "hunter" not in str(told)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ('memoryy = "1GiB"', "did you mean 'memory'?"),
        ("memory = {}", "memory is not a table"),
        ("storage_options = 3", "storage_options is a table"),
        ("memory = ", "cannot be read as TOML"),
    ],
    ids=["misspelt", "a table", "no table", "no TOML"],
)
def test_a_file_that_says_nothing_known_is_refused(run: Run, file: str, said: str) -> None:
    Path("xchunk.toml").write_text(file)
    code, out, err = run("config")
    assert (code, out) == (2, "")
    assert said in err
    assert run("--help")[0] == 0


def test_credentials_stay_out_of_the_commands_that_are_shown(run: Run, source: str) -> None:
    secret = "hunter2" * 20
    code, out, _ = run(
        "suggest", source, "--access", "scan", "--max-mem", "1MB",
        "--storage-option", f"secret={secret}",
    )  # fmt: skip
    assert code in (0, 6)
    assert "hunter" not in out
