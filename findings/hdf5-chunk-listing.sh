#!/usr/bin/env bash
# HDF5: the listing of chunks gives other places than the file holds, where a dimension can grow.
# One unlimited dimension selects the extensible array as the chunk index. Reading is right, and so
# is the older index; only the calls that tools use to find the bytes of chunks are wrong.
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

values = np.arange(1200).reshape(30, 40)
seen = {}
for newest in ("v108", "v110", "latest"):
    oldest = "latest" if newest == "latest" else "earliest"
    with h5py.File(f"{newest}.h5", "w", libver=(oldest, newest)) as file:
        data = file.create_dataset("x", data=values, chunks=(7, 9), maxshape=(30, None))
    with h5py.File(f"{newest}.h5") as file:
        data = file["x"]
        assert (data[:] == values).all(), "the values are wrong"
        places = [data.id.get_chunk_info(i).chunk_offset for i in range(data.id.get_num_chunks())]
        found = data.id.get_chunk_info_by_coord((7, 0)).byte_offset
        seen[newest] = places, found
places, found = seen["latest"]
print(f"h5py {h5py.__version__} with HDF5 {h5py.version.hdf5_version}: a dataset of 30 x 40 in chunks")
print("of 7 x 9 whose second dimension is unlimited, written with libver='latest'.")
print("Its values are read right, and it has", len(places), "chunks. The first places listed:")
print("   ", places[:7])
print("though no column is beyond 39. The chunk at (7, 0) is", "found" if found else "not found")
print("With the older chunk index the first places are", seen["v108"][0][:7])
assert places[:7] == [(0, 9 * i) for i in range(7)], places
assert found is None
assert seen["v108"][0][5] == (7, 0) and seen["v108"][1]
PY
