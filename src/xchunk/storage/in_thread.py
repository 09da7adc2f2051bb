"""Coroutines run to their end in the thread that asks for them, with all that they delegate.

zarr runs every request on one event loop, which hands reading and codecs to the threads of a
pool. A task of ours has a thread of its own already: running them there saves the way to the
loop and back, and chunks come from one heap instead of those of all the threads of the pool,
each of which keeps a chunk or two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["is_free", "run_here"]

T = TypeVar("T")


class _Inline(ThreadPoolExecutor):
    """An executor without threads: what is submitted is done at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whoever awaits the future gets it
            future.set_exception(error)
        return future


def is_free() -> bool:
    """Tell whether no event loop runs in this thread, as one does in a notebook's main thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and what it gives to threads, in this thread, which must be free."""
    loop = asyncio.new_event_loop()
    executor = _Inline(max_workers=1)
    try:
        loop.set_default_executor(executor)
        return loop.run_until_complete(coroutine)
    finally:
        _cancel_rest(loop)
        loop.close()
        executor.shutdown()


def _cancel_rest(loop: asyncio.AbstractEventLoop) -> None:
    """End what a coroutine that failed has left running beside it."""
    rest = asyncio.all_tasks(loop)
    for task in rest:
        task.cancel()
    if rest:
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
