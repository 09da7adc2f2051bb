"""Zarr stores that several tests rechunk, all stored map by map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

#: The dims of maps, of as many as an array has.
DIMS = ("t", "y", "x")


def write(
    path: Path,
    arrays: Mapping[str, tuple[np.ndarray[Any, Any], tuple[int, ...], tuple[str, ...]]],
    *,
    zarr_format: Literal[2, 3] = 3,
    shards: Mapping[str, tuple[int, ...]] | None = None,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write arrays (values, chunks, dims) with zarr alone, and consolidate the metadata."""
    group = zarr.create_group(path, zarr_format=zarr_format, attributes={"title": "maps"})
    for name, (values, chunks, dims) in arrays.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=chunks,
            shards=(shards or {}).get(name),
            dtype=values.dtype,
            fill_value=0,
            **({"dimension_names": dims} if zarr_format == 3 else {}),
        )
        array[...] = values
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
        array.attrs.update((attributes or {}).get(name, {}))
    zarr.consolidate_metadata(path)
    return path


def maps(path: Path, shape: tuple[int, ...], *, names: tuple[str, ...] = ("v",)) -> Path:
    """Write variables of random maps, which compress a little."""
    rng = np.random.default_rng(7)
    values = np.round(rng.normal(280, 5, shape) * 8).astype("f4") / 8
    return write(path, {name: (values, (1, *shape[1:]), DIMS[: len(shape)]) for name in names})


def empty_maps(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Path:
    """Write the metadata of a large array, of which no chunk is stored."""
    zarr.create_group(path).create_array(
        "v", shape=shape, chunks=chunks, dtype="f4", dimension_names=DIMS[: len(shape)]
    )
    zarr.consolidate_metadata(path)
    return path
