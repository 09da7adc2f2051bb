"""Buckets of S3 reached through obstore: which URLs are, and what it does better than zarr asks.

obstore takes half the CPU time of s3fs for a request, copies no more than it has to, and does not
ask for an object's size first. It does not look for credentials where all tools of AWS do (files,
profiles, single sign-on). So a URL goes through it where everything that it needs is known: the
credentials and the place are in the options or in the environment, and it knows all of the options.
The rest goes through s3fs, of which each file system would hold the descriptions of AWS's services
for itself, 15 MB: they are shared.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

from zarr.abc.store import ByteRequest, OffsetByteRequest, Store
from zarr.storage import ObjectStore

from xchunk.stores.overlay import file_system_of

#: What s3fs's options are called by obstore.
_NAMES = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "region_name": "region",
    "anon": "skip_signature",
}
#: The same, in the environment.
_IN_ENVIRONMENT = {
    "access_key_id": ("AWS_ACCESS_KEY_ID",),
    "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    "session_token": ("AWS_SESSION_TOKEN",),
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token")
#: Options that say how s3fs works, and not where or as whom.
_WITHOUT_MEANING = ("use_listings_cache", "max_concurrency", "default_block_size")
#: About ten seconds of trying again.
_RETRIES: Any = {
    "max_retries": 8,
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
    "retry_timeout": timedelta(minutes=3),
}
#: Of one request, with its body: a large shard on a slow line.
_TIMEOUT = "600s"


def through_obstore(
    url: str, options: Mapping[str, Any], *, read_only: bool = False
) -> Store | None:
    """Return the store of a URL; None where obstore is not installed or lacks something.

    Parameters
    ----------
    url : str
        ``"s3://bucket/series.zarr"``.
    options : mapping
        The ``storage_options``, as s3fs takes them.
    read_only : bool
        Whether it will only be read.
    """
    scheme, _, place = url.partition("://")
    bucket, _, prefix = place.partition("/")
    if scheme not in ("s3", "s3a") or not bucket or importlib.util.find_spec("obstore") is None:
        return None
    config = _config_of(options)
    if config is None:
        return None
    from obstore.store import S3Store

    client: Any = {"timeout": _TIMEOUT}
    if str(config.get("endpoint", "")).startswith("http://"):
        client["allow_http"] = True
    store = S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        config=config,
        client_options=client,
        retry_config=_RETRIES,
    )
    return ObjectStore(store, read_only=read_only)


def _config_of(options: Mapping[str, Any]) -> Any:
    """Return what obstore has to be told; None where it cannot be told, or not all is known."""
    given = {**(options.get("client_kwargs") or {}), **options}
    given.pop("client_kwargs", None)
    given = {k: v for k, v in given.items() if k not in _WITHOUT_MEANING and v is not None}
    if not set(given) <= set(_NAMES) or os.environ.get("AWS_PROFILE"):
        return None
    config = {_NAMES[key]: value for key, value in given.items()}
    own = not any(key in config for key in _CREDENTIALS)
    for key, names in _IN_ENVIRONMENT.items():
        if key not in config and (own or key not in _CREDENTIALS):
            value = next((os.environ[n] for n in names if os.environ.get(n)), None)
            config |= {} if value is None else {key: value}
    if "endpoint" in config:
        config.setdefault("region", "us-east-1")
    is_known = config.get("skip_signature") or {*_CREDENTIALS[:2]} <= set(config)
    return config if is_known and "region" in config else None


def folder_above(store: ObjectStore[Any]) -> tuple[Store, str] | None:
    """Return the store of the folder that a store in a bucket of S3 lies in, and its name there."""
    inner = store.store
    outer, _, name = str(getattr(inner, "prefix", None) or "").strip("/").rpartition("/")
    if not (is_bucket(store) and outer and name):
        return None
    above = type(inner)(
        config=inner.config,
        prefix=outer,
        client_options=inner.client_options,
        retry_config=inner.retry_config,
        credential_provider=inner.credential_provider,
    )
    return ObjectStore(above, read_only=store.read_only), name


#: The file systems of s3fs that were met in this process, by their id.
_met: WeakValueDictionary[int, Any] = WeakValueDictionary()


def is_s3fs(fs: Any) -> bool:
    """Return whether a file system of fsspec is one of s3fs."""
    return type(fs).__name__ == "S3FileSystem"


def all_of(store: Store) -> ByteRequest | None:
    """Return how all of an object is asked for: s3fs asks for its size first, but for a range."""
    return OffsetByteRequest(0) if is_s3fs(file_system_of(store)) else None


def share_descriptions(fs: Any, others: Iterable[Any] = ()) -> None:
    """Let a file system of s3fs that has not connected yet use what another one has read already.

    - ``fs``: any file system; those that are not of s3fs are left as they are.
    - ``others``: file systems that may have connected; only looked at where it matters.
    """
    if not is_s3fs(fs):
        return
    _met[id(fs)] = fs
    for other in itertools.chain(list(_met.values()), others) if fs.session is None else ():
        known: Any = other.session if is_s3fs(other) else None
        if type(known).__module__ != "aiobotocore.session":
            continue
        with suppress(Exception):  # s3fs makes its own session, and says what is wrong
            session, folder = type(known)(**fs.kwargs), "data_path"
            if session.get_config_variable(folder) == known.get_config_variable(folder):
                session.register_component("data_loader", known.get_component("data_loader"))
                fs.session = session
        return


def is_bucket(store: Store) -> bool:
    """Return whether a store is one of obstore in a bucket of S3."""
    return type(store) is ObjectStore and type(store.store).__name__ == "S3Store"


async def delete_objects(store: Store, keys: Sequence[str]) -> None:
    """Delete objects in a bucket, up to a thousand with one request; zarr takes one for each."""
    from obstore import delete_async

    if keys:
        await delete_async(store.store, list(keys))  # type: ignore[attr-defined]
