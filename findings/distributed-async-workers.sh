#!/usr/bin/env bash
# distributed: an asynchronous client counts its workers, but lists none.
# The synchronous client asks the scheduler when it is asked. The asynchronous one returns what it
# heard last, in which the list is left out.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>&- && break
done
"$python" -m venv venv
venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
    dask==2026.8.0 distributed==2026.8.0
venv/bin/python -W error - <<'PY'
import asyncio

import distributed
from distributed import Client, LocalCluster

HOW = {"n_workers": 2, "processes": False, "dashboard_address": ":0"}


async def ask():
    async with LocalCluster(**HOW, asynchronous=True) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            await client.wait_for_workers(2)
            info = client.scheduler_info(n_workers=-1)
            return info["n_workers"], len(info["workers"])


if __name__ == "__main__":
    with LocalCluster(**HOW) as cluster, Client(cluster) as client:
        plain = len(client.scheduler_info()["workers"])
    count, listed = asyncio.run(ask())
    print(f"distributed {distributed.__version__}: a cluster of two workers.")
    print("A synchronous client lists", plain, "workers.")
    print("An asynchronous client says", count, "and lists", listed, "workers.")
    assert (plain, count, listed) == (2, 2, 0), (plain, count, listed)
PY
