"""Free TCP ports on loopback."""

from __future__ import annotations

import fcntl
import os
import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from local.jars import cache_dir

HOST: Final = "127.0.0.1"

_RANGE: Final = range(20_000, 30_000)
"""Below the ports that systems hand to outgoing connections (from 32768 on Linux, 49152
elsewhere): a client that retries a closed port of that range can connect to itself and so
keep a restarted server from its port."""


def documented_or_free(ports: Sequence[int]) -> list[int]:
    """Return the ports that the documents name; for each that is taken, another that is free.

    A port is reserved for the life of this process: another of the same user that starts at the
    same time takes others, though nobody listens yet.
    """
    spare = iter(free_ports(len(ports)))
    return [port if is_free(port) and _reserve(port) else next(spare) for port in ports]


_reserved: Final[dict[int, int]] = {}  # port -> descriptor of its lock


def _reserve(port: int) -> bool:
    if port in _reserved:
        return True
    path = cache_dir() / f"port-{port}.lock"  # processes may have temporary folders of their own
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # nothing can be kept there: it is taken without
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _reserved[port] = lock
    return True


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of loopback now."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            server.bind((HOST, port))
        except OSError:
            return False
    return True


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
