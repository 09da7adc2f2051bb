"""A machine that loses its power: what was not flushed is gone, and is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore, MemoryStore

import xchunk
import xchunk.engine.copy
import xchunk.rechunking.runner
from faults.data import call, opened, same
from shared.stores import write
from xchunk.targets import fsync as durable
from xchunk.targets import journal
from xchunk.targets.journal import Journal


def rechunk(source: Path, target: Path) -> xr.Dataset:
    return opened(source).chunking.apply(store=target, progress=False, **call(source))


def stop(monkeypatch: pytest.MonkeyPatch, kind: str, n: int, then: Callable[[], None]) -> None:
    """Let the nth box of a kind of stage of ``v`` fail; do something before."""
    seen: list[int] = []
    real = xchunk.engine.copy._copy

    def copy(spec: xchunk.engine.copy.StageSpec, i: int) -> int:
        if spec.label == f"xchunk-{kind}-v":
            seen.append(i)
            if len(seen) == n:
                then()
                raise xchunk.StageFailedError("the power went off")
        return real(spec, i)

    monkeypatch.setattr(xchunk.engine.copy, "_copy", copy)


def files(target: Path) -> dict[Path, float]:
    return {p: p.stat().st_mtime_ns for p in target.rglob("*") if p.is_file()}


def lose_power(target: Path, kept: dict[Path, float], monkeypatch: pytest.MonkeyPatch) -> int:
    """Empty all data that were not flushed, and start the machine anew; count them."""
    lost = 0
    for path in files(target):
        if path not in kept and "journal" not in path.parts and path.suffix != ".json":
            path.write_bytes(b"")
            lost += 1
    monkeypatch.setattr(journal, "boot", lambda: "another boot")
    return lost


@pytest.mark.parametrize(("kind", "n"), [("read", 4), ("write", 1), ("write", 3)])
@pytest.mark.parametrize("confirmed", [False, True], ids=["nothing flushed", "flushed once"])
def test_what_no_flush_confirmed_is_copied_again(  # noqa: PLR0917
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    n: int,
    confirmed: bool,
) -> None:
    target = tmp_path / "t.zarr"
    kept: dict[Path, float] = {}

    def confirm() -> None:
        if confirmed:
            Journal(LocalStore(target)).confirm()
            kept.update(files(target))

    with monkeypatch.context() as patched:
        stop(patched, kind, n, confirm)
        with pytest.raises(xchunk.StageFailedError, match="the power went off"):
            rechunk(source, target)
    before = {p: t for p, t in files(target).items() if "c" in p.parts}
    lost = lose_power(target, kept, monkeypatch)
    assert lost > 0 or confirmed
    header = Journal(LocalStore(target)).read()
    assert header is not None
    sure = sum(
        len(stage)
        for facts in header.arrays.values()
        for stage in Journal(LocalStore(target)).finished(header, facts)
    )
    assert (sure > 0) is confirmed
    rechunk(source, target)
    assert same(target, source)
    again = [p for p, t in before.items() if p.exists() and p.stat().st_mtime_ns == t]
    # what was confirmed is as it was, and everything else is new
    assert set(again) <= set(kept)
    assert not confirmed or kind == "read" or again


def test_scratch_that_was_deleted_before_its_target_was_flushed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.zarr"

    def no_commit(*_: object) -> None:
        raise xchunk.StageFailedError("the power went off")

    with monkeypatch.context() as patched:
        real = Journal.drop_scratch

        def confirm(self: Journal, facts: journal.Facts) -> None:
            # all pieces of scratch are confirmed, and one half of the target's boxes
            self.confirm()
            marks = self.marks(facts, 1)
            boxes = sorted(marks.read())
            known = {marks.name: [[0, len(boxes) // 2]], self.marks(facts, 0).name: [[0, 10**6]]}
            document = {"digest": journal.digest_of(known), "body": known}
            journal.put_durably(
                self.store, journal._CONFIRMED, journal.json.dumps(document).encode()
            )
            real(self, facts)

        patched.setattr(Journal, "drop_scratch", confirm)
        patched.setattr(xchunk.rechunking.runner, "commit", no_commit)
        with pytest.raises(xchunk.StageFailedError, match="the power went off"):
            rechunk(source, target)
    assert not (target / ".xchunk/scratch/0/v").exists()
    monkeypatch.setattr(journal, "boot", lambda: "another boot")
    rechunk(source, target)
    assert same(target, source)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[xr.Dataset, dict[str, Any]]]:
    """Maps that go through plain pieces of scratch, and how: files of whole boxes are kept."""
    source = tmp_path / "s.zarr"
    values = np.arange(64 * 600 * 360, dtype="f4").reshape(64, 600, 360)
    write(source, {"v": (values, (1, 600, 360), ("t", "y", "x"))})
    how: dict[str, Any] = {"chunks": {"t": -1, "y": 20}, "max_mem": "40MB"}
    how["store"] = tmp_path / "t.zarr"
    with dask.config.set(num_workers=2):
        stages = opened(source).chunking.plan(**how)["v"].stages
        assert [stage.scratch is None or stage.scratch.shards for stage in stages] == [None, True]
        yield opened(source), how


def pieces(target: Path) -> int:
    return sum(p.is_file() for p in (target / ".xchunk/scratch/0/v/c").rglob("*"))


@pytest.mark.parametrize("boot", ["the same boot", "another boot"])
def test_a_run_goes_on_whose_scratch_was_deleted_as_it_was_read(
    plain: tuple[xr.Dataset, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    """After another boot a note may be lost: what was done later may be on the disk before it."""
    ds, how = plain
    store, left = LocalStore(how["store"]), list[int]()

    def confirm() -> None:
        Journal(store).confirm()
        left.append(pieces(how["store"]))

    with monkeypatch.context() as patched:
        stop(patched, "write", 4, confirm)
        with pytest.raises(xchunk.StageFailedError, match="the power went off"):
            ds.chunking.apply(progress=False, **how)
    whole = ds.chunking.plan(**how)["v"].stages[0].work.objects
    assert 0 < left[0] < whole
    header = Journal(store).read()
    assert header is not None
    facts = header.arrays["v"]
    marks = Journal(store).marks(facts, 1)
    noted = marks.read()
    assert noted
    if boot == "another boot":
        marks.delete([min(noted)])
        monkeypatch.setattr(journal, "boot", lambda: boot)
        assert Journal(store).finished(header, facts) == (frozenset(), noted - {min(noted)})
    ds.chunking.apply(progress=False, **how)
    assert same(how["store"], Path(ds.encoding["source"]))


def test_scratch_is_deleted_as_it_is_read(plain: tuple[xr.Dataset, dict[str, Any]]) -> None:
    """So that scratch and target do not lie on the disk as a whole at one time."""
    ds, how = plain
    left: list[int] = []

    class Look:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, *, name: str, stage: str, done: int, **_: object) -> None:
            if (name, stage) == ("v", "write"):
                left.append(pieces(how["store"]))

    ds.chunking.apply(progress=Look(), **how)
    assert len(left) > 3
    assert left[-1] < left[0] / 2
    assert same(how["store"], Path(ds.encoding["source"]))


def test_everything_is_flushed_before_the_store_can_be_opened(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, seen = tmp_path / "t.zarr", []
    real = durable._flush_file_system

    def flush(handle: int) -> None:
        seen.append((target / "zarr.json").exists())
        real(handle)

    monkeypatch.setattr(durable, "_flush_file_system", flush)
    rechunk(source, target)
    # before the commit, and between the commit and the deletion of what a resume would need
    assert seen == [False, True]


def test_a_disk_that_fails_to_write_is_no_commit(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "the disk could not be written: Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "_flush_file_system", fail)
        with pytest.raises(xchunk.StageFailedError, match="Input/output error"):
            rechunk(source, tmp_path / "t.zarr")
    assert not (tmp_path / "t.zarr/zarr.json").exists()
    rechunk(source, tmp_path / "t.zarr")
    assert same(tmp_path / "t.zarr", source)


def test_flushing_can_be_turned_off(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("flushed")

    monkeypatch.setattr(durable, "_flush_file_system", fail)
    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setenv("XCHUNK_NO_SYNC", "1")
    rechunk(source, tmp_path / "t.zarr")
    assert same(tmp_path / "t.zarr", source)


def test_boxes_are_confirmed_while_they_are_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "PERIOD", 0.01)
    confirmed: list[int] = []
    real = Journal.confirm

    def confirm(self: Journal, *stores: object) -> None:
        real(self, *stores)
        confirmed.append(sum(map(len, self._confirmed().values())))

    monkeypatch.setattr(Journal, "confirm", confirm)
    rechunk(source, tmp_path / "t.zarr")
    assert confirmed
    assert confirmed == sorted(confirmed)
    assert same(tmp_path / "t.zarr", source)


def test_an_object_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "s")
    durable.put_durably(store, "a/zarr.json", b"old")
    flushed: list[bytes] = []

    def fsync(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name.encode())
        if len(flushed) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    durable.put_durably(store, "a/zarr.json", b"new")
    assert (tmp_path / "s/a/zarr.json").read_bytes() == b"new"
    assert [name.endswith(b".partial") for name in flushed] == [True, False]
    with pytest.raises(OSError, match="No space"):
        durable.put_durably(store, "a/zarr.json", b"newer")
    assert (tmp_path / "s/a/zarr.json").read_bytes() == b"new"
    assert [p.name for p in (tmp_path / "s/a").iterdir()] == ["zarr.json"]


def test_stores_that_are_not_local_are_not_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_flush_file_system", lambda _: pytest.fail("flushed"))
    store = MemoryStore()
    durable.flush([store, None])
    durable.put_durably(store, "zarr.json", b"{}")
    assert store._store_dict["zarr.json"].to_bytes() == b"{}"
    with durable.Confirming(lambda: pytest.fail("confirmed"), [store]):
        pass
