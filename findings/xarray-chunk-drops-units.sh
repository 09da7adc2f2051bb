#!/usr/bin/env bash
# xarray, pint: chunk() makes plain numbers of quantities that hold dask arrays.
# isel and compute keep the unit. chunk() of numpy's values keeps it too, within the blocks. Where
# the quantity holds dask's blocks already, chunk() leaves plain numbers, without a warning.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 dask==2026.8.0 numpy==2.5.5 pandas==3.1.1 pint==0.26.2
venv/bin/python - <<'PY'
import warnings

import dask.array as da
import numpy as np
import pint
import xarray as xr

units = pint.UnitRegistry()


def units_after_chunk(data):
    array = xr.DataArray(units.Quantity(data, "m/s"), dims="x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chunked = array.chunk(x=2).compute()
    return str(getattr(array.isel(x=slice(2)).compute().data, "units", "none")), str(
        getattr(chunked.data, "units", "none")
    )


found = {"dask": units_after_chunk(da.arange(6, chunks=3)), "numpy": units_after_chunk(np.arange(6))}
print(f"xarray {xr.__version__}, pint {pint.__version__}: wind in m/s, without a warning:")
for inside, (cut, chunked) in found.items():
    print(f"  a quantity of {inside}: {cut} after isel(), {chunked} after chunk()")
assert found == {
    "dask": ("meter / second", "none"),
    "numpy": ("meter / second", "meter / second"),
}
PY
