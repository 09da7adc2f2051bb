#!/usr/bin/env bash
# dask and xarray: the mean of half floats is infinite although none is above 2000.
# numpy adds half floats in single precision. dask, even with one chunk, and xarray, even without
# dask, first sum in half precision; xarray does not when it need not skip missing values.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 dask==2026.8.0 numpy==2.5.5 pandas==3.1.1
venv/bin/python -W ignore - <<'PY'
import dask
import dask.array as da
import numpy as np
import xarray as xr

values = np.full(40, 2000, "f2")
plain = float(values.mean())
lazy = float(da.from_array(values, chunks=40).mean().compute())
named = xr.DataArray(values, dims="x")
both = float(named.mean()), float(named.mean(skipna=False))
print(f"numpy {np.__version__}: forty times 2000 as float16 have the mean", plain)
print(f"dask {dask.__version__}, one chunk:", lazy)
print(f"xarray {xr.__version__} in memory: {both[0]}, and {both[1]} with skipna=False")
assert plain == both[1] == 2000
assert np.isinf(lazy) and np.isinf(both[0])
PY
