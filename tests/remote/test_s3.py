"""Rechunks on a real S3 server, through s3fs and through obstore."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client

import xchunk
from remote.data import SHARDS, WHAT, Library, Place, enough_for, maps
from servers.proxy import proxy
from servers.s3 import BUCKET, KEY, S3
from shared.stores import write
from xchunk.stores.adapter import copy_key
from xchunk.stores.parts import is_document

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
slow = pytest.mark.slow


def check_bits(place: Place, store: str, local: Path) -> None:
    found, source = place.raw(store), zarr.open_group(local, mode="r")
    assert sorted(found) == ["m", "t", "v"]
    for name, values in found.items():
        assert values.dtype == source[name].dtype
        np.testing.assert_array_equal(values, source[name][...])


@pytest.mark.parametrize(
    ("library", "source", "target"),
    [
        pytest.param("s3fs", {"shards": True}, {}, marks=slow, id="s3fs shards to chunks"),
        pytest.param("obstore", {"zarr_format": 2}, {"zarr_format": 3, "shards": SHARDS},
                     marks=slow, id="obstore v2 to shards"),
        pytest.param("s3fs", {"zarr_format": 2}, {}, marks=slow, id="s3fs v2 to v2"),
        pytest.param("s3fs", {}, {"shards": SHARDS}, marks=slow, id="s3fs v3 to shards"),
        pytest.param("url", {}, {}, id="URL v3 to v3"),
        pytest.param("obstore", {}, {"zarr_format": 2}, marks=slow, id="obstore v3 to v2"),
        pytest.param("obstore", {"shards": True}, {"shards": SHARDS}, marks=slow,
                     id="obstore shards to shards"),
    ],
)  # fmt: skip
def test_source_scratch_and_target(
    s3: S3, folder: Path, library: Library, source: dict[str, Any], target: dict[str, Any]
) -> None:
    place = Place.new(s3, library)
    local = maps(folder, **source)
    place.put(local, "maps.zarr")
    ds = place.open("maps.zarr")
    to = {**place.target("series.zarr"), **target}
    most = enough_for(ds, **to)
    plan = ds.chunking.plan(WHAT, max_mem=most, **to)
    assert plan["v"].family != "direct"
    assert plan.target == s3.url(place.key("series.zarr"))
    assert place.keys("series.zarr") == []
    out = ds.chunking.apply(WHAT, max_mem=most, progress=False, verify=True, **to)
    xr.testing.assert_identical(out.load(), ds.load())
    check_bits(place, "series.zarr", local)
    # nothing of ours is left, and no empty object either
    keys = place.keys("series.zarr")
    assert {k.partition("/")[0] for k in keys} <= {
        "v", "m", "t", "zarr.json", ".zgroup", ".zattrs", ".zmetadata",
    }  # fmt: skip
    shards = "shards" in target
    assert len([k for k in keys if k.startswith("v/") and k[-1].isdigit()]) == (
        15 if shards else 30
    )
    with pytest.raises(xchunk.TargetExistsError, match="overwrite"):
        ds.chunking.plan(WHAT, max_mem=most, **to)


def predicted(plan: xchunk.RechunkPlan) -> int:
    """The requests of a plan, for the data alone."""
    return sum(stage.work.requests for array in plan.arrays for stage in array.stages)


def data_requests(seen: Any) -> int:
    """Requests for data that were answered: chunks of source, scratch and target."""
    return sum(
        r.method in ("GET", "PUT")
        and r.status < 400
        and not r.is_listing
        and r.key.rpartition("/")[2].replace(".", "").isdigit()
        and "/journal/" not in r.key
        for r in seen
    )


@pytest.mark.parametrize(
    ("library", "delay", "fails_every"),
    [
        pytest.param("obstore", 0.0, 0, id="obstore"),
        pytest.param("obstore", 0.02, 23, marks=slow, id="obstore slow and failing"),
        pytest.param("s3fs", 0.02, 23, marks=slow, id="s3fs slow and failing"),
    ],
)
def test_requests_are_those_of_the_plan(
    s3: S3, folder: Path, library: Library, delay: float, fails_every: int
) -> None:
    local = maps(folder)
    with proxy(s3.port, delay=delay, fails_every=fails_every) as between:
        place = Place.new(s3.at(between.port), library)
        place.put(local, "maps.zarr")
        # coordinates that xarray looks at are its own requests
        ds = place.open("maps.zarr", chunks={}).drop_vars("t")
        to = place.target("series.zarr")
        most = enough_for(ds, **to)
        plan = ds.chunking.plan(WHAT, max_mem=most, **to)
        assert plan["v"].family != "direct"
        between.clear()
        # that very plan: how far the store seems may be another thing a moment later
        plan.run(progress=False)
        counted, expected = data_requests(between.seen), predicted(plan)
        print(  # noqa: T201 - the counts, for who runs it with -s
            f"{library}: {counted} requests for data, {expected} predicted; {len(between.seen)} in "
            f"all, {between.failed} of them answered with 503"
        )
        assert counted == expected
        assert (between.failed > 0) == bool(fails_every)
        # everything was read once, through scratch
        reads = between.counted(f"{place.key('maps.zarr')}/v/c/", "GET")
        assert len(reads) == 32
        assert set(reads.values()) == {1}
    direct = Place(s3, library, place.name)
    found, source = direct.raw("series.zarr"), zarr.open_group(local, mode="r")
    for name in ("v", "m"):
        np.testing.assert_array_equal(found[name], source[name][...])
    assert not [k for k in direct.keys("series.zarr") if ".xchunk" in k]


@slow
@pytest.mark.parametrize("library", ["s3fs", "obstore", "url"])
def test_a_store_that_fails_is_resumed_or_cleaned(
    s3: S3, folder: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = maps(folder)
    place = Place.new(s3, library)
    place.put(local, "maps.zarr")
    ds, to = place.open("maps.zarr"), place.target("series.zarr")
    most = enough_for(ds, **to)
    where = {"storage_options": to.get("storage_options")}
    stop_after(monkeypatch, 4)
    with pytest.raises(xchunk.StageFailedError, match="same call resumes"):
        ds.chunking.apply(WHAT, max_mem=most, progress=False, **to)
    monkeypatch.undo()
    # nobody can open it, and it is known to be ours
    left = place.keys("series.zarr")
    assert "zarr.json" not in left
    assert ".xchunk/marker.json" in left
    with pytest.raises((FileNotFoundError, KeyError)):
        place.open("series.zarr")
    plan = ds.chunking.plan(WHAT, max_mem=most, **to)
    assert any("not copied again" in note for note in plan.notes)
    # another chunk in the source: what is copied already is of other data
    changed = f"{BUCKET}/{place.key('maps.zarr')}/v/c/7/0/0"
    fs = s3.filesystem()
    old = fs.cat(changed)
    fs.pipe(changed, fs.cat(changed.replace("/7/", "/8/")))
    with pytest.raises(xchunk.ResumeMismatchError, match="source objects differ"):
        place.open("maps.zarr").chunking.plan(WHAT, max_mem=most, **to)
    fs.pipe(changed, old)
    # the first stage is not read again: its boxes are noted
    listed = xchunk.clean(to["store"], **where)
    assert listed.dry_run
    assert set(listed.keys) >= {k for k in left if k.startswith((".xchunk/", "v/"))}
    assert place.keys("series.zarr") == left
    xchunk.clean(to["store"], dry_run=False, **where)
    assert place.keys("series.zarr") == []
    ds.chunking.plan(WHAT, max_mem=most, **to)


def stop_after(monkeypatch: pytest.MonkeyPatch, boxes: int) -> None:
    """Let writing fail after so many boxes."""
    from xchunk.targets.journal import BoxMarks

    put = BoxMarks.put
    count = iter(range(10**6))

    def fail(marks: BoxMarks, box: int) -> None:
        if next(count) >= boxes:
            raise OSError("the line is dead")
        put(marks, box)

    monkeypatch.setattr(BoxMarks, "put", fail)


def only_documents(copy: Any) -> Any:
    """Let nothing but metadata be copied through the client."""

    def copied(store: Any, old: str, new: str) -> None:
        assert is_document(new)
        copy(store, old, new)

    return copied


@slow
@pytest.mark.parametrize("library", ["s3fs", "obstore", "url"])
def test_overwriting(
    s3: S3, folder: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no renaming on an object store: the server copies objects when all is done."""
    local = maps(folder)
    place = Place.new(s3, library)
    place.put(local, "maps.zarr")
    place.put(local, "old.zarr")
    ds, to = place.open("maps.zarr"), place.target("old.zarr")
    with pytest.raises(xchunk.TargetExistsError, match="overwrite"):
        ds.chunking.apply(WHAT, progress=False, **to)
    plan = ds.chunking.plan(WHAT, overwrite=True, **to)
    assert any("is replaced when the new store is complete" in note for note in plan.notes)
    monkeypatch.setattr("xchunk.stores.parts.copy_key", only_documents(copy_key))
    ds.chunking.apply(WHAT, overwrite=True, progress=False, **to)
    check_bits(place, "old.zarr", local)
    assert len([k for k in place.keys("old.zarr") if k.startswith("v/c/")]) == 30
    # so is what xchunk itself has made: the folder of its workspace is empty, and still listed
    again = {**WHAT, "y": 20}
    ds.chunking.apply(again, overwrite=True, progress=False, **to)
    check_bits(place, "old.zarr", local)
    assert len([k for k in place.keys("old.zarr") if k.startswith("v/c/")]) == 15
    # what is no zarr store is not touched, nor is the source
    s3.filesystem().pipe(f"{BUCKET}/{place.key('notes')}/a.txt", b"mine")
    with pytest.raises(xchunk.TargetExistsError, match="no zarr store"):
        ds.chunking.apply(WHAT, overwrite=True, progress=False, **place.target("notes"))
    other: Library = "s3fs" if library == "obstore" else "obstore"
    for store in (place.target("maps.zarr"), Place(s3, other, place.name).target("maps.zarr/in")):
        with pytest.raises(xchunk.TargetExistsError, match="one inside the other"):
            ds.chunking.apply(WHAT, overwrite=True, progress=False, **store)
    assert place.keys("notes") == ["a.txt"]


