"""Connections counted, in all and by the peer's address; in memory, no I/O."""

from __future__ import annotations

from asyncio import BaseTransport
from collections import Counter
from typing import Final

TOO_MANY: Final = "too many connections; try again"
TOO_MANY_OF_ONE: Final = "too many connections of one address; try again"


class Connections:
    """How many connections are open, from the accepted socket to its end."""

    def __init__(self, most: int, most_an_address: int) -> None:
        self._most = most
        self._most_an_address = most_an_address
        self._by_address: Counter[str] = Counter()

    def add(self, address: str) -> str:
        """Count a connection; return why it is refused, ``""`` where there is room.

        A refused one counts too, until it is removed: it is open while its refusal is written.
        """
        self._by_address[address] += 1
        if self._by_address[address] > self._most_an_address:
            return TOO_MANY_OF_ONE
        return TOO_MANY if self._by_address.total() > self._most else ""

    def remove(self, address: str) -> None:
        """Count the end of a connection."""
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]


def address_of(transport: BaseTransport) -> str:
    """Return the address of the peer, ``""`` where the socket has none."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""
