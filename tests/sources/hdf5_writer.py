"""Files of every kind that is read without HDF5's library, written with h5py.

Run as ``python hdf5_writer.py FOLDER``: writes one file for each case, and beside it what h5py
reads of it. It is a process of its own, since h5py and netCDF4 are kept apart in the tests.
"""

from __future__ import annotations

import itertools
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("i1", "u1", "<i2", ">i2", "<i4", ">u4", "<i8", "<f2", "<f4", ">f4", "<f8", ">f8", "S1")
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "zlib": {"compression": "gzip"},
    "shuffle zlib": {"compression": "gzip", "shuffle": True},
    "shuffle": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "shuffle zlib fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
}
#: Shape, chunks and what it may grow to: edges, one dim, one chunk, each kind of index.
GRIDS: dict[str, tuple[Any, Any, Any]] = {
    "edges": ((13, 9, 7), (4, 3, 7), None),
    "grows": ((13, 9, 7), (5, 9, 2), (None, 9, 9)),
    "grows inside": ((13, 9, 7), (5, 2, 2), (13, None, 9)),
    "grows twice": ((13, 9, 7), (5, 2, 2), (None, None, 9)),
    "limited": ((13, 9, 7), (5, 2, 2), (20, 9, 30)),
    "one dim": ((20,), (7,), (None,)),
    "one chunk": ((6, 5), (6, 5), None),
    "many chunks": ((3, 3000), (1, 1), (3, None)),
    "many chunks of two sizes": ((5000, 3), (1, 2), (5000, 3)),
}

#: Name of a case: the version that is written, its dtype, its filters and its grid.
PLAIN = {
    f"{version}, {dtype}, {filters}, {grid}": (version, dtype, filters, grid)
    for version in ("earliest", "latest")
    for dtype, filters, grid in (
        *((d, "shuffle zlib", "edges") for d in DTYPES),
        *((d, "none", "grows") for d in DTYPES),
        *((d, f, "edges") for d in ("<i2", ">f4") for f in FILTERS),
        *(("<f4", f, g) for f in ("none", "zlib") for g in GRIDS),
    )
}
#: Those with something of their own, which a function below writes.
SPECIAL = (
    "scalar", "empty", "contiguous", "compact", "never written", "user block", "many members",
    "filter masks", "lz4", "zstd", "blosc", "early", "some chunks",
    "a hidden name",
)  # fmt: skip
#: Those that the library has to read, and whether the place of their chunks is known.
OTHERS = {
    "lzf": True, "scaleoffset": True, "unknown filter": True, "bool": False, "complex": False,
    "strings": False, "references": False, "virtual": False, "external": False,
    "12 bits": False, "bfloat16": False, "committed": False, "soft link": False, "no fill": False,
}  # fmt: skip


def values_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[Any]:
    """Any bits, but that letters are letters and floats are numbers."""
    rng, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(size=shape).astype(kind)
    low, high = (65, 90) if kind.kind == "S" else (0, 256)
    raw = rng.integers(low, high, (*shape, kind.itemsize)).astype("u1")
    return np.asarray(raw.view(kind)[..., 0])


def lz4_of(data: bytes, block: int) -> bytes:
    """LZ4 as HDF5's filter frames it; every third block as it is."""
    from numcodecs import LZ4

    out = struct.pack(">QI", len(data), block)
    for k, start in enumerate(range(0, len(data), block)):
        part = data[start : start + block]
        packed = part if k % 3 == 2 else bytes(LZ4().encode(part))[4:]
        out += struct.pack(">I", len(packed)) + packed
    return out


def write_plain(file: Any, dtype: str, filters: str, grid: str) -> None:
    """``v`` is full; of ``s``, which has a fill value, most chunks are missing."""
    shape, chunks, most = GRIDS[grid]
    how = {"shape": shape, "dtype": dtype, "chunks": chunks, "maxshape": most, **FILTERS[filters]}
    full = values_of(dtype, shape)
    file.create_dataset("g/v", **how)[...] = full
    some = file.create_dataset("g/s", fillvalue=values_of(dtype, (1,), 1)[0], **how)
    some[1:3] = full[1:3]


