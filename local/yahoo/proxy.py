"""A CONNECT proxy that leads every connection to the stand-in, whatever its host."""

from __future__ import annotations

import asyncio
from typing import Any


class TunnelProxy:
    """Tunnels every connection to one port on loopback, so that no request leaves the machine."""

    def __init__(self, target_port: int) -> None:
        """Prepare only; ``start`` listens."""
        self._target_port = target_port
        self._tunnels: set[_Near] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Near(self._target_port, self._tunnels), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every tunnel."""
        if self._server is not None:
            self._server.close()
        for tunnel in list(self._tunnels):
            tunnel.cut()


class _End(asyncio.Protocol):
    """One end of a tunnel: forwards its data to the other end, and closes with it."""

    def __init__(self) -> None:
        self.other: _End | None = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.other is not None:
            self.other.transport.close()


class _Near(_End):
    """The client's end; it asks for the tunnel."""

    def __init__(self, target_port: int, tunnels: set[_Near]) -> None:
        super().__init__()
        self._target_port = target_port
        self._tunnels = tunnels
        self._head = b""
        self._opening: asyncio.Future[None] | None = None  # kept, or it may be collected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._tunnels.add(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        self._head += data
        if not self._head.endswith(b"\r\n\r\n"):
            return
        if not self._head.startswith(b"CONNECT "):
            self.transport.write(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
            return
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, far = await loop.create_connection(_End, "127.0.0.1", self._target_port)
        except OSError:  # which the client sees for itself
            self.cut()
            return
        if self.transport.is_closing():  # gone meanwhile
            far.transport.close()
            return
        self.other, far.other = far, self
        self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tunnels.discard(self)

    def cut(self) -> None:
        self.transport.abort()
