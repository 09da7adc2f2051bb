#!/usr/bin/env bash
# GRIB: a field of one value everywhere keeps less of it than a varying field does.
# Such a field has no bits per value; all that is left is a reference value of 32 bits. The message
# then forgets the bits that were asked for, and packs the next values with others.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    eccodes==2.50.0 eccodeslib==2.50.0.33 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import eccodes
import numpy as np

message = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
size = eccodes.codes_get(message, "numberOfValues")
flat = np.full(size, 273.15)
varying = flat.copy()
varying[0] = 273.16


def through(values):
    eccodes.codes_set_values(message, values)
    kept = eccodes.codes_get_values(message)
    return eccodes.codes_get(message, "bitsPerValue"), np.abs(kept - values).max()


eccodes.codes_set(message, "bitsPerValue", 16)
first, constant, after = through(varying), through(flat), through(varying)
print(f"eccodes {eccodes.codes_get_api_version()}: 16 bits per value are asked for.")
print("273.15 with one 273.16: {} bits, wrong by {:.0e}".format(*first))
print("273.15 everywhere:      {} bits, wrong by {:.0e}".format(*constant))
print("the first field again:  {} bits, wrong by {:.0e}".format(*after))
eccodes.codes_release(message)
assert first[0] == 16 and constant[0] == 0 and after[0] == 24
assert constant[1] > 10 * first[1]
PY
