"""The embedded broker: real Kafka that keeps its data, and never outlives its parent."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from local import jars
from local.broker import Broker, BrokerError
from local.process import Process
from shared.leash import Leash
from shared.topics import Topic, ensure
from tests.integration.processes import runs, wait_until
from tests.kafka import kafka_at

pytestmark = pytest.mark.integration


def test_the_jars_that_run_are_those_of_the_list(broker: Broker) -> None:
    broker.wait_ready()
    jars.check(jars.kafka_jars(jars.cache_dir()))


async def _publish(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.send_and_wait(topic, value, partition=0)


async def _read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        async with asyncio.timeout(60):
            records = [await consumer.getone() for _ in range(count)]
    return [bytes(record.value or b"") for record in records]


def test_carries_a_message(kafka: str, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("round-trip")
    asyncio.run(ensure(kafka_at(kafka), [Topic(topic, 1, 1)]))
    asyncio.run(_publish(kafka, topic, b"candle"))
    assert asyncio.run(_read(kafka, topic, 1)) == [b"candle"]


def test_kill_and_restart_keep_data_and_port(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        bootstrap, first = broker.bootstrap, broker.pid
        asyncio.run(ensure(kafka_at(bootstrap), [Topic("kept", 1, 1)]))
        asyncio.run(_publish(bootstrap, "kept", b"before"))
        broker.kill()
        assert broker.exit_code == -signal.SIGKILL
        with pytest.raises(BrokerError, match="exit code -9"):
            broker.wait_ready()
        broker.restart()
        assert broker.bootstrap == bootstrap
        assert broker.pid != first
        asyncio.run(_publish(bootstrap, "kept", b"after the crash"))
    with Broker(tmp_path) as again:
        assert again.bootstrap == bootstrap
        values = asyncio.run(_read(bootstrap, "kept", 2))
    assert values == [b"before", b"after the crash"]


def test_a_failing_start_shows_the_log(broker: Broker, tmp_path: Path) -> None:
    taken = int(broker.bootstrap.rpartition(":")[2])
    with pytest.raises(BrokerError, match="ended with exit code 1") as caught:
        Broker(tmp_path, port=taken).__enter__()
    assert "the end of its log" in str(caught.value)
    assert "in use" in str(caught.value)


_PARENT = """
import sys, time
from local.broker import Broker
with Broker() as broker:
    print(broker.pid, flush=True)
    time.sleep(600)
"""


def test_dies_with_its_parent(tmp_path: Path, leash: Leash) -> None:
    log = tmp_path / "parent.log"
    parent = Process(
        "parent",
        [sys.executable, "-c", _PARENT],
        log=log,
        leash=leash,
        env={"TMPDIR": str(tmp_path)},
    )
    try:
        pid = int(wait_until(log.read_text, timeout_s=120, what="the broker is up", process=parent))
        assert runs(pid)
    finally:
        parent.kill()
    wait_until(lambda: not runs(pid), timeout_s=10, what="the broker is gone")
