"""Many stores as one: what they hold is kept, however differently each is stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk
from remote.data import need
from servers.web import has_nginx, nginx
from xchunk.sources.provenance import unlike

# what cannot be kept as it is stored is said, which is looked at in the plan's notes
pytestmark = pytest.mark.filterwarnings("ignore::xchunk.errors.LayoutChangeWarning")
slow = pytest.mark.slow
PACKED: dict[str, Any] = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -32768}


def year(path: Path, number: int, encoding: dict[str, Any], chunk: int, top: float = 30) -> Path:
    """A year of days, stored as it is asked."""
    days = 366 if number % 4 == 0 else 365
    rng = np.random.default_rng(number)
    step = encoding.get("scale_factor", 0.125)
    kind = "i4" if encoding["dtype"] == "i4" and "scale_factor" not in encoding else "f8"
    values = (np.round(rng.uniform(-top, top, (days, 4, 6)) / step) * step).astype(kind)
    if kind == "f8":
        values[3, 2, 1] = np.nan
    ds = xr.Dataset(
        {"v": (("time", "lat", "lon"), values, {"units": "K"})},
        coords={
            "time": np.datetime64(f"{number}-01-01", "ns")
            + np.arange(days) * np.timedelta64(1, "D"),
            "lat": np.arange(4.0),
            "lon": np.arange(6.0),
        },
    )
    where = path / f"{number}.zarr"
    own = {"v": {**encoding, "chunks": (chunk, 4, 6)},
           "time": {"units": f"days since {number}-01-01", "dtype": "i4"}}  # fmt: skip
    ds.to_zarr(where, encoding=own, consolidated=True)
    return where


def open_by(how: str, files: list[Path]) -> xr.Dataset:
    if how == "open_mfdataset":
        return xr.open_mfdataset(files, engine="zarr")
    if how == "concat":
        return xr.concat([xr.open_zarr(f) for f in files], "time")
    return xchunk.open_dataset(files, engine="zarr")


@pytest.mark.parametrize(
    ("second", "top", "stored"),
    [
        ({**PACKED}, 30, "i2"),
        pytest.param({**PACKED, "scale_factor": 0.002}, 30, "f8", marks=slow),
        # these would wrap around if they were packed as the first year's are
        ({**PACKED, "scale_factor": 2.0}, 9000, "f8"),
        pytest.param({**PACKED, "add_offset": 5.0}, 30, "f8", marks=slow),
        pytest.param({**PACKED, "_FillValue": -1}, 30, "f8", marks=slow),
        pytest.param({**PACKED, "dtype": "i4"}, 90000, "f8", marks=slow),
        ({"dtype": "f8"}, 30, "f8"),
    ],
    ids=["alike", "scale", "larger scale", "offset", "fill", "wider", "not packed"],
)
@pytest.mark.parametrize(
    "how", ["open_mfdataset", *(pytest.param(h, marks=slow) for h in ("open_dataset", "concat"))]
)
def test_365_and_366_days(
    tmp_path: Path, how: str, second: dict[str, Any], top: float, stored: str
) -> None:
    files = [year(tmp_path, 2019, PACKED, 10), year(tmp_path, 2020, second, 31, top)]
    right = np.concatenate([xr.open_zarr(f).v.values for f in files])
    ds = open_by(how, files)
    if how != "open_dataset":
        assert (unlike(ds.v.variable) is not None) == (stored != "i2")
    plan = ds.chunking.plan({"time": -1, "lat": 2}, store=tmp_path / "out.zarr")
    mixed = [note for note in plan.notes if "stored in different ways" in note]
    assert bool(mixed) == (stored != "i2")
    out = ds.chunking.apply({"time": -1, "lat": 2}, store=tmp_path / "out.zarr", progress=False)
    np.testing.assert_array_equal(out.v.values, right)
    array = zarr.open_group(tmp_path / "out.zarr", mode="r")["v"]
    assert array.shape == (731, 4, 6)
    assert array.chunks == (731, 2, 6)
    assert array.dtype == np.dtype(stored)
    np.testing.assert_array_equal(out.time.values, ds.time.values)
    assert out.v.attrs == {"units": "K"}


def test_an_encoding_that_is_given_is_kept(tmp_path: Path) -> None:
    files = [year(tmp_path, 2019, PACKED, 10), year(tmp_path, 2020, {"dtype": "f8"}, 31)]
    ds = open_by("open_mfdataset", files)
    ds.v.encoding = {"dtype": "i4", "scale_factor": 0.005, "_FillValue": -1_000_000}
    ds.chunking.apply({"time": -1}, store=tmp_path / "out.zarr", progress=False)
    assert zarr.open_group(tmp_path / "out.zarr", mode="r")["v"].dtype == np.dtype("i4")


def test_integers_of_two_widths(tmp_path: Path) -> None:
    """Cast to the first file's int16, the others' values would wrap around."""
    files = [
        year(tmp_path, 2019, {"dtype": "i4"}, 10),
        year(tmp_path, 2020, {"dtype": "i4"}, 7, 9e4),
    ]
    narrow = xr.open_zarr(files[0]).load().drop_encoding()
    narrow["v"] = narrow.v.astype("i2")
    narrow.to_zarr(tmp_path / "narrow.zarr")
    ds = open_by("concat", [tmp_path / "narrow.zarr", files[1]])
    assert ds.v.dtype == np.dtype("i4")
    out = ds.chunking.apply({"time": -1}, store=tmp_path / "out.zarr", progress=False)
    np.testing.assert_array_equal(out.v.values, ds.v.values)
    assert abs(out.v.values).max() > 2**15


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ds: ds.rename(lat="y"), "do not fit together"),
        (lambda ds: ds.isel(lat=slice(2)), "join='outer'"),
        (lambda ds: ds.drop_vars("time"), "do not fit together"),
    ],
    ids=["another dim", "other places", "no time"],
)
def test_files_that_disagree(tmp_path: Path, change: Any, said: str) -> None:
    files = [year(tmp_path, 2019, PACKED, 10), year(tmp_path, 2020, PACKED, 10)]
    change(xr.open_zarr(files[1])).drop_encoding().to_zarr(tmp_path / "odd.zarr")
    with pytest.raises(xchunk.SourceError, match=said):
        xchunk.open_dataset([files[0], tmp_path / "odd.zarr"], engine="zarr")


# h5py, with which references are made, is not loaded into the common process
REFERENCES = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, xarray as xr, zarr, xchunk
from kerchunk.hdf import SingleHdf5ToZarr
values = (np.arange(20 * 6 * 8) % 999 + 1).reshape(20, 6, 8) * 0.5
xr.Dataset({"v": (("t", "y", "x"), values)}).to_netcdf(
    "a.nc", engine="h5netcdf",
    encoding={"v": {"dtype": "i2", "scale_factor": 0.5, "chunksizes": (1, 6, 8)}})
with open("refs.json", "w") as file:
    json.dump(SingleHdf5ToZarr("a.nc").translate(), file)
ds = xr.open_dataset("reference://", engine="zarr", chunks={}, backend_kwargs={
    "storage_options": {"fo": "refs.json"}, "consolidated": False})
layout = ds.chunking.layout()["v"]
out = ds.chunking.apply({"t": -1, "x": 4}, store="out.zarr", progress=False, verify=True)
found = zarr.open_group("out.zarr", mode="r")["v"]
assert np.array_equal(out.v.values, values)
print(json.dumps([layout.format, list(layout.chunks), str(found.dtype), list(found.chunks)]))
"""


