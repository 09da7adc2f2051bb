"""Measure the package: lines, modules, entries at the top, modules with one importer.

python docs/maintainers/measure.py
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"
TOP = SRC / "xchunk"
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER, tokenize.ENCODING,
}  # fmt: skip


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def code_lines(text: str) -> int:
    """Lines with code: neither blank, nor comment, nor docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


paths = {name_of(path): path for path in sorted(TOP.rglob("*.py"))}
texts = {name: path.read_text() for name, path in paths.items()}
importers: dict[str, set[str]] = defaultdict(set)
for name, text in texts.items():
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                importers[full if full in paths else node.module].add(name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importers[alias.name].add(name)

#: What the modules own that one other module imports: they are concepts, and stay.
CONCEPTS = {
    "accessor": "ds.chunking",
    "batching.item": "one item of a batch, and the process that runs it",
    "batching.state": "what a batch remembers from run to run",
    "cli.cluster": "the cluster of a command",
    "cli.demo": "the demo",
    "core.plan.planner": "the search for the cheapest plan",
    "core.reports.remedies": "chunks that a finding recommends",
    "diagnose.check": "checking data before anything runs",
    "diagnose.probe": "measuring a store",
    "display.advice": "how a suggestion looks",
    "display.observed": "how an observation looks",
    "display.plot": "plots",
    "opening.chunkmanager": "xarray's chunk manager",
    "opening.combine": "joining files",
    "rechunking.append": "appending and writing regions",
    "rechunking.compat.interface": "rechunker's interface",
    "rechunking.compat.sources": "rechunker's sources",
    "rechunking.transactions": "sessions of icechunk",
    "simulate.workload": "the study of a workload",
    "sources.grib": "the reader of GRIB",
    "sources.hdf5_codecs": "filters of HDF5",
    "sources.hdf5_file": "the structures of an HDF5 file",
    "sources.raster": "the reader of rasters",
    "stores.parts": "putting a part of a store in the place of the whole",
    "targets.append.labels": "labels of what is appended",
}

modules = [name for name, path in paths.items() if path.name != "__init__.py"]
entries = [p.name for p in TOP.iterdir() if not p.name.startswith(("_", "."))]
lonely = sorted(name for name in modules if len(importers[name]) == 1)
print(f"lines:          {sum(len(text.splitlines()) for text in texts.values()):,}")
print(f"lines of code:  {sum(map(code_lines, texts.values())):,}")
print(f"modules:        {len(modules)}")
print(f"longest:        {max((len(t.splitlines()), n) for n, t in texts.items())}")
print(f"at the top:     {len(entries)}")
print(f"one importer:   {len(lonely)}")
owning_none = [name for name in lonely if name.removeprefix("xchunk.") not in CONCEPTS]
print(f"and no concept: {len(owning_none)}", *owning_none, sep="\n  ")
