"""The rules of the architecture: imports point down, core is pure, optional libraries come late.

Imports are read from the syntax trees, so that those inside functions and under
``TYPE_CHECKING`` count as well.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"

#: The floors from the ground up; a module may import its own floor and those below.
FLOORS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(rf"xchunk\.({pattern})"))
    for name, pattern in [
        ("ground", r"core|core\.(types|redact|shown)|errors"),
        ("numbers", r"core\.(units|grid)"),
        ("models", r"core\.(layout|memory|cost)"),
        ("policies", r"core\..+"),
        ("stores", r"(stores|sources)(\..+)?"),
        ("targets", r"targets(\..+)?"),
        ("engine", r"(engine|simulate)(\..+)?"),
        ("orchestration", r"(opening|rechunking|diagnose|batching)(\..+)?"),
        ("face", r"accessor|(display|cli)(\..+)?"),
        ("testing", r"testing(\..+)?"),
    ]
)
FACE = [name for name, _ in FLOORS].index("face")

#: All that core may import: numbers and data structures, nothing that reads, writes or waits.
PURE = {
    "__future__", "abc", "bisect", "collections", "copy", "dataclasses", "difflib", "enum",
    "fractions", "functools", "heapq", "itertools", "math", "numpy", "operator", "re", "string",
    "textwrap", "types", "typing",
}  # fmt: skip

#: Builtins that do more than calculate.
IMPURE = {"open", "print", "input", "exec", "eval", "__import__"}

#: Imported where they are used, so that ``import xchunk`` stays quick and works without them.
LATE = {
    "aiohttp", "cfgrib", "cftime", "cubed", "distributed", "eccodes", "flox", "h5netcdf", "h5py",
    "icechunk", "IPython", "ipywidgets", "jinja2", "matplotlib", "netCDF4", "obstore", "psutil",
    "rasterio", "rechunker", "rioxarray", "s3fs", "scipy",
}  # fmt: skip

#: Libraries that one part of the package is about: at the top of its modules, late elsewhere.
OWN = {"xchunk.cli": {"click", "rich"}, "xchunk.testing": {"hypothesis"}}

MOST_LINES = 820
#: The accessor is a facade, more than half of which is documentation. The others have taken in
#: small modules, and are to become shorter; none may grow beyond these.
LONGER = {
    "xchunk.accessor": 920,
    "xchunk.core.reports.verdicts": 875,
    "xchunk.opening.combine": 850,
    "xchunk.simulate.predict": 850,
    "xchunk.simulate.workload": 895,
}


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    module: str
    """Full name of what is imported; for ``from a import b`` it is ``a.b`` if that is a module."""
    line: int
    """Line number."""
    late: bool
    """Whether it runs when a function is called, or never (``TYPE_CHECKING``)."""

    @property
    def root(self) -> str:
        """Name of the top package."""
        return self.module.partition(".")[0]


def modules() -> dict[str, Path]:
    """All modules of the package by their full name."""
    out = {}
    for path in sorted((SRC / "xchunk").rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


MODULES = modules()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def floor_of(module: str) -> int:
    """The floor on which a module of the package lives."""
    if module == "xchunk":
        return FACE
    for i, (_, pattern) in enumerate(FLOORS):
        if pattern.fullmatch(module):
            return i
    pytest.fail(f"{module} has no floor: give it one in FLOORS")


def imports(tree: ast.AST, late: bool = False) -> Iterator[Import]:
    """Every import below a node, in the order of the text."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, late)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the direction"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield Import(full if full in MODULES else node.module or "", node.lineno, late)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.body, []), late=True)
            yield from imports(ast.Module(node.orelse, []), late)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, late or inside)


def upward(name: str, tree: ast.AST) -> list[str]:
    """Imports that point up, in words."""
    out = []
    for found in imports(tree):
        if found.root != "xchunk":
            continue
        here, there = floor_of(name), floor_of(found.module)
        if there > here:
            out.append(
                f"{name}:{found.line} ({FLOORS[here][0]}) imports "
                f"{found.module} ({FLOORS[there][0]})"
            )
    return out


