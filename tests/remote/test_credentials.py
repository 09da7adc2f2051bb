"""Credentials are in nothing that is said, shown, raised, logged or written."""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import xchunk
from remote.data import WHAT, Place, enough, enough_for, maps
from remote.test_s3 import stop_after
from servers.s3 import BUCKET, S3, SECRET
from servers.web import has_nginx, nginx
from xchunk.core.redact import safe_cause, without_credentials, without_secrets
from xchunk.sources.refs import FileRef, ZarrRef
from xchunk.stores.stores import describe, open_store

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PASSWORD, SIGNATURE = "hunter-2-pass", "sig-5f1c9"


class Heard:
    """All texts that a test has met."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, *found: Any) -> None:
        """Take what is shown of some objects, in every form that they have."""
        for one in found:
            self.texts += [str(one), repr(one)]
            if hasattr(one, "_repr_html_"):
                self.texts.append(one._repr_html_())
            if hasattr(one, "to_dict"):
                self.texts.append(json.dumps(one.to_dict(), default=repr))
            if isinstance(one, BaseException):
                self.texts += traceback.format_exception(one)

    def add_files(self, folder: Path) -> None:
        """Take all files below a folder, and their names."""
        for path in folder.rglob("*"):
            self.texts.append(str(path))
            if path.is_file():
                self.texts.append(path.read_bytes().decode("latin-1"))

    def check(self) -> None:
        assert len(self.texts) > 10
        for secret in (SECRET, PASSWORD, SIGNATURE):
            assert [t for t in self.texts if secret in t] == []


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What is printed and logged is heard; the libraries' own debug logs are theirs."""
    found, stream = Heard(), io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [logging.getLogger(n) for n in ("xchunk", "dask", "distributed")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    with redirect_stdout(stream), redirect_stderr(stream):
        yield found
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    found.texts += [stream.getvalue()]
    found.check()


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, heard: Heard) -> Iterator[None]:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(xchunk.StageFailedError) as caught:
            yield
    heard.add(caught.value)


@pytest.mark.slow
def test_storage_options(
    s3: S3, folder: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = maps(folder)
    place = Place.new(s3, "url")
    place.put(local, "maps.zarr")
    ds, to = place.open("maps.zarr"), place.target("t.zarr")
    most = enough_for(ds, **to)
    plan = ds.chunking.plan(WHAT, max_mem=most, **to)
    heard.add(ds.chunking, ds.chunking.layout(), plan)
    with failing(monkeypatch, heard):
        ds.chunking.apply(WHAT, max_mem=most, **to)
    fs = s3.filesystem()

    def stored() -> list[str]:
        found = fs.cat(fs.find(f"{BUCKET}/{place.name}/t.zarr"))
        return [key + raw.decode("latin-1") for key, raw in found.items()]

    heard.texts += stored()
    heard.add(xchunk.clean(to["store"], storage_options=to["storage_options"]))
    out = ds.chunking.apply(WHAT, max_mem=most, verify=True, **to)
    heard.add(out, out.chunking, out.chunking.check())
    heard.texts += stored()
    with pytest.raises(xchunk.TargetExistsError) as caught:
        ds.chunking.apply(WHAT, max_mem=most, **to)
    heard.add(caught.value)
    wrong = {**s3.options, "key": "nobody"}
    with pytest.raises(xchunk.SourceError) as refused:
        ds.chunking.apply(WHAT, store=s3.url("n.zarr"), storage_options=wrong, max_mem=most)
    heard.add(refused.value)


@pytest.mark.skipif(has_nginx() is None, reason="needs nginx")
def test_urls(folder: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    local = maps(folder)
    with nginx(folder, tmp_path / "nginx") as url:
        host = url.removeprefix("http://")
        with_password = f"http://user:{PASSWORD}@{host}/{local.name}"
        ds = xr.open_zarr(with_password)
        most, target = enough(local), tmp_path / "out" / "t.zarr"
        target.parent.mkdir()
        heard.add(ds.chunking, ds.chunking.layout())
        heard.add(ds.chunking.plan(WHAT, store=target, max_mem=most))
        with failing(monkeypatch, heard):
            ds.chunking.apply(WHAT, store=target, max_mem=most)
        heard.add_files(target.parent)
        ds.chunking.apply(WHAT, store=target, max_mem=most, verify=True)
        heard.add_files(target.parent)
        for bad in (f"{with_password}.none?sig={SIGNATURE}", f"{with_password}?sig={SIGNATURE}"):
            with pytest.raises(xchunk.SourceError) as caught:
                xchunk.open_dataset(bad)
            heard.add(caught.value)
        with pytest.raises(xchunk.SourceError) as refused:
            ds.chunking.apply(WHAT, store=f"{with_password}?sig={SIGNATURE}", max_mem=most)
        heard.add(refused.value)
    # the server is gone
    with pytest.raises(xchunk.XchunkError) as gone:
        ds.chunking.apply(WHAT, store=target.parent / "u.zarr", max_mem=most)
    heard.add(gone.value)


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (f"s3://AK:{PASSWORD}@bucket/x", "s3://bucket/x"),
        (f"s3://AK:ab/{PASSWORD}@bucket/x", "s3://bucket/x"),
        (f"http://u:{PASSWORD}@h:80/x?sig={SIGNATURE}", "http://h:80/x"),
        (f"https://h/a%20b?x=1&sig={SIGNATURE}#{SIGNATURE}", "https://h/a%20b"),
        (f"zip::https://u:{PASSWORD}@[::1]:80/a?x={SIGNATURE}::file:///a",
         "zip::https://[::1]:80/a::file:///a"),
        ("http://h:8080/a@b/c", "http://h:8080/a@b/c"),
        ("file:///a/b", "file:///a/b"),
        ("/a/b?c.nc", "/a/b?c.nc"),
    ],
)  # fmt: skip
def test_places(place: str, shown: str) -> None:
    assert without_secrets(place) == shown
    assert without_credentials(f"reading '{place}' failed") == f"reading '{shown}' failed"
    assert str(xchunk.SourceError(f"{place} is not there")) == f"{shown} is not there"
    assert str(xchunk.XchunkWarning(f"{place}: odd")).startswith(shown.split("::", maxsplit=1)[0])


def test_references_of_tasks() -> None:
    """dask's logs show what a task was given."""
    url = f"http://u:{PASSWORD}@h/x?sig={SIGNATURE}"
    pytest.importorskip("aiohttp")
    store = open_store(url, read_only=True)
    for shown in (repr(ZarrRef(store, "v", 3)), repr(FileRef(url, "h5netcdf", None, "v"))):
        assert PASSWORD not in shown
        assert SIGNATURE not in shown
        assert "http://h/x" in shown
    assert describe(store) == "http://h/x"


def test_causes() -> None:
    plain, secret = OSError("disk full"), OSError(f"no http://u:{PASSWORD}@h/x")
    assert safe_cause(plain) is plain
    assert PASSWORD not in str(safe_cause(secret))
    plain.__context__ = secret
    assert safe_cause(plain) is not plain
