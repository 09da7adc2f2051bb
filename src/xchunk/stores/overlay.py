"""Stores that show another store: with documents that are not written yet, or a part of it.

The metadata of an array that is all of its store make that store openable. So they are
written last, and the tasks that write the array's chunks find them in `Unpublished`.

A store that replaces another one where nothing can be renamed is made below a prefix of that one.
`Within` shows it as the store that it will be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, Store
from zarr.buffer.cpu import Buffer
from zarr.storage import FsspecStore, WrapperStore


class Unpublished(WrapperStore[Store]):
    """A store with some documents more than it holds; it travels as the store does.

    - ``documents``: what is shown besides, by key.
    """

    def __init__(self, store: Store, documents: Mapping[str, bytes]):
        super().__init__(store)
        self._documents = dict(documents)

    def _with_store(self, store: Store) -> Unpublished:
        return type(self)(store, self._documents)

    @property
    def base(self) -> Store:
        """The store below."""
        return self._store

    async def get(
        self, key: str, prototype: Any = None, byte_range: ByteRequest | None = None
    ) -> Any:
        """Read one object; what is shown besides comes first."""
        if key in self._documents and byte_range in (None, OffsetByteRequest(0)):
            return Buffer.from_bytes(self._documents[key])
        return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return key in self._documents or await self._store.exists(key)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Unpublished)
            and self._store == other._store
            and self._documents == other._documents
        )

    __hash__ = None  # type: ignore[assignment]


class Within(Store):
    """What lies below a prefix of a store, as a store of its own; it travels as the store does.

    It is no `WrapperStore`: what that passes on by itself would be done to all of the store.

    Parameters
    ----------
    base : zarr store
        The store.
    prefix : str
        The prefix, without a slash at its end.
    """

    def __init__(self, base: Store, prefix: str):
        super().__init__(read_only=base.read_only)
        self.base, self._prefix = base, f"{prefix}/"

    def with_read_only(self, read_only: bool = False) -> Within:
        """Return the same place, read-only or not."""
        return type(self)(self.base.with_read_only(read_only), self._prefix[:-1])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Within) and self._prefix == other._prefix and self.base == other.base
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def supports_writes(self) -> bool:
        """Whether it can be written."""
        return self.base.supports_writes

    @property
    def supports_deletes(self) -> bool:
        """Whether objects can be deleted."""
        return self.base.supports_deletes

    @property
    def supports_listing(self) -> bool:
        """Whether it lists what it holds."""
        return self.base.supports_listing

    async def get(
        self, key: str, prototype: Any = None, byte_range: ByteRequest | None = None
    ) -> Any:
        """Read one object, or a part of it."""
        return await self.base.get(self._prefix + key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: Any, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Any]:
        """Read parts of objects."""
        ranges = [(self._prefix + key, part) for key, part in key_ranges]
        return await self.base.get_partial_values(prototype, ranges)

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return await self.base.exists(self._prefix + key)

    async def set(self, key: str, value: Any) -> None:
        """Write one object."""
        await self.base.set(self._prefix + key, value)

    async def delete(self, key: str) -> None:
        """Delete one object."""
        await self.base.delete(self._prefix + key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all objects below a prefix."""
        await self.base.delete_dir((self._prefix + prefix).rstrip("/"))

    async def list(self) -> AsyncIterator[str]:
        """List all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the keys that begin with a prefix."""
        async for key in self.base.list_prefix(self._prefix + prefix):
            yield key.removeprefix(self._prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List the names directly below a prefix."""
        async for name in self.base.list_dir((self._prefix + prefix).rstrip("/")):
            yield name


def innermost(store: Store) -> Store:
    """Return the store below stores that wrap another, or show a part of it."""
    while isinstance(store, WrapperStore | Within):
        store = store.base if isinstance(store, Within) else store._store
    return store


def file_system_of(store: Store) -> Any:
    """Return fsspec's file system that a store goes through; None where there is none."""
    inner = innermost(store)
    return inner.fs if isinstance(inner, FsspecStore) else None
