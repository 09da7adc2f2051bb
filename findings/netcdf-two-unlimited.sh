#!/usr/bin/env bash
# netCDF-C: the default chunks of two unlimited dimensions hold millions of cells, or just one.
# With nothing but unlimited dimensions a chunk has 16 MiB, which one value fills in the file. One
# fixed dimension more, and a chunk holds a single row of it.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    netCDF4==1.7.5.1.post1 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import os

import netCDF4
import numpy as np

SIZES = {"t": None, "y": None, "x": 100}
seen = {}
for dims in (("t", "y"), ("t", "x", "y")):
    with netCDF4.Dataset("x.nc", "w") as file:
        for dim in dims:
            file.createDimension(dim, SIZES[dim])
        made = file.createVariable("v", "f8", dims)
        made[tuple(0 for _ in dims)] = 1.0
        chunks = made.chunking()
    seen[dims] = chunks, os.path.getsize("x.nc")
print(f"netCDF4 {netCDF4.__version__} (netCDF-C {netCDF4.__netcdf4libversion__}): t and y are unlimited, x is 100.")
for dims, (chunks, size) in seen.items():
    print(f"v{dims}: chunks of {chunks}; with one value the file has {size} bytes")
assert np.prod(seen["t", "y"][0]) > 2_000_000 and seen["t", "y"][1] > 16_000_000
assert seen["t", "x", "y"][0] == [1, 100, 1] and seen["t", "x", "y"][1] < 100_000
PY