CHILD = """
import json, sys
import xarray as xr, xchunk
job = json.load(sys.stdin)
ds = xr.open_zarr(job["source"], storage_options=job["options"])
ds.chunking.apply(job["what"], store=job["target"], storage_options=job["options"],
                  max_mem=job["max_mem"], progress=False)
"""


@pytest.mark.slow
def test_killed_and_resumed(s3: S3, folder: Path) -> None:
    """SIGKILL in the middle: the same call resumes, and copies what was not copied."""
    import json

    local = maps(folder)
    with proxy(s3.port, delay=0.02) as between:
        place = Place.new(s3.at(between.port), "url")
        place.put(local, "maps.zarr")
        to = place.target("series.zarr")
        most = enough_for(place.open("maps.zarr"), **to)
        job = {
            "source": place.s3.url(place.key("maps.zarr")),
            "target": to["store"],
            "options": to["storage_options"],
            "what": WHAT,
            "max_mem": most,
        }
        between.clear()
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(job))
        child.stdin.close()
        marks = f"{place.name}/series.zarr/.xchunk/journal/"
        end = time.monotonic() + 120
        while len(between.counted(marks, "PUT")) < 8:
            assert child.poll() is None, child.stderr and child.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stderr is not None
        child.stderr.close()
        assert "zarr.json" not in place.keys("series.zarr")
        done = len([k for k in place.keys("series.zarr") if "/journal/" in k]) - 1
        between.clear()
        ds = place.open("maps.zarr")
        plan = ds.chunking.plan(WHAT, max_mem=most, **to)
        assert f"stopped after {done} boxes" in " ".join(plan.notes)
        between.clear()
        ds.chunking.apply(WHAT, max_mem=most, progress=False, **to)
        # whole boxes of the first stage were not read again
        reads = between.counted(f"{place.name}/maps.zarr/v/c/", "GET")
        assert len(reads) < 32
    direct = Place(s3, "s3fs", place.name)
    check_bits(direct, "series.zarr", local)
    assert not [k for k in direct.keys("series.zarr") if ".xchunk" in k]


