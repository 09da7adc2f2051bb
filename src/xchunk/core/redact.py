"""Texts without credentials: whatever is shown, logged, raised or written goes through here."""

from __future__ import annotations

import re

_CHAIN = re.compile(r"::(?![0-9a-f:.]*\])", re.IGNORECASE)
_PLACE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
# "::" joins the URLs of a chain, but also stands in addresses such as [::1]
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<rest>(?:\[[0-9a-f:.]*\]|(?!::)[^\s'\"<>])+)",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """Return a text in which URLs, also in a chain of them, have no user, password and query."""
    return _URL.sub(lambda found: found["scheme"] + _plain(found["rest"]), text)


def without_secrets(place: str) -> str:
    """Return a path or URL without user, password and query, in any part of a chain of URLs."""
    parts = [_PLACE.fullmatch(part) or part for part in _CHAIN.split(place)]
    return "::".join(p if isinstance(p, str) else p["scheme"] + _plain(p["rest"]) for p in parts)


def _plain(rest: str) -> str:
    """Return what follows the scheme of a URL, without user, password and query."""
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    if "@" in host:
        host = host.rpartition("@")[2]
    elif "@" in path and re.fullmatch(r"[^:]*:(?!\d+$).*", host):
        # a password may hold a slash, though it should not
        host, slash, path = rest.rpartition("@")[2].partition("/")
    return f"{host}{slash}{path}"


def safe_cause(error: BaseException) -> BaseException | None:
    """Return an error as the cause of another one; a stand-in where its text has credentials.

    Python shows causes with their own texts, which are other people's.
    """
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        seen.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    if all(without_credentials(str(e)) == str(e) for e in seen):
        return error
    return RuntimeError(f"{type(error).__name__}: {without_credentials(str(error))}")
