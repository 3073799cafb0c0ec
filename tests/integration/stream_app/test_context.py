"""Context on the stream, by real processes: joined, awaited, corrected, recovered, swapped in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from shared.candles import DAY_MS, Candle
from shared.champions import ANY
from shared.context import ContextSpec, context_key
from shared.forecasts import Forecast
from shared.model_store import Decision, ModelStore
from tests import bundles
from tests.candles import candle, values_of, walk
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read, read_forecasts, write, write_candles
from tests.integration.workers import RunningWorker, WorkerTopics, start_worker

pytestmark = pytest.mark.integration

SPEC: Final = ContextSpec(symbols=("^GSPC",), interval="1d", length=2)
WARM: Final = bundles.LENGTH - 1
DONE_S: Final = 60.0
LONG_S: Final = 30
"""Longest wait for context that a worker allows."""


@dataclass(frozen=True)
class Stage:
    """A worker with a model whose volatility is .01 and the sum of the context's two closes."""

    processes: Processes
    topics: WorkerTopics
    bundle: Path

    def worker(self, wait_s: float, *flags: str) -> RunningWorker:
        return start_worker(
            self.processes, self.topics, "--model", str(self.bundle),
            "--context-wait-seconds", str(wait_s), "--session-seconds", "6", *flags,
        )  # fmt: skip

    def context(self, *candles: Candle) -> None:
        """Send candles to the context topic."""
        messages = [(context_key(made), made.encode()) for made in candles]
        write(self.topics.bootstrap, self.topics.context, messages)

    def candles(self, *candles: Candle) -> None:
        write_candles(self.topics.bootstrap, self.topics.candles, candles)

    def forecasts(self, worker: RunningWorker, least: int) -> list[Forecast]:
        """Return all forecasts once there are so many."""
        at, topic = self.topics.bootstrap, self.topics.forecasts
        wait_until(
            lambda: count(at, topic) >= least, DONE_S, f"{least} forecasts", process=worker.process
        )
        return read_forecasts(at, topic)


@pytest.fixture
def stage(
    kafka: str, processes: Processes, unique_name: Callable[[str], str], tmp_path: Path
) -> Stage:
    folder = bundles.write(tmp_path / "reading", context=SPEC)
    return Stage(processes, WorkerTopics.make(kafka, unique_name), folder)


def index(day: int, close: float = 1.0) -> Candle:
    return candle(day, close, symbol="^GSPC")


def seen(forecast: Forecast) -> float:
    """Return the sum of the context's closes that the model was given."""
    return round(forecast.horizons[0].volatility - 0.01, 3)


def file_of(path: Path, candles: list[Candle]) -> str:
    rows = [
        f"{datetime.fromtimestamp(made.open_ms / 1000, UTC):%Y-%m-%d},{made.symbol},"
        + ",".join(map(str, values_of(made)))
        for made in candles
    ]
    path.write_text("\n".join(["Date,Symbol,Open,High,Low,Close,Volume", *rows]) + "\n")
    return str(path)


def test_what_the_producer_publishes_is_joined_by_time(stage: Stage, tmp_path: Path) -> None:
    """The index is published whole before the stocks; a forecast reads none of its later days."""
    days = range(WARM + 20)
    stocks = [*walk(len(days)), *walk(len(days), symbol="IBM")]
    worker = stage.worker(LONG_S)
    producer = stage.processes.start(
        "producer", *stage.topics.flags(), "--metrics-port", "0",
        "--path", file_of(tmp_path / "stocks.csv", stocks),
        "--context", "^GSPC",
        "--context-path", file_of(tmp_path / "index.csv", [index(day, 1.0 + day) for day in days]),
    )  # fmt: skip
    forecasts = stage.forecasts(worker, 2 * 20)
    assert producer.wait(30) == 0, producer.log_tail()
    assert len({made.id for made in forecasts}) == len(forecasts) == 2 * 20
    for made in forecasts:
        day = (made.as_of_ms - candle(0).close_ms) // DAY_MS
        assert seen(made) == 1 + day + day, made
        assert made.context_as_of_ms == made.as_of_ms
    metrics = worker.metrics()
    assert metrics["candlecast_context_age_seconds_count"] == 40
    assert metrics["candlecast_forecasts_without_context_total"] == 0
    wait_until(lambda: holds_context(worker), DONE_S, "the context", process=worker.process)
    newest_s = total(worker, "candlecast_context_close_timestamp_seconds")
    assert newest_s == index(len(days) - 1).close_ms / 1000


def test_late_context_is_awaited_for_a_moment_and_then_the_one_before_is_read(stage: Stage) -> None:
    worker = stage.worker(LONG_S)
    stage.context(*(index(day) for day in range(WARM)))
    wait_until(lambda: holds_context(worker), DONE_S, "the context", process=worker.process)
    stage.candles(*walk(WARM + 1))
    wait_until(lambda: lag(worker) == WARM + 1, DONE_S, "the batch", process=worker.process)
    assert count(stage.topics.bootstrap, stage.topics.forecasts) == 0
    stage.context(index(WARM, 5.0))
    [forecast] = stage.forecasts(worker, 1)
    assert forecast.context_as_of_ms == forecast.as_of_ms
    assert seen(forecast) == 6
    assert worker.process.stop(15) == 0

    impatient = stage.worker(0.5)
    stage.candles(candle(WARM + 1), candle(WARM + 2))  # the producer of context is away
    _, first, second = stage.forecasts(impatient, 3)
    assert [first.context_as_of_ms, second.context_as_of_ms] == [forecast.as_of_ms] * 2
    assert seen(second) == 6
    assert late(impatient) == 1, "the second is not kept waiting in vain"


