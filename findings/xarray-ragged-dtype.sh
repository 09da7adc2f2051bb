#!/usr/bin/env bash
# xarray: a ragged variable of a netCDF-4 file says float32 of four bytes and holds arrays.
# What plans by dtype and nbytes plans for a small part of what is read.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 netCDF4==1.7.5.1.post1 numpy==2.5.5 pandas==3.1.1
venv/bin/python -W error - <<'PY'
import netCDF4
import numpy as np
import xarray as xr

with netCDF4.Dataset("r.nc", "w") as file:
    ragged = file.createVLType(np.float32, "ragged")
    file.createDimension("x", 2)
    made = file.createVariable("v", ragged, ("x",))
    made[0] = np.arange(1000, dtype="f4")
    made[1] = np.arange(3, dtype="f4")
with xr.open_dataset("r.nc", engine="netcdf4") as opened:
    says, size = opened.v.dtype, opened.v.nbytes
    values = opened.v.values
held = sum(one.nbytes for one in values)
print(f"xarray {xr.__version__}, netCDF4 {netCDF4.__version__}: two rows of 1000 and of 3 numbers.")
print(f"Before reading: {says}, {size} bytes. After: {values.dtype}, rows of {[len(one) for one in values]},")
print(f"together {held} bytes.")
assert says == np.float32 and size == 8
assert values.dtype == object and held == 4012
PY
