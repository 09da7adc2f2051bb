"""What a user may get wrong, call by call and file by file: one of our errors, at once, and
nothing left behind."""

from __future__ import annotations

import json
import math
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

import xchunk
from xchunk.cli import main
from xchunk.core.units import parse_bytes
from xchunk.opening.formats import open_source

I, E, S, T, M = (  # noqa: E741
    xchunk.InvalidChunksError,
    xchunk.EncodingError,
    xchunk.SourceError,
    xchunk.TargetExistsError,
    xchunk.MemoryBudgetError,
)

#: name: arguments over a good call, the error.
CALLS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "no chunks at all": ({"what": None}, I),
    "a list of dims": ({"what": ["t"]}, I),
    "a string": ({"what": "t"}, I),
    "a number": ({"what": 5}, I),
    "unknown dim": ({"what": {"time": 1}}, I),
    "empty dim": ({"what": {"": 1}}, I),
    "a dim that is no string": ({"what": {3: 1}}, I),
    "unknown variable": ({"what": {"nope": {"t": 1}}}, I),
    "dim of another variable": ({"what": {"m": {"t": 1}}}, I),
    "zero": ({"what": {"t": 0}}, I),
    "minus two": ({"what": {"t": -2}}, I),
    "minus a lot": ({"what": {"t": -(2**70)}}, I),
    "true": ({"what": {"t": True}}, I),
    "half": ({"what": {"t": 0.5}}, I),
    "NaN": ({"what": {"t": math.nan}}, I),
    "infinity": ({"what": {"t": math.inf}}, I),
    "a word as length": ({"what": {"t": "all"}}, I),
    "none as length": ({"what": {"t": None}}, I),
    "lengths that do not add up": ({"what": {"t": (1, 1)}}, I),
    "lengths of zero": ({"what": {"t": (0, 0)}}, I),
    "uneven lengths": ({"what": {"t": (1, 5)}}, I),
    "bytes": ({"what": {"t": b"1"}}, I),
    "a nested mapping": ({"what": {"v": {"t": {"t": 1}}}}, I),
    "potatoes": ({"max_mem": "10 potatoes"}, I),
    "empty size": ({"max_mem": ""}, I),
    "negative size": ({"max_mem": -1}, I),
    "no size": ({"max_mem": 0}, I),
    "NaN size": ({"max_mem": math.nan}, I),
    "infinite size": ({"max_mem": math.inf}, I),
    "a size that is a list": ({"max_mem": [1]}, I),
    "a size that is true": ({"max_mem": True}, I),
    "negative memory": ({"memory": -1}, I),
    "memory in words": ({"memory": "lots"}, I),
    "memory of nothing": ({"memory": "1kB"}, M),
    "a byte": ({"max_mem": 1}, M),
    "format 1": ({"zarr_format": 1}, E),
    "format 4": ({"zarr_format": 4}, E),
    "format of text": ({"zarr_format": "3"}, E),
    "shards in format 2": ({"zarr_format": 2, "shards": {"t": -1}}, E),
    "shards that cut chunks": ({"what": {"t": 3}, "shards": {"t": 4}}, I),
    "shards of nothing": ({"shards": {"t": 0}}, I),
    "shards of an unknown dim": ({"shards": {"nope": 2}}, I),
    "shards of text": ({"shards": "t"}, I),
    "empty store": ({"store": ""}, S),
    "blank store": ({"store": "  "}, S),
    "a number as store": ({"store": 7}, S),
    "a list as store": ({"store": ["a.zarr"]}, S),
    "unknown protocol": ({"store": "gopher://x/y"}, S),
    "a store below a file": ({"store": "file.txt/out.zarr"}, S),
    "a file as store": ({"store": "file.txt"}, T),
    "a folder of letters": ({"store": "letters", "overwrite": True}, T),
    "the source": ({"store": "good.zarr", "overwrite": True}, T),
    "inside the source": ({"store": "good.zarr/v/out.zarr"}, T),
    "around the source": ({"store": ".", "overwrite": True}, T),
    "the source by another way": ({"store": "letters/../good.zarr", "overwrite": True}, T),
    "a link to the source": ({"store": "link", "overwrite": True}, T),
    "another store, not to be replaced": ({"store": "other.zarr"}, T),
    "a folder named .xchunk of the user's": ({"store": "theirs"}, T),
    "unknown access": ({"what": None, "access": "sideways"}, I),
    "access to an unknown dim": ({"what": None, "access": {"nope": -1}}, I),
    "access of a number": ({"what": None, "access": 3}, I),
    "access of NaN": ({"what": None, "access": {"t": math.nan}}, I),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    ds = xr.Dataset(
        {
            "v": (("t", "x"), np.arange(24.0).reshape(6, 4)),
            "m": (("x",), np.arange(4)),
        }
    )
    ds.to_zarr(tmp_path / "good.zarr", encoding={"v": {"chunks": (1, 4)}})
    ds[["m"]].to_zarr(tmp_path / "other.zarr")
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mother.txt").write_text("dear")
    (tmp_path / "theirs/.xchunk").mkdir(parents=True)
    (tmp_path / "theirs/.xchunk/precious").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "good.zarr")
    return tmp_path


