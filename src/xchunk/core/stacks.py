"""What a thread is doing, from the functions that it is in: reading, decoding, waiting, computing.

A stack is a sequence of pairs of a file and a function, the innermost first. Libraries are
known by the folders that they are installed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

__all__ = ["Frame", "State", "Stack", "resolved", "state_of", "task_part"]

Frame: TypeAlias = tuple[str, str]
Stack: TypeAlias = Sequence[Frame]

#: ``lock``: waits for a lock that lets one thread read at a time; ``store``: waits for a store;
#: ``codec``: decodes or encodes; ``file``: in a file format's library, of which it cannot be told
#: from the stack whether it reads or decodes; ``zarr``: waits for zarr's own threads; ``wait``:
#: waits for something else; ``compute``: all other work; ``idle``: none.
State: TypeAlias = Literal["lock", "store", "codec", "file", "zarr", "wait", "compute", "idle"]

_STORE = (
    "/zarr/storage/", "/zarr/abc/store", "/fsspec/", "/s3fs/", "/gcsfs/", "/adlfs/", "/aiohttp/",
    "/botocore/", "/aiobotocore/", "/urllib3/", "/urllib/", "/requests/", "/http/client.py",
    "/socket.py", "/ssl.py", "/obstore/", "/icechunk/",
)  # fmt: skip
_CODEC = (
    "/zarr/codecs/", "/numcodecs/", "/imagecodecs/", "/gzip.py", "/lzma.py", "/bz2.py", "/blosc",
    "/zfpy",
)  # fmt: skip
_FILE = (
    "/netCDF4/", "/h5netcdf/", "/h5py/", "/scipy/io/", "/cfgrib/", "/eccodes/", "/gribapi/",
    "/rasterio/", "/pydap/", "/backends/netCDF4_.py", "/backends/h5netcdf_.py",
    "/backends/scipy_.py", "/backends/pydap_.py",
)  # fmt: skip
_WAITS = ("/threading.py", "/queue.py", "/concurrent/futures/_base.py")
_LOCKS = ("/backends/locks.py",)

#: Where a task begins on the stack of the thread that runs it.
_TASK = (
    ("/dask/local.py", "execute_task"),
    ("/distributed/worker.py", "_run_task_simple"),
    ("/distributed/worker.py", "apply_function_simple"),
)


def task_part(stack: Stack) -> Stack | None:
    """Return the part of a stack that belongs to a task of dask's; None where there is none."""
    for i, (file, function) in enumerate(stack):
        if any(file.endswith(f) and function == name for f, name in _TASK):
            return stack[:i]
    return None


def state_of(stack: Stack) -> State:
    """Tell what a thread is doing.

    Parameters
    ----------
    stack : sequence of (file, function)
        Of a task's thread the part that `task_part` returns.
    """
    waits = False
    for file, function in stack:
        if file.endswith(_LOCKS) or (
            file.endswith("/dask/utils.py") and function in ("__enter__", "acquire")
        ):
            return "lock"
        if file.endswith(_WAITS):
            waits = True
            continue
        if file.endswith("/zarr/core/sync.py"):
            return "zarr" if waits else "compute"
        for state, places in _PLACES:
            if any(place in file for place in places):
                return state
        if not waits:
            continue
    return "wait" if waits else "compute"


_PLACES: tuple[tuple[State, tuple[str, ...]], ...] = (
    ("codec", _CODEC),
    ("store", _STORE),
    ("file", _FILE),
)


def resolved(others: Iterable[Stack]) -> State:
    """Tell what a thread that waits for zarr really waits for, from the other threads' stacks."""
    codec = store = running = False
    for stack in others:
        if not stack or any(file.endswith(_WAITS) for file, _ in stack[:1]):
            continue
        state = state_of(stack)
        codec |= state == "codec"
        store |= state == "store"
        loop = any(f.endswith("/asyncio/base_events.py") and n == "run_forever" for f, n in stack)
        running |= loop and not stack[0][0].endswith("/selectors.py")
    if codec:
        return "codec"
    return "compute" if running and not store else "store"
