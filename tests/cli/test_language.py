from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xchunk
from xchunk.cli import main
from xchunk.cli.output import in_flags

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        code = main.run([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def months() -> list[str]:
    """Six files of two variables of 1.2 MB each, with bounds and a grid mapping."""
    lat, lon = np.linspace(75, 15, 25), np.linspace(0, 350, 50)
    for month in range(6):
        n = 240
        time = np.arange(n) + n * month
        ds = xr.Dataset(
            {
                **{
                    name: (("time", "lat", "lon"), np.zeros((n, 25, 50), "f4"))
                    for name in ("t2m", "tp")
                },
                "time_bnds": (("time", "bnds"), np.stack([time, time + 1], 1)),
                "lat_bnds": (("lat", "bnds"), np.stack([lat, lat], 1)),
                "crs": ((), np.int32(0)),
            },
            {
                "time": ("time", time, {"units": "hours since 2000-01-01", "bounds": "time_bnds"}),
                "lat": ("lat", lat, {"units": "degrees_north"}),
                "lon": ("lon", lon, {"units": "degrees_east"}),
            },
        )
        chunks = {"chunksizes": (1, 25, 50)}
        encoding = {"t2m": chunks, "tp": chunks}
        ds.to_netcdf(f"sfc_{month}.nc", engine="netcdf4", encoding=encoding)
    return [f"sfc_{month}.nc" for month in range(6)]


@pytest.mark.parametrize(
    ("python", "here"),
    [
        ("Give max_mem=5.52 MB (5 B) or more.", "Give --max-mem 5.52MB (5 B) or more."),
        ("give overwrite=True (--overwrite) to replace", "give --overwrite to replace"),
        ("ds.chunking.verify (xchunk verify) tells", "xchunk verify tells"),
        ("one of them: group (--group).", "one of them: --group."),
        ("name it, reduce={dim: 'std'}, or", "name it, --reduce DIM=std, or"),
        ("reduce={'time': 'corr'}.", "--reduce time=corr."),
        ("access={'x': -1} for a dim", "--whole x for a dim"),
        (
            "use ds['a/t'].encoding = {'dtype': 'int32', 'add_offset': -1.5}: it",
            "use --encoding a/t:dtype=int32,add_offset=-1.5: it",
        ),
        ("with shards={'t': -1, 'y': 8} they are", "with --shards t=-1,y=8 they are"),
        ("shards={'a v': {'t': 1}, 'w': {'t': 4}}", "--shards 'a v:t=1' --shards w:t=4"),
        ("say access='timeseries'.", "say --access timeseries."),
        ("write them with region='auto'. Or", "write them with --region auto. Or"),
        ("such as {'time': slice(0, 24)}.", "such as time=0:24."),
        ("region: time=slice(30, 40, None) has", "region: time=30:40 has"),
        ("give it as workload=, or", "give it as workload= in Python, or"),
        ("(threads_per_worker=1)", "(--threads-per-worker 1)"),
        ("40 more, see to_dict()", "40 more, see --json"),
        ("the file --memory=x and memory of it", "the file --memory=x and memory of it"),
        ("open(access_mode=3)", "open(access_mode=3)"),
        ("give concat_dim=…; where", "give --concat-dim …; where"),
        ("or concat_dim='time', for files", "or --concat-dim time, for files"),
        ("Leave it out: drop_variables='t'.", "Leave it out: --open drop_variables=t."),
    ],
    ids=[
        "a size", "a flag that is named too", "a command that is named too", "a bare keyword",
        "any dim", "a dim", "dims", "an encoding",
        "shards", "shards of each", "a name", "a region", "a place", "a slice",
        "what only Python has", "threads",
        "the document", "an option already", "another keyword",
        "any dim of files", "a dim of files", "what an engine is told",
    ],
)  # fmt: skip
def test_sentences_name_the_options_of_the_command_line(python: str, here: str) -> None:
    assert in_flags(python) == here


@pytest.mark.parametrize("memory", ["2GiB", "--max-mem"], ids=["loaded", "rechunked"])
def test_a_suggestion_is_short_and_ends_with_commands_that_run(
    run: Run, months: list[str], memory: str
) -> None:
    size = ("--memory", memory) if memory[0] != "-" else ("--max-mem", "12MB")
    code, out, _ = run("suggest", *months, "--access", "timeseries", *size)
    assert code == 0
    assert len(out.split()) <= 220
    assert max(map(len, out.splitlines())) <= 80
    assert "t2m, tp" in out
    assert "small variables, to load: time_bnds" in out
    for python in (".variables", "reduce=", "to_dict", "suggestion."):
        assert python not in out
    said = out.replace("\\\n", " ")
    command = next(line for line in said.splitlines() if "xchunk rechunk" in line)
    assert "'sfc_*.nc'" in command
    assert run(*shlex.split(command)[1:], "--quiet")[0] == 0
    with xr.open_zarr("rechunked.zarr") as ds:
        assert ds.t2m.encoding["chunks"][0] == 1440
        assert ds.lat_bnds.encoding["chunks"] == (25, 2)


@pytest.mark.parametrize("unlike", [False, True], ids=["alike", "unlike"])
def test_packed_files_are_advised_as_they_are_stored(run: Run, unlike: bool) -> None:
    for i in range(3):
        ds = xr.Dataset(
            {"t": (("time", "x"), np.zeros((50, 4000)))}, {"time": np.arange(50) + 50 * i}
        )
        own = {"dtype": "i2", "scale_factor": 0.02 if unlike and i else 0.01, "_FillValue": -1}
        own |= {"chunksizes": (1, 4000), "zlib": True}
        ds.to_netcdf(f"p_{i}.nc", engine="netcdf4", encoding={"t": own})
    given = ("suggest", "p_0.nc", "p_1.nc", "p_2.nc", "--access", "timeseries", "--max-mem", "5MB")
    found = xchunk.open_dataset("p_*.nc").chunking.layout()["t"].to_dict()
    assert (found["stored_dtype"], found["chunks"], found["files"]) == ("int16", [1, 4000], 3)
    assert (found["format"], found["codecs"]) == ("netcdf4", ["shuffle", "zlib"])
    out = " ".join(run(*given)[1].split())
    assert ("t: not all files are packed alike, so it writes float64." in out) is unlike


def test_the_python_of_a_suggestion_runs(run: Run, months: list[str]) -> None:
    _, out, _ = run("suggest", *months, "--access", "timeseries", "--max-mem", "12MB")
    code = out.partition("The same in Python:\n")[2].partition("  Reasons")[0]
    assert "apply(" in code
    names: dict[str, object] = {}
    lines = "\n".join(line[6:] for line in code.splitlines())
    exec(f"import xchunk\n{lines}", names)  # noqa: S102 - what is shown has to run
    assert Path("rechunked.zarr/zarr.json").is_file()


def test_the_reasons_and_all_numbers_are_an_option_away(run: Run, months: list[str]) -> None:
    asked = ("suggest", *months, "--access", "timeseries", "--max-mem", "12MB")
    code, out, _ = run(*asked, "--why")
    assert code == 0
    assert " why " in out
    told = json.loads(run(*asked, "--json")[1])
    assert set(told["variables"]) >= {"t2m", "tp", "time_bnds", "lat_bnds", "crs"}


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_target_of_another_format_is_asked_about_in_a_terminal(
    run: Run, months: list[str], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xchunk.cli.options._is_terminal", lambda: True)
    monkeypatch.setattr(
        "click.confirm", lambda said, **_: "Write a.zarr?" in said and answer == "y"
    )
    code, _, err = run("rechunk", months[0], "a.nc", "--chunks", "time=9")
    assert Path("a.zarr").exists() is (answer == "y")
    assert (code, "Name it a.zarr" in err) == ((0, False) if answer == "y" else (5, True))


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("rechunk", "sfc_0.nc"), 2, "Missing argument 'DST'. It is the zarr store."),
        (("plan", "sfc_0.nc"), 2, "Missing argument 'DST'"),
        (("verify", "sfc_0.nc", "no.zarr"), 6, "no.zarr: there is nothing here"),
        (("rechunk", "sfc_1.nc", "done.zarr", "--append-dim", "tim"), 3, "did you mean 'time'?"),
        (
            ("rechunk", "sfc_0.nc", "a.zarr", "--chunks", "time=9", "--encoding",
             "compressor=zstandard"), 5, "did you mean 'zstd'? Known: zstd, blosc, gzip, none",
        ),
        (("rechunk", "sfc_0.nc", "a.nc", "--chunks", "time=9"), 5, "Name it a.zarr"),
        (("inspect", "half.zarr"), 6, "is the unfinished target of a rechunk"),
        (("verify", "sfc_0.nc", "half.zarr"), 6, "was not finished"),
        (("rechunk", "sfc_0.nc", "done.zarr", "--chunks", "time=8"), 7, "or --overwrite to"),
        (("append", "sfc_1.nc", "a.zarr"), 2, "'xchunk rechunk SRC DST --append-dim DIM'?"),
        (("rechunk", "sfc_1.nc", "a.zarr", "--append-dim", "time"), 6, "a.zarr: nothing is there"),
        (("suggest", "sfc_0.nc", "--access", "timeserie"), 3, "did you mean 'timeseries'? Or name"),
    ],
    ids=[
        "no target", "no target of a plan", "nothing to verify", "a misspelt dim", "no such codec",
        "a target of another format", "an unfinished target", "an unfinished target to verify",
        "a target that exists", "a command that is called otherwise", "nothing to append to",
        "a misspelt preset",
    ],
)  # fmt: skip
def test_messages_say_what_is_meant(
    run: Run, months: list[str], args: tuple[str, ...], code: int, said: str
) -> None:
    from zarr.storage import LocalStore

    from xchunk.targets.scratch import Workspace

    if "done.zarr" in args:
        run("rechunk", "sfc_0.nc", "done.zarr", "--chunks", "time=9", "--max-mem", "50MB", "-q")
    if "half.zarr" in args:
        Workspace(LocalStore("half.zarr")).create(target="half.zarr")
    found, out, err = run(*args)
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())


def test_a_finished_target_is_complete_already(run: Run, months: list[str]) -> None:
    asked = ("rechunk", months[0], "a.zarr", "--chunks", "time=9", "--max-mem", "50MB")
    assert run(*asked)[0] == 0
    code, out, _ = run(*asked)
    assert code == 0
    assert "already complete" in out


def test_what_would_be_deleted_is_grouped_and_sized(run: Run, months: list[str]) -> None:
    from zarr.storage import LocalStore

    from xchunk.targets.scratch import Workspace

    Workspace(LocalStore("half.zarr")).create(target="half.zarr")
    code, out, _ = run("clean", "half.zarr")
    assert code == 0
    assert "nothing was done" in out
    assert "would be deleted" in out
    assert " B" in out.partition("would be deleted")[2]
    assert "xchunk clean half.zarr --delete" in out
    assert Path("half.zarr").is_dir()
    assert "done" in run("clean", "half.zarr", "--delete")[1]
    assert not Path("half.zarr").exists()
    assert "nothing to delete" in run("clean", "half.zarr")[1]
