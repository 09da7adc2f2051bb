#!/usr/bin/env bash
# netCDF-C and zarr: a shuffled array that netCDF-C writes is read as other numbers by zarr-python.
# netCDF-C records the shuffle filter with an element size of 0. Its own reader does not need the
# number, numcodecs believes it. Nobody raises an error.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    netCDF4==1.7.5.1.post1 zarr==3.4.2 numpy==2.5.5 numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import json

import netCDF4
import numpy as np
import zarr

values = np.arange(8, dtype="i4") * 1000
with netCDF4.Dataset("file://made.zarr#mode=zarr", "w") as file:
    file.createDimension("x", 8)
    made = file.createVariable("v", "i4", ("x",), zlib=True, shuffle=True, chunksizes=(8,))
    made[:] = values
with netCDF4.Dataset("file://made.zarr#mode=zarr") as file:
    own = np.asarray(file["v"][:])
filters = json.load(open("made.zarr/v/.zarray"))["filters"]
other = zarr.open_group("made.zarr", mode="r")["v"][:]
print(f"netCDF4 {netCDF4.__version__} (netCDF-C {netCDF4.__netcdf4libversion__}) wrote", values)
print("and recorded the filters", filters)
print("netCDF4 reads back:", own)
print(f"zarr {zarr.__version__} reads, without an error:", other)
assert filters == [{"id": "shuffle", "elementsize": 0}], filters
assert (own == values).all() and not (other == values).all()
PY
