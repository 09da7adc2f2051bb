#!/usr/bin/env bash
# numcodecs: the Delta filter changes floats, and how much depends on the chunk.
# Differences of floats are rounded and summed up again. Integers are exact. So an array that was
# rechunked through its own filter is not the array of before.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    numcodecs==0.17.1 numpy==2.5.5
venv/bin/python -W error - <<'PY'
from importlib.metadata import version

import numpy as np
from numcodecs import Delta

values = np.array([1e16, 1.0, 2.0, 3.0])


def through(values, chunk):
    filtered = Delta(values.dtype)
    parts = [values[i : i + chunk] for i in range(0, len(values), chunk)]
    return np.concatenate([filtered.decode(filtered.encode(part)) for part in parts])


four, two = through(values, 4), through(values, 2)
whole = through(np.array([2**60, 1, 2, 3]), 4).tolist()
print(f"numcodecs {version('numcodecs')}: {values.tolist()} through Delta.")
print("In one chunk: ", four.tolist())
print("In two chunks:", two.tolist())
print("Integers [2**60, 1, 2, 3]: exact", whole == [2**60, 1, 2, 3])
assert four.tolist() != values.tolist() and four.tolist() != two.tolist()
assert whole == [2**60, 1, 2, 3]
PY
