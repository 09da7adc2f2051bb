"""Coroutines in the thread of a task."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

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
