#!/usr/bin/env bash
# netCDF4 and xarray: what was never written is masked by the one and a number to the other.
# Without a _FillValue, netCDF-C fills with a default of its own. netCDF4 knows it, xarray does not,
# so that 9.97e+36 is in each mean.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 netCDF4==1.7.5.1.post1 numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
import netCDF4
import numpy as np
import xarray as xr

with netCDF4.Dataset("a.nc", "w") as file:
    file.createDimension("x", 4)
    file.createVariable("v", "f4", ("x",))[:2] = [1, 2]
with netCDF4.Dataset("a.nc") as file:
    theirs = file["v"][:]
ours = xr.open_dataset("a.nc", engine="netcdf4").v
print("two of four values were written:")
print(f"netCDF4 {netCDF4.__version__}: {theirs}, mean {theirs.mean()}")
print(f"xarray {xr.__version__}: {ours.values}, mean {float(ours.mean())}")
assert theirs.mask.tolist() == [False, False, True, True]
assert not np.isnan(ours.values).any() and float(ours.mean()) > 1e36
PY
