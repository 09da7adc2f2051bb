from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.batching.schema import Job, parse_jobs
from xchunk.errors import InvalidJobError

JOB = {"source": "raw/*.nc", "target": "out/{stem}.zarr", "chunks": {"time": -1}}


def one(**said: Any) -> Job:
    (job,) = parse_jobs([{**JOB, **said}])
    return job


def test_a_job_file_as_it_is_documented() -> None:
    said = tomllib.loads(
        """
        [defaults]
        access = "timeseries"
        memory = "4GiB"
        verify = true

        [[job]]
        name = "surface"
        source = "raw/sfc_*.nc"
        target = "out/{stem}.zarr"

        [[job]]
        source = ["a.nc", "b.nc"]
        target = "out/ab.zarr"
        joined = true
        chunks = { t2m = { time = -1, lat = 10 } }
        shards = { t2m = { time = -1, lat = 100 } }
        max_mem = "400MB"
        threads = 2
        zarr_format = 3
        verify = false
        encoding = { t2m = { dtype = "int16", _FillValue = -1, compressor = "zstd" } }
        storage_options = { anon = true }
        """
    )
    first, second = parse_jobs(said, "jobs.toml")
    assert (first.name, first.sources, first.target) == (
        "surface",
        ("raw/sfc_*.nc",),
        "out/{stem}.zarr",
    )
    assert (first.options.access, first.options.chunks) == ("timeseries", None)
    assert (first.options.memory, first.options.verify) == (4 * 1024**3, True)
    assert second.name == "job-2"
    assert second.sources == ("a.nc", "b.nc")
    # what a job says takes the place of its counterpart in the defaults
    assert (second.options.access, second.options.memory) == (None, None)
    assert second.options.chunks == {"t2m": {"time": -1, "lat": 10}}
    assert second.options.max_mem == 400_000_000
    assert (second.options.joined, second.options.verify, second.options.threads) == (
        True,
        False,
        2,
    )
    assert second.options.for_target == {"anon": True}


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"chunk": {"time": 1}}, "'chunk' is not known; did you mean 'chunks'?"),
        ({"sorce": "x"}, "did you mean 'source'?"),
        ({"format": 3}, "did you mean 'zarr_format'?"),
        ({"store": "x"}, "did you mean 'target'?"),
        ({"compressor": "zstd"}, "did you mean 'encoding'?"),
        ({"zzz": 1}, "'zzz' is not known; did you mean"),
        ({"chunks": {}}, "is empty"),
        ({"chunks": {"time": 0}}, "neither positive nor -1"),
        ({"chunks": {"time": True}}, "neither positive nor -1"),
        ({"chunks": {"time": 1.5}}, "neither positive nor -1"),
        ({"chunks": {"time": -1, "t": {"lat": 1}}}, "mixes dims and variables"),
        ({"chunks": "time"}, "is not a table"),
        ({"chunks": {"time": 1}, "access": "map"}, "says chunks and access"),
        ({"memory": "1GB", "max_mem": "1GB"}, "says memory and max_mem"),
        ({"memory": "lots"}, "memory='lots' is not a size"),
        ({"memory": 0}, "at least one byte"),
        ({"threads": 0}, "not a positive whole number"),
        ({"threads": True}, "not a positive whole number"),
        ({"zarr_format": 4}, "zarr_format = 4 does not exist"),
        ({"zarr_format": "3"}, "does not exist"),
        ({"zarr_format": 2, "shards": {"time": 4}}, "format 2 has no shards"),
        ({"verify": "yes"}, "neither true nor false"),
        ({"verify": 1}, "neither true nor false"),
        ({"source": []}, "is empty"),
        ({"source": 3}, "is not a text"),
        ({"source": ""}, "is not a text"),
        ({"target": ["a"]}, "is not a text"),
        ({"target": "out/{stm}.zarr"}, "did you mean {stem}?"),
        ({"target": "out/{}.zarr"}, "is not known"),
        ({"target": "out/{stem.__class__}.zarr"}, "is not known"),
        ({"target": "out/{stem!r}.zarr"}, "only {index}"),
        ({"target": "out/{stem:>9}.zarr"}, "only {index}"),
        ({"target": "out/{index:{stem}}.zarr"}, "only {index}"),
        ({"target": "out/{stem.zarr"}, "is not a template"),
        ({"joined": True}, "{stem}, but with joined = true"),
        ({"combine": "nested"}, "combine is for files that are joined"),
        ({"combine": "any", "joined": True, "target": "a"}, "Give 'by_coords' or 'nested'"),
        ({"encoding": {"t": "zstd"}}, "is not a table for each variable"),
        ({"encoding": {"t": {"dtyp": "i2"}}}, "did you mean 'dtype'?"),
        ({"storage_options": "anon"}, "is not a table"),
        ({"name": ""}, "is not a text"),
    ],
)
def test_what_is_wrong_is_named(said: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        one(**said)
    assert wanted in str(caught.value)
    assert "the jobs: job 1" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ([], "there are no jobs"),
        ({}, "there are no jobs"),
        ({"job": {}}, "job is not a list of tables"),
        ({"job": "x"}, "job is not a list of tables"),
        ({"job": [3]}, "job 1 is not a table"),
        ({"jobs": [JOB]}, "did you mean 'job'?"),
        ({"default": {}, "job": [JOB]}, "did you mean 'defaults'?"),
        ({"defaults": 3, "job": [JOB]}, "defaults is not a table"),
        ({"defaults": {"name": "x"}, "job": [JOB]}, "defaults: the key 'name' is not known"),
        ({"defaults": {"source": "x"}, "job": [JOB]}, "defaults: the key 'source'"),
        ([{"target": "x", "access": "map"}], "has no source"),
        ([{"source": "x", "access": "map"}], "has no target"),
        ([{"source": "x", "target": "y"}], "neither chunks nor access"),
        ([{**JOB, "name": "a"}, {**JOB, "name": "a"}], "two jobs have the name 'a'"),
    ],
)
def test_what_is_wrong_with_the_whole(said: Any, wanted: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        parse_jobs(said)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("access", "kept"),
    [
        ("map", "map"),
        ({"time": -1, "lat": 4}, {"time": -1, "lat": 4}),
        ([["timeseries", 0.7], ["map", 1]], [("timeseries", 0.7), ("map", 1.0)]),
    ],
)
def test_uses(access: Any, kept: Any) -> None:
    (job,) = parse_jobs([{"source": "a", "target": "b", "access": access}])
    assert job.options.access == kept


