"""Automatic rechunking for xarray: how is it stored, what fits, and rechunk it.

Importing this registers ``.chunking`` on `xarray.Dataset`, `xarray.DataArray` and
`xarray.DataTree`.
"""

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
from xchunk.functions import batch, clean, verify

if TYPE_CHECKING:
    from xchunk.opening import open_dataset

_register()

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
    "open_dataset",
    "verify",
]


def __getattr__(name: str) -> Any:
    # imported when it is used: it brings dask.array
    if name == "open_dataset":
        from xchunk.opening import open_dataset

        return open_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
