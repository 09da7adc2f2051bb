#!/usr/bin/env bash
# FITS: an image of floats compressed with gzip by astropy does not keep its values.
# Floats are quantized before any of the compressions unless quantize_level=0 is given. How far off
# they are depends on the tiles. Integers are exact.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    astropy==8.0.2 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import astropy
import numpy as np
from astropy.io import fits

values = np.random.default_rng(0).normal(300, 1, (64, 64)).astype("f4")


def off(data, **how):
    fits.CompImageHDU(data, compression_type="GZIP_2", **how).writeto("x.fits", overwrite=True)
    return float(np.abs(fits.getdata("x.fits", 1) - data).max())


rows, tile, exact = off(values), off(values, tile_shape=(64, 64)), off(values, quantize_level=0)
whole = off(values.astype("i4"))
print(f"astropy {astropy.__version__}: 64 x 64 floats around 300, gzip.")
print(f"Off by up to {rows:.3f} in tiles of a row, and {tile:.3f} in one tile.")
print(f"With quantize_level=0: {exact}. As integers: {whole}")
assert 0.005 < rows < 0.1 and 0.005 < tile < 0.1 and rows != tile
assert exact == 0 and whole == 0
PY
