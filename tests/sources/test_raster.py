"""Rasters through rioxarray: tiles are chunks, and are copied as they are stored."""

from __future__ import annotations

from typing import Any

import pytest

from sources.apart import apart

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

HEAD = """
import warnings
import rasterio, rioxarray
warnings.simplefilter("ignore")
from rasterio.transform import from_origin
rng = np.random.default_rng(0)

def write(path, bands=2, dtype="uint16", nodata=0, scale=0.0001, offset=-0.1, mask=False, **how):
    values = rng.integers(1, 3000, (bands, 300, 400)).astype(dtype)
    if nodata is not None:
        values[:, 10:20, 30:60] = nodata
    how = {"tiled": True, "blockxsize": 128, "blockysize": 64, "compress": "deflate", **how}
    with rasterio.open(path, "w", driver="GTiff", height=300, width=400, count=bands, dtype=dtype,
                       crs="EPSG:32633", transform=from_origin(5e5, 5e6, 10, 10), nodata=nodata,
                       **how) as file:
        file.write(values)
        if mask:
            file.write_mask(np.arange(400) % 7 > np.zeros((300, 1)))
        file.scales, file.offsets = (scale,) * bands, (offset,) * bands
        file.build_overviews([2])
    return values

def rechunk(ds, **how):
    ds.chunking.apply({"y": 100, "x": 100}, store="out.zarr", progress=False, **how)
    ds.chunking.verify("out.zarr")
    return zarr.open_group("out.zarr", mode="r")["b"]
"""


def child(code: str, given: dict[str, Any] | None = None) -> Any:
    return apart(HEAD + code, given, "rioxarray", "rasterio")


COPY = """
how, opened, chunks = given["how"], given["opened"], given["chunks"]
values = write("a.tif", **how)
from rasterio.env import get_gdal_config
before = get_gdal_config("GDAL_CACHEMAX")
da = rioxarray.open_rasterio("a.tif", chunks=chunks, cache=False, **opened)
ds = da.to_dataset(name="b")
layout = ds.chunking.layout()["b"]
notes = ds.chunking.plan({"y": 100, "x": 100}, store="out.zarr").notes
assert any("float64" in note for note in notes) == ("mask_and_scale" in opened)
raw = rechunk(ds)
assert raw.dtype == values.dtype
assert raw[...].tobytes() == values.tobytes()
assert get_gdal_config("GDAL_CACHEMAX") == before
again = xr.open_zarr("out.zarr", decode_coords="all", mask_and_scale=bool(opened))
assert str(again.rio.crs) == "EPSG:32633"
assert again.rio.transform() == da.rio.transform()
if "mask_and_scale" in opened:
    np.testing.assert_allclose(again.b.values, da.values, rtol=1e-5, atol=1e-7)
done(layout.format, list(layout.chunks), list(layout.codecs), str(layout.stored_dtype),
     {k: v for k, v in raw.attrs.items() if k in ("scale_factor", "add_offset", "_FillValue")})
"""


@pytest.mark.parametrize("chunks", [None, {"x": 200, "y": 200}], ids=["lazy", "blocks"])
@pytest.mark.parametrize(
    "opened", [{}, {"masked": True}, {"mask_and_scale": True}], ids=["plain", "masked", "scaled"]
)
def test_tiles_are_copied_as_they_are_stored(
    opened: dict[str, bool], chunks: dict[str, int] | None
) -> None:
    how = {"predictor": 2}
    form, tiles, codecs, dtype, attrs = child(
        COPY, {"how": how, "opened": opened, "chunks": chunks}
    )
    # the bands of a pixel lie together, as rasterio writes them
    assert (form, tiles, dtype) == ("raster", [2, 64, 128], "uint16")
    assert codecs == ["deflate predictor 2"]
    assert attrs == {"scale_factor": 0.0001, "add_offset": -0.1, "_FillValue": 0}


@pytest.mark.parametrize(
    ("how", "tiles"),
    [
        ({"tiled": False, "compress": "lzw", "blockysize": 8}, [2, 8, 400]),
        ({"dtype": "float32", "nodata": None, "compress": "zstd", "predictor": 3}, [2, 64, 128]),
        ({"bands": 3, "interleave": "band"}, [1, 64, 128]),
        ({"bands": 1, "compress": None}, [1, 64, 128]),
    ],
    ids=["rows", "floats", "band by band", "uncompressed"],
)
def test_kinds_of_files(how: dict[str, Any], tiles: list[int]) -> None:
    form, found, *_ = child(COPY, {"how": how, "opened": {}, "chunks": None})
    assert (form, found) == ("raster", tiles)


