"""What no client may do to the server below its parser, on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from uvicorn.server import ServerState

from api.edge.connections import Connections
from api.edge.server import SocketLimits, Tls, make_config, tls_acceptor
from tests.unit.api.edge.test_server import HOST, REQUEST, WAIT_S, Connection, served

Connect = Callable[[], Coroutine[Any, Any, Connection]]

CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


async def app(_: Any, receive: Any, send: Any) -> None:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


async def answer(connection: Connection, sent: bytes, part: int = 1 << 20) -> bytes:
    """Return what comes for bytes that are sent in parts."""
    reader, writer = connection
    try:
        for start in range(0, len(sent), part):
            writer.write(sent[start : start + part])
            await writer.drain()
        got = await asyncio.wait_for(reader.read(4096), WAIT_S)
    finally:
        writer.close()
    return got


def ask(sent: bytes, part: int = 1 << 20, limits: SocketLimits | None = None) -> bytes:
    async def once() -> bytes:
        async with served(app, limits) as connect:
            return await answer(await connect(), sent, part)

    return asyncio.run(once())


LINE = b"x" * 40_000
MANY = b"".join(b"x%d: 1\r\n" % number for number in range(150))
TOO_LARGE = {
    "a header that never ends": b"GET / HTTP/1.1\r\nhost: x\r\na: " + LINE,
    "a name that never ends": b"GET / HTTP/1.1\r\nhost: x\r\n" + LINE,
    "a path that never ends": b"GET /" + LINE,
    "a method's empty lines": b"\r\n" * 30_000,
    "many headers": b"GET / HTTP/1.1\r\n" + MANY + b"\r\n",
    "a trailer that never ends": CHUNKED + b"3\r\nabc\r\n0\r\na: " + LINE * 2,
    "many trailers": CHUNKED + b"0\r\n" + MANY + b"\r\n",
}


@pytest.mark.parametrize("part", [1_000, 1 << 20])
@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_head_is_bounded_in_raw_bytes(name: str, part: int) -> None:
    got = ask(TOO_LARGE[name], part)
    assert got.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 200 OK")), got
    if name != "many trailers":  # those come after the answer has begun, perhaps
        assert got.startswith(b"HTTP/1.1 431 ")
        assert json.loads(got.partition(b"\r\n\r\n")[2])["status"] == 431


def test_a_header_that_never_ends_costs_no_time() -> None:
    started_s = time.process_time()
    ask(b"GET / HTTP/1.1\r\na: " + b"x" * 4_000_000, 2_000)
    assert time.process_time() - started_s < 1.0


@pytest.mark.parametrize("part", [7_000, 1 << 20])
def test_bodies_are_not_counted_as_heads(part: int) -> None:
    body = b"b" * 300_000
    plain = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + body
    assert b"300000" in ask(plain, part)
    chunks = b"".join(b"%x\r\n" % 100_000 + body[:100_000] + b"\r\n" for _ in range(3))
    assert b"300000" in ask(CHUNKED + chunks + b"0\r\na: 1\r\n\r\n", part)
    assert ask(REQUEST * 2_000, part).startswith(b"HTTP/1.1 200 OK")  # pipelined: 58 kB of heads


def test_an_empty_line_does_not_lengthen_the_silence() -> None:
    async def silent() -> float:
        async with served(app, SocketLimits(idle_s=1)) as connect:
            reader, writer = await connect()
            writer.write(REQUEST)
            await asyncio.wait_for(reader.read(4096), WAIT_S)
            started_s = time.monotonic()
            for _ in range(4):
                writer.write(b"\r\n")
                await asyncio.sleep(0.1)
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            return time.monotonic() - started_s

    assert asyncio.run(silent()) < 2.0


def test_a_request_after_an_empty_line_is_answered() -> None:
    async def twice() -> None:
        async with served(app) as connect:
            reader, writer = await connect()
            for sent in (REQUEST, b"\r\n", REQUEST):
                writer.write(sent)
                if sent is REQUEST:
                    got = await asyncio.wait_for(reader.read(4096), WAIT_S)
                    assert got.startswith(b"HTTP/1.1 200 OK")
            writer.close()

    asyncio.run(twice())


def test_connections_of_one_address_leave_room_for_others() -> None:
    connections = Connections(most=5, most_an_address=3)
    assert [connections.add("a") for _ in range(3)] == ["", "", ""]
    assert "one address" in connections.add("a")
    connections.remove("a")
    assert connections.add("b") == ""
    assert connections.add("c") == ""
    assert connections.add("d") == "too many connections; try again"
    for address in ("a", "a", "a", "b", "c", "d"):
        connections.remove(address)
    assert [connections.add("a") for _ in range(3)] == ["", "", ""]


def test_too_many_connections_of_an_address_are_refused_and_room_is_made() -> None:
    async def crowd() -> None:
        async with served(app, SocketLimits(connections_an_address=3)) as connect:
            held = [await connect() for _ in range(3)]
            got = await answer(await connect(), b"")
            assert got.startswith(b"HTTP/1.1 429 ")
            for _, writer in held:
                writer.close()
                await writer.wait_closed()
            await asyncio.sleep(0.1)
            assert (await answer(await connect(), REQUEST)).startswith(b"HTTP/1.1 200 ")

    asyncio.run(crowd())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder: Path = tmp_path_factory.mktemp("tls")
    pem, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(pem)],
        check=True, capture_output=True,
    )  # fmt: skip
    return Tls(str(pem), str(key))


def client_context() -> Any:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def served_over_tls(limits: SocketLimits, tls: Tls) -> AsyncIterator[int]:
    """Serve over TLS; yields the port."""
    config = make_config(app, limits, tls)
    acceptor = tls_acceptor(config, ServerState(), {})
    with socket.create_server((HOST, 0)) as listener:
        task = asyncio.create_task(acceptor.run(listener))
        yield listener.getsockname()[1]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_handshakes_are_within_the_limits(tls: Tls, run: Callable[[Any], None]) -> None:
    async def shake() -> None:
        limits = SocketLimits(connections_an_address=3, receive_s=1.0)
        async with served_over_tls(limits, tls) as port:
            silent = [await asyncio.open_connection(HOST, port) for _ in range(3)]
            await asyncio.sleep(0.1)
            with pytest.raises(OSError):  # noqa: PT011 -- reset or closed, as the system likes
                await asyncio.open_connection(HOST, port, ssl=client_context())
            for reader, _ in silent:
                assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            await asyncio.sleep(0.1)
            for _ in range(5):
                encrypted = await asyncio.open_connection(HOST, port, ssl=client_context())
                got = await answer(encrypted, REQUEST)
                assert got.startswith(b"HTTP/1.1 200 "), got
                await encrypted[1].wait_closed()
            held = [
                await asyncio.open_connection(HOST, port, ssl=client_context()) for _ in range(3)
            ]
            with pytest.raises(OSError):  # noqa: PT011 -- as above
                await asyncio.open_connection(HOST, port, ssl=client_context())
            for _, writer in held:
                writer.close()

    run(shake())
