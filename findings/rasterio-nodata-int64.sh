#!/usr/bin/env bash
# rasterio: the smallest 64-bit integer as the missing value comes back as -9.
# It is the value that most data sets of that dtype use. The file is written without a word, and
# then no cell counts as missing.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    rasterio==1.5.2 numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
import numpy as np
import rasterio

low = -(2**63)
how = {"driver": "GTiff", "width": 2, "height": 1, "count": 1}
seen = {}
for dtype, missing in (("int32", -(2**31)), ("int64", low), ("int64", -(2**53))):
    with rasterio.open("n.tif", "w", dtype=dtype, nodata=missing, **how) as file:
        file.write(np.array([[[1, missing]]], dtype))
    with rasterio.open("n.tif") as file:
        seen[dtype, missing] = file.nodata, file.read(1, masked=True).mask.any()
print(f"rasterio {rasterio.__version__} with GDAL {rasterio.__gdal_version__}:")
for (dtype, missing), (back, masked) in seen.items():
    print(f"{dtype} with nodata={missing}: read back as {back}, missing cells found: {masked}")
assert seen["int32", -(2**31)] == (-(2**31), True)
assert seen["int64", low][0] == -9 and not seen["int64", low][1]
PY
