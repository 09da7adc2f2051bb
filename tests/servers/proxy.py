"""A proxy in front of an HTTP server: it counts, is slow, and fails now and then."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from servers.ports import HOST

#: Headers that belong to one connection, and not to what it carries.
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}


@dataclass(frozen=True)
class Request:
    """One request that the proxy has seen."""

    method: str
    """``GET``, ``PUT``, …"""
    target: str
    """Path and query."""
    status: int
    """What was answered; 503 where the proxy failed it."""
    nbytes: int = 0
    """Bytes of the answer's body."""

    @property
    def key(self) -> str:
        """The object's key, with its bucket."""
        return unquote(urlsplit(self.target).path).strip("/")

    @property
    def is_listing(self) -> bool:
        """Whether it lists keys."""
        query = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return self.method == "GET" and bool({"list-type", "prefix", "delimiter"} & set(query))


@dataclass
class Proxy:
    """A running proxy."""

    port: int = 0
    """The port that it listens on."""
    delay: float = 0.0
    """Seconds that it adds to each request."""
    fails_every: int = 0
    """It answers 503 to every n-th request; 0: to none."""
    broken: bool = False
    """Whether it answers 503 to all."""
    seen: list[Request] = field(default_factory=list)
    """All requests, in the order in which they were answered."""
    _count: int = 0

    def clear(self) -> None:
        """Forget the requests."""
        self.seen.clear()

    @property
    def failed(self) -> int:
        """How many requests the proxy failed itself, or passed a 503 of."""
        return sum(r.status == 503 for r in self.seen)

    def counted(self, below: str, method: str) -> Counter[str]:
        """Count what was answered well, by key, of the objects below a prefix."""
        return Counter(
            r.key
            for r in self.seen
            if r.method == method and r.status < 400 and not r.is_listing and below in r.key
        )

    def _fails(self) -> bool:
        self._count += 1
        return self.broken or bool(self.fails_every and self._count % self.fails_every == 0)


@contextmanager
def proxy(to: int, *, delay: float = 0.0, fails_every: int = 0) -> Iterator[Proxy]:
    """Run a proxy in front of a port, in a thread of its own."""
    state = Proxy(delay=delay, fails_every=fails_every)
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    failure: list[BaseException] = []

    async def serve() -> None:
        import aiohttp
        from aiohttp import web

        # what the server compresses is passed on as it is
        async with aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
        ) as session:

            async def answer(request: web.Request) -> web.StreamResponse:
                return await _pass_on(request, session, to, state)

            # an application, and not a bare server: it answers to "Expect: 100-continue"
            app = web.Application(client_max_size=2**30)
            app.router.add_route("*", "/{rest:.*}", answer)
            runner = web.AppRunner(app)
            await runner.setup()
            try:
                site = web.TCPSite(runner, HOST, 0)
                await site.start()
                state.port = runner.addresses[0][1]
                ready.set()
                await stop.wait()
            finally:
                await runner.cleanup()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - it is raised where the proxy is wanted
            failure.append(error)
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=run, name="proxy", daemon=True)
    thread.start()
    ready.wait()
    if failure:
        raise failure[0]
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)


async def _pass_on(request: Any, session: Any, to: int, state: Proxy) -> Any:
    from aiohttp import web
    from yarl import URL

    target = request.raw_path
    fails = state._fails()
    body = await request.read()
    if state.delay:
        await asyncio.sleep(state.delay)
    if fails:
        state.seen.append(Request(request.method, target, 503))
        return web.Response(
            status=503, body=b"<Error><Code>SlowDown</Code></Error>", content_type="application/xml"
        )
    headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP]
    async with session.request(
        request.method,
        URL(f"http://{HOST}:{to}{target}", encoded=True),
        # the signature is of the host that the client named
        headers=headers,
        data=body,
        allow_redirects=False,
        skip_auto_headers=["Content-Type", "User-Agent", "Accept", "Accept-Encoding"],
    ) as found:
        raw = await found.read()
        answer = web.Response(status=found.status, body=None if request.method == "HEAD" else raw)
        for name, value in found.headers.items():
            if name.lower() not in _HOP | {"content-length"}:
                answer.headers.add(name, value)
        if request.method == "HEAD" and "Content-Length" in found.headers:
            answer.headers["Content-Length"] = found.headers["Content-Length"]
        nbytes = 0 if request.method == "HEAD" else len(raw)
        state.seen.append(Request(request.method, target, found.status, nbytes))
        return answer
