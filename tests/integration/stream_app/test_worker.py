"""The stream worker as a real process on the real broker: nothing lost, nothing contradicted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from shared import bundle
from shared.batches import MAX_VALUE_BYTES
from shared.candles import FUTURE_TOLERANCE_MS, Candle, RejectReason
from shared.forecasts import Forecast
from shared.topics import BROKERS_TIME, Topic, changelog_of, ensure
from stream_app.settings import WorkerSettings
from stream_app.state import span_keys
from tests.candles import candle, walk
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import (
    count,
    read,
    read_forecasts,
    write,
    write_candles,
)
from tests.integration.workers import (
    RunningWorker,
    WorkerTopics,
    launch_worker,
    start_worker,
)
from tests.kafka import kafka_at
from tests.recipes import Recipe

pytestmark = pytest.mark.integration

MODEL = bundle.load(WorkerSettings.read([], "tests").model).config
WARM_UP = MODEL.window_length - 1
DONE_S = 60.0


@pytest.fixture
def topics(kafka: str, unique_name: Callable[[str], str]) -> WorkerTopics:
    return WorkerTopics.make(kafka, unique_name)


def interleaved(symbols: Sequence[str], days: int) -> list[Candle]:
    """Return candles day by day over all symbols, as a market would deliver them."""
    series = [walk(days, symbol=symbol, start=50.0 + 10 * i) for i, symbol in enumerate(symbols)]
    return [one for day in zip(*series, strict=True) for one in day]


def owed(candles: Sequence[Candle]) -> set[tuple[str, int]]:
    """Return symbol and close of every candle past the warm-up."""
    seen: Counter[str] = Counter()
    due = set()
    for one in candles:
        seen[one.symbol] += 1
        if seen[one.symbol] > WARM_UP:
            due.add((one.symbol, one.close_ms))
    return due


def given(forecasts: Sequence[Forecast]) -> set[tuple[str, int]]:
    return {(one.symbol, one.as_of_ms) for one in forecasts}


def numbers(forecast: Forecast) -> dict[str, object]:
    """Return a forecast without the one field that repeats may differ in."""
    return forecast.model_dump(exclude={"made_at_ms"})


def wait_for_forecasts(
    worker: RunningWorker, topics: WorkerTopics, candles: Sequence[Candle]
) -> list[Forecast]:
    expected = owed(candles)
    wait_until(
        lambda: count(topics.bootstrap, topics.forecasts) >= len(expected),
        DONE_S,
        f"{len(expected)} forecasts",
        process=worker.process,
    )
    wait_until(
        lambda: given(read_forecasts(topics.bootstrap, topics.forecasts)) >= expected,
        DONE_S,
        "a forecast for every candle past the warm-up",
        process=worker.process,
    )
    return read_forecasts(topics.bootstrap, topics.forecasts)


def test_every_candle_past_the_warm_up_is_forecast_in_order(
    processes: Processes, topics: WorkerTopics
) -> None:
    worker = start_worker(processes, topics)
    candles = interleaved(["AAPL", "MSFT", "^GSPC", "BTC-USD"], WARM_UP + 30)
    write_candles(topics.bootstrap, topics.candles, candles)
    forecasts = wait_for_forecasts(worker, topics, candles)
    assert given(forecasts) == owed(candles)
    assert len(forecasts) == len(owed(candles)), "no fault, no repeat"
    by_symbol = defaultdict(list)
    for one in forecasts:
        by_symbol[one.symbol].append(one.as_of_ms)
    assert all(times == sorted(times) for times in by_symbol.values())


def test_messages_carry_key_headers_and_the_brokers_time(
    processes: Processes, topics: WorkerTopics
) -> None:
    worker = start_worker(processes, topics)
    candles = walk(WARM_UP + 1)
    before_ms = time.time_ns() // 1_000_000
    write_candles(topics.bootstrap, topics.candles, candles)
    [forecast] = wait_for_forecasts(worker, topics, candles)
    [record] = read(topics.bootstrap, topics.forecasts)
    assert record.key == b"AAPL"
    assert record.headers["content-type"] == b"application/json"
    assert record.headers["ce_id"].decode() == forecast.id
    assert {"ce_type", "ce_source", "ce_time", "ce_specversion"} <= set(record.headers)
    assert before_ms - 5000 <= record.timestamp_ms <= time.time_ns() // 1_000_000 + 5000


def bad_messages() -> dict[RejectReason, list[tuple[bytes | None, bytes | None]]]:
    """Return ten kinds of invalid messages, ten of each."""
    good = json.loads(candle().encode())
    now_ms = time.time_ns() // 1_000_000
    future = {"open_ms": now_ms + 10 * FUTURE_TOLERANCE_MS, "close_ms": now_ms + 10**7 + 10**6}

    def ten(**changes: object) -> list[tuple[bytes | None, bytes | None]]:
        return [(b"AAPL", json.dumps(good | changes).encode())] * 10

    missing = {name: value for name, value in good.items() if name != "close"}
    return {
        RejectReason.NOT_JSON: [(b"AAPL", b'{"symbol": "AAPL", ')] * 10,
        RejectReason.WRONG_TYPE: ten(close="100"),
        RejectReason.MISSING_FIELD: [(b"AAPL", json.dumps(missing).encode())] * 10,
        RejectReason.NOT_FINITE: ten(close=float("nan")),
        RejectReason.OUT_OF_RANGE: ten(close=-100.0),
        RejectReason.INCONSISTENT: ten(high=90.0),
        RejectReason.WRONG_KEY: [(b"MSFT", candle().encode())] * 10,
        RejectReason.TOO_LARGE: ten(source="x" * 100_000),
        RejectReason.EMPTY: [(b"AAPL", b"")] * 5 + [(b"AAPL", None)] * 5,
        RejectReason.FUTURE: ten(**future),
    }


def test_bad_messages_are_dead_lettered_and_every_good_one_is_forecast(
    processes: Processes, topics: WorkerTopics
) -> None:
    worker = start_worker(processes, topics)
    candles = interleaved(["AAPL", "MSFT", "IBM", "GOOG"], 250)
    assert len(candles) == 1000
    bad = bad_messages()
    hundred = [message for ten in zip(*bad.values(), strict=True) for message in ten]
    messages: list[tuple[bytes | None, bytes | None]] = []
    for i, one in enumerate(candles):
        messages.append((one.symbol.encode(), one.encode()))
        if i % 10 == 5:
            messages.append(hundred[i // 10])
    write(topics.bootstrap, topics.candles, messages)
    forecasts = wait_for_forecasts(worker, topics, candles)
    assert given(forecasts) == owed(candles)
    wait_until(
        lambda: count(topics.bootstrap, topics.dlq) >= 100,
        DONE_S,
        "100 dead letters",
        process=worker.process,
    )
    dead = read(topics.bootstrap, topics.dlq)
    assert Counter(one.headers["candlecast-reason"].decode() for one in dead) == {
        reason.value: 10 for reason in bad
    }
    assert Counter((one.key, one.value or None) for one in dead) == Counter(
        (key, (value or b"")[:MAX_VALUE_BYTES] or None) for key, value in hundred
    )
    [large] = {value for _, value in bad[RejectReason.TOO_LARGE]}
    assert large is not None
    for letter in dead:
        cut = letter.headers["candlecast-reason"] == b"too_large"
        whole = sha256(large).hexdigest().encode() if cut else None
        assert letter.headers.get("candlecast-value-sha256") == whole
    for letter in dead:
        assert letter.headers["candlecast-topic"].decode() == topics.candles
        assert letter.headers["candlecast-detail"]
        assert int(letter.headers["candlecast-offset"]) >= 0


def test_a_killed_worker_leaves_no_candle_without_a_forecast(
    processes: Processes, topics: WorkerTopics
) -> None:
    worker = start_worker(processes, topics)
    candles = interleaved([f"S{i}" for i in range(20)], WARM_UP + 200)
    half = len(candles) // 2
    write_candles(topics.bootstrap, topics.candles, candles[:half])
    write_candles(topics.bootstrap, topics.candles, candles[half:])
    wait_until(
        lambda: count(topics.bootstrap, topics.forecasts) > 0,
        DONE_S,
        "the first forecasts",
        process=worker.process,
    )
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait(10)
    before = read_forecasts(topics.bootstrap, topics.forecasts)
    again = start_worker(processes, topics)
    forecasts = wait_for_forecasts(again, topics, candles)
    assert 0 < len(before) < len(owed(candles)), "it was killed half-way"
    assert given(forecasts) == owed(candles)
    by_id = defaultdict(list)
    for one in forecasts:
        by_id[one.id].append(numbers(one))
    assert all(one == same[0] for same in by_id.values() for one in same), "repeats agree"
    assert len(by_id) == len(owed(candles)), "one identity for each candle"


def test_the_windows_come_back_from_the_changelog(
    processes: Processes, topics: WorkerTopics
) -> None:
    candles = walk(WARM_UP + 2)
    first = start_worker(processes, topics)
    write_candles(topics.bootstrap, topics.candles, candles[:-1])
    wait_for_forecasts(first, topics, candles[:-1])
    assert first.process.stop(15) == 0
    second = start_worker(processes, topics)
    write_candles(topics.bootstrap, topics.candles, candles[-1:])
    forecasts = wait_for_forecasts(second, topics, candles)
    assert [one.as_of_ms for one in forecasts] == [one.close_ms for one in candles[-2:]]


def test_sigterm_under_load_drains_and_ends_with_0(
    processes: Processes, topics: WorkerTopics
) -> None:
    worker = start_worker(processes, topics)
    candles = interleaved([f"S{i}" for i in range(40)], WARM_UP + 150)
    write_candles(topics.bootstrap, topics.candles, candles)
    wait_until(
        lambda: worker.metrics().get("candlecast_forecasts_published_total", 0) > 100,
        DONE_S,
        "forecasts flow",
        process=worker.process,
    )
    started = time.monotonic()
    os.kill(worker.process.pid, signal.SIGTERM)
    assert worker.process.wait(10) == 0
    assert time.monotonic() - started < 10
    done = len(read_forecasts(topics.bootstrap, topics.forecasts))
    again = start_worker(processes, topics)
    forecasts = wait_for_forecasts(again, topics, candles)
    assert given(forecasts) == owed(candles)
    assert len(forecasts) == len(owed(candles)), "a clean stop leaves nothing to repeat"
    assert done < len(forecasts), "it was stopped under load"


def test_metrics_tell_what_happened(processes: Processes, topics: WorkerTopics) -> None:
    worker = start_worker(processes, topics)
    at_load = worker.metrics()["candlecast_model_seconds_sum"]
    candles = walk(WARM_UP + 5)
    write_candles(topics.bootstrap, topics.candles, candles)
    write(topics.bootstrap, topics.candles, [(b"AAPL", b"nonsense")])
    wait_for_forecasts(worker, topics, candles)
    wait_until(
        lambda: worker.metrics().get('candlecast_dead_letters_total{"reason": "not_json"}') == 1,
        DONE_S,
        "the reject is counted",
        process=worker.process,
    )
    metrics = worker.metrics()
    assert metrics['candlecast_candles_consumed_total{"outcome": "appended"}'] == len(candles)
    assert metrics["candlecast_forecasts_published_total"] == 5
    assert metrics["candlecast_forecast_latency_seconds_count"] == 5
    assert 0 < metrics["candlecast_forecast_latency_seconds_sum"] < 5 * DONE_S
    batches = metrics["candlecast_batch_candles_count"]
    assert metrics["candlecast_batch_candles_sum"] == len(candles) + 1
    assert metrics["candlecast_batch_seconds_count"] == batches >= 1
    assert metrics["candlecast_send_seconds_count"] == batches
    calls = metrics["candlecast_model_seconds_count"]
    assert calls >= 1
    in_calls = metrics["candlecast_model_seconds_sum"] - at_load
    assert 0 < in_calls < metrics["candlecast_batch_seconds_sum"]
    assert metrics["candlecast_windows"] == 1
    assert metrics["candlecast_window_bytes"] > 28 * len(candles)  # and what is pending
    assert metrics["process_cpu_seconds_total"] > 0
    assert metrics["process_resident_memory_bytes"] > 1e7
    assert metrics[f'candlecast_model_info{{"version": "{MODEL.model_version}"}}'] == 1
    assert worker.probe("/livez") == 200
    assert worker.probe("/nothing") == 404


def delete_topic(bootstrap: str, topic: str) -> None:
    """Delete a topic under its readers and writers."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([topic])
        finally:
            await admin.close()

    asyncio.run(delete())


