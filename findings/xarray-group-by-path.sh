#!/usr/bin/env bash
# xarray: a group that is written by its path is read through its root by the old chunks.
# DataTree.to_zarr consolidates all metadata in the root of the store. Dataset.to_zarr(store/group,
# mode="w") replaces the group without a look above it, where to_zarr(store, group=group) tells the
# root. Whoever opens the group through the root then reads new chunks by old metadata: NaN where a
# chunk has another name now, and other values where it has the same, without an error or a warning.
# A group that is new is not there at all.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 zarr==3.4.2 numpy==2.5.5 numcodecs==0.17.1 dask==2026.8.0 pandas==3.1.1
venv/bin/python -W ignore - <<'PY'
import shutil

import numpy as np
import xarray as xr
import zarr

values = np.arange(200.0).reshape(20, 10)
old = xr.Dataset({"v": (("t", "y"), values)})
new = old + 1000
for zarr_format in (2, 3):
    for how in ("group", "path"):
        shutil.rmtree("tree.zarr", ignore_errors=True)
        xr.DataTree.from_dict({"/model": old, "/obs": old}).to_zarr(
            "tree.zarr", zarr_format=zarr_format, encoding={"/model": {"v": {"chunks": (10, 5)}}}
        )
        place = ("tree.zarr", "model") if how == "group" else ("tree.zarr/model", None)
        new.to_zarr(
            place[0], group=place[1], mode="w", zarr_format=zarr_format,
            encoding={"v": {"chunks": (5, 10)}},
        )
        found = xr.open_zarr("tree.zarr", group="model").v.values
        lost = int(np.isnan(found).sum())
        wrong = int((found != new.v.values).sum()) - lost
        print(
            f"xarray {xr.__version__}, zarr {zarr.__version__}, format {zarr_format}: written by its "
            f"{how}, read through the root: {lost} of 200 values are NaN, {wrong} others are wrong"
        )
        assert (lost, wrong) == ((0, 0) if how == "group" else (100, 95)), (lost, wrong)
        assert (xr.open_zarr("tree.zarr/model").v.values == new.v.values).all()
PY
