"""Yahoo's endpoints that serve candles and ticks, with faults on order."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import orjson
from aiohttp import web

from local.yahoo.market import Listing, chart, void


class Fault(Enum):
    """A failure of the chart endpoint."""

    RATE_LIMIT = "429"
    NOT_FOUND = "404"
    SERVER_ERROR = "500"
    EMPTY = "no rows"
    NULL = "no result"
    MALFORMED = "half a JSON document"
    HTML = "a page of regret"
    SLOW = "no answer in time"
    RESET = "a broken connection"


SLOW_S: Final = 30.0
"""Delay of a slow response, longer than any client waits."""

_JSON_ERROR: Final = {
    "chart": {
        "result": None,
        "error": {"code": "Not Found", "description": "No data found, symbol may be delisted"},
    }
}


Canned = Callable[[str, Mapping[str, str]], bytes | None]
"""Returns the prepared response to a symbol and query, None to compute it."""

Script = Callable[[web.WebSocketResponse], Awaitable[None]]
"""Sends one websocket's ticks."""


async def _silent(socket: web.WebSocketResponse) -> None:
    del socket


@dataclass
class _Order:
    fault: Fault
    left: int | None  # None: forever


class YahooServer:
    """Responds as Yahoo does; its clock is ``now_ms``."""

    def __init__(self, listings: Mapping[str, Listing], now_ms: Callable[[], int]) -> None:
        self.listings = dict(listings)
        self.now_ms = now_ms
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # host, path, query
        self.delay_s = 0.0  # before each chart, as Yahoo takes
        self.canned: Canned = lambda _symbol, _query: None
        self.limits_crumbs = False  # 429 for the crumb alone
        self.scripts: list[Script] = []  # for the next websockets
        self.subscriptions: list[list[str]] = []
        self.port = 0
        self._orders: dict[str, _Order] = {}
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None

    def fail(self, symbol: str, fault: Fault, times: int | None = None) -> None:
        """Let the next ``times`` requests for a symbol fail, all if None."""
        self._orders[symbol] = _Order(fault, times)

    def heal(self, symbol: str) -> None:
        """Let requests for a symbol succeed again."""
        self._orders.pop(symbol, None)

    async def start(self, tls: ssl.SSLContext) -> None:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_get("/", self._cookie_or_stream)
        app.router.add_get("/v1/test/getcrumb", self._crumb)
        app.router.add_get("/v8/finance/chart/{symbol}", self._chart)
        app.router.add_route("*", "/{path:.*}", self._nothing)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and drop unfinished responses."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _cookie(self, request: web.Request) -> web.Response:
        self._note(request)
        # fc.yahoo.com gives its cookie with a 404
        cookie = "A3=d=standin; Max-Age=31557600; Domain=.yahoo.com; Path=/; Secure; HttpOnly"
        return web.Response(status=404, headers={"Set-Cookie": cookie})

    async def _cookie_or_stream(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._stream(request)
        return await self._cookie(request)

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        """Run the next script once a client subscribes; without one, stay silent until the end."""
        self._note(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        script = self.scripts.pop(0) if self.scripts else _silent
        playing: asyncio.Future[None] | None = None
        try:
            async for message in socket:
                self.subscriptions.append(message.json()["subscribe"])
                playing = playing or asyncio.ensure_future(script(socket))
        finally:
            if playing is not None:
                playing.cancel()
        return socket

    async def _crumb(self, request: web.Request) -> web.Response:
        self._note(request)
        if self.limits_crumbs:
            return web.Response(status=429, text="Too Many Requests\r\n")
        return web.Response(text="crumb.of.the.standin")

    async def _nothing(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response({"finance": {"error": "not found"}}, status=404)

    async def _chart(self, request: web.Request) -> web.Response:
        self._note(request)
        symbol = request.match_info["symbol"]
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        canned = self.canned(symbol, request.query)
        if canned is not None:
            return web.Response(body=canned, content_type="application/json")
        listing = self.listings.get(symbol)
        if listing is None:
            return await self._failed(request, Fault.NOT_FOUND)
        fault = self._next_fault(symbol)
        if fault is not None:
            return await self._failed(request, fault)
        result = chart(listing, request.query, self.now_ms())
        if "timestamp" not in result and "period1" in request.query:
            return web.json_response(void(request.query), status=400)
        return web.Response(
            body=orjson.dumps({"chart": {"result": [result], "error": None}}),
            content_type="application/json",
        )

    async def _failed(self, request: web.Request, fault: Fault) -> web.Response:
        if fault is Fault.SLOW:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), SLOW_S)
        if fault is Fault.RESET and request.transport is not None:
            request.transport.abort()
        if fault is Fault.EMPTY:
            listing = self.listings[request.match_info["symbol"]]
            result = chart(listing, request.query, self.now_ms())
            result = {"meta": result["meta"], "indicators": {"quote": [{}], "adjclose": [{}]}}
            return web.json_response({"chart": {"result": [result], "error": None}})
        return _RESPONSES[fault]()

    def _next_fault(self, symbol: str) -> Fault | None:
        order = self._orders.get(symbol)
        if order is None:
            return None
        if order.left is not None:
            order.left -= 1
            if order.left <= 0:
                del self._orders[symbol]
        return order.fault

    def _note(self, request: web.Request) -> None:
        self.requests.append((request.host, request.path, dict(request.query)))


_RESPONSES: Final[Mapping[Fault, Callable[[], web.Response]]] = {
    Fault.RATE_LIMIT: lambda: web.Response(status=429, text="Too Many Requests\r\n"),
    Fault.NOT_FOUND: lambda: web.json_response(_JSON_ERROR, status=404),
    Fault.SERVER_ERROR: lambda: web.Response(status=500, text="<html>Internal Server Error</html>"),
    Fault.NULL: lambda: web.json_response({"chart": {"result": None, "error": None}}),
    Fault.MALFORMED: lambda: web.Response(
        text='{"chart":{"result":[{"meta":{"curr', content_type="application/json"
    ),
    Fault.HTML: lambda: web.Response(text="<html>Will be right back...</html>"),
    Fault.SLOW: lambda: web.Response(status=504),
    Fault.RESET: lambda: web.Response(status=502),
}
