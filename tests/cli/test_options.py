from __future__ import annotations

from typing import Any

import click
import pytest

from xchunk.cli import main
from xchunk.cli.options import request_of
from xchunk.cli.output import Output
from xchunk.cli.values import (
    PRESETS,
    Secrets,
    access_of,
    encodings_of,
    is_secret,
    pairs,
    pattern_of,
    region_of,
)
from xchunk.errors import EncodingError, InvalidChunksError


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((), {}),
        (("anon=true",), {"anon": True}),
        (("anon=false", "timeout=30"), {"anon": False, "timeout": 30}),
        (("key=123456", "secret=1e5"), {"key": "123456", "secret": "1e5"}),
        (("profile=me=you",), {"profile": "me=you"}),
        (("empty=",), {"empty": ""}),
        (
            ("client_kwargs.endpoint_url=http://h:1", "client_kwargs.verify=false"),
            {"client_kwargs": {"endpoint_url": "http://h:1", "verify": False}},
        ),
        (('client_kwargs={"region_name": "x"}',), {"client_kwargs": {"region_name": "x"}}),
    ],
)
def test_storage_options(given: tuple[str, ...], found: dict[str, Any]) -> None:
    assert pairs(given) == found


@pytest.mark.parametrize("item", ["x", "=x", ".a=x", "a..b=x"])
def test_odd_storage_options_are_not_repeated(item: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        pairs([item])
    assert item.rpartition("=")[2] not in caught.value.message.replace("KEY=VALUE", "")


def test_an_option_within_a_value() -> None:
    with pytest.raises(click.UsageError, match="a has a value"):
        pairs(["a=1", "a.b=2"])


@pytest.mark.parametrize(
    ("access", "whole", "found"),
    [
        ((), (), None),
        (("timeseries",), (), "timeseries"),
        (("timeseries:0.7",), (), "timeseries"),
        (("timeseries:0.7", "map:0.3"), (), [("timeseries", 0.7), ("map", 0.3)]),
        (("timeseries:2,map",), (), [("timeseries", 2.0), ("map", 1.0)]),
        ((), ("lat,lon", "time"), {"lat": -1, "lon": -1, "time": -1}),
    ],
)
def test_uses(access: tuple[str, ...], whole: tuple[str, ...], found: Any) -> None:
    assert access_of(access, whole) == found


def test_presets_are_those_that_suggest_knows() -> None:
    from xchunk.core.suggest import access

    assert tuple(access.PRESETS) == PRESETS


def test_wrong_uses() -> None:
    with pytest.raises(InvalidChunksError, match="much"):
        access_of(("map:much", "scan"), ())
    with pytest.raises(InvalidChunksError, match="did you mean 'timeseries'"):
        access_of(("timeserie",), ())
    with pytest.raises(click.UsageError, match="not both"):
        access_of(("map",), ("time",))


NO_PATTERN = {
    "passes": None, "reduce": (), "rolling": (), "groupby": None, "resample": None, "growing": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {}),
        ({"passes": 3.0, "reduce": ("time,lat",)}, {"passes": 3.0, "reduce": ["time", "lat"]}),
        ({"reduce": ("time=std",)}, {"reduce": {"time": "std"}}),
        ({"rolling": ("time=24",)}, {"rolling": {"time": 24}}),
        ({"groupby": "time.month"}, {"groupby": "time.month"}),
        ({"growing": "time"}, {"growing": "time"}),
        ({"growing": "time=744"}, {"growing": {"time": 744}}),
        ({"resample": "time=MS"}, {"resample": {"time": "MS"}}),
    ],
)
def test_patterns(given: dict[str, Any], found: dict[str, Any]) -> None:
    assert pattern_of({**NO_PATTERN, **given}) == found


NOTHING: dict[str, Any] = {
    "dst": "out.zarr", "chunks": (), "access": (), "whole": (), "shards": (), "storage": (),
    "target_storage": (), "zarr_format": None, "overwrite": False, "unpack": False,
    "resume": False, "append_dim": None, "no_check_labels": False, "region": None, "scratch": None,
    "encoding": (), "rechunk_engine": None, "message": None, "memory": None, "max_mem": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"chunks": ("time=-1",)}, {"chunks": {"time": -1}}),
        ({"access": ("map",), "resume": True}, {"access": "map", "resume": False}),
        ({"append_dim": "time"}, {}),
        ({"region": "auto"}, {}),
        (
            {"chunks": ("a=1",), "storage": ("anon=true",)},
            {"chunks": {"a": 1}, "storage_options": {"anon": True}},
        ),
        (
            {"chunks": ("a=1",), "storage": ("anon=true",), "target_storage": ("profile=me",)},
            {"chunks": {"a": 1}, "storage_options": {"profile": "me"}},
        ),
        (
            {
                "chunks": ("a=1",),
                "zarr_format": "2",
                "max_mem": "1MB",
                "rechunk_engine": "rechunker",
            },
            {"chunks": {"a": 1}, "zarr_format": 2, "max_mem": 1_000_000, "engine": "rechunker"},
        ),
    ],
)
def test_requests(given: dict[str, Any], found: dict[str, Any]) -> None:
    assert request_of(Output(), {**NOTHING, **given}) == found


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (None, None),
        ("auto", "auto"),
        (
            "time=0:24,lat=auto,lon=5:",
            {"time": slice(0, 24), "lat": "auto", "lon": slice(5, None)},
        ),
    ],
)
def test_regions(typed: str | None, found: Any) -> None:
    assert region_of(typed) == found


