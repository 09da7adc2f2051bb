"""The command line as a process: in a terminal of 80 columns, in a pipe, on a cluster, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
from click.shell_completion import ShellComplete

from xchunk.cli.main import xchunk

CODE = "from xchunk.cli.main import main; main()"
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def maps(request: pytest.FixtureRequest) -> str:
    """Two variables, of as many maps as are asked for."""
    count = getattr(request, "param", 500)
    values = np.random.default_rng(7).random((count, 60, 90), dtype="float32")
    ds = xr.Dataset(dict.fromkeys(("t", "u"), (("time", "lat", "lon"), values)))
    encoding = {n: {"chunks": (1, 60, 90)} for n in ("t", "u")}
    ds.to_zarr("maps.zarr", encoding=encoding, consolidated=False)
    return "maps.zarr"


#: So many maps that a rechunk of them can be stopped.
MANY = pytest.mark.parametrize("maps", [1500], indirect=True)
RECHUNK = ("rechunk", "maps.zarr", "out.zarr", "--chunks", "time=-1,lat=4,lon=6")
TIGHT = ("--max-mem", "20MB")
WORKERS = ("--workers", "2", "--threads-per-worker", "1", "--memory-limit", "800MiB")


class Terminal:
    """A process in a terminal of 80 columns."""

    def __init__(self, *args: str, command: tuple[str, ...] = (sys.executable, "-c", CODE)):
        import pty

        environment = {
            **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")},
            "TERM": "xterm-256color",
        }
        self.seen = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:  # pragma: no cover - it is another process
            import fcntl
            import struct
            import termios

            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
            os.execvpe(command[0], [*command, *args], environment)  # noqa: S606
        os.set_blocking(self._fd, False)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def read_until(self, wanted: str | None, seconds: float = 120) -> bytes:
        """Read until a text was seen, or (None) until the process has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                got = os.read(self._fd, 65536)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:
                got = b""
            if not got:
                break
            self.seen += got
            if wanted is not None and wanted.encode() in self.seen:
                return self.seen
        assert wanted is None, f"{wanted!r} was not seen in {self.seen!r}"
        return self.seen

    def wait(self) -> int:
        self.read_until(None)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)


def processes() -> set[int]:
    """The processes that are below this one."""
    alive = (p for p in psutil.Process().children(recursive=True) if p.is_running())
    return {p.pid for p in alive if p.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture
def no_orphans() -> Iterator[None]:
    before = processes()
    yield
    end = time.monotonic() + 20
    while processes() - before and time.monotonic() < end:
        time.sleep(0.1)
    assert processes() - before == set()


@pytest.mark.slow
@MANY
@pytest.mark.parametrize("cluster", [(), WORKERS], ids=["threads", "workers"])
def test_ctrl_c_in_a_terminal(maps: str, no_orphans: None, cluster: tuple[str, ...]) -> None:
    command = (*RECHUNK, *TIGHT, *cluster)
    terminal = Terminal(*command)
    terminal.read_until("boxes")
    terminal.type("\x03")
    assert terminal.wait() == 130
    said = CONTROL.sub(b"", terminal.seen).decode()
    assert "interrupted; what is written is kept" in said
    assert "xchunk clean out.zarr --delete" in " ".join(said.split())
    assert "Traceback" not in said
    assert not Path("out.zarr/zarr.json").exists()
    again = Terminal(*command, "--verify")
    assert again.wait() == 0, again.seen
    assert b"identical to the source" in CONTROL.sub(b"", again.seen)


@pytest.mark.slow
def test_a_terminal_of_80_columns(maps: str) -> None:
    terminal = Terminal(*RECHUNK, *TIGHT)
    assert terminal.wait() == 0
    assert b"\x1b[" in terminal.seen
    shown = CONTROL.sub(b"", terminal.seen).decode()
    lines = [part for line in shown.splitlines() for part in line.split("\r")]
    assert max(map(len, lines)) <= 80
    assert "boxes" in shown


@pytest.mark.slow
def test_errors_are_folded_in_a_terminal() -> None:
    terminal = Terminal("inspect", "a-folder-that-is-not-there/" + "and-a-long-name" * 2 + ".nc")
    assert terminal.wait() == 6
    lines = terminal.seen.decode().splitlines()
    assert lines[0].startswith("xchunk: error:")
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80


def start(*args: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_log_has_no_control_characters(maps: str) -> None:
    # as in CI, where colours are forced
    process = start(*RECHUNK, *TIGHT, "--verify", FORCE_COLOR="1", TTY_COMPATIBLE="1")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0
    for said in (out, err):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said)
    lines = err.splitlines()
    assert all(line.startswith("xchunk: ") for line in lines)
    assert sum("done in" in line for line in lines) >= 4
    assert any("read back" in line for line in lines)


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.parametrize("maps", [24000], indirect=True)  # the first event comes after a second
def test_sigterm_is_told_as_json(maps: str, no_orphans: None) -> None:
    process = start(*RECHUNK, *TIGHT, *WORKERS, "--json", "--log-json")
    assert process.stderr is not None
    events = [json.loads(process.stderr.readline()) for _ in range(2)]
    assert [e["event"] for e in events] == ["start", "plan"]
    process.stderr.readline()  # a box is done
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143
    last = [json.loads(line) for line in err.splitlines()][-1]
    assert (last["event"], last["type"], last["exit_code"]) == ("error", "Interrupted", 143)
    document = json.loads(out)
    assert document["schema"] == "xchunk.error"
    assert "SIGTERM; what is written is kept" in document["error"]["message"]


@pytest.mark.cluster
@pytest.mark.subprocess
@pytest.mark.slow
def test_a_running_cluster(maps: str) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        memory_limit="800MiB",
        dashboard_address="127.0.0.1:0",
        processes=True,
    ) as cluster:
        address = cluster.scheduler_address
        process = start(*RECHUNK, "--scheduler", address, "--verify", "--json", "-q")
        out, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (0, "")
        document = json.loads(out)
        assert document["budget"]["threads"] == 2
        assert document["budget"]["memory"] == 800 * 2**20
        assert document["verified"] is True
        # the workers are still there for others
        assert len(cluster.scheduler_info["workers"]) == 1


