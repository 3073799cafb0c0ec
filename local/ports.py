"""Free TCP ports on loopback."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Final

HOST: Final = "127.0.0.1"

_RANGE: Final = range(20_000, 30_000)
"""Below the ports that systems hand to outgoing connections (from 32768 on Linux, 49152
elsewhere): a client that retries a closed port of that range can connect to itself and so
keep a restarted server from its port."""


def free_ports(count: int) -> list[int]:
    """Return ``count`` distinct ports that are free now; raises ``OSError`` when none are left."""
    candidates = random.SystemRandom().sample(_RANGE, len(_RANGE))
    found: list[int] = []
    with ExitStack() as bound:
        for port in candidates:
            if len(found) == count:
                break
            server = bound.enter_context(socket.socket())
            try:
                server.bind((HOST, port))
            except OSError:
                continue
            found.append(port)
    if len(found) < count:
        raise OSError(f"fewer than {count} free ports from {_RANGE.start} to {_RANGE.stop - 1}")
    return found
