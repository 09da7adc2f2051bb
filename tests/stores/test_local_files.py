"""Files of encoded chunks: parts of regions, and what is hurried to the disk."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore

from xchunk.stores.chunk_files import folder_of, is_in_files, parts_of, put_file, unfinished
from xchunk.stores.overlay import Unpublished


@given(data=st.data())
def test_parts_tile_the_region(data: st.DataObject) -> None:
    """Each element of the region is in one part, which says where it is in its chunk."""
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    chunks = [data.draw(st.integers(1, 5)) for _ in shape]
    region = [
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape
    ]
    found = np.zeros([r.stop - r.start for r in region], dtype=int)
    for parts in parts_of(region, chunks):
        found[tuple(p.here for p in parts)] += 1
        for p, r, c in zip(parts, region, chunks, strict=True):
            assert p.here.start + r.start == p.at * c + p.there.start
            assert p.here.stop - p.here.start == p.there.stop - p.there.start > 0
            assert p.there.stop <= c
    assert (found == 1).all()


def test_only_a_plain_local_store_is_in_files(tmp_path: Path) -> None:
    class Own(LocalStore):
        pass

    local = LocalStore(tmp_path)
    assert is_in_files(local)
    assert is_in_files(Unpublished(local, {}))
    assert not is_in_files(Own(tmp_path))
    assert not is_in_files(MemoryStore())
    array = zarr.create_array(local, name="g/a", shape=(2,), chunks=(1,), dtype="i1")
    assert folder_of(array) == str(tmp_path / "g" / "a")
    assert folder_of(zarr.create_array({}, shape=(2,), chunks=(1,), dtype="i1")) is None


CASES = [
    pytest.param(nbytes, buffered, temporary, id=f"{nbytes}-{buffered}-{temporary}")
    for nbytes, buffered, temporary in itertools.product(
        (1000, 3_000_000), (False, True), (False, True)
    )
]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the word for it is Linux's")
@pytest.mark.parametrize(("nbytes", "buffered", "temporary"), CASES)
def test_large_files_that_stay_are_hurried_to_the_disk(
    nbytes: int, buffered: bool, temporary: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    """All of them: what is in a buffer still is written before."""
    sizes = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda handle, *_: sizes.append(os.fstat(handle).st_size)
    )
    path, data = str(tmp_path / "deep" / "c0"), np.full(nbytes // 2, 7, dtype="u1")
    put_file(path, [data, data], unfinished(), buffered=buffered, temporary=temporary)
    assert sizes == ([nbytes] if nbytes > 1_000_000 and not temporary else [])
    assert Path(path).read_bytes() == b"\7" * nbytes
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c0"]


def test_a_disk_that_takes_no_advice_is_no_error(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    put_file(str(tmp_path / "c0"), [bytes(1_000_000)], unfinished())
    assert (tmp_path / "c0").stat().st_size == 1_000_000
