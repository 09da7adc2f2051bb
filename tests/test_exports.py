from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest
import xarray as xr

import xchunk

#: What the package promises to keep. A new name is added here on purpose, or not at all.
EXPORTS = {
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
    "__version__",
    "batch",
    "clean",
    "graph",
    "observe",
    "open_dataset",
    "open_datatree",
    "rechunk",
    "verify",
}

#: What ``ds.chunking`` promises to keep.
METHODS = {
    "compare_rechunk",
    "append",
    "apply",
    "budget",
    "check",
    "graph",
    "layout",
    "plan",
    "plan_append",
    "plan_region",
    "probe",
    "suggest",
    "verify",
    "write_region",
}

#: Imported when they are used; each costs more than all of xchunk.
LATE = {"click", "distributed", "h5netcdf", "h5py", "matplotlib", "netCDF4", "rich", "scipy.io"}


def test_the_exported_names() -> None:
    assert set(xchunk.__all__) == EXPORTS
    assert len(xchunk.__all__) == len(EXPORTS)


@pytest.mark.parametrize("name", sorted(EXPORTS - {"__version__"}))
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(xchunk, name)
    assert inspect.getdoc(found), f"{name} has no docstring"
    assert found.__module__.startswith("xchunk.")


def test_the_version_is_the_one_that_is_installed() -> None:
    assert xchunk.__version__ == importlib.metadata.version("xchunk")


@pytest.mark.parametrize("kind", [xr.Dataset, xr.DataArray, xr.DataTree])
def test_the_accessor_is_registered_with_these_methods(kind: type) -> None:
    accessor = kind.chunking
    methods = {n for n in dir(accessor) if not n.startswith("_")}
    assert methods == METHODS
    for name in methods:
        assert inspect.getdoc(getattr(accessor, name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_parameter_is_documented(name: str) -> None:
    method = getattr(xchunk.DatasetChunking, name)
    doc = inspect.getdoc(method) or ""
    if "same arguments" in doc:  # as apply's, which documents them
        doc += inspect.getdoc(xchunk.DatasetChunking.apply) or ""
    for parameter in list(inspect.signature(method).parameters)[1:]:
        assert parameter in doc, f"{name}: {parameter} is not documented"


@pytest.mark.subprocess
def test_importing_xchunk_brings_nothing_heavy() -> None:
    code = (
        "import sys, xarray; before = set(sys.modules); import xchunk;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = done.stdout.split()
    assert "xchunk.accessor" in new
    assert [m for m in new if any(m == late or m.startswith(late + ".") for late in LATE)] == []


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "first",
    [
        "xarray",
        "xchunk",
        "xchunk.accessor",
        "xchunk.cli.main",
        "xchunk.core.suggest.suggestion",
        "xchunk.opening.backend",
        "xchunk.rechunking.options",
        "xchunk.sources.arrays",
    ],
)
def test_the_accessor_is_there_whatever_is_imported_first(first: str) -> None:
    code = (
        f"import {first}, xchunk, xarray, sys, importlib.util;"
        "print(xarray.Dataset.chunking is xchunk.DatasetChunking,"
        "xarray.DataArray.chunking is xchunk.DataArrayChunking,"
        "xarray.DataTree.chunking is xchunk.DataTreeChunking,"
        "type(xarray.__loader__).__name__, type(xarray.__spec__.loader).__name__,"
        "[f for f in sys.meta_path if 'xchunk' in type(f).__module__],"
        "importlib.reload(xarray) is xarray)"
    )
    assert _python(code).split() == [*["True"] * 3, *["SourceFileLoader"] * 2, "[]", "True"]


@pytest.mark.subprocess
def test_an_import_of_xarray_that_fails_may_be_tried_again() -> None:
    code = (
        "import sys, xchunk\n"
        "sys.modules['pandas'] = None\n"
        "try:\n    import xarray\nexcept ImportError:\n    print('failed')\n"
        "del sys.modules['pandas']\n"
        "import xarray\n"
        "print(hasattr(xarray.Dataset, 'chunking'))"
    )
    assert _python(code).split() == ["failed", "True"]
