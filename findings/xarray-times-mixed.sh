#!/usr/bin/env bash
# xarray: lazily decoded times come out as calendar dates and bare integers in one array.
# Each block is decoded for itself. A block with a date beyond nanoseconds becomes objects of
# cftime, another becomes datetime64, and putting both together turns the latter into integers.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 zarr==3.4.2 dask==2026.8.0 numpy==2.5.5 pandas==3.1.1 cftime==1.6.6.1 \
    numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
import xarray as xr

dates = np.array(["1200-01-01", "2300-01-01", "2020-01-01"], "M8[us]")
xr.Dataset({"t": ("x", dates)}).chunk(x=1).to_zarr("times.zarr", consolidated=False)
lazy = xr.open_zarr("times.zarr", consolidated=False).t
loaded = lazy.values
whole = xr.open_zarr("times.zarr", chunks=None, consolidated=False).t.values
print(f"xarray {xr.__version__}: the years 1200, 2300 and 2020 in three blocks.")
print("Computed by blocks:", [str(one) for one in loaded])
print("   their types:", [type(one).__name__ for one in loaded])
print("Read at once:", [str(one) for one in whole])
assert lazy.dtype == object
assert isinstance(loaded[2], int) and not isinstance(loaded[0], int)
assert not any(isinstance(one, int) for one in whole)
PY