def test_liveness_fails_while_work_waits_and_nothing_progresses(
    processes: Processes, topics: WorkerTopics
) -> None:
    """Without a forecasts topic the worker tries again and again to send."""
    worker = start_worker(processes, topics, "--stall-seconds", "4")
    candles = walk(WARM_UP + 20)
    write_candles(topics.bootstrap, topics.candles, candles[:-10])
    wait_for_forecasts(worker, topics, candles[:-10])
    assert worker.probe("/livez") == 200
    delete_topic(topics.bootstrap, topics.forecasts)
    write_candles(topics.bootstrap, topics.candles, candles[-10:])
    wait_until(
        lambda: worker.probe("/livez") == 503,
        DONE_S,
        "liveness fails",
        process=worker.process,
    )
    metrics = worker.metrics()
    assert metrics["candlecast_commit_age_seconds"] >= 4
    lags = {k: v for k, v in metrics.items() if k.startswith("candlecast_consumer_lag_messages{")}
    assert len(lags) == 8, "one for each partition"
    assert sum(lags.values()) == 10


def test_a_worker_is_not_ready_before_its_windows_are_recovered(
    processes: Processes, topics: WorkerTopics
) -> None:
    worker = launch_worker(processes, topics)
    seen = set()

    def is_ready() -> bool:
        seen.add(worker.probe("/readyz"))
        return 200 in seen

    wait_until(is_ready, DONE_S, "the worker is ready", process=worker.process)
    assert 503 in seen, "it answered before it was ready"
    metrics = worker.metrics()
    assert metrics["candlecast_recovery_seconds"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "/nonexistent"], "/nonexistent/config.json: cannot be read"),
        (["--partitions", "3"], "expected 3 partitions, got 8"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    processes: Processes, topics: WorkerTopics, flags: list[str], message: str
) -> None:
    started = start_worker(processes, topics)
    started.process.kill()
    process = processes.start("stream_app", *topics.flags(), "--metrics-port", "0", *flags)
    assert process.wait(60) == 1
    log = process.log.read_text()
    assert message in log
    assert "Traceback" not in log


