"""A store that shows documents which are not written yet.

The metadata of an array that is all of its store make that store openable. So they are
written last, and the tasks that write the array's chunks find them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.buffer.cpu import Buffer
from zarr.storage import WrapperStore

__all__ = ["Unpublished"]


class Unpublished(WrapperStore[Store]):
    """A store with some documents more than it holds; it travels as the store does.

    Parameters
    ----------
    store : zarr store
        The store.
    documents : mapping
        What is shown besides, by key.
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
        if key in self._documents and byte_range is None:
            return Buffer.from_bytes(self._documents[key])
        return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        return key in self._documents or await self._store.exists(key)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Unpublished)
            and self._store == other._store
            and self._documents == other._documents
        )

    __hash__ = None  # type: ignore[assignment]
