#!/usr/bin/env bash
# xarray: the first Variable of numpy values loads dask.array, and with it SciPy.
# Neither 'import xarray' nor opening and decoding a dataset does. To see whether values are masked
# arrays of dask's, xarray loads dask.array, which loads scipy.sparse where SciPy is there. So a
# program that never uses dask waits for both, at its first xr.DataArray(...) and not at an import.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    xarray==2026.9.0 zarr==3.4.2 dask==2026.8.0 numpy==2.5.5 pandas==3.1.1 numcodecs==0.17.1 \
    scipy==1.18.1
venv/bin/python -W error - <<'PY'
import subprocess
import sys

import numpy as np
import xarray as xr

xr.Dataset({"t": ("x", np.arange(4.0))}).to_zarr("s.zarr", consolidated=False)
SAY = "; import sys; print(*(n for n in ('dask.array', 'scipy.sparse') if n in sys.modules))"
CASES = {
    "import xarray": "import xarray as xr",
    "open_zarr, chunks=None, and load": "import xarray as xr\n"
    "xr.open_zarr('s.zarr', chunks=None, consolidated=False).t.load()",
    "xr.Variable('x', numpy values)": "import numpy as np, xarray as xr\n"
    "xr.Variable('x', np.arange(4.0))",
}
found = {}
for name, code in CASES.items():
    done = subprocess.run([sys.executable, "-c", code + SAY], capture_output=True, text=True, check=True)
    found[name] = done.stdout.split()
    print(f"xarray {xr.__version__}: {name} loads {', '.join(found[name]) or 'neither'}")
assert [len(f) for f in found.values()] == [0, 0, 2], found
PY
