"""Where the variables of a netCDF-3 file lie, and how long it has to be.

The header of the classic formats (CDF-1, CDF-2, CDF-5) says where each variable begins and
how large it is. So its values can be read without a library, and a truncated file is recognised
before a wrong value is read: the libraries read what is cut off as zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

#: By their number in the header; 7 and more are those of CDF-5.
_DTYPES = dict(enumerate(("i1", "S1", ">i2", ">i4", ">f4", ">f8"), 1)) | dict(
    enumerate(("u1", ">u2", ">u4", ">i8", ">u8"), 7)
)

#: With what netCDF's library, of either format, fills what is not written, by the dtype. It takes
#: each byte for a value.
DEFAULT_FILLS: dict[str, float | int] = {
    "i2": -(2**15) + 1,
    "u2": 2**16 - 1,
    "i4": -(2**31) + 1,
    "u4": 2**32 - 1,
    "i8": -(2**63) + 2,
    "u8": 2**64 - 2,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}


@dataclass
class _Header:
    """Reads the header's fields one after the other."""

    file: BinaryIO
    version: int

    def number(self, nbytes: int = 4) -> int:
        data = self.file.read(nbytes)
        if len(data) < nbytes:
            raise EOFError("the header is cut off")
        return int.from_bytes(data, "big")

    def count(self) -> int:
        """Read a length; CDF-5 has 64 bits for it."""
        return self.number(8 if self.version == 5 else 4)

    def skip(self, nbytes: int) -> None:
        """Pass over some bytes, and those that fill them up to a multiple of four."""
        padded = -(-nbytes // 4) * 4
        if len(self.file.read(padded)) < padded:
            raise EOFError("the header is cut off")

    def text(self, nbytes: int) -> str:
        """Read a name, and what fills it up."""
        data = self.file.read(-(-nbytes // 4) * 4)
        if len(data) < nbytes:
            raise EOFError("the header is cut off")
        return data[:nbytes].decode()

    def items(self) -> int:
        """Begin a list; return how many items it has."""
        self.number()
        return self.count()

    def skip_attributes(self) -> None:
        for _ in range(self.items()):
            self.skip(self.count())
            itemsize = np.dtype(_DTYPES[self.number()]).itemsize
            self.skip(self.count() * itemsize)


@dataclass(frozen=True)
class Netcdf3Variable:
    """Where one variable lies in the file."""

    name: str
    """Its name."""
    shape: tuple[int, ...]
    """Elements along each dim; 0 along one that grows."""
    dtype: np.dtype[Any]
    """The dtype of the stored values, which are big-endian."""
    offset: int
    """Its first byte in the file."""
    strides: tuple[int, ...] = ()
    """Bytes from element to element along each dim."""

    @property
    def is_record(self) -> bool:
        """Whether it grows along its first dim."""
        return bool(self.shape) and self.shape[0] == 0

    @property
    def slab(self) -> int:
        """Bytes of it in one record, or of all of it."""
        return math.prod(self.shape[self.is_record :]) * self.dtype.itemsize


def _variables(file: BinaryIO) -> tuple[int | None, list[Netcdf3Variable]]:
    """Read the header: the number of records, None if the file does not say it, and all variables.

    - raises `EOFError` if the file ends within its header.
    - raises `KeyError` if the header names a type that does not exist.
    """
    header = _Header(file, file.read(4)[3])
    wide = 8 if header.version == 5 else 4
    records = header.number(wide)
    sizes = []
    for _ in range(header.items()):
        header.skip(header.count())
        sizes.append(header.count())
    header.skip_attributes()
    found = []
    for _ in range(header.items()):
        name = header.text(header.count())
        shape = tuple(sizes[header.count()] for _ in range(header.count()))
        header.skip_attributes()
        dtype = np.dtype(_DTYPES[header.number()])
        header.count()  # the stored size, which overflows for large variables
        begin = header.number(4 if header.version == 1 else 8)
        found.append(Netcdf3Variable(name, shape, dtype, begin))
    return None if records == 2 ** (8 * wide) - 1 else records, found


def _record_step(variables: list[Netcdf3Variable]) -> int:
    """Return the bytes of a record, which holds one slab of each variable that grows."""
    slabs = [v.slab for v in variables if v.is_record]
    # they are padded unless there is one only
    return slabs[0] if len(slabs) == 1 else sum(-(-n // 4) * 4 for n in slabs)


def expected_size(file: BinaryIO) -> int:
    """Return the bytes that a netCDF-3 file must have at least for all its values to be there.

    - ``file``: the file, at its beginning.
    - raises `EOFError` if the file ends within its header.
    - raises `KeyError` if the header names a type that does not exist.
    """
    records, variables = _variables(file)
    ends = [0] + [v.offset + v.slab for v in variables if not v.is_record and v.slab]
    if records:
        step = _record_step(variables)
        ends += [v.offset + (records - 1) * step + v.slab for v in variables if v.is_record]
    return max(ends)


def read_variable(file: BinaryIO, name: str) -> Netcdf3Variable | None:
    """Find a variable in a file, which is at its beginning; None where that is not certain."""
    try:
        records, variables = _variables(file)
    except (EOFError, KeyError, IndexError, ValueError):
        return None
    for v in variables:
        if v.name == name and records is not None and 0 not in v.shape[1:]:
            shape = (records, *v.shape[1:]) if v.is_record else v.shape
            strides = [v.dtype.itemsize]
            for n in reversed(shape[1:]):
                strides.append(strides[-1] * n)
            strides = strides[::-1] if shape else []
            if v.is_record:
                strides[0] = _record_step(variables)
            return replace(v, shape=shape, strides=tuple(strides))
    return None
