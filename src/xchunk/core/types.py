"""Type aliases that every floor shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

#: Lengths along each dim, in dim order.
Shape: TypeAlias = tuple[int, ...]

#: One length along each dim: the size of a regular chunk, box or piece.
Chunks: TypeAlias = tuple[int, ...]

#: What a user may say of one dim: a length, -1 for the whole dim, or dask's tuple of lengths.
DimChunk: TypeAlias = int | tuple[int, ...]

#: Bytes, as a number or as a string such as ``"400MB"`` or ``"2GiB"``.
ByteSize: TypeAlias = int | float | str


class PathLike(Protocol):
    """A path, as `os.PathLike` has it."""

    def __fspath__(self) -> str:
        """Return the path as text."""
        ...


#: Where a file is, as a user may give it.
FilePath: TypeAlias = str | PathLike


class Use(Protocol):
    """A use that was parsed before: a `xchunk.core.suggest.access.AccessPattern`."""

    def on(self, layout: Any, /) -> Any:
        """Return what the use asks of one variable."""
        ...


#: A preset's name, or the dims that one request needs whole (-1), in part (a number of elements,
#: or a slice of labels), or a pattern that was made before.
OneUse: TypeAlias = str | Mapping[str, int | slice] | Use

#: One use, or several with their weights.
Access: TypeAlias = OneUse | Sequence[tuple[OneUse, float] | Use]

Action: TypeAlias = Literal["load", "chunk", "stage"]

ZarrFormat: TypeAlias = Literal[2, 3]

#: Whose planner and tasks copy arrays.
EngineName: TypeAlias = Literal["xchunk", "rechunker"]


class ProgressLike(Protocol):
    """What shows how far a rechunk is."""

    def __enter__(self) -> Any: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> object: ...
    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        """Take note that a box is done."""
        ...
