"""Bodies of requests, read within limits, and answers in JSON."""

from __future__ import annotations

from typing import Any, Final, Self

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope

from api.edge.problems import FieldError, ProblemError, problem
from shared.messages import Message, shown

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"

MAX_BODY_BYTES: Final = 1 << 20
"""Largest body with one history, and largest outline of a body with many."""

MAX_LARGE_BODY_BYTES: Final = 32 << 20
"""Largest body with many histories: a thousand of 160 candles with times are 24 MB."""

MAX_HELD_BYTES: Final = 256 << 20
"""Most bytes of all bodies together that are being received and answered."""

SMALL_BODY_BYTES: Final = 64 << 10
"""Largest body that is read even beyond ``MAX_HELD_BYTES``: a thousand of them are harmless."""


class BodyBudget:
    """Memory for the bodies of all requests: a large one is refused when too much is held."""

    def __init__(self, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_held = max_held_bytes
        self._held = 0

    def take(self, size: int, share_bytes: int) -> None:
        """Note bytes of a share that now has so many; raises ``ProblemError``."""
        self._held += size
        if self._held > self._max_held and share_bytes > SMALL_BODY_BYTES:
            detail = "too many large bodies at once; try again"
            raise problem(503, detail=detail, headers={"retry-after": "1"})

    def give_back(self, size: int) -> None:
        """Note the end of a share."""
        self._held -= size


class BodyShare:
    """The bytes of one request's body: those received, and those that they are unpacked to.

    Either are refused as soon as they turn out too many. A context, at whose end they are given
    back to the budget.
    """

    def __init__(self, budget: BodyBudget, receive: Receive, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._budget = budget
        self._receive = receive
        self._received = 0
        self._unpacked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self.held_bytes)

    async def receive(self) -> AsgiMessage:
        """Return the next message of the request; raises ``ProblemError``."""
        message = await self._receive()
        size = len(message.get("body", b""))
        self._received += size
        self._take(size, self._received)
        return message

    def unpack(self, size: int) -> None:
        """Note bytes that compressed ones have been unpacked to; raises ``ProblemError``."""
        self._unpacked += size
        self._take(size, self._unpacked)

    def _take(self, size: int, total: int) -> None:
        self.held_bytes += size
        self._budget.take(size, self.held_bytes)
        if total > self.max_bytes:
            raise _too_large(self.max_bytes, total)


def require_declared_size(scope: Scope, max_bytes: int) -> None:
    """Refuse a body whose headers declare too many bytes; raises ``ProblemError``."""
    declared = _declared_bytes(scope) if max_bytes else 0
    if declared > max_bytes:
        raise _too_large(max_bytes, declared)


def answer(content: Message | dict[str, Any] | orjson.Fragment) -> Response:
    """Return an answer in JSON."""
    body = content.encode() if isinstance(content, Message) else orjson.dumps(content)
    return Response(body, media_type=JSON)


async def read_body(request: Request) -> bytes | bytearray:
    """Return the body of a request; of one that arrives at once, as small ones do, no copy."""
    body, is_more = await _read_part(request)
    if not is_more:
        return body
    joined = bytearray(body)
    while is_more:
        body, is_more = await _read_part(request)
        joined += body
    return joined


async def _read_part(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def require_json(request: Request) -> None:
    """Refuse a body that its headers do not declare as plain JSON; raises ``ProblemError``."""
    require_type(request, JSON)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        _unsupported("content-encoding", "identity", encoding)


def require_type(request: Request, *types: str) -> None:
    """Refuse a body of another media type; ``""`` allows none. Raises ``ProblemError``."""
    declared = request.headers.get("content-type", "")
    if declared not in types and declared.partition(";")[0].strip().lower() not in types:
        _unsupported("content-type", " or ".join(filter(None, types)), declared)


def _unsupported(header: str, expected: str, got: str) -> None:
    message = f"expected {expected}, got {shown(got) if got else 'none'}"
    reason = FieldError(field=header, rule="unsupported", message=message)
    raise problem(415, reason)


def _too_large(limit: int, size: int) -> ProblemError:
    message = f"expected at most {limit} bytes, got at least {size}"
    return problem(413, FieldError(field="body", rule="too_large", message=message))


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
