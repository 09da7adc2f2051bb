#!/usr/bin/env bash
# dask: a pad that is wider than the array gives fewer cells than numpy, and no error.
# numpy goes on reflecting or repeating, dask stops after one turn. The result is shorter than the
# width that was asked for.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    dask==2026.8.0 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import dask
import dask.array as da
import numpy as np

values = np.arange(40)
seen = {}
for mode in ("reflect", "symmetric", "wrap"):
    for width in (39, 50):
        right = np.pad(values, width, mode=mode)
        other = da.pad(da.from_array(values, chunks=13), width, mode=mode).compute()
        seen[mode, width] = len(right), len(other)
print(f"dask {dask.__version__}, numpy {np.__version__}: forty cells, padded on both sides.")
for (mode, width), (right, other) in seen.items():
    print(f"{mode} by {width}: numpy makes {right} cells, dask {other}")
assert all(a == b for (_, width), (a, b) in seen.items() if width == 39)
assert all(a == 140 and b < 100 for (_, width), (a, b) in seen.items() if width == 50)
PY
