"""Coroutines in the thread of a task, and keys of local stores."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from zarr.storage import LocalStore

from xchunk.stores.adapter import files_below, list_prefix, put_key
from xchunk.stores.chunk_objects import is_free, run_here


def test_what_goes_to_threads_stays_in_this_one() -> None:
    async def asking() -> list[int]:
        return list(await asyncio.gather(*(asyncio.to_thread(threading.get_ident) for _ in "abc")))

    assert set(run_here(asking())) == {threading.get_ident()}


def test_an_error_is_raised_here_and_ends_what_ran_beside_it() -> None:
    ended: list[Any] = []

    async def beside() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def fail() -> None:
        raise OSError("lost")

    async def both() -> None:
        await asyncio.gather(beside(), asyncio.to_thread(fail))

    with pytest.raises(OSError, match="lost"):
        run_here(both())
    assert ended == ["cancelled"]


def test_a_thread_whose_loop_runs_is_not_free() -> None:
    async def inside() -> bool:
        return is_free()

    assert is_free()
    assert not asyncio.run(inside())


def test_few_keys_are_listed_without_a_look_at_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    for i in range(40):
        put_key(store, f"v/c/{i}/0", b"chunk")
    looked = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or real(path))
    assert len(list_prefix(store, "v/", limit=3)) == 3
    assert len(looked) <= 5
    assert sorted(list_prefix(store, "")) == sorted(f"v/c/{i}/0" for i in range(40))
    assert list_prefix(store, "w/") == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # its chunks would be taken for missing ones, and the copy be filled
    store = LocalStore(tmp_path)
    for i in range(3):
        put_key(store, f"v/c/{i}/0", b"chunk")
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("c/1"):
            raise OSError(number, "cannot be listed")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(OSError, match="cannot be listed"):
        list_prefix(store, "v/")


def test_links_to_files_are_keys_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/0").touch()
    (tmp_path / "s/c").mkdir(parents=True)
    (tmp_path / "s/c/1").symlink_to(tmp_path / "elsewhere/0")
    (tmp_path / "s/c/2").symlink_to(tmp_path / "nowhere")
    (tmp_path / "s/d").symlink_to(tmp_path / "elsewhere")
    assert list_prefix(LocalStore(tmp_path / "s"), "") == ["c/1"]
    assert list(files_below(str(tmp_path / "s"))) == []