MEMORY = """
import json, sys, warnings
from pathlib import Path
import dask, xarray as xr, xchunk

def status(field):
    found = Path("/proc/self/status").read_text().split(field + ":")[1]
    return int(found.split()[0]) * 1024

warnings.simplefilter("ignore")
job = json.load(sys.stdin)
dask.config.set(scheduler="threads", num_workers=2)
ds = xr.open_zarr(job["source"], storage_options=job["options"], chunks={})
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is no peak of ours
before = status("VmRSS")
ds.chunking.apply(job["what"], store=job["target"], storage_options=job["options"],
                  max_mem=job["max_mem"], progress=False)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.memory
@pytest.mark.subprocess
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc"
)
def test_what_s3fs_holds_is_within_the_budget(s3: S3, tmp_path: Path) -> None:
    """From before the first plan of a process on, which has read the source's metadata."""
    import json

    values = np.random.default_rng(0).integers(0, 2**32, (300, 180, 360), dtype="u4")
    arrays = {"v": (values, (1, 180, 360), ("t", "y", "x"))}
    place = Place.new(s3, "s3fs")
    place.put(write(tmp_path / "maps.zarr", arrays), "maps.zarr")
    for max_mem in (32_000_000, 48_000_000):
        name = f"{max_mem}.zarr"
        job = {
            "source": s3.url(place.key("maps.zarr")),
            "target": s3.url(place.key(name)),
            # obstore does not know the last of them
            "options": {**s3.options, "config_kwargs": {"connect_timeout": 60}},
            "what": {"t": -1, "y": 30, "x": 30},
            "max_mem": max_mem,
        }
        done = subprocess.run(
            [sys.executable, "-c", MEMORY],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) <= max_mem
        np.testing.assert_array_equal(place.raw(name)["v"], values)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["s3fs", "obstore", "url"])
