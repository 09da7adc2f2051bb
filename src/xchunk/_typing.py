"""Type aliases that every floor shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

__all__ = [
    "Access",
    "Action",
    "ByteSize",
    "ChunkSpec",
    "Chunks",
    "DimChunk",
    "JSON",
    "Shape",
    "ZarrFormat",
]

#: Lengths along each dim, in dim order.
Shape: TypeAlias = tuple[int, ...]

#: One length along each dim: the size of a regular chunk, box or piece.
Chunks: TypeAlias = tuple[int, ...]

#: What a user may say of one dim: a length, -1 for the whole dim, or dask's tuple of lengths.
DimChunk: TypeAlias = int | tuple[int, ...]

#: What a user may say of a Dataset: ``{dim: n}`` or ``{variable: {dim: n}}``.
ChunkSpec: TypeAlias = Mapping[str, Any]

#: Bytes, as a number or as a string such as ``"400MB"`` or ``"2GiB"``.
ByteSize: TypeAlias = int | float | str

#: A preset's name, or the dims that one request needs whole (-1) or in part.
Access: TypeAlias = str | Mapping[str, int]

Action: TypeAlias = Literal["load", "chunk", "stage"]

ZarrFormat: TypeAlias = Literal[2, 3]

JSON: TypeAlias = Mapping[str, "JSON"] | Sequence["JSON"] | str | int | float | bool | None
