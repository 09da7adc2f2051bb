"""What is read without HDF5's library is what the library reads, bit for bit, or refused."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xchunk
from sources.hdf5_writer import OTHERS, PLAIN, SPECIAL
from xchunk.errors import SourceError
from xchunk.sources import arrays
from xchunk.sources.arrays import close_files, open_stored
from xchunk.sources.hdf5_file import UnknownFormatError, Window
from xchunk.sources.hdf5_index import read_dataset
from xchunk.sources.hdf5_read import DirectArray, open_direct, open_hdf5
from xchunk.sources.refs import FileRef
from xchunk.stores.chunk_codec import inflate

WRITER = Path(__file__).with_name("hdf5_writer.py")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `hdf5_writer`, and what h5py reads of them."""
    folder = tmp_path_factory.mktemp("hdf5")
    # netCDF4 names its own filters in the environment, which are built for another HDF5 than h5py's
    env = {k: v for k, v in os.environ.items() if k != "HDF5_PLUGIN_PATH"}
    subprocess.run([sys.executable, "-W", "error", WRITER, folder], check=True, env=env)
    return folder


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    close_files()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 40_000)), max_size=20))
def test_reading_by_windows_is_reading(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    if not path.exists():
        path.write_bytes(np.random.default_rng(0).bytes(80_000))
    whole, fd = path.read_bytes(), os.open(path, os.O_RDONLY)
    try:
        window = Window(fd)
        for at, nbytes in asked:
            assert window.pread(nbytes, at) == whole[at : at + nbytes]
    finally:
        os.close(fd)


def everything(array: DirectArray) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in array.shape)


def opened(path: Path, name: str) -> DirectArray:
    group, _, variable = name.rpartition("|")
    found = open_hdf5(str(path), group.replace("|", "/"), variable)
    assert found is not None
    assert found.is_readable
    return found


@pytest.mark.parametrize("case", [*PLAIN, *SPECIAL])
def test_what_is_read_is_what_h5py_reads(case: str, written: Path) -> None:
    with np.load(written / f"{case}.npz") as expected:
        for name, values in expected.items():
            array = opened(written / f"{case}.h5", name)
            assert (array.shape, array.dtype) == (values.shape, values.dtype)
            got = array.read(everything(array))
            assert got.tobytes() == values.tobytes()


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_plain_is_left_to_the_library(case: str, written: Path) -> None:
    found = open_hdf5(str(written / f"{case}.h5"), None, "v")
    assert (found is not None) == OTHERS[case]
    assert found is None or not found.is_readable


@pytest.mark.parametrize(
    ("case", "codecs"),
    [
        ("earliest, <i2, shuffle zlib fletcher32, edges", ("shuffle", "zlib", "fletcher32")),
        ("lzf", ("lzf",)),
        ("scaleoffset", ("scaleoffset",)),
        ("unknown filter", ("hdf5-32999",)),
        ("blosc", ("blosc",)),
    ],
)
def test_filters_have_their_names(case: str, codecs: tuple[str, ...], written: Path) -> None:
    found = open_hdf5(str(written / f"{case}.h5"), "g" if case in PLAIN else None, "v")
    assert found is not None
    assert sorted(found.codecs) == sorted(codecs)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice, ...]:
    out = []
    for n in shape:
        start = draw(st.integers(0, n))
        out.append(slice(start, draw(st.integers(start, n))))
    return tuple(out)


BOXED = [
    "earliest, <i2, shuffle zlib, edges", "latest, >f4, shuffle zlib fletcher32, edges",
    "earliest, >f8, none, grows", "latest, <f4, zlib, grows inside", "contiguous", "compact",
    "filter masks", "lz4", "never written",
]  # fmt: skip


