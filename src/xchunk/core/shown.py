"""How results show themselves, and become JSON types.

They call what draws them, which is above, in `xchunk.display`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from xchunk.core.types import FilePath


class Display(Protocol):
    """What draws results; `xchunk.display` has the one there is."""

    def text(self, report: Any, /, **view: Any) -> str:
        """Return a result as text of at most 80 columns; ``view`` says what of it."""
        ...

    def html(self, report: Any, /) -> str:
        """Return a result as HTML."""
        ...

    def save(self, report: Any, path: FilePath, /) -> Any:
        """Save a result to a file."""
        ...

    def plot(self, report: Any, /, **options: Any) -> Any:
        """Plot a result with matplotlib."""
        ...


_DISPLAYS: list[Display] = []


def show_with(display: Display) -> None:
    """Let results be shown by this; called once, when xchunk is imported."""
    _DISPLAYS[:] = [display]


def plain(value: Any) -> Any:
    """Return a value as JSON types: what has ``to_dict`` as that, sequences as lists."""
    if isinstance(value, ToDict):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


class ToDict:
    """A dataclass that becomes JSON types: its fields, or the attributes that ``keys`` names."""

    _keys: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, keys: str = "", **given: Any) -> None:
        super().__init_subclass__(**given)
        if keys:
            cls._keys = tuple(keys.split())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        names = self._keys or getattr(self, "__dataclass_fields__", ())
        return {name: plain(getattr(self, name)) for name in names}


class Shown(ToDict):
    """A result that shows itself in terminals and notebooks, and that can be saved.

    A class names its view: the function of `xchunk.display.reports` that tells what is to be
    said, and, followed by ``_axes``, the one of `xchunk.display.plot` that plots it.
    """

    shown_as: ClassVar[str] = ""
    """The name of its view."""

    def __init_subclass__(cls, view: str = "", **given: Any) -> None:
        super().__init_subclass__(**given)
        if view:
            cls.shown_as = view

    def __repr__(self) -> str:
        return _DISPLAYS[0].text(self)

    def _repr_html_(self) -> str:
        return _DISPLAYS[0].html(self)

    def save(self, path: FilePath) -> Any:
        """Save the report to a file, in the form that its suffix names.

        Parameters
        ----------
        path : str or path
            ``.html`` is a whole page that needs nothing else, ``.md`` and ``.txt`` are the
            text, ``.json`` is what ``to_dict`` returns. An existing file is replaced.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        InvalidChunksError
            If the suffix is none of these.
        SourceError
            If the file cannot be written.
        """
        return _DISPLAYS[0].save(self, path)

    def _text(self, **view: Any) -> str:
        return _DISPLAYS[0].text(self, **view)

    def _plot(self, **options: Any) -> Any:
        return _DISPLAYS[0].plot(self, **options)
