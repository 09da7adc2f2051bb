"""What ``xchunk clean`` deletes, and what it never does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

import xchunk
import xchunk.rechunking.clean
import xchunk.rechunking.runner
from xchunk.cli import main
from xchunk.stores.stores import open_store
from xchunk.targets.location import Beside, Site, state_of
from xchunk.targets.ownership import holder_of


@pytest.fixture
def source(tmp_path: Path) -> xr.Dataset:
    ds = xr.Dataset({"v": (("t", "x"), np.arange(24.0).reshape(6, 4)), "n": ("x", np.arange(4))})
    ds.to_zarr(tmp_path / "source.zarr", encoding={"v": {"chunks": (1, 4)}})
    return xr.open_zarr(tmp_path / "source.zarr")


def rechunk(source: xr.Dataset, target: Any, **kwargs: Any) -> xr.Dataset:
    return source.chunking.apply({"t": -1, "x": 2}, store=target, progress=False, **kwargs)


def stop(
    source: xr.Dataset, target: Any, monkeypatch: pytest.MonkeyPatch, at: str, **kwargs: Any
) -> None:
    """Rechunk, and stop where one of the functions of the run is called."""

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        owner, name = {
            "commit": (xchunk.rechunking.runner, "commit"),
            "publish": (xchunk.rechunking.runner.Site, "publish"),
            "leave": (xchunk.rechunking.runner.Site, "leave"),
            "second rename": (Beside, "_rename_new"),
        }[at]
        patched.setattr(owner, name, die)
        with pytest.raises(Killed):
            rechunk(source, target, **kwargs)


def files(folder: Path) -> set[str]:
    return {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }


def test_an_unfinished_target_goes(
    source: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.zarr"
    stop(source, target, monkeypatch, "commit")
    before = files(target)
    told = xchunk.clean(target)
    assert told.dry_run
    assert set(told.keys) == before == files(target)
    assert "an unfinished target" in str(told)
    done = xchunk.clean(target, dry_run=False)
    assert done.keys == told.keys
    assert not target.exists()
    assert xchunk.clean(target).keys == ()


def test_what_is_not_ours_stays(
    source: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.zarr"
    stop(source, target, monkeypatch, "commit")
    mine = {"readme.txt", "v/c/notes.txt", "v/plot.png", "photos/c/0/0", "v/c/0/0.bak"}
    for name in mine:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0").write_text("mine")
    (target / "v/c/7").symlink_to(outside)
    (target / "v/c/8").symlink_to(outside / "0")
    xchunk.clean(target, dry_run=False)
    assert files(target) == mine | {"v/c/7", "v/c/8"}
    assert (outside / "0").read_text() == "mine"


def test_no_run_begins_while_it_deletes(
    source: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.zarr"
    stop(source, target, monkeypatch, "commit")
    seen = []
    real = xchunk.rechunking.clean.delete_owned

    def delete(*args: Any) -> None:
        seen.append(holder_of(LocalStore(target)))
        with pytest.raises(xchunk.TargetExistsError, match="written by another run"):
            rechunk(source, target)
        real(*args)

    monkeypatch.setattr(xchunk.rechunking.clean, "delete_owned", delete)
    xchunk.clean(target, dry_run=False)
    assert all(seen)
    assert not files(tmp_path / "t.zarr")


def test_a_workspace_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "scratch").mkdir(parents=True)
    (theirs / "marker.json").write_text('{"made_by": "xchunk"}')
    target = tmp_path / "t.zarr"
    target.mkdir()
    (target / ".xchunk").symlink_to(theirs)
    assert xchunk.clean(target, dry_run=False).keys == ()
    assert files(theirs) == {"marker.json"}


@pytest.mark.parametrize("marker", [None, "", "{}", '{"made_by": "somebody"}', "[1]"])
def test_a_workspace_without_our_marker_stays(tmp_path: Path, marker: str | None) -> None:
    target = tmp_path / "t.zarr/.xchunk/scratch"
    target.mkdir(parents=True)
    (target / "precious").write_text("keep")
    if marker is not None:
        (target.parent / "marker.json").write_text(marker)
    before = files(tmp_path)
    assert xchunk.clean(tmp_path / "t.zarr", dry_run=False).keys == ()
    assert files(tmp_path) == before


def test_a_journal_cannot_lead_out_of_the_target(
    source: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xchunk.targets.journal import digest_of

    target = tmp_path / "t.zarr"
    stop(source, target, monkeypatch, "commit")
    header = target / ".xchunk/journal/header.json"
    body = json.loads(header.read_text())["body"]
    facts = body["arrays"].pop("v")
    for path in ("../source.zarr/v", "/etc", "", "..", "v/../../source.zarr/v"):
        body["arrays"][path] = facts
    body["groups"] += ["../source.zarr/zarr.json", "/etc/zarr.json"]
    header.write_text(json.dumps({"digest": digest_of(body), "body": body}))
    before = files(tmp_path / "source.zarr")
    xchunk.clean(target, dry_run=False)
    assert files(tmp_path / "source.zarr") == before


def test_a_complete_store_stays_but_for_scratch(
    source: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.zarr"
    stop(source, target, monkeypatch, "leave")
    told = xchunk.clean(target, dry_run=False)
    assert "complete store" in told.found
    assert all(key.startswith(".xchunk/") for key in told.keys)
    xr.testing.assert_identical(xr.open_zarr(target).load(), source.load())
    assert xchunk.clean(target).keys == ()


class TestReplacing:
    @pytest.fixture
    def target(self, source: xr.Dataset, tmp_path: Path) -> Path:
        source[["n"]].to_zarr(tmp_path / "t.zarr")
        return tmp_path / "t.zarr"

    @pytest.mark.parametrize("at", ["commit", "publish"])
    def test_before_the_first_rename(
        self, source: xr.Dataset, target: Path, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        before = files(target)
        stop(source, target, monkeypatch, at, overwrite=True)
        assert files(target) == before
        assert xchunk.clean(target).keys
        xchunk.clean(target, dry_run=False)
        assert files(target) == before
        assert sorted(p.name for p in target.parent.iterdir()) == ["source.zarr", "t.zarr"]

    def test_between_the_renames(
        self, source: xr.Dataset, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stop(source, target, monkeypatch, "second rename", overwrite=True)
        assert not target.exists()
        with pytest.raises(xchunk.TargetExistsError, match="xchunk clean"):
            rechunk(source, target)
        told = xchunk.clean(target)
        assert told.repaired == "the new store"
        assert not target.exists()
        xchunk.clean(target, dry_run=False)
        xr.testing.assert_identical(xr.open_zarr(target).load(), source.load())
        assert sorted(p.name for p in target.parent.iterdir()) == ["source.zarr", "t.zarr"]

    def test_the_same_call_repairs_it_too(
        self, source: xr.Dataset, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stop(source, target, monkeypatch, "second rename", overwrite=True)
        out = rechunk(source, target, overwrite=True)
        xr.testing.assert_identical(out.load(), source.load())
        assert sorted(p.name for p in target.parent.iterdir()) == ["source.zarr", "t.zarr"]

    @pytest.mark.parametrize("made_of", ["folder", "link", "file"])
    def test_something_of_the_users_beside(
        self, source: xr.Dataset, target: Path, tmp_path: Path, made_of: str
    ) -> None:
        beside = tmp_path / ".t.zarr.xchunk"
        if made_of == "folder":
            (beside / "old").mkdir(parents=True)
            (beside / "old/precious").write_text("keep")
        elif made_of == "link":
            beside.symlink_to(tmp_path / "source.zarr")
        else:
            beside.write_text("keep")
        before = files(tmp_path)
        with pytest.raises(xchunk.TargetExistsError, match="did not make it"):
            rechunk(source, target, overwrite=True)
        xchunk.clean(target, dry_run=False)
        assert files(tmp_path) == before

    def test_a_link_to_a_store_stays_a_link(
        self, source: xr.Dataset, target: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(target)
        rechunk(source, tmp_path / "link", overwrite=True)
        assert (tmp_path / "link").is_symlink()
        xr.testing.assert_identical(xr.open_zarr(target).load(), source.load())

    @pytest.mark.filterwarnings("ignore:Object at .xchunk")  # what zarr says of our folder
    def test_in_memory(self, source: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        store = zarr.storage.MemoryStore()
        source[["n"]].rename(n="old").to_zarr(store)
        before = dict(store._store_dict)
        stop(source, store, monkeypatch, "commit", overwrite=True)
        assert state_of(store) == "committed"
        told = xchunk.clean(store)
        assert "a complete store, " in told.found
        assert "beside it what was to replace it" in told.found
        xchunk.clean(store, dry_run=False)
        assert store._store_dict == before
        rechunk(source, store, overwrite=True)
        assert not any("old" in key or key.startswith(".xchunk") for key in store._store_dict)


def test_a_cleaning_that_is_stopped_leaves_no_notes_of_what_it_deleted(
    source: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.zarr"
    stop(source, target, monkeypatch, "commit")

    def half(store: Any, keys: list[str], _: Any) -> None:
        (target / next(k for k in keys if "/c/" in k)).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("xchunk.rechunking.clean.delete_owned", half)
        with pytest.raises(KeyboardInterrupt):
            xchunk.clean(target, dry_run=False)
    xr.testing.assert_identical(rechunk(source, target).load(), source.load())


def test_a_target_in_memory(source: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    store = zarr.storage.MemoryStore()
    stop(source, store, monkeypatch, "commit")
    assert len(xchunk.clean(store).keys) == len(store._store_dict)
    xchunk.clean(store, dry_run=False)
    assert store._store_dict == {}


def test_the_state_of_a_place(source: xr.Dataset, tmp_path: Path) -> None:
    assert state_of(open_store(tmp_path / "nothing")) == "nothing"
    assert state_of(open_store(tmp_path / "source.zarr")) == "complete"
    (tmp_path / "folder").mkdir()
    assert state_of(open_store(tmp_path / "folder")) == "nothing"
    (tmp_path / "folder/file").touch()
    assert state_of(open_store(tmp_path / "folder")) == "foreign"
    assert not (tmp_path / "nothing").exists()
    assert Site(open_store(tmp_path / "nothing")).replacing is None


def test_the_command(
    source: xr.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "t.zarr"
    stop(source, target, monkeypatch, "commit")
    assert main.run(["clean", str(target)]) == 0
    assert "would be deleted" in capsys.readouterr().out
    assert target.exists()
    assert main.run(["clean", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert main.run(["clean", str(target), "--delete"]) == 0
    assert not target.exists()
    assert main.run(["clean", str(target)]) == 0


def test_credentials_of_urls_are_not_written() -> None:
    from xchunk.core.redact import without_secrets

    for url in (
        "https://user:pa55@host/a/b.nc?X-Amz-Signature=s3cr3t",
        "simplecache::s3://key:s3cr3t@bucket/a",
        "https://host/a#s3cr3t",
    ):
        plain = without_secrets(url)
        assert "s3cr3t" not in plain
        assert "pa55" not in plain
        assert "/a" in plain
    assert without_secrets("/a/b?c.nc") == "/a/b?c.nc"