@pytest.mark.parametrize("chunks", [None, {"y": 64, "x": 128}], ids=["lazy", "blocks"])
def test_a_mask_beside_the_values_is_read_through_rioxarray(chunks: dict[str, int] | None) -> None:
    form, same, said = child(
        """
write("a.tif", mask=True, nodata=None, scale=1, offset=0)
da = rioxarray.open_rasterio("a.tif", masked=True, chunks=given["chunks"], cache=False)
ds = da.to_dataset(name="b")
right = da.values
said = ""
try:
    rechunk(ds)
except xchunk.EncodingError as error:  # there is no fill value for what is masked
    said = str(error)
    ds.chunking.apply({"y": 100, "x": 100}, store="out.zarr", progress=False, unpack=True,
                      resume=False)
same = np.array_equal(xr.open_zarr("out.zarr").b.values, right, equal_nan=True)
done(ds.chunking.layout()["b"].reader, same and bool(np.isnan(right).any()), said)
""",
        {"chunks": chunks},
    )
    assert form == "rioxarray"
    assert same
    # what is not dask's is looked at first, and stored as floats
    assert ("no _FillValue" in said) == (chunks is not None)


def test_values_that_are_not_decoded_are_noted() -> None:
    notes, shown, read = child(
        """
write("a.tif", nodata=None, scale=0.5, offset=1)
da = rioxarray.open_rasterio("a.tif", masked=True, chunks={"y": 64, "x": 128})
ds = da.to_dataset(name="b")
plan = ds.chunking.plan({"y": 100, "x": 100}, store="out.zarr", max_mem="100MB")
rechunk(ds)
done(list(plan.notes), float(da.values.flat[0]), float(xr.open_zarr("out.zarr").b.values.flat[0]))
"""
    )
    assert read == shown * 0.5 + 1
    assert any("readers decode them by its attributes" in note for note in notes)


def test_a_band_of_several() -> None:
    (form,) = child("""
values = write("a.tif")
ds = rioxarray.open_rasterio("a.tif", band_as_variable=True, chunks={"y": 64, "x": 128})
ds.chunking.apply({"y": 100, "x": 100}, store="out.zarr", progress=False)
raw = zarr.open_group("out.zarr", mode="r")
for number in (1, 2):
    assert raw[f"band_{number}"][...].tobytes() == values[number - 1].tobytes()
done(ds.chunking.layout()["band_2"].format)
""")
    assert form == "raster"


@pytest.mark.parametrize("how", ["concat", "open_named"])
def test_a_stack_of_20_dates(how: str) -> None:
    layout, files, dtype = child(
        """
values = np.stack([write(f"{i:02}.tif", bands=1) for i in range(20)])
names = [f"{i:02}.tif" for i in range(20)]
if given["how"] == "concat":
    parts = [rioxarray.open_rasterio(n, chunks={"y": 64, "x": 128}) for n in names]
    ds = xr.concat(parts, "time").to_dataset(name="band_data")
else:
    from xchunk.opening.dataset import open_named
    ds = open_named(names, engine="rasterio", concat_dim="time")
layout = ds.chunking.layout()["band_data"]
ds.chunking.apply({"time": -1, "y": 100, "x": 100}, store="out.zarr", max_mem="60MB",
                  progress=False)
ds.chunking.verify("out.zarr")
raw = zarr.open_group("out.zarr", mode="r")["band_data"]
assert raw.chunks[0] == 20
assert raw[...].tobytes() == values.tobytes()
done(list(layout.chunks), layout.files, str(raw.dtype))
""",
        {"how": how},
    )
    assert layout == [1, 1, 64, 128]
    assert files == 20
    assert dtype == "uint16"


def test_a_file_that_is_replaced_is_refused() -> None:
    (said,) = child("""
write("a.tif")
da = rioxarray.open_rasterio("a.tif")
from xchunk.sources.trace import trace
from xchunk.sources.arrays import open_stored
stored = open_stored(trace(da.variable).ref)
os.utime("a.tif", (1, 1))
try:
    stored.read([slice(0, n) for n in da.shape])
except xchunk.SourceError as error:
    done(str(error))
done("read")
""")
    assert "written or replaced" in said
