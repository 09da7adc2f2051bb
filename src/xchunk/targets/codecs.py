"""Codecs of stored arrays, kept where that is safe, and carried over from one format to the other.

A codec is kept only where what is read back cannot depend on where a chunk starts: a target has
other chunks. All others are left out, and what they have decoded is stored as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from zarr.abc.codec import BytesBytesCodec

from xchunk.errors import EncodingError
from xchunk.sources.refs import StoredInfo

# zarr 3 has codecs of its own for these; all others go by numcodecs' wrappers.
_NATIVE_V3 = {"blosc": "BloscCodec", "zstd": "ZstdCodec", "gzip": "GzipCodec"}
_WRAPPED_V3 = {
    "lz4": "LZ4",
    "bz2": "BZ2",
    "lzma": "LZMA",
    "delta": "Delta",
    "bitround": "BitRound",
    "packbits": "PackBits",
    "pcodec": "PCodec",
    "quantize": "Quantize",
}
#: Checksums of numcodecs, for which zarr 3 has one of its own.
_CHECKSUMS = {"crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"}
#: Compressors that Blosc has too, with which it shuffles bytes as a filter of its own would.
_IN_BLOSC = {"zlib": "zlib", "gzip": "zlib", "zstd": "zstd", "lz4": "lz4"}
_KEPT = ("compressors", "filters", "serializer")
# what the v2 dtype says by itself, and a v3 array says with its dtype and serializer
_IMPLIED = {"vlen-utf8", "vlen-bytes", "bytes"}
#: Blosc's level that is zstd's level 3, which is that of zarr's default.
_LEVEL = 2
#: Bytes of the largest chunk that these take, by the headers of Blosc 1 and of lz4.
_LARGEST = {"blosc": 2**31 - 1 - 16, "lz4": 0x7E000000}
#: Codecs that give back every bit of any values, whatever the chunk.
_LOSSLESS = {
    *_IMPLIED, *_NATIVE_V3, *_CHECKSUMS, "zlib", "lz4", "bz2", "lzma", "pcodec", "pcodec_codec",
    "shuffle", "bitshuffle", "packbits", "transpose", "base64", "variable_length_utf8",
    "json2", "msgpack2", "pickle", "vlen-array",
}  # fmt: skip
#: Codecs that give back every bit of what they have decoded once, value by value.
_SETTLED = {"bitround", "quantize", "categorize"}


def target_codecs(
    info: StoredInfo, zarr_format: int, *, inherited: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Return the encoding that keeps an array's codecs in a zarr of the given format.

    HDF5's shuffle is kept by Blosc: of smooth fields its zstd makes stores that are a fifth
    smaller than the default's, in a fifth of the time.

    - ``info``: the source array.
    - ``zarr_format`` ({2, 3}): the target's format.
    - ``inherited``: whether the values are what these codecs have decoded. If not, codecs that
      round values are left out as well.
    - returns ``encoding``: ``compressors``, ``filters`` and ``serializer`` where they are known;
      empty where the target's defaults are to be used.
    - returns ``notes``: what could not be kept, in words.
    """
    if not info.format.startswith("zarr"):
        return _shuffled(zarr_format) if _is_shuffled(info) else {}, []
    known, notes = _without_unsafe(info, inherited)
    if info.format == f"zarr{zarr_format}":
        kept = {k: v for k, v in known.items() if v is not None}
        if "compressors" in known:
            kept["compressors"] = known["compressors"] or ()
        if zarr_format == 2 and "filters" in kept:
            own = tuple(f for f in kept["filters"] if _name_and_config(f)[0] not in _IMPLIED)
            kept["filters"] = own or None
        return kept, notes
    if zarr_format == 3:
        encoding, more = _all_to_v3(known)
    else:
        encoding, more = _all_to_v2(known)
    return encoding, notes + more


def _is_shuffled(info: StoredInfo) -> bool:
    # what follows a shuffle compresses, or it would be of no use
    return "shuffle" in info.codecs[:-1] and info.dtype.itemsize in (2, 4, 8)


def _shuffled(zarr_format: int) -> dict[str, Any]:
    """Return what shuffles and compresses, in a store of the given format."""
    if zarr_format == 2:
        blosc = importlib.import_module("numcodecs").Blosc("zstd", _LEVEL, 1)
    else:
        codecs = importlib.import_module("zarr.codecs")
        blosc = codecs.BloscCodec(cname="zstd", clevel=_LEVEL, shuffle="shuffle")
    return {"compressors": (blosc,)}


