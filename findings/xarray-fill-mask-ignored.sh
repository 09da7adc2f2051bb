#!/usr/bin/env bash
# xarray: open_zarr(use_zarr_fill_value_as_mask=False) changes nothing in zarr format 2.
# The engine takes the option, and opens the group without it. What equals the fill value stays
# missing, integers become floats, and nothing is said.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 zarr==3.4.2 numpy==2.5.5 numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
import xarray as xr
import zarr

made = zarr.create_array(
    "a.zarr/v", shape=(3,), chunks=(3,), dtype="i2", zarr_format=2, fill_value=0, overwrite=True
)
made[:] = [0, 1, 2]
made.attrs["_ARRAY_DIMENSIONS"] = ["x"]
zarr.open_group("a.zarr", zarr_format=2)
read = {}
for asked in (None, True, False):
    how = {"consolidated": False, "use_zarr_fill_value_as_mask": asked}
    read[asked] = xr.open_zarr("a.zarr", **how).v.values
print(f"xarray {xr.__version__}, stored as int16 with a fill value of 0: {made[:]}")
for asked, values in read.items():
    print(f"use_zarr_fill_value_as_mask={asked}: {values} ({values.dtype})")
assert np.isnan(read[False][0]) and read[False].dtype.kind == "f", read[False]
PY
