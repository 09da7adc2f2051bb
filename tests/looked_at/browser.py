"""A headless Chromium, driven over its DevTools protocol, that looks at pages.

No more of the protocol is used than looking needs: a page is opened at a width and in a
theme, and what it logs, says and how far it reaches to the right is read.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Seen", "browser", "missing"]

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)

#: Seconds that anything may take before the browser counts as stuck.
_PATIENCE = 60.0

_MEASURE = (Path(__file__).parent / "measure.js").read_text(encoding="utf-8")


def missing() -> str:
    """Say what there is not, of what looking needs; empty where nothing is missing."""
    if _binary() is None:
        return "there is no chromium"
    try:
        import websocket  # noqa: F401
    except ImportError:
        return "there is no websocket-client"
    return ""


def _binary() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@dataclass(frozen=True)
class Seen:
    """What a page was found to be."""

    errors: list[str]
    """Script errors, failed loads and complaints of the console."""
    text: str
    """All text that is laid out."""
    width: int
    """Pixels of the window."""
    reaches: int
    """Pixels that the page reaches to the right."""
    outside: list[str]
    """Elements that reach beyond the window and cannot be scrolled to."""
    overlapping: list[str]
    """Pairs of texts that lie one on the other."""
    faint: list[str]
    """Texts that hardly differ from what is behind them, with their contrast."""
    smallest: float
    """Pixels of the smallest text."""


class Browser:
    """One browser with one page."""

    def __init__(self, url: str) -> None:
        import websocket

        self._socket = websocket.create_connection(url, timeout=_PATIENCE, max_size=None)
        self._ids = itertools.count(1)
        self._session = ""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        self.call("Browser.close")
        self._socket.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, script: str) -> Any:
        """Run a script in the page; its value."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def look(
        self, page: Path | str, *, width: int, dark: bool = False, picture: Path | None = None
    ) -> Seen:
        """Open a page and look at it.

        Parameters
        ----------
        page : path or str
            A file, or a URL of this machine.
        width : int
            Pixels of the window.
        dark : bool
            Whether the system prefers dark colours.
        picture : path, optional
            Where to leave a screenshot of the whole page.
        """
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self._events.clear()
        url = page.absolute().as_uri() if isinstance(page, Path) else page
        frame = self.call("Page.navigate", url=url)
        if frame.get("errorText"):
            raise RuntimeError(f"{url}: {frame['errorText']}")
        self._until("Page.loadEventFired")
        measured = self.evaluate(_MEASURE)
        if picture is not None:
            shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
        return Seen(errors=list(self._errors()), **measured)

    def _until(self, event: str) -> None:
        end = time.monotonic() + _PATIENCE
        while not any(e.get("method") == event for e in self._events):
            if time.monotonic() > end:
                raise TimeoutError(event)
            self._next()

    def _next(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._socket.recv())
        if "method" in answer:
            self._events.append(answer)
        return answer

    def _errors(self) -> Iterator[str]:
        for event in self._events:
            given = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                yield f"script: {given['exceptionDetails'].get('text')}"
            elif event["method"] == "Runtime.consoleAPICalled" and given["type"] == "error":
                yield f"console: {given['args']}"
            elif event["method"] == "Log.entryAdded" and given["entry"]["level"] == "error":
                yield f"log: {given['entry']['text']} {given['entry'].get('url', '')}"
            elif event["method"] == "Network.loadingFailed" and not given.get("canceled"):
                yield f"load: {given['errorText']}"


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, with a profile of its own, and end it afterwards."""
    binary = _binary()
    if binary is None:
        raise RuntimeError(missing())
    with tempfile.TemporaryDirectory(prefix="xchunk-browser-", ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [binary, *_FLAGS, f"--user-data-dir={home}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            seen = Browser(_address(process, Path(home) / "DevToolsActivePort"))
            try:
                yield seen
            finally:
                seen.close()
                process.wait(timeout=_PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], file: Path) -> str:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) >= 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        if process.poll() is not None:
            raise RuntimeError(f"chromium ended with {process.returncode}")
        time.sleep(0.05)
    raise TimeoutError("chromium did not start")
