"""Keeping credentials out of all that the command line says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from xchunk._secrets import without_credentials

__all__ = ["Secrets", "is_secret"]

HIDDEN = "***"

#: Names of options whose values are secret whatever they look like.
_SECRET = re.compile(r"secret|passw|passphrase|token|credential|signature|auth|cookie|sas_", re.I)
#: Names of options that may hold half of a credential, such as ``key`` and ``account_name``.
_HALF = re.compile(r"key|account|user|login|client_id", re.I)
#: A half is hidden from this length on: shorter ones are words, which text is full of.
_HALF_LENGTH = 8


def is_secret(name: str) -> bool:
    """Tell whether the option of this name holds a credential, or half of one."""
    return bool(_SECRET.search(name) or _HALF.search(name))


class Secrets:
    """The credentials that were given to a command, and texts without them."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def learn(self, options: Mapping[str, Any]) -> None:
        """Take note of the credentials among the options of a filesystem, however deep.

        Parameters
        ----------
        options : mapping
            Options as fsspec takes them.
        """
        for name, value in options.items():
            if isinstance(value, Mapping):
                self.learn(value)
            elif isinstance(value, str) and self._hides(str(name), value):
                self._known += {value, quote(value, safe=""), quote(value)}
        # the longest first, so that none is hidden in part
        self._known.sort(key=len, reverse=True)

    @staticmethod
    def _hides(name: str, value: str) -> bool:
        if _SECRET.search(name):
            return len(value) > 1
        return len(value) >= _HALF_LENGTH and _HALF.search(name) is not None

    def mask(self, text: str) -> str:
        """Return a text without the credentials that are known, and those in URLs."""
        for value in self._known:
            text = text.replace(value, HIDDEN)
        return without_credentials(text)
