"""The tool's whole story on made data: stored map by map, wanted as time series."""

from __future__ import annotations

from xchunk.demo.story import tell

__all__ = ["tell"]