def test_a_signal_ends_a_worker_that_waits_for_a_broker(processes: Processes) -> None:
    """It waited for a minute; and each line of its log is an object with its process."""
    worker = processes.start("stream_app", "--bootstrap", "127.0.0.1:1", "--metrics-port", "0")
    wait_until(lambda: "waiting for Kafka at" in worker.log_tail(), 60.0, "it waits")
    assert worker.stop(10.0) == 0
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    keys = {"timestamp", "level", "logger", "message", "process"}
    assert all(set(line) >= keys and line["process"] == "worker" for line in lines)


def test_a_series_that_is_silent_for_long_is_forgotten_with_its_records(
    processes: Processes, topics: WorkerTopics
) -> None:
    first = start_worker(processes, topics)
    write_candles(topics.bootstrap, topics.candles, walk(2, symbol="OLD"))
    wait_until(
        lambda: first.metrics()["candlecast_windows"] == 1,
        DONE_S, "a window", process=first.process,
    )  # fmt: skip
    assert first.process.stop(15) == 0
    sent_s = time.monotonic()
    wait_until(lambda: time.monotonic() - sent_s > 2, DONE_S, "the silence")
    second = start_worker(processes, topics, "--forget-days", f"{1 / 86_400:.9f}")
    write_candles(topics.bootstrap, topics.candles, walk(1, symbol="NEW"))

    def sees() -> tuple[float, float]:
        metrics = second.metrics()
        return metrics["candlecast_series_forgotten_total"], metrics["candlecast_windows"]

    wait_until(
        lambda: sees() == (1, 1), DONE_S, "OLD is gone, NEW is there", process=second.process
    )
    records = read(topics.bootstrap, changelog_of(topics.group))
    tombstones = [record.key for record in records if record.value is None]
    assert tombstones == [b"OLD|1d", *span_keys(b"OLD|1d")]
    assert second.process.stop(15) == 0


