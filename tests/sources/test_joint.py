"""Stored arrays of many files are read as one: the right values, from a few files at a time."""

from __future__ import annotations

import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from xchunk.core.grid import Grid
from xchunk.errors import SourceError
from xchunk.sources import joint
from xchunk.sources.arrays import close_files, open_stored
from xchunk.sources.joint import UnlikeError
from xchunk.sources.refs import FileRef, JoinedRef, StoredArray, StoredInfo, ZarrRef
from xchunk.sources.versions import stamp_of_part


def stored(values: np.ndarray[Any, Any], chunks: tuple[int, ...], **attrs: Any) -> ZarrRef:
    array = zarr.create_array(
        MemoryStore(), shape=values.shape, chunks=chunks, dtype=values.dtype, attributes=attrs
    )
    array[...] = values
    return ZarrRef(array.store, "", 3)


def joined(
    cells: np.ndarray[Any, Any],
    chunks: list[tuple[int, ...]],
    margins: list[tuple[int, ...]],
) -> JoinedRef:
    """Store each cell in an array of its own, in which it begins somewhere."""
    refs, stamps, dims = [], [], cells.ndim
    for cell, lengths, margin in zip(cells.flat, chunks, margins, strict=True):
        shape = tuple(n + 2 * m for n, m in zip(cell.shape, margin, strict=True))
        values = np.full(shape, -7, dtype=cell.dtype)
        values[tuple(slice(m, m + n) for m, n in zip(margin, cell.shape, strict=True))] = cell
        refs.append(stored(values, tuple(map(min, lengths, shape))))
        stamps.append(stamp_of_part(refs[-1], shape))
    along = [
        tuple(
            cells[tuple(i if d == dim else 0 for d in range(dims))].shape[dim]
            for i in range(cells.shape[dim])
        )
        for dim in range(dims)
    ]
    return JoinedRef(tuple(refs), tuple(along), tuple(margins), tuple(stamps))


def cut(whole: np.ndarray[Any, Any], lengths: list[list[int]]) -> np.ndarray[Any, Any]:
    edges = [list(itertools.accumulate(n, initial=0)) for n in lengths]
    cells = np.empty([len(n) for n in lengths], dtype=object)
    for at in np.ndindex(cells.shape):
        cells[at] = whole[tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, at, strict=True))]
    return cells


@st.composite
def archives(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], JoinedRef]:
    dims = draw(st.integers(1, 3))
    lengths = [draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)) for _ in range(dims)]
    shape = [sum(n) for n in lengths]
    whole = np.arange(np.prod(shape), dtype=draw(st.sampled_from(["i2", "f4"]))).reshape(shape)
    cells = cut(whole, lengths)
    some = st.tuples(*[st.integers(1, 4)] * dims)
    margins = st.tuples(*[st.integers(0, 2)] * dims)
    ref = joined(cells, [draw(some) for _ in cells.flat], [draw(margins) for _ in cells.flat])
    return whole, ref


@given(archives(), st.data())
def test_any_box_reads_as_numpy_puts_it_together(
    archive: tuple[np.ndarray[Any, Any], JoinedRef], data: st.DataObject
) -> None:
    whole, ref = archive
    array = open_stored(ref)
    for _ in range(3):
        box = []
        for n in whole.shape:
            start = data.draw(st.integers(0, n - 1))
            box.append(slice(start, data.draw(st.integers(start + 1, n))))
        right = whole[tuple(box)]
        found = array.read(box)
        assert found.dtype == right.dtype
        assert np.array_equal(found, right)
        out = np.empty((2, *right.shape), dtype=whole.dtype)[1]
        assert array.read(box, out) is out
        assert np.array_equal(out, right)


