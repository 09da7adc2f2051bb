"""JSON of the command line: every document and event is what docs/reference/json.md says.

The tables of that page are read, and real documents are compared with them in both directions:
a key that is not documented fails as well as one that is documented and not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import main
from xchunk.cli.output import SCHEMAS, Output, jsonable

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
HEAD = {"schema", "schema_version", "xchunk", "warnings"}
EVENT_HEAD = {"schema", "schema_version", "time", "event", "command"}

Table = dict[str, str]
Call = Callable[..., tuple[int, Any, list[Any]]]


def tables() -> dict[str, Table]:
    """The types by key of each table, by the heading above it."""
    out: dict[str, Table] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif found := re.match(r"\| `(\w+)` \| ([^|]+) \| (.*) \|$", line):
            key, kind, said = found.groups()
            only = " or missing" if said.startswith("only of") else ""
            out.setdefault(heading, {})[key] = kind.strip() + only
    return out


TABLES = tables()


def faults(value: Any, kind: str, where: str) -> Iterator[str]:
    """What is not as a type says."""
    kinds = kind.split(" or ")
    if all(any(True for _ in _one(value, k, where)) for k in kinds):
        yield from _one(value, kinds[0], where)


def _one(value: Any, kind: str, where: str) -> Iterator[str]:
    plain: dict[str, tuple[type, ...]] = {
        "str": (str,), "int": (int,), "number": (int, float), "bool": (bool,), "null": (type(None),)
    }  # fmt: skip
    if kind in plain:
        good = isinstance(value, plain[kind]) and (kind == "bool" or not isinstance(value, bool))
        if not good:
            yield f"{where}: {value!r} is no {kind}"
    elif kind == "Lengths":
        if not isinstance(value, int):
            yield from _one(value, "list of int", where)
    elif kind.startswith("list of "):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for i, item in enumerate(value):
            yield from faults(item, kind.removeprefix("list of "), f"{where}[{i}]")
    elif kind.startswith("map of "):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no map"
            return
        for key, item in value.items():
            yield from faults(item, kind.removeprefix("map of "), f"{where}.{key}")
    else:
        yield from table_faults(value, TABLES[kind], where)


def table_faults(
    value: Any, table: Table, where: str, head: set[str] = frozenset()
) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no object"
        return
    needed = {k for k, kind in table.items() if not kind.endswith(" or missing")}
    if missing := (needed | head) - value.keys():
        yield f"{where}: {sorted(missing)} are not there"
    if unknown := value.keys() - table.keys() - head:
        yield f"{where}: {sorted(unknown)} are not documented"
    for key in value.keys() & table.keys():
        yield from faults(value[key], table[key].removesuffix(" or missing"), f"{where}.{key}")


def document_faults(document: dict[str, Any]) -> list[str]:
    name = document["schema"].removeprefix("xchunk.")
    assert document["schema_version"] == SCHEMAS[name]
    assert isinstance(document["xchunk"], str)
    assert all(isinstance(w, str) for w in document["warnings"])
    assert list(document)[:4] == ["schema", "schema_version", "xchunk", "warnings"]
    return list(table_faults(document, TABLES[name], name, HEAD))


def event_faults(event: dict[str, Any]) -> list[str]:
    assert event["schema"] == "xchunk.log"
    assert event["schema_version"] == SCHEMAS["log"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
    name = f"event {event['event']}"
    return list(table_faults(event, TABLES[name], name, EVENT_HEAD))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command; return its exit code, its document, and its events or lines."""

    def run(*args: object) -> tuple[int, Any, list[Any]]:
        code = main.run([str(a) for a in args])
        out, err = capsys.readouterr()
        lines: list[Any] = err.splitlines()
        if "--log-json" in args:
            lines = [json.loads(line) for line in lines]
        return code, json.loads(out) if out else None, lines

    return run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed zarr store, a tree of groups, and a store that a rechunk made of the first."""
    folder = tmp_path_factory.mktemp("json")
    values = np.random.default_rng(7).integers(0, 999, (600, 20, 30)) / 10
    ds = xr.Dataset(
        {"t": (("time", "lat", "lon"), values), "n": ((), 3)},
        {"time": ("time", np.arange(600), {"units": "days since 2000-01-01"})},
    )
    packed = {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -1, "chunks": (1, 20, 30)}
    ds.to_zarr(folder / "maps.zarr", encoding={"t": packed})
    tree = xr.DataTree.from_dict({"/": ds[["n"]], "/fine": ds[["t"]]})
    tree.to_zarr(folder / "tree.zarr")
    ds.t.isel(time=0).to_dataset().to_netcdf(folder / "one.nc", engine="netcdf4")
    given = ("--chunks", "time=-1,lat=5,lon=5", "--shards", "time=600,lat=20,lon=30", "-q")
    assert main.run(["rechunk", f"{folder}/maps.zarr", f"{folder}/series.zarr", *given]) == 0
    return folder


@pytest.fixture
def in_inputs(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)


USE = ("--access", "timeseries:0.7", "--access", "map:0.3", "--max-mem", "100MB")
CHUNKS = ("--chunks", "time=-1,lat=5,lon=5", "--max-mem", "20MB")


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("inspect", "maps.zarr"), id="inspect a packed zarr"),
        pytest.param(("inspect", "series.zarr"), id="inspect shards"),
        pytest.param(("inspect", "tree.zarr"), id="inspect groups"),
        pytest.param(("inspect", "one.nc"), id="inspect a netCDF file"),
        pytest.param(("suggest", "maps.zarr", *USE), id="suggest"),
        pytest.param(
            ("suggest", "maps.zarr", "--access", "timeseries", "--max-mem", "900kB"),
            id="suggest where it is tight",
        ),
        pytest.param(("plan", "maps.zarr", "new.zarr", *CHUNKS), id="plan"),
        pytest.param(("plan", "tree.zarr", "new.zarr", *CHUNKS), id="plan groups"),
        pytest.param(("rechunk", "maps.zarr", "new.zarr", *CHUNKS, "--dry-run"), id="dry run"),
        pytest.param(("verify", "maps.zarr", "series.zarr"), id="verify"),
        pytest.param(("check", "maps.zarr"), id="check"),
        pytest.param(("probe", "maps.zarr", "--max-bytes", "1MB"), id="probe"),
        pytest.param(("clean", "series.zarr"), id="clean"),
        pytest.param(("config",), id="config"),
    ],
)
def test_documents(call: Call, in_inputs: None, args: tuple[str, ...]) -> None:
    code, document, err = call(*args, "--json", "--quiet")
    assert (code, err) == (0, [])
    assert document_faults(document) == []
    name = "plan" if "--dry-run" in args else args[0]
    assert document["schema"] == f"xchunk.{name}"
    assert not Path("new.zarr").exists()


@pytest.mark.parametrize("verify", [True, False])
def test_the_document_and_the_events_of_a_rechunk(call: Call, inputs: Path, verify: bool) -> None:
    given = ("rechunk", inputs / "maps.zarr", "new.zarr", *CHUNKS, "--json", "--log-json")
    code, document, events = call(*given, *(["--verify"] if verify else []))
    assert code == 0
    assert document_faults(document) == []
    assert document["schema"] == "xchunk.rechunk"
    assert document["verified"] is (True if verify else None)
    assert [event_faults(e) for e in events] == [[] for _ in events]
    names = [e["event"] for e in events]
    assert names[:2] == ["start", "plan"]
    assert names[-1] == "done"
    assert set(names[2:-1]) <= {"progress", "stage"}
    assert events[0]["source"] == [str(inputs / "maps.zarr")]
    assert events[0]["target"] == "new.zarr"
    assert {e["command"] for e in events} == {"rechunk"}
    over = {(e["variable"], e["stage"]) for e in events if e["event"] == "stage"}
    planned = {(a["name"], s["kind"]) for a in document["arrays"] for s in a["stages"]}
    read_back = {(a["name"], f"verify-{s}") for a in document["arrays"] for s in SIDES}
    assert over == planned | (read_back if verify else set())
    boxes = sum(e["total"] for e in events if e["event"] == "stage" and "ver" not in e["stage"])
    assert boxes == events[1]["boxes"]
    assert all(e["done"] == e["total"] for e in events if e["event"] == "stage")


SIDES = ("source", "target")


@pytest.mark.slow
def test_the_document_of_the_demo(call: Call) -> None:
    code, document, _ = call("demo", "--json", "--quiet")
    assert code == 0
    assert document_faults(document) == []
    assert document["rechunk"]["grown"] <= document["max_mem"]
    assert document["before"]["chunks"] > document["after"]["chunks"]


@pytest.mark.parametrize(
    ("args", "kind", "code"),
    [
        (("inspect", "nope.nc"), "SourceError", 6),
        (("inspect",), "UsageError", 2),
        (("inspect", "nope.nc", "--rain"), "UsageError", 2),
        (("plan", "maps.zarr", "o.zarr"), "UsageError", 2),
        (("plan", "maps.zarr", "o.zarr", "--chunks", "level=3"), "InvalidChunksError", 3),
        (("plan", "maps.zarr", "o.zarr", *CHUNKS[:2], "--max-mem", "1kB"), "MemoryBudgetError", 4),
        (("rechunk", "maps.zarr", "series.zarr", *CHUNKS), "TargetExistsError", 7),
        (("verify", "tree.zarr", "series.zarr"), "VerificationError", 9),
        (("plan", "maps.zarr", "o.zarr", *CHUNKS, "--scheduler", "rain"), "UsageError", 2),
        (("nonsense",), "UsageError", 2),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors_are_documents_and_events(
    call: Call, in_inputs: None, args: tuple[str, ...], kind: str, code: int
) -> None:
    found, document, lines = call(*args, "--json")
    assert found == code
    assert document_faults(document) == []
    assert document["schema"] == "xchunk.error"
    assert document["error"]["type"] == kind
    assert document["error"]["exit_code"] == code
    assert document["command"] in (args[0], "")
    assert ("needed" in document["error"]) == (kind == "MemoryBudgetError")
    assert lines[0].startswith("xchunk: error: ")
    found, document, events = call(*args, "--log-json")
    assert (found, document) == (code, None)
    assert [event_faults(e) for e in events] == [[] for _ in events]
    assert events[-1]["event"] == "error"
    assert events[-1]["type"] == kind
    assert events[-1]["message"]


def test_notes_are_in_the_document_and_events(call: Call) -> None:
    odd = xr.Dataset(coords={"time": ("time", [0, 1], {"units": "months since 0000-01-01"})})
    odd["a"] = ("time", [1.0, 2.0])
    odd.to_netcdf("odd.nc", engine="netcdf4")
    code, document, lines = call("inspect", "odd.nc", "--json")
    assert code == 0
    assert len(document["warnings"]) == len(lines) == 1
    assert "times are shown" in document["warnings"][0]
    _, document, events = call("inspect", "odd.nc", "--json", "--log-json")
    assert [e["event"] for e in events] == ["start", "warning", "done"]
    assert event_faults(events[1]) == []
    assert events[1]["kind"] == "note"
    _, document, lines = call("inspect", "odd.nc", "--json", "--quiet")
    assert lines == []
    assert document["warnings"]


def test_every_schema_has_a_table_and_every_type_too() -> None:
    assert set(SCHEMAS) - {"log"} <= set(TABLES)
    for name, table in TABLES.items():
        for kind in table.values():
            for used in re.findall(r"\b[A-Z]\w+", kind):
                assert used == "Lengths" or used in TABLES, f"{name}: {used} has no table"


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (3, "str", "is no str"),
        (True, "int", "is no int"),
        (None, "int", "is no int"),
        ([1, "a"], "list of int", r"\[1\]"),
        ({"a": 1.5}, "map of int", r"\.a"),
        ({"scale_factor": 1.0, "add_offset": 0.0}, "Packing", "dtype.* not there"),
        ({"chunks": [1], "shards": None, "compressor": "lz4", "x": 1}, "Scratch", "x.* not doc"),
    ],
)
def test_the_comparison_catches(value: Any, kind: str, said: str) -> None:
    (found,) = faults(value, kind, "here")
    assert re.search(said, found)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (float("inf"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        ((1, [2.0, float("nan")]), [1, [2.0, None]]),
        ({1: Path("a")}, {"1": "a"}),
        (np.datetime64("2000-01-01"), "2000-01-01"),
    ],
)
def test_what_json_cannot_say(value: Any, found: Any) -> None:
    assert jsonable(value) == found


def test_options_after_two_dashes_are_names() -> None:
    assert Output(["inspect", "--json"]).as_json
    assert not Output(["inspect", "--", "--json"]).as_json
