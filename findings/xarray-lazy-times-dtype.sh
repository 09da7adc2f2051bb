#!/usr/bin/env bash
# xarray: a lazily encoded time says int32 and computes int64.
# What allocates or writes by the announced dtype gets blocks of twice the size.
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
import pandas as pd
import xarray as xr

seen = {}
for lazy in (False, True):
    times = xr.Variable("x", pd.date_range("2000", periods=4))
    times = times.chunk(x=2) if lazy else times
    times.encoding = {"dtype": "i4", "units": "days since 2000-01-01"}
    made = xr.conventions.encode_cf_variable(times)
    seen[lazy] = str(made.dtype), str(made.compute().dtype)
print(f"xarray {xr.__version__}: dates to be encoded as int32.")
print("In memory: says {}, holds {}".format(*seen[False]))
print("With dask: says {}, computes {}".format(*seen[True]))
assert seen == {False: ("int32", "int32"), True: ("int32", "int64")}, seen
PY
