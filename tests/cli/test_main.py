from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import main
from xchunk.errors import XchunkError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        code = main.run([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def maps() -> Path:
    values = np.random.default_rng(7).random((60, 20, 30), dtype="float32")
    ds = xr.Dataset(
        {"t": (("time", "lat", "lon"), values), "h": (("lat", "lon"), values[0])},
        coords={
            "time": ("time", np.arange(60), {"units": "days since 2000-01-01"}),
            "lat": ("lat", np.linspace(-90, 90, 20), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(0, 348, 30), {"units": "degrees_east"}),
        },
    )
    encoding = {"t": {"chunksizes": (1, 20, 30)}}
    ds.to_netcdf("maps.nc", engine="netcdf4", encoding=encoding)
    return Path("maps.nc")


def lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if "boxes" not in line]


def test_inspect_shows_the_layout(run: Run, maps: Path) -> None:
    code, out, err = run("inspect", maps)
    assert (code, err) == (0, "")
    assert "(1, 20, 30)  60 chunks, 2.40 kB each" in out
    assert max(map(len, out.splitlines())) <= 80


def test_inspect_as_json(run: Run, maps: Path) -> None:
    code, out, _ = run("inspect", maps, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["variables"]["t"]["chunks"] == [1, 20, 30]
    assert "maps.nc" in told["source"]


def test_a_plan_writes_nothing(run: Run, maps: Path) -> None:
    given = (maps, "out.zarr", "--chunks", "time=-1,lat=10", "--max-mem", "20MB")
    code, out, err = run("plan", *given)
    assert (code, err) == (0, "")
    assert "(1, 20, 30) → (60, 10, 30)" in out
    assert "target   (60, 10, 30) chunks" in run("plan", *given, "--details")[1]
    assert run("rechunk", *given, "--dry-run") == (code, out, err)
    assert [p.name for p in Path().iterdir()] == ["maps.nc"]


def test_a_plan_as_json(run: Run, maps: Path) -> None:
    code, out, _ = run(
        "plan", maps, "out.zarr", "--chunks", "time=-1", "--max-mem", "20MB", "--json"
    )
    told = json.loads(out)
    assert code == 0
    assert told["budget"]["max_mem"] == 20_000_000
    assert {a["name"] for a in told["arrays"]} == {"t", "h", "time", "lat", "lon"}


@pytest.mark.parametrize("version", [2, 3])
def test_rechunk_writes_what_was_asked(run: Run, maps: Path, version: int) -> None:
    code, out, err = run(
        "rechunk", maps, "out.zarr", "--chunks", "time=-1,lat=10,lon=10", "--max-mem", "20MB",
        "--zarr-format", version, "--verify",
    )  # fmt: skip
    assert code == 0
    assert "bit by bit" in out
    assert lines(err) == []
    with xr.open_zarr("out.zarr") as ds, xr.open_dataset(maps) as source:
        assert ds.t.encoding["chunks"] == (60, 10, 10)
        xr.testing.assert_identical(ds.load(), source.load())


def test_chunks_for_each_variable(run: Run, maps: Path) -> None:
    code, _, _ = run(
        "rechunk", maps, "out.zarr", "--chunks", "t:time=30,lat=5", "--chunks", "h:lat=4",
        "--max-mem", "20MB", "--quiet",
    )  # fmt: skip
    assert code == 0
    with xr.open_zarr("out.zarr") as ds:
        assert ds.t.encoding["chunks"][:2] == (30, 5)
        assert ds.h.encoding["chunks"][0] == 4


def test_shards(run: Run, maps: Path) -> None:
    code, _, err = run(
        "rechunk", maps, "out.zarr", "--chunks", "time=-1,lat=5,lon=5", "--shards",
        "lat=10,lon=30,time=60", "--max-mem", "20MB", "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    with xr.open_zarr("out.zarr") as ds:
        assert ds.t.encoding["shards"] == (60, 10, 30)
        assert ds.t.encoding["chunks"] == (60, 5, 5)


def test_encodings(run: Run, maps: Path) -> None:
    given = (
        "--encoding", "t:dtype=int16,scale_factor=0.001,_FillValue=-1",
        "--encoding", "compressor=zstd,compressor.level=7", "--max-mem", "20MB",
    )  # fmt: skip
    code, out, _ = run("rechunk", maps, "out.zarr", "--chunks", "time=-1", *given, "--verify")
    assert code == 0
    assert "the source, so encoded, bit by bit" in out
    with xr.open_zarr("out.zarr") as ds, xr.open_dataset(maps) as source:
        assert (ds.t.encoding["dtype"], ds.h.encoding["dtype"]) == (np.dtype("i2"), np.dtype("f4"))
        assert all("level=7" in str(v.encoding["compressors"]) for v in (ds.t, ds.h))
        np.testing.assert_allclose(ds.t, source.t, atol=0.0006)
    # said alike, the comparison knows what was asked for
    assert run("verify", maps, "out.zarr", *given)[0] == 0
    assert run("verify", maps, "out.zarr", "--max-mem", "20MB")[0] == 9


def test_quiet_and_json(run: Run, maps: Path) -> None:
    given = (maps, "out.zarr", "--chunks", "time=-1", "--max-mem", "20MB")
    assert run("rechunk", *given, "--quiet") == (0, "", "")
    code, out, _ = run("rechunk", *given, "--overwrite", "--verify", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["verified"] is True
    assert told["seconds"] > 0


CHUNKS = ("--chunks", "time=-1", "--max-mem", "20MB")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("inspect", "nope.nc"), 6, "nope.nc: no such file"),
        (("rechunk", "nope.nc", "out.zarr", *CHUNKS), 6, "no such file"),
        (("rechunk", "maps.nc", "out.zarr", "--chunks", "level=3"), 3, "level"),
        (("rechunk", "maps.nc", "out.zarr", "--chunks", "nope:time=3"), 3, "nope"),
        (("rechunk", "maps.nc", "out.zarr", "--chunks", "lat=0"), 3, "lat=0"),
        (("rechunk", "maps.nc", "out.zarr", "--chunks", "lat=-7"), 3, "lat=-7"),
        (("rechunk", "maps.nc", "out.zarr", "--chunks", "lat"), 3, "DIM=N"),
        (("rechunk", "maps.nc", "out.zarr", "--chunks", "lat=ten"), 3, "DIM=N"),
        (
            ("rechunk", "maps.nc", "out.zarr", "--chunks", "lat=2", "--memory", "10 potatoes"),
            3,
            "--memory='10 potatoes'",
        ),
        (
            ("rechunk", "maps.nc", "out.zarr", "--chunks", "time=-1", "--max-mem", "1kB"),
            4,
            "--max-mem",
        ),
        (("rechunk", "maps.nc", "out.zarr", *CHUNKS, "--shards", "lat=7"), 3, "lat"),
        (("rechunk", "maps.nc", "out.zarr", *CHUNKS, "--encoding", "tt:dtype=i2"), 5, "'tt'"),
        (("plan", "maps.nc", "out.zarr", *CHUNKS, "--encoding", "dtype=flot"), 5, "'flot'"),
        (("rechunk", "maps.nc", "maps.nc", *CHUNKS), 7, "maps.nc"),
        (("rechunk", "maps.nc", "maps.nc", *CHUNKS, "--overwrite"), 7, "maps.nc"),
        (("rechunk", "maps.nc", "full", *CHUNKS, "--overwrite"), 7, "full"),
    ],
)  # fmt: skip
def test_wrong_input_gets_one_line_and_a_code(
    run: Run, maps: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    Path("full").mkdir()
    Path("full/precious.txt").write_text("keep me")
    before = maps.read_bytes()
    found, out, err = run(*args)
    assert found == code
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("xchunk: error: ")
    assert said in err
    assert {p.name for p in Path().iterdir()} == {"maps.nc", "full"}
    assert maps.read_bytes() == before
    assert Path("full/precious.txt").read_text() == "keep me"


def test_a_target_inside_the_source_is_refused(run: Run, maps: Path) -> None:
    assert run("rechunk", maps, "in.zarr", *CHUNKS, "--quiet")[0] == 0
    before = {p: p.stat().st_mtime_ns for p in Path("in.zarr").rglob("*")}
    for target in ("in.zarr/out.zarr", "in.zarr"):
        code, _, err = run("rechunk", "in.zarr", target, *CHUNKS, "--overwrite")
        assert (code, len(err.splitlines())) == (7, 1)
    assert {p: p.stat().st_mtime_ns for p in Path("in.zarr").rglob("*")} == before


def test_an_existing_target_is_refused_and_named(run: Run, maps: Path) -> None:
    given = ("rechunk", maps, "out.zarr", *CHUNKS, "--quiet")
    assert run(*given)[0] == 0
    other = ("rechunk", maps, "out.zarr", "--chunks", "time=1,lat=5,lon=5", "--quiet")
    code, _, err = run(*other)
    assert code == 7
    assert "out.zarr" in err
    assert "overwrite" in err
    assert run(*given, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("rechunk", "maps.nc"), "DST"),
        (("rechunk", "maps.nc", "out.zarr"), "--chunks"),
        (("plan", "maps.nc", "o", "--chunks", "lat=1", "--access", "map"), "not both"),
        (("plan", "maps.nc", "o", "--chunks", "lat=1", "--chunks", "t:lat=1"), "not both"),
        (("suggest", "maps.nc"), "--access"),
        (("suggest", "maps.nc", "--access", "map", "--whole", "time"), "not both"),
        (("inspect", "maps.nc", "--storage-option", "x"), "KEY=VALUE"),
        (("plan", "maps.nc", "o", "--zarr-format", "4"), "--zarr-format"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, maps: Path, args: tuple[str, ...], said: str) -> None:
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert said in err


@pytest.mark.parametrize("command", ["", "inspect", "suggest", "plan", "rechunk", "demo"])
def test_help_fits_80_columns_and_has_examples(run: Run, command: str) -> None:
    code, out, _ = run(*filter(None, [command]), "--help")
    assert code == 0
    assert "Examples:" in out
    assert max(map(len, out.splitlines())) <= 80


def test_what_nobody_expected_gets_one_line_too(
    run: Run, maps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("xchunk.opening.dataset.open_groups", broken)
    code, _, err = run("inspect", maps)
    assert code == 1
    assert err == (
        "xchunk: error: ZeroDivisionError: two lines "
        "(run it again with --debug for the traceback)\n"
    )
    code, _, err = run("inspect", maps, "--debug")
    assert code == 1
    assert "Traceback" in err


def test_notes_are_one_line(run: Run) -> None:
    odd = xr.Dataset(coords={"time": ("time", [0, 1], {"units": "months since 0000-01-01"})})
    odd["a"] = ("time", [1.0, 2.0])
    odd.to_netcdf("odd.nc", engine="netcdf4")
    code, out, err = run("inspect", "odd.nc")
    assert code == 0
    assert "int64" in out
    assert len(err.splitlines()) == 1
    assert err.startswith("xchunk: note: odd.nc: times")


def test_every_family_of_errors_has_its_own_code() -> None:
    codes = [kind.exit_code for kind in XchunkError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 2, 130} & set(codes)


def start(*args: object) -> subprocess.Popen[str]:
    code = "from xchunk.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.subprocess
def test_a_closed_pipe_is_no_error(maps: Path) -> None:
    with start("inspect", maps) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.subprocess
@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_can_be_resumed() -> None:
    values = np.random.default_rng(7).random((4000, 60, 90), dtype="float32")
    ds = xr.Dataset({"t": (("time", "lat", "lon"), values)})
    ds.to_zarr("maps.zarr", encoding={"t": {"chunks": (1, 60, 90)}}, consolidated=False)
    process = start(
        "rechunk", "maps.zarr", "out.zarr", "--chunks", "time=-1,lat=1,lon=1", "--max-mem", "30MB"
    )
    with process:
        assert process.stderr is not None
        assert "boxes" in process.stderr.readline()  # the first box is done, others are not
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "xchunk clean" in err
    assert "Traceback" not in err
    assert sorted(p.name for p in Path().iterdir()) == ["maps.zarr", "out.zarr"]
    assert not Path("out.zarr/zarr.json").exists()
    assert main.run(["clean", "out.zarr", "--delete"]) == 0
    assert [p.name for p in Path().iterdir()] == ["maps.zarr"]


HEAVY = ("xarray", "dask", "distributed", "zarr", "numpy", "pandas", "rich")


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("args", "env", "shown"),
    [
        pytest.param(["--help"], {}, "Usage: xchunk", id="help"),
        pytest.param(["rechunk", "--help"], {}, "--max-mem", id="help of a command"),
        pytest.param(["--version"], {}, "version", id="version"),
        pytest.param(["completion", "bash"], {}, "_XCHUNK_COMPLETE", id="completion script"),
        pytest.param(
            [],
            {"_XCHUNK_COMPLETE": "bash_complete", "COMP_WORDS": "xchunk re", "COMP_CWORD": "1"},
            "plain,rechunk",
            id="a completion",
        ),
        pytest.param(
            ["suggest", "nowhere.nc"], {}, "say how the data will be used", id="options are checked"
        ),
        pytest.param(
            ["plan", "nowhere.nc", "out.zarr", "--chunks", "time"], {}, "time", id="a bad value"
        ),
    ],
)
def test_what_reads_no_data_loads_no_library_for_it(
    args: list[str], env: dict[str, str], shown: str
) -> None:
    code = (
        "import atexit, sys\n"
        f"heavy = lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)\n"
        "atexit.register(heavy)\n"
        f"sys.argv = ['xchunk', *{args}]\n"
        "from xchunk.cli.main import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )
    assert shown in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
