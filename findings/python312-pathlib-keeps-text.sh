#!/usr/bin/env bash
# Python 3.12: the parts of every pathlib path stay in memory for ever.
# pathlib interns the parts of a path, and in 3.12 what sys.intern makes is immortal; 3.11 and 3.13
# free it. A process that makes a path for each of a million temporary files keeps 100 MB of names.
# Paths of text, and os.replace instead of Path.replace, leave nothing.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
for python in "${PYTHON:-python3.12}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>&- && break
done
"$python" -W error - <<'PY'
import gc
import os
import sys
from pathlib import Path


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def by_pathlib(name):
    Path(f"{name}.partial").replace(name)


def by_os(name):
    os.replace(f"{name}.partial", name)


version = sys.version.split()[0]
assert sys.version_info[:2] == (3, 12), f"this is of Python 3.12, not of {version}"
left = {}
for rename in (by_pathlib, by_os):
    for start, count in ((0, 1_000), (1_000, 60_000)):
        before = resident()
        for number in range(start, start + count):
            name = f"the-chunk-of-{rename.__name__}-with-the-number-{number}"
            open(f"{name}.partial", "x").close()
            rename(name)
            os.unlink(name)
        left[rename.__name__] = (resident() - before) / count
    print(f"Python {version}: 60,000 files that are renamed and deleted {rename.__name__} leave "
          f"{left[rename.__name__]:.0f} bytes each")
assert left["by_pathlib"] > 100 > 20 > left["by_os"], left
PY