def impure(name: str, tree: ast.AST) -> list[str]:
    """What a core module does besides calculating, in words."""
    out = [
        f"{name}:{found.line} imports {found.module}"
        for found in imports(tree)
        if found.root not in PURE | {"xchunk"}
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in IMPURE:
            out.append(f"{name}:{node.lineno} uses {node.id}")
        if isinstance(node, ast.Global):
            out.append(f"{name}:{node.lineno} keeps global state")
    return out


def too_early(name: str, tree: ast.AST) -> list[str]:
    """Optional libraries that are imported with the module, in words."""
    late = LATE.union(*(own for part, own in OWN.items() if not name.startswith(part)))
    return [
        f"{name}:{found.line} imports {found.module} when it is itself imported"
        for found in imports(tree)
        if found.root in late and not found.late
    ]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    assert upward(name, TREES[name]) == []


@pytest.mark.parametrize("name", [m for m in MODULES if m.startswith("xchunk.core")])
def test_core_is_pure(name: str) -> None:
    assert impure(name, TREES[name]) == []


@pytest.mark.parametrize("name", MODULES)
def test_optional_libraries_are_imported_late(name: str) -> None:
    assert too_early(name, TREES[name]) == []


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_short(name: str) -> None:
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= LONGER.get(name, MOST_LINES), (
        f"{name} has {lines} lines: split it by what it owns"
    )


def test_no_import_cycles() -> None:
    graph = {
        name: {f.module for f in imports(tree) if f.module in MODULES and f.module != name}
        for name, tree in TREES.items()
    }
    graph["xchunk"] = set()  # it gathers what is below; nothing below may import it back
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_below_imports_the_package_itself() -> None:
    found = [
        f"{name}:{f.line}"
        for name, tree in TREES.items()
        for f in imports(tree)
        if f.module == "xchunk" and floor_of(name) < FACE
    ]
    assert found == []


def test_imported_libraries_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=~! ]", r)[0].lower().replace("-", "_") for r in requirements}

    needed = names(project["dependencies"])
    optional = names([r for extra in extras.values() for r in extra])
    # Never needed: an engine that is driven where a user has it, and what shows in notebooks.
    optional |= {"rechunker", "ipython", "ipywidgets", "h5py", "flox"}
    for name, tree in TREES.items():
        for found in imports(tree):
            root = found.root.lower()
            if root in sys.stdlib_module_names or found.root in sys.stdlib_module_names:
                continue
            own = OWN["xchunk.testing"] if name.startswith("xchunk.testing") else set()
            allowed = needed | {"xchunk"} | own | (optional if found.late else set())
            assert root in allowed, f"{name}:{found.line} imports {found.root}, undeclared"


@pytest.mark.parametrize(
    ("check", "name", "source", "said"),
    [
        (upward, "xchunk.core.grid", "from xchunk.core.memory import TARGET", "core.memory"),
        (upward, "xchunk.core.plan.choose", "def f():\n    import xchunk.stores", "stores"),
        (upward, "xchunk.sources.refs", "from xchunk.engine import x", "engine"),
        (upward, "xchunk.errors", "if TYPE_CHECKING:\n    from xchunk.core import grid", "grid"),
        (upward, "xchunk.engine.copy", "from xchunk import __version__", "xchunk"),
        (impure, "xchunk.core.plan.choose", "import time", "time"),
        (impure, "xchunk.core.plan.choose", "def f():\n    import xarray as xr", "xarray"),
        (impure, "xchunk.core.plan.choose", "open('x')", "open"),
        (impure, "xchunk.core.plan.choose", "def f():\n    global x", "global"),
        (too_early, "xchunk.accessor", "import distributed", "distributed"),
        (too_early, "xchunk.accessor", "try:\n    import rich\nexcept ImportError: ...", "rich"),
        (too_early, "xchunk.cli.main", "from matplotlib import pyplot", "matplotlib"),
        (too_early, "xchunk.accessor", "class A:\n    import click", "click"),
        (too_early, "xchunk.core.grid", "from hypothesis import strategies", "hypothesis"),
        (upward, "xchunk.cli.main", "from xchunk.testing import strategies", "testing"),
    ],
)
def test_the_rules_catch(check, name: str, source: str, said: str) -> None:
    found = check(name, ast.parse(source))
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("check", "name", "source"),
    [
        (upward, "xchunk.core.plan.choose", "from xchunk.core import grid"),
        (upward, "xchunk.engine.graph", "from xchunk.sources.refs import ZarrRef"),
        (upward, "xchunk", "from xchunk.accessor import x"),
        (upward, "xchunk.testing.strategies", "from xchunk.core.grid import Axis"),
        (too_early, "xchunk.testing.strategies", "import hypothesis"),
        (
            impure,
            "xchunk.core.plan.choose",
            "import numpy as np\nfrom collections.abc import Mapping",
        ),
        (too_early, "xchunk.cli.main", "import click\nfrom rich.table import Table"),
        (too_early, "xchunk.engine.graph", "def f():\n    import distributed"),
        (too_early, "xchunk.engine.graph", "if TYPE_CHECKING:\n    import distributed"),
    ],
)
def test_the_rules_let_pass(check, name: str, source: str) -> None:
    assert check(name, ast.parse(source)) == []
