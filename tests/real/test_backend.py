"""The engine ``xchunk`` shows real files as the library's engine shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from xchunk.sources.hdf5_read import DirectArray

IRIS = (
    "A1B_north_america", "E1_north_america", "SOI_Darwin", "atlantic_profiles", "hybrid_height",
    "mesh_C4_synthetic_float", "nemo_1m_20150101-20150201_grid-T", "orca2_votemper",
    "ostia_monthly", "rotated_pole", "space_weather", "toa_brightness_stereographic", "vlstr_type",
)  # fmt: skip
HOW: dict[str, dict[str, Any]] = {
    "decoded": {},
    "raw": {"decode_cf": False},
    "blocks": {"chunks": {}},
}


def compare(path: Path, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = DirectArray.read, set()

    def noted(self: DirectArray, *args: Any) -> Any:
        seen.add(self.name)
        return own(self, *args)

    monkeypatch.setattr(DirectArray, "read", noted)
    with (
        xr.open_dataset(path, engine="netcdf4", **how) as a,
        xr.open_dataset(path, engine="xchunk", library="netcdf4", **how) as b,
    ):
        assert a.encoding == b.encoding
        for name, one in a.variables.items():
            other = b.variables[name]
            assert (one.dtype, one.chunks) == (other.dtype, other.chunks)
            assert str(one.encoding) == str(other.encoding)
        xr.testing.assert_identical(a.load(), b.load())
    assert seen


@pytest.mark.filterwarnings("ignore")  # what xarray says of these files
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("name", IRIS)
def test_files_of_iris(
    iris: Path, name: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sorted(iris.rglob(f"{name}.nc"))
    if not found:
        pytest.skip(f"{name} is not in this iris-sample-data")
    compare(found[0], how, monkeypatch)


@pytest.mark.filterwarnings("ignore")  # what xarray says of these files
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_files_of_hvsampledata(
    hv: Path, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in hv.rglob("*.nc"):
        compare(path, how, monkeypatch)
