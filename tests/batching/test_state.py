from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xchunk.batching.state import Record, State, decide, is_ours
from xchunk.errors import InvalidJobError, TargetExistsError

DONE = Record("t", "n", "done", job="j", source="s", target="T", verified=True, time="1")
BEGUN = replace(DONE, status="running", target=None, verified=False)


@pytest.mark.parametrize(
    ("earlier", "now", "verdict", "why"),
    [
        (None, {}, "run", ""),
        (DONE, {}, "skip", "done by an earlier run"),
        (DONE, {"verify": True}, "skip", "done by an earlier run"),
        (DONE, {"target": None}, "run", "its target is gone"),
        (DONE, {"target": "U"}, "run", "its target is not what was written"),
        (DONE, {"source": "x"}, "run", "its source has changed"),
        (DONE, {"job": "x"}, "run", "its job has changed"),
        (replace(DONE, verified=False), {}, "skip", "done by an earlier run"),
        (replace(DONE, verified=False), {"verify": True}, "verify", "not verified"),
        (BEGUN, {"target": None}, "run", ""),
        (BEGUN, {"target": None, "source": "x"}, "run", "begun anew: its source"),
        (BEGUN, {"target": None, "job": "x"}, "run", "begun anew: its job"),
        (BEGUN, {}, "verify", "complete when an earlier run was stopped"),
        (replace(BEGUN, before="T"), {}, "run", ""),
        (replace(BEGUN, status="failed"), {"target": None}, "run", ""),
        (replace(BEGUN, status="interrupted"), {"target": None}, "run", ""),
    ],
)
def test_what_is_done_with_an_item(
    earlier: Record | None, now: dict[str, object], verdict: str, why: str
) -> None:
    facts = {"job": "j", "source": "s", "target": "T", "verify": False, **now}
    found, said = decide(earlier, **facts)  # type: ignore[arg-type]
    assert found == verdict
    assert why in said
    assert bool(why) == bool(said)


@pytest.mark.parametrize(
    ("earlier", "target", "ours"),
    [
        (None, "T", False),
        (DONE, "T", True),
        (DONE, "U", False),
        (DONE, None, False),
        (BEGUN, "T", False),
        (replace(BEGUN, before="T"), "T", False),
        (replace(BEGUN, before="T", ours=True), "T", True),
        (replace(BEGUN, before="T", ours=True), "U", False),
    ],
)
def test_whose_a_target_is(earlier: Record | None, target: str | None, ours: bool) -> None:
    assert is_ours(earlier, target) is ours


def written(folder: Path, *records: Record, shard: tuple[int, int] | None = None) -> Path:
    state = State(folder, shard)
    state.read()
    with state.writing():
        for record in records:
            state.note(record)
    assert state.path is not None
    return state.path


def read(folder: Path, key: str) -> Record | None:
    state = State(folder)
    state.read()
    return state.get(key)


def test_the_latest_record_of_all_parts_stands(tmp_path: Path) -> None:
    written(tmp_path, DONE, replace(DONE, key="u", time="1"))
    written(tmp_path, replace(DONE, status="failed", time="2"), shard=(1, 3))
    written(tmp_path, replace(DONE, key="u", status="failed", time="0"), shard=(2, 3))
    names = sorted(p.name for p in tmp_path.glob("*.jsonl"))
    assert names == ["state-1-of-3.jsonl", "state-2-of-3.jsonl", "state.jsonl"]
    found = read(tmp_path, "t"), read(tmp_path, "u")
    assert [r.status for r in found if r is not None] == ["failed", "done"]
    assert read(tmp_path, "v") is None


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path, DONE, replace(DONE, status="failed", time="2"))
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(tmp_path, "t") == DONE if cut > 1 else read(tmp_path, "t") is not None
    # and what is written after it is whole
    written(tmp_path, replace(DONE, key="u"))
    assert read(tmp_path, "u") == replace(DONE, key="u")
    assert read(tmp_path, "t") is not None


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"[]\n", b'{"key": 3}\n', b'{"key": "t"}\n'])
def test_junk_is_passed_over(tmp_path: Path, junk: bytes) -> None:
    path = written(tmp_path, DONE)
    path.write_bytes(junk + path.read_bytes() + junk)
    assert read(tmp_path, "t") == DONE
    written(tmp_path)
    assert read(tmp_path, "t") == DONE


def test_a_start_keeps_the_latest_record_only(tmp_path: Path) -> None:
    path = written(tmp_path, *(replace(DONE, time=str(i)) for i in range(50)))
    assert len(path.read_text().splitlines()) == 50
    written(tmp_path)
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["time"] == "49"
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".jsonl"] == [".state"]


@pytest.mark.subprocess
def test_one_process_writes_a_part(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom xchunk.batching.state import State\n"
        "with State(pathlib.Path(sys.argv[1])).writing():\n"
        "    print('here', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        with pytest.raises(TargetExistsError, match=f"process {other.pid}"):
            written(tmp_path, DONE)
        written(tmp_path, DONE, shard=(1, 2))
    finally:
        other.kill()
        other.communicate()
    written(tmp_path, DONE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidJobError, match="--state"):
        written(tmp_path / "s", DONE)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(InvalidJobError, match="--state"):
        written(tmp_path / "s", DONE)


def test_without_a_folder_it_is_kept_in_memory() -> None:
    state = State(None)
    with state.writing():
        state.note(DONE)
    assert state.get("t") == DONE
    assert state.logs is None
