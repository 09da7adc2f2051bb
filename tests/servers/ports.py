"""Free ports, and waiting for a server to answer on one."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Sequence

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int, *, also: Sequence[int] = ()) -> list[int]:
    """Find ports that are free together with those a distance ``also`` above each.

    They lie below the range from which the system picks ports for outgoing connections.
    """
    found: list[int] = []
    dice = random.SystemRandom()
    while len(found) < count:
        port = dice.randrange(11_000, 21_000)
        if port not in found and all(is_free(port + away) for away in (0, *also)):
            found.append(port)
    return found


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Wait until a process listens on a port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with code {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")
