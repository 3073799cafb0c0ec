"""uvicorn with connection limits, receive and send time-outs, and an end of event streams."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket
from typing import Any, ClassVar, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.edge.problems import ProblemError, problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SocketLimits:
    """Limits of the server's connections."""

    connections: int = 1_000
    receive_s: float = 10.0  # from a connection, or a request's first byte, to its last
    send_s: float = 10.0  # for which a client may read nothing of what is sent to it
    idle_s: float = 75.0  # between two requests
    head_bytes: int = 32_768  # of a request's path and headers


@dataclass(frozen=True)
class Tls:
    """Files for uvicorn; a certificate alone may hold its key."""

    certificate: str
    key: str | None = None
    client_authorities: str | None = None  # clients must show a certificate of these


def make_config(app: Any, limits: SocketLimits, tls: Tls | None = None) -> uvicorn.Config:
    """Return uvicorn's configuration for an application."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=_protocol(limits),
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=5,
    )
    if tls is not None:
        config.ssl_certfile = tls.certificate
        config.ssl_keyfile = tls.key
        config.ssl_ca_certs = tls.client_authorities
        config.ssl_cert_reqs = ssl.CERT_REQUIRED if tls.client_authorities else ssl.CERT_NONE
    return config


class Server(uvicorn.Server):
    """Ends answers that have no end of their own before it waits for requests in flight."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)


def _raw(error: ProblemError) -> bytes:
    """Return a problem as the bytes of a whole answer, after which the connection closes."""
    response = error.response()
    lines = [f"HTTP/1.1 {response.status_code} {error.problem.title}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    lines += [b"x-content-type-options: nosniff", b"connection: close", b"", b""]
    return b"\r\n".join(lines) + bytes(response.body)


_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""The interim response, after which the head is still to come; as uvicorn writes it."""

_TOO_SLOW: Final = _raw(problem(408, detail="the request did not arrive in time"))
_TOO_MANY: Final = _raw(
    problem(503, detail="too many connections; try again", headers={"retry-after": "1"})
)
_INVALID: Final = _raw(problem(400, detail="not an HTTP request"))


class JoinedWrites:
    """A transport that holds a response's head back until its body comes.

    Both then go out by one system call, and wake the client once: at 16 connections 1.08 times
    as many requests. Which write is a head, the protocol knows; no content can look like one.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._head_is_next = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or hold back a head."""
        if self._head_is_next and data != _CONTINUE:
            self._head_is_next = False
            self._head = data
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def end_response(self) -> None:
        """Write the head of a response without a body, and expect the next response's."""
        self.flush()
        self._head_is_next = True

    def flush(self) -> None:
        """Write what is held back."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Write what is held back, then close."""
        self.flush()
        self._transport.close()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits; a subclass holds them."""

    limits: ClassVar[SocketLimits]
    _receiving: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joined = JoinedWrites(transport)
        super().connection_made(cast("asyncio.Transport", self._joined))
        transport = self.transport
        if len(self.connections) > self.limits.connections:
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._expect()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._joined.end_response()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._sending = self.loop.call_later(self.limits.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def send_400_response(self, msg: str) -> None:
        del msg
        self.transport.write(_INVALID)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes:  # the parser hands this on as invalid
            raise ValueError("too large a head")

    def _expect(self) -> None:
        """Start the time in which a request must arrive."""
        if self._receiving is None:
            self._receiving = self.loop.call_later(self.limits.receive_s, self._too_slow)

    def _too_slow(self) -> None:
        self._receiving = None
        if self.transport.is_closing():
            return
        answered = self.cycle is not None and self.cycle.response_started
        if not answered or self.cycle.response_complete:
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._receiving, self._sending):
            if timer is not None:
                timer.cancel()


def _protocol(limits: SocketLimits) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with these limits; uvicorn makes its instances itself."""
    return type("ConfiguredProtocol", (LimitedProtocol,), {"limits": limits})
