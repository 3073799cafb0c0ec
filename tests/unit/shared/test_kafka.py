"""Our clients of Kafka on a broker in memory, and what only that can show."""

from __future__ import annotations

import asyncio
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from shared import kafka as clients
from shared.kafka import KafkaSettings, Partition, SilentError, handles_left
from tests.kafka_contract import PARTITIONS, KafkaContract, made, within
from tests.memory_kafka import MemoryBroker, MemoryConsumer, install

ROOT = Path(__file__).parents[3]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    return install(monkeypatch)


@pytest.fixture
def kafka(broker: MemoryBroker) -> KafkaSettings:
    del broker
    read = KafkaSettings.read([], "tests")
    return read.model_copy(update={"partitions": PARTITIONS})


class TestInMemory(KafkaContract):
    """The suite that the real broker passes too."""


def test_a_broker_that_falls_silent_before_the_end_is_an_error(
    kafka: KafkaSettings, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of dead letters waited forever."""
    monkeypatch.setattr(clients, "SILENCE_S", 0.3)
    part = Partition(kafka.candles_topic, 0)

    async def silent() -> None:
        await made(kafka)
        consumer: Any = MemoryConsumer(broker)
        async for _ in clients.read_to_end(consumer, {part: 0}, {part: 1}):
            pass

    with pytest.raises(SilentError, match=rf"before the end of {re.escape(part.topic)}/0"):
        within(silent())


def test_a_client_is_disconnected_even_when_it_could_not_connect(broker: MemoryBroker) -> None:
    broker.is_up = False
    stopped: list[bool] = []

    class Client(MemoryConsumer):
        async def stop(self) -> None:
            stopped.append(True)

    async def connect() -> None:
        client: Any = Client(broker)
        async with clients.connected(client):
            pass

    with pytest.raises(clients.KafkaConnectionError):
        asyncio.run(connect())
    assert stopped == [True]


def test_no_other_module_makes_a_client() -> None:
    """The import contract says the same; this also sees names that are handed on."""
    makers = {
        str(path.relative_to(ROOT))
        for package in ("api", "local", "producer", "shared", "stream_app", "trainer")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"AIOKafka\w+\(|\b(Consumer|Producer)\(\s*\*\*", path.read_text())
    }
    assert makers == {"shared/kafka.py"}


def test_a_process_without_file_handles_is_told_from_a_broker_that_is_away() -> None:
    assert handles_left() == ""
    next_handle = os.open(os.devnull, os.O_RDONLY)
    os.close(next_handle)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_handle, hard))
    try:
        assert handles_left() == (
            "Too many open files, here and not there: raise the limit of file handles (ulimit -n)"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert handles_left() == ""
