"""Where a stored array is, in a form that travels to a worker: handles do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from xchunk._secrets import without_credentials, without_secrets
from xchunk.core.extension import Extension

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["AxisPart", "FileRef", "OneRef", "SplicedRef", "StoredRef", "Traced", "ZarrRef"]


@dataclass(frozen=True)
class ZarrRef:
    """An array in a zarr store."""

    store: Store
    """The store; zarr's stores pickle, but for those in memory."""
    path: str
    """Path of the array within the store, without a leading slash."""
    zarr_format: int
    """2 or 3."""

    def __repr__(self) -> str:
        # dask's logs show what tasks are given
        return f"ZarrRef({without_credentials(str(self.store))}, {self.path!r}, {self.zarr_format})"


@dataclass(frozen=True)
class FileRef:
    """A variable in a file that one of xarray's backends reads."""

    filename: str
    """Path or URL, as the backend was given it."""
    engine: str
    """xarray's name of the backend: ``netcdf4``, ``h5netcdf`` or ``scipy``."""
    group: str | None
    """Group within the file; None: the root."""
    variable: str
    """Name of the variable in the file, which may differ from the name in the Dataset."""

    def __repr__(self) -> str:
        place = without_secrets(self.filename)
        return f"FileRef({place!r}, {self.engine!r}, {self.group!r}, {self.variable!r})"


@dataclass(frozen=True)
class SplicedRef:
    """New data in an array that is there, with the old values that are written with them."""

    extension: Extension
    """Where the new data go."""
    old: ZarrRef
    """The array that is there."""
    new: ZarrRef | FileRef
    """What the new data are read from."""
    origin: tuple[int, ...]
    """First element of the new data along each axis of what they are read from."""
    at_once: int
    """Bytes that are asked at once of a reader that does not fill buffers."""


#: One array that is stored, as it is.
OneRef: TypeAlias = ZarrRef | FileRef

StoredRef: TypeAlias = OneRef | SplicedRef


@dataclass(frozen=True)
class AxisPart:
    """Which elements of a stored axis one axis of a variable shows."""

    stored_axis: int
    """Number of the stored axis."""
    start: int
    """First element."""
    step: int
    """Distance between elements; may be negative."""
    count: int
    """Number of elements."""


@dataclass(frozen=True)
class Traced:
    """A variable that was followed down to a stored array through known wrappers only.

    The variable's values are those of the stored array at ``axes``, passed through
    ``decoders``; nothing else happened to them. The decoders are those that the values
    pass in fact, which the variable's encoding need not name: copy raw values only where the
    target, once opened, has an equal ``decoding``.
    """

    ref: OneRef
    """The stored array."""
    stored_shape: tuple[int, ...]
    """Elements of the stored array along each of its axes."""
    axes: tuple[AxisPart, ...]
    """One part for each axis of the variable, in its order."""
    fixed: tuple[tuple[int, int], ...] = ()
    """(stored axis, element) for axes that were indexed away by an integer."""
    decoders: tuple[str, ...] = ()
    """Names of the decoding steps, innermost first; none: the values are as stored."""
    stored_dtype: Any = None
    """dtype of the stored array, so that who opens it can tell whether it is the same."""
    decoding: tuple[str, ...] = ()
    """Each decoding step with its parameters, innermost first; equal texts decode equally."""

    @property
    def is_whole(self) -> bool:
        """Whether the variable shows every element of the stored array, in its order."""
        return not self.fixed and all(
            (p.stored_axis, p.start, p.step, p.count) == (i, 0, 1, n)
            for i, (p, n) in enumerate(zip(self.axes, self.stored_shape, strict=True))
        )

    @property
    def is_box(self) -> bool:
        """Whether it shows a contiguous box of the stored array, with axes in stored order."""
        in_order = all(p.stored_axis == i and p.step == 1 for i, p in enumerate(self.axes))
        return not self.fixed and in_order and len(self.axes) == len(self.stored_shape)