@pytest.mark.parametrize("region", ["time", "time=", "time=a:b", "=1:2", "time=1", "time=0:1;x"])
def test_odd_regions(region: str) -> None:
    with pytest.raises(click.UsageError, match="--region"):
        request_of(Output(), {**NOTHING, "region": region})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((), {}),
        (("compressor=zstd",), {"*": {"compressor": {"name": "zstd"}}}),
        (
            ("compressor.level=7,compressor=zstd", "compressor.checksum=true"),
            {"*": {"compressor": {"name": "zstd", "level": 7, "checksum": True}}},
        ),
        (
            ('t:dtype=i2,compressor={"name": "blosc", "clevel": 5}',),
            {"t": {"dtype": "i2", "compressor": {"name": "blosc", "clevel": 5}}},
        ),
        (
            ("a/t:dtype=int16, scale_factor=0.01 ,_FillValue=-1", "a/t:add_offset=273"),
            {"a/t": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1, "add_offset": 273}},
        ),
        (
            ("time:units=hours since 1900-01-01 00:00,calendar=noleap",),
            {"time": {"units": "hours since 1900-01-01 00:00", "calendar": "noleap"}},
        ),
    ],
)
def test_encodings(given: tuple[str, ...], found: dict[str, Any]) -> None:
    assert encodings_of(given) == found


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("t:dtype", "'dtype' is not KEY=VALUE"),
        ("t:dtype=", "KEY=VALUE"),
        ("t:=i2", "KEY=VALUE"),
        ("compressor.=5", "KEY=VALUE"),
        ("t:dtyp=i2", "did you mean 'dtype'?"),
        ("t:units.a=3", "'units.a' is not known"),
    ],
)
def test_odd_encodings(item: str, said: str) -> None:
    with pytest.raises(EncodingError, match="--encoding") as caught:
        encodings_of([item])
    assert said in str(caught.value)


def test_what_is_extended_keeps_its_encoding() -> None:
    with pytest.raises(click.UsageError, match="--encoding"):
        request_of(Output(), {**NOTHING, "append_dim": "time", "encoding": ("dtype=i2",)})


# ---- credentials --------------------------------------------------------------------------

PHRASE = "wJalrXUtnFEMI/K7MDENG"


@pytest.mark.parametrize(
    ("options", "text", "masked"),
    [
        ({"secret": PHRASE}, f"no: {PHRASE}!", "no: ***!"),
        ({"secret": PHRASE}, "u=wJalrXUtnFEMI%2FK7MDENG", "u=***"),
        ({"client_kwargs": {"aws_secret_access_key": PHRASE}}, f"'{PHRASE}'", "'***'"),
        ({"headers": {"Authorization": "Bearer abc"}}, "Bearer abc", "***"),
        ({"key": "AKIAIOSFODNN7"}, "AKIAIOSFODNN7 may not", "*** may not"),
        ({"key": "me"}, "me and mesh", "me and mesh"),
        ({"token": "abc", "password": "abcdef"}, "abcdef abc", "*** ***"),
        ({"anon": True, "region": "eu-west"}, "eu-west", "eu-west"),
        ({}, "s3://me:pw@host/x.zarr is gone", "s3://host/x.zarr is gone"),
        ({}, "https://h/x?X-Amz-Signature=abc", "https://h/x"),
    ],
)
def test_credentials_are_masked(options: dict[str, Any], text: str, masked: str) -> None:
    secrets = Secrets()
    secrets.learn(options)
    assert secrets.mask(text) == masked


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("key", True),
        ("aws_secret_access_key", True),
        ("sas_token", True),
        ("account_name", True),
        ("anon", False),
        ("endpoint_url", False),
        ("timeout", False),
    ],
)
def test_names_of_credentials(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


@pytest.mark.parametrize("how", [(), ("--json",), ("--log-json",), ("--json", "--debug")])
def test_credentials_are_in_nothing_that_is_said(
    how: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError(f"{args} {kwargs}")

    monkeypatch.setattr("xchunk.opening.dataset.open_groups", broken)
    given = ("memory://me:hush-hush@host/x.zarr", "--storage-option", f"secret={PHRASE}")
    assert (
        main.run(["inspect", *given, "--storage-option", "client_kwargs.password=psst", *how]) == 1
    )
    out, err = capsys.readouterr()
    assert "host/x.zarr" in err
    for said in (out, err):
        for credential in (PHRASE, "hush-hush", "psst"):
            assert credential not in said


def test_each_option_of_a_command_has_a_name_of_its_own() -> None:
    for command in main.xchunk.commands.values():
        names = [param.name for param in command.params]
        assert len(set(names)) == len(names), command.name
