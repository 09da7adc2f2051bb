"""Repositories of icechunk: one commit, or none."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import xchunk
import xchunk.engine.copy

icechunk = pytest.importorskip("icechunk")
QUIET: dict[str, Any] = {"max_mem": "60MB", "progress": False}


def steps(start: int, stop: int) -> xr.Dataset:
    values = np.random.default_rng(3).random((60, 20, 30)).astype("f4")[start:stop]
    return xr.Dataset(
        {"v": (("t", "y", "x"), values, {"units": "K"})},
        coords={"t": np.arange(start, stop), "y": np.arange(20)},
    )


@pytest.fixture(params=["memory", "local"])
def repo(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return icechunk.Repository.create(icechunk.in_memory_storage())
    return local(tmp_path)


def local(tmp_path: Path) -> Any:
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))


def read(repo: Any) -> xr.Dataset:
    return xr.open_zarr(repo.readonly_session("main").store, consolidated=False)


def messages(repo: Any) -> list[str]:
    return [found.message for found in repo.ancestry(branch="main")][:-1]


@pytest.fixture
def maps(tmp_path: Path) -> xr.Dataset:
    steps(0, 40).to_zarr(tmp_path / "maps.zarr", encoding={"v": {"chunks": (1, 20, 30)}})
    return xr.open_zarr(tmp_path / "maps.zarr")


def test_one_commit_with_a_message(repo: Any, maps: xr.Dataset) -> None:
    session = repo.writable_session("main")
    plan = maps.chunking.plan({"t": -1, "y": 5}, store=session, max_mem="60MB")
    assert any("starts anew" in note for note in plan.notes)
    assert "branch 'main'" in plan.target
    assert not session.has_uncommitted_changes
    out = maps.chunking.apply(
        {"t": -1, "y": 5}, store=session.store, message="series", verify=True, **QUIET
    )
    assert messages(repo) == ["series"]
    assert out.load().identical(steps(0, 40))
    assert out.v.encoding["chunks"] == (40, 5, 30)
    # and it is a source: the session that was committed, or a new one
    back = read(repo)
    assert back.chunking.layout()["v"].chunks == (40, 5, 30)
    back.chunking.apply({"t": 1}, store="maps2.zarr", verify=True, **QUIET)
    assert xr.open_zarr("maps2.zarr").load().identical(steps(0, 40))


def test_append_region_and_overwrite_are_commits(repo: Any) -> None:
    first = steps(0, 40)
    first.chunking.apply({"t": 30}, store=repo.writable_session("main"), **QUIET)
    grown = steps(40, 60).chunking.append(
        repo.writable_session("main"), dim="t", verify=True, **QUIET
    )
    assert grown.load().identical(steps(0, 60))
    part = steps(25, 35)
    part["v"] = (part.v * -1).assign_attrs(units="K")
    part.chunking.write_region(repo.writable_session("main"), region="auto", **QUIET)
    wanted = steps(0, 60)
    wanted.v[25:35] *= -1
    assert read(repo).load().identical(wanted)
    with pytest.raises(xchunk.TargetExistsError, match="overwrite"):
        first.chunking.apply({"t": 10}, store=repo.writable_session("main"), **QUIET)
    first[["v"]].chunking.apply(
        {"t": 10}, store=repo.writable_session("main"), overwrite=True, **QUIET
    )
    assert read(repo).load().identical(first[["v"]])
    assert (
        messages(repo)
        == [
            "xchunk: rechunk v, t, y",
            "xchunk: rechunk v, t, y",
            "xchunk: append v",
            "xchunk: append v, t",
            "xchunk: rechunk v, t, y",
        ][1:]
    )


def test_a_run_that_dies_leaves_nothing(
    repo: Any, maps: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(spec: Any, i: int) -> int:
        raise xchunk.StageFailedError("the disk is on fire.")

    session = repo.writable_session("main")
    with monkeypatch.context() as patch:
        patch.setattr(xchunk.engine.copy, "_copy", broken)
        with pytest.raises(xchunk.StageFailedError, match="call again to start anew"):
            maps.chunking.apply({"t": 5}, store=session, **QUIET)
    assert not session.has_uncommitted_changes
    assert messages(repo) == []
    maps.chunking.apply({"t": 5}, store=session, **QUIET)
    assert read(repo).load().identical(steps(0, 40))


def test_scratch_stays_out_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = np.random.default_rng(3).random((64, 300, 120)).astype("f4")
    ds = xr.Dataset({"v": (("t", "y", "x"), values)})
    ds.to_zarr("maps.zarr", encoding={"v": {"chunks": (1, 300, 120)}})
    repo = local(tmp_path)
    for scratch in (None, tmp_path / "scratch"):
        options: dict[str, Any] = {"max_mem": "13MB", "scratch": scratch, "overwrite": True}
        maps, session = xr.open_zarr("maps.zarr"), repo.writable_session("main")
        chunks = {"t": -1, "y": 10}
        assert maps.chunking.plan(chunks, store=session, **options)["v"].family == "staged"
        out = maps.chunking.apply(chunks, store=session, progress=False, **options)
        np.testing.assert_array_equal(out.v, values)
    keys = [p for p in tmp_path.rglob("*") if "xchunk" in p.name]
    assert not keys
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        (lambda r: r, xchunk.SourceError, "no store"),
        (lambda r: r.readonly_session("main"), xchunk.SourceError, "cannot be written to"),
    ],
    ids=["the repository", "read-only"],
)
def test_what_cannot_be_committed_is_refused(
    tmp_path: Path, where: Any, error: Any, said: str
) -> None:
    with pytest.raises(error, match=said):
        steps(0, 5).chunking.apply({"t": 5}, store=where(local(tmp_path)), **QUIET)


def test_changes_of_somebody_else_are_not_committed(repo: Any) -> None:
    steps(0, 40).chunking.apply({"t": 30}, store=repo.writable_session("main"), **QUIET)
    session = repo.writable_session("main")
    steps(40, 42).to_zarr(session.store, append_dim="t", consolidated=False)
    with pytest.raises(xchunk.TargetExistsError, match="not committed"):
        steps(42, 44).chunking.append(session, dim="t", **QUIET)
    with pytest.raises(xchunk.TargetExistsError, match="not committed"):
        steps(42, 44).chunking.apply({"t": 5}, store=session, overwrite=True, **QUIET)
    assert session.has_uncommitted_changes


def test_a_message_and_format_2_are_for_others(tmp_path: Path) -> None:
    with pytest.raises(xchunk.InvalidChunksError, match="message="):
        steps(0, 5).chunking.apply({"t": 5}, store="s.zarr", message="hello", **QUIET)
    session = local(tmp_path).writable_session("main")
    with pytest.raises(xchunk.EncodingError, match="format 3"):
        steps(0, 5).chunking.apply({"t": 5}, store=session, zarr_format=2, **QUIET)


def test_inside_a_transaction_its_context_commits(repo: Any) -> None:
    with repo.transaction("main", message="mine") as store:
        out = steps(0, 40).chunking.apply({"t": 30}, store=store, commit=False, **QUIET)
        assert out.load().identical(steps(0, 40))
        assert messages(repo) == []
    assert messages(repo) == ["mine"]
    with repo.transaction("main", message="more") as store:
        steps(40, 60).chunking.append(store, dim="t", commit=False, **QUIET)
    assert messages(repo) == ["more", "mine"]
    assert read(repo).load().identical(steps(0, 60))


def test_a_transaction_that_fails_commits_nothing(
    repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("xchunk.engine.copy._write", fail)
    with (
        pytest.raises(xchunk.StageFailedError, match="Nothing is left"),
        repo.transaction("main", message="mine") as store,
    ):
        steps(0, 40).chunking.apply({"t": 30}, store=store, commit=False, **QUIET)
    assert messages(repo) == []


def test_no_commit_is_for_sessions_and_has_no_message(tmp_path: Path) -> None:
    session = local(tmp_path).writable_session("main")
    for store, given in (("s.zarr", {}), (session, {"message": "hello"})):
        with pytest.raises(xchunk.InvalidChunksError, match="commit=False"):
            steps(0, 5).chunking.apply({"t": 5}, store=store, commit=False, **given, **QUIET)


def conflict(repo: Any) -> None:
    """Commit between another session's opening and its commit."""
    steps(0, 40).chunking.apply({"t": 30}, store=repo.writable_session("main"), **QUIET)
    mine, theirs = repo.writable_session("main"), repo.writable_session("main")
    steps(40, 50).chunking.append(theirs, dim="t", message="theirs", **QUIET)
    with pytest.raises(xchunk.TargetExistsError, match=r"another commit.*rebase"):
        steps(40, 60).chunking.append(mine, dim="t", **QUIET)
    assert messages(repo)[0] == "theirs"
    assert read(repo).load().identical(steps(0, 50))
    steps(50, 60).chunking.append(repo.writable_session("main"), dim="t", **QUIET)
    assert read(repo).load().identical(steps(0, 60))


