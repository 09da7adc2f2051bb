"""Files that fsspec reaches are read by ranges, and hold what they hold on a disk."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem

from xchunk.errors import SourceError
from xchunk.sources.hdf5_read import open_direct
from xchunk.sources.refs import FileRef, JoinedRef
from xchunk.sources.remote_file import RemoteFile, forget_files

PLACE = "/remote-file/a.nc"


class Counting(MemoryFileSystem):
    """A file system in memory that counts what it is asked for."""

    cachable = False  # codespell:ignore

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.asked: list[int] = []
        self.whole = False

    def cat_file(self, path: str, start: Any = None, end: Any = None, **rest: Any) -> bytes:
        self.asked.append(1)
        return super().cat_file(path, *((None, None) if self.whole else (start, end)), **rest)

    def cat_ranges(self, paths: Any, starts: Any, ends: Any, **rest: Any) -> list[bytes]:
        self.asked.append(len(paths))
        read = super().cat_file
        return [read(p, a, b) for p, a, b in zip(paths, starts, ends, strict=True)]


@pytest.fixture
def local(tmp_path: Path, rng: np.random.Generator) -> Path:
    ds = xr.Dataset(
        {
            "packed": (("t", "y", "x"), rng.integers(0, 99, (30, 8, 9)).astype("i2")),
            "plain": (("t", "x"), rng.normal(size=(30, 9))),
            "whole": (("t", "y", "x"), rng.normal(size=(30, 8, 9)).astype(">f4")),
        }
    )
    own: dict[str, Any] = {
        "packed": {"zlib": True, "shuffle": True, "fletcher32": True, "chunksizes": (2, 8, 5)},
        "plain": {"chunksizes": (7, 9)},
        "whole": {"contiguous": True},
    }
    ds.to_netcdf(tmp_path / "a.nc", engine="netcdf4", encoding=own)
    return tmp_path / "a.nc"


@pytest.fixture
def far(local: Path) -> Iterator[RemoteFile]:
    fs = Counting()
    fs.pipe_file(PLACE, local.read_bytes())
    forget_files()
    yield RemoteFile(fs, PLACE)
    fs.rm(PLACE)


BOXES = [
    (slice(0, 30), slice(0, 8), slice(0, 9)),
    (slice(3, 17), slice(2, 5), slice(4, 9)),
    (slice(29, 30), slice(7, 8), slice(0, 1)),
]


@pytest.mark.parametrize("box", BOXES, ids=["all", "some", "one"])
@pytest.mark.parametrize("name", ["packed", "plain", "whole"])
def test_a_box_is_the_same_as_from_a_disk(
    local: Path, far: RemoteFile, name: str, box: tuple[slice, ...]
) -> None:
    here, there = open_direct(str(local), None, name), open_direct("", None, name, far)
    assert here is not None
    assert there is not None
    assert (there.chunks, there.codecs, there.shape) == (here.chunks, here.codecs, here.shape)
    box = box if len(here.shape) == 3 else (box[0], box[2])
    assert there.read(box).tobytes() == here.read(box).tobytes()


def test_chunks_are_asked_for_side_by_side(far: RemoteFile) -> None:
    found = open_direct("", None, "packed", far)
    assert found is not None
    assert sum(far.fs.asked) < 4  # the metadata lie in one block
    far.fs.asked.clear()
    found.read([slice(0, n) for n in found.shape])
    assert far.fs.asked == [10, 10, 10]  # 15 x 2 chunks, as many at once as zarr is told


def test_values_without_chunks_take_one_request(far: RemoteFile) -> None:
    found = open_direct("", None, "whole", far)
    assert found is not None
    far.fs.asked.clear()
    found.read([slice(0, 30), slice(2, 4), slice(1, 3)])
    assert sum(far.fs.asked) < 3


def test_a_file_that_is_replaced_is_refused(far: RemoteFile) -> None:
    found = open_direct("", None, "packed", far)
    assert found is not None
    data = far.fs.cat_file(PLACE)
    far.fs.rm(PLACE)
    far.fs.pipe_file(PLACE, data)
    with pytest.raises(SourceError, match="written or replaced"):
        found.read([slice(0, n) for n in found.shape])


def test_a_server_that_ignores_ranges_is_left_to_the_library(
    far: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xchunk.sources.remote_file._BLOCK", 100)
    far.fs.whole = True
    assert open_direct("", None, "packed", far) is None


def test_places_travel_without_handles(far: RemoteFile) -> None:
    place = RemoteFile(MemoryFileSystem(), PLACE)
    ref = FileRef(place.url, "h5netcdf", None, "packed", object(), place)
    copy = pickle.loads(pickle.dumps(ref))
    assert copy == ref
    assert (copy.handle, copy.remote) == (None, place)
    joined = JoinedRef((ref, ref), ((2, 2), (8,), (9,)), ((0,) * 3, (2, 0, 0)), (0, 0))
    assert pickle.loads(pickle.dumps(joined)).parts[1].remote == place
