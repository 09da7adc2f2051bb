"""Automatic rechunking for xarray: how is it stored, what fits, and rechunk it.

Importing this registers ``.chunking`` on `xarray.Dataset`, `xarray.DataArray` and
`xarray.DataTree`.
"""

from xchunk._version import __version__
from xchunk.accessor import DataArrayChunking, DatasetChunking, DataTreeChunking
from xchunk.errors import (
    EncodingError,
    ExcessiveIOWarning,
    InvalidChunksError,
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

_register()

__all__ = [
    "DataArrayChunking",
    "DataTreeChunking",
    "DatasetChunking",
    "EncodingError",
    "ExcessiveIOWarning",
    "InvalidChunksError",
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
]