def write_special(file: Any, case: str) -> None:
    a = values_of("<i4", (13, 9, 7))
    {
        "scalar": lambda: file.create_dataset("v", data=np.float32(2.5)),
        "empty": lambda: file.create_dataset(
            "v", shape=(0, 4), maxshape=(None, 4), chunks=(2, 2), dtype="i4"
        ),
        "contiguous": lambda: file.create_dataset("v", data=a.astype(">i4")),
        "user block": lambda: file.create_dataset("v", data=a.astype(">i4")),
        "never written": lambda: file.create_dataset("v", shape=(4, 5), dtype="f8", fillvalue=1.5),
        "compact": lambda: write_compact(file, a),
        "many members": lambda: write_many(file, a),
        "filter masks": lambda: write_masked(file),
        "early": lambda: write_early(file, a),
        "some chunks": lambda: write_some(file),
        "a hidden name": lambda: write_hidden(file, a),
        **{name: partial(write_compressed, file, name, a) for name in ("lz4", "zstd", "blosc")},
    }[case]()


def write_compact(file: Any, a: NDArray[Any]) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(a.shape)
    made = h5py.h5d.create(file.id, b"v", h5py.h5t.STD_I32BE, space, plist)
    h5py.Dataset(made)[...] = a


def write_many(file: Any, a: NDArray[Any]) -> None:
    group = file.create_group("a/b", track_order=True)
    for k in range(700):
        group[f"member with a rather long name, number {k}"] = np.int32(k)
    group["v"] = a


def write_masked(file: Any) -> None:
    """Write chunks to which no filter, only the first, and all filters were applied."""
    made = file.create_dataset(
        "v", shape=(4, 6), chunks=(1, 6), dtype="<i2", compression="gzip", shuffle=True
    )
    made[...] = values_of("<i2", (4, 6))
    plain = values_of("<i2", (4, 6), 1)
    made.id.write_direct_chunk((1, 0), plain[1].tobytes(), filter_mask=3)
    planes = np.ascontiguousarray(plain[2].view("u1").reshape(6, 2).T).tobytes()
    made.id.write_direct_chunk((2, 0), planes, filter_mask=2)


def write_early(file: Any, a: NDArray[Any]) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((5, 2, 2))
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(a.shape)
    made = h5py.h5d.create(file.id, b"v", h5py.h5t.STD_I32LE, space, plist)
    h5py.Dataset(made)[...] = a


def write_some(file: Any) -> None:
    made = file.create_dataset("v", shape=(9, 4), chunks=(2, 4), dtype="<f4", fillvalue=-9)
    made[2:4] = 1


def write_hidden(file: Any, a: NDArray[Any]) -> None:
    """Write a variable as netCDF-4 does where a dim that is not its own has its name."""
    file["_nc4_non_coord_v"] = a
    file["v"] = np.zeros(3)


def write_compressed(file: Any, case: str, a: NDArray[Any]) -> None:
    """Write chunks as they are encoded elsewhere; h5py has no such filters to read them with."""
    from numcodecs import Blosc, Zstd

    number = {"lz4": 32004, "zstd": 32015, "blosc": 32001}[case]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4, 9, 7))
    plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    space = h5py.h5s.create_simple(a.shape)
    made = h5py.h5d.create(file.id, b"v", h5py.h5t.STD_I32LE, space, plist)
    for start in range(0, 13, 4):
        chunk = np.zeros((4, 9, 7), "<i4")
        chunk[: len(a[start : start + 4])] = a[start : start + 4]
        encoded = {
            "lz4": lambda c: lz4_of(c.tobytes(), 100),
            "zstd": lambda c: Zstd(3).encode(c),
            "blosc": lambda c: Blosc("lz4", shuffle=1).encode(c),
        }[case](chunk)
        made.write_direct_chunk((start, 0, 0), bytes(encoded), filter_mask=0)


