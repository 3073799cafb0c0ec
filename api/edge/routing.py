"""Routes with the scope and body size that they allow, and the way from a request to one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from api.edge.access import Access
from api.edge.compression import lighten
from api.edge.keys import Scope
from api.edge.problems import ProblemError, problem
from api.edge.requests import BodyBudget, BodyShare, require_declared_size
from api.edge.slicing import Slicer
from shared.messages import short

OPEN: Final = None
"""The scope of a route that needs no key."""

Endpoint = Callable[[Request], Awaitable[Response]]
"""Takes the request and returns the response: FastAPI describes it and has no part in the call."""


@dataclass(frozen=True)
class GuardedRoute:
    """A route with what it demands of a request."""

    method: str
    endpoint: Endpoint
    scope: Scope | None  # which the key must have; None: open to anybody
    max_body_bytes: int  # 0: the endpoint reads no body
    route: APIRoute  # matches paths, and describes the endpoint in the OpenAPI document


class Routes:
    """A group of routes. Each names its scope, and a POST its largest body, or does not start.

    The name of an endpoint is its operation id, which clients generated from the OpenAPI document
    take as the name of the method.
    """

    def __init__(self, tag: str | None = None, prefix: str = "") -> None:
        """Routes without a tag are not in the OpenAPI document."""
        tags: list[Any] = [tag] if tag else []
        self.router = APIRouter(
            prefix=prefix,
            tags=tags,
            include_in_schema=bool(tag),
            generate_unique_id_function=lambda route: route.name,
        )
        self.guarded: list[GuardedRoute] = []

    def get(
        self, path: str, *, scope: Scope | None, **description: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint that reads no body.

        Args:
            path: as FastAPI writes it.
            scope: which a key must have; ``OPEN`` where none is needed.
            description: of the endpoint, as ``APIRouter.get`` takes it for the OpenAPI document.
        """
        return self._add("GET", path, scope, 0, description)

    def post(
        self, path: str, *, scope: Scope | None, max_body_bytes: int, **description: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint that reads a body of at most ``max_body_bytes``; else as ``get``."""
        return self._add("POST", path, scope, max_body_bytes, description)

    def _add(
        self, method: str, path: str, scope: Scope | None, size: int, description: dict[str, Any]
    ) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            self.router.add_api_route(path, endpoint, methods=[method], **description)
            route = cast("APIRoute", self.router.routes[-1])
            self.guarded.append(GuardedRoute(method, endpoint, scope, size, route))
            return endpoint

        return add


class Dispatch:
    """Answers a request: finds its route, then checks host, key, scope and size, then calls.

    The router of FastAPI and the layers around it take 10 to 25 % of a small request; here a
    path without parameters is found in a dictionary.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[GuardedRoute],
        access: Access,
        bodies: BodyBudget,
        slicer: Slicer,
    ) -> None:
        """``app`` has the life span; requests do not reach it."""
        self._app = app
        self._access = access
        self._bodies = bodies
        self._slicer = slicer
        self._routes = routes
        self._plain = {
            (guarded.method, guarded.route.path): guarded
            for guarded in routes
            if not guarded.route.param_convertors
        }
        self._patterned = [guarded for guarded in routes if guarded.route.param_convertors]

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._access.check_host(scope)
            guarded = self._find(scope)
            if guarded.scope is not OPEN:
                self._access.admit(scope, guarded.scope)
            require_declared_size(scope, guarded.max_body_bytes)
        except ProblemError as error:
            await error.response()(scope, receive, send)
            return
        if not guarded.max_body_bytes:
            await self._answer(guarded, scope, receive, send)
            return
        with BodyShare(self._bodies, receive, guarded.max_body_bytes) as share:
            scope["body_share"] = share
            await self._answer(guarded, scope, share.receive, send)

    async def _answer(
        self, guarded: GuardedRoute, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        request = Request(scope, receive)
        try:
            response = await lighten(request, await guarded.endpoint(request), self._slicer)
        except ProblemError as error:
            response = error.response()
        except ClientDisconnect:  # nobody reads this answer
            response = problem(400, detail="the client left in the middle of its body").response()
        await response(scope, receive, send)

    def _find(self, scope: AsgiScope) -> GuardedRoute:
        """Return the route of a request; raises the 404 or 405 problem where there is none."""
        found = self._plain.get((scope["method"], scope["path"]))
        if found is not None:
            scope["route"] = found.route
            return found
        for guarded in self._patterned:
            match, child_scope = guarded.route.matches(scope)
            if match is Match.FULL:
                scope.update(child_scope)
                return guarded
        self._access.admit(scope, None)  # what there is and is not, is for those with a key
        raise self._missing(scope)

    def _missing(self, scope: AsgiScope) -> ProblemError:
        path, method = scope["path"], scope["method"]
        others = [guarded for guarded in self._routes if guarded.route.path_regex.match(path)]
        path = short(path)
        if not others:
            return problem(404, detail=f"{path}: no such path")
        scope["route"] = others[0].route
        allowed = ", ".join(sorted({guarded.method for guarded in others}))
        return problem(405, detail=f"{path}: does not answer {method}", headers={"allow": allowed})
