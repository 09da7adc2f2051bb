#!/usr/bin/env bash
# xarray: appended times of another step land weeks away.
# The store counts days. The appended hours are encoded in a unit of their own, and their numbers
# are put behind the days.
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
import pandas as pd
import xarray as xr

xr.Dataset(coords={"t": pd.date_range("2000-01-01", periods=2, freq="D")}).to_zarr("t.zarr", consolidated=False)
more = xr.Dataset(coords={"t": pd.date_range("2000-01-03T06", periods=2, freq="6h")})
more.to_zarr("t.zarr", append_dim="t", consolidated=False)
back = pd.DatetimeIndex(xr.open_zarr("t.zarr", consolidated=False).t.values)
print(f"xarray {xr.__version__}: two days were written, then appended:")
print("   ", [str(one) for one in pd.DatetimeIndex(more.t.values)])
print("Read back:")
print("   ", [str(one) for one in back[2:]])
assert [str(one)[:10] for one in back[2:]] == ["2000-02-24", "2000-03-01"], back
PY
