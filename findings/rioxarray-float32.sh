#!/usr/bin/env bash
# rioxarray: a packed raster of 16 bits is decoded in 32 bits, where xarray decodes the same packing in 64.
# So two readers of one file give values that are not equal.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 numpy==2.5.5 pandas==3.0.3 rioxarray==0.23.0 rasterio==1.5.2
venv/bin/python -W ignore - <<'PY'
import numpy as np
import rasterio
import rioxarray
import xarray as xr

stored = np.arange(1, 65, dtype="u2").reshape(8, 8) * 997
with rasterio.open("x.tif", "w", driver="GTiff", height=8, width=8, count=1, dtype="uint16") as file:
    file.write(stored, 1)
    file.scales, file.offsets = (0.01,), (200.0,)
ours = rioxarray.open_rasterio("x.tif", mask_and_scale=True)[0].load()
packed = xr.Variable(("y", "x"), stored, {"scale_factor": 0.01, "add_offset": 200.0})
theirs = xr.conventions.decode_cf_variable("v", packed).load()
apart = int((ours.values.astype("f8") != theirs.values.astype("f8")).sum())
print(f"rioxarray {rioxarray.__version__}: {ours.dtype}; xarray {xr.__version__}: {theirs.dtype}; {apart} of 64 values differ")
assert (ours.dtype, theirs.dtype) == (np.float32, np.float64) and apart
PY
