"""How long a netCDF-3 file has to be: its libraries read what is cut off as zeros.

The header of the classic formats (CDF-1, CDF-2, CDF-5) says where each variable begins and
how large it is, so that a truncated file is recognised before a wrong value is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["expected_size"]

_ITEMSIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


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

    def items(self) -> int:
        """Begin a list; return how many items it has."""
        self.number()
        return self.count()

    def skip_attributes(self) -> None:
        for _ in range(self.items()):
            self.skip(self.count())
            itemsize = _ITEMSIZE[self.number()]
            self.skip(self.count() * itemsize)


def expected_size(file: BinaryIO) -> int:
    """Return the bytes that a netCDF-3 file must have at least for all its values to be there.

    Parameters
    ----------
    file : binary file
        The file, at its beginning.

    Raises
    ------
    EOFError
        If the file ends within its header.
    KeyError
        If the header names a type that does not exist.
    """
    header = _Header(file, file.read(4)[3])
    wide = 8 if header.version == 5 else 4
    records = header.number(wide)
    streaming = records == 2 ** (8 * wide) - 1
    sizes = []
    for _ in range(header.items()):
        header.skip(header.count())
        sizes.append(header.count())
    header.skip_attributes()
    ends = [0]
    appended = []
    for _ in range(header.items()):
        header.skip(header.count())
        shape = [sizes[header.count()] for _ in range(header.count())]
        header.skip_attributes()
        itemsize = _ITEMSIZE[header.number()]
        header.count()  # the stored size, which overflows for large variables
        begin = header.number(4 if header.version == 1 else 8)
        if shape and shape[0] == 0:
            appended.append((begin, math.prod(shape[1:]) * itemsize))
        elif math.prod(shape):
            ends.append(begin + math.prod(shape) * itemsize)
    if appended and records and not streaming:
        # A record holds one slab of each variable, padded unless there is one variable only.
        alone = len(appended) == 1
        step = sum(size if alone else -(-size // 4) * 4 for _, size in appended)
        ends += [begin + (records - 1) * step + size for begin, size in appended]
    return max(ends)
