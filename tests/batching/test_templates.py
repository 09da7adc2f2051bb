from __future__ import annotations

import pytest

from xchunk.batching.schema import fields_of, fill, fixed_part, has_magic, source_fields


@pytest.mark.parametrize(
    ("pattern", "magic", "fixed"),
    [
        ("raw/t.nc", False, "raw"),
        ("raw/*.nc", True, "raw"),
        ("raw/2*/t.nc", True, "raw"),
        ("/a/b/**/t.nc", True, "/a/b"),
        ("*.nc", True, ""),
        ("s3://bucket/era/*.nc", True, "s3://bucket/era"),
        ("raw/[ab].nc", True, "raw"),
    ],
)
def test_patterns(pattern: str, magic: bool, fixed: str) -> None:
    assert has_magic(pattern) == magic
    assert fixed_part(pattern) == fixed


@pytest.mark.parametrize(
    ("source", "pattern", "template", "filled"),
    [
        ("/r/a.nc", "/r/*.nc", "out/{stem}.zarr", "out/a.zarr"),
        ("/r/a.b.nc", "/r/*.nc", "out/{stem}.zarr", "out/a.b.zarr"),
        ("/r/a.nc", "/r/a.nc", "{parent}/{name}", "r/a.nc"),
        ("/r/2001/a.nc", "/r/*/a.nc", "{dir}/{stem}-{parent}", "2001/a-2001"),
        ("/r/2001/x/a.nc", "/r/**/*.nc", "{dir}/{stem}", "2001/x/a"),
        ("/r/a.nc", "/r/**/*.nc", "{dir}/{stem}", "./a"),
        ("s3://b/era/a.zarr", "s3://b/era/*", "s3://b/out/{stem}", "s3://b/out/a"),
        ("/r/a.nc", "/r/*", "{job}_{index:03}.zarr", "j_007.zarr"),
        ("/r/a.nc", "/r/*", "{index}{{x}}", "7{x}"),
        ("/r/noext", "/r/*", "{stem}", "noext"),
        ("/r/.hidden", "/r/.hidden", "{stem}", ".hidden"),
    ],
)
def test_filling(source: str, pattern: str, template: str, filled: str) -> None:
    fields_of(template)
    assert fill(template, source_fields(source, pattern, job="j", index=7)) == filled
