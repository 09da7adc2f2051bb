#!/usr/bin/env bash
# dask: a clone of a graph that computes well cannot be computed.
# `clone` renames every key. After fusion of rechunked and shifted arrays some tasks still refer
# to the keys of before.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 dask==2026.8.0 numpy==2.5.5 pandas==3.1.1
venv/bin/python -W error - <<'PY'
import dask
import dask.array as da
import xarray as xr
from dask.graph_manipulation import clone

columns = {name: ("x", da.arange(8, chunks=3) * factor) for name, factor in (("a", 1.0), ("b", 2.0))}
made = xr.Dataset(columns).shift(x=2).chunk(x=4)
right = made.compute(scheduler="sync")
try:
    clone(made).compute(scheduler="sync")
    heard = "computed"
except ValueError as error:
    heard = str(error)
print(f"dask {dask.__version__}, xarray {xr.__version__}: two variables, shifted and rechunked.")
print("Computed:", right.b.values)
print("The clone of the same:", heard[:150])
assert right.b.values[2:].tolist() == [0, 2, 4, 6, 8, 10]
assert "Missing dependency" in heard, heard
PY
