"""What a job wants stored otherwise than in its source, put into the variables' encodings."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import xarray as xr
from zarr.registry import get_codec_class, get_numcodec

from xchunk.errors import EncodingError, InvalidJobError

__all__ = ["put_encodings"]

#: What a new dtype takes the place of, unless it is said anew.
_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


def put_encodings(
    ds: xr.Dataset, wanted: Mapping[str, Mapping[str, Any]], zarr_format: int
) -> None:
    """Put what is wanted into the encodings of a Dataset that was just opened.

    Parameters
    ----------
    ds : Dataset
        What was opened; its encodings are changed.
    wanted : mapping
        Encodings by name of the variable; ``*`` is all data variables.
    zarr_format : {2, 3}
        The target's format, for which codecs are made.

    Raises
    ------
    InvalidJobError
        If there is no such variable, or no such dtype.
    EncodingError
        If there is no such codec, or values that are missing could not be stored.
    """
    by_name: dict[str, dict[str, Any]] = {}
    for name in ds.data_vars if "*" in wanted else ():
        by_name[str(name)] = dict(wanted["*"])
    for name, own in wanted.items():
        if name == "*":
            continue
        if name not in ds.variables:
            nearest = get_close_matches(name, [str(v) for v in ds.variables], n=1, cutoff=0.0)
            raise InvalidJobError(
                f"encoding: there is no variable {name!r}"
                + (f"; did you mean {nearest[0]!r}?" if nearest else ".")
            )
        by_name[name] = {**by_name.get(name, {}), **own}
    for name, own in by_name.items():
        _put(name, ds.variables[name], own, zarr_format)


def _put(name: str, variable: xr.Variable, own: dict[str, Any], zarr_format: int) -> None:
    encoding = dict(variable.encoding)
    if "compressor" in own:
        encoding["compressors"] = _codecs(name, own.pop("compressor"), zarr_format)
        encoding.pop("compressor", None)
    if "dtype" in own:
        try:
            own["dtype"] = np.dtype(own["dtype"])
        except TypeError as error:
            raise InvalidJobError(f"encoding: {name}: dtype {own['dtype']!r} is none.") from error
        encoding = {k: v for k, v in encoding.items() if k not in _PACKING}
        if own["dtype"].kind in "iu" and variable.dtype.kind == "f" and "_FillValue" not in own:
            raise EncodingError(
                f"{name!r} is to be stored as {own['dtype']}, and its missing values (NaN) have "
                "no place in it. Say which integer stands for them: _FillValue."
            )
    variable.encoding = {**encoding, **own}


def _codecs(name: str, said: Any, zarr_format: int) -> tuple[Any, ...] | None:
    """Make a codec of its name, or of a table of its name and settings."""
    settings = {"name": said} if isinstance(said, str) else said
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise InvalidJobError(
            f'encoding: {name}: compressor is a name, such as "zstd", or a table with a name: '
            '{ name = "zstd", level = 5 }.'
        )
    codec, own = settings["name"], {k: v for k, v in settings.items() if k != "name"}
    if codec == "none":
        return None
    try:
        if zarr_format == 2:
            config: Any = {"id": codec, **own}
            return (get_numcodec(config),)
        return (get_codec_class(codec).from_dict({"name": codec, "configuration": own}),)
    except Exception as error:
        said = " ".join(str(error).split())
        raise EncodingError(
            f"{name!r}: the compressor {codec!r} with {own} cannot be had for zarr "
            f"{zarr_format} ({type(error).__name__}: {said})."
        ) from error
