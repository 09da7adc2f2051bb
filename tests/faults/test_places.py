"""Disks that are full, places without rights, and few file handles: said, and resumable."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xchunk
from faults.data import call, maps, opened, same


def rechunk(source: Path, target: Path) -> None:
    opened(source).chunking.apply(store=target, progress=False, **call(source))


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"mounting is not possible: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=False)  # noqa: S607


@pytest.mark.subprocess
@pytest.mark.filterwarnings("ignore:the disk of:xchunk.XchunkWarning")  # it is said beforehand
@pytest.mark.parametrize("size", ["16k", "2m", "7m"])
def test_a_full_disk(source: Path, tmp_path: Path, size: str) -> None:
    target = tmp_path / "disk/t.zarr"
    with small_disk(tmp_path / "disk", size):
        with pytest.raises(xchunk.XchunkError, match="No space left") as caught:
            rechunk(source, target)
        assert not (target / "zarr.json").exists()
        # once there is room, it goes on
        subprocess.run(
            ["mount", "-o", "remount,size=64m", str(tmp_path / "disk")],  # noqa: S607
            check=True,
        )
        kept = len([p for p in target.glob(".xchunk/journal/*/*/*") if p.name.isdigit()])
        if kept:
            assert "same call resumes" in str(caught.value)
        rechunk(source, target)
        assert same(target, source)
        assert not (target / ".xchunk").exists()
        assert list(target.rglob("*.partial")) == []


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("where", ["new", "overwrite", "inside"])
def test_no_permission(where: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    # a folder that somebody else can reach, as those of pytest cannot
    base = Path("/tmp") / f"xchunk-rights-{os.getpid()}"  # noqa: S108
    base.mkdir()
    try:
        store = maps(base / "maps.zarr")
        target = base / "place/t.zarr"
        target.parent.mkdir()
        if where == "inside":
            target.mkdir()
        elif where == "overwrite":
            opened(store)[["m"]].to_zarr(target)
        before = sorted(base.rglob("*"))
        ds, memory = opened(store), call(store)
        with as_nobody(), pytest.raises(xchunk.SourceError, match="cannot be"):
            ds.chunking.apply(
                store=target, progress=False, overwrite=where == "overwrite", **memory
            )
        assert sorted(base.rglob("*")) == before
    finally:
        shutil.rmtree(base)


@pytest.mark.subprocess
def test_a_read_only_disk(source: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: S607
        with pytest.raises(xchunk.SourceError, match="cannot be"):
            rechunk(source, disk / "t.zarr")
        assert list(disk.iterdir()) == []


FEW_HANDLES = """
import resource, sys
import xarray as xr, xchunk, dask
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with dask.config.set(num_workers=2):
    ds = xr.open_mfdataset(sys.argv[3:], combine="nested", concat_dim="t", engine="netcdf4") \\
        if sys.argv[3:] else xr.open_zarr(sys.argv[1])
    ds.chunking.apply({"t": -1, "y": 10}, store=sys.argv[2], progress=False, verify=True)
print("done")
"""


@pytest.mark.subprocess
def test_64_file_handles(source: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FEW_HANDLES, str(source), str(tmp_path / "t.zarr")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "done", done.stderr[-1500:]
    assert same(tmp_path / "t.zarr", source)


@pytest.mark.subprocess
def test_64_file_handles_and_100_files(source: Path, tmp_path: Path) -> None:
    ds = opened(source).load()
    files = []
    for i in range(100):
        files.append(str(tmp_path / f"{i:03}.nc"))
        ds[["v"]].isel(t=[i % 32]).to_netcdf(files[-1], engine="netcdf4")
    target = tmp_path / "t.zarr"
    done = subprocess.run(
        [sys.executable, "-c", FEW_HANDLES, "", str(target), *files],
        capture_output=True,
        text=True,
        check=False,
    )
    # xarray itself opens every file; what cannot be done is said, and nothing is committed
    if done.stdout.strip() != "done":
        assert "Too many open files" in done.stderr
        assert not (target / "zarr.json").exists()
