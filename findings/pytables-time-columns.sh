#!/usr/bin/env bash
# PyTables and h5py: a table with a column of times cannot be read by h5py, not even its numbers.
# PyTables uses the time class of HDF5, which h5py has no dtype for. The whole record is refused.
# Truth values are read, but as bytes.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    tables==3.11.1 h5py==3.16.0 numpy==2.5.5
venv/bin/python -W error - <<'PY'
import h5py
import tables

with tables.open_file("t.h5", "w") as file:
    for name, column in (("with_time", tables.Time64Col()), ("without", tables.Float64Col())):
        made = file.create_table("/", name, {"when": column, "value": tables.Int32Col(), "ok": tables.BoolCol()})
        made.append([(1, 5, 1.5)] if made.colnames[0] == "ok" else [(1.5, 5, 1)])
    own = file.root.with_time.col("value").tolist()
heard = {}
with h5py.File("t.h5") as file:
    for name in file:
        try:
            heard[name] = file[name]["value"].tolist(), str(file[name].dtype["ok"])
        except TypeError as error:
            heard[name] = str(error)
print(f"PyTables {tables.__version__} wrote two tables, and reads the column value:", own)
for name, words in heard.items():
    print(f"h5py {h5py.__version__}, table {name}: {words}")
assert heard["without"][1] != "bool" and len(heard["without"][0]) == 1
assert "TimeID" in heard["with_time"], heard
PY
