"""Automatic rechunking for xarray: how is it stored, what fits, and rechunk it.

Importing this registers ``.chunking`` on `xarray.Dataset`, `xarray.DataArray` and
`xarray.DataTree`, whichever of xarray and xchunk is imported first.
"""

import sys
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from xchunk.core import __version__
from xchunk.core.shown import show_with as _show_with
from xchunk.display import Show as _Show
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

if TYPE_CHECKING:
    from xchunk.accessor import DataArrayChunking, DatasetChunking, DataTreeChunking
    from xchunk.batching.run import BatchReport, JobResult
    from xchunk.core.cost import MeasuredRates, Rates, Work
    from xchunk.core.layout import ArrayLayout
    from xchunk.core.memory import CopyBuffers, MemoryBudget
    from xchunk.core.plan.stages import ArrayPlan, Limits, RechunkPlan, Scratch, Stage
    from xchunk.core.reports.comparison import RechunkComparison, RechunkWay
    from xchunk.core.reports.graph import ChunkSize, GraphReport, Layer
    from xchunk.core.reports.rules import CheckReport, Finding
    from xchunk.core.reports.verdicts import Diagnosis, Facts, Symptom
    from xchunk.core.reports.workload import Outcome, Prediction
    from xchunk.core.suggest.suggestion import Suggestion, VariableSuggestion
    from xchunk.diagnose.graph import graph
    from xchunk.diagnose.observe import Observation, observe
    from xchunk.display.progress import batch
    from xchunk.opening.chunkmanager import XchunkManager
    from xchunk.opening.dataset import open_dataset
    from xchunk.opening.groups import open_datatree
    from xchunk.rechunking.clean import Cleaning, clean
    from xchunk.rechunking.compat.interface import Rechunked, rechunk
    from xchunk.rechunking.options import RechunkOptions
    from xchunk.rechunking.run import RechunkJob
    from xchunk.rechunking.verify import Proof, verify
    from xchunk.sources.layouts import LayoutReport

# xarray takes longer to load than all the rest. The command line's help and its completion need
# nothing of it, and neither does who only asks for a class of xchunk's.

#: What is waited for, and what registers accessors when it is imported. None of the modules that
#: it needs may import xarray before it does.
_AWAITED, _ACCESSOR = "xarray", "xchunk.accessor"


def _register() -> None:
    """Register the accessors now, or when xarray is imported."""
    if _AWAITED in sys.modules:
        import_module(_ACCESSOR)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds xarray as all others find it, with a loader that registers afterwards."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if fullname != _AWAITED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    def __init__(self, own: Loader, finder: _Finder):
        self._own, self._finder = own, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # whoever looks at the module finds its own loader
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        # it was loaded without an error: that is all that was waited for
        with suppress(ValueError):
            sys.meta_path.remove(self._finder)
        import_module(_ACCESSOR)


# results are below what draws them: it is given to them here
_show_with(_Show())
_register()

#: Imported when they are used, so that importing xchunk stays quick.
_LATE = {
    name: f"xchunk.{module}"
    for module, names in {
        "accessor": "DataArrayChunking DataTreeChunking DatasetChunking",
        "batching.run": "BatchReport JobResult",
        "core.cost": "MeasuredRates Rates Work",
        "core.layout": "ArrayLayout",
        "core.memory": "CopyBuffers MemoryBudget",
        "core.plan.stages": "ArrayPlan Limits RechunkPlan Scratch Stage",
        "core.reports.comparison": "RechunkComparison RechunkWay",
        "core.reports.rules": "CheckReport Finding",
        "core.reports.graph": "ChunkSize GraphReport Layer",
        "core.reports.verdicts": "Diagnosis Facts Symptom",
        "core.reports.workload": "Outcome Prediction",
        "core.suggest.suggestion": "Suggestion VariableSuggestion",
        "diagnose.graph": "graph",
        "diagnose.observe": "Observation observe",
        "display.progress": "batch",
        "opening.chunkmanager": "XchunkManager",
        "opening.dataset": "open_dataset",
        "opening.groups": "open_datatree",
        "rechunking.clean": "Cleaning clean",
        "rechunking.compat.interface": "Rechunked rechunk",
        "rechunking.options": "RechunkOptions",
        "rechunking.run": "RechunkJob",
        "rechunking.verify": "Proof verify",
        "sources.layouts": "LayoutReport",
    }.items()
    for name in names.split()
}

__all__ = [
    "__version__",
    "ArrayLayout",
    "ArrayPlan",
    "BatchReport",
    "CheckReport",
    "ChunkSize",
    "Cleaning",
    "ClusterError",
    "CopyBuffers",
    "DataArrayChunking",
    "DataTreeChunking",
    "DatasetChunking",
    "Diagnosis",
    "EncodingError",
    "ExcessiveIOWarning",
    "Facts",
    "Finding",
    "GraphReport",
    "InvalidChunksError",
    "InvalidJobError",
    "JobResult",
    "Layer",
    "LayoutChangeWarning",
    "LayoutReport",
    "Limits",
    "MeasuredRates",
    "MemoryBudget",
    "MemoryBudgetError",
    "Observation",
    "Outcome",
    "Prediction",
    "Proof",
    "Rates",
    "RechunkComparison",
    "RechunkJob",
    "RechunkOptions",
    "RechunkPlan",
    "RechunkWay",
    "Rechunked",
    "ResumeMismatchError",
    "Scratch",
    "SourceError",
    "Stage",
    "StageFailedError",
    "Suggestion",
    "Symptom",
    "TargetExistsError",
    "VariableSuggestion",
    "VerificationError",
    "Work",
    "XchunkError",
    "XchunkManager",
    "XchunkWarning",
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