@pytest.mark.slow
def test_references_of_kerchunk(tmp_path: Path) -> None:
    need("kerchunk")
    call = [sys.executable, "-c", REFERENCES]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["zarr2", [1, 6, 8], "int16", [20, 6, 4]]


VIRTUAL = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
import icechunk, numpy as np, xarray as xr, zarr, xchunk
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import LocalStore
from virtualizarr import open_virtual_dataset
from virtualizarr.parsers import HDFParser
here = "file://" + os.getcwd() + "/"
registry, parts, right = ObjectStoreRegistry({"file://": LocalStore()}), [], []
for i in range(3):
    values = (np.arange(20 * 6 * 8) % 999 + 1 + i).reshape(20, 6, 8) * 0.5
    ds = xr.Dataset({"v": (("t", "y", "x"), values)}, {"t": np.arange(20) + 20 * i})
    ds.to_netcdf(f"{i}.nc", engine="h5netcdf",
                 encoding={"v": {"dtype": "i2", "scale_factor": 0.5, "chunksizes": (1, 6, 8)}})
    parts.append(open_virtual_dataset(
        f"{here}{i}.nc", registry=registry, parser=HDFParser(), loadable_variables=["t"]))
    right.append(values)
virtual = xr.concat(parts, "t", data_vars="minimal", coords="minimal", compat="override")
if sys.argv[1] == "references":
    virtual.vz.to_kerchunk("refs.json", format="json")
    ds = xr.open_dataset("reference://", engine="zarr", chunks={}, backend_kwargs={
        "storage_options": {"fo": "refs.json"}, "consolidated": False})
