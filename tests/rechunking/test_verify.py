"""Verification: what is lost, torn, altered or merely empty is told apart and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.cli import main


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> xr.Dataset:
    values = rng.random((8, 12), dtype="f4")
    values[4:] = 0
    group = zarr.create_group(tmp_path / "source.zarr", attributes={"title": "both"})
    v = group.create_array(
        "v",
        shape=(8, 12),
        chunks=(1, 12),
        dtype="f4",
        fill_value=0.0,
        dimension_names=("y", "x"),
        attributes={"units": "K"},
    )
    v[:] = values
    n = group.create_array("n", shape=(8,), dtype="i8", dimension_names=("y",))
    n[:] = np.arange(8)
    zarr.consolidate_metadata(tmp_path / "source.zarr")
    return xr.open_zarr(tmp_path / "source.zarr")


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def target(request: pytest.FixtureRequest, source: xr.Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "target.zarr"
    source.chunking.apply({"y": 4, "x": 3}, store=path, zarr_format=request.param, progress=False)
    return path


def chunk(target: Path, *index: int) -> Path:
    v3 = target / "v/c" / "/".join(map(str, index))
    return v3 if v3.parent.exists() else target / "v" / ".".join(map(str, index))


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_good_store_is_proven(source: xr.Dataset, target: Path) -> None:
    proof = xchunk.verify(source, target)
    assert set(proof.variables) == {"v", "n"}
    assert proof.nbytes == 8 * 12 * 4 + 8 * 8
    assert "bit by bit" in str(proof)


def test_a_path_is_opened(source: xr.Dataset, target: Path, tmp_path: Path) -> None:
    assert xchunk.verify(tmp_path / "source.zarr", target).pieces > 0
    with pytest.raises(xchunk.SourceError, match="int"):
        xchunk.verify(7, target)  # type: ignore[arg-type]


def test_missing_but_empty_is_no_fault(source: xr.Dataset, target: Path) -> None:
    if (target / ".zgroup").exists():
        # a fill value in format 2 is one to xarray too, so that the source's is not handed on
        assert xchunk.verify(source, target)
        return
    # the rows from 4 on hold nothing but the fill, so that their chunks were never written
    assert not chunk(target, 1, 0).exists()
    assert xchunk.verify(source, target)


def test_a_lost_chunk_is_named(source: xr.Dataset, target: Path) -> None:
    chunk(target, 0, 2).unlink()
    with pytest.raises(xchunk.VerificationError) as caught:
        xchunk.verify(source, target)
    name = "v/c/0/2" if (target / "zarr.json").exists() else "v/0.2"
    assert f"[0:4, 6:9]: the storage key {name} is lost" in str(caught.value)
    assert str(caught.value).count("storage key") == 1


def test_a_torn_chunk_is_named(source: xr.Dataset, target: Path) -> None:
    path = chunk(target, 0, 1)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(xchunk.VerificationError, match=r"\[0:4, 3:6\].*is torn") as caught:
        xchunk.verify(source, target)
    assert str(caught.value).count("storage key") == 1


def test_an_altered_chunk_is_named(source: xr.Dataset, target: Path) -> None:
    array = zarr.open_group(target, mode="r+")["v"]
    array[2, 10] = -1
    with pytest.raises(xchunk.VerificationError, match=r"\[0:4, 9:12\].*is altered") as caught:
        xchunk.verify(source, target)
    assert str(caught.value).count("storage key") == 1


def test_a_chunk_where_there_should_be_none_is_altered(source: xr.Dataset, target: Path) -> None:
    zarr.open_group(target, mode="r+")["v"][7, 0] = 5
    with pytest.raises(xchunk.VerificationError, match=r"\[4:8, 0:3\].*is altered"):
        xchunk.verify(source, target)


def test_one_bit_is_enough(source: xr.Dataset, tmp_path: Path) -> None:
    plain = source.load().drop_encoding()
    for name in plain.variables:
        plain[name].encoding = {"compressors": ()}
    path = tmp_path / "plain.zarr"
    plain.chunking.apply({"y": 4, "x": 3}, store=path, progress=False)
    found = 0
    for bit in range(0, 8 * 4 * 3 * 4, 37):
        raw = bytearray(chunk(path, 0, 0).read_bytes())
        raw[bit // 8] ^= 1 << bit % 8
        chunk(path, 0, 0).write_bytes(raw)
        with pytest.raises(xchunk.VerificationError, match="altered"):
            xchunk.verify(plain, path)
        raw[bit // 8] ^= 1 << bit % 8
        chunk(path, 0, 0).write_bytes(raw)
        found += 1
    assert found == 11
    assert xchunk.verify(plain, path)


@pytest.mark.parametrize(
    ("where", "change", "said"),
    [
        ("v", lambda d: d["attributes"].update(units="C"), "v: attribute 'units' is 'K'"),
        ("v", lambda d: d["attributes"].pop("units"), "v: attribute 'units' is missing"),
        ("", lambda d: d["attributes"].update(title="one"), "root group: attribute 'title'"),
        ("v", lambda d: d.update(dimension_names=["a", "b"]), "v: dims"),
        ("v", lambda d: d["attributes"].update(coordinates="x n"), "v: .* n, a data variable in"),
        ("", lambda d: d["attributes"].update(coordinates="n"), "group: .* read as a coordinate"),
    ],
    ids=["attribute", "lost attribute", "root attribute", "dims", "coordinates", "all coordinates"],
)
def test_metadata_are_compared(
    source: xr.Dataset,
    tmp_path: Path,
    where: str,
    change: Callable[[dict], None],
    said: str,
) -> None:
    path = tmp_path / "target.zarr"
    source.chunking.apply({"y": 4, "x": 3}, store=path, zarr_format=3, progress=False)
    edit_json(path / where / "zarr.json", change)
    with pytest.raises(xchunk.VerificationError, match=said):
        xchunk.verify(source, path)


def test_a_variable_that_is_not_there(source: xr.Dataset, target: Path) -> None:
    more = source.assign(extra=source.n)
    with pytest.raises(xchunk.VerificationError, match="extra: is not in the target"):
        xchunk.verify(more, target)


def test_another_shape(source: xr.Dataset, target: Path) -> None:
    with pytest.raises(xchunk.VerificationError, match="shape"):
        xchunk.verify(source.isel(x=slice(0, 6)), target)


def test_a_target_that_is_not_there(source: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(xchunk.SourceError, match="there is nothing here"):
        xchunk.verify(source, tmp_path / "nothing.zarr")
    assert not (tmp_path / "nothing.zarr").exists()


def test_a_computed_source_is_compared(source: xr.Dataset, tmp_path: Path) -> None:
    ds = source.drop_encoding()
    ds["v"] = ds.v * 2
    ds.chunking.apply({"y": 4, "x": 3}, store=tmp_path / "c.zarr", progress=False)
    assert xchunk.verify(ds, tmp_path / "c.zarr")
    chunk(tmp_path / "c.zarr", 0, 3).unlink()
    with pytest.raises(xchunk.VerificationError, match="lost"):
        xchunk.verify(ds, tmp_path / "c.zarr")


def test_the_command(
    source: xr.Dataset, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["verify", str(tmp_path / "source.zarr"), str(target)]
    assert main.run(args) == 0
    assert "bit by bit" in capsys.readouterr().out
    assert main.run([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variables"]
    chunk(target, 0, 2).unlink()
    assert main.run(args) == 9
    assert "lost" in capsys.readouterr().err


def test_a_source_that_cannot_be_computed_is_not_called_a_rechunk(
    source: xr.Dataset, target: Path
) -> None:
    def fail(block: Any) -> Any:
        raise RuntimeError("there are no values.")

    failing = source.assign(v=source.v.copy(data=source.v.data.map_blocks(fail, dtype="f4")))
    with pytest.raises(xchunk.XchunkError) as caught:
        failing.chunking.verify(target)
    said = "the comparison stopped: RuntimeError: there are no values. What was compared so far is"
    assert str(caught.value).startswith(said)
    assert "committed" not in str(caught.value)


@pytest.mark.parametrize("dtype", [object, np.dtypes.StringDType(), "U3"], ids=str)
def test_a_text_without_dims_is_compared(tmp_path: Path, dtype: Any) -> None:
    xr.Dataset({"a": ((), np.array("x", dtype=dtype))}).to_zarr(tmp_path / "s.zarr")
    ds = xr.open_zarr(tmp_path / "s.zarr")
    out = ds.chunking.apply({}, store=tmp_path / "t.zarr", progress=False, verify=True)
    assert out.a.item() == "x"


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_a_torn_chunk_of_any_variable_is_named(tmp_path: Path, name: str) -> None:
    values = np.arange(40.0).reshape(8, 5)
    ds = xr.Dataset(dict.fromkeys("abcd", (("t", "x"), values)))
    ds.chunking.apply({"t": 4}, store=tmp_path / "s.zarr", progress=False)
    torn = next(p for p in (tmp_path / "s.zarr" / name).rglob("*") if p.name.isdecimal())
    torn = next(p for p in torn.parents[0].rglob("*") if p.is_file() and p.name.isdecimal())
    torn.write_bytes(torn.read_bytes()[:-3])
    with pytest.raises(xchunk.VerificationError, match=rf"{name}: .*torn"):
        ds.chunking.verify(tmp_path / "s.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_only_the_target_holds_is_noted(tmp_path: Path, zarr_format: int) -> None:
    times = np.arange(4).astype("datetime64[D]").astype("datetime64[ns]")
    ds = xr.Dataset(
        {"v": (("time", "x"), np.arange(12.0).reshape(4, 3)), "text": ("x", ["a", "bb", "c"])},
        {"time": times, "area": ("x", np.ones(3))},
    )
    store = tmp_path / "out.zarr"
    ds.chunking.apply({"time": -1}, store=store, zarr_format=zarr_format, progress=False)
    # what we write ourselves is no news
    assert ds.chunking.verify(store).notes == ()
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    group.attrs["history"] = "touched"
    group["v"].attrs["unit_of_old"] = "K"
    for name in ("b", "c", "d", "e"):
        group.create_array(name, shape=(2,), dtype="i4")
    proof = ds.chunking.verify(store)
    said = "\n".join(proof.notes)
    assert "the root group holds attributes that the source has not: 'history'" in said
    assert "the root group holds arrays that the source has not: 'b', 'c', 'd' and 1 more" in said
    assert "v holds attributes that the source has not: 'unit_of_old'" in said
    assert len(proof.notes) == 3
    assert "'history'" in str(proof)
    assert "'history'" in repr(proof)
    assert proof.to_dict()["notes"] == list(proof.notes)
