#!/usr/bin/env bash
# xarray: variables of one name in different groups share a dask name with `open_groups`.
# Each is right alone. Computed together, or subtracted, the one group stands for both.
# `open_datatree` gives them names of their own.
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

parts = {"/a": xr.Dataset({"v": ("x", np.arange(3.0))}), "/b": xr.Dataset({"v": ("x", np.arange(3.0) + 10)})}
xr.DataTree.from_dict(parts).to_zarr("g.zarr", consolidated=False)
how = {"engine": "zarr", "chunks": {}, "consolidated": False}
groups = xr.open_groups("g.zarr", **how)
left, right = groups["/a"].v, groups["/b"].v
tree = xr.open_datatree("g.zarr", **how)
wrong = (right - left).values.tolist()
good = (tree["/b/v"] - tree["/a/v"]).values.tolist()
print(f"xarray {xr.__version__}: group a holds 0, 1, 2 and group b holds 10, 11, 12.")
print("open_groups, b alone:", right.values, "and b minus a:", wrong)
print("open_datatree,        b minus a:", good)
assert right.values.tolist() == [10, 11, 12]
assert wrong == [0, 0, 0] and good == [10, 10, 10]
PY
