"""Bits that flip, sources that change, runs that meet, and Ctrl-C."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
import xchunk.engine.copy
import xchunk.rechunking.runner
from faults.data import WHAT, call, maps, opened, same
from xchunk.targets.journal import Journal


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maps(tmp_path_factory.mktemp("source") / "maps.zarr")


def rechunk(source: Path, target: Path, **kwargs: object) -> xr.Dataset:
    return opened(source).chunking.apply(store=target, progress=False, **call(source) | kwargs)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[str]]:
    """Let the nth box of a kind of stage fail, and return the boxes that are begun."""

    def stop(kind: str, n: int) -> list[str]:
        begun: list[str] = []
        real = xchunk.engine.copy._copy

        def copy(spec: xchunk.engine.copy.StageSpec, i: int) -> int:
            begun.append(spec.label)
            if sum(f"xchunk-{kind}-v" == b for b in begun) >= n > 0:
                raise xchunk.StageFailedError("stopped by the test")
            return real(spec, i)

        monkeypatch.setattr(xchunk.engine.copy, "_copy", copy)
        return begun

    return stop


@pytest.fixture
def unfinished(shared: Path, tmp_path: Path, stop_at: Callable, monkeypatch) -> Path:
    """A target whose second stage was stopped at its first box."""
    with monkeypatch.context() as patched:
        stop_at("write", 1)
        with pytest.raises(xchunk.StageFailedError, match="stopped by the test"):
            rechunk(shared, tmp_path / "t.zarr")
        patched.undo()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "t.zarr"


def scratch(target: Path) -> list[Path]:
    return sorted(p for p in (target / ".xchunk/scratch/0/v/c").rglob("*") if p.is_file())


def notes(target: Path) -> list[Path]:
    return [p for p in sorted(target.glob(".xchunk/journal/*/*/*")) if p.name.isdigit()]


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    path.write_bytes(raw)


def test_finished_boxes_are_not_copied_again(
    shared: Path, unfinished: Path, stop_at: Callable
) -> None:
    before = len(notes(unfinished))
    plan = opened(shared).chunking.plan(store=unfinished, **call(shared))
    total = sum(s.boxes.count for a in plan.arrays for s in a.stages)
    assert any("not copied again" in note for note in plan.notes)
    begun = stop_at("none", 0)
    rechunk(shared, unfinished)
    assert len(begun) == total - before
    # the first stage was complete
    assert "xchunk-read-v" not in begun
    assert same(unfinished, shared)
    assert not (unfinished / ".xchunk").exists()


@pytest.mark.parametrize("flips", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_scratch_is_detected(shared: Path, unfinished: Path, flips: int) -> None:
    rng = random.Random("scratch")
    kept = unfinished.with_name("kept")
    shutil.copytree(unfinished, kept)
    found = 0
    for _ in range(flips):
        shutil.rmtree(unfinished)
        shutil.copytree(kept, unfinished)
        piece = rng.choice(scratch(unfinished))
        flip(piece, rng.randrange(piece.stat().st_size * 8))
        with pytest.raises(xchunk.StageFailedError, match=r"[Cc]hecksum|decod"):
            rechunk(shared, unfinished)
        assert not (unfinished / "zarr.json").exists()
        found += 1
    assert found == flips
    # what is lost is said, and starting anew helps
    rechunk(shared, unfinished, resume=False)
    assert same(unfinished, shared)


def test_a_lost_piece_of_scratch_is_detected(shared: Path, unfinished: Path) -> None:
    scratch(unfinished)[-1].unlink()
    with pytest.raises(xchunk.StageFailedError, match="scratch data is lost"):
        rechunk(shared, unfinished)
    assert not (unfinished / "zarr.json").exists()


def test_a_flipped_bit_in_the_journal_is_refused_or_redone(
    shared: Path, unfinished: Path, stop_at: Callable
) -> None:
    header = unfinished / ".xchunk/journal/header.json"
    whole = header.read_bytes()
    rng = random.Random("header")
    journal = Journal(zarr.storage.LocalStore(unfinished))
    for _ in range(200):
        flip(header, rng.randrange(len(whole) * 8))
        with pytest.raises(xchunk.ResumeMismatchError, match="resume=False"):
            journal.read()
        header.write_bytes(whole)
    flip(header, 4000)
    with pytest.raises(xchunk.ResumeMismatchError, match="resume=False"):
        opened(shared).chunking.plan(store=unfinished, **call(shared))
    header.write_bytes(whole)
    note = next(p for p in notes(unfinished) if p.parent.name == "0" and int(p.name) > 2)
    flip(note, 77)
    begun = stop_at("none", 0)
    before = len(notes(unfinished))
    plan = opened(shared).chunking.plan(store=unfinished, **call(shared))
    total = sum(s.boxes.count for a in plan.arrays for s in a.stages)
    rechunk(shared, unfinished)
    assert len(begun) == total - before + 1
    assert same(unfinished, shared)


def test_a_damaged_journal_can_be_started_anew(shared: Path, unfinished: Path) -> None:
    flip(unfinished / ".xchunk/journal/header.json", 100)
    rechunk(shared, unfinished, resume=False)
    assert same(unfinished, shared)


@pytest.mark.parametrize("what", ["values", "attributes", "chunks", "another store"])
def test_a_source_that_changed_is_refused(
    shared: Path, unfinished: Path, tmp_path: Path, what: str
) -> None:
    source = shared
    original = tmp_path / "original.zarr"
    shutil.copytree(shared, original)
    try:
        if what == "values":
            time.sleep(0.01)
            zarr.open_group(source, mode="r+")["v"][3, 4, 5] = -1
        elif what == "attributes":
            zarr.open_group(source, mode="r+")["v"].attrs["units"] = "K"
            zarr.consolidate_metadata(source)
        elif what == "chunks":
            group = zarr.open_group(source, mode="r+")
            values = group["v"][:]
            del group["v"]
            v = group.create_array(
                "v", shape=values.shape, chunks=(2, 300, 120), dtype="f4",
                dimension_names=("t", "y", "x"),
            )  # fmt: skip
            v[:] = values
            zarr.consolidate_metadata(source)
        else:
            source = maps(tmp_path / "another.zarr", seed=5)
        with pytest.raises(xchunk.ResumeMismatchError, match="unfinished target of another") as e:
            rechunk(source, unfinished, **call(shared))
        assert "v: source" in str(e.value)
        assert "resume=False" in str(e.value)
        assert notes(unfinished)
        rechunk(source, unfinished, resume=False)
        assert same(unfinished, source)
    finally:
        shutil.rmtree(shared)
        shutil.copytree(original, shared)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chunks": {"t": -1, "y": 20}}, "v: target chunks was"),
        ({"zarr_format": 2}, "v: target format was 3, is 2"),
        ({"shards": {"t": -1, "y": 20, "x": -1}}, "v: target shards"),
    ],
    ids=["chunks", "format", "shards"],
)
def test_another_target_is_refused(shared: Path, unfinished: Path, change: dict, said: str) -> None:
    with pytest.raises(xchunk.ResumeMismatchError, match=said):
        rechunk(shared, unfinished, **change)
    assert notes(unfinished)


def test_more_or_less_memory_still_resumes(
    shared: Path, unfinished: Path, stop_at: Callable
) -> None:
    before = len(notes(unfinished))
    begun = stop_at("none", 0)
    rechunk(shared, unfinished, max_mem="500MB")
    assert len(begun) < before + 40
    assert "xchunk-read-v" not in begun
    assert same(unfinished, shared)


def test_what_a_user_put_there_stays(shared: Path, unfinished: Path) -> None:
    (unfinished / "notes.txt").write_text("mine")
    (unfinished / "v/notes.txt").write_text("mine")
    rechunk(shared, unfinished, resume=False)
    assert (unfinished / "notes.txt").read_text() == "mine"
    assert (unfinished / "v/notes.txt").read_text() == "mine"
    assert same(unfinished, shared)


def test_no_credentials_are_written(shared: Path, unfinished: Path) -> None:
    for path in (unfinished / ".xchunk").rglob("*.json"):
        assert not {"secret", "password", "token", "key"} & set(path.read_text().lower().split('"'))


RUN = """
import pathlib, sys, time
import xarray as xr, xchunk
import xchunk.engine.copy as copy
source, target, max_mem, hold = sys.argv[1:]
real, done = copy._copy, []
def slow(spec, i):
    done.append(i)
    while len(done) > 4 and pathlib.Path(hold).exists():
        time.sleep(0.05)
    time.sleep(0.1)
    return real(spec, i)