def test_a_cluster_of_processes(s3: S3, client: Client, folder: Path, library: Library) -> None:
    local = maps(folder)
    place = Place.new(s3, library)
    place.put(local, "maps.zarr")
    ds, to = place.open("maps.zarr"), place.target("series.zarr")
    most = enough_for(ds, **to)
    out = ds.chunking.apply(WHAT, max_mem=most, progress=False, verify=True, **to)
    xr.testing.assert_identical(out.load(), ds.load())
    check_bits(place, "series.zarr", local)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"secret": "wrong-secret-77"}, "cannot be reached"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
    ids=["bad secret", "nobody there"],
)
@pytest.mark.parametrize("library", ["s3fs", "obstore"])
def test_what_cannot_be_reached(
    s3: S3, library: Library, options: dict[str, str], said: str
) -> None:
    ds = xr.Dataset({"v": ("x", np.arange(4))})
    given: dict[str, Any] = {**s3.options, **options}
    if library == "s3fs":
        given["config_kwargs"] = {"retries": {"max_attempts": 1}}
    with pytest.raises(xchunk.SourceError, match=said) as caught:
        ds.chunking.apply({"x": 2}, store=s3.url("x.zarr"), storage_options=given, progress=False)
    assert "wrong-secret-77" not in str(caught.value)
    assert KEY in given["key"]
