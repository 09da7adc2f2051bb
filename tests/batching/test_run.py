from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
import xchunk.batching.run
from xchunk.batching.item import run_item
from xchunk.batching.run import BatchReport

HIDDEN = "wJalrXUtnFEMI"


def source(name: str, *, seed: int = 0) -> Path:
    """A store of maps."""
    values = np.random.default_rng(seed).integers(0, 99, (6, 4, 4)).astype("i4")
    ds = xr.Dataset({"v": (("t", "y", "x"), values)}, coords={"t": np.arange(6)})
    path = Path("raw") / name
    ds.to_zarr(path, mode="w", zarr_format=2, encoding={"v": {"chunks": (1, 4, 4)}})
    return path


@pytest.fixture
def raw() -> Path:
    for i in range(3):
        source(f"{i}.zarr", seed=i)
    return Path("raw")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the items that are really rechunked, in order."""
    names: list[str] = []

    def noted(item: Any, *args: Any, **kwargs: Any) -> None:
        names.append(item.name)
        run_item(item, *args, **kwargs)

    monkeypatch.setattr(xchunk.batching.run, "run_item", noted)
    return names


JOB = {"name": "j", "source": "raw/*.zarr", "target": "out/{stem}.zarr", "chunks": {"t": -1}}


def batch(*jobs: dict[str, Any], state: str | None = "state", **how: Any) -> BatchReport:
    how = {"progress": False, "defaults": {"max_mem": "50MB"}, **how}
    return xchunk.batch(list(jobs) or [JOB], state=state, **how)


def statuses(report: BatchReport) -> list[str]:
    return [r.status for r in report]


def chunks(path: str | Path) -> tuple[int, ...]:
    return zarr.open_group(path, mode="r")["v"].chunks


def test_each_source_gets_its_target(raw: Path, ran: list[str]) -> None:
    report = batch({**JOB, "verify": True})
    assert statuses(report) == ["done"] * 3
    assert all(r.verified and r.nbytes and r.seconds for r in report)
    assert ran == ["j/0.zarr", "j/1.zarr", "j/2.zarr"]
    for i in range(3):
        assert chunks(f"out/{i}.zarr") == (6, 4, 4)
        a, b = (xr.open_zarr(f"{d}/{i}.zarr") for d in ("raw", "out"))
        xr.testing.assert_identical(a.load(), b.load())
    log = Path(report["j/1.zarr"].log).read_text()
    assert "begins" in log
    assert "verified" in log
    assert "xchunk plan" in log


def tree(path: str, first: int = 0) -> None:
    """A hierarchy with attributes, an inherited coordinate and a group without variables."""
    x = xr.Dataset(coords={"x": [0.0, 0.5, 1.0, 1.5]}, attrs={"title": "all"})
    steps = np.arange(first, first + 6)
    ds = xr.Dataset({"v": (("t", "x"), np.outer(steps, range(4)) / 8)}, {"t": steps})
    groups = {"/": x, "/a": ds, "/notes": xr.Dataset(attrs={"by": "me"}), "/a/b": ds[["v"]] * 2}
    made = xr.DataTree.from_dict(groups)
    Path(path).parent.mkdir(exist_ok=True)
    if path.endswith(".nc"):
        made.to_netcdf(path, engine="netcdf4")
    else:
        made.to_zarr(path, zarr_format=2)


def test_whole_trees(ran: list[str]) -> None:
    tree("trees/one.nc")
    tree("trees/two.zarr")
    job = {
        "source": "trees/*", "target": "out/{stem}.zarr", "verify": True,
        "chunks": {"/a": {"t": -1, "x": 2}, "a/b/v": {"x": 1}},
        "encoding": {"a/b/v": {"dtype": "f4"}},
    }  # fmt: skip
    report = batch(job)
    assert [(r.status, r.verified, r.message) for r in report] == [("done", True, "")] * 2
    for name in ("one.nc", "two.zarr"):
        with (
            xr.open_datatree(f"trees/{name}", engine=None if name[-1] == "c" else "zarr") as source,
            xr.open_datatree(f"out/{name[:3]}.zarr", engine="zarr", chunks={}) as out,
        ):
            assert out["a/v"].encoding["chunks"] == (6, 2)
            assert out["a/b/v"].encoding["chunks"] == (6, 1)
            assert out["a/b/v"].dtype == "f4"
            assert out["notes"].attrs == {"by": "me"}
            source["a/b/v"] = source["a/b/v"].astype("f4")
            xr.testing.assert_identical(out.load(), source.load())
    assert statuses(batch(job)) == ["skipped"] * 2
    # as before, one group alone
    alone = batch({**JOB, "source": "trees/*.nc", "target": "alone.zarr", "group": "a/b"})
    assert statuses(alone) == ["done"]
    assert set(xr.open_zarr("alone.zarr")) == {"v"}


def test_trees_are_joined() -> None:
    tree("trees/one.nc")
    tree("trees/two.nc", first=6)
    job = {"source": "trees/*.nc", "target": "out.zarr", "chunks": {"t": -1}, "joined": True,
           "verify": True}  # fmt: skip
    (result,) = batch(job)
    assert (result.status, result.message) == ("done", "")
    with xr.open_datatree("out.zarr", engine="zarr") as out:
        assert out.attrs == {"title": "all"}
        assert out["notes"].attrs == {"by": "me"}
        assert out["a/b"].sizes == {"t": 12, "x": 4}
        np.testing.assert_array_equal(out["a/b/v"], np.outer(range(12), range(4)) / 4)


def test_what_is_done_is_skipped(raw: Path, ran: list[str]) -> None:
    batch()
    source("3.zarr")
    report = batch()
    assert statuses(report) == ["skipped"] * 3 + ["done"]
    assert ran[3:] == ["j/3.zarr"]
    assert report.counts["skipped"] == 3
    # more memory or threads is no other job
    assert statuses(batch(defaults={"memory": "2GiB", "threads": 1})) == ["skipped"] * 4


@pytest.mark.slow
def test_all_is_done_again_if_asked(raw: Path, ran: list[str]) -> None:
    batch()
    report = batch(resume=False)
    assert statuses(report) == ["done"] * 3
    assert len(ran) == 6


def _lose(raw: Path) -> None:
    shutil.rmtree("out/1.zarr")


def _lose_a_chunk(raw: Path) -> None:
    next(p for p in Path("out/1.zarr/v").rglob("*") if p.is_file() and p.name[0] == "0").unlink()


def _change_source(raw: Path) -> None:
    shutil.rmtree(raw / "1.zarr")
    source("1.zarr", seed=77)


def _replace_target(raw: Path) -> None:
    shutil.rmtree("out/1.zarr")
    xr.Dataset({"mine": ("x", [1, 2])}).to_zarr("out/1.zarr", zarr_format=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "job", "wanted"),
    [
        (_lose, {}, ("done", "its target is gone")),
        (_change_source, {}, ("done", "its source has changed")),
        (_replace_target, {}, ("failed", "is a zarr store already")),
        (_replace_target, {"overwrite": True}, ("done", "not what was written")),
        (_lose_a_chunk, {}, ("failed", "is a zarr store already")),
        (_lose_a_chunk, {"overwrite": True}, ("done", "not what was written")),
    ],
)
def test_what_has_changed_is_done_again(
    raw: Path,
    ran: list[str],
    change: Callable[[Path], None],
    job: dict[str, Any],
    wanted: tuple[str, str],
) -> None:
    status, said = wanted
    batch({**JOB, **job})
    change(raw)
    report = batch({**JOB, **job})
    assert statuses(report) == ["skipped", status, "skipped"]
    assert said in report[1].message
    assert ran[3:] == ["j/1.zarr"]
    if status == "done":
        a, b = (xr.open_zarr(f"{d}/1.zarr") for d in ("raw", "out"))
        xr.testing.assert_identical(a.load(), b.load())
        assert statuses(batch({**JOB, **job})) == ["skipped"] * 3


@pytest.mark.slow
def test_another_job_does_it_again(raw: Path, ran: list[str]) -> None:
    batch()
    report = batch({**JOB, "chunks": {"t": 3}})
    assert {r.message for r in report} == {"done again: its job has changed"}
    assert chunks("out/0.zarr") == (3, 4, 4)


@pytest.mark.slow
def test_verifying_later_reads_only(raw: Path, ran: list[str]) -> None:
    batch()
    report = batch({**JOB, "verify": True})
    assert statuses(report) == ["done"] * 3
    assert all(r.verified for r in report)
    assert len(ran) == 3
    assert statuses(batch({**JOB, "verify": True})) == ["skipped"] * 3


def test_one_that_is_broken_does_not_stop_the_rest(raw: Path) -> None:
    Path("raw/1.zarr/v/3.0.0").write_bytes(b"\xff" * 40)
    Path("raw/notes.zarr").write_text("not a store")
    report = batch({**JOB, "source": ["raw/*.zarr", "raw/nope*"]})
    assert statuses(report) == ["done", "failed", "done", "failed", "failed"]
    rot, notes, nope = report.failed
    assert (rot.error, notes.error, nope.error) == (
        "StageFailedError",
        "SourceError",
        "SourceError",
    )
    assert "no file has such a name" in nope.message
    assert "Traceback" in Path(rot.log).read_text()
    assert not (Path("out/1.zarr") / ".zgroup").exists()
    # repaired, it goes on
    source("1.zarr", seed=5)
    assert statuses(batch()) == ["skipped", "done", "skipped", "failed"]
    assert "another" not in Path(rot.log).read_text()


def test_stop_at_the_first_that_fails(raw: Path) -> None:
    (raw / "0.zarr/.zgroup").write_text("{")
    report = batch(keep_going=False)
    assert statuses(report) == ["failed", "waiting", "waiting"]
    assert not report.interrupted


def test_a_dry_run_counts_the_time_of_verifying(raw: Path) -> None:
    seconds = [
        sum(r.seconds for r in batch({**JOB, "verify": verify}, state=None, dry_run=True))
        for verify in (False, True)
    ]
    assert seconds[1] > 1.2 * seconds[0] > 0


def test_a_dry_run_writes_nothing(raw: Path) -> None:
    (raw / "1.zarr/.zgroup").write_text("{")
    report = batch(dry_run=True)
    assert statuses(report) == ["planned", "failed", "planned"]
    assert report[0].nbytes == 6 * 4 * 4 * 4 + 6 * 8
    assert sorted(p.name for p in Path().iterdir()) == ["raw"]


@pytest.mark.slow
def test_shards_and_names(raw: Path, ran: list[str]) -> None:
    assert len(batch(shard="2/2")) == 1
    assert statuses(batch(shard=(1, 2))) == ["done", "done"]
    # each wrote its own part; all are read
    assert statuses(batch()) == ["skipped"] * 3
    assert [r.name for r in batch(only="j/2*")] == ["j/2.zarr"]


def test_a_collision_is_refused_before_anything_is_run(raw: Path) -> None:
    with pytest.raises(xchunk.TargetExistsError, match="Nothing was run"):
        batch({**JOB, "target": "out/x.zarr"})
    assert sorted(p.name for p in Path().iterdir()) == ["raw"]


@pytest.mark.slow
def test_joined(raw: Path) -> None:
    for i in range(3):
        path = source(f"{i}.zarr", seed=i)
        with xr.open_zarr(path) as ds:
            ds.load().assign_coords(t=ds.t + 6 * i).to_zarr(path, mode="w", zarr_format=2)
    report = batch(
        {**JOB, "target": "out/{job}.zarr", "joined": True, "verify": True, "zarr_format": 3}
    )
    assert statuses(report) == ["done"], report[0].message
    parts = [xr.open_zarr(f"raw/{i}.zarr").load() for i in range(3)]
    with xr.open_zarr("out/j.zarr") as ds:
        xr.testing.assert_identical(ds.load(), xr.concat(parts, "t"))
    assert chunks("out/j.zarr") == (18, 4, 4)
    assert statuses(
        batch({**JOB, "target": "out/{job}.zarr", "joined": True, "zarr_format": 3})
    ) == ["skipped"]


@pytest.mark.slow
def test_options_reach_the_store(raw: Path) -> None:
    report = batch(
        {
            **JOB,
            "zarr_format": 3,
            "shards": {"t": -1, "x": 4},
            "chunks": {"t": -1, "x": 2},
            "threads": 1,
            "encoding": {"v": {"dtype": "int16", "compressor": {"name": "gzip", "level": 3}}},
        },
        only="j/0.zarr",
    )
    assert statuses(report) == ["done"], report[0].message
    array = zarr.open_group("out/0.zarr", mode="r")["v"]
    assert (array.chunks, array.shards) == ((6, 4, 2), (6, 4, 4))
    assert array.dtype == "i2"
    assert "gzip" in str(array.compressors).lower()
    np.testing.assert_array_equal(array[:], zarr.open_group("raw/0.zarr", mode="r")["v"][:])
    assert dask.config.get("num_workers") == 2


def test_an_interrupt_leaves_a_state_that_goes_on(
    raw: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = xchunk.batching.run.run_item

    def interrupted(item: Any, *args: Any, **kwargs: Any) -> None:
        if item.name == "j/1.zarr":
            raise KeyboardInterrupt
        noted(item, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(xchunk.batching.run, "run_item", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch()
    lines = Path("state/state.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == [
        "running", "done", "running", "interrupted",
    ]  # fmt: skip
    assert statuses(batch()) == ["skipped", "done", "done"]
    assert ran == ["j/0.zarr", "j/1.zarr", "j/2.zarr"]


def test_killed_before_it_was_noted_that_it_is_complete(raw: Path, ran: list[str]) -> None:
    batch()
    path = Path("state/state.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    report = batch()
    assert statuses(report) == ["skipped", "skipped", "done"]
    assert "complete when an earlier run was stopped" in report[2].message
    assert report[2].verified
    assert len(ran) == 3
    assert statuses(batch()) == ["skipped"] * 3


@pytest.mark.slow
def test_done_before_stays_done_where_the_source_cannot_be_reached(
    raw: Path, ran: list[str]
) -> None:
    batch()
    Path("raw").rename("away")
    jobs = {**JOB, "source": [f"raw/{i}.zarr" for i in range(3)]}
    assert statuses(batch(jobs)) == ["failed"] * 3
    assert chunks("out/0.zarr") == (6, 4, 4)
    Path("away").rename("raw")
    assert statuses(batch(jobs)) == ["skipped"] * 3


@pytest.mark.slow
def test_without_a_state_finished_targets_are_refused(raw: Path) -> None:
    assert statuses(batch(state=None)) == ["done"] * 3
    report = batch(state=None)
    assert statuses(report) == ["failed"] * 3
    assert "is a zarr store already" in report[0].message
    assert report[0].log == ""


def test_credentials_are_nowhere(raw: Path) -> None:
    options = {"key": "AKIAXXXX", "secret": HIDDEN, "client_kwargs": {"token": HIDDEN}}
    job = {
        "name": "s",
        "source": f"ftp://me:{HIDDEN}@127.0.0.1:1/x.nc",
        "target": "out/s.zarr",
        "chunks": {"t": 1},
        "storage_options": options,
    }
    report = batch({**JOB, "storage_options": options}, job)
    assert statuses(report) == ["done"] * 3 + ["failed"]
    report.save("report.html")  # type: ignore[attr-defined]
    report.save("report.json")  # type: ignore[attr-defined]
    said = [repr(report), json.dumps(report.to_dict()), report._repr_html_()]  # type: ignore[attr-defined]
    for path in (*Path("state").rglob("*"), *Path().glob("report.*")):
        said += [path.read_text()] if path.is_file() else []
    assert len(said) > 8
    assert not any(HIDDEN in text for text in said)


@pytest.mark.slow
def test_the_report_shows_itself(raw: Path) -> None:
    (raw / "1.zarr/.zgroup").write_text("{")
    report = batch({**JOB, "verify": True})
    text = repr(report)
    assert max(map(len, text.splitlines())) <= 80
    assert "3 jobs, 2 done, 1 failed" in text
    assert text.index("j/1.zarr") < text.index("j/0.zarr")
    html = report._repr_html_()  # type: ignore[attr-defined]
    assert "j/1.zarr" in html
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["counts"]["done"] == 2
    assert [j["status"] for j in told["jobs"]] == ["done", "failed", "done"]
    assert report["j/0.zarr"].verified
    with pytest.raises(KeyError):
        report["nope"]
    assert [r.name for r in report[1:]] == ["j/1.zarr", "j/2.zarr"]


@pytest.mark.slow
def test_progress_is_told_on_stderr(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch(progress=True)
    err = capsys.readouterr().err
    assert "xchunk: [1/3] j/0.zarr: done" in err
    batch(progress=True)
    assert capsys.readouterr().err == "xchunk: 3 jobs done by an earlier run, and still right\n"


@pytest.mark.parametrize("jobs", [3, None, 1.5])
def test_what_is_no_list_of_jobs(jobs: Any) -> None:
    with pytest.raises(xchunk.InvalidJobError, match="no list of jobs"):
        xchunk.batch(jobs)
