#!/usr/bin/env bash
# xarray: files put together in the order of a list, of which one lacks a variable.
# The variable is filled with missing values for that file. No error, and no warning.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 numpy==2.5.5 pandas==3.0.3 scipy==1.18.0
venv/bin/python -W error - <<'PY'
import numpy as np
import xarray as xr

for day, names in enumerate((("t", "p"), ("t",), ("t", "p"))):
    held = {n: ("time", np.full(2, day, "f4")) for n in names}
    xr.Dataset(held, {"time": [2 * day, 2 * day + 1]}).to_netcdf(f"{day}.nc", engine="scipy")
files = [xr.open_dataset(f"{day}.nc", engine="scipy") for day in range(3)]
how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
ds = xr.combine_nested(files, "time", **how)
print(f"xarray {xr.__version__}: three files of two days, and the second has no p.")
print(f"p of the whole: {ds.p.values.tolist()}")
assert np.isnan(ds.p.values).tolist() == [False, False, True, True, False, False]
PY
