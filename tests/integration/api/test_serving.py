"""The API as a real process, over real sockets."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.edge.requests import MAX_BODY_BYTES
from api.openapi import example_history
from local.ports import HOST, free_ports
from local.process import Process
from shared import bundle
from shared.forecaster import OnnxForecaster, to_prices
from shared.leash import Leash
from shared.window import even_times, held
from tests.integration.processes import Processes, wait_until

pytestmark = pytest.mark.integration

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Api:
    """A started API and where it listens."""

    process: Process
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=30)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Return the status and the body of an answer, over a connection of its own."""
        with closing(self.connect()) as connection:
            connection.request(method, path, body, JSON if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def is_ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False


def start(processes: Processes) -> Api:
    port = free_ports(1)[0]
    api = Api(processes.start("api", "--port", str(port)), port)
    wait_until(api.is_ready, 60.0, "the API is ready", process=api.process)
    return api


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, leash: Leash) -> Iterator[Api]:
    """An API that the tests of this file share; one that ends it starts its own."""
    with Processes(tmp_path_factory.mktemp("api"), leash) as processes:
        yield start(processes)


def request_body(length: int = 1000, **changes: Any) -> bytes:
    candles = example_history(length)
    candles[17] |= changes
    return json.dumps({"history": candles}).encode()


def test_health_names_the_default_model(api: Api) -> None:
    status, body = api.ask("GET", "/")
    config = bundle.load(bundle.default_path()).config
    assert status == 200
    assert json.loads(body) == {
        "status": "ok",
        "model_version": config.model_version,
        "window_length": config.window_length,
    }


def test_predict_gives_the_models_numbers(api: Api) -> None:
    forecaster = OnnxForecaster(bundle.load(bundle.default_path()))
    history = example_history(1000)
    status, text = api.ask("POST", "/predict", request_body())
    assert status == 200
    answer = json.loads(text)
    length = forecaster.lengths("1d")[-1]
    rows = [list(candle.values()) for candle in history[-length:]]
    prediction = forecaster.predict(held(np.array([rows])), even_times(1, length))
    prices = to_prices(np.array([history[-1]["close"]]), prediction)[0]
    assert answer["last_close"] == history[-1]["close"]
    assert [horizon["step"] for horizon in answer["horizons"]] == list(forecaster.horizons)
    for horizon, expected in zip(answer["horizons"], prices, strict=True):
        assert list(horizon["quantiles"].values()) == pytest.approx(list(expected), rel=1e-9)
        assert list(horizon["quantiles"].values()) == sorted(horizon["quantiles"].values())
        assert horizon["predicted_close"] == horizon["quantiles"]["0.5"]
    assert answer["predicted_close"] == answer["horizons"][0]["predicted_close"]
    assert 0 < answer["latency_ms"] < 1000


def test_a_bad_candle_is_named(api: Api) -> None:
    status, text = api.ask("POST", "/predict", request_body(high=-1.0))
    assert status == 422
    assert json.loads(text)["errors"][0]["field"] == "history[17].high"


def test_a_large_body_is_refused_and_the_connection_lives_on(api: Api) -> None:
    with closing(api.connect()) as connection:
        connection.request("POST", "/predict", b" " * (3 * MAX_BODY_BYTES), JSON)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["errors"][0]["rule"] == "too_large"
        connection.request("GET", "/")
        assert connection.getresponse().status == 200


