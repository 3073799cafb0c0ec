"""Bodies of requests, read within limits, and answers in JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
from fastapi import Request
from starlette.responses import Response
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope

from api.edge.problems import FieldError, ProblemError, problem
from shared.messages import Message, shown

JSON: Final = "application/json"

MAX_BODY_BYTES: Final = 1 << 20
"""Largest body with one history, and largest outline of a body with many."""

MAX_LARGE_BODY_BYTES: Final = 32 << 20
"""Largest body with many histories: a thousand of 160 candles with times are 24 MB."""

MAX_HELD_BYTES: Final = 256 << 20
"""Most bytes of all bodies together that are being received and answered."""

SMALL_BODY_BYTES: Final = 64 << 10
"""Largest body that is read even beyond ``MAX_HELD_BYTES``: a thousand of them are no danger."""


class BodyBudget:
    """Memory for bodies: refuses one that is too large, and a large one when too much is held.

    A body is refused as soon as it turns out too large.
    """

    def __init__(self, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_held = max_held_bytes
        self._held = 0

    @contextmanager
    def share(self, receive: Receive, max_bytes: int) -> Iterator[Receive]:
        """Yield a ``receive`` that counts a request's body until the end of the context.

        That ``receive`` raises ``ProblemError``.
        """
        if not max_bytes:
            yield receive
            return
        received = 0

        async def counted() -> AsgiMessage:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._held += size
            if received > max_bytes:
                raise _too_large(max_bytes, received)
            if self._held > self._max_held and received > SMALL_BODY_BYTES:
                raise _too_many_bytes()
            return message

        try:
            yield counted
        finally:
            self._held -= received


def require_declared_size(scope: Scope, max_bytes: int) -> None:
    """Refuse a body whose headers declare too many bytes; raises ``ProblemError``."""
    declared = _declared_bytes(scope) if max_bytes else 0
    if declared > max_bytes:
        raise _too_large(max_bytes, declared)


def answer(content: Message | dict[str, Any] | orjson.Fragment) -> Response:
    """Return an answer in JSON."""
    body = content.encode() if isinstance(content, Message) else orjson.dumps(content)
    return Response(body, media_type=JSON)


async def read_large(request: Request) -> bytearray:
    """Return a body that may be large, without the copy that ``Request.body`` makes of it."""
    body = bytearray()
    async for part in request.stream():
        body += part
    return body


def require_json(request: Request) -> None:
    """Refuse a body that its headers do not declare as plain JSON; raises ``ProblemError``."""
    declared = request.headers.get("content-type", "")
    if declared != JSON and declared.partition(";")[0].strip().lower() != JSON:
        _unsupported("content-type", JSON, declared)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        _unsupported("content-encoding", "identity", encoding)


def _unsupported(header: str, expected: str, got: str) -> None:
    message = f"expected {expected}, got {shown(got) if got else 'none'}"
    reason = FieldError(field=header, rule="unsupported", message=message)
    raise problem(415, reason)


def _too_large(limit: int, size: int) -> ProblemError:
    message = f"expected at most {limit} bytes, got at least {size}"
    return problem(413, FieldError(field="body", rule="too_large", message=message))


def _too_many_bytes() -> ProblemError:
    detail = "too many large bodies at once; try again"
    return problem(503, detail=detail, headers={"retry-after": "1"})


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
