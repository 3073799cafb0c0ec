from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.server import ServerState

from api.edge.server import SocketLimits, Tls, make_config

HOST = "127.0.0.1"
WAIT_S = 5.0
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def served(
    app: Any, limits: SocketLimits | None = None, tls: Tls | None = None
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, Connection]]]:
    """Serve an application; yields what connects to it."""
    config = make_config(app, limits or SocketLimits(), tls)
    protocol: Any = config.http_protocol_class
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(config, ServerState(), {}), HOST, 0
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield lambda: asyncio.open_connection(HOST, port)


PARTS = [
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 ",
    b"plain",
]


@pytest.mark.parametrize("first", range(len(PARTS)))
def test_a_body_that_looks_like_a_head_is_sent_at_once(first: int) -> None:
    """Each part is read before the next is written, in two responses of one connection."""
    parts = PARTS[first:] + PARTS[:first]
    was_read = asyncio.Event()

    async def app(_: Any, receive: Any, send: Any) -> None:
        del receive
        size = str(sum(map(len, parts))).encode()
        headers = [(b"content-length", size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, part in enumerate(parts, 1):
            more = number < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})
            await was_read.wait()
            was_read.clear()

    async def ask() -> None:
        async with served(app) as connect:
            reader, writer = await connect()
            for _ in range(2):
                writer.write(REQUEST)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                for part in parts:
                    assert await asyncio.wait_for(reader.readexactly(len(part)), WAIT_S) == part
                    was_read.set()
            writer.close()

    asyncio.run(ask())


def test_an_interim_response_is_sent_before_the_body_is_read() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def ask() -> None:
        async with served(app) as connect:
            reader, writer = await connect()
            for body in (b"one", b"two"):
                head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
                writer.write(head + b"content-length: 3\r\n\r\n")
                interim = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
                assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(body)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
                assert head.startswith(b"HTTP/1.1 200 OK")
                assert await asyncio.wait_for(reader.readexactly(3), WAIT_S) == body
            writer.close()

    asyncio.run(ask())


@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_bodies_are_sent_whole(status: int) -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        del receive
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    async def ask() -> None:
        async with served(app) as connect:
            reader, writer = await connect()
            writer.write(REQUEST * 3)  # pipelined
            for _ in range(3):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
                assert head.startswith(b"HTTP/1.1 %d " % status)
            writer.close()

    asyncio.run(ask())
