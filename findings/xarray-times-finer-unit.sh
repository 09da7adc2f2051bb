#!/usr/bin/env bash
# xarray: dates encoded in a unit finer than their own resolution all become missing.
# Dates of microseconds (the default of pandas 3) with the common unit "nanoseconds since" fit in
# 64 bits, and yet each is stored as the smallest integer, which reads as not-a-time.
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
venv/bin/python -W error - <<'PY'
import numpy as np
import xarray as xr

seen = {}
for resolution in ("s", "us", "ns"):
    dates = np.array(["2020-01-01", "2021-06-01"], f"M8[{resolution}]")
    made = xr.Dataset({"t": ("x", dates)})
    made.t.encoding = {"units": "nanoseconds since 2000-01-01", "dtype": "int64"}
    made.to_zarr(f"{resolution}.zarr", consolidated=False)
    seen[resolution] = xr.open_zarr(f"{resolution}.zarr", consolidated=False).t.values.astype("M8[D]")
print(f"xarray {xr.__version__}: 2020-01-01 and 2021-06-01, stored in nanoseconds since 2000.")
for resolution, back in seen.items():
    print(f"Held as datetime64[{resolution}], read back as", back.astype(str))
assert not np.isnat(seen["ns"]).any()
assert np.isnat(seen["us"]).all() and np.isnat(seen["s"]).all()
PY
