from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import Request
from starlette.responses import Response

from api.edge.access import Access, AccessRules
from api.edge.keys import KeyFile, KeyRing, Scope, create
from api.edge.requests import SMALL_BODY_BYTES, BodyBudget
from api.edge.routing import OPEN, Dispatch, Routes
from api.edge.slicing import Slicer
from tests.unit.api.client import call, problem_of


def dispatch(routes: Routes, rules: AccessRules | None = None, held: int = 1 << 20) -> Dispatch:
    access = Access(rules or AccessRules())
    return Dispatch(routes.router, routes.guarded, access, BodyBudget(held), Slicer())


async def echo(request: Request) -> Response:
    return Response(request.url.path + " " + (await request.body()).decode())


@pytest.mark.parametrize(
    ("method", "guards"),
    [
        ("get", {}),
        ("post", {}),
        ("post", {"scope": Scope.READ}),
        ("post", {"max_body_bytes": 1}),
    ],
)
def test_a_route_without_guards_does_not_start(method: str, guards: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="required keyword-only argument"):
        getattr(Routes(), method)("/x", **guards)(echo)


def test_a_route_that_another_way_adds_is_not_served() -> None:
    routes = Routes()
    routes.router.get("/secret")(echo)
    assert call(dispatch(routes), "GET", "/secret").status_code == 404


def test_each_route_has_its_own_limit() -> None:
    routes = Routes()
    routes.post("/five", scope=OPEN, max_body_bytes=5)(echo)
    routes.post("/six/{name:path}", scope=OPEN, max_body_bytes=6)(echo)
    app = dispatch(routes)
    for path, size in (("/five", 5), ("/six/five", 6), ("/six/a/b", 6)):
        assert call(app, "POST", path, content=b"x" * size).text == f"{path} {'x' * size}"
        answer = call(app, "POST", path, content=b"x" * (size + 1))
        assert problem_of(answer).errors[0].rule == "too_large"


def test_a_large_answer_is_compressed_and_comes_once() -> None:
    routes = Routes()
    large = b'{"prices": [' + b"101.25, " * 100_000 + b"1]}"

    async def give(request: Request) -> Response:
        size = int(request.query_params.get("size", len(large)))
        return Response(large[:size], media_type="application/json")

    routes.get("/prices", scope=OPEN)(give)
    routes.post("/prices", scope=OPEN, max_body_bytes=1)(give)
    app = dispatch(routes)
    answer = call(app, "GET", "/prices", headers={"accept-encoding": "br, gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "accept-encoding"
    assert int(answer.headers["content-length"]) < len(large) / 50
    assert answer.content == large
    tag = answer.headers["etag"]
    for known in (tag, f'"other", {tag}'):
        again = call(app, "GET", "/prices", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = call(app, "GET", "/prices?size=50000", headers={"if-none-match": tag})
    assert (other.status_code, other.content) == (200, large[:50_000])
    plain = call(app, "GET", "/prices", headers={"accept-encoding": "identity"})
    assert (plain.content, plain.headers["etag"]) == (large, tag)
    assert "content-encoding" not in plain.headers
    posted = call(app, "POST", "/prices", headers={"accept-encoding": "gzip"})
    assert posted.headers["content-encoding"] == "gzip"
    assert "etag" not in posted.headers
    small = call(app, "GET", "/prices?size=4000", headers={"accept-encoding": "gzip"})
    assert not {"etag", "content-encoding"} & set(small.headers)


def test_the_first_route_that_matches_answers() -> None:
    routes = Routes()
    routes.get("/a/{name:path}/end", scope=OPEN)(echo)
    routes.get("/a/{name:path}", scope=Scope.ADMIN)(echo)
    routes.get("/a/b", scope=OPEN)(echo)
    file, key = create(KeyFile(), "test", (Scope.READ,), None, now_ms=0)
    app = dispatch(routes, AccessRules(keys=lambda: KeyRing(file.keys, None)))
    assert call(app, "GET", "/a/b").status_code == 200
    assert call(app, "GET", "/a/b/c/end").status_code == 200
    assert call(app, "GET", "/a/b/c").status_code == 401
    headers = {"x-api-key": key}
    assert call(app, "GET", "/a/b/c", headers=headers).status_code == 403
    assert call(app, "GET", "/nowhere").status_code == 401
    assert call(app, "GET", "/nowhere", headers=headers).status_code == 404


def test_a_method_that_a_path_lacks_is_told_which_it_has() -> None:
    routes = Routes()
    routes.get("/a", scope=OPEN)(echo)
    routes.post("/a", scope=OPEN, max_body_bytes=1)(echo)
    routes.get("/b/{name}", scope=OPEN)(echo)
    for path, allowed in (("/a", "GET, POST"), ("/b/c", "GET")):
        answer = call(dispatch(routes), "DELETE", path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed
        problem_of(answer)


def test_large_bodies_have_a_limit_together_and_small_ones_pass() -> None:
    working: asyncio.Queue[asyncio.Event] = asyncio.Queue()  # of requests whose work takes long
    routes = Routes()

    @routes.post("/work", scope=OPEN, max_body_bytes=4 * SMALL_BODY_BYTES)
    async def work(request: Request) -> Response:
        await request.body()
        is_done = asyncio.Event()
        working.put_nowait(is_done)
        await is_done.wait()
        return Response()

    async def ask(client: httpx.AsyncClient, size: int) -> int:
        return (await client.post("/work", content=b" " * size)).status_code

    async def together() -> None:
        transport = httpx.ASGITransport(dispatch(routes, held=3 * SMALL_BODY_BYTES))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            large = asyncio.create_task(ask(client, 2 * SMALL_BODY_BYTES))
            first = await working.get()
            assert await ask(client, 2 * SMALL_BODY_BYTES) == 503
            small = asyncio.create_task(ask(client, SMALL_BODY_BYTES))
            (await working.get()).set()
            assert await small == 200
            first.set()
            assert await large == 200
            again = asyncio.create_task(ask(client, 2 * SMALL_BODY_BYTES))
            (await working.get()).set()
            assert await again == 200

    asyncio.run(together())
