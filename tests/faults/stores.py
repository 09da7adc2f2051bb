"""A store with faults: it fails at the nth operation, is slow, or does what a bad one does."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

from zarr.abc.store import ByteRequest, Store
from zarr.buffer.cpu import Buffer, buffer_prototype
from zarr.storage import MemoryStore

Fault = Literal["raise", "short", "write then raise", "slow"]


class FaultyStore(Store):
    """A store in memory that fails at the nth call of one operation, for ``times`` calls.

    It is written from the abstract class, so that it has no shortcuts of zarr's own stores.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True
    supports_partial_writes = False

    def __init__(
        self,
        operation: str = "",
        at: int = 0,
        fault: Fault = "raise",
        *,
        times: int = 1,
        inner: MemoryStore | None = None,
        only: str = "",
    ):
        super().__init__(read_only=False)
        self.inner = MemoryStore() if inner is None else inner
        self.operation, self.fault, self.times, self.only = operation, fault, times, only
        # shared with the read-only copies that zarr makes
        self.calls: dict[str, int] = {}
        self.state = {"at": at, "faults": 0}
        self._lock = threading.Lock()

    @property
    def faults(self) -> int:
        """How many calls were hit."""
        return self.state["faults"]

    def with_read_only(self, read_only: bool = False) -> FaultyStore:
        other = copy.copy(self)
        other._read_only = read_only
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FaultyStore) and other.inner is self.inner

    __hash__ = None  # type: ignore[assignment]

    def heal(self) -> None:
        """Let nothing fail any more."""
        self.state["at"] = 0

    async def _meet(self, operation: str, key: str) -> bool:
        """Count a call; tell whether it is to fail."""
        if self.only and self.only not in key:
            return False
        with self._lock:
            n = self.calls[operation] = self.calls.get(operation, 0) + 1
            at = self.state["at"]
            hit = operation == self.operation and 0 < at <= n < at + self.times
            self.state["faults"] += hit
        if hit and self.fault == "slow":
            await asyncio.sleep(0.2)
            return False
        return hit

    async def get(
        self, key: str, prototype: Any = buffer_prototype, byte_range: ByteRequest | None = None
    ) -> Any:
        hit = await self._meet("get", key)
        if hit and self.fault == "raise":
            raise OSError(f"injected at get {key}")
        found = await self.inner.get(key, prototype, byte_range)
        if hit and self.fault == "short" and found is not None:
            raw = found.to_bytes()
            return prototype.buffer.from_bytes(raw[: max(1, len(raw) // 2)])
        return found

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[Any]) -> list[Any]:
        return [await self.get(key, prototype, span) for key, span in key_ranges]

    async def exists(self, key: str) -> bool:
        return await self.inner.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        hit = await self._meet("set", key)
        if hit and self.fault == "raise":
            raise OSError(f"injected at set {key}")
        await self.inner.set(key, value)
        if hit:
            raise OSError(f"injected after set {key}")

    async def delete(self, key: str) -> None:
        if await self._meet("delete", key):
            raise OSError(f"injected at delete {key}")
        await self.inner.delete(key)

    async def list(self) -> AsyncIterator[str]:
        async for key in self.inner.list():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        if await self._meet("list", prefix):
            raise OSError(f"injected at list {prefix}")
        async for key in self.inner.list_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        if await self._meet("list", prefix):
            raise OSError(f"injected at list {prefix}")
        async for key in self.inner.list_dir(prefix):
            yield key


class DyingStore(FaultyStore):
    """A store whose user is killed at the nth change: nothing goes through any more."""

    def __init__(self, at: int = 0, *, inner: MemoryStore):
        super().__init__(at=at, inner=inner)
        self.state["changes"] = 0

    @property
    def changes(self) -> int:
        """How many objects were written or deleted, or were about to be."""
        return self.state["changes"]

    async def _meet(self, operation: str, key: str) -> bool:
        with self._lock:
            self.state["changes"] += operation in ("set", "delete")
            if 0 < self.state["at"] <= self.state["changes"]:
                raise OSError(f"dead at {operation} {key}")
        return False