def test_a_conflict_is_reported(repo: Any) -> None:
    conflict(repo)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
def test_sessions_of_workers_are_merged(client: Client, tmp_path: Path, maps: xr.Dataset) -> None:
    repo = local(tmp_path)
    session = repo.writable_session("main")
    maps.chunking.apply({"t": 5, "y": 5}, store=session, message="one", verify=True, **QUIET)
    assert messages(repo) == ["one"]
    # computed, with a lead-in; then stored
    steps(40, 47).chunk(t=2).chunking.append(
        repo.writable_session("main"), dim="t", message="two", **QUIET
    )
    steps(47, 60).to_zarr("more.zarr", encoding={"v": {"chunks": (1, 20, 30)}})
    xr.open_zarr("more.zarr").chunking.append(
        repo.writable_session("main"), dim="t", message="three", **QUIET
    )
    assert messages(repo) == ["three", "two", "one"]
    assert read(repo).load().identical(steps(0, 60))
    memory = icechunk.Repository.create(icechunk.in_memory_storage())
    with pytest.raises(xchunk.SourceError, match="cannot reach"):
        maps.chunking.apply({"t": 5}, store=memory.writable_session("main"), **QUIET)
    assert messages(memory) == []


def free_port() -> int:
    """A port that is free, as is the one 10000 above."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port > 50000:
                continue
            try:
                other.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            return port


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[int]:
    """A SeaweedFS server; its port."""
    import shutil

    weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
    if not Path(weed).exists():
        pytest.skip("there is no SeaweedFS")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    config = tmp_path / "s3.json"
    config.write_text(
        '{"identities":[{"name":"xchunk","credentials":[{"accessKey":"xchunk",'
        '"secretKey":"xchunk-secret"}],"actions":["Admin","Read","Write","List","Tagging"]}]}'
    )
    server = subprocess.Popen(
        [
            weed, "mini", f"-dir={tmp_path}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"-{name}.port={port}" for name, port in ports.items()),
            "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}", "-webdav=false",
            "-admin.ui=false", "-master.telemetry=false", "-bucket=xchunk",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ports['s3']}/xchunk", timeout=1)
            except urllib.error.HTTPError:
                break  # it answers that it does not know us
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            else:
                break
        yield ports["s3"]
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
def test_a_conflict_on_s3(s3: int) -> None:
    storage = icechunk.s3_storage(
        bucket="xchunk",
        prefix="repo",
        endpoint_url=f"http://127.0.0.1:{s3}",
        access_key_id="xchunk",
        secret_access_key="xchunk-secret",  # noqa: S106 - the server is ours, and scratch
        region="us-east-1",
        allow_http=True,
        force_path_style=True,
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            repo = icechunk.Repository.create(storage)
            break
        except Exception:  # the bucket is made a moment after the server answers
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    conflict(repo)