def for_chunks(encoding: Mapping[str, Any], nbytes: int) -> tuple[dict[str, Any], list[str]]:
    """Replace compressors that do not take chunks of a size by the target's default.

    - ``encoding``: as `target_codecs` returns it.
    - ``nbytes``: bytes of a chunk, before codecs.
    - returns ``encoding``: the same, or without its compressors.
    - returns ``notes``: which are replaced, in words.
    """
    names = [_name_and_config(codec)[0] for codec in encoding.get("compressors") or ()]
    small = [name for name in names if nbytes > _LARGEST.get(name, nbytes)]
    if not small:
        return dict(encoding), []
    notes = [f"codec {n!r} takes chunks of at most 2 GiB; the default is used" for n in small]
    return {k: v for k, v in encoding.items() if k != "compressors"}, notes


def tidy_codecs(encoding: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Return an encoding with its codecs as tuples; those that are left to zarr are left out.

    - ``encoding``: as a user or xarray has made it: one codec or several, objects or their JSON.
    - ``name``: the variable, for errors.
    - raises `EncodingError` if something in the place of a codec is none.
    """
    out = dict(encoding)
    for key in _KEPT:
        if key not in out or out[key] is None:
            continue
        if isinstance(out[key], str) and out[key] == "auto":
            del out[key]
        elif key == "serializer":
            out[key] = _made(out[key], key, name)
        else:
            several = out[key] if isinstance(out[key], list | tuple) else (out[key],)
            out[key] = tuple(_made(codec, key, name) for codec in several)
    return out


def _made(codec: Any, key: str, name: str) -> Any:
    """Make a codec of its JSON; return it as it is where it is one."""
    try:
        if isinstance(codec, Mapping) and "id" in codec:
            return importlib.import_module("numcodecs").get_codec(dict(codec))
        if isinstance(codec, Mapping):
            registry = importlib.import_module("zarr.registry")
            spec = {"configuration": {}, **codec}
            return registry.get_codec_class(spec["name"]).from_dict(spec)
        _name_and_config(codec)
    except Exception as error:
        raise EncodingError(
            f"{name or 'the array'}: {codec!r} is no codec that zarr knows, and stands in the "
            f"encoding as {key} ({type(error).__name__}: {error}). Nothing was written. Give one "
            "of zarr.codecs, or of numcodecs for zarr_format=2, or leave it out: "
            f"ds[…].encoding.pop({key!r})."
        ) from error
    return codec


def codec_names(encoding: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Name the codecs of an encoding; None where it leaves them to the target's default."""
    if "compressors" not in encoding:
        return None
    codecs = (*(encoding.get("filters") or ()), *(encoding["compressors"] or ()))
    return tuple(_name_and_config(codec)[0] for codec in codecs)


def _without_unsafe(info: StoredInfo, inherited: bool) -> tuple[dict[str, Any], list[str]]:
    """Leave out what may give other values in other chunks."""
    known = tidy_codecs({k: info.encoding[k] for k in _KEPT if k in info.encoding})
    notes: list[str] = []
    for key in _KEPT:
        codecs = known.get(key) or ()
        several = codecs if isinstance(codecs, tuple) else (codecs,)
        bad = [c for c in several if not _is_safe(c, info.dtype, inherited)]
        if not bad:
            continue
        for name in dict.fromkeys(_name_and_config(c)[0] for c in bad):
            why = "its result may depend on where a chunk starts, or round values"
            if name == "sharding_indexed":
                why = "it is behind another codec, and made for the chunks of the source"
            instead = "left out" if key == "filters" else "the default is used"
            notes.append(f"codec {name!r} is not kept, since {why}; {instead}")
        if key == "filters":
            known[key] = tuple(c for c in several if not any(c is b for b in bad)) or None
        else:
            del known[key]
    return known, notes


def _is_safe(codec: Any, dtype: np.dtype[Any], inherited: bool) -> bool:
    name, config = _name_and_config(codec)
    if name == "delta":
        given = np.dtype(config.get("dtype", dtype))
        stored = np.dtype(config.get("astype") or given)
        # of integers differences wrap around, and back; floats are rounded
        exact = given.kind in "iu" and stored.kind in "iu"
        return exact and stored.itemsize >= given.itemsize
    if name in _LOSSLESS or (inherited and name in _SETTLED):
        return True
    # what sees nothing but bytes, and is not ours to replace: it may encrypt them
    return isinstance(codec, BytesBytesCodec)


def _all_to_v2(known: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    filters, lost_filters = _translate(known.get("filters") or (), _to_v2)
    compressors, lost = _translate(known.get("compressors") or (), _to_v2)
    if len(compressors) > 1:
        # zarr 2 has one compressor; those before it are filters
        filters, compressors = [*filters, *compressors[:-1]], compressors[-1:]
    encoding: dict[str, Any] = {"filters": tuple(filters) or None}
    if not lost and "compressors" in known:
        encoding["compressors"] = tuple(compressors) or None
    return encoding, _lost_notes(lost_filters, lost, 2)


def _all_to_v3(known: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Carry numcodecs over: in zarr 3 only what takes arrays is a filter."""
    notes = []
    filters, compressors = list(known.get("filters") or ()), list(known.get("compressors") or ())
    moved = [c for c in filters if _name_and_config(c)[0] in {"shuffle", *_CHECKSUMS, *_PACKERS}]
    filters, packers = [c for c in filters if c not in moved], [*moved, *compressors]
    names = [_name_and_config(c)[0] for c in packers]
    if "shuffle" in names:
        packers, note = _into_blosc(packers)
        notes.append(note)
    made, lost_filters = _translate(filters, _to_v3)
    done, lost = _translate(packers, _to_v3)
    serializers = [c for c in (*made, *done) if _name_and_config(c)[0] == "pcodec"]
    encoding: dict[str, Any] = {
        "filters": tuple(c for c in made if c not in serializers) or None,
    }
    if serializers:
        encoding["serializer"] = serializers[0]
    done = [c for c in done if c not in serializers]
    # a checksum comes last, and one is enough
    sums = [c for c in done if _name_and_config(c)[0] == "crc32c"][:1]
    done = [c for c in done if _name_and_config(c)[0] != "crc32c"] + sums
    if not lost and "compressors" in known:
        encoding["compressors"] = tuple(done) or None
    return encoding, notes + _lost_notes(lost_filters, lost, 3)


#: Compressors that numcodecs has also as filters.
_PACKERS = {"zlib", "gzip", "zstd", "blosc", "lz4", "bz2", "lzma"}


def _into_blosc(packers: Sequence[Any]) -> tuple[list[Any], str]:
    """Let Blosc do what a shuffle and the compressor behind it do; else leave the shuffle out."""
    left = [c for c in packers if _name_and_config(c)[0] != "shuffle"]
    for i, codec in enumerate(left):
        name, config = _name_and_config(codec)
        if name in _IN_BLOSC:
            codecs = importlib.import_module("zarr.codecs")
            level = min(9, max(1, int(config.get("level", 5))))
            left[i] = codecs.BloscCodec(cname=_IN_BLOSC[name], clevel=level, shuffle="shuffle")
            return left, f"codecs 'shuffle' and {name!r} become 'blosc', which does both in zarr 3"
    return left, "codec 'shuffle' has no counterpart in zarr 3; left out"


def _lost_notes(filters: Sequence[str], compressors: Sequence[str], zarr_format: int) -> list[str]:
    said = [(name, "left out") for name in filters]
    said += [(name, "the default is used") for name in compressors]
    return [f"codec {n!r} has no counterpart in zarr {zarr_format}; {what}" for n, what in said]


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
    codecs = importlib.import_module("zarr.codecs")
    if name in _CHECKSUMS:
        return codecs.Crc32cCodec()
    if name == "zlib":
        # the same compression in another wrapping
        level = int(config.get("level", 1))
        return codecs.GzipCodec(level=level if 0 <= level <= 9 else 6)
    if name in _NATIVE_V3:
        if name == "blosc":
            shuffles = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle", -1: None}
            shuffle = config["shuffle"]
            return codecs.BloscCodec(
                cname=config["cname"],
                clevel=config["clevel"],
                shuffle=shuffles[shuffle] if isinstance(shuffle, int) else shuffle,
                blocksize=config.get("blocksize", 0),
            )
        return getattr(codecs, _NATIVE_V3[name])(**config)
    if any(np.dtype(config.get(key) or "i1").byteorder == ">" for key in ("dtype", "astype")):
        # format 3 has values in the machine's order, and a filter takes bytes for what it is told
        raise KeyError(name)
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
