"""Rasters opened through rioxarray: GDAL's blocks (tiles, or rows) are the chunks.

rioxarray masks and scales as it reads. What is stored is read here, by GDAL, and what rioxarray
makes of it is a step of decoding: so a tile is copied as it is stored, with the nodata value, the
scale and the offset beside it. A mask that lies beside the values (an alpha band, a .msk file) is
no part of them: such a raster is read through rioxarray.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.core.grid import slabs
from xchunk.core.redact import without_secrets
from xchunk.errors import SourceError
from xchunk.sources.hdf5_read import Stamp, changed, stamp_of
from xchunk.sources.refs import FileRef, StoredInfo
from xchunk.sources.slicing import Decoder, UntraceableError

#: xarray's name of the engine, and its class of lazy arrays.
ENGINE = "rasterio"
ARRAY = ("rioxarray._io", "RasterioArrayWrapper")

#: What is held for each byte of a block: itself in GDAL's cache, its stored bytes, a copy.
_COPIES = 3.0
#: Bytes that are read at once where blocks are smaller, and blocks that GDAL may keep.
_AT_ONCE, _KEPT = 1_000_000, 8
#: What is said of values that rioxarray scales.
_SCALED_NOTE = (
    "it is copied as it is stored, and xarray decodes the copy as float64, where rioxarray scales "
    "in the dtype of what it masks; the stored numbers are the same"
)


@dataclass(frozen=True)
class Bands:
    """Which bands of a raster, how GDAL opens it, and how they are stored."""

    options: tuple[tuple[str, Any], ...]
    """What `rasterio.open` is given."""
    numbers: tuple[int, ...]
    """Which bands, counted from 1."""
    shape: tuple[int, int, int]
    """Bands, rows and columns."""
    block: tuple[int, int]
    """Rows and columns of a block."""
    together: int
    """Bands that lie in one block, pixel by pixel."""
    dtype: str
    """The stored dtype."""
    codecs: tuple[str, ...]
    """The compression, and its predictor."""
    nodata: float | None
    """What is missing; None: nothing is."""
    scale: float
    """Factor from stored to shown values, of all bands."""
    offset: float
    """What is added to them."""
    masked: bool
    """Whether what is missing is shown as NaN."""
    scaled: bool
    """Whether values are shown scaled."""
    stamp: Stamp | None
    """What the file was when it was looked at; None: it is no local file."""

    @property
    def token(self) -> str:
        """What tells these bands from others of the file."""
        return f"{self.numbers} {self.dtype} {self.nodata} {self.masked} {self.scaled}"


def reference(array: Any) -> tuple[FileRef, np.dtype[Any], tuple[Decoder, ...]]:
    """Return where rioxarray's lazy array is stored, the dtype, and how it is decoded.

    - raises `UntraceableError` if its values are not those of a raster's bands.
    """
    import rasterio

    manager = array.manager
    filename, *more = getattr(manager, "_args", None) or (None,)
    options = dict(getattr(manager, "_kwargs", {}))
    options.pop("sharing", None)
    band = options.pop("bidx", None)
    opener = getattr(getattr(manager, "_opener", None), "__name__", "")
    plain = opener == ("open" if band is None else "_single_band_open")
    if not plain or more or not isinstance(filename, str) or array.vrt_params is not None:
        raise UntraceableError("a raster that is warped, or opened by other means")
    if getattr(array, "_unsigned_dtype", None) is not None:
        raise UntraceableError("signed values that are shown as unsigned")
    stamp = stamp_of(filename)
    with rasterio.open(filename, sharing=False, **options) as source:
        numbers = range(1, source.count + 1) if band is None else range(band + 1, band + 2)
        how = _described(source, array, numbers, tuple(sorted(options.items())), stamp)
    ref = FileRef(filename, ENGINE, None, "bands", how=how)
    return ref, np.dtype(how.dtype), _decoders(how, array.dtype)


def _described(source: Any, array: Any, numbers: range, options: Any, stamp: Stamp | None) -> Bands:
    from rasterio.enums import Interleaving, MaskFlags

    said = [
        [each[n - 1] for n in numbers]
        for each in (source.scales, source.offsets, source.nodatavals, source.block_shapes)
    ]
    if len({*source.dtypes}) != 1 or source.dtypes[0].startswith("complex_int"):
        raise UntraceableError("values that numpy has not")
    flags = {flag for n in numbers for flag in source.mask_flag_enums[n - 1]}
    shown = array.masked or array.mask_and_scale
    if shown and flags - {MaskFlags.all_valid, MaskFlags.nodata}:
        raise UntraceableError("a mask beside the values")
    if any(len({str(one) for one in each}) > 1 for each in said):
        raise UntraceableError("bands that are stored in several ways")
    predictor = source.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", "1")
    codec = source.compression.value.lower() if source.compression else ""
    if codec and predictor != "1":
        codec += f" predictor {predictor}"
    return Bands(
        options=options,
        numbers=tuple(numbers),
        shape=(len(numbers), source.height, source.width),
        block=tuple(said[3][0]),
        together=source.count if source.interleaving == Interleaving.pixel else 1,
        dtype=np.dtype(source.dtypes[0]).str,
        codecs=(codec,) if codec else (),
        nodata=said[2][0],
        scale=float(said[0][0]),
        offset=float(said[1][0]),
        masked=bool(shown),
        scaled=bool(array.mask_and_scale),
        stamp=stamp,
    )


def _decoders(how: Bands, dtype: np.dtype[Any]) -> tuple[Decoder, ...]:
    if not how.masked:
        return ()
    text = f"nodata={how.nodata!r}, dtype={np.dtype(dtype).str}"
    if how.scaled:
        text += f", scale={how.scale!r}, offset={how.offset!r}"
    return (Decoder("rasterio_mask", None, f"rasterio_mask({text})"),)


_caches: list[int] = []
_cache_lock = threading.Lock()


@contextmanager
def _small_cache(block: int) -> Iterator[None]:
    """Let GDAL keep a few blocks only while we read; the process's own limit is put back.

    It keeps up to a twentieth of the machine's memory by default.
    """
    from rasterio.env import get_gdal_config, set_gdal_config

    with _cache_lock:
        if not _caches:
            _caches.append(get_gdal_config("GDAL_CACHEMAX"))
        _caches.append(_KEPT * block)
        set_gdal_config("GDAL_CACHEMAX", max(_caches[1:]))
    try:
        yield
    finally:
        with _cache_lock:
            _caches.remove(_KEPT * block)
            if len(_caches) == 1:
                set_gdal_config("GDAL_CACHEMAX", _caches.pop())


def open_array(ref: FileRef) -> _RasterArray:
    """Open the bands of a raster."""
    if not isinstance(ref.how, Bands):
        raise SourceError(f"{ref.filename}: is a raster, which has no variable {ref.variable!r}")
    return _RasterArray(ref.filename, ref.how)


@dataclass(frozen=True, eq=False)
class _RasterArray:
    """The bands of a raster as one stored array."""

    filename: str
    bands: Bands
    _open: threading.local = field(default_factory=threading.local)

    @cached_property
    def info(self) -> StoredInfo:
        """What is known of it."""
        b = self.bands
        dtype = np.dtype(b.dtype)
        attrs: dict[str, Any] = {"scale_factor": b.scale, "add_offset": b.offset}
        if b.nodata is not None:
            with np.errstate(all="ignore"):
                fill = np.float64(b.nodata).astype(dtype)
            # what the dtype cannot hold is missing nowhere
            if fill == b.nodata or np.isnan(b.nodata):
                attrs["_FillValue"] = fill
        # of bands that lie in one block all are decoded
        all_bands = b.together == b.shape[0]
        return StoredInfo(
            shape=b.shape,
            dtype=dtype,
            chunks=(
                b.together if all_bands else 1,
                min(b.block[0], b.shape[1]),
                min(b.block[1], b.shape[2]),
            ),
            shards=None,
            codecs=b.codecs,
            format="raster",
            fill_value=None,
            attrs=attrs,
            encoding={},
            by_chunk=True,
            note=_SCALED_NOTE if b.scaled and (b.scale, b.offset) != (1, 0) else "",
            read_copies=_COPIES if all_bands else _COPIES * b.together,
        )

    def read(self, region: Sequence[slice], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a box, by a handle of this thread's own."""
        if out is None or out.dtype != self.info.dtype:
            out = np.empty([r.stop - r.start for r in region], dtype=self.info.dtype)
        if not out.size:
            return out
        self._refuse_another()
        source = self._handle()
        with _small_cache(self._block_nbytes):
            for part in self._parts(region):
                here = out[tuple(slice(p.start - r.start, p.stop - r.start) for p, r in part)]
                bands, rows, columns = (p for p, _ in part)
                window = ((rows.start, rows.stop), (columns.start, columns.stop))
                here[...] = source.read(list(self.bands.numbers[bands]), window=window)
        self._refuse_another()
        return out

    @property
    def _block_nbytes(self) -> int:
        return (
            math.prod(self.bands.block) * self.bands.together * np.dtype(self.bands.dtype).itemsize
        )

    def _parts(self, region: Sequence[slice]) -> Iterator[list[tuple[slice, slice]]]:
        """Cut a region at the edges of blocks; small blocks are read several at a time."""
        most = max(1, _AT_ONCE // np.dtype(self.bands.dtype).itemsize)
        chunks = [c if isinstance(c, int) else 1 for c in self.info.chunks or ()]
        bands = range(region[0].start, region[0].stop, chunks[0])
        for band in bands:
            own = slice(band, min(band + chunks[0], region[0].stop))
            for part in slabs((own, *region[1:]), chunks, max(most, math.prod(chunks))):
                yield list(zip(part, region, strict=True))

    def _handle(self) -> Any:
        """Return this thread's handle: those of GDAL may not be shared."""
        import rasterio

        found = getattr(self._open, "source", None)
        if found is None:
            options = dict(self.bands.options)
            found = self._open.source = rasterio.open(self.filename, sharing=False, **options)
        return found

    def _refuse_another(self) -> None:
        if stamp_of(self.filename) != self.bands.stamp:
            raise changed(without_secrets(self.filename), "bands")
