"""Whatever is typed, stored or left behind is understood or refused, and never run."""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore

import xchunk
from xchunk.cli.values import access_of, pairs, sizes_of, spec_of
from xchunk.opening.formats import open_source
from xchunk.stores.adapter import put_key
from xchunk.targets import ownership as leases
from xchunk.targets.journal import Header, Journal, committed_digest, digest_of
from xchunk.targets.location import state_of
from xchunk.targets.scratch import PREFIX, Workspace

SRC = Path(__file__).parents[2] / "src"

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
TYPED = st.text(max_size=8) | st.from_regex(
    r"[a-z]{0,2}:?[a-z]{0,2}=?[-+]?[0-9²٣e.]{0,4},?", fullmatch=True
)
FACTS = {"source": {}, "plan": {"stages": [{}]}, "target": {}}
WHOLE = Header({"v": FACTS}, ("zarr.json",), "d" * 64, {"max_mem": 5})


@settings(max_examples=150)
@given(st.lists(TYPED, max_size=3))
def test_what_is_typed_as_chunks(items: list[str]) -> None:
    try:
        found = spec_of(items, "--chunks")
    except (xchunk.InvalidChunksError, click.UsageError) as error:
        assert "--chunks" in str(error)
        return
    for value in (found or {}).values():
        for n in value.values() if isinstance(value, dict) else [value]:
            assert n == -1 or n > 0


@settings(max_examples=100)
@given(st.lists(TYPED, max_size=3), st.lists(TYPED, max_size=2), TYPED)
def test_what_is_typed_as_use_and_size(use: list[str], whole: list[str], size: str) -> None:
    for task in (
        lambda: access_of(use, whole),
        lambda: sizes_of(size, None),
        lambda: pairs(use),
    ):
        try:
            task()
        except (xchunk.XchunkError, click.UsageError) as error:
            assert len(str(error)) > 10


@settings(max_examples=100)
@given(JUNK | st.binary(max_size=30), st.sampled_from(["", "body", "digest"]))
def test_a_journal_of_anything(junk: Any, part: str) -> None:
    store = MemoryStore()
    journal = Journal(store)
    Workspace(store).create()
    journal.write(WHOLE, version="1")
    key = f"{PREFIX}/journal/header.json"
    raw = junk if isinstance(junk, bytes) else json.dumps(junk).encode()
    if part and not isinstance(junk, bytes):
        document = json.loads(store._store_dict[key].to_bytes())
        document[part] = junk
        if part == "body":
            try:
                document["digest"] = digest_of(junk)
            except ValueError:  # NaN has no place in what we digest
                return
        raw = json.dumps(document).encode()
    put_key(store, key, raw)
    with pytest.raises(xchunk.ResumeMismatchError, match=r"resume=False"):
        journal.read()
    assert committed_digest(store) is None
    assert state_of(store) == "unfinished"


@settings(max_examples=100)
@given(JUNK | st.binary(max_size=30), st.booleans())
def test_a_confirmation_of_anything(junk: Any, digested: bool) -> None:
    store = MemoryStore()
    journal = Journal(store)
    header = Header(WHOLE.arrays, WHOLE.groups, WHOLE.documents, {}, "an earlier boot")
    journal.marks(FACTS, 0).put(3)
    raw = junk if isinstance(junk, bytes) else json.dumps(junk).encode()
    if digested and not isinstance(junk, bytes):
        try:
            raw = json.dumps({"digest": digest_of(junk), "body": junk}).encode()
        except ValueError:
            return
    put_key(store, f"{PREFIX}/journal/confirmed.json", raw)
    assert journal.finished(header, FACTS) == (frozenset(),)
    journal.confirm()
    assert journal.finished(header, FACTS) == (frozenset({3}),)


