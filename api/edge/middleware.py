"""Around every request: its id, measurement, log line, headers and the limit of its body.

Plain ASGI, for speed.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

from prometheus_client import Histogram
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.edge.logs import AccessLog
from api.edge.problems import FieldError, ProblemError, problem
from shared.metrics import ApiMetrics

log = logging.getLogger("api")

MAX_BODY_BYTES: Final = 1 << 20
MAX_BATCH_BYTES: Final = 32 << 20
"""Of the bodies that may hold many histories: a thousand of 160 candles with times are 24 MB."""

MAX_HELD_BYTES: Final = 256 << 20
"""Of all bodies that are being received and answered at once."""

SMALL_BODY_BYTES: Final = 64 << 10
"""Of a body that is taken even so: a thousand connections with such are no danger."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}", re.ASCII)

Header = tuple[bytes, bytes]

HEADERS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
STRICT_POLICY: Final = b"default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HSTS: Final = (b"strict-transport-security", b"max-age=31536000")

CRASH: Final = problem(500, detail="an error on our side; it has been logged")
"""What a client learns of an error that nobody foresaw."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered, for log lines."""


class Measure:
    """Gives every request an id, and observes its time and outcome.

    Labels have few values, whatever comes.
    """

    def __init__(
        self, app: ASGIApp, metrics: ApiMetrics, log: AccessLog | None, *, over_tls: bool
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._children: dict[tuple[str, str, int], Histogram] = {}
        more = (HSTS,) if over_tls else ()
        self._headers = [*HEADERS, *more]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        identity = _identity(scope["headers"])
        token = request_id.set(identity.decode())
        status = 500
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                status = message["status"]
                headers = message["headers"] = [*message.get("headers", ()), *self._headers]
                headers.append((b"x-request-id", identity))
                if not any(name == b"content-security-policy" for name, _ in headers):
                    headers.append((b"content-security-policy", STRICT_POLICY))
                    headers.append((b"cache-control", b"no-store"))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:  # whatever it is: the log says it, the client learns nothing of it
            log.exception("a request failed")
            if not has_begun:
                await CRASH.response()(scope, receive, watched)
        finally:
            request_id.reset(token)
            self._observe(scope, status, time.perf_counter() - started, identity)

    def _observe(self, scope: Scope, status: int, seconds: float, identity: bytes) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        key = (method, route, status)
        child = self._children.get(key)
        if child is None:
            child = self._metrics.request_seconds.labels(method, route, str(status))
            self._children[key] = child
        child.observe(seconds)
        if 400 <= status < 500:
            self._metrics.rejects.labels(str(status)).inc()
        if self._log is not None:
            client = scope.get("client_name", "")
            self._log.write(identity.decode(), method, route, status, seconds, client)


def _identity(headers: Iterable[Header]) -> bytes:
    """Return the client's id of a request if it is a plain one, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return os.urandom(8).hex().encode()


class Direct:
    """Answers the busiest path without the router, whose work is as much as the model's."""

    def __init__(self, app: ASGIApp, method: str, path: str, router: Router) -> None:
        """Find the route of a path, which stays in the OpenAPI document and the router."""
        self._app = app
        self._method = method
        self._path = path
        self._route = next(
            one
            for one in router.routes
            if isinstance(one, Route) and one.path == path and method in (one.methods or ())
        )
        self._endpoint = self._route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != self._path or scope.get("method") != self._method:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        try:
            response: Response = await self._endpoint(Request(scope, receive))
        except ProblemError as error:
            response = error.response()
        except ClientDisconnect:
            response = problem(400, detail="the client left before its body had come").response()
        await response(scope, receive, send)


class BodyLimit:
    """Refuses a body by its declared size, and one that turns out larger while it comes.

    All bodies together have a limit too: many large ones at once would fill the memory. Small
    ones pass nevertheless.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int = MAX_BODY_BYTES,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self._app = app
        self._max = max_bytes
        self._max_held = max_held_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        limit = MAX_BATCH_BYTES if holds_many(scope["path"]) else self._max
        declared = _declared_bytes(scope)
        if declared > limit:
            await _too_large(limit, declared).response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._held += size
            if received > limit:
                raise _too_large(limit, received)
            if self._held > self._max_held and received > SMALL_BODY_BYTES:
                raise _too_many_bytes()
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= received


def holds_many(path: str) -> bool:
    """Whether the bodies of a path may hold many histories."""
    return path == "/v1/forecasts" or path.endswith("/infer")


def _too_large(limit: int, size: int) -> ProblemError:
    message = f"expected at most {limit} bytes, got at least {size}"
    return problem(413, FieldError(field="body", rule="too_large", message=message))


def _too_many_bytes() -> ProblemError:
    detail = "too many large bodies at once; try again"
    return problem(503, detail=detail, headers={"retry-after": "1"})


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
