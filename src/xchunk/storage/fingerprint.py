"""Facts by which the source of an earlier run is told from another one, or from a changed one.

They are JSON types, and hold neither values nor credentials: URLs lose what could be either.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xchunk._secrets import without_secrets
from xchunk.storage.assemble import Assembled
from xchunk.storage.refs import FileRef, SplicedRef, ZarrRef
from xchunk.storage.roots import made_from
from xchunk.storage.stamps import stamp_of_file, stamp_of_objects
from xchunk.storage.stores import describe, local_path
from xchunk.storage.zarr_io import get_key

__all__ = ["source_facts", "without_secrets"]

_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs")
#: Arrays in remote stores, of those that one variable is computed from, whose objects are listed.
_MOST_REMOTE = 100
#: Files of an array whose size and time are looked at; of larger arrays only the folders'.
_MOST_FILES = 50_000


def source_facts(one: Assembled) -> dict[str, Any]:
    """Return what the values of one variable are read or computed from."""
    facts: dict[str, Any] = {
        "shape": list(one.shape),
        "dtype": _dtype(one.dtype),
        "dims": list(one.dims),
    }
    if one.ref is None:
        data = None if one.variable is None else one.variable.data
        facts |= {"kind": "computed", "graph": str(getattr(data, "name", ""))}
        return facts if data is None else facts | {"data": _data_digest(data)}
    if one.info is not None:
        facts |= {
            "chunks": json.loads(json.dumps(one.info.chunks)),
            "shards": None if one.info.shards is None else list(one.info.shards),
            "codecs": list(one.info.codecs),
            "attributes": _digest(one.info.attrs),
        }
    facts["origin"] = list(one.origin)
    ref = one.ref.new if isinstance(one.ref, SplicedRef) else one.ref
    if isinstance(ref, ZarrRef):
        return {"kind": "zarr", **facts, **_zarr_facts(ref)}
    return {"kind": "file", **facts, **_file_facts(ref)}


def _data_digest(data: Any) -> str:
    """Digest what computed values are made from: what is stored as it is now, and what is not."""
    refs, tokens = made_from(data)
    state = hashlib.sha256("\0".join(tokens).encode())
    remote = [r for r in refs if isinstance(r, ZarrRef) and local_path(r.store) is None]
    left_out = set(map(id, remote[_MOST_REMOTE:]))
    stamps = []
    for ref in refs:
        if isinstance(ref, FileRef):
            about = _file_facts(ref)
            stamps.append([about["file"], about.get("size"), about.get("changed")])
        elif id(ref) not in left_out:
            about = _zarr_stamp(ref)
            stamps.append([about["store"], ref.path, about.get("files"), about.get("objects")])
    # several handles of one store say the same
    for line in sorted({json.dumps(stamp) for stamp in stamps}):
        state.update(line.encode())
    return state.hexdigest()


def _dtype(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.hasobject or dtype.kind == "T" else dtype.str


def _digest(value: Any) -> str:
    """Digest attributes, which may be anything: by what they show, arrays by their values."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {str(k): plain(v) for k, v in item.items()}
        if isinstance(item, np.ndarray | np.generic):
            return [str(item.dtype), repr(item.tolist())]
        return repr(item)

    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def _zarr_facts(ref: ZarrRef) -> dict[str, Any]:
    prefix = f"{ref.path}/" if ref.path else ""
    documents = [get_key(ref.store, f"{prefix}{name}") or b"" for name in _DOCUMENTS]
    metadata = hashlib.sha256(b"\0".join(documents)).hexdigest()
    return {"path": ref.path, "metadata": metadata, **_zarr_stamp(ref)}


def _zarr_stamp(ref: ZarrRef) -> dict[str, Any]:
    facts: dict[str, Any] = {"store": without_secrets(describe(ref.store))}
    root = local_path(ref.store)
    if root is not None:
        facts["store"] = str(root.resolve())
        facts["files"] = _stamp_of_files(root / ref.path)
    elif (stamp := stamp_of_objects(ref)) is not None:
        facts["objects"] = stamp
    return facts


def _file_facts(ref: FileRef) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "file": without_secrets(ref.filename),
        "group": ref.group,
        "variable": ref.variable,
    }
    path = local_path(ref.filename)
    if path is not None and path.exists():
        stat = path.stat()
        facts |= {"file": str(path.resolve()), "size": stat.st_size, "changed": stat.st_mtime_ns}
    elif path is None and ref.engine == "h5netcdf":
        # netCDF's own URLs may be those of servers that compute what is asked for
        facts |= {"changed": stamp_of_file(ref.filename)}
    return facts


def _stamp_of_files(folder: Path) -> str:
    """Digest names, sizes and times of the files below a folder."""
    state = hashlib.sha256()
    for number, text in enumerate(_stamps(folder, files=True)):
        if number >= _MOST_FILES:
            break
        state.update(text.encode(errors="surrogateescape"))
    else:
        return state.hexdigest()
    state = hashlib.sha256()
    for text in _stamps(folder, files=False):
        # a file that is written anew changes the time of its folder, as zarr writes it
        state.update(text.encode(errors="surrogateescape"))
    return state.hexdigest()


def _stamps(folder: Path, *, files: bool) -> Iterator[str]:
    stack = [str(folder)]
    while stack:
        here = stack.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda e: e.name)
            if not files:
                yield f"{here}\0{os.stat(here).st_mtime_ns}\0"  # noqa: PTH116 - a string
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            elif files:
                stat = entry.stat()
                yield f"{entry.path}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