def test_a_wait_does_not_outlive_sigterm(stage: Stage) -> None:
    worker = stage.worker(LONG_S)
    stage.context(*(index(day) for day in range(WARM)))
    wait_until(lambda: holds_context(worker), DONE_S, "the context", process=worker.process)
    stage.candles(*walk(WARM + 1))
    wait_until(lambda: lag(worker) == WARM + 1, DONE_S, "the batch", process=worker.process)
    began_s = time.monotonic()
    assert worker.process.stop(15) == 0
    assert time.monotonic() - began_s < 10
    stage.context(index(WARM, 5.0))
    [forecast] = stage.forecasts(stage.worker(LONG_S), 1)
    assert seen(forecast) == 6, "whoever follows reads it again, and all of the context before it"


def test_out_of_order_duplicate_and_corrected_context(stage: Stage) -> None:
    worker = stage.worker(0.0)
    days = [index(day, 1.0 + day) for day in range(WARM + 2)]
    stage.context(*days[::-1], *days)  # newest first, and each twice
    wait_until(lambda: holds_context(worker), DONE_S, "the context", process=worker.process)
    stage.candles(*walk(WARM + 1))
    [first] = stage.forecasts(worker, 1)
    assert seen(first) == WARM + WARM + 1
    stage.context(index(WARM, 100.0), index(WARM + 1))
    stage.candles(candle(WARM + 1))
    _, second = stage.forecasts(worker, 2)
    assert seen(second) == 100 + 1
    assert first.id != second.id


def test_models_with_context_and_without_take_over_from_each_other(
    stage: Stage, tmp_path: Path
) -> None:
    """The store's champion reads none, then reads one, then none: each within a few candles."""
    store = ModelStore(str(tmp_path / "models"))
    plain = bundles.write(tmp_path / "plain", levels=(0.1, 0.5, 0.9))
    worker = start_worker(
        stage.processes, stage.topics, "--model", str(plain), "--models", store.url
    )
    stage.context(*(index(day) for day in range(400)))
    stage.candles(*walk(WARM + 1))
    day, forecasts = WARM + 1, stage.forecasts(worker, 1)
    assert forecasts[-1].context_as_of_ms is None
    for folder, reads in ((stage.bundle, True), (plain, False), (stage.bundle, True)):
        contents = {file.name: file.read_bytes() for file in folder.iterdir()}
        store.promote(store.put(contents), ANY, decision=Decision("test"))
        deadline_s = time.monotonic() + DONE_S
        while (forecasts[-1].context_as_of_ms is not None) is not reads:
            assert time.monotonic() < deadline_s, f"reads a context: {reads}"
            stage.candles(candle(day))
            day += 1
            forecasts = stage.forecasts(worker, day - WARM)
        assert seen(forecasts[-1]) == (2 if reads else 0), "all of the context, from the first"
    assert len(forecasts) == day - WARM, "none is missing, none is repeated"


def test_garbage_in_the_context_stops_nothing_and_is_counted(stage: Stage) -> None:
    at, topic = stage.topics.bootstrap, stage.topics.context
    worker = stage.worker(0.0)
    stage.context(index(WARM - 1))
    wait_until(lambda: holds_context(worker), DONE_S, "the context", process=worker.process)
    write(at, topic, [(b"^GSPC|1d|1", b"{"), (b"x", index(1).encode()), (b"y", b""), (b"z", None)])
    stage.context(index(WARM))
    stage.candles(*walk(WARM + 1))
    [forecast] = stage.forecasts(worker, 1)
    assert seen(forecast) == 2
    rejects = "candlecast_context_rejects_total"
    counts = {
        name: value
        for name, value in worker.metrics().items()
        if name.startswith(rejects) and value
    }
    assert {name.split('"')[3]: value for name, value in counts.items()} == {
        "not_json": 1, "wrong_key": 1, "empty": 1,
    }  # fmt: skip
    assert worker.probe("/readyz") == worker.probe("/livez") == 200
    stage.candles(candle(WARM + 1))  # dead letters go with the next candles
    stage.forecasts(worker, 2)
    letters = read(at, stage.topics.dlq)
    assert {letter.headers["candlecast-reason"].decode() for letter in letters} == {
        "not_json", "wrong_key", "empty",
    }  # fmt: skip
    assert {letter.headers["candlecast-topic"].decode() for letter in letters} == {topic}
    worker.process.kill()
    again = stage.worker(0.0)
    stage.candles(candle(WARM + 2))
    stage.forecasts(again, 3)
    assert total(again, "candlecast_context_rejects_total") == 3, "they are in the topic still"
    assert count(at, stage.topics.dlq) == len(letters) == 3, "and are put aside once"


def holds_context(worker: RunningWorker) -> bool:
    return any(name.startswith("candlecast_context_close_timestamp") for name in worker.metrics())


def lag(worker: RunningWorker) -> float:
    return total(worker, "candlecast_consumer_lag_messages")


def late(worker: RunningWorker) -> float:
    return total(worker, "candlecast_context_late_total")


def total(worker: RunningWorker, metric: str) -> float:
    """Return the sum of a metric over its labels."""
    return sum(value for name, value in worker.metrics().items() if name.startswith(metric))
