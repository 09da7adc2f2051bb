"""Which URLs go through obstore, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import pytest
from zarr.storage import FsspecStore, ObjectStore

from xchunk.stores.object_stores import folder_above, share_descriptions, through_obstore
from xchunk.stores.stores import describe, open_store

pytest.importorskip("obstore")
OWN = {"key": "me", "secret": "mine"}
PLACE = {"endpoint_url": "http://127.0.0.1:9"}
SET = {"AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "vne", "AWS_REGION": "eu-west-1"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the environment of whoever runs the tests counts."""
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
        "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "environment", "config"),
    [
        pytest.param({**OWN, **PLACE}, {}, {"access_key_id": "me", "region": "us-east-1"},
                     id="options"),
        pytest.param({**OWN, "client_kwargs": {"region_name": "eu-north-1"}}, {},
                     {"region": "eu-north-1"}, id="a region"),
        pytest.param({"anon": True, "client_kwargs": {"region_name": "us-west-2"}}, {},
                     {"region": "us-west-2"}, id="anonymous"),
        pytest.param({}, SET, {"access_key_id": "env", "region": "eu-west-1"}, id="environment"),
        pytest.param({"use_listings_cache": False}, SET, {"access_key_id": "env"}, id="s3fs's own"),
        pytest.param(OWN, {**SET, "AWS_SESSION_TOKEN": "t"},
                     {"access_key_id": "me", "session_token": None}, id="options come first"),
        pytest.param({}, {**SET, "AWS_ENDPOINT_URL": "https://there"},
                     {"endpoint": "https://there"}, id="an endpoint in the environment"),
        pytest.param({}, {}, None, id="credentials have to be looked for"),
        pytest.param({}, {**SET, "AWS_PROFILE": "work"}, None, id="a profile"),
        pytest.param({"profile": "work", **PLACE}, {}, None, id="a profile in the options"),
        pytest.param(OWN, {}, None, id="no region"),
        pytest.param({**OWN, **PLACE, "config_kwargs": {}}, {}, None, id="another option"),
        pytest.param({**OWN, **PLACE, "client_kwargs": {"verify": False}}, {}, None,
                     id="another option of the client"),
    ],
)  # fmt: skip
def test_a_url_goes_through_obstore_where_all_is_known(
    options: dict[str, Any], environment: dict[str, str], config: dict[str, Any] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = through_obstore("s3://bucket/a/b.zarr", options)
    assert (store is None) == (config is None)
    if isinstance(store, ObjectStore):
        assert describe(store) == "s3://bucket/a/b.zarr"
        assert {k: store.store.config.get(k) for k in config or {}} == config


@pytest.mark.parametrize(
    "url", ["https://example.org/a.zarr", "memory://a.zarr", "s3://", "a.zarr"]
)
def test_other_places_do_not(url: str) -> None:
    assert through_obstore(url, {**OWN, **PLACE}) is None


def test_without_obstore_it_is_s3fs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setattr("xchunk.stores.object_stores.importlib.util.find_spec", lambda _: None)
    store = open_store("s3://bucket/a.zarr", storage_options={**OWN, **PLACE})
    assert isinstance(store, FsspecStore)
    assert describe(store) == "s3://bucket/a.zarr"


def test_the_folder_above_is_in_the_same_bucket() -> None:
    store = open_store("s3://bucket/a/b.zarr/group", storage_options={**OWN, **PLACE})
    assert isinstance(store, ObjectStore)
    found = folder_above(store)
    assert found is not None
    outer, name = found
    assert (describe(outer), name) == ("s3://bucket/a/b.zarr", "group")
    assert outer.store.config == store.store.config  # type: ignore[attr-defined]
    top = open_store("s3://bucket/a", storage_options={**OWN, **PLACE})
    assert isinstance(top, ObjectStore)
    assert folder_above(top) is None


def s3fs_of(**options: Any) -> Any:
    s3fs = pytest.importorskip("s3fs")
    return s3fs.S3FileSystem(**OWN, **PLACE, skip_instance_cache=True, **options)


def test_file_systems_of_s3fs_share_the_descriptions_of_services_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aiobotocore.session import AioSession

    # those of other tests may have connected before
    monkeypatch.setattr("xchunk.stores.object_stores._met", WeakValueDictionary())
    connected, target, third = s3fs_of(), s3fs_of(max_concurrency=1), s3fs_of()
    connected.session = own = AioSession()
    descriptions = own.get_component("data_loader")
    share_descriptions(target, [connected])
    share_descriptions(third)
    assert connected.session is own
    assert target.session is not third.session is not own
    for fs in (connected, target, third):
        assert fs.session.get_component("data_loader") is descriptions
    # a session of ours is no option, and does not travel
    assert "session" not in target.storage_options


def test_a_file_system_that_has_a_session_keeps_its_descriptions() -> None:
    from aiobotocore.session import AioSession

    first, second = s3fs_of(), s3fs_of()
    first.session, second.session = AioSession(), AioSession()
    own = second.session.get_component("data_loader")

    def others() -> Iterator[Any]:
        raise AssertionError("looked at for nothing")
        yield

    share_descriptions(first)
    share_descriptions(second, others())
    assert second.session.get_component("data_loader") is own
    share_descriptions(None, others())


def test_what_is_wrong_with_a_session_is_left_to_s3fs_to_say() -> None:
    from aiobotocore.session import AioSession

    connected, fs = s3fs_of(), s3fs_of(profile="nobody")
    connected.session = AioSession()
    share_descriptions(fs, [connected])
    assert fs.session is None
