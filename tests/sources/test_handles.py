"""A file is read through the handle that the user has; each engine in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "handles_child.py"


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "opened"), [("netcdf4", 2), ("h5netcdf", 2), ("scipy", 1)])
def test_a_file_is_opened_as_often_as_the_user_opens_it(
    engine: str, opened: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD), engine, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(opened)), done.stderr
