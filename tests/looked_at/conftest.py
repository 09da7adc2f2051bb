from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from looked_at.browser import Browser, browser, missing
from looked_at.reports import make_reports, observed_reports


@pytest.fixture(scope="session")
def eyes() -> Iterator[Browser]:
    if why := missing():
        pytest.skip(why)
    with browser() as found:
        yield found


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, tuple[str, ...]]]:
    folder = tmp_path_factory.mktemp("reports")
    return {**make_reports(folder), **observed_reports(folder)}
