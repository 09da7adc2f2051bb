#!/usr/bin/env bash
# zarr: an array that is transposed before it is sharded is written without its values.
# The inner chunks are checked against the shape before the transpose. Where they fit that one and
# not the transposed one, the write ends without an error and the values are gone.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    zarr==3.4.2 numpy==2.5.5 zarrs==0.2.3 numcodecs==0.17.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
import zarr
from zarr.codecs import ShardingCodec, TransposeCodec
from zarr.storage import MemoryStore

values = np.arange(24, dtype="i4").reshape(4, 6)


def write(inner):
    where = {"shape": (4, 6), "chunks": (4, 6), "dtype": "i4", "compressors": None}
    coded = {"filters": [TransposeCodec(order=(1, 0))], "serializer": ShardingCodec(chunk_shape=inner)}
    made = zarr.create_array(MemoryStore(), **where, **coded)
    made[:] = values
    return made[:]


lost = write((2, 6))
kept = write((2, 2))
with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
    try:
        zarr.create_array("z.zarr", shape=(4, 6), chunks=(4, 6), dtype="i4", compressors=None,
                          filters=[TransposeCodec(order=(1, 0))],
                          serializer=ShardingCodec(chunk_shape=(2, 6)))[:] = values
        heard = "written"
    except Exception as error:
        heard = str(error)
print(f"zarr {zarr.__version__}: 0 to 23 as 4 x 6, transposed to 6 x 4, then sharded.")
print("With inner chunks of 2 x 6 zarr takes it, and reads back", np.unique(lost))
print("With inner chunks of 2 x 2 it reads back right:", bool((kept == values).all()))
print("The pipeline of zarrs 0.2.3 for the first:", heard[:120])
assert not lost.any() and (kept == values).all()
assert "evenly divide" in heard, heard
PY
