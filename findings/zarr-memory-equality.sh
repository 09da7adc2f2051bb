#!/usr/bin/env bash
# zarr: stores in memory are equal when their contents are, and unequal when one is read-only.
# So a list, an `in` or a comparison mixes up two stores that happen to be empty, and a view for
# reading is not found again. Stores cannot be put in a set either.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    zarr==3.4.2 numpy==2.5.5 numcodecs==0.17.1
venv/bin/python -W error - <<'PY'
import zarr
from zarr.storage import MemoryStore

one, other = MemoryStore(), MemoryStore()
empty = one == other
zarr.create_array(one, shape=3, dtype="i4")
written = one == other
view = one == one.with_read_only(True)
try:
    hashed = bool({one})
except TypeError as error:
    hashed = str(error)
print(f"zarr {zarr.__version__}: two stores in memory.")
print("Equal while both are empty:", empty)
print("Equal after an array was written to one:", written)
print("A store equals its own read-only view:", view)
print("In a set:", hashed)
assert (empty, written, view) == (True, False, False)
assert "unhashable" in str(hashed)
PY