@given(archives())
def test_the_grid_of_chunks_is_that_of_the_stored_arrays(
    archive: tuple[np.ndarray[Any, Any], JoinedRef],
) -> None:
    whole, ref = archive
    info = open_stored(ref).info
    assert (info.shape, info.dtype, info.arrays) == (whole.shape, whole.dtype, len(ref.parts))
    assert info.chunks is not None
    grid = Grid.of(info.shape, info.chunks)
    assert grid.shape == whole.shape
    for axis, cells in zip(grid.axes, ref.axes, strict=True):
        assert all(axis.has_edge(cells.bounds(i)[1]) for i in range(cells.count))
    for part, origin, at in zip(
        ref.parts, ref.origins, np.ndindex(*map(len, ref.lengths)), strict=True
    ):
        own = open_stored(part).info
        for dim, i in enumerate(at):
            chunk = own.chunks[dim]  # type: ignore[index]
            first, last = ref.axes[dim].bounds(i)
            starts = [grid.axes[dim].bounds(k)[0] for k in range(grid.axes[dim].count)]
            inner = [j for j in starts if first < j < last]
            assert all((j - first + origin[dim]) % chunk == 0 for j in inner)


def three(**changed: Any) -> JoinedRef:
    """Three arrays along the first dim, of which the second one may differ."""
    refs = []
    for number in range(3):
        kept: dict[str, Any] = {
            "scale_factor": 0.5,
            "_FillValue": 9,
            "units": "K",
            "history": number,
        }
        attrs = kept | (changed.get("attrs", {}) if number == 1 else {})
        dtype = changed.get("dtype", "i2") if number == 1 else "i2"
        refs.append(stored(np.full((4, 6), number, dtype=dtype), (2, 3), **attrs))
    stamps = tuple(stamp_of_part(ref, (4, 6)) for ref in refs)
    return JoinedRef(tuple(refs), ((4, 4, 4), (6,)), ((0, 0),) * 3, stamps)


def test_what_all_have_in_common_is_told() -> None:
    info = open_stored(three()).info
    assert info.chunks == (2, 3)
    assert info.shape == (12, 6)
    assert dict(info.attrs) == {"scale_factor": 0.5, "_FillValue": 9, "units": "K"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"attrs": {"scale_factor": 0.25}}, "scale_factor is 0.25, not 0.5"),
        ({"attrs": {"_FillValue": 8}}, "_FillValue is 8, not 9"),
        ({"attrs": {"units": "degC"}}, "units is 'degC', not 'K'"),
        ({"attrs": {"add_offset": 1.0}}, "add_offset is 1.0, not None"),
        ({"attrs": {"missing_value": 9}}, "missing_value"),
        ({"attrs": {"scale_factor": 1}}, "scale_factor is 1, not 0.5"),
        ({"dtype": "i4"}, "the dtype is int32, not int16"),
    ],
    ids=["scale", "fill", "units", "offset", "missing", "kind of scale", "dtype"],
)
def test_raw_values_that_mean_something_else_are_refused(changed: Any, said: str) -> None:
    with pytest.raises(UnlikeError, match=said):
        _ = open_stored(three(**changed)).info


def test_a_new_dim_is_read_in_its_place() -> None:
    whole = np.arange(3 * 4 * 5).reshape(4, 3, 5)
    refs = tuple(stored(whole[:, i], (2, 5)) for i in range(3))
    stamps = tuple(stamp_of_part(ref, (4, 5)) for ref in refs)
    ref = JoinedRef(refs, ((4,), (1, 1, 1), (5,)), ((0, 0),) * 3, stamps, new=(1,))
    array = open_stored(ref)
    assert array.info.shape == (4, 3, 5)
    assert array.info.chunks == (2, 1, 5)
    for box in ((1, 3, 0, 3, 2, 5), (0, 4, 2, 3, 0, 5), (3, 4, 1, 3, 4, 5)):
        slices = [slice(*box[i : i + 2]) for i in (0, 2, 4)]
        assert np.array_equal(array.read(slices), whole[tuple(slices)])


class Counting:
    """Opens arrays, and counts."""

    def __init__(self) -> None:
        self.opened: list[Any] = []

    def __call__(self, ref: Any, *, lazy: bool) -> StoredArray:
        self.opened.append(ref)
        return open_stored(ref, lazy=lazy)