def write_other(file: Any, case: str) -> None:
    a = values_of("<i2", (6, 5))
    if case == "lzf":
        file.create_dataset("v", data=a, chunks=(2, 5), compression="lzf")
    elif case == "scaleoffset":
        file.create_dataset("v", data=a, chunks=(2, 5), scaleoffset=0)
    elif case == "unknown filter":
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((2, 5))
        plist.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        h5py.h5d.create(file.id, b"v", h5py.h5t.STD_I16LE, h5py.h5s.create_simple(a.shape), plist)
    elif case == "virtual":
        layout = h5py.VirtualLayout(shape=(6, 5), dtype="i2")
        layout[...] = h5py.VirtualSource("elsewhere.h5", "v", shape=(6, 5))
        file.create_virtual_dataset("v", layout)
    elif case == "external":
        file.create_dataset("v", shape=(6, 5), dtype="i2", external=[("elsewhere.bin", 0, 60)])
    elif case == "committed":
        file["type"] = np.dtype("<i2")
        file.create_dataset("v", data=a, dtype=file["type"])
    elif case == "soft link":
        file["w"] = a
        file["v"] = h5py.SoftLink("/w")
    elif case == "references":
        file.create_dataset("v", data=[file.ref], dtype=h5py.ref_dtype)
    else:
        write_typed(file, case, a)


def write_typed(file: Any, case: str, a: NDArray[Any]) -> None:
    if case in ("12 bits", "bfloat16", "no fill"):
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind = h5py.h5t.STD_I16LE.copy()
        if case == "12 bits":
            kind.set_precision(12)
        elif case == "bfloat16":
            kind = h5py.h5t.IEEE_F32LE.copy()
            kind.set_fields(15, 7, 8, 0, 7)
            kind.set_size(2)
        else:
            plist.set_chunk((2, 5))
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, b"v", kind, h5py.h5s.create_simple(a.shape), plist)
        return
    file["v"] = {
        "bool": lambda: a > 0,
        "complex": lambda: a + 1j,
        "strings": lambda: np.array(["a", "bc"], dtype=object),
    }[case]()


def options_of(case: str) -> dict[str, Any]:
    if case in PLAIN:
        return {"libver": PLAIN[case][0]}
    if case == "user block":
        return {"userblock_size": 1024}
    return {"libver": "latest"} if case == "early" else {}


def main(folder: str) -> None:
    """Write all files, and what h5py reads."""
    for case in itertools.chain(PLAIN, SPECIAL, OTHERS):
        path = Path(folder) / f"{case}.h5"
        with h5py.File(path, "w", **options_of(case)) as file:
            if case in PLAIN:
                write_plain(file, *PLAIN[case][1:])
            elif case in SPECIAL:
                write_special(file, case)
            else:
                write_other(file, case)
        if case not in OTHERS:
            with h5py.File(path) as file:
                np.savez(path.with_suffix(".npz"), **read_all(file, case))


def read_all(file: Any, case: str) -> dict[str, NDArray[Any]]:
    """What h5py reads of the datasets that the tests ask for, in the machine's byte order."""
    if case in ("lz4", "zstd", "blosc"):
        return {"v": values_of("<i4", (13, 9, 7))}
    names = {"many members": ("a/b/v",), "a hidden name": ("_nc4_non_coord_v",)}
    usual = ("g/v", "g/s") if case in PLAIN else ("v",)
    out = {}
    for name in names.get(case, usual):
        values = file[name][...]
        key = name.replace("/", "|").replace("_nc4_non_coord_", "")
        out[key] = values.astype(np.dtype(values.dtype.str).newbyteorder("="))
    return out


if __name__ == "__main__":
    import h5py

    main(sys.argv[1])
