"""Requests and answers: bodies read, their declared type checked, answers in JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.edge.problems import FieldError, problem, shown

JSON: Final = "application/json"


class Bare(APIRoute):
    """A route whose function takes the request and returns the response, with nothing between.

    FastAPI describes it in the OpenAPI document; its validation of arguments and answers, which
    takes longer than the model, is left out.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def answer(content: Any) -> Response:
    """Return an answer in JSON."""
    return Response(orjson.dumps(content), media_type=JSON)


async def read_small(request: Request) -> bytes:
    """Return a body that comes at once, as a rule."""
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


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
