"""``python -m stream_app dlq`` on a real topic: looked at, filtered, tried dry, sent back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from local.ports import free_ports
from shared.kafka import KafkaConnectionError
from shared.terminal import Console
from stream_app.dlq import run
from stream_app.settings import ListSettings
from tests.candles import candle
from tests.integration.processes import Processes, wait_until
from tests.integration.topics import count, read, write
from tests.integration.workers import RunningWorker, WorkerTopics, start_worker
from tests.record_batches import batch, send

pytestmark = pytest.mark.integration


@pytest.fixture
def topics(kafka: str, unique_name: Callable[[str], str]) -> WorkerTopics:
    return WorkerTopics.make(kafka, unique_name)


@pytest.fixture
def worker(processes: Processes, topics: WorkerTopics) -> RunningWorker:
    return start_worker(processes, topics)


def dlq(topics: WorkerTopics, action: str, *flags: str) -> str:
    argv = [sys.executable, "-m", "stream_app", "dlq", action, *topics.flags(), *flags]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dead_letters_are_listed_shown_and_sent_back(
    topics: WorkerTopics, worker: RunningWorker
) -> None:
    negative = json.dumps(json.loads(candle().encode()) | {"close": -1.0}).encode()
    write(
        topics.bootstrap, topics.candles, [(b"AAPL", b"{"), (b"MSFT", b"[]"), (b"AAPL", negative)]
    )
    wait_until(
        lambda: count(topics.bootstrap, topics.dlq) == 3,
        60,
        "three dead letters",
        process=worker.process,
    )
    listed = dlq(topics, "list")
    assert "3 dead letters" in listed
    assert "1 dead letter: out_of_range 1" in dlq(topics, "list", "--reason", "out_of_range")
    [shown] = dlq(topics, "show", "--reason", "not_json").splitlines()
    assert json.loads(shown)["value"] == "{"

    before = count(topics.bootstrap, topics.candles)
    assert "2 messages would be sent" in dlq(topics, "replay", "--symbols", "AAPL", "--dry-run")
    assert count(topics.bootstrap, topics.candles) == before
    assert "2 messages sent" in dlq(topics, "replay", "--symbols", "AAPL")
    wait_until(
        lambda: count(topics.bootstrap, topics.dlq) == 5,
        60,
        "both are refused again, as new dead letters",
        process=worker.process,
    )
    replayed = [one for one in read(topics.bootstrap, topics.candles) if one.headers]
    assert {one.headers["candlecast-replayed-from"].decode().split("/")[0] for one in replayed} == {
        topics.dlq
    }


def test_a_message_is_put_aside_unread_and_series_are_bounded(
    processes: Processes, topics: WorkerTopics
) -> None:
    start_worker(processes, topics).process.stop(15)
    skipped = batch([(b"AAPL", candle(day).encode(), []) for day in range(3)])
    asyncio.run(send(topics.bootstrap, topics.candles, 0, skipped))
    flags = ("--group", topics.group)
    assert "put it aside unread" in dlq(topics, "skip", "--partition", "0", "--offset", "1", *flags)
    more = batch([(name, candle(symbol=name.decode()).encode(), []) for name in (b"B", b"C")])
    asyncio.run(send(topics.bootstrap, topics.candles, 0, more))
    worker = start_worker(processes, topics, "--max-series", "2")
    wait_until(
        lambda: count(topics.bootstrap, topics.dlq) == 2,
        60,
        "a message put aside and a series too many",
        process=worker.process,
    )
    letters = read(topics.bootstrap, topics.dlq)
    assert [letter.headers["candlecast-offset"] for letter in letters] == [b"1", b"4"]
    assert letters[0].value == candle(1).encode()
    assert letters[1].headers["candlecast-reason"] == b"too_many_series"
    metrics = worker.metrics()
    assert (metrics["candlecast_windows"], metrics["candlecast_windows_max"]) == (2, 2)
    argv = [sys.executable, "-m", "stream_app", "dlq", "skip", *topics.flags(), *flags]
    argv += ["--partition", "0", "--offset", "99"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "offset: expected one of partition 0's, 0 to 4, got 99" in done.stderr


def test_an_empty_topic_has_no_dead_letters(topics: WorkerTopics) -> None:
    """An assertion failed where a healthy broker had no dead letter."""
    apply = [sys.executable, "-m", "shared.topics", "apply", *topics.flags()]
    subprocess.run(apply, check=True, capture_output=True, timeout=60)
    assert dlq(topics, "list") == "0 dead letters\n"
    assert dlq(topics, "show") == ""
    assert dlq(topics, "replay") == "0 messages sent to where they came from\n"


def test_what_is_not_there_is_said(topics: WorkerTopics) -> None:
    argv = [sys.executable, "-m", "stream_app", "dlq", "list", *topics.flags()]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"topic {topics.dlq}: does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recreated_topic_is_refused_with_what_to_do(
    processes: Processes, topics: WorkerTopics, unique_name: Callable[[str], str]
) -> None:
    """The windows remember offsets that the (other, empty) candles topic never had."""
    first = start_worker(processes, topics)
    write(topics.bootstrap, topics.candles, [(b"AAPL", candle(day).encode()) for day in range(3)])
    wait_until(
        lambda: count(topics.bootstrap, f"{topics.group}-windows-changelog") > 0,
        60,
        "the windows are stored",
        process=first.process,
    )
    assert first.process.stop(15) == 0
    recreated = WorkerTopics(
        topics.bootstrap, unique_name("candles"), topics.forecasts, topics.group
    )
    process = processes.start(
        "stream_app", *recreated.flags(), "--group", topics.group, "--metrics-port", "0"
    )
    assert process.wait(60) == 1
    log = process.log.read_text()
    assert "it was deleted and created again" in log
    assert "--when-recreated begin" in log


def test_a_broker_that_is_not_there_is_said_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_app.dlq.WAIT_FOR_KAFKA_S", 0.0)
    [port] = free_ports(1)
    settings = ListSettings.read(["--bootstrap", f"127.0.0.1:{port}"], "dlq")
    with pytest.raises(KafkaConnectionError, match=rf"no Kafka answers at 127.0.0.1:{port}:"):
        run(settings, Console())
    assert "Traceback" not in capsys.readouterr().err
