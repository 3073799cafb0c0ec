"""The sink through failures of its client, on a broker in memory."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, LeaderNotAvailableError, MessageSizeTooLargeError
from prometheus_client import CollectorRegistry

from producer import sink as sinks
from producer.sink import KafkaSink, PublishError
from producer.source import Kind, Publication
from shared import kafka as clients
from shared.candles import Candle, decode_candle
from shared.kafka import KafkaSettings
from shared.metrics import ProducerMetrics
from shared.process import Seldom
from tests.candles import walk
from tests.kafka_contract import made, read, until, within
from tests.memory_kafka import MemoryBroker, MemoryProducer, install


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    monkeypatch.setattr(sinks, "FIRST_WAIT_S", 0.005)
    monkeypatch.setattr(sinks, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setattr(clients, "RETRY_S", 0.005)
    return install(monkeypatch)


@pytest.fixture
def kafka(broker: MemoryBroker) -> KafkaSettings:
    del broker
    return KafkaSettings.read([], "tests").model_copy(update={"partitions": 1})


def give_up(monkeypatch: pytest.MonkeyPatch, at: dict[int, Exception]) -> None:
    """Let the client give up the sends of these numbers, counted over all clients.

    A client that gave up is silenced: what it takes later has no outcome.
    """
    sent = MemoryProducer._sent
    numbers = iter(range(1_000_000))
    silenced: list[MemoryProducer] = []

    def failing(producer: MemoryProducer, records: Any, part: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if producer in silenced:
            return future
        error = at.get(next(numbers))
        if error is None:
            return sent(producer, records, part)
        silenced.append(producer)
        future.set_exception(error)
        return future

    monkeypatch.setattr(MemoryProducer, "_sent", failing)


async def publish(kafka: KafkaSettings, candles: list[Candle]) -> None:
    """Publish candle by candle, as a client sends batch by batch."""
    metrics = ProducerMetrics(CollectorRegistry())
    async with KafkaSink(kafka, metrics, "test", buffered=100) as sink:
        for candle in candles:
            await sink.publish(Publication(candle, Kind.CLOSED))
            await asyncio.sleep(0)
        await sink.flush()


async def in_topic(kafka: KafkaSettings) -> list[Candle]:
    records = await read(kafka, kafka.candles_topic)
    return [decode_candle(record.key, record.value, 1 << 53) for record in records]


def firsts(candles: list[Candle]) -> list[Candle]:
    """Return the candles without their repeats."""
    return list(dict.fromkeys(candles))


@pytest.mark.parametrize(
    "error", [KafkaTimeoutError(), LeaderNotAvailableError(), RuntimeError("closed"), OSError()]
)
def test_what_a_client_gave_up_is_sent_again_in_order(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The producer ended with "a candle was refused" after 40 s without a leader."""
    give_up(monkeypatch, {3: error, 4: error, 9: error, 10: error})
    candles = walk(30)

    async def run() -> list[Candle]:
        await made(kafka)
        await publish(kafka, candles)
        return await in_topic(kafka)

    assert firsts(within(run())) == candles


def test_it_rides_out_a_broker_that_is_away(
    kafka: KafkaSettings, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    candles = walk(30)

    async def run() -> list[Candle]:
        await made(kafka)
        metrics = ProducerMetrics(CollectorRegistry())
        async with KafkaSink(kafka, metrics, "test", buffered=100) as sink:
            for number, candle in enumerate(candles):
                broker.is_up = not 5 <= number < 20
                await sink.publish(Publication(candle, Kind.CLOSED))
                await asyncio.sleep(0.01)
            await sink.flush()
        return await in_topic(kafka)

    with caplog.at_level(logging.WARNING), caplog.filtering(Seldom(60.0)):
        assert firsts(within(run())) == candles
    assert caplog.text.count("waiting for Kafka at") == 1
    assert "refused" not in caplog.text


def test_the_source_waits_once_the_buffer_is_full(
    kafka: KafkaSettings, broker: MemoryBroker
) -> None:
    candles = walk(10)

    async def run() -> list[Candle]:
        await made(kafka)
        metrics = ProducerMetrics(CollectorRegistry())
        async with KafkaSink(kafka, metrics, "test", buffered=4) as sink:
            broker.is_up = False

            async def produce() -> None:
                for candle in candles:
                    await sink.publish(Publication(candle, Kind.CLOSED))

            producing = asyncio.ensure_future(produce())
            await asyncio.sleep(0.1)
            assert not producing.done()
            assert sink.waiting_s() > 0.05
            broker.is_up = True
            await producing
            await sink.flush()
        return await in_topic(kafka)

    assert firsts(within(run())) == candles


def test_after_a_refusal_nothing_more_is_sent(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_up(monkeypatch, {3: MessageSizeTooLargeError()})

    async def run() -> list[Candle]:
        await made(kafka)
        with pytest.raises(PublishError, match="a candle was refused: MessageSizeTooLarge"):
            await publish(kafka, walk(30))
        return await in_topic(kafka)

    assert within(run()) == walk(30)[:3]


def test_it_starts_once_the_brokers_are_there(
    kafka: KafkaSettings, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Started with two of three brokers away it ended with a traceback."""

    async def run() -> list[Candle]:
        broker.is_up = False
        starting = asyncio.ensure_future(made(kafka))
        await until(lambda: "waiting for Kafka at" in caplog.text)
        broker.is_up = True
        await starting
        broker.is_up = False
        publishing = asyncio.ensure_future(publish(kafka, walk(3)))
        await asyncio.sleep(0.05)
        assert not publishing.done()
        broker.is_up = True
        await publishing
        return await in_topic(kafka)

    with caplog.at_level(logging.WARNING):
        assert within(run()) == walk(3)
