"""The producer as a real process, with a real broker."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import socket
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from local.broker import Broker
from local.yahoo import real_now_ms
from shared.candles import decode_candle
from shared.history import ReadOptions, bundled, from_file
from shared.leash import Leash
from shared.topics import BROKERS_TIME, Topic, ensure
from tests import panels
from tests.candles import candle
from tests.documents import ROOT
from tests.integration import topics
from tests.integration.processes import Processes, wait_until
from tests.integration.producer.producers import (
    PARTITIONS,
    Producer,
    by_symbol,
    log_of,
    samples,
    status,
)
from tests.kafka import kafka_at
from tests.vendors import VENDORS

pytestmark = pytest.mark.integration


def test_a_replay_publishes_every_candle_keyed_in_order_and_with_its_headers(
    producer: Producer,
) -> None:
    process = producer.finish()
    records = producer.records()
    expected = list(bundled().candles)
    got = [decode_candle(record.key, record.value, real_now_ms()) for record in records]
    assert by_symbol(got) == by_symbol(expected)
    partitions = {(record.key, record.partition) for record in records}
    assert len(partitions) == 4  # one for each symbol
    assert f"done: {len(expected)} candles published" in log_of(process)
    first = records[0]
    moment = datetime.fromtimestamp(got[0].close_ms / 1000, UTC)
    assert first.headers["ce_time"].decode() == f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
    assert first.headers["content-type"] == b"application/json"
    assert first.headers["ce_specversion"] == b"1.0"
    assert first.headers["ce_type"] == b"market.candle.v1"
    assert first.headers["ce_source"] == b"candlecast/producer/replay"
    assert first.headers["ce_kind"] == b"closed"
    ids = {record.headers["ce_id"] for record in records}
    assert len(ids) == len(records)


def test_a_german_file_is_replayed_by_the_documented_command(
    producer: Producer, tmp_path: Path
) -> None:
    vendor = VENDORS["A German bank"]
    path = tmp_path / vendor.file
    path.write_bytes(vendor.write(vendor.rows()))
    page = (ROOT / "docs/data.md").read_text()
    [options] = re.findall(rf"^python -m producer --path {vendor.file} (.+)$", page, re.MULTILINE)
    producer.finish("--path", str(path), *shlex.split(options))
    assert [
        (each.symbol, each.open_ms, (each.open, each.high, each.low, each.close, each.volume))
        for each in producer.candles()
    ] == panels.as_read(vendor.rows())


def test_a_second_start_publishes_only_what_is_new(producer: Producer, tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    header = "symbol,date,open,high,low,close,volume\n"
    path.write_text(header + "A,2024-01-02,1,2,1,2,5\nB,2024-01-03,1,2,1,2,5\n")
    producer.finish("--path", str(path))
    with path.open("a") as stream:
        stream.write("A,2024-01-03,2,3,2,3,5\nA,2024-01-04,3,9,3,10,5\nC,2024-01-01,1,2,1,2,5\n")
    process = producer.start("--path", str(path))
    wait_until(lambda: process.exit_code is not None, 60, "the end of the producer")
    assert process.exit_code != 0
    assert "1 of 5 rows break a rule (inconsistent), more than 5%" in log_of(process)
    process = producer.finish("--path", str(path), "--allow-bad-rows")
    candles = producer.candles()
    expected = from_file(path, "1d", ReadOptions(allow_bad_rows=True)).candles
    assert len(candles) == len(expected) == 4
    assert by_symbol(candles) == by_symbol(list(expected))
    assert "row 5: high: expected at least open and close 10, got 9" in log_of(process)
    assert "done: 2 candles published" in log_of(process)


def test_killed_in_the_middle_and_started_again_it_publishes_every_candle(
    producer: Producer,
) -> None:
    expected = list(bundled().candles)
    for part in (0.1, 0.4):
        process = producer.start("--speed", "3000")
        wait_until(
            lambda part=part: producer.count() >= part * len(expected),  # type: ignore[misc]
            60, f"{part:.0%} of the candles", process=process,
        )  # fmt: skip
        process.kill()
        assert producer.count() < len(expected)
    producer.finish()
    got = by_symbol(producer.candles())
    for symbol, candles in by_symbol(expected).items():
        assert list(dict.fromkeys(got[symbol])) == candles


def test_a_broker_killed_in_the_middle_costs_no_candle(
    leash: Leash, processes: Processes, unique_name: Callable[[str], str]
) -> None:
    expected = list(bundled().candles)
    with Broker(leash=leash) as broker:
        broker.wait_ready()
        producer = Producer(broker.bootstrap, unique_name("candles"), processes)
        process = producer.start("--speed", "3000", "--buffer", "400")
        wait_until(lambda: producer.count() >= 2000, 60, "2000 candles", process=process)
        broker.kill()
        line = "the buffer of 400 candles is full: the source waits"
        wait_until(lambda: line in log_of(process), 30, "its complaint", process=process)
        full = samples(process, "candlecast_buffer_full"), samples(process, "candlecast_buffered")
        assert [list(gauge.values()) for gauge in full] == [[1.0], [400.0]]
        broker.start()
        broker.wait_ready()
        wait_until(lambda: process.exit_code is not None, 60, "its end")
        assert process.exit_code == 0, process.log_tail()
        assert "Kafka answers again: the source goes on" in log_of(process)
        assert by_symbol(producer.candles()) == by_symbol(expected)


def test_it_goes_on_after_its_candle_though_others_write_to_the_topic(producer: Producer) -> None:
    """What lies at the end of the topic may be far from the symbol's last candle, or garbage."""
    producer.finish("--symbols", "IBM")
    later = [
        candle(day, symbol=symbol, interval=interval)
        for day in range(700)
        for symbol, interval in (("IBM", "1wk"), ("OTHER", "1d"))
    ]
    topics.write_candles(producer.bootstrap, producer.topic, later)
    topics.write(producer.bootstrap, producer.topic, [(b"IBM", b"garbage")] * 1500)
    before = producer.count()
    producer.finish("--symbols", "IBM")
    assert producer.count() == before


