from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import main

Run = Callable[..., tuple[int, str, str]]
SCRIPTS = Path(__file__).parents[2] / "docs" / "how-to" / "scripts"

JOBS = """
[defaults]
max_mem = "50MB"
chunks = { t = -1 }

[[job]]
name = "j"
source = "raw/*.zarr"
target = "out/{stem}.zarr"
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        code = main.run([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def jobs() -> Path:
    for i in range(2):
        values = np.random.default_rng(i).integers(0, 99, (6, 4, 4)).astype("i4")
        ds = xr.Dataset({"v": (("t", "y", "x"), values)})
        ds.to_zarr(f"raw/{i}.zarr", zarr_format=2, encoding={"v": {"chunks": (1, 4, 4)}})
    Path("jobs.toml").write_text(JOBS)
    return Path("jobs.toml")


def test_a_batch(run: Run, jobs: Path) -> None:
    code, out, err = run("batch", jobs)
    assert code == 0, err
    assert "2 jobs, 2 done" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "xchunk: [2/2] j/1.zarr: done" in err
    with xr.open_zarr("out/1.zarr") as a, xr.open_zarr("raw/1.zarr") as b:
        assert a.v.encoding["chunks"] == (6, 4, 4)
        xr.testing.assert_identical(a.load(), b.load())
    code, out, err = run("batch", jobs)
    assert code == 0
    assert "2 done before" in out
    assert err == "xchunk: 2 jobs done by an earlier run, and still right\n"


def test_the_exit_code_tells_that_some_failed(run: Run, jobs: Path) -> None:
    Path("raw/0.zarr/.zgroup").write_text("{")
    code, out, _ = run("batch", jobs, "--report", "r.html", "--report", "r.json", "--json")
    assert code == 12
    told = json.loads(out)
    assert (told["schema"], told["schema_version"]) == ("xchunk.batch", 1)
    assert [j["status"] for j in told["jobs"]] == ["failed", "done"]
    assert told["jobs"][0]["error"] == "SourceError"
    assert json.loads(Path("r.json").read_text())["counts"] == told["counts"]
    assert "j/0.zarr" in Path("r.html").read_text()
    code, out, err = run("batch", jobs, "--quiet")
    assert (code, out) == (12, "")
    assert err.startswith("xchunk: error: j/0.zarr: ")
    assert len(err.splitlines()) == 1


def test_a_dry_run(run: Run, jobs: Path) -> None:
    before = sorted(Path().rglob("*"))
    code, out, _ = run("batch", jobs, "--dry-run", "--only", "j/1*")
    assert code == 0
    assert "1 job, 1 planned" in out
    assert sorted(Path().rglob("*")) == before


def test_events(run: Run, jobs: Path) -> None:
    code, _, err = run("batch", jobs, "--log-json", "--quiet", "--dry-run")
    events = [json.loads(line) for line in err.splitlines()]
    assert code == 0
    found = [(e["name"], e["status"]) for e in events if e["event"] == "job"]
    assert found == [
        ("j/0.zarr", "running"), ("j/0.zarr", "planned"),
        ("j/1.zarr", "running"), ("j/1.zarr", "planned"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("nope.toml",), 13, "nope.toml: cannot be read"),
        (("bad.toml",), 13, "did you mean 'source'?"),
        (("jobs.toml", "--only", "jj"), 13, "did you mean 'j'?"),
        (("jobs.toml", "--shard", "3/2"), 13, "K/N"),
        (("jobs.toml", "--report", "r.pdf"), 2, "--report r.pdf"),
        (("jobs.toml", "--report", "no/r.html"), 2, "is there such a folder"),
        (("jobs.toml", "--memory-limit", "1GB"), 2, "--workers"),
        (("same.toml",), 7, "same target"),
    ],
)
def test_what_is_typed_wrong(
    run: Run, jobs: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    Path("bad.toml").write_text(JOBS.replace("source", "sources_"))
    Path("same.toml").write_text(JOBS.replace("{stem}", "x"))
    found, out, err = run("batch", *args)
    assert (found, out) == (code, "")
    assert said in err
    assert not Path("out").exists()


# ---- the scripts of the documentation ------------------------------------------------------


@pytest.mark.subprocess
@pytest.mark.parametrize("script", sorted(p.name for p in SCRIPTS.glob("*.sh")))
def test_scripts_are_bash(script: str) -> None:
    subprocess.run(["/bin/bash", "-n", SCRIPTS / script], check=True)


def stub(body: str) -> dict[str, str]:
    """A folder that comes first on the path, with an ``xchunk`` that does as it is told."""
    folder = Path("bin").absolute()
    folder.mkdir()
    program = folder / "xchunk"
    program.write_text(f"#!/bin/bash\n{body}\n")
    program.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return {**env, "PATH": f"{folder}:{os.environ['PATH']}", "XCHUNK_ENV": str(folder.parent)}


@pytest.mark.subprocess
@pytest.mark.parametrize("code", [0, 12])
def test_a_slurm_task_runs_its_part(code: int) -> None:
    env = stub(f'echo "$@ threads=$DASK_NUM_WORKERS"; exit {code}')
    env |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "10", "SLURM_CPUS_PER_TASK": "4"}
    done = subprocess.run(
        [SCRIPTS / "slurm-array.sh", "j.toml"], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout == "batch j.toml --shard 3/10 --report report-3-of-10.html threads=4\n"
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.subprocess
def test_a_slurm_task_hands_its_signal_on() -> None:
    env = stub(
        "trap 'echo told; sleep 0.2; echo reported; exit 130' TERM; touch up\n"
        "for _ in {1..600}; do sleep 0.1; done"
    )
    with subprocess.Popen(
        [SCRIPTS / "slurm-array.sh", "j.toml"], env=env, stdout=subprocess.PIPE, text=True
    ) as task:
        while not Path("up").exists():
            time.sleep(0.02)
        task.terminate()
        out, _ = task.communicate(timeout=100)
    assert out == "told\nreported\n"
    assert task.returncode == 130


@pytest.mark.subprocess
@pytest.mark.parametrize(("code", "said"), [(0, ""), (12, "exit code 12; the report is")])
def test_cron_says_something_only_where_something_failed(code: int, said: str) -> None:
    env = stub(f"echo not this time; exit {code}")
    Path("jobs.toml").write_text(JOBS)
    Path("report-2001-01-01.html").write_text("")
    os.utime("report-2001-01-01.html", (0, 0))
    done = subprocess.run(
        [SCRIPTS / "cron.sh", "jobs.toml"], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert (said in done.stderr) if said else done.stderr == ""
    assert not Path("report-2001-01-01.html").exists()


@pytest.mark.subprocess
@pytest.mark.slow
def test_the_python_script_runs(jobs: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "dask_cluster.py", jobs, "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "2 jobs, 2 done" in done.stdout
    assert Path("report.html").stat().st_size > 1000
    assert Path("out/1.zarr/.zgroup").exists()


@pytest.mark.subprocess
@pytest.mark.slow
def test_workers_of_its_own_and_a_signal(jobs: Path) -> None:
    """SIGTERM, as queues send it, ends in a report, an exit code and a state to go on from."""
    code = (
        "import os, signal, sys\nimport xchunk.batching.run as r\n"
        "from xchunk.cli import main as cli\n"
        "real = r.run_item\n"
        "def item(it, *a, **k):\n"
        "    if it.name == 'j/1.zarr': os.kill(os.getpid(), signal.SIGTERM)\n"
        "    real(it, *a, **k)\n"
        "r.run_item = item\nsys.argv = ['xchunk', 'batch', 'jobs.toml', *sys.argv[1:]]\n"
        "if __name__ == '__main__': cli.main()\n"
    )
    Path("child.py").write_text(code)
    args = [sys.executable, "child.py", "--workers", "1", "--memory-limit", "1GB"]
    done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 130, done.stderr
    assert "1 done, 1 interrupted" in done.stdout
    assert main.run(["batch", "jobs.toml", "--quiet"]) == 0
    assert Path("out/1.zarr/.zgroup").exists()
