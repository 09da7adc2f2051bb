#!/usr/bin/env bash
# numcodecs: BitRound turns the largest finite numbers into infinity.
# Rounding up carries into the exponent. The largest float32 (with a minus sign) is what many
# rasters use for missing cells, which no longer equal it.
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
from numcodecs import BitRound

values = np.array([3.4028235e38, 3.3e38, 9.96921e36, np.nan], "f4")
back = {}
for bits in (3, 10):
    rounded = BitRound(keepbits=bits)
    back[bits] = rounded.decode(rounded.encode(values.copy()))
print(f"numcodecs {version('numcodecs')}: {values} become")
for bits, found in back.items():
    print(f"with {bits} bits kept: {found}")
assert np.isinf(back[3][0]) and np.isinf(back[10][0])
assert np.isfinite(back[10][1]) and np.isnan(back[3][3])
PY