@pytest.mark.parametrize("case", BOXED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_box_is_filled_in_place(case: str, written: Path, data: st.DataObject) -> None:
    with np.load(written / f"{case}.npz") as expected:
        name = data.draw(st.sampled_from(sorted(expected)))
        values = expected[name]
    array = opened(written / f"{case}.h5", name)
    region = data.draw(regions(array.shape))
    counts = [r.stop - r.start for r in region]
    room = data.draw(st.integers(0, 2))
    memory = np.zeros([n + room for n in counts], array.dtype)
    out = memory[tuple(slice(0, n) for n in counts)]
    assert array.read(region, out) is out
    assert out.tobytes() == values[region].tobytes()
    out[...] = np.zeros((), out.dtype)
    assert not memory.any(), "the memory around the box is left alone"


def test_runs_that_lie_apart_are_read_one_by_one(tmp_path: Path) -> None:
    values = np.arange(6 * 40_000, dtype="f8").reshape(3, 2, 40_000)
    path = tmp_path / "a.nc"
    xr.Dataset({"v": (("a", "b", "c"), values)}).to_netcdf(
        path, engine="netcdf4", encoding={"v": {"contiguous": True}}
    )
    array = opened(path, "v")
    for region in (
        np.s_[0:3, 1:2, 7:19_000], np.s_[1:3, 0:2, 0:40_000], np.s_[0:3, 1:2, 39_000:40_000],
        np.s_[0:3, 0:2, 5:6], np.s_[2:3, 1:2, 39_999:40_000],
    ):  # fmt: skip
        assert array.read(region).tobytes() == values[region].tobytes()


def chunk_places(array: DirectArray) -> list[tuple[int, int]]:
    table = array.dataset.table
    assert table is not None
    return list(zip(table.offsets.tolist(), table.sizes.tolist(), strict=True))


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Change bytes of a file, and leave its time as it was."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "case",
    [
        "earliest, <i2, shuffle zlib, edges", "earliest, <i2, fletcher32, edges", "lz4", "zstd",
        "blosc",
    ],
)  # fmt: skip
def test_a_damaged_chunk_is_named(case: str, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    shutil.copy(written / f"{case}.h5", path)
    array = opened(path, "g|v" if case in PLAIN else "v")
    offset, size = chunk_places(array)[1]
    overwrite(path, offset + size // 2 - 4, b"\xa5" * 8)
    if case in ("lz4", "blosc", "zstd"):
        # without a checksum only what cannot be is found
        overwrite(path, offset, b"\xff" * 24)
    with pytest.raises(SourceError, match="damaged") as caught:
        array.read(everything(array))
    for part in (str(path), "'g/v'" if case in PLAIN else "'v'", "chunk (", f"{size} bytes"):
        assert part in str(caught.value)


@pytest.mark.parametrize("how", ["replaced", "written", "cut", "deleted"])
def test_a_file_that_changed_is_refused(how: str, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(written / f"{BOXED[0]}.h5", path)
    array = opened(path, "g|v")
    array.read(everything(array))
    if how == "replaced":
        shutil.copy(path, tmp_path / "other.h5")
        (tmp_path / "other.h5").replace(path)
    elif how == "written":
        overwrite(path, 0, b"")
        os.utime(path, ns=(1, 1))
    elif how == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    with pytest.raises(SourceError, match="since it was opened" if how != "deleted" else "cannot"):
        array.read(everything(array))


def test_a_replaced_file_is_looked_up_again(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    shutil.copy(written / f"{BOXED[0]}.h5", path)
    first = opened(path, "g|v")
    assert opened(path, "g|v") is first
    (tmp_path / "b.h5").write_bytes((written / "latest, <f4, zlib, grows.h5").read_bytes())
    (tmp_path / "b.h5").replace(path)
    assert opened(path, "g|v").dtype == "f4"


DAMAGED = ["earliest, <i2, shuffle zlib, edges", "latest, <f4, zlib, grows inside", "many members"]


@pytest.mark.parametrize("case", DAMAGED)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_structures_never_raise_anything_else(
    case: str, written: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray((written / f"{case}.h5").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.h5"
    path.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    fd = os.open(path, os.O_RDONLY)
    try:
        found = read_dataset(fd, "a/b" if case == "many members" else "g", "v")
    except UnknownFormatError:
        return
    finally:
        os.close(fd)
    assert len(found.shape) in (2, 3)


def test_a_read_holds_no_file_open(written: Path) -> None:
    array = opened(written / f"{BOXED[0]}.h5", "g|v")
    before = len(list(Path("/dev/fd").iterdir()))
    array.read(everything(array))
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_threads_read_at_the_same_time(written: Path) -> None:
    with np.load(written / f"{BOXED[0]}.npz") as expected:
        values = expected["g|v"]
    array = opened(written / f"{BOXED[0]}.h5", "g|v")
    found: list[bytes] = []

    def read() -> None:
        found.extend(array.read(everything(array)).tobytes() for _ in range(20))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [values.tobytes()] * 80


@pytest.fixture(scope="module")
def netcdf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files as netCDF's library writes them, of each of its formats."""
    import netCDF4

    out = {}
    for form in ("NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET",
                 "NETCDF3_64BIT_DATA"):  # fmt: skip
        path = out[form] = tmp_path_factory.mktemp("netcdf") / f"{form}.nc"
        with netCDF4.Dataset(path, "w", format=form) as file:
            file.createDimension("t", None)
            file.createDimension("x", 5)
            file.createDimension("only", 3)
            for kind in ("i1", "i2", "i4", "f4", "f8", "S1"):
                made = file.createVariable(f"v{kind}", kind, ("t", "x"))
                made[:] = (np.arange(35).reshape(7, 5) % 26 + 65).astype("u1").astype(kind)
                if kind == "S1":
                    made[:] = (np.arange(35) % 26 + 65).astype("u1").view("S1").reshape(7, 5)
                fixed = file.createVariable(f"w{kind}", kind, ("x",))
                fixed[:] = made[3]
            file.createVariable("scalar", "f8", ())[...] = 2.5
            file.createVariable("t", "f8", ("t",))[:] = np.arange(7)
    return out


FORMATS = ["NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET",
           "NETCDF3_64BIT_DATA"]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_netcdf_is_read_as_its_library_reads_it(form: str, netcdf: dict[str, Path]) -> None:
    path = netcdf[form]
    with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as ds:
        names = [str(n) for n in ds.variables]
        for name in names:
            values = ds.variables[name].values
            array = open_direct(str(path), None, name)
            assert array is not None
            assert (array.shape, array.dtype) == (values.shape, values.dtype)
            assert array.read(everything(array)).tobytes() == values.tobytes()
            inner = tuple(slice(n // 3, n - n // 4) for n in values.shape)
            assert array.read(inner).tobytes() == values[inner].tobytes()
    assert len(names) == 14


def test_the_only_record_variable_is_not_padded(tmp_path: Path) -> None:
    import netCDF4

    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("t", None)
        file.createDimension("x", 3)
        file.createVariable("v", "i1", ("t", "x"))[:] = np.arange(12).reshape(4, 3)
    array = open_direct(str(tmp_path / "a.nc"), None, "v")
    assert array is not None
    assert array.read(everything(array)).tolist() == np.arange(12).reshape(4, 3).tolist()


def test_a_netcdf3_file_that_is_cut_is_refused(netcdf: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.nc"
    path.write_bytes(netcdf["NETCDF3_CLASSIC"].read_bytes()[:-60])
    array = open_direct(str(path), None, "vS1")
    assert array is not None
    with pytest.raises(SourceError, match=r"'vS1'.*cut off"):
        array.read(everything(array))


@pytest.mark.parametrize("form", FORMATS)
def test_values_are_read_without_opening_the_file_through_a_library(
    form: str, netcdf: dict[str, Path]
) -> None:
    close_files()
    array = open_stored(FileRef(str(netcdf[form]), "netcdf4", None, "vf4"), lazy=True)
    out = np.empty((7, 5), "f4")
    assert array.read((slice(0, 7), slice(0, 5)), out) is out
    assert not arrays._files
    assert array.info.by_chunk
    assert array.info.format == ("netcdf4" if "4" in form[:7] else "netcdf3")


def test_a_variable_that_is_not_there_is_refused_when_it_is_opened(
    netcdf: dict[str, Path],
) -> None:
    for name in ("nothing", "only"):  # a dim has a dataset in the file, and is no variable
        with pytest.raises(SourceError):
            open_stored(FileRef(str(netcdf["NETCDF4"]), "netcdf4", None, name))


def test_a_variable_that_is_shorter_than_its_unlimited_dim_is_filled_up(tmp_path: Path) -> None:
    import netCDF4

    path = tmp_path / "ragged.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createVariable("long", "i4", ("t",))[:] = np.arange(9)
        short = file.createVariable("short", "i4", ("t",), fill_value=-7)
        short[0:2] = [1, 2]
    ref = FileRef(str(path), "netcdf4", None, "short")
    expected = [1, 2, *[-7] * 7]
    array = open_stored(ref)
    assert array.info.shape == (9,)
    assert array.info.by_chunk
    assert array.read((slice(0, 9),)).tolist() == expected
    assert array.read((slice(1, 4),)).tolist() == expected[1:4]
    assert array.read((slice(5, 8),), np.empty(3, "i4")).tolist() == expected[5:8]
    lazily = open_stored(ref, lazy=True)
    assert lazily.read((slice(0, 9),), np.empty(9, "i4")).tolist() == expected
    assert lazily.read((slice(0, 2),), np.empty(2, "i4")).tolist() == expected[:2]


@pytest.mark.parametrize("engine", ["netcdf4", "xchunk"])
@pytest.mark.parametrize(
    "how",
    [{}, {"zlib": True}, {"fill_value": 3}, {"fill_value": 0}, {"fill_value": False}],
    ids=str,
)
def test_a_variable_that_is_shorter_along_two_unlimited_dims_is_filled_up(
    tmp_path: Path, engine: str, how: dict[str, Any]
) -> None:
    import netCDF4

    path = tmp_path / "two.nc"
    # without a fill value there is only HDF5's own, 0, as h5netcdf shows it
    wanted = np.full((9, 7), int(how.get("fill_value", -(2**31) + 1)))
    wanted[:3, :5] = np.arange(15).reshape(3, 5)
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createDimension("u", None)
        file.createVariable("long", "i4", ("t", "u"), chunksizes=(4, 3))[:9, :7] = 1
        short = file.createVariable("short", "i4", ("t", "u"), chunksizes=(4, 3), **how)
        short[:3, :5] = wanted[:3, :5]
    # netCDF's library itself leaves there whatever was in memory
    with xr.open_dataset(path, engine=engine, mask_and_scale=False, chunks={}) as ds:
        for number, chunks in enumerate(({"t": 2, "u": 3}, {"t": -1, "u": 1}, {"t": 1, "u": -1})):
            target = tmp_path / f"{number}.zarr"
            out = ds.chunking.apply(chunks, store=target, progress=False, verify=True)
            stored = xr.open_zarr(target, mask_and_scale=False).short.values
            np.testing.assert_array_equal(stored, wanted)
            assert (out.long.values == 1).all()
    if engine == "xchunk":
        with xr.open_dataset(path, engine=engine, mask_and_scale=False) as ds:
            np.testing.assert_array_equal(ds.short[5:2:-1, [0, 3, 6]], wanted[5:2:-1, [0, 3, 6]])
            np.testing.assert_array_equal(ds.short[8], wanted[8])
            np.testing.assert_array_equal(ds.short, wanted)


def test_a_url_or_a_folder_is_left_to_the_library(tmp_path: Path) -> None:
    for place in ("https://example.org/a.nc", str(tmp_path), str(tmp_path / "nothing.nc"), "\0"):
        assert open_direct(place, None, "v") is None


@pytest.mark.parametrize("kind", ["zlib", "gzip"])
@pytest.mark.parametrize("fast", [True, False])
def test_streams_are_checked_to_their_end(
    kind: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip
    import zlib

    from xchunk.stores import chunk_codec as module

    if fast and not module.has_libdeflate():
        pytest.skip("libdeflate is not installed (it is in the extra 'netcdf')")
    if not fast:
        monkeypatch.setattr(module, "_libdeflate", lambda: None)
    plain = np.arange(5000, dtype="i4").tobytes()
    packed = (zlib.compress if kind == "zlib" else gzip.compress)(plain)
    assert bytes(inflate(kind, packed, len(plain), alone=True)) == plain
    assert bytes(inflate(kind, packed + b"more", len(plain))) == plain
    for damaged, size in (
        (packed[:-1], len(plain)), (packed[:40], len(plain)), (b"", len(plain)),
        (packed, len(plain) - 1), (packed, len(plain) + 1), (packed[:-4] + b"abcd", len(plain)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=kind):
            inflate(kind, damaged, size, alone=True)
    with pytest.raises(ValueError, match=kind):
        inflate(kind, packed + b"more", len(plain), alone=True)


#: Small files, each as another package made it of `TABLE`: which, and with what, they say.
OTHER_FILES = json.loads(Path(__file__).with_name("other_hdf5.json").read_text())
TABLE = np.arange(20 * 30, dtype="f4").reshape(20, 30)

#: File and variable: what the layout calls its filters, and what is said where nothing reads it.
MADE: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("pytables", "blosc"): (("blosc",), ""),
    ("pytables", "blosc2"): (("blosc2",), "blosc2.*HDF5_PLUGIN_PATH.*drop_vars"),
    ("pytables", "ragged"): ((), "is ragged.*drop_vars"),
    ("hdf5plugin", "lz4"): (("lz4",), ""),
    ("hdf5plugin", "lzf"): (("lzf",), "lzf.*engine='h5netcdf'"),
    ("hdf5plugin", "bitshuffle"): (("bitshuffle",), "bitshuffle.*hdf5plugin"),
    ("hdf5plugin", "zfp"): (("zfp",), "zfp.*hdf5plugin"),
    ("matlab", "A"): ((), ""),
}


@pytest.mark.parametrize(("package", "name"), MADE)
def test_files_of_other_packages(package: str, name: str, tmp_path: Path) -> None:
    """The layout names the filter, and what nobody here undoes is refused before it is copied."""
    codecs, said = MADE[package, name]
    path = tmp_path / "a.h5"
    path.write_bytes(zlib.decompress(base64.b64decode(OTHER_FILES[package]["file"])))
    ds = xr.open_dataset(path, engine="netcdf4", chunks={})[[name]]
    assert ds.chunking.layout()[name].codecs == codecs
    if said:
        error = xchunk.EncodingError if name == "ragged" else SourceError
        with pytest.raises(error, match=rf"(?s){said}"):
            ds.chunking.plan({}, store=tmp_path / "out.zarr")
        assert not (tmp_path / "out.zarr").exists()
        return
    rows, columns = ds[name].dims
    store = tmp_path / "out.zarr"
    out = ds.chunking.apply({rows: -1, columns: 10}, store=store, progress=False, verify=True)
    expected = TABLE.T if package == "matlab" else TABLE
    np.testing.assert_array_equal(out[name].values, expected)
