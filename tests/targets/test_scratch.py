"""The workspace: marked as ours, and nothing else is ever touched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore

from xchunk.core.plan.stages import Scratch
from xchunk.errors import StageFailedError, TargetExistsError
from xchunk.sources.arrays import open_stored
from xchunk.sources.refs import ZarrRef
from xchunk.stores.adapter import (
    delete_keys,
    get_key,
    holds_any,
    list_prefix,
    open_array,
    put_key,
    write_units,
)
from xchunk.stores.stores import is_zarr
from xchunk.targets.location import Site
from xchunk.targets.scratch import (
    MARKER,
    PREFIX,
    Workspace,
    can_shard_raw_bytes,
    delete_spent,
    make_marker,
    refuse_lost_pieces,
)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "t.zarr") if request.param == "local" else MemoryStore()


def test_a_marker_comes_back(store: Store) -> None:
    space = Workspace(store)
    assert space.read_marker() is None
    space.create(target="t.zarr")
    marker = space.read_marker()
    assert marker is not None
    assert (marker["made_by"], marker["target"]) == ("xchunk", "t.zarr")
    assert not is_zarr(store)
    space.remove()
    assert list_prefix(store, "") == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'"xchunk"', b'{"made_by": "me"}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "text", "another", "no text", "deep"],
)
def test_a_marker_that_is_not_ours_is_none(store: Store, raw: bytes) -> None:
    put_key(store, f"{PREFIX}/marker.json", raw)
    space = Workspace(store)
    assert space.read_marker() is None
    put_key(store, f"{PREFIX}/scratch/0/v/c/0", b"theirs")
    before = list_prefix(store, "")
    space.clear()
    space.remove()
    assert list_prefix(store, "") == before
    with pytest.raises(TargetExistsError, match="did not make"):
        space.create()


class _WithEmptyFolders(MemoryStore):
    """A store that lists folders in which there is nothing, as servers with a filer do."""

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for key in super().list_dir(prefix):
            yield key
        yield PREFIX if not prefix else "scratch"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in super().list_prefix(prefix):
            yield key
        # one with a slash is an object that stands for a folder, the other is fsspec's
        yield f"{prefix}scratch/"
        yield prefix.rstrip("/")


def test_a_folder_without_objects_is_nothing() -> None:
    store = _WithEmptyFolders()
    assert list_prefix(store, f"{PREFIX}/") == []
    assert not holds_any(store, PREFIX)
    space = Workspace(store, folder="run")
    space.create()
    # the last one that used the scratch store takes the marker away
    space.leave()
    assert list_prefix(store, "") == []
    put_key(store, f"{PREFIX}/scratch/notes.txt", b"theirs")
    assert holds_any(store, PREFIX)
    with pytest.raises(TargetExistsError, match="did not make"):
        space.create()


@pytest.mark.parametrize("before", ["", "fast", "fast/disk"])
@pytest.mark.parametrize("theirs", [False, True], ids=["empty", "with a file"])
def test_the_last_run_takes_the_folders_away_that_were_made(
    tmp_path: Path, before: str, theirs: bool
) -> None:
    (tmp_path / before).mkdir(parents=True, exist_ok=True)
    place = LocalStore(tmp_path / "fast" / "disk")
    first, second = (Workspace(place, folder=name) for name in ("a", "b"))
    for run in (first, second):
        if run.read_marker() is None:
            run.create()
        put_key(place, f"{PREFIX}/scratch/{run.folder}/0", b"values")
    first.leave()
    assert list_prefix(place, f"{PREFIX}/scratch/b") == [f"{PREFIX}/scratch/b/0"]
    if theirs:
        (tmp_path / "fast" / "disk" / "notes.txt").write_text("theirs")
    second.leave()
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    kept = {"": set(), "fast": {"fast"}, "fast/disk": {"fast", "fast/disk"}}[before]
    assert left == (kept if not theirs else {"fast", "fast/disk", "fast/disk/notes.txt"})


@pytest.mark.parametrize("there", ["file", "link"])
def test_what_is_no_folder_is_not_ours(tmp_path: Path, there: str) -> None:
    (tmp_path / "t.zarr").mkdir()
    if there == "file":
        (tmp_path / "t.zarr" / PREFIX).write_bytes(b"theirs")
    else:
        (tmp_path / "t.zarr" / PREFIX).symlink_to(tmp_path / "nowhere")
    with pytest.raises(TargetExistsError, match="did not make"):
        Workspace(LocalStore(tmp_path / "t.zarr")).create()
    assert not (tmp_path / "nowhere").exists()


def test_a_linked_folder_is_not_ours(tmp_path: Path) -> None:
    Workspace(LocalStore(tmp_path / "elsewhere")).create()
    (tmp_path / "t.zarr").mkdir()
    (tmp_path / "t.zarr/.xchunk").symlink_to(tmp_path / "elsewhere/.xchunk")
    space = Workspace(LocalStore(tmp_path / "t.zarr"))
    assert space.read_marker() is None
    space.remove()
    assert (tmp_path / "elsewhere/.xchunk/marker.json").exists()


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    space = Workspace(LocalStore(tmp_path / "t.zarr"))
    space.create()
    put_key(space.store, f"{PREFIX}/scratch/0/v/c/0", b"ours")
    (tmp_path / "t.zarr/.xchunk/theirs").write_text("keep")
    space.remove()
    assert [p.name for p in (tmp_path / "t.zarr/.xchunk").iterdir()] == ["theirs"]


def test_a_marker_that_was_not_finished_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "t.zarr/.xchunk"
    folder.mkdir(parents=True)
    (folder / f"marker.{'a' * 32}.partial").write_text("{")
    space = Workspace(LocalStore(tmp_path / "t.zarr"))
    assert space.is_bare
    space.create()
    space.remove()
    assert not folder.exists()
    folder.mkdir()
    (folder / "marker.partial").touch()
    assert not space.is_bare


def test_a_lease_without_a_marker_is_no_obstacle(tmp_path: Path) -> None:
    # a run that waited for another one, which took the marker away, and then was killed
    space = Workspace(LocalStore(tmp_path / "t.zarr"))
    put_key(space.store, f"{PREFIX}/lease/{'a' * 32}.json", b"{}")
    assert space.is_bare
    put_key(space.store, "zarr.json", b"{}")
    space.create()
    put_key(space.store, f"{PREFIX}/lease/notes.txt", b"theirs")
    (tmp_path / "t.zarr" / MARKER).unlink()
    with pytest.raises(TargetExistsError, match="did not make"):
        space.create()


@pytest.mark.parametrize("place", ["workspace", "site"])
def test_a_run_that_begins_meanwhile_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    store, own = LocalStore(tmp_path / "s.zarr"), Workspace.read_marker
    began: list[bool] = []

    def read(self: Workspace) -> Any:
        found = own(self)
        if not began:
            # another run writes its marker, and what comes after, just after we have looked
            began.append(True)
            put_key(store, MARKER, make_marker())
            put_key(store, f"{PREFIX}/journal/header.json", b"{}")
        return found

    monkeypatch.setattr(Workspace, "read_marker", read)
    if place == "workspace":
        Workspace(store).create()
    else:
        Site(store).check()
    assert began
    assert own(Workspace(store)) is not None


def test_who_leaves_takes_no_lease_but_its_own(tmp_path: Path) -> None:
    space = Workspace(LocalStore(tmp_path / "t.zarr"))
    space.create()
    mine, other = (f"{PREFIX}/lease/{x * 32}.json" for x in "ab")
    for key in (mine, other):
        put_key(space.store, key, b"{}")
    space.remove(mine)
    assert list_prefix(space.store, "") == [other]


SCRATCHES = [
    Scratch((4, 3), None, "none"),
    Scratch((4, 3), (8, 6), "none"),
    Scratch((5, 10), None, "lz4"),
    Scratch((5, 5), (10, 10), "lz4"),
]


@pytest.mark.filterwarnings("ignore")  # raw bytes of odd widths are not in the standard yet
@pytest.mark.parametrize("scratch", SCRATCHES, ids=str)
@pytest.mark.parametrize("dtype", ["u1", "u8", "V3", "V16"])
def test_bits_go_through_scratch_unharmed(store: Store, scratch: Scratch, dtype: str) -> None:
    if scratch.shards and dtype.startswith("V") and not can_shard_raw_bytes():
        pytest.skip("this zarr cannot; plans do without")
    space = Workspace(store)
    space.create()
    bits = np.random.default_rng(1).integers(0, 256, (10, 10, np.dtype(dtype).itemsize), "u1")
    values = np.ascontiguousarray(bits).view(dtype)[..., 0]
    ref = space.scratch_array("v", 0, (10, 10), values.dtype, scratch)
    # groups would make the target openable
    assert not is_zarr(store)
    assert "zarr.json" not in list_prefix(store, "")
    array = open_array(ref.store, ref.path, 3, mode="r+")
    write_units(array, (slice(0, 10), slice(0, 10)), values, fill=None)
    found = open_stored(ref).read((slice(0, 10), slice(0, 10)))
    assert found.tobytes() == values.tobytes()
    space.remove_scratch(ref)
    assert [k for k in list_prefix(store, "") if "scratch" in k] == []


def written(store: Store, scratch: Scratch, values: np.ndarray) -> ZarrRef:
    """Write values to a scratch array of their shape."""
    space = Workspace(store)
    space.create()
    ref = space.scratch_array("v", 0, values.shape, values.dtype, scratch)
    array = open_array(ref.store, ref.path, 3, mode="r+")
    write_units(array, tuple(slice(0, n) for n in values.shape), values, fill=None)
    return ref


@pytest.mark.parametrize("scratch", SCRATCHES[:2], ids=str)
def test_a_flipped_bit_is_noticed(store: Store, scratch: Scratch) -> None:
    ref = written(store, scratch, np.arange(100, dtype="u4").reshape(10, 10))
    key = next(k for k in list_prefix(store, f"{ref.path}/c/"))
    raw = bytearray(get_key(store, key) or b"")
    raw[5] ^= 8
    put_key(store, key, bytes(raw))
    with pytest.raises(ValueError, match=r"[Cc]hecksum"):
        open_stored(ref).read((slice(0, 10), slice(0, 10)))


@pytest.mark.parametrize("scratch", SCRATCHES[:2], ids=str)
def test_a_lost_piece_is_told_from_one_that_looks_like_it(store: Store, scratch: Scratch) -> None:
    # data that look like what is missing
    ref = written(store, scratch, np.full((10, 10), 0xA5A5A5A5, dtype="u4"))
    stored = open_stored(ref)
    region = (slice(4, 10), slice(3, 10))
    found = stored.read(region)
    refuse_lost_pieces(ref, stored.info, region, found)
    keys = sorted(k for k in list_prefix(store, f"{ref.path}/c/"))
    delete_keys(store, [keys[-1]])
    with pytest.raises(StageFailedError, match=r"is lost: .*resume=False"):
        refuse_lost_pieces(ref, stored.info, region, stored.read(region))
    # a region that does not touch it is fine
    refuse_lost_pieces(ref, stored.info, (slice(0, 4), slice(0, 3)), found[:4, :3])


@pytest.mark.parametrize("scratch", SCRATCHES[:2], ids=str)
@pytest.mark.parametrize(
    ("region", "rows", "columns"),
    [
        pytest.param((slice(0, 8), slice(0, 6)), (0, 8), (0, 6), id="whole shards"),
        pytest.param((slice(2, 10), slice(1, 10)), (4, 10), (3, 10), id="up to the end"),
        pytest.param((slice(1, 3), slice(1, 3)), (0, 0), (0, 0), id="none as a whole"),
    ],
)
def test_only_pieces_that_lie_in_a_box_are_spent(
    store: Store,
    scratch: Scratch,
    region: tuple[slice, slice],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> None:
    ref = written(store, scratch, np.arange(100, dtype="u4").reshape(10, 10))
    before = set(list_prefix(store, f"{ref.path}/c/"))
    delete_spent(ref, open_stored(ref).info, region)
    deleted = before - set(list_prefix(store, f"{ref.path}/c/"))
    height, width = scratch.shards or scratch.chunks
    within = {
        f"{ref.path}/c/{y}/{x}"
        for y in range(-(-10 // height))
        for x in range(-(-10 // width))
        if rows[0] <= y * height and min(10, (y + 1) * height) <= rows[1]
        and columns[0] <= x * width and min(10, (x + 1) * width) <= columns[1]
    }  # fmt: skip
    # other stores are asked to delete everything at once, when the array is complete
    assert deleted == (within if isinstance(store, LocalStore) else set())


def test_only_scratch_is_removed_as_scratch(store: Store) -> None:
    space = Workspace(store)
    space.create()
    zarr.create_array(store, name="v", shape=(4,), chunks=(2,), dtype="i4")[:] = 1
    before = list_prefix(store, "")
    space.remove_scratch(ZarrRef(store, "v", 3))
    assert list_prefix(store, "") == before
    assert json.loads(json.dumps(space.read_marker()))["made_by"] == "xchunk"