def test_a_box_opens_what_it_touches_and_no_more() -> None:
    refs = tuple(stored(np.full((2, 3), i), (2, 3)) for i in range(200))
    stamps = tuple(stamp_of_part(ref, (2, 3)) for ref in refs)
    ref = JoinedRef(refs, ((2,) * 200, (3,)), ((0, 0),) * 200, stamps)
    opener = Counting()
    array = joint.JoinedStored(ref, opener)
    found = array.read((slice(101, 105), slice(0, 3)))
    assert found[:, 0].tolist() == [50, 51, 51, 52]
    assert opener.opened == [refs[50], refs[51], refs[52]]
    array.read((slice(102, 104), slice(0, 3)))
    assert len(opener.opened) == 3
    array.read((slice(0, 400), slice(0, 3)))
    assert len(array._open) == joint.MOST_OPEN


class Chunked:
    """An array that hands out new memory, and notes what it was asked for."""

    def __init__(self) -> None:
        self.values = np.arange(40 * 50, dtype="i2").reshape(40, 50)
        self.info = StoredInfo(
            (40, 50), np.dtype("i2"), (4, 10), None, ("zlib",), "netcdf4", None, {}, {}
        )
        self.asked: list[int] = []

    def read(self, region: Any, out: Any = None) -> np.ndarray[Any, Any]:
        self.asked.append(int(np.prod([r.stop - r.start for r in region])))
        return self.values[tuple(region)].copy()


def test_a_reader_of_new_memory_is_asked_for_a_chunk_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joint, "AT_ONCE", 1)
    part = Chunked()
    ref = JoinedRef(
        (FileRef("http://a/b.nc", "h5netcdf", None, "v"),), ((40,), (50,)), ((0, 0),),
        (stamp_of_part(FileRef("http://a/b.nc", "h5netcdf", None, "v"), (40, 50)),),
    )  # fmt: skip
    found = joint.JoinedStored(ref, lambda _, lazy: part).read((slice(3, 33), slice(5, 45)))
    assert np.array_equal(found, part.values[3:33, 5:45])
    assert max(part.asked) == 40
    assert sum(part.asked) == found.size


def test_it_travels_small_and_is_kept_once() -> None:
    names = [
        f"/data/reanalysis/era5/2m_temperature/{1940 + i // 12}-{i % 12 + 1:02}.nc"
        for i in range(1000)
    ]
    lengths = tuple(28 + i % 4 for i in range(1000))
    ref = JoinedRef(
        tuple(FileRef(name, "h5netcdf", None, "t2m") for name in names),
        (lengths, (721,), (1440,)),
        tuple((0, 0, 0) for _ in names),
        tuple(range(1000)),
    )
    packed = pickle.dumps(ref)
    assert len(packed) < 12_000
    again = pickle.loads(packed)
    assert again == ref
    assert pickle.loads(packed) is again
    assert len(repr(ref)) < 200


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    names = []
    for number in range(2):
        ds = xr.Dataset({"v": ("t", np.arange(5.0) + number)})
        names.append(str(tmp_path / f"{number}.nc"))
        ds.to_netcdf(names[-1], engine="scipy", format="NETCDF3_64BIT")
    return names


@pytest.mark.parametrize("changed", ["time", "length"])
def test_a_file_that_was_replaced_is_refused(files: list[str], changed: str) -> None:
    refs = tuple(FileRef(name, "scipy", None, "v") for name in files)
    stamps = tuple(stamp_of_part(ref, (5,)) for ref in refs)
    ref = JoinedRef(refs, ((5, 5),), ((0,), (0,)), stamps)
    assert open_stored(ref).read((slice(3, 7),)).tolist() == [3, 4, 1, 2]
    close_files()
    if changed == "time":
        os.utime(files[1], ns=(1, 1))
    else:
        other = xr.Dataset({"v": ("t", np.arange(6.0))})
        other.to_netcdf(files[1], engine="scipy", format="NETCDF3_64BIT")
    assert open_stored(ref).read((slice(0, 5),)).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(SourceError, match=r"1\.nc is not the file that was opened"):
        open_stored(ref).read((slice(3, 7),))
    close_files()
