#!/usr/bin/env bash
# cfgrib: says nothing of how a file is cut, so that chunks={} makes one block of a whole variable.
# A file of 40 messages, each of which can be read by itself, is then one task that holds all of them.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 numpy==2.5.5 pandas==3.0.3 dask==2026.8.0 cfgrib==0.9.15.1 eccodes==2.50.0
venv/bin/python -W ignore - <<'PY'
import cfgrib
import eccodes
import xarray as xr

with open("x.grib", "wb") as file:
    for step in range(40):
        message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
        eccodes.codes_set(message, "forecastTime", step)
        eccodes.codes_set_values(message, [float(step)] * eccodes.codes_get_size(message, "values"))
        eccodes.codes_write(message, file)
        eccodes.codes_release(message)
ds = xr.open_dataset("x.grib", engine="cfgrib", chunks={}, backend_kwargs={"indexpath": ""})
(name,) = ds.data_vars
print(f"cfgrib {cfgrib.__version__}: {ds[name].sizes['step']} messages, blocks along step: {ds[name].chunksizes['step']}")
print(f"what the encoding says of chunks: {sorted(k for k in ds[name].encoding if 'chunk' in k)}")
assert ds[name].chunksizes["step"] == (40,) and "preferred_chunks" not in ds[name].encoding
PY
