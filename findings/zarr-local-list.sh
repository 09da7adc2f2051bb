#!/usr/bin/env bash
# zarr: the first key of a local store costs as much as all of them.
# LocalStore.list_prefix and list are asynchronous iterators, but look at every file below the prefix
# before they give a key, and so does whoever stops after the first. To ask whether anything is there
# takes as long as to list all of it. is_empty looks at all files as well; list_dir at none.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    zarr==3.4.2 numpy==2.5.5 numcodecs==0.17.1
venv/bin/python -W error - <<'PY'
import asyncio
from pathlib import Path

import numpy as np
import zarr
from zarr.storage import LocalStore

CHUNKS = 5_000
array = zarr.create_array("s.zarr", shape=(CHUNKS,), chunks=(1,), dtype="i1", compressors=None)
array[:] = np.arange(CHUNKS) % 100 + 1
looked, real = 0, Path.is_file


def is_file(path, **how):
    global looked
    looked += 1
    return real(path, **how)


Path.is_file = is_file
store = LocalStore("s.zarr")


async def first(keys):
    async for key in keys:
        return key


for name, ask in {
    "the first key of list_prefix('c/')": lambda: first(store.list_prefix("c/")),
    "the first key of list_dir('c')": lambda: first(store.list_dir("c")),
    "is_empty('')": lambda: store.is_empty(""),
}.items():
    looked = 0
    found = asyncio.run(ask())
    print(f"zarr {zarr.__version__}, {CHUNKS:,} chunks: {name} is {found!r}, {looked:,} files looked at")
    if "list_dir" not in name:
        assert looked >= CHUNKS, looked
PY
