from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import main
from xchunk.errors import MemoryBudgetError


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    ds = xr.Dataset({"a": (("time", "x"), np.zeros((2000, 30), "f4"))}, {"time": np.arange(2000)})
    ds.to_zarr(path, encoding={"a": {"chunks": (1, 30)}, "time": {"chunks": (1,)}})
    return path


@pytest.fixture
def store(made_once: Path) -> str:
    """A store of 4000 tiny chunks, which the commands only read."""
    Path("a.zarr").symlink_to(made_once)
    return "a.zarr"


@pytest.mark.parametrize(
    ("fail_on", "code"), [("never", 0), ("error", 0), ("warning", 11), ("note", 11), (None, 0)]
)
def test_check_has_an_exit_code_for_ci(
    store: str, fail_on: str | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [] if fail_on is None else ["--fail-on", fail_on]
    assert main.run(["check", store, "--max-mem", "1GB", *options]) == code
    shown = capsys.readouterr().out
    assert "stored-chunks-too-small" in shown
    assert "split-coordinate" in shown
    # blocks that the command itself would make are no news
    assert "blocks-too-small" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_check_as_json(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check", store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["warning"] >= 2
    assert {"code", "severity", "variable", "message", "consequence", "remedy"} == set(
        found["findings"][0]
    )


def test_a_budget_makes_an_error(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    ds = xr.Dataset({"a": ("x", np.zeros(10**6))})
    ds.to_zarr("b.zarr", encoding={"a": {"chunks": (10**6,)}})
    assert main.run(["check", "b.zarr", "--max-mem", "1MB"]) == 11
    assert "stored-chunks-too-large" in capsys.readouterr().out


def test_probe(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["probe", store]) == 0
    shown = capsys.readouterr().out
    assert "xchunk probe of a (zarr3)" in shown
    assert "that one waits for" in " ".join(shown.split())
    assert main.run(["probe", store, "--variable", "a", "--json"]) == 0
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
    assert main.run(args) == code
    assert "Traceback" not in capsys.readouterr().err


def test_suggest_names_no_rechunk_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    maps = xr.Dataset({"a": (("time", "y", "x"), np.zeros((400, 200, 240), "f4"))})
    maps.to_zarr("maps.zarr", encoding={"a": {"chunks": (1, 200, 240)}})
    options = ["suggest", "maps.zarr", "--whole", "time"]
    assert main.run([*options, "--max-mem", "100MB"]) == 0
    assert "xchunk rechunk" in capsys.readouterr().out
    # a pass fits, but no rechunk does
    assert main.run([*options, "--max-mem", "3MB"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "xchunk rechunk" not in shown
    least = re.search(r"does not fit --max-mem 3.00MB. Give --max-mem \S+ \((\d+) bytes\)", shown)
    assert least is not None
    ds = xr.open_zarr("maps.zarr", chunks=None)
    target = ds.chunking.suggest({"time": -1}, max_mem="3MB").encoding["a"]["chunks"]
    chunks = dict(zip(ds.a.dims, target, strict=True))
    ds.chunking.plan(chunks, store="out.zarr", max_mem=int(least[1]))
    with pytest.raises(MemoryBudgetError):
        ds.chunking.plan(chunks, store="out.zarr", max_mem="3MB")


@pytest.mark.parametrize("growing", ["time", "time=100", "time=2000", "time=9000"])
def test_a_dim_that_grows_is_never_one_chunk_whatever_its_size(
    store: str, growing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--whole", "time", "--growing", growing, "--max-mem", "300MB"]
    assert main.run(["suggest", store, *options]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"--chunks (a:)?time=\d+", shown)
    assert "time=-1" not in shown


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"], ids=repr)
def test_a_raster_is_told_which_engine_reads_it(
    head: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("scene.tif").write_bytes(head + bytes(20))
    assert main.run(["inspect", "scene.tif"]) != 0
    said = capsys.readouterr().err
    assert "--engine rasterio" in said
    assert "--rechunk-engine" not in said


def test_suggest_for_workers_names_them_in_python_too(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = ["--workers", "1", "--threads-per-worker", "1", "--memory-limit", "1GiB"]
    assert main.run(["suggest", store, "--whole", "time", *workers]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "client = " in one]
    assert line.strip() == (
        'client = Client(n_workers=1, threads_per_worker=1, memory_limit="1GiB")'
    )
