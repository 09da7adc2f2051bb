#!/usr/bin/env bash
# xarray: without a fill value the mark for unsigned bytes is dropped, and 200 is read as -56.
# The numbers are converted to the signed dtype, but `_Unsigned` is not written beside them.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 zarr==3.4.2 dask==2026.8.0 numpy==2.5.5 pandas==3.1.1 numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
import xarray as xr

seen = {}
for fill in (None, -1):
    made = xr.Dataset({"v": ("x", np.array([200.0, 250.0]))})
    made.v.encoding = {"dtype": "i1", "_Unsigned": "true"} | ({} if fill is None else {"_FillValue": fill})
    made.to_zarr("v.zarr", mode="w", consolidated=False)
    seen[fill] = xr.open_zarr("v.zarr", consolidated=False).v.values.tolist()
print(f"xarray {xr.__version__}: [200, 250], to be stored as int8 with _Unsigned='true'.")
print("With a fill value it reads back", seen[-1])
print("Without one it reads back     ", seen[None])
assert seen == {None: [-56, -6], -1: [200, 250]}, seen
PY
