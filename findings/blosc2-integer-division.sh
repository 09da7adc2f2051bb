#!/usr/bin/env bash
# blosc2: whole numbers divided lazily are cut, though the result says float64.
# The dtype is planned as numpy does it, the values are computed as C does. The remainder of
# negative numbers follows C too.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    blosc2==4.14.1 numexpr==2.14.2 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import blosc2
import numpy as np

left, right = np.array([1, 3, -7]), np.array([2, 2, 3])
one, other = blosc2.asarray(left), blosc2.asarray(right)
divided, rest = one / other, one % other
print(f"blosc2 {blosc2.__version__}, numpy {np.__version__}: {left} and {right}")
print("numpy:  divided", left / right, "remainder", left % right)
print("blosc2: divided", divided[:], "remainder", rest[:])
print("blosc2 says", divided.dtype, "and gives", divided[:].dtype)
assert divided.dtype == divided[:].dtype == np.float64
assert divided[:].tolist() == [0, 1, -2], divided[:]
assert rest[:].tolist() == [1, 1, -1] and (left % right).tolist() == [1, 1, 2]
PY
