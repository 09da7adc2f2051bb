#!/usr/bin/env bash
# fastparquet: half floats of a parquet file come out as bytes, durations as plain integers.
# Both are valid in the format and read right by pyarrow. Nothing is said of the columns.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    fastparquet==2026.9.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import fastparquet
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

halves = pa.array(np.array([1.0, 2.0], "f2"))
pq.write_table(pa.table({"half": halves, "span": pa.array([1, 2], pa.duration("us"))}), "x.parquet")
arrow = pq.read_table("x.parquet").to_pandas()
other = fastparquet.ParquetFile("x.parquet").to_pandas()
print(f"pyarrow {pa.__version__} reads", dict(arrow.dtypes.astype(str)), arrow.half.tolist())
print(f"fastparquet {version('fastparquet')} reads", dict(other.dtypes.astype(str)), other.half.tolist())
assert arrow.half.tolist() == [1.0, 2.0] and arrow.span.dtype.kind == "m"
assert other.half.tolist() == [b"\x00<", b"\x00@"]
assert other.span.dtype.kind == "i"
PY