def test_topics_that_take_little_do_not_stop_the_worker(
    processes: Processes, topics: WorkerTopics
) -> None:
    """Batches become smaller, down to a message; dead letters go without their values."""
    for name, most in ((topics.forecasts, 1_500), (topics.dlq, 900)):
        small = Topic(name, 8, 1, {"max.message.bytes": str(most), **BROKERS_TIME})
        asyncio.run(ensure(kafka_at(topics.bootstrap), [small]))
    worker = start_worker(processes, topics)
    large = [(b"AAPL", b"{" + os.urandom(5_000)) for _ in range(20)]
    candles = interleaved(["AAPL", "MSFT", "IBM"], WARM_UP + 20)
    write(topics.bootstrap, topics.candles, large)
    write_candles(topics.bootstrap, topics.candles, candles)
    assert given(wait_for_forecasts(worker, topics, candles)) == owed(candles)
    wait_until(
        lambda: count(topics.bootstrap, topics.dlq) >= len(large),
        DONE_S, "dead letters", process=worker.process,
    )  # fmt: skip
    letters = read(topics.bootstrap, topics.dlq)
    hashes = {letter.headers["candlecast-value-sha256"].decode() for letter in letters}
    assert hashes == {sha256(value).hexdigest() for _, value in large}
    assert {letter.value for letter in letters} == {b""}
    assert worker.probe("/readyz") == 200
    assert worker.process.stop(15) == 0