def everything(place: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(place)): p.read_bytes() if p.is_file() else b""
        for p in sorted(place.rglob("*"))
    }


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call(place: Path, name: str) -> None:
    given_, error = CALLS[name]
    before = everything(place)
    call = {"what": {"t": -1}, "store": "out.zarr", "progress": False, **given_}
    with pytest.raises(error) as caught:
        xr.open_zarr(place / "good.zarr").chunking.apply(call.pop("what"), **call)
    assert isinstance(caught.value, xchunk.XchunkError)
    assert len(str(caught.value)) > 30
    assert everything(place) == before


def netcdf(path: Path) -> bytes:
    xr.Dataset({"v": ("x", np.arange(1000.0))}).to_netcdf(path, engine="netcdf4")
    return path.read_bytes()


def group(path: Path, **changes: Any) -> Path:
    """A zarr v3 store of one array, whose metadata are changed."""
    store = zarr.create_group(path)
    store.create_array("v", shape=(4,), chunks=(2,), dtype="i4", dimension_names=("x",))[:] = 1
    document = json.loads((path / "v/zarr.json").read_text())
    (path / "v/zarr.json").write_text(json.dumps({**document, **changes}))
    return path


def pickled(path: Path) -> Path:
    """A zarr v2 store of objects, as pickles."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (path.with_name("pwned"),))

    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / "v").mkdir()
    meta = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None,
        "order": "C", "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (path / "v/.zarray").write_text(json.dumps(meta))
    (path / "v/.zattrs").write_text('{"_ARRAY_DIMENSIONS": ["x"]}')
    (path / "v/0").write_bytes(pickle.dumps(np.array([Trap()], dtype=object)))
    return path


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "nothing there": lambda p: p / "nothing.nc",
    "an empty file": lambda p: write(p / "a.nc", b""),
    "one byte": lambda p: write(p / "a.nc", b"C"),
    "text": lambda p: write(p / "a.nc", b"time,value\n1,2\n"),
    "half a netCDF-4 file": lambda p: write(p / "b.nc", netcdf(p / "a.nc")[:3000]),
    "a netCDF-4 file's first 8 bytes": lambda p: write(p / "b.nc", netcdf(p / "a.nc")[:8]),
    "a netCDF-3 header only": lambda p: write(p / "a.nc", b"CDF\x01"),
    "a netCDF-3 header of nonsense": lambda p: write(p / "a.nc", b"CDF\x01" + b"\xff" * 100),
    "GRIB": lambda p: write(p / "a.grib", b"GRIB" + b"\0" * 100),
    "a zip that is cut off": lambda p: write(p / "a.zip", b"PK\x03\x04" + b"\0" * 10),
    "an empty folder": lambda p: p / "empty",
    "a group document that is no JSON": lambda p: write(p / "empty/zarr.json", b"{").parent,
    "a group document that is a list": lambda p: write(p / "empty/zarr.json", b"[]").parent,
    "an array instead of a group": lambda p: group(p / "a.zarr") / "v",
    "an unknown codec": lambda p: group(p / "a.zarr", codecs=[{"name": "quantum"}]),
    "an unknown data type": lambda p: group(p / "a.zarr", data_type="float7"),
    "a chunk grid of nonsense": lambda p: group(p / "a.zarr", chunk_grid={"name": "spiral"}),
    "a negative shape": lambda p: group(p / "a.zarr", shape=[-4]),
    "a shape of text": lambda p: group(p / "a.zarr", shape="four"),
    "chunks of zero": lambda p: group(
        p / "a.zarr", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0]}}
    ),
    "more dims than names": lambda p: group(p / "a.zarr", dimension_names=["x", "y"]),
    "a fill value of another type": lambda p: group(p / "a.zarr", fill_value="red"),
    "an unknown extension": lambda p: group(p / "a.zarr", must={"must_understand": True}),
    "a pickle": lambda p: pickled(p / "a.zarr"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_a_bad_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    path = FILES[name](tmp_path)
    before = everything(tmp_path)
    with pytest.raises(xchunk.XchunkError) as caught:
        open_source(path).chunking.apply({"x": -1}, store=tmp_path / "out.zarr", progress=False)
    assert len(str(caught.value)) > 30
    left = {k: v for k, v in everything(tmp_path).items() if not k.startswith("out.zarr")}
    assert left == before
    assert not (tmp_path / "out.zarr/zarr.json").exists()
    code = main.run(["plan", str(path), str(tmp_path / "out2.zarr"), "--chunks", "x=2"])
    # a plan looks at metadata only
    assert code in (3, 5, 6) or name in ("a pickle", "chunks of zero")


NAMES = ["a/b", "..", ".", "", "zarr.json", ".zarray", ".xchunk", ".zattrs", "a\\b", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_path(tmp_path: Path, name: str) -> None:
    ds = xr.Dataset({name: ("x", np.arange(3))})
    with pytest.raises(xchunk.EncodingError, match="name"):
        ds.chunking.apply({"x": 2}, store=tmp_path / "out.zarr", progress=False)
    with pytest.raises(xchunk.EncodingError, match="name"):
        ds.chunking.plan({"x": 1}, store=tmp_path / "out.zarr", shards={"x": 2})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["température", "a b", "数", "c", "0", "-", "🌡", "x" * 200])
def test_odd_names_are_fine(tmp_path: Path, name: str) -> None:
    ds = xr.Dataset({name: ("x", np.arange(3))})
    ds.chunking.apply({"x": 2}, store=tmp_path / "out.zarr", progress=False, verify=True)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "out.zarr").load(), ds)


def test_there_are_enough() -> None:
    assert len(CALLS) + len(FILES) + len(NAMES) >= 80


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = pickled(tmp_path / "a.zarr")
    with pytest.raises((xchunk.XchunkError, ValueError)):
        open_source(path).chunking.apply({"x": 1}, store=tmp_path / "o.zarr", progress=False)
    assert not (tmp_path / "pwned").exists()


@given(st.text() | st.integers() | st.floats() | st.none() | st.binary())
def test_sizes_are_read_or_refused(value: Any) -> None:
    try:
        size = parse_bytes(value, "max_mem")
    except xchunk.InvalidChunksError:
        return
    assert size > 0


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(JUNK | st.dictionaries(st.sampled_from(["t", "x", "v", "m", "?"]), JUNK))
def test_chunks_are_read_or_refused(what: Any) -> None:
    ds = xr.Dataset({"v": (("t", "x"), np.zeros((6, 4))), "m": ("x", np.zeros(4))})
    try:
        plan = ds.chunking.plan(what, store="memory-only.zarr", max_mem="1GB")
    except xchunk.XchunkError:
        return
    assert {a.name for a in plan.arrays} == {"v", "m"}


DOCUMENTED = [
    "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs",
    "attributes", "dimension_names", "zarr_format", "node_type", "storage_transformers",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@given(st.dictionaries(st.sampled_from(DOCUMENTED), JUNK, min_size=1, max_size=2))
def test_any_metadata_are_read_or_refused(changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = group(Path(folder) / "a.zarr", **changes)
        try:
            report = open_source(path).chunking.layout()
        except xchunk.XchunkError:
            return
        assert {layout.name for layout in report} <= {"v"}
