"""One list of options: Python's keywords, the command line and job files agree with it."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import click
import pytest

import xchunk
from xchunk.batching.schema import JobOptions, parse_jobs
from xchunk.cli.main import xchunk as commands
from xchunk.rechunking.options import RechunkOptions, options_of

OPTIONS = dict(options_of())
LAYOUT = {name for name, about in OPTIONS.items() if about.layout}
VERBS = {
    "plan": set(OPTIONS),
    "apply": set(OPTIONS),
    "plan_append": set(OPTIONS) - LAYOUT,
    "append": set(OPTIONS) - LAYOUT,
    "plan_region": set(OPTIONS) - LAYOUT,
    "write_region": set(OPTIONS) - LAYOUT,
}


def test_every_field_is_an_option() -> None:
    assert [f.name for f in fields(RechunkOptions)] == list(OPTIONS)
    assert all(about.doc and about.type for about in OPTIONS.values())


@pytest.mark.parametrize(("verb", "names"), VERBS.items(), ids=VERBS)
def test_the_accessor_takes_them(verb: str, names: set[str]) -> None:
    method = getattr(xchunk.DatasetChunking, verb)
    parameters = inspect.signature(method).parameters
    assert names <= set(parameters)
    assert not (set(OPTIONS) - names) & set(parameters)
    defaults = {f.name: f.default for f in fields(RechunkOptions)}
    doc = inspect.getdoc(method) or ""
    for name in names - {"chunks"}:
        assert parameters[name].default == defaults[name]
        assert f"{name} : {OPTIONS[name].type}\n    {OPTIONS[name].doc}" in doc


@pytest.mark.parametrize("command", ["plan", "rechunk"])
def test_the_command_line_takes_them(command: str) -> None:
    taken = {o for p in commands.commands[command].params for o in p.opts}
    assert {about.flag for about in OPTIONS.values() if about.flag} <= taken


def test_a_command_says_what_an_option_says() -> None:
    (found,) = [p for p in commands.commands["rechunk"].params if p.name == "max_mem"]
    assert isinstance(found, click.Option)
    assert found.help is not None
    assert OPTIONS["max_mem"].doc.startswith(found.help)


VALUES: dict[str, Any] = {
    "chunks": {"time": -1}, "access": "map", "memory": "4GiB", "max_mem": "1GB",
    "shards": {"time": 8}, "zarr_format": 3, "overwrite": True, "unpack": True,
    "scratch": "scratch", "rechunk_engine": "rechunker", "message": "monthly",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n, about in OPTIONS.items() if about.key])
def test_a_job_file_takes_them(name: str) -> None:
    key = str(OPTIONS[name].key)
    said = {"source": "a.nc", "target": "b.zarr", key: VALUES[key]}
    if key != "access":
        said.setdefault("chunks", {"time": -1})
    (job,) = parse_jobs([said])
    assert isinstance(job.options, JobOptions)
    sizes = {"memory": 4 * 1024**3, "max_mem": 10**9}
    assert getattr(job.options, name) == sizes.get(key, VALUES[key])
    assert name in job.options.given()


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"maxmem": 1}, TypeError, "did you mean 'max_mem'"),
        ({"chunk": {}}, TypeError, "did you mean 'chunks'"),
        ({"colour": "red"}, TypeError, "It takes: "),
        ({"max_mem": "much"}, xchunk.InvalidChunksError, "max_mem"),
        ({"zarr_format": 4}, xchunk.EncodingError, "Give 2 or 3"),
        ({"zarr_format": 2, "shards": {"t": 4}}, xchunk.EncodingError, "has no shards"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_wrong_is_said_first(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    import xarray as xr

    with pytest.raises(error, match=said):
        xr.Dataset({"a": ("t", [1.0])}).chunking.plan(
            {"t": -1} if "chunk" not in given else None, store="never.zarr", **given
        )
