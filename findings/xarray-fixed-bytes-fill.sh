#!/usr/bin/env bash
# xarray: bytes of fixed length with a fill value can be written to zarr 3, but not opened again.
# The writer encodes the fill value, the reader does not know the dtype, and the whole dataset
# cannot be opened, not just the one variable.
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

made = xr.Dataset({"name": ("x", np.array([b"ab", b"cd"])), "t": ("x", [1.0, 2.0])})
made.name.encoding["_FillValue"] = b"--"
heard = {}
for version in (2, 3):
    made.to_zarr(f"{version}.zarr", zarr_format=version, consolidated=False)
    try:
        heard[version] = xr.open_zarr(f"{version}.zarr", consolidated=False).t.values.tolist()
    except ValueError as error:
        heard[version] = str(error)
print(f"xarray {xr.__version__} wrote a dataset with a variable of two bytes and a fill value.")
print("Opened again from zarr format 2, the other variable is", heard[2])
print("From zarr format 3:", heard[3])
assert heard[2] == [1.0, 2.0] and "fill_value" in heard[3], heard
PY