def test_sigterm_ends_it_cleanly_and_soon(producer: Producer) -> None:
    process = producer.start("--speed", "50")
    wait_until(lambda: producer.count() >= 20, 60, "20 candles", process=process)
    assert json.loads(status(process, "/readyz"))["ok"]
    assert json.loads(status(process, "/livez"))["ok"]
    assert process.stop(10) == 0, log_of(process)
    assert "stopped by a signal" in log_of(process)
    assert "Traceback" not in log_of(process)
    for symbol, candles in by_symbol(producer.candles()).items():
        assert candles == by_symbol(list(bundled().candles))[symbol][: len(candles)]


def test_its_metrics_parse_and_count_its_candles(producer: Producer) -> None:
    process = producer.start("--speed", "200", "--symbols", "IBM")
    wait_until(lambda: producer.count() >= 100, 60, "100 candles", process=process)
    families = {
        family.name: family
        for family in text_string_to_metric_families(status(process, "/metrics"))
    }
    published = families["candlecast_candles_published"].samples[0]
    assert published.labels == {"source": "replay"}
    assert published.value >= 50
    assert families["candlecast_publish_seconds"].type == "histogram"
    assert families["process_cpu_seconds"].samples[0].value > 0
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    newest = families["candlecast_newest_close_timestamp_seconds"].samples[0]
    assert newest.labels == {"symbol": "IBM"}
    assert newest.value % 86_400 == 0


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--path", "nowhere.csv"), "nowhere.csv: cannot be read: No such file or directory"),
        (("--symbols", "NOPE"), "expected candles of NOPE, got none"),
        (("--partitions", "3"), r"topic {topic}: expected 3 partitions, got 4"),
    ],
)
def test_an_expected_failure_is_one_line_and_exit_code_1(
    producer: Producer, args: tuple[str, ...], line: str
) -> None:
    topics_made = producer.finish("--symbols", "IBM")
    assert topics_made.exit_code == 0
    process = producer.start(*args)
    wait_until(lambda: process.exit_code is not None, 60, "its end")
    assert process.exit_code == 1, log_of(process)
    assert line.format(topic=producer.topic) in log_of(process)
    assert "Traceback" not in log_of(process)


def test_a_taken_port_is_one_line_and_exit_code_1(producer: Producer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = producer.start("--metrics-port", str(port))
        wait_until(lambda: process.exit_code is not None, 60, "its end")
    assert process.exit_code == 1, log_of(process)
    assert f"metrics_port: 127.0.0.1:{port} cannot be opened" in log_of(process)
    assert "Traceback" not in log_of(process)


def test_a_candle_that_the_broker_refuses_is_one_line_and_exit_code_1(producer: Producer) -> None:
    tiny = Topic(producer.topic, PARTITIONS, 1, {"max.message.bytes": "100", **BROKERS_TIME})
    asyncio.run(ensure(kafka_at(producer.bootstrap), [tiny]))
    process = producer.start()
    wait_until(lambda: process.exit_code is not None, 60, "its end")
    assert process.exit_code == 1, log_of(process)
    assert f"topic {producer.topic}: a candle was refused: MessageSizeTooLarge" in log_of(process)
    assert "Traceback" not in log_of(process)
    assert "Unclosed" not in log_of(process)


def test_without_a_broker_it_waits_says_so_and_ends_on_sigterm(
    processes: Processes, unique_name: Callable[[str], str]
) -> None:
    process = processes.start(
        "producer", "--bootstrap", "127.0.0.1:1", "--candles-topic", unique_name("none"),
        "--metrics-port", "0", "--symbols", "IBM",
    )  # fmt: skip
    wait_until(lambda: "waiting for Kafka at 127.0.0.1:1" in log_of(process), 30, "it waits")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        status(process, "/readyz")
    assert process.stop(10) == 0, log_of(process)
    assert "Traceback" not in log_of(process)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--interval", "7m"), "interval: expected one of 1m, 2m"),
        (("--source", "live"), "interval: live makes candles below a day, got '1d'"),
        (("--source", "backfill"), "start: a backfill needs the time where it begins"),
        (
            ("--source", "backfill", "--interval", "1m", "--start", "2020-01-01"),
            "Yahoo has 1m candles of the last 29 days, 7 days a request; the range begins",
        ),
        (("--source", "backfill", "--start", "soon"), "expected a date or time such as"),
        (("--source", "yfinance", "--start", "2026-01-01"), "only a backfill has a range"),
        (("--source", "live", "--interval", "1m", "--once"), "only yfinance can poll once"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start(
    processes: Processes, flags: tuple[str, ...], line: str
) -> None:
    process = processes.start("producer", *flags)
    wait_until(lambda: process.exit_code is not None, 30, "its end")
    assert process.exit_code == 2
    assert line in log_of(process)
