"""The engine ``xchunk`` shows of a zarr store what xarray's shows, and reads chunk by chunk."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec

import xchunk
from xchunk.errors import SourceError
from xchunk.sources.xarray_adapter import StoreArray
from xchunk.stores.chunk_files import ChunkFiles
from xchunk.stores.shard_files import ShardFiles

SHAPE = (7, 5, 6)
DIMS = ("t", "y", "x")
CHUNKS = (2, 3, 4)
INDEX = [BytesCodec(), Crc32cCodec()]
#: How arrays of format 3 are stored, and whether they are read without zarr.
THIRD: dict[str, tuple[Any, Mapping[str, Any], bool]] = {
    "plain": ("f4", {"compressors": None}, True),
    "zstd": ("f8", {}, True),
    "summed": ("i2", {"compressors": [ZstdCodec(), Crc32cCodec()]}, True),
    "sharded": ("f4", {"shards": (4, 6, 8)}, True),
    "index-first": (
        "f4",
        {
            "chunks": (4, 6, 8),
            "compressors": None,
            "serializer": ShardingCodec(
                chunk_shape=CHUNKS, index_location="start", index_codecs=INDEX
            ),
        },
        True,
    ),
    "turned": ("f4", {"filters": [TransposeCodec(order=(2, 0, 1))]}, False),
    "words": (str, {}, False),
    "dated": ("M8[s]", {}, True),
}
SECOND: dict[str, tuple[Any, Mapping[str, Any], bool]] = {
    "zstd": ("f4", {}, True),
    "big-endian": (">f4", {}, False),
    "turned": ("f4", {"order": "F"}, False),
    "letters": ("S3", {"compressors": None}, False),
}


def values_of(dtype: Any, seed: int) -> np.ndarray[Any, Any]:
    numbers = np.random.default_rng(seed).integers(0, 100, SHAPE)
    if dtype is str:
        return np.array([f"w{n}" for n in numbers.flat], dtype=object).reshape(SHAPE)
    return numbers.astype(dtype)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Stores of both formats, with each kind of storage in their roots and in a group."""
    names = {}
    for number, arrays in ((2, SECOND), (3, THIRD)):
        names[number] = str(tmp_path_factory.mktemp("backend") / f"a{number}.zarr")
        root = zarr.create_group(names[number], zarr_format=number)  # type: ignore[arg-type]
        for group in (root, root.create_group("deep")):
            fill(group, arrays, number)
        consolidate(names[number])
    return names


def consolidate(name: str | Path) -> None:
    with warnings.catch_warnings():
        # zarr says that format 3 does not know of this
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(name)


def fill(group: zarr.Group, arrays: Mapping[str, Any], number: int) -> None:
    def create(name: str, shape: Any, dims: Any, **how: Any) -> zarr.Array[Any]:
        if number == 3:
            return group.create_array(name, shape=shape, dimension_names=dims, **how)
        return group.create_array(
            name, shape=shape, attributes={"_ARRAY_DIMENSIONS": list(dims)}, **how
        )

    for i, (name, (dtype, how, _)) in enumerate(arrays.items()):
        array = create(name, SHAPE, DIMS, dtype=dtype, **{"chunks": CHUNKS, **how})
        array[...] = values_of(dtype, i)
    # a chunk that was never written, and packed values some of which are missing
    holes = create("holes", SHAPE, DIMS, dtype="f4", chunks=CHUNKS, fill_value=np.nan)
    holes[:2] = 1.5
    packed = create("packed", SHAPE, DIMS, dtype="i2", chunks=CHUNKS, fill_value=-9)
    packed[...] = values_of("i2", 9)
    packed[1, 1] = -9
    packed.attrs.update({"scale_factor": 0.5, "add_offset": 10.0})
    create("scalar", (), (), dtype="f8", fill_value=4.5)
    create("empty", (0, 6), ("none", "x"), dtype="f4", chunks=(1, 6))


def equal(a: Any, b: Any) -> bool:
    """Two arrays have the same bits."""
    a, b = np.asarray(a), np.asarray(b)
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def innermost(variable: xr.Variable) -> Any:
    array: Any = variable._data
    while type(array) is not StoreArray and hasattr(array, "array"):
        array = array.array
    return array


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    """Two Datasets are alike in all that they show and say."""
    assert a.encoding == b.encoding
    assert list(a.variables) == list(b.variables)
    for name, one in a.variables.items():
        assert one.dtype == b.variables[name].dtype
        assert str(one.encoding) == str(b.variables[name].encoding)
        assert str(one.chunks) == str(b.variables[name].chunks)
    xr.testing.assert_identical(a.load(), b.load())


