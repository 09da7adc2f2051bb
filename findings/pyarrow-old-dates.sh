#!/usr/bin/env bash
# parquet: a date of the year 1500 in the older timestamp type is read as the year 2084.
# The type holds it, and pyarrow wrote it. The reader turns it into nanoseconds, which wrap round
# without an error, unless another unit is asked for.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    pyarrow==26.0.1 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

dates = pa.table({"when": pa.array(np.array(["1500-01-01", "2020-01-01"], "M8[us]"))})
pq.write_table(dates, "x.parquet", use_deprecated_int96_timestamps=True)
plain = pq.read_table("x.parquet")["when"]
asked = pq.read_table("x.parquet", coerce_int96_timestamp_unit="us")["when"]
years = [[str(one)[:4] for one in np.asarray(column)] for column in (plain, asked)]
print(f"pyarrow {pa.__version__}: 1500-01-01 and 2020-01-01, written as 96-bit timestamps.")
print("Read as", plain.type, "they have the years", years[0])
print("Read as", asked.type, "they have the years", years[1])
assert years == [["2084", "2020"], ["1500", "2020"]], years
PY