def test_given_defaults_go_over_those_of_the_file() -> None:
    said = {"defaults": {"memory": "1GB", "verify": True}, "job": [JOB]}
    (job,) = parse_jobs(said, defaults={"max_mem": "2GB"})
    assert (job.options.memory, job.options.max_mem) == (None, 2_000_000_000)
    assert job.options.verify


def test_the_digest_is_of_what_the_result_depends_on() -> None:
    plain = one().options.digest
    assert one(memory="1GB", threads=3, verify=True, overwrite=True).options.digest == plain
    assert one(storage_options={"key": "secret"}).options.digest == plain
    for said in (
        {"chunks": {"time": 4}},
        {"zarr_format": 2},
        {"group": "a"},
        {"encoding": {"t": {"dtype": "f4"}}},
        {"unpack": True},
    ):
        assert one(**said).options.digest != plain


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(["source", "target", "chunks", "access", "encoding", "memory", "x", "name"])


@given(st.lists(st.dictionaries(KEYS, JUNK, max_size=5), max_size=3), st.booleans())
def test_junk_is_refused_in_words(jobs: list[Any], as_file: bool) -> None:
    try:
        parsed = parse_jobs({"job": jobs} if as_file else jobs)
    except InvalidJobError as error:
        assert str(error)
    else:
        assert len(parsed) == len(jobs)
