#!/usr/bin/env bash
# GDAL and zarr: integers that GDAL writes in zarr format 3 cannot be opened by zarr-python.
# Without a nodata value, GDAL writes a fill value of null, which format 3 does not know.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    rasterio==1.5.2 zarr==3.4.2 numpy==2.5.5 numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import json

import numpy as np
import rasterio
import zarr
from rasterio.transform import from_origin

heard = {}
for dtype in ("float32", "uint16"):
    how = {"dtype": dtype, "crs": "EPSG:4326", "transform": from_origin(0, 0, 1, 1)}
    place = f"{dtype}.zarr"
    with rasterio.open(place, "w", driver="Zarr", count=1, width=8, height=6, FORMAT="ZARR_V3", **how) as file:
        file.write(np.arange(48, dtype=dtype).reshape(1, 6, 8))
    fill = json.load(open(f"{place}/{dtype}/zarr.json"))["fill_value"]
    try:
        heard[dtype] = fill, str(zarr.open_array(f"{place}/{dtype}", mode="r")[...].sum())
    except TypeError as error:
        heard[dtype] = fill, f"TypeError: {error}"
print(f"GDAL {rasterio.__gdal_version__} (rasterio {rasterio.__version__}) wrote, zarr {zarr.__version__} opens:")
for dtype, (fill, words) in heard.items():
    print(f"{dtype}, fill value {fill!r}: {words}")
assert heard["uint16"][0] is None and "Invalid type" in heard["uint16"][1], heard
PY
