"""Pages for people: the dashboard and the API's documentation, without a foreign host."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import Request
from starlette.responses import Response

from api.edge.compression import MIN_TAGGED_BYTES, accepted, pack
from api.edge.middleware import PAGE_POLICY
from api.edge.problems import problem
from api.edge.requests import JSON
from api.edge.routing import OPEN, Routes
from api.edge.slicing import at_once

_MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_INCLUDE: Final = re.compile(rb"<!-- include ([a-z]+\.html) -->\n")
"""Stands in a page for what all pages have."""

_HTML_SECONDS: Final = 0
"""Time for which a browser may keep a page: after an upgrade it names other parts."""

_ASSET_SECONDS: Final = 300
"""Time for which a browser may keep any other file."""


@dataclass(frozen=True, eq=False)
class Asset:
    """A file that a browser loads."""

    content: bytes
    media_type: str

    @cached_property
    def tag(self) -> str:
        """An entity tag, by content."""
        return f'W/"{hashlib.sha256(self.content).hexdigest()[:16]}"'


@cache
def _packed(asset: Asset, encoding: str) -> bytes:
    """Return a file in a content encoding, made once: whoever asks needs no key."""
    return at_once(pack(asset.content, encoding))


@cache
def load_assets() -> dict[str, Asset]:
    """Return every file by name: our own, and those of the installed packages."""
    own = files("api") / "static"
    assets = {
        file.name: _asset(file)
        for file in own.iterdir()
        if file.name.rpartition(".")[2] in _MEDIA_TYPES
    }
    vendor = files("fastapi_offline") / "static"
    charts = files("litecharts") / "js" / "lightweight-charts.js"
    for file in (charts, vendor / "swagger-ui-bundle.js", vendor / "swagger-ui.css"):
        assets[file.name] = _asset(file)
    return assets


def _asset(file: Traversable) -> Asset:
    ending = file.name.rpartition(".")[2]
    content = file.read_bytes()
    if ending == "html":
        content = _INCLUDE.sub(
            lambda part: (files("api") / "static" / part[1].decode()).read_bytes(), content
        )
    return Asset(content, _MEDIA_TYPES[ending])


def page_routes(openapi: bytes) -> Routes:
    """Return the routes of the pages and of the OpenAPI document; the files are read now."""
    routes = Routes()
    assets = load_assets()

    @routes.get("/dashboard", scope=OPEN)
    async def dashboard(request: Request) -> Response:
        return _send(request, assets["dashboard.html"], _HTML_SECONDS)

    @routes.get("/dashboard/record", scope=OPEN)
    async def record(request: Request) -> Response:
        return _send(request, assets["record.html"], _HTML_SECONDS)

    @routes.get("/dashboard/system", scope=OPEN)
    async def system(request: Request) -> Response:
        return _send(request, assets["system.html"], _HTML_SECONDS)

    @routes.get("/docs", scope=OPEN)
    async def docs(request: Request) -> Response:
        return _send(request, assets["docs.html"], _HTML_SECONDS)

    @routes.get("/openapi.json", scope=OPEN)
    async def document(_: Request) -> Response:
        return Response(openapi, media_type=JSON)

    @routes.get("/assets/{name}", scope=OPEN)
    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets or name.endswith(".html"):
            raise problem(404, detail="no such asset")
        return _send(request, assets[name], _ASSET_SECONDS)

    return routes


def _send(request: Request, asset: Asset, seconds: int) -> Response:
    headers = {
        "etag": asset.tag,
        "cache-control": f"max-age={seconds}, must-revalidate",
        "content-security-policy": PAGE_POLICY.decode(),
    }
    encoding = accepted(request.headers.get("accept-encoding", ""))
    if encoding is None or len(asset.content) < MIN_TAGGED_BYTES:
        return Response(asset.content, media_type=asset.media_type, headers=headers)
    headers |= {"content-encoding": encoding, "vary": "accept-encoding"}
    return Response(_packed(asset, encoding), media_type=asset.media_type, headers=headers)
