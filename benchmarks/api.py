"""``python -m benchmarks api``: the API beside a seed-style service, in one run.

Both serve histories as long as our model needs, on one uvicorn worker. Requests are sent over
keep-alive connections by this process; the two take turns, round by round, so that what else the
machine does hits both. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import psutil

from api.forecast.predict import CHUNK
from api.openapi import example_history
from local.ports import HOST, free_ports
from shared import bundle
from shared.forecaster import Forecaster, OnnxForecaster
from shared.window import even_times

ROOT: Final = Path(__file__).parents[1]
CONNECTIONS: Final = (1, 16)
START_S: Final = 60.0
HISTORIES: Final = 1_000
SMALL_RATE: Final = 100.0
"""Small requests a second beside large ones: few, so that they do not wait for each other."""

mp = multiprocessing.get_context("spawn")


class _Client(asyncio.Protocol):
    """One keep-alive connection that sends a prepared request and waits for the whole answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._parts = b""
        self._need = 0
        self._answered: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parts += data
        if not self._need:
            head, found, _ = self._parts.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._finish(error=head.decode())
                return
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            self._need = len(head) + 4 + length
        if len(self._parts) >= self._need:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError(str(exc)))

    def _finish(self, error: str = "") -> None:
        whole, self._parts, self._need = self._parts, b"", 0
        if self._answered is not None and not self._answered.done():
            if error:
                self._answered.set_exception(RuntimeError(error))
            else:
                self._answered.set_result(whole.partition(b"\r\n\r\n")[2])

    async def ask(self) -> bytes:
        """Return the body of one answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        return await self._answered

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


@dataclass
class Load:
    """Measurements of one round of load."""

    requests: int = 0
    seconds: float = 0.0
    client_ms: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


async def saturate(port: int, request: bytes, connections: int, seconds: float) -> Load:
    """Ask as fast as the answers come."""
    clients = [await _connect(port, request) for _ in range(connections)]
    load = Load()
    started = time.perf_counter()

    async def run(client: _Client) -> None:
        while time.perf_counter() - started < seconds:
            await _timed(client, load)

    await asyncio.gather(*map(run, clients))
    load.seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return load


async def pace(port: int, request: bytes, rate: float, connections: int, seconds: float) -> Load:
    """Ask at a fixed rate, spread over the connections."""
    clients = [await _connect(port, request) for _ in range(connections)]
    load = Load()
    gap = connections / rate
    started = time.perf_counter()

    async def run(number: int, client: _Client) -> None:
        due = started + number * gap / connections
        while due < started + seconds:
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            await _timed(client, load)
            due += gap

    await asyncio.gather(*(run(i, client) for i, client in enumerate(clients)))
    load.seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return load


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


async def _connect(port: int, request: bytes) -> _Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: _Client(request), HOST, port)
    return client


async def _timed(client: _Client, load: Load) -> None:
    began = time.perf_counter()
    body = await client.ask()
    load.client_ms.append((time.perf_counter() - began) * 1e3)
    load.server_ms.append(_latency_ms(body))
    load.requests += 1


def _latency_ms(body: bytes) -> float:
    return float(body.partition(b'"latency_ms":')[2].partition(b",")[0].rstrip(b"}"))


@contextmanager
def served(argv: Sequence[str], port: int, checkout: Path = ROOT) -> Iterator[Service]:
    """Run a service of a checkout until the end of the context; yields it once it answers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, *argv], env=environment, cwd=checkout, stderr=subprocess.DEVNULL
    )
    try:
        _wait(process, port)
        yield Service(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(condition: Callable[[], bool], process: Any = None) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError("a service does not answer")
        time.sleep(0.05)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    async def answers() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        return True

    _wait_for(lambda: asyncio.run(answers()), process)


def request_of(history: list[dict[str, float]], port: int) -> bytes:
    """Return a whole HTTP request for ``POST /predict``."""
    return _post("/predict", {"history": history}, port)


def batch_of(history: list[dict[str, float]], port: int) -> bytes:
    """Return a whole HTTP request for ``POST /v1/forecasts``, of a thousand histories."""
    return _post("/v1/forecasts", {"histories": [{"candles": history}] * HISTORIES}, port)


def _post(path: str, content: object, port: int) -> bytes:
    body = json.dumps(content, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {HOST}:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def compare(
    services: Mapping[str, Service], length: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """Return requests a second, CPU and latencies of the services, by connections."""
    history = example_history(length)
    rates: Samples = {name: {} for name in services}
    cpu: Samples = {name: {} for name in services}
    delays: Samples = {name: {} for name in services}
    for service in services.values():
        asyncio.run(saturate(service.port, request_of(history, service.port), 4, 1.0))  # warm
    for _ in range(rounds):
        for connections in CONNECTIONS:
            for name, service in services.items():
                before = service.cpu_s()
                request = request_of(history, service.port)
                load = asyncio.run(saturate(service.port, request, connections, seconds))
                key = str(connections)
                rates[name].setdefault(key, []).append(load.rate)
                cpu[name].setdefault(key, []).append(
                    (service.cpu_s() - before) * 1e3 / load.requests
                )
                delays[name].setdefault(key, []).extend(load.client_ms)
    return {
        "requests_per_second": _medians(rates, 1),
        "cpu_ms_a_request": _medians(cpu, 3),
        "latency_ms": {
            name: {key: quantiles(found) for key, found in by.items()}
            for name, by in delays.items()
        },
    }


Samples = dict[str, dict[str, list[float]]]


def _medians(samples: Samples, digits: int) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(statistics.median(values), digits) for key, values in by.items()}
        for name, by in samples.items()
    }


def half_load(port: int, length: int, rate: float, seconds: float) -> dict[str, Any]:
    """Return latencies at half of the saturating load, as the server and as clients see them."""
    request = request_of(example_history(length), port)
    load = asyncio.run(pace(port, request, rate / 2, 8, seconds))
    return {
        "requests_per_second": round(load.rate, 1),
        "server_ms": quantiles(load.server_ms),
        "client_ms": quantiles(load.client_ms),
    }


def beside_batches(service: Service, length: int, seconds: float) -> dict[str, Any]:
    """Return the latency of small requests, alone and while large ones keep the service busy.

    The large ones, of a thousand histories, come one after the other from a process of their own,
    so that what a client sees of the small ones is the service's doing.
    """
    history = example_history(length)
    small, large = request_of(history, service.port), batch_of(history, service.port)
    alone = asyncio.run(pace(service.port, small, SMALL_RATE, 1, seconds))
    done = mp.Value("i", 0)
    sender = mp.Process(target=_send_batches, args=(service.port, large, done), daemon=True)
    sender.start()
    try:
        _wait_for(lambda: done.value > 0)
        before, began, cpu_s = done.value, time.perf_counter(), service.cpu_s()
        beside = asyncio.run(pace(service.port, small, SMALL_RATE, 1, seconds))
        batches = done.value - before
        cpu_s, wall_s = service.cpu_s() - cpu_s, time.perf_counter() - began
    finally:
        sender.kill()
        sender.join()
    return {
        "small_requests_per_second": SMALL_RATE,
        "alone_ms": quantiles(alone.client_ms),
        "beside_batches_ms": quantiles(beside.client_ms),
        "histories_per_second": round(batches * HISTORIES / wall_s, 1),
        "histories_per_cpu_second": round(batches * HISTORIES / cpu_s, 1),
    }


def _send_batches(port: int, request: bytes, done: Any) -> None:
    async def send() -> None:
        client = await _connect(port, request)
        while True:
            await client.ask()
            done.value += 1

    asyncio.run(send())


def model_path(forecaster: Forecaster, rounds: int) -> dict[str, float]:
    """Return histories a second of CPU in the model path, 1,000 of them at once."""
    candle = np.array([list(row.values()) for row in example_history(forecaster.window_length)])
    noise = np.random.default_rng(0).uniform(0.9, 1.1, (HISTORIES, 1, 1))
    windows = candle[None] * noise  # (B, T, 5)
    best = float("inf")
    for _ in range(rounds + 1):
        started = time.process_time()
        for first in range(0, HISTORIES, CHUNK):
            part = windows[first : first + CHUNK]
            forecaster.predict(part, even_times(len(part), part.shape[1]))
        best = min(best, time.process_time() - started)
    return {"histories": HISTORIES, "histories_per_cpu_second": round(HISTORIES / best, 1)}


def quantiles(values: list[float]) -> dict[str, float]:
    """Return the median, the 95th and the 99th per cent."""
    at = np.quantile(values, [0.5, 0.95, 0.99])
    return dict(zip(("p50", "p95", "p99"), (round(float(value), 3) for value in at), strict=True))


def against(checkout: Path, length: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the rates of this API and of another checkout's with its own bundle, by turns."""
    ports = free_ports(2)
    argv = [["-m", "api", "--port", str(port)] for port in ports]
    with served(argv[0], ports[0]) as this, served(argv[1], ports[1], checkout) as that:
        report = compare({"this": this, "that": that}, length, rounds, seconds)
    rates = report["requests_per_second"]
    ratio = {key: round(rates["this"][key] / rates["that"][key], 3) for key in rates["this"]}
    return report | {"ratio": ratio}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks api", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--model", type=Path, default=bundle.default_path(), help="bundle to serve")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="measure the API of another checkout instead"
    )
    arguments = parser.parse_args(argv)
    rounds, seconds = (3, 2.0) if arguments.quick else (7, 5.0)
    forecaster = OnnxForecaster(bundle.load(arguments.model))
    length = forecaster.window_length
    result: dict[str, Any] = {"history": length, "rounds": rounds, "cores": os.cpu_count()}
    if arguments.against:
        print(json.dumps(against(arguments.against.resolve(), length, rounds, seconds)))
        return 0
    result["model_path"] = model_path(forecaster, rounds)
    ports = free_ports(2)
    ours = ["-m", "api", "--port", str(ports[0]), "--model", str(arguments.model)]
    seed = ["-m", "benchmarks.seed_service", str(ports[1])]
    with served(ours, ports[0]) as first, served(seed, ports[1]) as second:
        result |= compare({"ours": first, "seed_style": second}, length, rounds, seconds)
        rate = result["requests_per_second"]["ours"]["16"]
        result["large_requests"] = beside_batches(first, length, seconds * 3)
        result["half_load"] = half_load(ports[0], length, rate, seconds * 3)
    rates, cpu = result["requests_per_second"], result["cpu_ms_a_request"]
    result["times_as_many"] = {
        key: round(rates["ours"][key] / rates["seed_style"][key], 1) for key in rates["ours"]
    }
    result["times_less_cpu"] = {
        key: round(cpu["seed_style"][key] / cpu["ours"][key], 1) for key in rates["ours"]
    }
    for key, times in result["times_as_many"].items():
        print(
            f"{key} connections: {rates['ours'][key]} against {rates['seed_style'][key]}: {times} x"
        )
    print(json.dumps(result))
    return 0
