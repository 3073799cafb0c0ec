"""A span for each request, where traces are on: within the caller's trace, if there is one."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.traces import SpanKind, Traces, context_in, new_id


class Traced:
    """Hands on a span of kind SERVER for each request, named by its route."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_ns = time.time_ns()
        parent = context_in((name.decode("latin-1"), value) for name, value in scope["headers"])
        trace_id = new_id(128) if parent is None else parent.trace_id
        context = self._traces.begin(trace_id, parent=parent)
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "")
            self._traces.end(
                f"{scope['method']} {route}".strip(),
                SpanKind.SERVER,
                context,
                began_ns,
                parent=parent,
                attributes={
                    "http.request.method": scope["method"],
                    "http.response.status_code": status,
                    "http.route": route or "unmatched",
                    "url.scheme": scope["scheme"],
                },
                is_error=status >= 500,
            )
