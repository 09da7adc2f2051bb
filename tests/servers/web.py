"""HTTP servers of files: nginx, which serves ranges, and Python's, which does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.ports import HOST, free_ports, wait_for


def has_nginx() -> str | None:
    """Return nginx's program, where it is installed."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@contextmanager
def nginx(root: Path, work: Path) -> Iterator[str]:
    """Serve a folder with nginx; yield the URL. Its own files go to ``work``."""
    program = has_nginx()
    assert program is not None
    work.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    temporary = "".join(
        f"  {kind}_temp_path {work}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if Path.home() == Path("/root") else ""
    (work / "nginx.conf").write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {work}/pid;\nerror_log {work}/error.log;\n"
        "events { worker_connections 256; }\nhttp {\n"
        f"  access_log {work}/access.log;\n{temporary}"
        f"  server {{ listen {HOST}:{port}; root {root}; }}\n}}\n"
    )
    call = [program, "-p", str(work), "-c", str(work / "nginx.conf"), "-e", str(work / "error.log")]
    with _running(call, port):
        yield f"http://{HOST}:{port}"


@contextmanager
def without_ranges(root: Path) -> Iterator[str]:
    """Serve a folder with ``python -m http.server``, which ignores Range; yield the URL."""
    (port,) = free_ports(1)
    call = [sys.executable, "-m", "http.server", str(port), "--bind", HOST, "-d", str(root)]
    with _running(call, port):
        yield f"http://{HOST}:{port}"


@contextmanager
def _running(call: list[str], port: int) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(call, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        wait_for(port, process)
        yield
    finally:
        # nginx's master takes its workers along when it is asked to end
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
