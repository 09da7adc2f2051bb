#!/usr/bin/env bash
# tensorstore and zarr: bytes of fixed length in zarr format 2 cannot be opened by tensorstore.
# The zarr-python that writes them gives an empty text as the fill value; tensorstore wants as
# many bytes as the dtype has, in base64. Numbers pass between the two in both formats.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    zarr==3.4.2 tensorstore==0.1.86 numpy==2.5.5 numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import json
from importlib.metadata import version

import numpy as np
import tensorstore
import zarr

heard = {}
for dtype in ("S3", "f4"):
    made = zarr.create_array(f"{dtype}.zarr", shape=(2,), chunks=(2,), dtype=dtype, zarr_format=2)
    made[:] = np.array([b"abc", b"def"]) if dtype == "S3" else [1, 2]
    fill = json.load(open(f"{dtype}.zarr/.zarray"))["fill_value"]
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{dtype}.zarr"}}
    try:
        heard[dtype] = fill, str(tensorstore.open(spec, open=True).result()[:].read().result())
    except ValueError as error:
        heard[dtype] = fill, str(error).split("[")[0].split("Error parsing")[-1]
print(f"zarr {zarr.__version__} wrote, tensorstore {version('tensorstore')} opens:")
for dtype, (fill, words) in heard.items():
    print(f"{dtype}, fill value {fill!r}: {words}")
assert heard["f4"][1] == "[1. 2.]"
assert heard["S3"][0] == "" and "base64" in heard["S3"][1], heard
PY
