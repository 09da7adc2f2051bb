#!/usr/bin/env bash
# HDF5: what the scale-offset filter keeps of a number depends on its neighbours in the chunk.
# It is not rounding to decimals: each chunk counts from its own smallest value. So the same data
# in other chunks are other data, NaN becomes a number, and integers lose their upper bits.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    h5py==3.16.0 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import h5py
import numpy as np


def through(values, chunk, kept):
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("x", data=np.array(values), chunks=(chunk,), scaleoffset=kept)
    with h5py.File("x.h5") as file:
        return file["x"][:].tolist()


floats = [10.001, 10.004, 10.006, 0.004]
by_four, by_two = through(floats, 4, 1), through(floats, 2, 1)
missing = through([1.26, 2.34, np.nan], 3, 1)
whole = through([0, 1, 70000], 3, 8), through([0, 1, 70000], 1, 8)
print(f"h5py {h5py.__version__} with HDF5 {h5py.version.hdf5_version}, one decimal kept of {floats}:")
print("in a chunk of four: ", by_four)
print("in two chunks of two:", by_two)
print("[1.26, 2.34, NaN] in a chunk become", missing)
print("[0, 1, 70000] with 8 bits: in one chunk", whole[0], "and in three chunks", whole[1])
assert by_four != by_two, "the chunks do not matter any more"
assert not np.isnan(missing[2])
assert whole == ([0, 1, 70000 % 256], [0, 1, 70000])
PY
