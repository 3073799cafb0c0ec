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
from uvicorn.server import ServerState

from api.edge.connections import TOO_MANY, TOO_MANY_OF_ONE, Connections, address_of
from api.edge.problems import ProblemError, problem
from api.edge.tls import TlsAcceptor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SocketLimits:
    """Limits of the server's connections."""

    connections: int = 1_000
    connections_an_address: int = 200
    receive_s: float = 10.0  # from a connection, or a request's first byte, to its last
    send_s: float = 10.0  # for which a client may read nothing of what is sent to it
    idle_s: float = 75.0  # between two requests
    head_bytes: int = 32_768  # of a request's path and headers, as they arrive
    headers: int = 100  # of a request, those after a body in chunks included


@dataclass(frozen=True)
class Tls:
    """Files for uvicorn; a certificate alone may hold its key."""

    certificate: str
    key: str | None = None
    client_authorities: str | None = None  # clients must show a certificate of these


def make_config(app: Any, limits: SocketLimits, tls: Tls | None = None) -> uvicorn.Config:
    """Return uvicorn's configuration for an application, loaded.

    Raises:
        OSError: when the files for TLS cannot be used; an ``ssl.SSLError`` is one.
    """
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
    config.load()
    return config


class Server(uvicorn.Server):
    """Ends answers that have no end of their own before it waits for requests in flight."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket] | None = None) -> None:
        if self.config.ssl is None:
            await super().startup(sockets)
            return
        await super().startup([])  # the lifespan; what accepts is our own
        acceptor = tls_acceptor(self.config, self.server_state, self.lifespan.state)
        self._accepting = [
            asyncio.create_task(acceptor.run(listener)) for listener in sockets or ()
        ]

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._end_streams()
        await super().shutdown(sockets)


def tls_acceptor(
    config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]
) -> TlsAcceptor:
    """Return what accepts connections over TLS, for a configuration with a certificate."""
    protocol = cast("type[LimitedProtocol]", config.http_protocol_class)
    return TlsAcceptor(
        lambda: protocol(config, server_state, app_state),
        cast("ssl.SSLContext", config.ssl),
        protocol.open_connections,
        protocol.limits.receive_s,
    )


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
_REFUSALS: Final = {
    reason: _raw(problem(status, detail=reason, headers={"retry-after": "1"}))
    for status, reason in ((503, TOO_MANY), (429, TOO_MANY_OF_ONE))
}
_INVALID: Final = _raw(problem(400, detail="not an HTTP request"))
_TOO_LARGE: Final = _raw(problem(431, detail="too many bytes or too many headers"))

LINGER_S: Final = 1.0
"""Time for which what a refused client still sends is read and dropped."""


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
    open_connections: ClassVar[Connections]
    _receiving: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None
    _lingering: asyncio.TimerHandle | None = None  # it is refused, and its bytes are dropped
    _is_in_head = True  # or before a request, or between two chunks, where headers may follow
    _head_bytes = 0
    _is_head_too_large = False
    _has_begun = False
    _address: str | None = None  # of the peer, once the connection is counted

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joined = JoinedWrites(transport)
        super().connection_made(cast("asyncio.Transport", self._joined))
        if self._address is None:
            self._address = address_of(transport)
            if refusal := self.open_connections.add(self._address):
                self.transport.write(_REFUSALS[refusal])
                self.transport.close()
                return
        self._expect()

    def take_over(self, address: str) -> None:
        """Note that the connection is counted already, as the handshake of TLS began."""
        self._address = address

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self.open_connections.remove(self._address or "")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            return
        idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        self._has_begun = False
        self._feed(data)
        if idle is None:
            return
        if self._has_begun or self.transport.is_closing():
            idle.cancel()
        else:  # an empty line is not a request, and does not lengthen the silence
            self.timeout_keep_alive_task = idle

    def _feed(self, data: bytes) -> None:
        """Give the parser what arrived, of a head no more than its limit.

        The bytes are counted before the parser has them: it keeps a line that never ends, and
        joins its parts by copying.
        """
        while data and not self.transport.is_closing() and self._lingering is None:
            part = data
            if self._is_in_head:
                room = self.limits.head_bytes - self._head_bytes
                if room <= 0:
                    self._is_head_too_large = True
                    self.send_400_response("")
                    return
                part = data[:room]
                self._head_bytes += len(part)
            data = data[len(part) :]
            super().data_received(part)

    def on_message_begin(self) -> None:
        self._has_begun = True
        self._expect()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= self.limits.headers:
            self._is_head_too_large = True
            raise ValueError("too many headers")  # the parser hands this on as invalid
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._begin_head()  # headers may follow the last chunk

    def on_body(self, body: bytes) -> None:
        self._is_in_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._begin_head()
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
        if self._lingering is not None:
            return
        if self.cycle is not None:
            self.cycle.disconnected = True  # what it still has to say, nobody would understand
        self.transport.write(_TOO_LARGE if self._is_head_too_large else _INVALID)
        self._joined.flush()
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # to close with bytes unread would reset the connection, and the client lose the answer
        self.transport.write_eof()
        self._lingering = self.loop.call_later(LINGER_S, self.transport.abort)

    def _begin_head(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0

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
        for timer in (self._receiving, self._sending, self._lingering):
            if timer is not None:
                timer.cancel()


def _protocol(limits: SocketLimits) -> type[LimitedProtocol]:
    """Return uvicorn's protocol with these limits; uvicorn makes its instances itself."""
    counted = Connections(limits.connections, limits.connections_an_address)
    return type(
        "ConfiguredProtocol",
        (LimitedProtocol,),
        {"limits": limits, "open_connections": counted},
    )
