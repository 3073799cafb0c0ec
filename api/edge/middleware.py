"""Middleware around every request: id, metrics, log line, security headers."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.edge.logs import AccessLog
from api.edge.problems import problem
from shared.metrics import ApiMetrics

log = logging.getLogger("api")

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}", re.ASCII)

Header = tuple[bytes, bytes]

SECURITY_HEADERS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
STRICT_POLICY: Final = b"default-src 'none'; frame-ancestors 'none'"
"""Content security policy of data, which needs nothing."""

PAGE_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of pages: their parts come from here alone."""

HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
"""Tells browsers to stay with TLS for a year."""

CRASH: Final = problem(500, detail="an error on our side; it has been logged")
"""The answer to an error that nobody foresaw."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered, for log lines."""


class Measure:
    """Gives every request an id, and measures and logs it.

    Labels have few values, whatever a client sends.
    """

    def __init__(
        self, app: ASGIApp, metrics: ApiMetrics, log: AccessLog | None, *, over_tls: bool
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._children: dict[tuple[str, str, int], Histogram] = {}
        more = (HSTS,) if over_tls else ()
        self._headers = [*SECURITY_HEADERS, *more]

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
        except Exception:  # the log has it, the client learns nothing of it
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
