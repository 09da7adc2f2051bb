#!/usr/bin/env bash
# zarr and xarray: a folder named with # or ? is written to another place.
# The name of a local folder is taken for a URL, and what follows the sign is dropped. Two such
# names that differ only behind the sign are one store: the second replaces the first.
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
import os

import numpy as np
import xarray as xr
import zarr

for name, value in (("run#1.zarr", 1.0), ("run#2.zarr", 2.0)):
    xr.Dataset({"t": ("x", np.full(3, value))}).to_zarr(name, mode="w", consolidated=False)
names = sorted(os.listdir("."))
first = xr.open_zarr("run#1.zarr", consolidated=False).t.values
print(f"xarray {xr.__version__}, zarr {zarr.__version__}: wrote run#1.zarr (ones) and run#2.zarr (twos).")
print("The folder now holds", [name for name in names if name != "venv"])
print("run#1.zarr is read as", first)
assert "run" in names and "run#1.zarr" not in names
assert (first == 2).all(), first
PY
