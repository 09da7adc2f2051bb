"""What is wanted stored otherwise than in the source, put into the variables' encodings."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np
import xarray as xr
from zarr.registry import get_codec_class, get_numcodec

from xchunk.errors import EncodingError
from xchunk.opening.groups import groups_of
from xchunk.rechunking.bind import source_format
from xchunk.sources.provenance import READ_KEYS, VALUE_KEYS

#: What may be said of one variable.
KEYS = (
    "_FillValue", "add_offset", "calendar", "compressor", "dtype", "scale_factor", "units",
)  # fmt: skip

#: What a new dtype takes the place of, unless it is said anew.
_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


#: Compressors that every installation has, by zarr's format.
_KNOWN_CODECS = {
    2: ("zstd", "blosc", "gzip", "zlib", "lz4", "bz2", "lzma", "none"),
    3: ("zstd", "blosc", "gzip", "none"),
}


def nearest_key(key: str) -> str:
    """Return the key that is most like one that is not known."""
    return get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]


def put_encodings(
    data: xr.Dataset | xr.DataTree,
    wanted: Mapping[str, Mapping[str, Any]],
    zarr_format: int | None = None,
) -> None:
    """Put what is wanted into the encodings of what was just opened.

    - ``data``: what was opened; its encodings are changed.
    - ``wanted``: encodings by name of the variable, in a tree ``group/variable``; ``*`` is all data
      variables.
    - ``zarr_format`` ({2, 3}): the target's format, for which codecs are made; the source's by
      default.
    - raises `EncodingError` if there is no such variable, dtype or codec, or if values that are
      missing could not be stored.
    """
    if not wanted:
        return
    groups = groups_of(data) if isinstance(data, xr.DataTree) else {"": data}
    zarr_format = zarr_format or source_format(groups)
    # the Datasets of a tree share its variables
    there, bulk = _variables(groups)
    by_name: dict[str, dict[str, Any]] = {}
    for name in bulk if "*" in wanted else ():
        by_name[name] = dict(wanted["*"])
    for said, own in wanted.items():
        if said == "*":
            continue
        name = said if said in there else said.strip("/")
        if name not in there:
            nearest = get_close_matches(said, list(there), n=1, cutoff=0.0)
            raise EncodingError(
                f"encoding: there is no variable {said!r}"
                + (f"; did you mean {nearest[0]!r}?" if nearest else ".")
            )
        by_name[name] = {**by_name.get(name, {}), **own}
    for name, own in by_name.items():
        _put(name, there[name], own, zarr_format)


def _variables(groups: Mapping[str, xr.Dataset]) -> tuple[dict[str, xr.Variable], list[str]]:
    """Return all variables by their paths, and the paths of data variables."""
    there: dict[str, xr.Variable] = {}
    bulk: list[str] = []
    for path, ds in groups.items():
        prefix = f"{path}/" if path else ""
        there.update((f"{prefix}{name}", v) for name, v in ds.variables.items())
        bulk += [f"{prefix}{name}" for name in ds.data_vars]
    return there, bulk


def _put(name: str, variable: xr.Variable, own: dict[str, Any], zarr_format: int) -> None:
    encoding = dict(variable.encoding)
    for key in ("scale_factor", "add_offset"):
        if isinstance(own.get(key, 0), bool) or not isinstance(own.get(key, 0), Real):
            raise EncodingError(f"encoding: {name}: {key} {own[key]!r} is no number.")
    if "compressor" in own:
        encoding["compressors"] = _codecs(name, own.pop("compressor"), zarr_format)
        encoding.pop("compressor", None)
    if "dtype" in own:
        try:
            own["dtype"] = np.dtype(own["dtype"])
        except TypeError as error:
            raise EncodingError(
                f"encoding: {name}: there is no dtype {own['dtype']!r}. Give one of numpy's, such "
                "as int16 or float32."
            ) from error
        encoding = {k: v for k, v in encoding.items() if k not in _PACKING}
        if own["dtype"].kind in "iu" and variable.dtype.kind == "f" and "_FillValue" not in own:
            raise EncodingError(
                f"{name!r} is to be stored as {own['dtype']}, and its missing values (NaN) have "
                "no place in it. Say which integer stands for them: _FillValue."
            )
    if any(key in own for key in VALUE_KEYS):
        # what was read no longer says how values are stored: it is a wish, kept or refused
        encoding = {k: v for k, v in encoding.items() if k not in READ_KEYS}
    variable.encoding = {**encoding, **own}


def _codecs(name: str, said: Any, zarr_format: int) -> tuple[Any, ...] | None:
    """Make a codec of its name, or of a table of its name and settings."""
    settings = {"name": said} if isinstance(said, str) else said
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise EncodingError(
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
        known = _KNOWN_CODECS[zarr_format]
        if codec not in known and not own:
            nearest = get_close_matches(codec, known, n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
            raise EncodingError(
                f"{name!r}: zarr {zarr_format} knows no compressor {codec!r} here{hint} Known: "
                f"{', '.join(known)}; and those of installed packages, by their names."
            ) from error
        said = " ".join(str(error).split())
        raise EncodingError(
            f"{name!r}: the compressor {codec!r}{f' with {own}' if own else ''} cannot be had for "
            f"zarr {zarr_format} ({type(error).__name__}: {said})."
        ) from error
