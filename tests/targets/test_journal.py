"""The journal and the lease, by themselves, on stores in memory and on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore

import xchunk
from faults.stores import DyingStore, FaultyStore
from xchunk.stores.adapter import get_key, list_prefix, put_key
from xchunk.targets import ownership as leases
from xchunk.targets.journal import Header, Journal, differences, digest_of
from xchunk.targets.ownership import holder_of, is_safe_path, lease, owned_keys
from xchunk.targets.scratch import Workspace

FACTS: dict[str, Any] = {
    "source": {"kind": "zarr", "shape": [4]},
    "plan": {"stages": [{"kind": "read"}, {"kind": "write"}]},
    "target": {"format": 3, "metadata": "0" * 64},
}


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path / "t.zarr")


def test_boxes_are_remembered(store: Store) -> None:
    journal = Journal(store)
    marks = journal.marks(FACTS, 1)
    assert marks.read() == frozenset()
    for box in (0, 7, 123_456):
        marks.put(box)
    assert marks.read() == {0, 7, 123_456}
    assert journal.marks(FACTS, 0).read() == frozenset()
    assert journal.marks({**FACTS, "target": {}}, 1).read() == frozenset()
    assert journal.has_boxes(FACTS)
    journal.forget(FACTS)
    assert not journal.has_boxes(FACTS)


def test_a_damaged_record_counts_for_nothing(store: Store) -> None:
    marks = Journal(store).marks(FACTS, 0)
    for box in range(6):
        marks.put(box)
    keys = sorted(list_prefix(store, ".xchunk/journal/"))
    put_key(store, keys[0], b"")
    put_key(store, keys[1], get_key(store, keys[2]) or b"")
    put_key(store, keys[3], (get_key(store, keys[3]) or b"")[:-1])
    put_key(store, keys[0].rpartition("/")[0] + "/readme.txt", b"?")
    assert marks.read() == {2, 4, 5}


def test_the_header_comes_back(store: Store) -> None:
    journal = Journal(store)
    assert journal.read() is None
    header = Header({"v": FACTS}, ("zarr.json",), "d" * 64, {"max_mem": 5})
    journal.write(header, version="1")
    assert journal.read() == header
    assert journal.read().digest == header.digest  # type: ignore[union-attr]


@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda t: json.dumps(t).encode()))
def test_any_other_header_is_refused(raw: bytes) -> None:
    store = MemoryStore()
    put_key(store, ".xchunk/journal/header.json", raw)
    with pytest.raises(xchunk.ResumeMismatchError, match="resume=False"):
        Journal(store).read()


def test_another_format_is_refused() -> None:
    store = MemoryStore()
    body = {"format": 99, "version": "9.9", "arrays": {}, "groups": [], "documents": ""}
    document = {"digest": digest_of(body), "body": body}
    put_key(store, ".xchunk/journal/header.json", json.dumps(document).encode())
    with pytest.raises(xchunk.ResumeMismatchError, match=r"format 99.*9\.9"):
        Journal(store).read()


def test_differences_are_said() -> None:
    now = {**FACTS, "source": {"kind": "file", "shape": [4], "size": 3}}
    now["target"] = {"format": 3, "metadata": "1" * 64}
    assert differences(FACTS, now) == [
        'source kind was "zarr", is "file"',
        "source size was nothing, is 3",
        "target metadata differ",
    ]


def test_digests_are_named_where_nothing_else_tells() -> None:
    before = {"source": {"shape": [3], "metadata": "1" * 64, "files": "2" * 64}}
    now = {"source": {"shape": [4], "metadata": "3" * 64, "files": "4" * 64}}
    assert differences(before, now) == ["source shape was [3], is [4]"]
    now["source"]["shape"] = [3]
    assert differences(before, now) == ["source metadata differ", "source files differ"]
    plans = [{"plan": {"stages": [{"kind": "direct", "boxes": [n]}]}} for n in (1, 2)]
    (said,) = differences(*plans)
    assert "[" not in said


class TestLease:
    def test_one_at_a_time(self, store: Store) -> None:
        with lease(store) as held:
            held.check()
            assert str(os.getpid()) in str(holder_of(store))
            with (
                pytest.raises(xchunk.TargetExistsError, match="another run, process"),
                lease(store),
            ):
                pytest.fail("the second came in")
        assert holder_of(store) is None
        with lease(store):
            pass
        assert list_prefix(store, ".xchunk/lease/") == []

    def test_of_many_threads_one_comes_in(self, store: Store) -> None:
        inside, came = [], []
        start = threading.Barrier(6)
        over = threading.Event()

        def run() -> None:
            start.wait()
            try:
                with lease(store):
                    inside.append(1)
                    came.append(len(inside))
                    over.wait(20)
                    inside.pop()
            except xchunk.TargetExistsError:
                came.append(0)
            if came.count(0) >= 5:
                over.set()

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(came) in ([0, 0, 0, 0, 0, 1], [0] * 6)

    def test_a_dead_process_is_succeeded(self, store: Store) -> None:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        for started in ("", "12345", "?"):
            self.put(store, place=leases._place(), pid=dead.pid, started=started or "1")
        with lease(store):
            assert len(list_prefix(store, ".xchunk/lease/")) == 1

    def test_a_number_that_is_used_again_is_another_process(self, store: Store) -> None:
        self.put(store, place=leases._place(), pid=os.getpid(), started="1")
        with lease(store):
            pass

    def test_elsewhere_the_heartbeat_counts(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "BEAT", 0.1)
        key = self.put(store, place="another machine", pid=1, started="1")
        with pytest.raises(xchunk.TargetExistsError), lease(store):
            pass
        self.put(store, place="another machine", pid=1, started="1", time=time.time() - 3600)
        put_key(store, key, b"{}")
        with lease(store):
            pass

    def test_an_old_clock_with_a_moving_heartbeat_is_alive(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "BEAT", 0.5)
        over = threading.Event()

        def beat() -> None:
            n = 0
            while not over.wait(0.05):
                n += 1
                self.put(store, place="elsewhere", pid=n, started="1", time=1000.0 + n)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            time.sleep(0.2)
            with pytest.raises(xchunk.TargetExistsError), lease(store):
                pass
        finally:
            over.set()
            thread.join()

    def test_the_last_one_takes_the_empty_folders(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "t.zarr")
        with lease(store):
            space = Workspace(store)
            space.create()
            space.remove()
        assert [*tmp_path.rglob("*")] == [tmp_path / "t.zarr"]

    def test_an_owner_notices_that_it_was_succeeded(self, store: Store) -> None:
        from xchunk.stores.adapter import delete_prefix

        with lease(store) as held:
            delete_prefix(store, ".xchunk/lease")
            with pytest.raises(xchunk.StageFailedError, match="took over"):
                held.check()

    @pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"place": 1}', b"\xff"])
    def test_a_damaged_lease_is_nobodys(self, store: Store, raw: bytes) -> None:
        put_key(store, ".xchunk/lease/x.json", raw)
        with lease(store):
            pass

    @pytest.mark.parametrize("kind", ["deletes fail", "all fails"])
    def test_a_lease_that_cannot_be_deleted_ends_with_its_run(self, kind: str) -> None:
        inner = MemoryStore()
        dying = DyingStore(inner=inner)
        failing = FaultyStore("delete", 1, times=10**9, inner=inner)
        with lease(dying if kind == "all fails" else failing) as held:
            held.retire()
            # it still cleans up
            assert str(os.getpid()) in str(holder_of(inner))
            dying.state["at"] = 1
        (left,) = list_prefix(inner, ".xchunk/lease/")
        assert (get_key(inner, left) == b"") == (kind == "deletes fail")
        assert holder_of(inner) is None
        with lease(inner) as held:
            held.check()
        assert list_prefix(inner, ".xchunk/lease/") == []

    @staticmethod
    def put(store: Store, **facts: Any) -> str:
        key = f".xchunk/lease/{facts['place'].replace(' ', '')[:20]}-x.json".replace("/", "_")
        key = key.replace(".xchunk_lease_", ".xchunk/lease/")
        put_key(store, key, json.dumps({"time": time.time(), **facts}).encode())
        return key


@pytest.mark.parametrize(
    ("path", "safe"),
    [("v", True), ("a/b", True), ("", False), ("..", False), ("a/../b", False), ("/etc", False),
     ("a//b", False), ("a\\b", False), ("a\0", False), (".", False)],
)  # fmt: skip
def test_safe_paths(path: str, safe: bool) -> None:
    assert is_safe_path(path) is safe


def test_only_names_of_chunks_and_documents_are_ours(store: Store) -> None:
    partial = "f" * 32 + ".partial"
    ours = ["v/zarr.json", "v/c/0/1", "v/0.1", "v/0/1", "v/c", f"v/c/0/1.{partial}", "zarr.json"]
    if isinstance(store, LocalStore):
        ours = [k for k in ours if k not in ("v/c",)]
    others = ["v/readme", "v/c/a", "w/c/0", "v/c/0/1.bak", "readme", "v/x/zarr.json", "v2/c/0"]
    for key in [*ours, *others]:
        put_key(store, key, b"1")
    assert set(owned_keys(store, ["v"], ["zarr.json"])) == set(ours)
