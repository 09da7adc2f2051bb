#!/usr/bin/env bash
# kerchunk: whether a checked or LZF-compressed variable is kept depends on its size.
# Small ones are copied into the references as plain numbers, large ones are left out without an
# error. A text that is a scalar keeps its name and loses its words.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    kerchunk==0.2.10 zarr==3.4.2 h5py==3.16.0 numpy==2.5.5 xarray==2026.9.0 fsspec==2026.9.0 \
    numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import h5py
import numpy as np
from kerchunk.hdf import SingleHdf5ToZarr

SORTS = {"plain": {}, "checked": {"fletcher32": True}, "lzf": {"compression": "lzf"}}
seen = {}
with h5py.File("x.h5", "w") as file:
    for size in (8, 500_000):
        for sort, how in SORTS.items():
            file.create_dataset(f"{sort}_{size}", data=np.arange(size) * 1.0, chunks=(size // 2,), **how)
    file["title"] = "hello"
made = SingleHdf5ToZarr("x.h5", inline_threshold=0).translate()["refs"]
kept = sorted({key.split("/")[0] for key in made if "/" in key})
text = {key: value for key, value in made.items() if key.startswith("title")}
print(f"kerchunk {version('kerchunk')}: a file of six variables, 8 and 500000 numbers long, and a title.")
print("The references hold", kept)
print("The small checked one is held as", str(made.get("checked_8/0"))[:40])
print("The title has the entries", sorted(text), "and 'hello' is in it:", "hello" in str(text))
assert "checked_8" in kept and "lzf_8" in kept and "plain_500000" in kept
assert "checked_500000" not in kept and "lzf_500000" not in kept
assert "title" in kept and "hello" not in str(text)
PY
