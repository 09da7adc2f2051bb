#!/usr/bin/env bash
# xarray: what is appended to whole or packed numbers is cut to fit, without an error.
# Strings that are too long are refused when appended; fractions are rounded, numbers beyond the
# packed range wrap round, and NaN becomes zero.
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


def through(first, more, encoding):
    xr.Dataset({"v": ("x", np.array(first))}).to_zarr(
        "v.zarr", mode="w", encoding={"v": encoding}, consolidated=False)
    xr.Dataset({"v": ("x", np.array(more))}).to_zarr("v.zarr", append_dim="x", consolidated=False)
    return xr.open_zarr("v.zarr", consolidated=False).v.values[len(first):]


whole = through([1, 2], [1.7, 2.9], {})
packed = through([1.0, 2.0], [1e5, np.nan], {"dtype": "i2", "scale_factor": 0.1})
try:
    through(["a"], ["abc"], {})
    text = "taken"
except ValueError as error:
    text = str(error)
print(f"xarray {xr.__version__}:")
print("1.7 and 2.9 appended to integers are read back as", whole)
print("100000 and NaN appended to int16 times 0.1 are read back as", packed)
print("'abc' appended to 'a' is refused:", text[:60])
assert whole.tolist() == [2, 3]
assert packed[1] == 0 and packed[0] < 4000
assert "Mismatched" in text, text
PY
