"""Code that runs in a process of its own, with the library of one reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from remote.data import need

TESTS = Path(__file__).parents[1]
HEAD = f"""
import json, os, sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
import numpy as np, xarray as xr, zarr
import xchunk
given = json.loads(sys.argv[1])

def done(*said):
    print(json.dumps(said), flush=True)
    os._exit(0)  # the libraries of several readers do not end well together
"""


def apart(code: str, given: dict[str, Any] | None, *packages: str) -> Any:
    """Run code, which ends with ``done(…)``; return what it is given."""
    need(*packages)
    call = [sys.executable, "-c", HEAD + code, json.dumps(given or {})]
    ended = subprocess.run(call, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])
