"""Opening what was written, decoded in the way in which the source was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr
from zarr.abc.store import Store

from xchunk.lazy import chunk_lazily

__all__ = ["reopen"]


def reopen(
    store: Store,
    like: Mapping[str, xr.Dataset],
    chunks: Mapping[str, Mapping[str, Any]],
    *,
    consolidated: bool = True,
) -> dict[str, xr.Dataset]:
    """Open each group of a committed store with dask chunks that match what is stored.

    Parameters
    ----------
    store : zarr store
        The committed target.
    like : mapping
        The source's Datasets by path of their group; they say what is decoded.
    chunks : mapping
        dask chunks, ``{path of the variable: {dim: n}}``.
    consolidated : bool
        Whether the root of the store holds all metadata.
    """
    out = {}
    for path, source in like.items():
        ds = xr.open_zarr(
            store,
            group=path or None,
            chunks=None,
            consolidated=consolidated,
            **_decoding(source.variables.values()),
        )
        prefix = f"{path}/" if path else ""
        own = {
            name.removeprefix(prefix): c for name, c in chunks.items() if name.startswith(prefix)
        }
        out[path] = chunk_lazily(ds, own)
    return out


def _decoding(variables: Iterable[xr.Variable]) -> dict[str, Any]:
    """Tell which decoders the source was opened with: what they take away is not in attrs."""
    found = list(variables)
    attrs = [v.attrs for v in found]
    packed = any(k in a for a in attrs for k in ("scale_factor", "add_offset", "_FillValue"))
    times = any(" since " in str(a.get("units", "")) for a in attrs)
    kwargs: dict[str, Any] = {
        "mask_and_scale": not packed,
        "decode_coords": not any("coordinates" in a for a in attrs),
        "decode_timedelta": any(v.dtype.kind == "m" for v in found),
    }
    if times:
        kwargs["decode_times"] = False
    elif any(v.dtype.kind == "O" and "calendar" in v.encoding for v in found):
        kwargs["decode_times"] = xr.coders.CFDatetimeCoder(use_cftime=_use_cftime(found))
    return kwargs


def _use_cftime(variables: Iterable[xr.Variable]) -> bool | None:
    """Ask for cftime where the source has it for a calendar that numpy could hold too."""
    for v in variables:
        standard = v.encoding.get("calendar") in ("standard", "gregorian", "proleptic_gregorian")
        if v.dtype.kind == "O" and standard:
            return True
    return None