elif sys.argv[1] == "icechunk":
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(here, icechunk.local_filesystem_store(os.getcwd())))
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage("repo"), config=config,
                                      authorize_virtual_chunk_access={here: None})
    session = repo.writable_session("main")
    virtual.vz.to_icechunk(session.store)
    session.commit("references")
    ds = xr.open_zarr(repo.readonly_session("main").store, consolidated=False)
else:
    right = right[:1]
    manifest = HDFParser()(url=f"{here}0.nc", registry=registry)
    ds = xr.open_zarr(manifest, consolidated=False, zarr_format=3)
layout = ds.chunking.layout()["v"]
out = ds.chunking.apply({"t": -1, "x": 4}, store="out.zarr", progress=False, verify=True)
found = zarr.open_group("out.zarr", mode="r")["v"]
assert np.array_equal(out.v.values, np.concatenate(right))
assert np.array_equal(out.t.values, np.arange(20 * len(right)))
print(json.dumps([layout.format, list(layout.chunks), str(found.dtype), list(found.chunks)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form", "steps"),
    [("references", "zarr2", 60), ("icechunk", "zarr3", 60), ("manifest", "zarr3", 20)],
)
def test_references_of_virtualizarr(tmp_path: Path, kind: str, form: str, steps: int) -> None:
    need("virtualizarr", "icechunk")
    call = [sys.executable, "-c", VIRTUAL, kind]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # packed as they are stored: the chunks are copied, and not their decoded values
    assert json.loads(done.stdout) == [form, [1, 6, 8], "int16", [steps, 6, 4]]


KERCHUNK = """
import json, shutil, warnings
warnings.simplefilter("ignore")
import numpy as np, xarray as xr, zarr, xchunk
from kerchunk.combine import MultiZarrToZarr
from kerchunk.hdf import SingleHdf5ToZarr
from xchunk.opening.dataset import open_named
from xchunk.opening.formats import open_source
names, right = [f"{i:02}.nc" for i in range(24)], []
for i, name in enumerate(names):
    values = np.random.default_rng(i).integers(0, 99, (10, 6, 8)) / 2
    ds = xr.Dataset({"v": (("t", "y", "x"), values)}, coords={"t": np.arange(10) + 10 * i})
    ds.to_netcdf(name, engine="h5netcdf", encoding={"v": {
        "dtype": "i2", "scale_factor": 0.5, "chunksizes": (1, 6, 8), "zlib": True,
        "shuffle": True}})
    right.append(values)
parts = [SingleHdf5ToZarr(name, inline_threshold=0).translate() for name in names]
refs = MultiZarrToZarr(parts, concat_dims=["t"], remote_protocol="file").translate()
json.dump(refs, open("refs.json", "w"))
inside = {"storage_options": {"fo": "refs.json"}}
for ds in (
    xr.open_dataset("refs.json", engine="kerchunk", chunks={}),
    xr.open_zarr("reference://", consolidated=False, **inside),
    open_source("refs.json"),
    open_source("refs.json", engine="kerchunk"),
    open_source("refs.json", engine="kerchunk", chunks=None),
    open_source("reference://", **inside),
    open_source("reference::refs.json"),
    open_named("refs.json"),
):
    layout = ds.chunking.layout()["v"]
    assert (layout.chunks, layout.codecs) == ((1, 6, 8), ("shuffle", "zlib")), layout
    shutil.rmtree("out.zarr", ignore_errors=True)
    out = ds.chunking.apply({"t": -1, "x": 4}, store="out.zarr", progress=False, verify=True)
    assert zarr.open_group("out.zarr", mode="r")["v"].dtype == "i2"
    assert np.array_equal(out.v.values, np.concatenate(right))
"""


@pytest.mark.slow
def test_references_of_24_files_however_they_are_opened(tmp_path: Path) -> None:
    need("kerchunk", "h5netcdf")
    call = [sys.executable, "-c", KERCHUNK]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


FAR = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, xarray as xr, zarr, xchunk
from kerchunk.df import refs_to_dataframe
from kerchunk.hdf import SingleHdf5ToZarr
from xchunk.opening.dataset import open_named
url, templates = sys.argv[1], sys.argv[2] == "templates"
values = (np.arange(20 * 6 * 8) % 999 + 1).reshape(20, 6, 8) * 0.5
xr.Dataset({"v": (("t", "y", "x"), values)}).to_netcdf("a.nc", engine="h5netcdf", encoding={
    "v": {"dtype": "i2", "scale_factor": 0.5, "chunksizes": (1, 6, 8), "zlib": True}})
refs = SingleHdf5ToZarr("a.nc", inline_threshold=0).translate()
for held in refs["refs"].values():
    if isinstance(held, list):
        held[0] = "{{u}}" if templates else f"{url}/a.nc"
if templates:
    refs["templates"] = {"u": f"{url}/a.nc"}
json.dump(refs, open("refs.json", "w"))
places = ["refs.json", f"{url}/refs.json"]
if not templates:
    refs_to_dataframe(refs, "refs.parq")
    places += ["refs.parq", f"{url}/refs.parq"]
for place in places:
    ds = open_named(place)
    layout = ds.chunking.layout()["v"]
    assert (layout.chunks, layout.codecs) == ((1, 6, 8), ("zlib",)), layout
    target = f"{places.index(place)}.zarr"
    out = ds.chunking.apply({"t": -1, "x": 4}, store=target, progress=False, verify=True)
    assert zarr.open_group(target, mode="r")["v"].dtype == "i2"
    assert np.array_equal(out.v.values, values)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["urls", "templates"])
def test_references_to_files_of_a_server(tmp_path: Path, kind: str) -> None:
    need("kerchunk", "h5netcdf", "aiohttp", "fastparquet")
    if has_nginx() is None:
        pytest.skip("needs nginx")
    with nginx(tmp_path, tmp_path / "nginx") as url:
        call = [sys.executable, "-c", FAR, url, kind]
        done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


PARQUET = """
import sys, warnings
warnings.simplefilter("ignore")
import os, shutil
import numpy as np, xarray as xr, zarr, xchunk
from kerchunk.df import refs_to_dataframe
from kerchunk.hdf import SingleHdf5ToZarr
values = (np.arange(20 * 6 * 8) % 999 + 1).reshape(20, 6, 8) * 0.5
xr.Dataset({"v": (("t", "y", "x"), values)}).to_netcdf("a.nc", engine="h5netcdf", encoding={
    "v": {"dtype": "i2", "scale_factor": 0.5, "chunksizes": (1, 6, 8), "zlib": True}})
refs = SingleHdf5ToZarr("a.nc", inline_threshold=0).translate()
refs_to_dataframe(refs, "refs.parq", record_size=7)
for name in ("refs.parquet", "other"):
    shutil.copytree("refs.parq", name)
how = {"fo": "refs.parq", "remote_protocol": "file"}
for ds, source in (
    (xr.open_zarr("reference://", consolidated=False, storage_options=how), "reference://"),
    (xr.open_dataset("refs.parq", engine="kerchunk", chunks={}), "/"),
    (xchunk.open_dataset("refs.parq"), "refs.parq"),
    (xchunk.open_dataset("file://" + os.path.abspath("refs.parquet")), None),
    (xchunk.open_dataset("other"), "other"),
    (xchunk.open_dataset("other", engine="kerchunk"), "other"),
    (xchunk.open_dataset("reference://", storage_options={"fo": "other"}), "other"),
    (xchunk.open_datatree("other").to_dataset(), "other"),
):
    assert ds.chunking.layout()["v"].chunks == (1, 6, 8)
    assert source in (None, ds.chunking.layout().source), ds.chunking.layout().source
    shutil.rmtree("out.zarr", ignore_errors=True)
    out = ds.chunking.apply({"t": -1, "x": 4}, store="out.zarr", progress=False, verify=True)
    assert zarr.open_group("out.zarr", mode="r")["v"].dtype == "i2"
    assert np.array_equal(out.v.values, values)

import pandas as pd
def said(src):
    try:
        xchunk.open_dataset(src)
    except xchunk.SourceError as error:
        return str(error)
def none(*_, **__): raise ImportError("no fastparquet here")
pd.read_parquet = none
assert said("refs.parq").startswith("refs.parq: holds references in parquet, which needs fastparq")
os.remove("refs.parq/v/refs.0.parq")
assert said("refs.parq").startswith("refs.parq: holds references in parquet that cannot be read")
assert "names no references" in said("reference://")
"""


@pytest.mark.slow
def test_references_in_parquet(tmp_path: Path) -> None:
    need("kerchunk", "h5netcdf", "fastparquet")
    call = [sys.executable, "-c", PARQUET]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
