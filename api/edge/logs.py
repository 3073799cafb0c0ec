"""The access log: a line of JSON for each request, without bodies, keys or queries."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson

from api import PROCESS

FLUSH_S: Final = 0.2
"""Time between two writes of the lines noted meanwhile."""


class AccessLog:
    """A line for each request, written a few times a second: a request does not wait for it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []

    def write(
        self, identity: str, method: str, route: str, status: int, seconds: float, client: str
    ) -> None:
        """Note a request that has been answered."""
        line = {
            "timestamp": datetime.now(UTC),
            "level": "INFO",
            "logger": "api.access",
            "message": f"{method} {route} {status}",
            "process": PROCESS,
            "request_id": identity,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1e3, 3),
            "client": client,
        }
        self._lines.append(orjson.dumps(line))
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what has been noted."""
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write(b"\n".join(lines).decode() + "\n")
            self._stream.flush()
