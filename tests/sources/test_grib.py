"""GRIB files through cfgrib: each message is a chunk, and decoded once."""

from __future__ import annotations

from typing import Any

import pytest

from sources.apart import apart

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

HEAD = """
from sources.grib_child import Decoded, values_of, write
path = Path("a.grib")
WHAT = {"time": -1, "step": -1, "latitude": 5}

def check(target, right):
    raw = zarr.open_group(target, mode="r")
    for name in right.data_vars:
        assert raw[name][...].tobytes() == right[name].values.tobytes(), name
    out = xr.open_zarr(target).load()
    for ds in (out, right):
        del ds.attrs["history"]  # cfgrib writes the minute of opening into it
    xr.testing.assert_identical(out, right)
"""


def child(code: str, given: dict[str, Any] | None = None) -> Any:
    return apart(HEAD + code, given, "cfgrib", "eccodes")


RECHUNK = """
count = write(path, **given)
right = values_of(path)
ds = xr.open_dataset(path, engine="cfgrib", chunks={})
layout = ds.chunking.layout()["t"]
decoded = Decoded()
ds.chunking.apply(WHAT, store="out.zarr", max_mem="60MB", progress=False)
once = decoded.count
ds.chunking.verify("out.zarr")
check("out.zarr", right)
done(count, once, layout.format, list(layout.chunks), list(layout.codecs))
"""


@pytest.mark.parametrize(
    ("given", "packing", "lost"),
    [
        ({}, "grid_simple", 0),
        ({"missing": True}, "grid_simple", 0),
        ({"packing": "grid_ccsds"}, "grid_ccsds", 0),
        ({"scanning": 1}, "grid_simple", 0),
        # a message that is missing is missing in the result
        ({"left_out": 5}, "grid_simple", 1),
    ],
    ids=["plain", "missing values", "ccsds", "alternative rows", "a message less"],
)
def test_each_message_is_decoded_once(given: dict[str, Any], packing: str, lost: int) -> None:
    count, once, form, chunks, codecs = child(RECHUNK, given)
    assert once == count - lost
    assert (form, chunks, codecs) == ("grib", [1, 1, 1, 31, 16], [packing])


def test_500_messages_below_a_small_budget() -> None:
    count, once, *_ = child(RECHUNK.replace('"60MB"', '"8MB"'), {"days": 21})
    assert once == count == 504


def test_a_box_and_another_order_of_dims() -> None:
    child("""
write(path, missing=True)
right = values_of(path)
ds = xr.open_dataset(path, engine="cfgrib", chunks={})
part = ds.isel(time=slice(1, None), latitude=slice(3, 20)).transpose("latitude", ...)
part.chunking.apply({"time": -1}, store="out.zarr", progress=False)
check("out.zarr", right.isel(time=slice(1, None), latitude=slice(3, 20)).transpose("latitude", ...))
done()
""")


def test_filters_are_kept_apart() -> None:
    """Two Datasets of one file hold variables of one name."""
    blocks, same = child("""
write(path)
out = {}
for level in (500, 850):
    keys = {"shortName": "t", "level": level}
    ds = xchunk.open_dataset(path, memory="2GB", engine="cfgrib", filter_by_keys=keys)
    ds.chunking.apply({"time": -1}, store=f"{level}.zarr", progress=False)
    check(f"{level}.zarr", values_of(path, filter_by_keys=keys))
    out[level] = xr.open_zarr(f"{level}.zarr").t.values
from xchunk.opening.dataset import open_named
named = open_named(str(path), filter_by_keys={"shortName": "u"})
done(named.u.chunks[:3], bool(np.array_equal(out[500], out[850])))
""")
    assert blocks == [[1, 1, 1], [1, 1, 1, 1], [1, 1, 1]]
    assert not same


def test_a_filter_from_the_command_line() -> None:
    said = child("""
write(path)
from xchunk.cli.main import run
code = run(["rechunk", str(path), "out.zarr", "--chunks", "time=-1",
    "--open", "filter_by_keys.shortName=t", "--open", "filter_by_keys.level=500", "--quiet"])
assert code == 0
done(sorted(zarr.open_group("out.zarr", mode="r").array_keys()))
""")
    assert "t" in said[0]
    assert "u" not in said[0]


def test_a_file_that_is_replaced_is_refused() -> None:
    (said,) = child("""
write(path)
ds = xr.open_dataset(path, engine="cfgrib", chunks={}, indexpath="")
bound = ds.chunking
from xchunk.sources.trace import trace
from xchunk.sources.arrays import open_stored
stored = open_stored(trace(ds.t.variable).ref)
os.utime(path, (1, 1))
try:
    stored.read([slice(0, n) for n in ds.t.shape])
except xchunk.SourceError as error:
    done(str(error))
done("read")
""")
    assert "written or replaced" in said