def test_a_large_body_in_chunks_is_refused(api: Api) -> None:
    chunks = (b" " * 65536 for _ in range(3 * MAX_BODY_BYTES // 65536))
    with closing(api.connect()) as connection:
        connection.request("POST", "/predict", chunks, JSON, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["errors"][0]["rule"] == "too_large"


def test_sixteen_connections_get_their_own_answers(api: Api) -> None:
    def ask(number: int) -> list[bool]:
        close = 200.0 + number
        body = json.dumps({"history": [*example_history(999), flat(close)]}).encode()
        with closing(api.connect()) as connection:
            right = []
            for _ in range(20):
                connection.request("POST", "/predict", body, JSON)
                right.append(json.loads(connection.getresponse().read())["last_close"] == close)
            return right

    with ThreadPoolExecutor(16) as pool:
        assert all(all(right) for right in pool.map(ask, range(16)))


def flat(price: float) -> dict[str, float]:
    return {"open": price, "high": price, "low": price, "close": price, "volume": 0.0}


def test_small_requests_are_answered_while_a_large_one_is_at_work(api: Api) -> None:
    body = json.dumps({"histories": [{"candles": example_history(160)}] * 1_000}).encode()
    small = request_body(160)

    def ask_small(connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/predict", small, JSON)
        assert json.loads(connection.getresponse().read())["horizons"]

    with ThreadPoolExecutor(1) as pool, closing(api.connect()) as connection:
        ask_small(connection)
        large = pool.submit(api.ask, "POST", "/v1/forecasts", body)
        answered = 0
        while not large.done():
            ask_small(connection)
            answered += 1
        status, text = large.result()
    assert status == 200
    assert len(json.loads(text)["forecasts"]) == 1_000
    assert answered >= 20


def test_metrics_tell_requests_cpu_and_memory(api: Api) -> None:
    api.ask("POST", "/predict", request_body())
    status, text = api.ask("GET", "/metrics")
    assert status == 200
    found = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["candlecast_request_seconds_count", ("POST", "/predict", "200")] >= 1
    assert found["candlecast_inference_seconds_count", ()] >= 1
    assert found["process_cpu_seconds_total", ()] > 0
    assert found["process_resident_memory_bytes", ()] > 1e7
    version = bundle.load(bundle.default_path()).config.model_version
    assert found["candlecast_model_info", (version,)] == 1


def test_sigterm_ends_it_while_connections_are_open(processes: Processes) -> None:
    api = start(processes)
    with closing(api.connect()) as idle, socket.create_connection((HOST, api.port)) as slow:
        idle.request("GET", "/")
        assert idle.getresponse().read()
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        slow.sendall(head + b"content-length: 100\r\n\r\n{")
        started = time.monotonic()
        assert api.process.stop(10.0) == 0, api.process.log_tail()
        assert time.monotonic() - started < 8


def test_sigterm_leaves_no_request_unanswered(processes: Processes) -> None:
    api = start(processes)
    body = request_body()

    def ask_until_the_end() -> int:
        answered = 0
        with closing(api.connect()) as connection:
            while True:
                try:
                    connection.request("POST", "/predict", body, JSON)
                except OSError:
                    return answered
                try:
                    answer = connection.getresponse()
                except (http.client.RemoteDisconnected, ConnectionResetError):
                    return answered  # it was closed between two requests
                assert answer.status == 200
                assert json.loads(answer.read())["horizons"]
                answered += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_until_the_end) for _ in range(4)]
        metric = 'route="/predict",status="200"'
        wait_until(lambda: metric in api.ask("GET", "/metrics")[1], 30.0, "requests are answered")
        assert api.process.stop(10.0) == 0, api.process.log_tail()
        assert all(answered.result(timeout=30) > 0 for answered in asking)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_taken_port_ends_with_a_clear_error(api: Api) -> None:
    done = run("--port", str(api.port))
    assert done.returncode == 1
    assert f"cannot listen on {HOST}:{api.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", sorted(bundle.FILE_NAMES))
def test_a_damaged_bundle_ends_with_a_clear_error(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bundle.default_path(), folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    done = run("--model", str(folder), "--port", "0")
    assert done.returncode == 1
    assert f"{folder / name}: expected SHA-256" in done.stderr
    assert "the file is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_bundle_ends_with_a_clear_error(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path / "none"), "--port", "0")
    assert done.returncode == 1
    assert "none/config.json: cannot be read: No such file or directory" in done.stderr


def test_a_bad_setting_ends_with_a_clear_error() -> None:
    done = run("--port", "70000")
    assert done.returncode == 2
    assert done.stderr == 'python -m api: port: expected at most 65535, got "70000"\n'
