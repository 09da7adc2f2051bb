"""The same command again, after it has finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from xchunk.cli import main

AGAIN = ["out.zarr", "--chunks", "t=-1,x=5", "--max-mem", "60MB"]


def dataset(scale: float = 1) -> xr.Dataset:
    values = np.arange(600.0).reshape(20, 30) * scale
    return xr.Dataset({"a": (("t", "x"), values, {"units": "K"})}, {"t": np.arange(20)})


@pytest.fixture(params=["zarr", "netcdf"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    if request.param == "zarr":
        dataset().to_zarr("in.zarr", encoding={"a": {"chunks": (1, 30)}})
        return "in.zarr"
    dataset().to_netcdf("in.nc", encoding={"a": {"chunksizes": (1, 30)}})
    return "in.nc"


def files() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path("out.zarr").rglob("*") if p.is_file()}


def test_a_finished_target_is_already_complete(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["rechunk", source, *AGAIN]) == 0
    before = files()
    capsys.readouterr()
    assert main.run(["rechunk", source, *AGAIN]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "out.zarr: already complete" in shown
    assert "not compared" in shown
    assert main.run(["rechunk", source, *AGAIN, "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    assert files() == before


@pytest.mark.parametrize("look", [["plan"], ["rechunk", "--dry-run"]], ids=" ".join)
def test_a_look_at_a_finished_target_says_the_same(
    source: str, look: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["rechunk", source, *AGAIN]) == 0
    before = files()
    capsys.readouterr()
    assert main.run([*look, source, *AGAIN]) == 0
    assert "out.zarr: already complete" in capsys.readouterr().out
    assert main.run([*look, source, *AGAIN, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["complete"]) == ("xchunk.plan", True)
    assert files() == before


def _other_chunks(_: str) -> None:
    shutil.rmtree("out.zarr")
    dataset().to_zarr("out.zarr", encoding={"a": {"chunks": (20, 6)}})


def _other_attribute(_: str) -> None:
    zarr.open_group("out.zarr", mode="a")["a"].attrs["units"] = "degC"


def _newer_source(source: str) -> None:
    for path in (Path(source), Path(source) / "a"):
        if path.exists():
            later = path.stat().st_mtime + 1000
            os.utime(path, (later, later))


def _no_root(_: str) -> None:
    Path("out.zarr/zarr.json").unlink()


OTHERS: dict[str, Callable[[str], None]] = {
    "of other chunks": _other_chunks,
    "with another attribute": _other_attribute,
    "older than its source": _newer_source,
    "that is no store": _no_root,
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_target_is_refused_as_before(
    source: str, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["rechunk", source, *AGAIN]) == 0
    OTHERS[case](source)
    before = files()
    assert main.run(["rechunk", source, *AGAIN]) == 7
    assert files() == before


def test_a_value_that_differs_is_found_by_verify(source: str) -> None:
    assert main.run(["rechunk", source, *AGAIN]) == 0
    zarr.open_group("out.zarr", mode="a")["a"][0, 0] = 17
    assert main.run(["rechunk", source, *AGAIN]) == 0
    assert main.run(["rechunk", source, *AGAIN, "--verify"]) not in (0, 7)