HOW: dict[str, dict[str, Any]] = {
    "decoded": {},
    "raw": {"decode_cf": False},
    "blocks": {"chunks": {}},
    "uncached": {"cache": False},
    "group": {"group": "deep"},
    "dropped": {"drop_variables": ["holes"]},
}


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_it_shows_what_zarr_shows(path: dict[int, str], number: int, how: dict[str, Any]) -> None:
    with (
        xr.open_dataset(path[number], engine="zarr", **how) as a,
        xr.open_dataset(path[number], engine="xchunk", **how) as b,
    ):
        same(a, b)


@pytest.mark.parametrize("number", [2, 3])
def test_what_is_stored_plainly_is_read_without_zarr(path: dict[int, str], number: int) -> None:
    ds = xr.open_dataset(path[number], engine="xchunk")
    ours = {n for n in ds.variables if type(innermost(ds[n].variable)) is StoreArray}
    plain = {name for name, (_, _, own) in {2: SECOND, 3: THIRD}[number].items() if own}
    assert ours == {*plain, "holes", "packed", "empty"}


@pytest.mark.parametrize("kind", ["basic", "outer", "points"])
@pytest.mark.parametrize("name", [*THIRD, "holes", "packed"])
def test_any_index_gives_what_numpy_gives(path: dict[int, str], name: str, kind: str) -> None:
    rng = np.random.default_rng(len(name))
    with (
        xr.open_dataset(path[3], engine="zarr") as theirs,
        xr.open_dataset(path[3], engine="xchunk", cache=False) as ds,
    ):
        whole = theirs[name].variable.load()
        for _ in range(40):
            key = index(rng, kind)
            found, wanted = ds[name].variable[key], whole[key]
            assert found.dims == wanted.dims
            np.testing.assert_array_equal(found.values, wanted.values, err_msg=str(key))


def index(rng: np.random.Generator, kind: str) -> Any:
    if kind == "points":
        return tuple(xr.Variable("p", rng.integers(-n, n, 4)) for n in SHAPE)
    out: list[Any] = []
    for n in SHAPE:
        start, step = int(rng.integers(0, n)), int(rng.choice([-2, -1, 1, 1, 3]))
        stop = None if step < 0 else int(rng.integers(start, n + 1))
        choices: list[Any] = [slice(start, stop, step), int(rng.integers(-n, n))]
        if kind == "outer":
            choices += [rng.integers(-n, n, rng.integers(0, 2 * n)), rng.random(n) < 0.5]
        out.append(choices[rng.integers(len(choices))])
    return tuple(out)