def test_a_model_of_other_candles_is_said_or_refused(
    processes: Processes, topics: WorkerTopics, tmp_path: Path
) -> None:
    model = str(Recipe(intervals=("1h",)).write(tmp_path / "hourly"))
    worker = start_worker(processes, topics, "--model", model)
    candles = walk(12)
    write_candles(topics.bootstrap, topics.candles, candles)
    wait_until(
        lambda: count(topics.bootstrap, topics.forecasts) == 10,
        DONE_S, "ten forecasts", process=worker.process,
    )  # fmt: skip
    made = read_forecasts(topics.bootstrap, topics.forecasts)
    assert {one.model_interval for one in made} == {"1h"}
    name = 'candlecast_untrained_forecasts_total{"interval": "1d"}'
    wait_until(lambda: worker.metrics().get(name) == 10, 10, name, process=worker.process)
    assert worker.process.log.read_text().count("was not trained on such candles") == 1
    assert worker.process.stop(15) == 0
    strict = start_worker(processes, topics, "--model", model, "--strict-interval")
    write_candles(topics.bootstrap, topics.candles, walk(14)[12:])
    wait_until(
        lambda: count(topics.bootstrap, topics.dlq) == 2,
        DONE_S, "two dead letters", process=strict.process,
    )  # fmt: skip
    letters = read(topics.bootstrap, topics.dlq)
    assert {letter.headers["candlecast-reason"] for letter in letters} == {b"no_model"}
    assert count(topics.bootstrap, topics.forecasts) == 10
    assert strict.process.stop(15) == 0
