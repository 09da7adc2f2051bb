"""Automatic rechunking for xarray: how is it stored, what fits, and rechunk it.

Importing this registers ``.chunking`` on `xarray.Dataset`, `xarray.DataArray` and
`xarray.DataTree`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xchunk._version import __version__
from xchunk.accessor import DataArrayChunking, DatasetChunking, DataTreeChunking
from xchunk.errors import (
    ClusterError,
    EncodingError,
    ExcessiveIOWarning,
    InvalidChunksError,
    InvalidJobError,
    LayoutChangeWarning,
    MemoryBudgetError,
    ResumeMismatchError,
    SourceError,
    StageFailedError,
    TargetExistsError,
    VerificationError,
    XchunkError,
    XchunkWarning,
)
from xchunk.formatting import register as _register
from xchunk.functions import batch, clean, graph, observe, verify

if TYPE_CHECKING:
    from xchunk.legacy import Rechunked, rechunk
    from xchunk.opening import open_dataset
    from xchunk.trees import open_datatree

_register()

#: Imported when they are used: they bring dask.array.
_LATE = {
    "Rechunked": "xchunk.legacy",
    "open_dataset": "xchunk.opening",
    "open_datatree": "xchunk.trees",
    "rechunk": "xchunk.legacy",
}

__all__ = [
    "ClusterError",
    "DataArrayChunking",
    "DataTreeChunking",
    "DatasetChunking",
    "EncodingError",
    "ExcessiveIOWarning",
    "InvalidChunksError",
    "InvalidJobError",
    "LayoutChangeWarning",
    "MemoryBudgetError",
    "Rechunked",
    "ResumeMismatchError",
    "SourceError",
    "StageFailedError",
    "TargetExistsError",
    "VerificationError",
    "XchunkError",
    "XchunkWarning",
    "__version__",
    "batch",
    "clean",
    "graph",
    "observe",
    "open_dataset",
    "open_datatree",
    "rechunk",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
