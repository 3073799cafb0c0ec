"""Reads and writes whole topics in tests; each call makes a client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from shared.candles import Candle
from shared.forecasts import Forecast
from shared.topics import partitions_of
from tests.kafka import kafka_at


@dataclass(frozen=True)
class Record:
    """A message as it lies in a topic."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    partition: int
    offset: int
    timestamp_ms: int


def write(bootstrap: str, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]]) -> int:
    """Send keys and values in order; return how many the broker has acknowledged."""
    return asyncio.run(_write(bootstrap, topic, list(messages)))


def write_candles(bootstrap: str, topic: str, candles: Iterable[Candle]) -> int:
    """Send candles keyed by symbol."""
    return write(
        bootstrap, topic, ((candle.symbol.encode(), candle.encode()) for candle in candles)
    )


def read(bootstrap: str, topic: str) -> list[Record]:
    """Return all that a topic holds now, in order within each partition; [] if there is none."""
    return asyncio.run(_read(bootstrap, topic))


def read_forecasts(bootstrap: str, topic: str) -> list[Forecast]:
    """Return the forecasts of a topic."""
    return [Forecast.decode(record.value) for record in read(bootstrap, topic) if record.value]


def count(bootstrap: str, topic: str) -> int:
    """Return the number of offsets in use in a topic."""
    return asyncio.run(_count(bootstrap, topic))


async def _write(
    bootstrap: str, topic: str, messages: list[tuple[bytes | None, bytes | None]]
) -> int:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        sent = [await producer.send(topic, value=value, key=key) for key, value in messages]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return len(sent)


async def _read(bootstrap: str, topic: str) -> list[Record]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, max_partition_fetch_bytes=1 << 22)
    await consumer.start()
    try:
        ends = await _ends(consumer, bootstrap, topic)
        records: list[Record] = []
        left = {partition for partition, end in ends.items() if end > 0}
        consumer.assign(list(left))
        if left:  # else it holds nothing yet
            await consumer.seek_to_beginning()
        while left:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += [_record(record) for record in batch]
            left = {
                partition
                for partition in left
                if await consumer.position(partition) < ends[partition]
            }
        return records
    finally:
        await consumer.stop()


async def _count(bootstrap: str, topic: str) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        return sum((await _ends(consumer, bootstrap, topic)).values())
    finally:
        await consumer.stop()


async def _ends(consumer: Any, bootstrap: str, topic: str) -> dict[TopicPartition, int]:
    ends: dict[TopicPartition, int] = await consumer.end_offsets(
        [
            TopicPartition(topic, number)
            for number in await partitions_of(kafka_at(bootstrap), topic)
        ]
    )
    return ends


def _record(record: Any) -> Record:
    return Record(
        record.key,
        record.value,
        dict(record.headers),
        record.partition,
        record.offset,
        record.timestamp,
    )
