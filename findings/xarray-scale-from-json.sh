#!/usr/bin/env bash
# xarray: times that are packed with a scale of 32 bits come back as other times from zarr.
# JSON keeps the scale with 64 bits, and so the numbers are multiplied by another one than they were divided by.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 numpy==2.5.5 pandas==3.0.3 zarr==3.4.2
venv/bin/python -W error - <<'PY'
import numpy as np
import xarray as xr
import zarr

seconds = np.array(["1970-01-01T00:00:00", "1970-01-01T00:00:01"], "M8[ns]")
for kind in (np.float32, np.float64):
    ds = xr.Dataset({"seen": ("x", seconds)})
    ds.seen.encoding = {"scale_factor": kind(0.01), "units": "seconds since 1970-01-01", "dtype": "f4"}
    store = f"{kind.__name__}.zarr"
    ds.to_zarr(store, zarr_format=2, consolidated=False)
    back = xr.open_zarr(store, consolidated=False).seen.values
    print(f"xarray {xr.__version__}, zarr {zarr.__version__}, scale {kind.__name__}: {seconds[1]} is read as {back[1]}")
    assert (back[1] == seconds[1]) == (kind is np.float64)
PY
