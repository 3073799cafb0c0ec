"""Log lines as JSON objects, one a line; those of requests without bodies, keys or queries."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TextIO

import orjson

FLUSH_S: Final = 0.2


class JsonFormatter(logging.Formatter):
    """A record as one JSON object, with the id of the request that it belongs to."""

    def __init__(self, request_id: Callable[[], str]) -> None:
        super().__init__()
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        identity = self._request_id()
        if identity:
            line["request_id"] = identity
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure(level: str, request_id: Callable[[], str]) -> None:
    """Send log lines of this process to standard error; called once, in ``__main__``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(request_id))
    logging.basicConfig(level=level, handlers=[handler])
    # the follower says what is the matter, once; the client would repeat it every second
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


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
            "time": _rfc3339(time.time()),
            "level": "INFO",
            "logger": "api.access",
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


def _rfc3339(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
