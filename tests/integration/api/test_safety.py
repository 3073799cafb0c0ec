"""Doors that stay shut: keys, limits, time-outs, TLS and hostile bytes, over real sockets."""

from __future__ import annotations

import gzip
import json
import random
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import psutil
import pytest

from local.ports import HOST, free_ports
from shared import bundle
from shared.leash import Leash
from tests.integration.api.test_serving import JSON, Api, request_body
from tests.integration.processes import Processes, wait_until

pytestmark = pytest.mark.integration

HEAD: Final = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
RECEIVE_S: Final = 2.0


def start(processes: Processes, *flags: str) -> Api:
    port = free_ports(1)[0]
    nowhere = f"{HOST}:{free_ports(1)[0]}"
    api = Api(processes.start("api", "--port", str(port), "--bootstrap", nowhere, *flags), port)
    wait_until(api.is_ready, 60.0, "the API is ready", process=api.process)
    return api


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, leash: Leash) -> Iterator[Api]:
    """An API whose patience is short."""
    with Processes(tmp_path_factory.mktemp("api"), leash) as processes:
        most = ("--max-connections", "400", "--max-connections-an-address", "1000")
        yield start(processes, "--receive-seconds", str(RECEIVE_S), *most)


def keys(file: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "api", "keys", *arguments, "--file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def ask(api: Api, path: str, key: str) -> int:
    with closing(api.connect()) as connection:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().status


def test_keys_open_and_a_revoked_one_stops_at_once(processes: Processes, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = keys(file, "create", "reader", "--scopes", "read")
    api = start(processes, "--keys", str(file))
    assert api.ask("GET", "/v1/model")[0] == 401
    assert ask(api, "/v1/model", key) == 200
    assert ask(api, "/metrics", key) == 403
    keys(file, "revoke", "reader")
    wait_until(lambda: ask(api, "/v1/model", key) == 401, 5, "the key is closed")
    assert key not in api.process.log_tail()
    lines = api.process.log_tail().splitlines()
    assert all(json.loads(line)["level"] for line in lines if line.startswith("{"))


def test_it_refuses_to_serve_the_world_without_keys() -> None:
    command = [sys.executable, "-m", "api", "--host", "0.0.0.0", "--port", "0"]  # noqa: S104
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "refusing to serve on 0.0.0.0 without API keys" in done.stderr


def test_200_slow_clients_do_not_stop_a_fast_one(api: Api) -> None:
    body = request_body()
    with ExitStack() as resources:
        slow = [
            resources.enter_context(socket.create_connection((HOST, api.port))) for _ in range(200)
        ]
        for client in slow:
            client.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
        started = time.monotonic()
        with closing(api.connect()) as fast:
            for _ in range(20):
                fast.request("POST", "/predict", body, JSON)
                assert json.loads(fast.getresponse().read())["horizons"]
        assert time.monotonic() - started < RECEIVE_S * 4
        for client in slow:
            client.settimeout(RECEIVE_S * 5)
            assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert api.is_ready()


@pytest.mark.parametrize(
    "sent", [b"", b"POST /pre", HEAD, HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{"]
)
def test_a_request_that_does_not_come_is_not_waited_for(api: Api, sent: bytes) -> None:
    with socket.create_connection((HOST, api.port), timeout=RECEIVE_S * 5) as connection:
        connection.sendall(sent)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["status"] == 408


def test_too_many_connections_are_refused_and_room_is_made_again(api: Api) -> None:
    with ExitStack() as resources:
        for _ in range(450):
            resources.enter_context(socket.create_connection((HOST, api.port)))
        with socket.create_connection((HOST, api.port), timeout=10) as last:
            assert last.recv(1000).startswith(b"HTTP/1.1 503 ")
    wait_until(api.is_ready, 10, "there is room again", process=api.process)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50_000, b"431"),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: \x00\r\n\r\n", b"400"),
        (HEAD + b"content-length: -1\r\n\r\n", b"400"),
        (HEAD + b"content-length: 2\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b", b"415"),
        (HEAD + b"content-length: 99999999999\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n", b"421"),
    ],
)
def test_hostile_heads_get_a_problem(api: Api, sent: bytes, status: bytes) -> None:
    with socket.create_connection((HOST, api.port), timeout=RECEIVE_S * 5) as connection:
        try:
            connection.sendall(sent)
        except (BrokenPipeError, ConnectionResetError):
            return  # it was closed before all had been sent
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            return
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"application/problem+json" in answer
    assert api.is_ready()


def test_random_bytes_break_nothing(api: Api) -> None:
    chance = random.Random(7)
    good = HEAD + b"content-length: 17\r\n\r\n" + b'{"history": [1]}\n'
    for _ in range(150):
        spoilt = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        with socket.create_connection((HOST, api.port), timeout=10) as connection:
            connection.sendall(bytes(spoilt))
            connection.shutdown(socket.SHUT_WR)
            try:
                answer = connection.recv(4096)
            except ConnectionResetError:
                continue
            assert not answer.startswith(b"HTTP/1.1 5"), (spoilt, answer)
    assert api.ask("POST", "/predict", request_body())[0] == 200


CANDLE: Final = '{"open":1,"high":2,"low":1,"close":2,"volume":%s}'
CONFIG: Final = bundle.load(bundle.default_path()).config
INFER: Final = f"/v2/models/{CONFIG.name}/infer"
ENVELOPES: Final = {
    "/predict": '{"history": [%s]}',
    "/v1/forecasts": '{"histories": [{"candles": [%s]}]}',
    INFER: '{"inputs": [{"name": "candles", "shape": [1, LENGTH, 5], "datatype": "FP64", '
    '"data": [%s]}, {"name": "open_ms", "shape": [1, LENGTH], "datatype": "INT64", '
    '"data": [1]}]}'.replace("LENGTH", str(CONFIG.window_length)),
}
VALUES: Final = {
    "deep arrays": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "deep and open": "[" * 200_000,
    "a huge number": CANDLE % ("9" * 400_000),
    "a huge exponent": CANDLE % "1e999999999",
    "too large a number": CANDLE % "1e31",
    "NaN": CANDLE % "NaN",
    "Infinity": CANDLE % "-Infinity",
    "a key twice": CANDLE % '0,"open":"x","open":-1',
    "many keys": "{" + ",".join(f'"k{i}":1' for i in range(50_000)) + "}",
    "no UTF-8": CANDLE % '"\udcff\udcfe"',
    "a lone surrogate": CANDLE % r'"\ud800"',
    "a NUL": CANDLE % '"\\u0000"',
    "a long string": CANDLE % ('"' + "x" * 900_000 + '"'),
    "a candle too many": ",".join([CANDLE % 0] * 6_000),
}
LEAKS: Final = ("Traceback", "site-packages", ".py", "File ", "uvicorn", "pydantic", "msgspec")


@pytest.mark.parametrize("path", ENVELOPES)
@pytest.mark.parametrize("what", VALUES)
def test_hostile_bodies_get_a_problem_that_tells_nothing(api: Api, path: str, what: str) -> None:
    body = (ENVELOPES[path] % VALUES[what]).encode("utf-8", "surrogateescape")
    with closing(api.connect()) as connection:
        connection.request("POST", path, body, JSON)
        answer = connection.getresponse()
        text = answer.read().decode()
    assert answer.status in {400, 413, 422}, text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(text)
    assert problem["errors"][0]["field"]
    assert problem["errors"][0]["rule"]
    assert len(text) < 10_000
    assert not [leak for leak in LEAKS if leak in text]


def test_no_bomb_is_unpacked(api: Api) -> None:
    for encoding, packed in (
        ("gzip", gzip.compress(bytes(50_000_000))),
        ("deflate", zlib.compress(bytes(50_000_000))),
        ("br", b"\x0b\x02\x80"),
        ("gzip, gzip", gzip.compress(gzip.compress(bytes(50_000_000)))),
    ):
        with closing(api.connect()) as connection:
            headers = {**JSON, "content-encoding": encoding}
            connection.request("POST", "/predict", packed, headers)
            answer = connection.getresponse()
            assert answer.status == 415
            assert json.loads(answer.read())["errors"][0]["field"] == "content-encoding"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_unpacked_to_the_limit_alone(api: Api, encoding: str) -> None:
    """The protocol of inference has compressed bodies; 400 MB in each of 8 bombs at once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(400)) + packer.flush()
    process = psutil.Process(api.process.pid)
    before = process.memory_info().rss

    def send(_: int) -> tuple[int, int]:
        with closing(api.connect()) as connection:
            headers = {**JSON, "content-encoding": encoding}
            connection.request("POST", INFER, bomb, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, process.memory_info().rss

    with ThreadPoolExecutor(8) as pool:
        statuses, sizes = zip(*pool.map(send, range(8)), strict=True)
    assert set(statuses) <= {413, 503}
    assert max(sizes) - before < 512 << 20
    assert api.is_ready()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/docs", 200),
        ("GET", "/dashboard", 200),
        ("GET", "/v2", 200),
        ("GET", "/nowhere/../etc/passwd", 404),
        ("GET", "/assets/..%2f..%2fapp.py", 404),
        ("GET", "/assets/dashboard.html", 404),
        ("DELETE", "/predict", 405),
        ("GET", "/predict", 405),
        ("TRACE", "/", 405),
        ("POST", "/predict", 400),
        ("GET", "/v1/forecasts", 503),
    ],
)
def test_no_answer_tells_what_runs_here(api: Api, method: str, path: str, status: int) -> None:
    with closing(api.connect()) as connection:
        connection.request(method, path, b"" if method == "POST" else None, JSON)
        answer = connection.getresponse()
        text = answer.read().decode()
    assert answer.status == status
    headers = {name.lower(): value for name, value in answer.getheaders()}
    assert "server" not in headers
    assert "x-powered-by" not in headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-request-id"]
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "access-control-allow-origin" not in headers
    if status >= 400:
        assert json.loads(text)["status"] == status
    assert not [leak for leak in ("Traceback", "site-packages", "uvicorn") if leak in text]


def test_no_origin_may_ask_until_it_is_named(api: Api, processes: Processes) -> None:
    def preflight(asked: Api) -> str | None:
        with closing(asked.connect()) as connection:
            headers = {"origin": "https://shop.example", "access-control-request-method": "POST"}
            connection.request("OPTIONS", "/predict", headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.headers["access-control-allow-origin"]

    assert preflight(api) is None
    named = start(processes, "--cors-origins", "https://shop.example")
    assert preflight(named) == "https://shop.example"


def test_a_rate_is_kept_and_says_when_to_come_back(processes: Processes, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    slow = keys(file, "create", "slow", "--scopes", "read", "--rate", "3/2second")
    other = keys(file, "create", "other", "--scopes", "read")
    api = start(processes, "--keys", str(file))
    assert [ask(api, "/v1/model", slow) for _ in range(3)] == [200] * 3
    with closing(api.connect()) as connection:
        connection.request("GET", "/v1/model", headers={"x-api-key": slow})
        answer = connection.getresponse()
        assert answer.status == 429
        assert json.loads(answer.read())["errors"][0]["rule"] == "rate"
        wait_s = int(answer.headers["retry-after"])
    assert 1 <= wait_s <= 2
    assert ask(api, "/v1/model", other) == 200
    wait_until(lambda: ask(api, "/v1/model", slow) == 200, wait_s + 3, "it may ask again")


def test_a_request_id_is_in_the_answer_and_in_the_log(processes: Processes) -> None:
    api = start(processes)
    with closing(api.connect()) as connection:
        headers = {"x-request-id": "order-17", "authorization": "Bearer cc_secret"}
        connection.request("GET", "/v1/model?token=hidden", headers=headers)
        answer = connection.getresponse()
        answer.read()
    assert answer.headers["x-request-id"] == "order-17"

    def line() -> dict[str, object] | None:
        lines = [
            json.loads(text) for text in api.process.log_tail().splitlines() if text[:1] == "{"
        ]
        return next((line for line in lines if line.get("request_id") == "order-17"), None)

    found = wait_until(line, 5, "the request is in the log")
    assert found is not None
    assert (found["route"], found["status"], found["method"]) == ("/v1/model", 200, "GET")
    assert "secret" not in api.process.log_tail()
    assert "hidden" not in api.process.log_tail()


def test_a_client_that_does_not_read_is_cut_off(processes: Processes) -> None:
    api = start(processes, "--send-seconds", "1")
    with socket.create_connection((HOST, api.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        deaf.sendall(request * 8)

        def is_cut() -> bool:
            return connections_of(api) == 0

        wait_until(is_cut, 20, "the connection is cut", process=api.process)


def connections_of(api: Api) -> int:
    """Return how many of the API's sockets have a client, this question's not counted."""
    found = psutil.Process(api.process.pid).net_connections("tcp")
    return sum(
        socket_.status == psutil.CONN_ESTABLISHED and socket_.laddr.port == api.port
        for socket_ in found
    )
