"""A process's own port: ``/metrics``, ``/livez`` and ``/readyz``, served by a thread.

A thread, so that the answer comes even while the event loop is stuck, and says so.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from shared.metrics import known_format

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

MOST_THREADS: Final = 16
"""Most connections at once, each of which has a thread; others are closed."""

CONNECTION_S: Final = 10.0
"""Longest time of a connection, however slowly its client sends or reads."""


@dataclass(frozen=True)
class Health:
    """The answer to a probe, with the reason in words."""

    ok: bool
    detail: str


def since(at_ms: int) -> str:
    """Return when a state began, in words for a probe: ``since 2026-01-31T12:00:00Z``."""
    return f"since {datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


class StatusPortError(Exception):
    """A port for the probes that cannot be opened."""


Probe = Callable[[], Health]


class StatusServer:
    """Serves until closed; use as a context manager."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, *, live: Probe, ready: Probe
    ) -> None:
        """Bind at once; port 0 takes a free one.

        Raises:
            StatusPortError: when the port is taken or may not be used.
        """
        self._metrics = make_wsgi_app(registry)
        self._probes = {"/livez": live, "/readyz": ready}
        try:
            self._server = make_server(host, port, self._answer, _ThreadingServer, _QuietHandler)
        except OSError as error:
            raise StatusPortError(
                f"metrics_port: {host}:{port} cannot be opened: {error.strerror}"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="status", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            environ["HTTP_ACCEPT"] = known_format(environ.get("HTTP_ACCEPT", ""))
            page: Iterable[bytes] = self._metrics(environ, start_response)
            return page
        probe = self._probes.get(path)
        if probe is None:
            return _json(start_response, "404 Not Found", {"paths": ["/metrics", *self._probes]})
        health = probe()
        status = "200 OK" if health.ok else "503 Service Unavailable"
        return _json(start_response, status, {"ok": health.ok, "detail": health.detail})


def _json(start_response: StartResponse, status: str, body: object) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode() + b"\n"]


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection, within bounds of number and time."""

    daemon_threads = True

    def __init__(self, *args: Any, **options: Any) -> None:
        self._since_s: dict[Any, float] = {}  # by connection; its methods run in many threads
        self._lock = threading.Lock()
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            has_room = len(self._since_s) < MOST_THREADS
            if has_room:
                self._since_s[request] = time.monotonic()
        if has_room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what takes too long; called twice a second."""
        oldest_s = time.monotonic() - CONNECTION_S
        with self._lock:
            for request, since_s in self._since_s.items():
                if since_s < oldest_s:
                    with suppress(OSError):  # its thread then finds it closed
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep clients that leave in the middle out of the log."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _QuietHandler(WSGIRequestHandler):
    timeout = CONNECTION_S  # seconds that a silent connection may hold a thread

    def log_message(self, *_: Any) -> None:
        """Keep probes and scrapes out of the log."""
