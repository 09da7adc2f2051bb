from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xchunk.batching.schema import (
    Item,
    expand,
    parse_jobs,
    parse_shard,
    pick,
    read_job_file,
    take_shard,
)
from xchunk.errors import InvalidJobError, TargetExistsError

CHUNKS = {"chunks": {"time": -1}}


def items(*jobs: dict[str, Any], base: str | Path = ".") -> tuple[Item, ...]:
    return expand(parse_jobs([{**CHUNKS, **job} for job in jobs]), base)


@pytest.fixture
def raw() -> Path:
    for name in ("a.nc", "b.nc", "c.txt", "2001/a.nc", "2001/b.nc"):
        path = Path("raw") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return Path("raw").absolute()


def test_a_glob_makes_one_item_for_each_file(raw: Path) -> None:
    found = items({"name": "j", "source": "raw/*.nc", "target": "out/{stem}.zarr"})
    assert [i.name for i in found] == ["j/a.nc", "j/b.nc"]
    assert [i.sources for i in found] == [(f"{raw}/a.nc",), (f"{raw}/b.nc",)]
    assert found[0].target == f"{raw.parent}/out/a.zarr"


def test_paths_are_relative_to_the_base(raw: Path) -> None:
    (found,) = items({"source": "a.nc", "target": "../x.zarr"}, base=raw)
    assert found.sources == (f"{raw}/a.nc",)
    assert found.target == f"{raw.parent}/x.zarr"
    assert found.name == "job-1"


def test_a_tree_is_mirrored(raw: Path) -> None:
    found = items({"source": "raw/**/*.nc", "target": "out/{dir}/{stem}.zarr"})
    below = sorted(str(Path(i.target).relative_to(raw.parent / "out")) for i in found)
    assert below == ["2001/a.zarr", "2001/b.zarr", "a.zarr", "b.zarr"]
    assert "job-1/2001/a.nc" in {i.name for i in found}


def test_a_folder_stands_for_the_files_in_it(raw: Path) -> None:
    found = items({"source": "raw", "target": "out/{stem}.zarr"})
    assert [Path(i.sources[0]).name for i in found] == ["a.nc", "b.nc"]


def test_joined(raw: Path) -> None:
    (found,) = items(
        {"name": "all", "source": "raw/*.nc", "target": "out/{job}.zarr", "joined": True}
    )
    assert [Path(s).name for s in found.sources] == ["a.nc", "b.nc"]
    assert Path(found.target).name == "all.zarr"


def test_urls_stay_as_they_are() -> None:
    (found,) = items(
        {"source": "https://u:p@host/a.nc?token=x", "target": "s3://k:s@bucket/o.zarr"}
    )
    assert found.sources == ("https://u:p@host/a.nc?token=x",)
    assert found.key == "s3://bucket/o.zarr"


def test_a_pattern_that_fits_nothing_is_a_fault_of_its_own(raw: Path) -> None:
    sound, faulty = items(
        {"source": "raw/a.nc", "target": "a.zarr"},
        {"name": "none", "source": "raw/x*.nc", "target": "out/{stem}.zarr"},
    )
    assert not sound.fault
    assert "no file has such a name" in faulty.fault
    assert faulty.name == "none"


def test_a_missing_source_is_left_to_the_run() -> None:
    (found,) = items({"source": "nope.nc", "target": "a.zarr"})
    assert not found.fault


def test_targets_of_the_batch_are_no_sources_of_it(raw: Path) -> None:
    (raw / "a_ts.nc").mkdir()
    found = items({"source": "raw/*.nc", "target": "raw/{stem}_ts.nc"})
    assert [Path(i.sources[0]).name for i in found] == ["a.nc", "b.nc"]


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([{"source": "raw/*.nc", "target": "out.zarr"}], "(2 in all) have the same target"),
        (
            [{"source": "raw/a.nc", "target": "x"}, {"source": "raw/b.nc", "target": "./x/"}],
            "have the same target",
        ),
        (
            [{"source": "raw/a.nc", "target": "x"}, {"source": "raw/b.nc", "target": "x/y"}],
            "lies inside that of",
        ),
        (
            [{"source": "raw/a.nc", "target": "x"}, {"source": "x", "target": "y"}],
            "lie one inside the other",
        ),
        ([{"source": "raw/a.nc", "target": "raw"}], "lie one inside the other"),
        ([{"source": "raw/2001/a.nc", "target": "raw/2001/a.nc/x"}], "lie one inside the other"),
        ([{"source": "link/a.nc", "target": "raw/a.nc"}], "lie one inside the other"),
        (
            [{"source": "s3://b/a", "target": "s3://b/x"}, {"source": "q", "target": "s3://b/x/"}],
            "have the same target",
        ),
    ],
)
def test_collisions_are_refused(raw: Path, jobs: list[dict[str, Any]], said: str) -> None:
    Path("link").symlink_to(raw)
    with pytest.raises(TargetExistsError) as caught:
        items(*jobs)
    assert said in str(caught.value)
    assert "Nothing was run" in str(caught.value)


def test_names_are_unique(raw: Path) -> None:
    found = items({"source": ["raw/a.nc", "raw/2001/a.nc"], "target": "out/{parent}_{stem}.zarr"})
    assert [i.name for i in found] == ["job-1/a.nc", "job-1/a.nc~2"]


def named(*names: str) -> tuple[Item, ...]:
    (first,) = items({"source": "x", "target": "y"})
    return tuple(
        Item(n, n.partition("/")[0], first.sources, f"t{i}", first.options)
        for i, n in enumerate(names)
    )


@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        ([], ["a/1", "a/2", "b"]),
        (["a"], ["a/1", "a/2"]),
        (["a/2"], ["a/2"]),
        (["*/1", "b"], ["a/1", "b"]),
    ],
)
def test_picking(only: list[str], wanted: list[str]) -> None:
    assert [i.name for i in pick(named("a/1", "a/2", "b"), only)] == wanted


def test_picking_nothing() -> None:
    with pytest.raises(InvalidJobError, match="no job has the name 'a/3'; did you mean 'a/"):
        pick(named("a/1", "a/2", "b"), ["a/3"])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_take_each_item_once(count: int) -> None:
    every = named(*(f"j/{i}" for i in range(10)))
    parts = [take_shard(every, parse_shard(f"{k}/{count}")) for k in range(1, count + 1)]
    assert sorted(i.name for part in parts for i in part) == sorted(i.name for i in every)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("said", ["0/3", "4/3", "3", "a/b", "1/2/3", "-1/3", "", (1,), "1/0"])
def test_impossible_shards(said: Any) -> None:
    with pytest.raises(InvalidJobError, match="K/N"):
        parse_shard(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[defaults", "is not TOML"), (b"\xff\xfe", "is not TOML"), (None, "cannot be read")],
)
def test_unreadable_job_files(content: bytes | None, said: str) -> None:
    if content is not None:
        Path("jobs.toml").write_bytes(content)
    with pytest.raises(InvalidJobError, match=said):
        read_job_file("jobs.toml")