@pytest.mark.slow
def test_a_cluster_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xchunk.cli import main

    monkeypatch.setattr("xchunk.cli.cluster._CONNECT", 1)
    given = ["plan", "x.zarr", "y.zarr", "--chunks", "t=1", "--scheduler", "tcp://127.0.0.1:1"]
    assert main.run(given) == 14
    assert "no dask scheduler answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2", "--scheduler", "tcp://h:1"], "not both"),
        (["--memory-limit", "1GB"], "--workers N"),
        (["--threads-per-worker", "1"], "--workers N"),
        (["--workers", "0"], "less than 1"),
        (["--scheduler", "here"], "tcp://HOST:PORT"),
    ],
)
def test_wrong_clusters(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from xchunk.cli import main

    assert main.run(["plan", "x.zarr", "y.zarr", "--chunks", "t=1", *options]) == 2
    assert said in capsys.readouterr().err


# ---- completion ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "incomplete", "found"),
    [
        ([], "re", ["rechunk"]),
        ([], "c", ["check", "clean", "completion", "config"]),
        (["rechunk"], "--target-", ["--target-storage-option"]),
        (["rechunk", "a.nc", "b.zarr", "--access"], "ti", ["timeseries"]),
        (["inspect", "--engine"], "h5", ["h5netcdf"]),
        (["plan", "--zarr-format"], "", ["2", "3"]),
        (["completion"], "", ["bash", "zsh", "fish"]),
    ],
)
def test_what_is_completed(typed: list[str], incomplete: str, found: list[str]) -> None:
    complete = ShellComplete(xchunk, {}, "xchunk", "_XCHUNK_COMPLETE")
    items = complete.get_completions(typed, incomplete)
    assert [item.value for item in items] == found


@pytest.mark.parametrize("typed", [["inspect"], ["rechunk", "a.nc"], ["clean"]])
def test_files_are_completed(typed: list[str]) -> None:
    complete = ShellComplete(xchunk, {}, "xchunk", "_XCHUNK_COMPLETE")
    assert [item.type for item in complete.get_completions(typed, "ma")] == ["file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_of_shells(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xchunk.cli import main

    # click asks bash for its version, and warns where there is none
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)
    assert main.run(["completion", shell]) == 0
    assert f"_XCHUNK_COMPLETE={shell}_complete" in capsys.readouterr().out


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash")
def test_bash_completes(maps: str) -> None:
    shim = Path("bin/xchunk")
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{CODE}" "$@"\n')
    shim.chmod(0o755)
    terminal = Terminal("--norc", "-i", command=("/bin/bash",))
    terminal.type("PATH=$PWD/bin:$PATH\n")
    terminal.type('eval "$(xchunk completion bash)"; echo rea""dy\n')
    terminal.read_until("ready")
    try:
        for typed, wanted in (
            ("xchunk insp\t", "xchunk inspect "),
            ("map\t", "xchunk inspect maps.zarr"),
            (" --log\t", "--log-json "),
        ):
            terminal.type(typed)
            terminal.read_until(wanted)
    finally:
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.wait()
