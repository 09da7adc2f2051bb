"""Every variable of the real files, read without HDF5's library and through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from xchunk.sources.hdf5_read import open_direct

#: Variables of kinds that only the library can read.
LEFT = {("vlstr_type.nc", "expver")}


@pytest.mark.parametrize("package", ["iris", "hv"])
def test_all_variables_are_read_as_the_library_reads_them(
    package: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(package)
    read, left = 0, set()
    for path in sorted(folder.rglob("*.nc")):
        with xr.open_dataset(
            path, engine="netcdf4", decode_cf=False, concat_characters=False
        ) as ds:
            for name, variable in ds.variables.items():
                array = open_direct(str(path), None, str(name))
                if array is None or not array.is_readable:
                    left.add((path.name, str(name)))
                    continue
                values = variable.values
                assert (array.shape, array.dtype) == (values.shape, values.dtype)
                got = array.read(tuple(slice(0, n) for n in values.shape))
                assert got.tobytes() == values.tobytes(), f"{path.name}: {name}"
                read += 1
    assert left <= LEFT
    assert read > (100 if package == "iris" else 1)
