"""One forecast, three ways: out of the topic, out of the API, out of the back-test."""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from local.ports import HOST, free_ports
from shared import bundle
from shared.forecaster import OnnxForecaster
from shared.forecasts import Forecast
from shared.history import BUNDLED_SYMBOLS, bundled
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read_forecasts
from tests.integration.workers import WorkerTopics, start_worker
from trainer import dataset
from trainer.evaluate import backtest

pytestmark = pytest.mark.integration

WINDOWS = 500
DONE_S = 120.0
RELATIVE = 1e-6


@pytest.fixture(scope="module")
def forecaster() -> OnnxForecaster:
    return OnnxForecaster(bundle.load(bundle.default_path()))


def replay(processes: Processes, topics: WorkerTopics, owed: int) -> list[Forecast]:
    """Replay all bundled candles through a producer and a worker; return the forecasts."""
    worker = start_worker(processes, topics)
    producer = processes.start("producer", *topics.flags(), "--metrics-port", "0")
    wait_until(
        lambda: count(topics.bootstrap, topics.forecasts) >= owed,
        DONE_S,
        f"{owed} forecasts",
        process=worker.process,
    )
    assert producer.wait(10) == 0
    assert worker.process.stop(15) == 0
    return read_forecasts(topics.bootstrap, topics.forecasts)


def candles_by_symbol() -> dict[str, list[Any]]:
    by_symbol: dict[str, list[Any]] = {symbol: [] for symbol in BUNDLED_SYMBOLS}
    for one in bundled().candles:
        by_symbol[one.symbol].append(one)
    return by_symbol


def start_api(processes: Processes) -> int:
    """Start an API and return its port."""
    port = free_ports(1)[0]
    process = processes.start("api", "--port", str(port))
    wait_until(partial(answers, port), 60, "the API answers", process=process)
    return port


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def asked(port: int, history: list[Any]) -> dict[str, Any]:
    """Return the API's forecast of candles with their times, which the model reads as well."""
    names = ("open_ms", "open", "high", "low", "close", "volume")
    candles = [{name: getattr(one, name) for name in names} for one in history]
    body = {"histories": [{"interval": "1d", "candles": candles}]}
    with closing(http.client.HTTPConnection(HOST, port, timeout=30)) as connection:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/forecasts", json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        forecast: dict[str, Any] = json.loads(answer.read())["forecasts"][0]
        return forecast


def test_topic_api_and_backtest_agree_and_a_second_replay_repeats_them(
    kafka: str,
    unique_name: Callable[[str], str],
    processes: Processes,
    forecaster: OnnxForecaster,
) -> None:
    by_symbol = candles_by_symbol()
    length, longest = forecaster.window_length, forecaster.lengths("1d")[-1]
    owed = sum(len(candles) - length + 1 for candles in by_symbol.values())
    first = replay(processes, WorkerTopics.make(kafka, unique_name), owed)
    second = replay(processes, WorkerTopics.make(kafka, unique_name), owed)
    numbers = partial(Forecast.model_dump, exclude={"made_at_ms"})
    assert len(first) == owed
    assert {one.id: numbers(one) for one in first} == {one.id: numbers(one) for one in second}

    table = backtest.run(forecaster, dataset.load(None).symbols)
    tested = {(row["symbol"], row["open_ms"], row["step"]): row for row in table.to_dict("records")}
    port = start_api(processes)
    streamed = {(one.symbol, one.as_of_ms): one for one in first}
    seeded = random.Random(7)
    for _ in range(WINDOWS):
        symbol = seeded.choice(BUNDLED_SYMBOLS)
        last = seeded.randrange(length - 1, len(by_symbol[symbol]))
        newest = by_symbol[symbol][last]
        forecast = streamed[symbol, newest.close_ms]
        answer = asked(port, by_symbol[symbol][max(0, last - longest + 1) : last + 1])
        assert forecast.last_close == answer["last_close"] == newest.close
        for horizon, horizon_answer in zip(forecast.horizons, answer["horizons"], strict=True):
            row = tested[symbol, newest.open_ms, horizon.step]
            assert horizon_answer["quantiles"] == pytest.approx(horizon.raw_quantiles, rel=RELATIVE)
            assert horizon.predicted_close == pytest.approx(row["predicted_close"], rel=RELATIVE)
            assert horizon.volatility == pytest.approx(row["volatility"], rel=RELATIVE)
            assert horizon_answer["volatility"] == pytest.approx(horizon.volatility, rel=RELATIVE)