copy._copy = slow
try:
    xr.open_zarr(source).chunking.apply(
        {"t": -1, "y": 10}, store=target, max_mem=int(max_mem), progress=False)
except xchunk.TargetExistsError as error:
    print("refused", error)
else:
    print("won", len(done))
"""


def start(source: Path, target: Path) -> subprocess.Popen[str]:
    """Rechunk in a process, which waits at its fifth box for as long as ``hold`` is there."""
    hold = target.with_name("hold")
    hold.touch()
    given = [str(source), str(target), str(call(source)["max_mem"]), str(hold)]
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(notes(target)) < 3 and run.poll() is None:
        time.sleep(0.02)
    return run


def end(run: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a process, and close what belongs to it."""
    with run:
        return run.communicate(timeout=120)


@pytest.mark.slow
@pytest.mark.subprocess
def test_two_runs_at_once(shared: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.zarr"
    first = start(shared, target)
    second = start(shared, target)
    refused, _ = end(second)
    assert refused.startswith("refused")
    assert f"process {first.pid} on" in refused
    (tmp_path / "hold").unlink()
    won, err = end(first)
    assert won.startswith("won "), err
    assert same(target, shared)


@pytest.mark.subprocess
@pytest.mark.slow
def test_runs_that_start_together(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    for n in range(6):
        target = tmp_path / f"{n}.zarr"
        given = [str(shared), str(target), str(call(shared)["max_mem"]), "no-hold"]
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", RUN, *given],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        said = [end(run) for run in runs]
        words = sorted(" ".join(out.split()[:2]) if out else err[-300:] for out, err in said)
        # one that comes when the first has committed and not left yet finds it done: same call
        copied = [word for word in words if word.startswith("won") and word != "won 0"]
        others = [word for word in words if word not in copied]
        assert len(copied) == 1
        assert all(word == "won 0" or word.startswith("refused") for word in others), words
        assert same(target, shared)
        assert not (target / ".xchunk").exists()


@pytest.mark.subprocess
def test_a_dead_owner_is_succeeded_at_once(shared: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.zarr"
    run = start(shared, target)
    with pytest.raises(xchunk.TargetExistsError, match=f"process {run.pid}"):
        rechunk(shared, target)
    with pytest.raises(xchunk.TargetExistsError, match="Nothing was deleted"):
        xchunk.clean(target, dry_run=False)
    run.kill()
    end(run)
    assert list((target / ".xchunk/lease").glob("*.json"))
    rechunk(shared, target)
    assert same(target, shared)


@pytest.mark.slow
@pytest.mark.subprocess
def test_ctrl_c_stops_in_seconds_and_says_how_to_resume(shared: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.zarr"
    run = start(shared, target)
    run.send_signal(signal.SIGINT)
    # on a busy machine it takes a while until the signal is seen, and no box may end before
    time.sleep(6)
    (tmp_path / "hold").unlink()
    _, err = end(run)
    assert run.returncode in (1, -signal.SIGINT)
    assert "KeyboardInterrupt" in err
    assert "the same call resumes" in err
    assert not (target / "zarr.json").exists()
    assert not list((target / ".xchunk/lease").glob("*.json"))
    rechunk(shared, target)
    assert same(target, shared)


def test_a_computed_source_resumes_by_its_graph(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = opened(shared)
    ds["v"] = ds.v * 2
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise OSError("no commit")

        patched.setattr(xchunk.rechunking.runner, "commit", fail)
        with pytest.raises(xchunk.StageFailedError, match="no commit"):
            ds.chunking.apply(WHAT, store=tmp_path / "t.zarr", max_mem="200MB", progress=False)
    other = opened(shared)
    other["v"] = other.v * 3
    with pytest.raises(xchunk.ResumeMismatchError, match="v: source graph"):
        other.chunking.apply(WHAT, store=tmp_path / "t.zarr", max_mem="200MB", progress=False)
    again = opened(shared)
    again["v"] = again.v * 2
    out = again.chunking.apply(WHAT, store=tmp_path / "t.zarr", max_mem="200MB", progress=False)
    np.testing.assert_array_equal(out.v.values, opened(shared).v.values * 2)


def test_what_is_computed_from_changed_stores_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dask names blocks by what is done to which place, not by what is stored there now."""
    paths = [tmp_path / f"{i}.zarr" for i in range(2)]
    for path in paths:
        values = xr.Variable(("t", "x"), np.ones((4, 3)), encoding={"chunks": (2, 3)})
        xr.Dataset({"v": values, "w": values * 2}).to_zarr(path)

    def go() -> xr.Dataset:
        ds = xr.open_mfdataset(paths, engine="zarr", combine="nested", concat_dim="t")
        ds["w"] = ds.w + xr.open_zarr(paths[1]).w.isel(t=0)
        return ds.chunking.apply({"t": -1}, store=tmp_path / "t.zarr", progress=False)

    with monkeypatch.context() as patched:
        patched.setattr(xchunk.rechunking.runner, "commit", lambda *_: 1 / 0)  # anything that fails
        with pytest.raises(xchunk.StageFailedError, match="ZeroDivision"):
            go()
    time.sleep(0.01)
    zarr.open_group(paths[1], mode="r+")["v"][0, 0] = 5
    with pytest.raises(xchunk.ResumeMismatchError, match="v: source data differ") as e:
        go()
    assert "w: source" not in str(e.value)
    zarr.open_group(paths[1], mode="r+")["w"][0, 0] = 5
    with pytest.raises(xchunk.ResumeMismatchError, match="w: source data differ"):
        go()


def test_who_was_succeeded_does_not_commit(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = xchunk.rechunking.runner.Rechunk._copy_boxes

    def taken(self: Any, store: Any, *args: Any) -> None:
        real(self, store, *args)
        for path in (tmp_path / "t.zarr/.xchunk/lease").glob("*.json"):
            path.unlink()

    monkeypatch.setattr(xchunk.rechunking.runner.Rechunk, "_copy_boxes", taken)
    with pytest.raises(xchunk.StageFailedError):
        rechunk(shared, tmp_path / "t.zarr")
    assert not (tmp_path / "t.zarr/zarr.json").exists()
    monkeypatch.undo()
    rechunk(shared, tmp_path / "t.zarr")
    assert same(tmp_path / "t.zarr", shared)


def test_an_unfinished_header_holds_no_values(unfinished: Path) -> None:
    header = json.loads((unfinished / ".xchunk/journal/header.json").read_text())
    assert header["body"]["format"] == 1
    assert set(header["body"]["arrays"]) == {"v", "m", "t"}
    assert (unfinished / ".xchunk/journal/header.json").stat().st_size < 8_000
