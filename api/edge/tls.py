"""TLS handshakes within the limits: a connection counts from the moment it is accepted.

A server of asyncio's shows a connection to its protocol once the handshake is done, so that those
in the middle of one would be outside every limit.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from socket import socket
from typing import Any, Final, Protocol

from api.edge.connections import Connections

log = logging.getLogger(__name__)

_PAUSE_S: Final = 1.0
"""Time without accepting after the system has refused a socket, as when all files are in use."""


class CountedProtocol(Protocol):
    """A protocol that counts its connection's end, where it got as far as a connection."""

    transport: Any

    def take_over(self, address: str) -> None:
        """Note that the connection is counted already."""
        ...


class TlsAcceptor:
    """Accepts connections of one listening socket and shakes hands with each, within limits."""

    def __init__(
        self,
        make_protocol: Callable[[], CountedProtocol],
        context: ssl.SSLContext,
        connections: Connections,
        handshake_s: float,
    ) -> None:
        self._make_protocol = make_protocol
        self._context = context
        self._connections = connections
        self._handshake_s = handshake_s
        self._handshakes: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket) -> None:
        """Accept until cancelled; handshakes end then too."""
        listener.settimeout(0)
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    accepted, peer = await loop.sock_accept(listener)
                except OSError as error:
                    log.warning("no connection can be accepted: %s", error)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                self._begin(accepted, str(peer[0]))
        finally:
            for task in self._handshakes:
                task.cancel()

    def _begin(self, accepted: socket, address: str) -> None:
        if self._connections.add(address):
            self._connections.remove(address)
            accepted.close()  # nothing can be said before the handshake
            return
        task = asyncio.get_running_loop().create_task(self._shake_hands(accepted, address))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket, address: str) -> None:
        protocol: Any = self._make_protocol()
        protocol.take_over(address)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_s,
            )
        except OSError:  # of the network or of TLS, or too slow
            pass
        finally:
            if protocol.transport is None:  # it did not get as far as a connection
                accepted.close()
                self._connections.remove(address)
