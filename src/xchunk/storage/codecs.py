"""Codecs carried from one zarr format to the other."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from xchunk.storage.stored import StoredInfo

__all__ = ["codec_names", "target_codecs"]

# zarr 3 has codecs of its own for these; all others go by numcodecs' wrappers.
_NATIVE_V3 = {"blosc": "BloscCodec", "zstd": "ZstdCodec", "gzip": "GzipCodec"}
_WRAPPED_V3 = {
    "lz4": "LZ4",
    "zlib": "Zlib",
    "bz2": "BZ2",
    "lzma": "LZMA",
    "delta": "Delta",
    "shuffle": "Shuffle",
    "bitround": "BitRound",
    "crc32": "CRC32",
    "adler32": "Adler32",
    "fletcher32": "Fletcher32",
    "packbits": "PackBits",
    "pcodec": "PCodec",
    "zfpy": "ZFPY",
    "fixedscaleoffset": "FixedScaleOffset",
    "quantize": "Quantize",
    "astype": "AsType",
}
_KEPT = ("compressors", "filters", "serializer")
# what the v2 dtype says by itself, and a v3 array says with its dtype and serializer
_IMPLIED = {"vlen-utf8", "vlen-bytes", "bytes"}


def target_codecs(info: StoredInfo, zarr_format: int) -> tuple[dict[str, Any], list[str]]:
    """Return the encoding that keeps an array's codecs in a zarr of the given format.

    Parameters
    ----------
    info : StoredInfo
        The source array.
    zarr_format : {2, 3}
        The target's format.

    Returns
    -------
    encoding : dict
        ``compressors``, ``filters`` and ``serializer`` where they are known; empty where the
        target's defaults are to be used.
    notes : list of str
        What could not be kept, in words.
    """
    if not info.format.startswith("zarr"):
        return {}, []
    if info.format == f"zarr{zarr_format}":
        kept = {k: info.encoding[k] for k in _KEPT if info.encoding.get(k) is not None}
        if zarr_format == 2 and "filters" in kept:
            own = tuple(f for f in kept["filters"] if _name_and_config(f)[0] not in _IMPLIED)
            kept["filters"] = own or None
        return kept, []
    translate = _to_v3 if zarr_format == 3 else _to_v2
    filters, lost_filters = _translate(info.encoding.get("filters") or (), translate)
    compressors, lost = _translate(info.encoding.get("compressors") or (), translate)
    if zarr_format == 2 and len(compressors) > 1:
        # zarr 2 has one compressor; those before it are filters
        filters, compressors = [*filters, *compressors[:-1]], compressors[-1:]
    notes = [
        f"codec {name!r} has no counterpart in zarr {zarr_format}; left out"
        for name in lost_filters
    ]
    encoding: dict[str, Any] = {"filters": tuple(filters) or None}
    if lost:
        notes += [
            f"codec {name!r} has no counterpart in zarr {zarr_format}; the default is used"
            for name in lost
        ]
    else:
        encoding["compressors"] = tuple(compressors) or None
    return encoding, notes


def codec_names(encoding: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Name the codecs of an encoding; None where it leaves them to the target's default."""
    if "compressors" not in encoding:
        return None
    codecs = (*(encoding.get("filters") or ()), *(encoding["compressors"] or ()))
    return tuple(_name_and_config(codec)[0] for codec in codecs)


def _translate(codecs: Sequence[Any], translate: Any) -> tuple[list[Any], list[str]]:
    done, lost = [], []
    for codec in codecs:
        name, config = _name_and_config(codec)
        if name in _IMPLIED:
            continue
        try:
            done.append(translate(name, config))
        except (ImportError, AttributeError, TypeError, ValueError, KeyError):
            lost.append(name)
    return done, lost


def _name_and_config(codec: Any) -> tuple[str, Mapping[str, Any]]:
    if hasattr(codec, "get_config"):  # numcodecs
        config = dict(codec.get_config())
        return str(config.pop("id")), config
    spec = codec.to_dict()
    return str(spec["name"]).removeprefix("numcodecs."), dict(spec.get("configuration") or {})


def _to_v3(name: str, config: Mapping[str, Any]) -> Any:
    if name in _NATIVE_V3:
        codecs = importlib.import_module("zarr.codecs")
        if name == "blosc":
            shuffles = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle", -1: None}
            return codecs.BloscCodec(
                cname=config["cname"],
                clevel=config["clevel"],
                shuffle=shuffles[config["shuffle"]],
                blocksize=config.get("blocksize", 0),
            )
        return getattr(codecs, _NATIVE_V3[name])(**config)
    wrapped = importlib.import_module("zarr.codecs.numcodecs")
    return getattr(wrapped, _WRAPPED_V3[name])(**config)


def _to_v2(name: str, config: Mapping[str, Any]) -> Any:
    numcodecs = importlib.import_module("numcodecs")
    settings = dict(config)
    if name == "blosc":
        shuffles = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2, None: -1}
        settings["shuffle"] = shuffles[settings.get("shuffle")]
        settings.pop("typesize", None)
    if name == "crc32c":
        raise KeyError(name)
    return numcodecs.get_codec({"id": name, **settings})
