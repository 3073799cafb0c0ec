"""Processes whose clock is wrong, by libfaketime: candles are judged by the broker's clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from local.ports import free_ports
from shared import bundle
from shared.candles import Candle
from tests.candles import walk
from tests.integration.api.test_serving import Api
from tests.integration.processes import Processes, wait_until
from tests.integration.producer.producers import Producer
from tests.integration.topics import count, write_candles
from tests.integration.workers import WorkerTopics, launch_worker, wait_ready

pytestmark = pytest.mark.integration

MINUTE_MS = 60_000
DONE_S = 60.0
WARM_UP = bundle.load(bundle.default_path()).config.window_length - 1


def wrong_clock(by: str) -> Mapping[str, str]:
    """Return the environment of a process whose wall clock is wrong by ``-1h``, say."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("libfaketime is not installed (Debian package faketime)")
    return {"LD_PRELOAD": str(libraries[0]), "FAKETIME": by, "DONT_FAKE_MONOTONIC": "1"}


def minutes(days: int) -> list[Candle]:
    """Return candles of one minute of which the newest has just closed."""
    newest_ms = time.time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS
    candles = walk(days, symbol="NOW")
    opens = [newest_ms - (days - number) * MINUTE_MS for number in range(days)]
    return [
        candle.model_copy(
            update={"interval": "1m", "open_ms": open_ms, "close_ms": open_ms + MINUTE_MS}
        )
        for candle, open_ms in zip(candles, opens, strict=True)
    ]


@pytest.mark.parametrize(("by", "skew_s"), [("-1h", -3600), ("+65m", 3900)])
def test_a_wrong_clock_costs_no_candle(
    kafka: str,
    processes: Processes,
    unique_name: Callable[[str], str],
    by: str,
    skew_s: float,
) -> None:
    """Behind: 290 candles were dead letters. Ahead: the worker ended, InvalidTimestampError."""
    topics = WorkerTopics.make(kafka, unique_name)
    env = wrong_clock(by)
    worker = launch_worker(processes, topics, env=env)
    port = free_ports(1)[0]
    api = Api(processes.start("api", *topics.flags(), "--port", str(port), env=env), port)
    producer = Producer(kafka, topics.candles, processes, 8).start("--symbols", "IBM", env=env)
    wait_ready(worker)
    candles = minutes(WARM_UP + 60)
    write_candles(kafka, topics.candles, candles)
    assert producer.wait(DONE_S) == 0, producer.log_tail()
    published = count(kafka, topics.candles)
    wait_until(
        lambda: count(kafka, topics.forecasts) >= published - 2 * WARM_UP,
        DONE_S, "every forecast", process=worker.process,
    )  # fmt: skip
    assert count(kafka, topics.dlq) == 0
    figures = worker.metrics()
    assert figures["candlecast_clock_skew_seconds"] == pytest.approx(skew_s, abs=30)
    assert figures["candlecast_forecast_latency_seconds_sum"] < 60 * published
    assert worker.probe("/livez") == worker.probe("/readyz") == 200
    wait_until(
        lambda: json.loads(api.ask("GET", "/v1/status")[1])["series"] == 2
        and json.loads(api.ask("GET", "/v1/status")[1])["lag"] == 0,
        DONE_S, "the API follows", process=api.process,
    )  # fmt: skip
    assert worker.process.stop(15) == 0
    assert api.process.stop(15) == 0