@pytest.mark.parametrize(("name", "way"), [("zstd", ChunkFiles), ("sharded", ShardFiles)])
def test_no_chunk_is_read_twice_or_in_vain(
    path: dict[int, str], monkeypatch: pytest.MonkeyPatch, name: str, way: Any
) -> None:
    touched: list[tuple[int, ...]] = []
    own = way.read

    def noted(self: Any, region: Any, out: Any) -> None:
        touched.append(tuple(r.start // c for r, c in zip(region, CHUNKS, strict=True)))
        own(self, region, out)

    monkeypatch.setattr(way, "read", noted)
    with xr.open_dataset(path[3], engine="xchunk", cache=False) as ds:
        found = ds[name].variable[[0, 1, 6], ::2, 1].values
        assert sorted(touched) == [(0, 0, 0), (0, 1, 0), (3, 0, 0), (3, 1, 0)]
        # points lie anywhere: zarr reads the chunks that hold some
        points = tuple(xr.Variable("p", [0, n - 1]) for n in SHAPE)
        touched.clear()
        corners = ds[name].variable[points].values
        assert not touched
    whole = values_of(*{"zstd": ("f8", 1), "sharded": ("f4", 3)}[name])
    np.testing.assert_array_equal(found, whole[[0, 1, 6], ::2, 1])
    np.testing.assert_array_equal(corners, [whole[0, 0, 0], whole[-1, -1, -1]])


def test_it_travels_and_is_read_by_many_threads(path: dict[int, str]) -> None:
    with xr.open_dataset(path[3], engine="zarr") as theirs:
        whole = theirs.load()
    with xr.open_dataset(path[3], engine="xchunk", chunks={}) as ds:
        sent = pickle.loads(pickle.dumps(ds))
        with dask.config.set(scheduler="threads", num_workers=8):
            xr.testing.assert_identical(sent.compute(), whole)
    with (
        xr.open_dataset(path[3], engine="xchunk", cache=False) as ds,
        ThreadPoolExecutor(8) as pool,
    ):
        rows = list(pool.map(lambda i: ds.sharded.variable[i % 7].values, range(100)))
    assert all(equal(row, whole.sharded.values[i % 7]) for i, row in enumerate(rows))


def test_tokens_are_the_same_in_every_run(path: dict[int, str]) -> None:
    first, again = (
        xr.open_dataset(path[3], engine="xchunk").zstd.variable.chunk({"t": 3}) for _ in range(2)
    )
    other = xr.open_dataset(path[3], engine="xchunk").plain.variable.chunk({"t": 3})
    assert first.data.name == again.data.name != other.data.name


@pytest.mark.parametrize(("engine", "at_once"), [("zarr", 10), ("xchunk", 1)])
def test_a_layout_tells_how_many_chunks_are_decoded_at_once(
    path: dict[int, str], engine: str, at_once: int
) -> None:
    ds = xr.open_dataset(path[3], engine=engine)
    layout = ds.chunking.layout()
    assert layout["sharded"].decoded_at_once == at_once
    assert layout["sharded"].chunks == CHUNKS
    assert layout["sharded"].by_chunk
    assert layout["turned"].decoded_at_once == 10


def test_it_is_opened_by_open_dataset_and_rechunked_as_stored(
    path: dict[int, str], tmp_path: Path
) -> None:
    ds = xchunk.open_dataset(path[3], max_mem="20MB")[["packed", "sharded"]]
    layout = ds.chunking.layout()["sharded"]
    assert layout.unlocked
    target = tmp_path / "out.zarr"
    ds.chunking.apply({"t": 7, "y": 2, "x": 2}, store=target, max_mem="20MB")
    stored, found = (zarr.open_group(name, mode="r") for name in (path[3], target))
    for name in ("packed", "sharded"):
        assert equal(found[name][...], stored[name][...])  # type: ignore[index]
        assert found[name].dtype == stored[name].dtype  # type: ignore[union-attr]


def test_groups_and_trees_are_those_of_zarr(path: dict[int, str]) -> None:
    theirs, ours = (xr.open_groups(path[3], engine=engine) for engine in ("zarr", "xchunk"))
    assert list(ours) == list(theirs)
    for name, ds in ours.items():
        same(theirs[name], ds)
    tree = xr.open_datatree(path[3], engine="xchunk")
    assert type(innermost(tree["deep/zstd"].variable)) is StoreArray


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    xr.Dataset({"v": ("x", np.arange(8.0))}).to_zarr(store, consolidated=False)
    consolidate(store)
    chunk = store / "v/c/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with (
        xr.open_dataset(store, engine="xchunk") as ds,
        pytest.raises(ValueError, match=r"c/0.*damaged"),
    ):
        ds.v.load()


@pytest.mark.parametrize("name", ["a.zip", "a#b.zarr"])
def test_what_zarr_does_not_take_by_its_path_is_refused(
    path: dict[int, str], tmp_path: Path, name: str
) -> None:
    place = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(place, "w") as archive:
            for file in Path(path[2]).rglob("*"):
                archive.write(file, file.relative_to(path[2]))
    else:
        place.symlink_to(path[2])
    with pytest.raises(SourceError, match=r"xchunk\.open_dataset"):
        xr.open_dataset(place, engine="xchunk")
    ds = xchunk.open_dataset(place, max_mem="20MB", mask_and_scale=False)
    assert equal(ds.zstd.values, values_of("f4", 0))


def test_a_library_for_files_is_refused(path: dict[int, str]) -> None:
    with pytest.raises(SourceError, match="opens it through zarr, not 'netcdf4'"):
        xr.open_dataset(path[3], engine="xchunk", library="netcdf4")
