"""Test files that start again, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_with_h5netcdf(file: str) -> str:
    """Run a test file in a process without netCDF4's copy of HDF5; return what pytest said."""
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", file],
        env=os.environ | {"XCHUNK_TEST_ENGINE": "h5netcdf"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    return told.stdout
