#!/usr/bin/env bash
# zarr: values that were cut off come back when the array grows again. HDF5 clears them.
# Shrinking deletes whole chunks only (with shards: whole shards). The rest of the last one stays
# in the store, and is seen again.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    zarr==3.4.2 h5py==3.16.0 numpy==2.5.5 numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import h5py
import numpy as np
import zarr
from zarr.storage import MemoryStore

values = np.arange(8, dtype="i4")
how = {"shape": (8,), "dtype": "i4", "fill_value": -1}
plain = zarr.create_array(MemoryStore(), chunks=(4,), **how)
shards = zarr.create_array(MemoryStore(), chunks=(2,), shards=(8,), **how)
for made in (plain, shards):
    made[:] = values
    made.resize((2,))
    made.resize((8,))
with h5py.File("x.h5", "w") as file:
    data = file.create_dataset("x", data=values, chunks=(4,), maxshape=(None,), fillvalue=-1)
    data.resize((2,))
    data.resize((8,))
    cleared = data[:]
print("Eight values with the fill value -1, cut to two and grown to eight again:")
print(f"zarr {zarr.__version__}, chunks of four:           ", plain[:])
print(f"zarr {zarr.__version__}, chunks of two in one shard:", shards[:])
print(f"h5py {h5py.__version__}, chunks of four:          ", cleared)
assert plain[:].tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
assert shards[:].tolist() == values.tolist()
assert cleared.tolist() == [0, 1, -1, -1, -1, -1, -1, -1]
PY
