"""The project's tasks, each in an environment of its own: ``nox -l`` lists them.

`.ci/run` runs these too, so that a command stands in one place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True

#: What runs tests that need no server.
TOOLS = ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil"]

#: What the oldest versions are tested with: all that touches the libraries, but for servers.
OLDEST = [
    "tests/test_exports.py", "tests/test_counts.py", "tests/core/test_grid.py", "tests/engine",
    "tests/opening", "tests/rechunking", "tests/sources", "tests/stores", "tests/targets",
]  # fmt: skip


def python(*minors: int) -> str:
    """The first of some Pythons that really starts (pyenv's shims may lead nowhere)."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for minor in minors:
        for found in (shutil.which(f"python3.{minor}"), *pyenv.glob(f"3.{minor}.*/bin/python")):
            test = [str(found), "-c", "import venv, ensurepip"]
            if found and not subprocess.run(test, capture_output=True, check=False).returncode:
                return str(found)
    return sys.executable


def extra(name: str) -> list[str]:
    """What an extra of pyproject.toml requires; the package itself with an empty name."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    return list(project["optional-dependencies"][name] if name else project["dependencies"])


def lowest(requirements: list[str]) -> str:
    """The lowest versions that requirements allow, as constraints for pip."""
    found = [re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", one) for one in requirements]
    return "".join(f"{lower[1]}=={lower[2]}\n" for lower in found if lower)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and spelling; ``nox -s lint -- --fix`` mends what can be mended."""
    session.install(*extra("lint"))
    session.run("ruff", "check", "--no-cache", *session.posargs, ".")
    session.run("ruff", "format", "--no-cache", *([] if session.posargs else ["--check"]), ".")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly."""
    session.install(".[lint,netcdf,remote,icechunk,plot]", "hypothesis")
    session.run("mypy", "--cache-dir", str(Path(session.create_tmp(), "mypy")), *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests that take seconds, or what is given: ``nox -s tests -- tests/core``."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


def run_slow(session: nox.Session, which: str) -> None:
    """Run slow tests, also those that drive rechunker."""
    session.install(".[test]")
    session.run("python", "-m", "pip", "check")
    # rechunker wants zarr 2, but what is used of it runs on zarr 3
    session.install("--no-deps", "rechunker", "mypy_extensions")
    session.run("python", "-m", "pytest", "-m", which, *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run all tests, the slow ones too."""
    run_slow(session, "slow or not slow")


@nox.session(python=python(14, 13, 12))
def newest(session: nox.Session) -> None:
    """Run the slow tests with the newest Python of this machine; README's command runs the rest."""
    run_slow(session, "slow")


@nox.session(python=python(11))
def min_deps(session: nox.Session) -> None:
    """Run the tests of the parts that touch other libraries, with the oldest of these."""
    constraints = Path(session.create_tmp(), "lowest.txt")
    constraints.write_text(lowest(extra("") + extra("netcdf") + extra("remote")))
    session.install("-c", str(constraints), ".[netcdf,remote]", *TOOLS)
    session.run("python", "-m", "pytest", *(session.posargs or OLDEST))


def run_reader(session: nox.Session, extra: str, package: str) -> None:
    """Run the tests that are skipped without one reader, in an environment without the other."""
    session.install("--no-compile", f".[netcdf,{extra}]", *TOOLS)
    session.run("python", "-c", f"import {package}")  # else they would be skipped here too
    tests = session.posargs or [f"tests/sources/test_{extra}.py"]
    session.run("python", "-m", "pytest", "-n", "2", "-m", "slow or not slow", *tests)


@nox.session
def grib(session: nox.Session) -> None:
    """Run the tests of GRIB; ecCodes and rasterio do not end well in one process."""
    run_reader(session, "grib", "cfgrib")


@nox.session
def raster(session: nox.Session) -> None:
    """Run the tests of rasters, without ecCodes."""
    run_reader(session, "raster", "rioxarray")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, and look at its pages where there is a browser."""
    session.install(".[docs]")
    built = str(Path("docs/_build/html").absolute())
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", built)
    notebook = ["--to", "notebook", "--execute", "docs/tutorial/start.ipynb"]
    session.run("jupyter", "nbconvert", *notebook, "--output-dir", session.create_tmp())
    looked_at = ["-n", "0", "-m", "slow", "tests/looked_at/test_docs.py"]
    session.run("python", "-m", "pytest", "-q", *looked_at, env={"XCHUNK_BUILT_DOCS": built})


@nox.session
def bench(session: nox.Session) -> None:
    """Compare counts; or run a benchmark: ``nox -s bench -- benchmarks/planner/run.py``."""
    session.install("-e", ".[test]")
    session.run("python", *(session.posargs or ["benchmarks/counts.py"]))