@settings(max_examples=100)
@given(JUNK | st.binary(max_size=30), st.booleans())
def test_a_marker_or_a_lease_of_anything(junk: Any, known: bool) -> None:
    store = MemoryStore()
    if known and isinstance(junk, dict):
        junk = {"made_by": "xchunk", "place": junk, "pid": junk, "started": 1, "time": "x", **junk}
    raw = junk if isinstance(junk, bytes) else json.dumps(junk).encode()
    put_key(store, f"{PREFIX}/marker.json", raw)
    marker = Workspace(store).read_marker()
    assert marker is None or marker["made_by"] == "xchunk"
    put_key(store, f"{PREFIX}/lease/a.json", raw)
    if leases._parse(raw) is None:
        assert leases.holder_of(store) is None
    state_of(store)
    committed_digest(store)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(
            ["shape", "chunks", "dtype", "fill_value", "order", "compressor", "filters",
             "dimension_separator", "zarr_format"]
        ),
        JUNK,
        max_size=2,
    ),
    st.dictionaries(
        st.sampled_from(
            ["_ARRAY_DIMENSIONS", "scale_factor", "add_offset", "_FillValue", "units", "calendar",
             "coordinates", "missing_value", "_Unsigned", "grid_mapping", "bounds"]
        ),
        JUNK,
        max_size=2,
    ),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_metadata_of_format_2_of_anything(changes: dict[str, Any], attrs: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zarr"
        xr.Dataset({"v": ("x", [1, 2, 3])}).to_zarr(path, zarr_format=2, consolidated=False)
        for name, more in ((".zarray", changes), (".zattrs", attrs)):
            document = json.loads((path / "v" / name).read_text())
            (path / "v" / name).write_text(json.dumps(document | more))
        _look_at(path)


@settings(max_examples=25)
@given(JUNK, st.sampled_from(["consolidated_metadata", "attributes", "metadata", "v"]))
@pytest.mark.filterwarnings("ignore")
def test_consolidated_metadata_of_anything(junk: Any, part: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zarr"
        xr.Dataset({"v": ("x", [1, 2, 3])}, attrs={"title": "t"}).to_zarr(path)
        document = json.loads((path / "zarr.json").read_text())
        if part == "metadata":
            document["consolidated_metadata"]["metadata"] = junk
        elif part == "v":
            document["consolidated_metadata"]["metadata"]["v"] = junk
        else:
            document[part] = junk
        (path / "zarr.json").write_text(json.dumps(document))
        _look_at(path)


def _look_at(path: Path) -> None:
    """Look at a store and plan with it: both work, or say what is wrong."""
    try:
        ds = open_source(path)
        report = ds.chunking.layout()
        ds.chunking.plan({}, store=path.with_name("out.zarr"), max_mem="100MB")
    except xchunk.XchunkError as error:
        assert len(str(error)) > 20
    else:
        assert {layout.name for layout in report} <= {"v"}
    assert not path.with_name("out.zarr").exists()


@pytest.mark.parametrize(
    "attrs",
    [
        {"a": "__import__('os').system('touch pwned')"},
        {"units": "{0.__class__}", "title": "${HOME}", "x": "!!python/object:os.system"},
        {"deep": [[[[[[{}]]]]]]},
        {"": "", "\x00": "\x00", "../../x": 1},
        {"n": 10**400, "i": "NaN", "f": 1e308},
    ],
    ids=["code", "templates", "deep", "names", "numbers"],
)  # fmt: skip
def test_hostile_attributes_are_text(attrs: dict[str, Any], tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "s.zarr", attributes=attrs)
    group.create_array(
        "v", shape=(4,), chunks=(2,), dtype="i4", dimension_names=("x",), attributes=attrs
    )[:] = 1
    ds = xr.open_zarr(tmp_path / "s.zarr", consolidated=False, decode_cf=False)
    try:
        ds.chunking.apply({"x": 4}, store=tmp_path / "o.zarr", progress=False, verify=True)
    except xchunk.XchunkError:
        assert not (tmp_path / "o.zarr/zarr.json").exists()
    else:
        assert dict(zarr.open_group(tmp_path / "o.zarr").attrs) == attrs
    assert {p.name for p in tmp_path.iterdir()} <= {"s.zarr", "o.zarr"}
    assert LocalStore(tmp_path) is not None


#: What would run what data say.
FORBIDDEN = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "joblib"}
#: A session of icechunk goes to workers as it pickles itself; it is never read from a store.
#: A batch and the child that it started itself talk through a pipe.
#: A joined reference travels to workers compressed; dask unpickles it in any case.
#: A store is pickled, and never unpickled, to see whether it can be sent to workers.
OWN = {"icechunk": {"pickle"}, "item": {"pickle"}, "refs": {"pickle"}, "graph": {"pickle"}}
CALLS = {"eval", "exec", "compile", "__import__"}


def test_no_module_unpickles_or_evaluates() -> None:
    for path in sorted(SRC.rglob("*.py")):
        faults = list(_faults(ast.parse(path.read_text()), path.stem))
        assert faults == [], path


def _faults(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {a.name.split(".")[0] for a in node.names} & (
                FORBIDDEN - OWN.get(module, set())
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module.split(".")[0]} & FORBIDDEN
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from {node.func.id} & CALLS
        elif (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and getattr(node.value, "value", None) is not False
        ):
            yield "allow_pickle"
