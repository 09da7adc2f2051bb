#!/usr/bin/env bash
# numcodecs and zfpy: with a post-release of zfpy installed, numcodecs (and zarr) cannot be imported.
# Numcodecs reads the version of the optional package as plain numbers. Who never uses zfpy is hit
# too, since the import of numcodecs itself ends with a ValueError.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    numcodecs==0.17.1 zfpy==1.0.1.post0 numpy==2.5.5
venv/bin/python -W error - <<'PY'
from importlib.metadata import version

import zfpy  # works by itself

try:
    import numcodecs

    heard = "imported"
except ValueError as error:
    heard = f"ValueError: {error}"
print(f"numcodecs {version('numcodecs')} beside zfpy {version('zfpy')}, which is imported well.")
print("import numcodecs ends with", heard)
assert "post0" in heard, heard
PY
