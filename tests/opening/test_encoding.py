from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from xchunk.errors import EncodingError
from xchunk.opening.encoding import put_encodings
from xchunk.sources.provenance import is_left


@pytest.fixture
def ds() -> xr.Dataset:
    ds = xr.Dataset({"t": ("x", np.linspace(0, 1, 5)), "n": ("x", np.arange(5))})
    ds.t.encoding = {"dtype": np.dtype("i2"), "scale_factor": 0.1, "_FillValue": -1, "chunks": (5,)}
    return ds


def test_a_new_dtype_takes_the_place_of_the_packing(ds: xr.Dataset) -> None:
    put_encodings(ds, {"t": {"dtype": "f4"}}, 3)
    assert ds.t.encoding == {"dtype": np.dtype("f4"), "chunks": (5,)}


def test_all_data_variables_at_once(ds: xr.Dataset) -> None:
    put_encodings(ds, {"*": {"compressor": "none"}, "t": {"_FillValue": -9}}, 3)
    assert ds.t.encoding["compressors"] is None
    assert ds.n.encoding == {"compressors": None}
    assert ds.t.encoding["_FillValue"] == -9


def test_variables_of_a_tree(ds: xr.Dataset) -> None:
    tree = xr.DataTree.from_dict({"/": ds, "/a": ds[["t"]], "/a/b": ds})
    wanted = {"*": {"compressor": "none"}, "a/t": {"dtype": "f4"}, "/a/b/n": {"dtype": "i1"}}
    put_encodings(tree, wanted)
    assert tree["a/t"].encoding["dtype"] == np.dtype("f4")
    assert tree["a/b/n"].encoding == {"compressors": None, "dtype": np.dtype("i1")}
    assert tree["a/b/t"].encoding["dtype"] == tree["t"].encoding["dtype"] == np.dtype("i2")
    with pytest.raises(EncodingError, match="did you mean 'a/b/n'"):
        put_encodings(tree, {"a/b/nn": {}})


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("zstd", "zstd"),
        ({"name": "zstd", "level": 7}, "zstd"),
        ({"name": "gzip", "level": 2}, "gzip"),
        ({"name": "blosc", "cname": "lz4", "clevel": 4}, "blosc"),
    ],
)
def test_compressors(ds: xr.Dataset, version: int, said: Any, name: str) -> None:
    put_encodings(ds, {"t": {"compressor": said}}, version)
    (codec,) = ds.t.encoding["compressors"]
    assert hasattr(codec, "get_config") == (version == 2)
    assert name in str(codec).lower()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"tt": {}}, "no variable 'tt'; did you mean 't'?"),
        ({"t": {"dtype": "flot"}}, "'flot'"),
        ({"t": {"dtype": "i2"}}, "_FillValue"),
        ({"t": {"scale_factor": "0.1"}}, "scale_factor '0.1' is no number"),
        ({"t": {"compressor": 3}}, "compressor is a name"),
        ({"t": {"compressor": {"level": 3}}}, "compressor is a name"),
        ({"t": {"compressor": "zstandard"}}, "did you mean 'zstd'"),
        ({"t": {"compressor": {"name": "zstd", "levle": 3}}}, "cannot be had"),
    ],
)
def test_what_is_wrong_is_named(ds: xr.Dataset, wanted: Any, said: str) -> None:
    with pytest.raises(EncodingError) as caught:
        put_encodings(ds, wanted, 3)
    assert said in str(caught.value)


def test_a_wish_is_told_from_what_was_left(ds: xr.Dataset) -> None:
    ds.t.encoding |= {"source": "a.nc", "preferred_chunks": {"x": 5}}
    put_encodings(ds, {"t": {"compressor": "none"}}, 3)
    assert is_left(ds.t.encoding)
    put_encodings(ds, {"t": {"dtype": "f4"}}, 3)
    assert not is_left(ds.t.encoding)
    assert ds.t.encoding["chunks"] == (5,)
